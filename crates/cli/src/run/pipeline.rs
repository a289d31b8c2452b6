//! The part of the settings file that is about packets: tunnels, limits, rates.

use std::collections::BTreeSet;

use portcullis::dataplane::connection::{Limits, Rate};
use portcullis::dataplane::packet::{Encapsulation, Tunnel};
use portcullis::dataplane::pipeline;
use serde::Deserialize;

use super::connections::Tracking;
use super::select::{MirrorEntry, RateEntries};

/// What the file says of packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Packets {
    tunnels: Vec<TunnelEntry>,
    limits: LimitEntry,
    connections: Option<usize>,
    tracking: Tracking,
    denied: Denied,
    pub(super) rates: RateEntries,
    pub(super) mirror: Option<MirrorEntry>,
}

/// What the senders of denied packets are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Denied {
    /// Nothing.
    #[default]
    Drop,
    /// A TCP reset, or that it is prohibited (ICMP).
    Reject,
}

/// A tunnel whose packets are judged by what they carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TunnelEntry {
    kind: Kind,
    port: Option<u16>,
    vni: Option<u32>,
    /// Address space of its own; 0 is that of packets outside of tunnels.
    #[serde(default)]
    zone: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Vxlan,
    Geneve,
    Ip,
}

/// What each identity may have, as opener of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct LimitEntry {
    connections: Option<u32>,
    half_open: Option<u32>,
    /// Of all identities together.
    half_open_in_all: Option<u32>,
    new_per_second: Option<u32>,
    /// New connections at once; as many as in a second unless said.
    burst: Option<u32>,
}

impl Packets {
    /// The zones that tunnels lead to.
    pub(super) fn zones(&self) -> BTreeSet<u16> {
        self.tunnels.iter().map(|tunnel| tunnel.zone).collect()
    }

    /// Puts it into the pipeline's settings.
    ///
    /// # Errors
    /// What contradicts itself.
    pub(super) fn apply(&self, config: &mut pipeline::Config) -> Result<(), String> {
        for tunnel in &self.tunnels {
            let opened = tunnel.tunnel().and_then(|opened| {
                config.tunnels.open(opened, tunnel.zone).map_err(|error| error.to_string())
            });
            opened.map_err(|error| format!("error: tunnels: {error}"))?;
        }
        if let Some(connections) = self.connections {
            if connections == 0 {
                return Err("error: connections 0: room for at least one is needed".to_owned());
            }
            config.connections.capacity = connections;
        }
        config.connections.limits = self.limits.limits()?;
        self.tracking.apply(config)
    }

    /// Whether senders of denied packets are told.
    pub(super) fn rejects(&self) -> bool {
        self.denied == Denied::Reject
    }
}

impl TunnelEntry {
    fn tunnel(&self) -> Result<Tunnel, String> {
        let (encapsulation, default) = match self.kind {
            Kind::Vxlan => (Encapsulation::Vxlan, 4789),
            Kind::Geneve => (Encapsulation::Geneve, 6081),
            Kind::Ip if self.port.is_some() || self.vni.is_some() => {
                return Err("kind ip has neither port nor vni".to_owned());
            }
            Kind::Ip => return Ok(Tunnel::Ip),
        };
        let port = self.port.unwrap_or(default);
        Ok(match self.vni {
            Some(vni) => Tunnel::Network { encapsulation, port, vni },
            None => Tunnel::Port { encapsulation, port },
        })
    }
}

impl LimitEntry {
    fn limits(&self) -> Result<Limits, String> {
        let mut limits = Limits::default();
        limits.connections = self.connections;
        limits.half_open = self.half_open;
        limits.half_open_in_all = self.half_open_in_all;
        limits.rate = match (self.new_per_second, self.burst) {
            (Some(per_second), burst) => {
                Some(Rate { per_second, burst: burst.unwrap_or(per_second) })
            }
            (None, Some(_)) => return Err("error: limits: burst without new-per-second".to_owned()),
            (None, None) => None,
        };
        Ok(limits)
    }
}
