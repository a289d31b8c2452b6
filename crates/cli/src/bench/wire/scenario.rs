//! What stands between client and server.

use std::sync::Arc;

use clap::ValueEnum;
use portcullis::{Config, Firewall};

use super::bare::Bare;
use super::{nft, policy};
use crate::control::capture::Wanted;
use crate::lab::{Neighbours, Path};
use crate::output::Refused;
use crate::run::Sinks;

/// Entries of the verdict map.
const MAP_ENTRIES: usize = 10_000;

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Scenario {
    /// AF_XDP ports without the pipeline
    Bare,
    /// Portcullis, 10 policy rules, 100 connections
    #[value(name = "filter-10")]
    Filter10,
    /// Portcullis, 10,000 policy rules, 100,000 connections
    #[value(name = "filter-10k")]
    Filter10k,
    /// The same with flow log, metrics, live view and a capture
    #[value(name = "filter-10k-watched")]
    Filter10kWatched,
    /// A kernel bridge
    Bridge,
    /// Kernel routing
    Routing,
    /// Kernel routing with 100 linear nftables rules
    #[value(name = "nft-100")]
    Nft100,
    /// Kernel routing with 1,000 linear nftables rules
    #[value(name = "nft-1k")]
    Nft1k,
    /// Kernel routing with 10,000 linear nftables rules
    #[value(name = "nft-10k")]
    Nft10k,
    /// Kernel routing with an nftables verdict map of 10,000 entries
    NftMap,
}

/// A scenario set up, ready for traffic.
pub(super) struct Stand {
    pub(super) scenario: Scenario,
    pub(super) path: Path,
    middle: Middle,
}

enum Middle {
    Bare(Bare),
    Filter {
        firewall: Arc<Firewall>,
        /// Held so that they watch.
        _sinks: Option<Box<Sinks>>,
    },
    Kernel,
}

impl Scenario {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether nothing but this program and the kernel is needed.
    pub(super) fn needs_nft(self) -> bool {
        self.nft_rules().is_some()
    }

    /// Flows of the measured load.
    pub(super) fn flows(self) -> u32 {
        match self {
            Self::Filter10k | Self::Filter10kWatched => 100_000,
            _ => policy::CLIENTS,
        }
    }

    fn nft_rules(self) -> Option<String> {
        match self {
            Self::Nft100 => Some(nft::linear(100)),
            Self::Nft1k => Some(nft::linear(1000)),
            Self::Nft10k => Some(nft::linear(10_000)),
            Self::NftMap => Some(nft::verdict_map(MAP_ENTRIES)),
            _ => None,
        }
    }

    /// Builds it.
    pub(super) fn set_up(self) -> Result<Stand, Refused> {
        let (fw0, fw1) = Path::MIDDLE;
        let (path, middle) = match self {
            Self::Bare => {
                let path = Path::build(Neighbours::EachOther, 1)?;
                let bare = path.middle.run(|| {
                    super::pin::worker();
                    Bare::start(fw0, fw1)
                })??;
                (path, Middle::Bare(bare))
            }
            Self::Filter10 | Self::Filter10k | Self::Filter10kWatched => {
                let path = Path::build(Neighbours::EachOther, 1)?;
                let cluster = policy::cluster()?;
                let policies = policy::policies(if self == Self::Filter10 { 10 } else { 10_000 })?;
                let config = Config::wire(fw0, fw1);
                let firewall = path.middle.run(|| {
                    super::pin::worker();
                    Firewall::start(config, cluster, policies)
                })??;
                let firewall = Arc::new(firewall);
                let sinks = match self {
                    Self::Filter10kWatched => Some(Box::new(Sinks::start(&firewall, armed())?)),
                    _ => None,
                };
                (path, Middle::Filter { firewall, _sinks: sinks })
            }
            Self::Bridge => {
                let path = Path::build(Neighbours::EachOther, 1)?;
                path.bridge()?;
                path.take_redirected()?;
                (path, Middle::Kernel)
            }
            Self::Routing | Self::Nft100 | Self::Nft1k | Self::Nft10k | Self::NftMap => {
                let path = Path::build(Neighbours::Router, 1)?;
                path.take_redirected()?;
                if let Some(rules) = self.nft_rules() {
                    nft::load(&path.middle, &rules)?;
                }
                (path, Middle::Kernel)
            }
        };
        Ok(Stand { scenario: self, path, middle })
    }
}

/// A capture that looks at every packet and waits for a rare one.
fn armed() -> Wanted {
    let endpoints = vec!["default/server".to_owned()];
    let verdicts = vec!["deny".to_owned(), "reject".to_owned()];
    Wanted { endpoints, verdicts, ..Wanted::default() }
}

impl Stand {
    /// Link-layer address that the client's packets go to.
    pub(super) fn next_hop(&self) -> [u8; 6] {
        match self.scenario {
            Scenario::Bare
            | Scenario::Filter10
            | Scenario::Filter10k
            | Scenario::Filter10kWatched
            | Scenario::Bridge => Path::SERVER_LINK,
            _ => Path::MIDDLE_LINKS[0],
        }
    }

    /// Whether a thread of this process forwards, rather than the kernel.
    pub(super) fn has_worker(&self) -> bool {
        !matches!(self.middle, Middle::Kernel)
    }

    /// AF_XDP modes obtained.
    pub(super) fn modes(&self) -> Vec<String> {
        match &self.middle {
            Middle::Bare(bare) => bare.modes.iter().map(ToString::to_string).collect(),
            Middle::Filter { firewall, .. } => {
                firewall.ports().iter().map(|port| port.mode.to_string()).collect()
            }
            Middle::Kernel => Vec::new(),
        }
    }

    /// Connections that the firewall knows now.
    pub(super) fn connections(&self) -> Option<usize> {
        match &self.middle {
            Middle::Filter { firewall, .. } => Some(firewall.totals().connections),
            _ => None,
        }
    }

    /// Before and after sockets are used across the middle, whose checksums are left unfinished.
    pub(super) fn with_sockets(&self, wanted: bool) {
        if let Middle::Bare(bare) = &self.middle {
            bare.complete_checksums(wanted);
        }
    }
}
