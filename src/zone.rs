//! Address spaces of their own: tenants whose packets come in tunnels and whose addresses overlap.

use std::num::NonZeroU16;

use portcullis_identity_table::endpoint::{ClusterState, Endpoint, EndpointName};
use portcullis_policy::Flow;
use portcullis_policy::model::PolicySet;

use crate::Error;
use crate::control::Control;
use crate::engine::{Applied, Engine, Evaluation};

/// One zone of an engine: [`Engine::zone`].
///
/// Which packets are of a zone say the tunnels: `pipeline::Config::tunnels`
/// ([`Tunnels::open`](portcullis_dataplane::packet::Tunnels::open)). Packets of a zone without
/// anything applied are denied, and so is everything until the engine itself has something in force.
/// Its cluster and policies are its own; connections, workers, records and counters are the engine's.
/// Identities of different zones may have equal numbers: limits of identities
/// ([`Limits`](portcullis_dataplane::connection::Limits), [`Rates::identity`](crate::Rates)) count
/// those together.
#[derive(Clone, Copy, Debug)]
pub struct Zone<'a> {
    engine: &'a Engine,
    number: NonZeroU16,
}

impl Engine {
    /// The zone of this number, whether anything was applied to it or not.
    pub fn zone(&self, number: NonZeroU16) -> Zone<'_> {
        Zone { engine: self, number }
    }

    /// The numbers of zones that have something in force.
    pub fn zones(&self) -> Vec<u16> {
        self.0.zones.lock().keys().copied().collect()
    }
}

impl Zone<'_> {
    /// As [`Engine::apply`], for this zone. Live connections of all zones are judged again.
    ///
    /// # Errors
    /// [`Error`]; everything stays as it was.
    pub fn apply(&self, cluster: ClusterState, policies: PolicySet) -> Result<Applied, Error> {
        let shared = &self.engine.0;
        let mut zones = shared.zones.lock();
        let now = shared.clock.now();
        if let Some(control) = zones.get_mut(&self.number.get()) {
            control.apply(now, cluster, policies)?;
            return Ok(Applied::of(control));
        }
        let mut control = shared.new_zone(self.number);
        control.apply(now, cluster, policies)?;
        let applied = Applied::of(&control);
        zones.insert(self.number.get(), control);
        Ok(applied)
    }

    /// Takes cluster and policies away: its packets are denied from now on. `false` if there was
    /// nothing.
    pub fn remove(&self) -> bool {
        let control = self.engine.0.zones.lock().remove(&self.number.get());
        if control.is_some() {
            self.engine.0.plane.publish_zone(self.number, None);
        }
        control.is_some()
    }

    /// Adds or replaces one endpoint; see [`Endpoints::upsert`](crate::Endpoints::upsert). `false`:
    /// nothing was applied to the zone yet.
    ///
    /// # Errors
    /// [`Error`]; everything stays as it was.
    pub fn upsert_endpoint(&self, endpoint: Endpoint) -> Result<bool, Error> {
        let now = self.engine.0.clock.now();
        self.with(|control| control.upsert(now, endpoint))
            .map_or(Ok(false), |done| done.map(|()| true))
    }

    /// Takes one endpoint out; `false` if it was not there.
    ///
    /// # Errors
    /// [`Error`]; everything stays as it was.
    pub fn remove_endpoint(&self, namespace: &str, name: &str) -> Result<bool, Error> {
        let name = EndpointName { namespace: namespace.into(), name: name.into() };
        let now = self.engine.0.clock.now();
        self.with(|control| control.remove(now, &name)).unwrap_or(Ok(false))
    }

    /// What is in force; `None` if nothing.
    pub fn applied(&self) -> Option<Applied> {
        self.with(|control| Applied::of(control))
    }

    /// Decides one flow between addresses of this zone, in words; `None` if nothing is in force. For
    /// people and tests.
    pub fn evaluate(&self, flow: &Flow) -> Option<Evaluation> {
        self.with(|control| Evaluation::of(control, flow))
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Control) -> T) -> Option<T> {
        self.engine.0.zones.lock().get_mut(&self.number.get()).map(ask)
    }
}
