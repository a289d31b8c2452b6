//! CIDR sets whose content changes at run time: threat feeds.

use std::sync::Arc;

use ipnet::IpNet;

use crate::Error;
use crate::control::feed::{self, Whose};
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
    /// Builds the address table anew, beside the one in force: about a quarter of a second for a
    /// million prefixes (see the example `threat-feed`), during which packets are judged by what was
    /// before. Endpoints come and go meanwhile; their changes wait for O(addresses of the cluster),
    /// not for O(prefixes): milliseconds for tens of thousands. Other replacements wait until this
    /// one has ended. An [`Engine::apply`] meanwhile makes it begin anew; after four of them it holds
    /// others up instead, so that it ends.
    ///
    /// `name` is the set's as policies have it: `GlobalNetworkSet//feed`, `NetworkSet/shop/partners`.
    ///
    /// # Errors
    /// [`Error::NoSuchSet`] if no policy declares it; everything stays as it was.
    pub fn replace(&self, name: &str, prefixes: Vec<IpNet>) -> Result<Applied, Error> {
        let shared = &*self.0.0;
        let _one_at_a_time = shared.replacing.lock();
        let prefixes: Arc<[IpNet]> = prefixes.into();
        let applied = feed::replace(shared, Whose::Live, name, &prefixes)?;
        let staged = match feed::replace(shared, Whose::Staged, name, &prefixes) {
            Err(Error::NoSuchSet { .. }) => Ok(None),
            result => result,
        };
        if let Err(error) = staged {
            shared.control.lock().end_staged(&error);
        }
        Ok(applied.unwrap_or_else(|| self.0.applied()))
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
