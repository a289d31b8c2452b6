//! Endpoints that come and go while packets flow.

use portcullis_identity_table::endpoint::{Endpoint, EndpointName};

use crate::Error;
use crate::engine::{Applied, Engine};

/// What [`Engine::endpoints`] answers.
///
/// A change is in force when its call returns: the next batch of every worker sees it. An endpoint
/// like one that is there (same namespace, labels, account, ports, node) costs a table entry and no
/// compilation.
#[derive(Clone, Copy, Debug)]
pub struct Endpoints<'a>(pub(crate) &'a Engine);

impl Endpoints<'_> {
    /// Adds an endpoint, or replaces the one of the same namespace and name.
    ///
    /// # Errors
    /// [`Error`], for example if another endpoint has one of the addresses; everything stays as it
    /// was.
    pub fn upsert(&self, endpoint: Endpoint) -> Result<(), Error> {
        self.0.0.control.lock().upsert(self.0.0.clock.now(), endpoint)
    }

    /// Takes an endpoint out: its addresses are then outside the cluster. `false` if there is none of
    /// that name.
    ///
    /// # Errors
    /// [`Error`]; everything stays as it was.
    pub fn remove(&self, namespace: &str, name: &str) -> Result<bool, Error> {
        let name = EndpointName { namespace: namespace.into(), name: name.into() };
        self.0.0.control.lock().remove(self.0.0.clock.now(), &name)
    }

    /// Makes the endpoints exactly these, all at once: no packet is judged by a mix.
    ///
    /// # Errors
    /// [`Error`]; everything stays as it was.
    pub fn replace_all(&self, endpoints: Vec<Endpoint>) -> Result<Applied, Error> {
        self.0.change(|control, now| control.set_endpoints(now, endpoints))
    }

    /// A copy of the endpoint of this name. O(addresses + labels).
    pub fn find(&self, namespace: &str, name: &str) -> Option<Endpoint> {
        let name = EndpointName { namespace: namespace.into(), name: name.into() };
        self.0.0.control.lock().registry().endpoint(&name).map(|endpoint| (**endpoint).clone())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.0.control.lock().registry().endpoints().count()
    }
}
