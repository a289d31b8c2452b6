//! CIDR sets whose content changes at run time: threat feeds.

use ipnet::IpNet;

use crate::Error;
use crate::engine::{Applied, Engine};

/// What [`Engine::sets`] answers.
///
/// A set is declared by the policies (Calico's `GlobalNetworkSet` and `NetworkSet`, or
/// [`CidrSet`](crate::policy::model::CidrSet)s made in code), which say by labels or index who means
/// it. Its content may come from elsewhere, and a million prefixes cost table entries, not rules.
#[derive(Clone, Copy, Debug)]
pub struct Sets<'a>(pub(crate) &'a Engine);

impl Sets<'_> {
    /// Makes the set hold exactly these prefixes (host bits are ignored), all at once. The content
    /// stays when policies are applied again, whatever the documents say of it.
    ///
    /// Builds the address table anew: about a quarter of a second for a million prefixes (see the
    /// example `threat-feed`), during which packets are judged by what was before and changes of
    /// endpoints wait.
    ///
    /// `name` is the set's as policies have it: `GlobalNetworkSet//feed`, `NetworkSet/shop/partners`.
    ///
    /// # Errors
    /// [`Error::NoSuchSet`] if no policy declares it; everything stays as it was.
    pub fn replace(&self, name: &str, prefixes: Vec<IpNet>) -> Result<Applied, Error> {
        self.0.change(|control, now| control.set_feed(now, name, prefixes))
    }

    /// Lets the documents say again what the set holds, from the next [`Engine::apply`] on. `false`
    /// if they already do.
    pub fn forget(&self, name: &str) -> bool {
        self.0.0.control.lock().forget_feed(name)
    }

    /// The sets and how many prefixes each has.
    pub fn list(&self) -> Vec<(String, usize)> {
        self.0.0.control.lock().sets().map(|(name, count)| (name.to_owned(), count)).collect()
    }
}
