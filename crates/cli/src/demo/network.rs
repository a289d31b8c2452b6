//! The demo's network: three hosts on a switch, the backend behind the firewall's wire.
//!
//! ```text
//! frontend ──┐
//! intruder ──┤ switch ── fw0 [portcullis] fw1 ── backend
//! ingress  ──┘
//! ```

use crate::lab::{Host, Namespace, NotPossible};

/// Queues of every veth on the way.
const QUEUES: u32 = 2;
/// Ports of the wire, as named inside the firewall's namespace.
pub(super) const WIRE: (&str, &str) = ("fw0", "fw1");

/// The hosts and what joins them.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) frontend: Host,
    pub(super) intruder: Host,
    pub(super) ingress: Host,
    pub(super) backend: Host,
    pub(super) firewall: Namespace,
    _switch: Namespace,
}

impl Network {
    /// Builds it; everything vanishes with the value.
    ///
    /// # Errors
    /// [`NotPossible`] without the privileges or without `ip`.
    pub(super) fn build() -> Result<Self, NotPossible> {
        let network = Self {
            frontend: Host::new()?,
            intruder: Host::new()?,
            ingress: Host::new()?,
            backend: Host::new()?,
            firewall: Namespace::new()?,
            _switch: Namespace::new()?,
        };
        let switch = &network._switch;
        switch.ip("link add br0 type bridge")?;
        switch.ip("link set br0 up")?;
        let plugs = [
            (network.frontend.namespace(), "eth0", "p1"),
            (network.intruder.namespace(), "eth0", "p2"),
            (network.ingress.namespace(), "eth0", "p3"),
            (&network.firewall, WIRE.0, "p4"),
        ];
        for (namespace, interface, plug) in plugs {
            namespace.join(interface, switch, plug, QUEUES)?;
            switch.ip(&format!("link set {plug} master br0"))?;
        }
        network.firewall.join(WIRE.1, network.backend.namespace(), "eth0", QUEUES)?;
        Ok(network)
    }
}
