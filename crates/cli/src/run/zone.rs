//! Zones of the settings file: tenants with a cluster and policies of their own.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use portcullis::policy;
use portcullis::{Applied, Engine};
use serde::Deserialize;

use crate::output::Refused;

/// One zone, as written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ZoneEntry {
    pub(super) number: NonZeroU16,
    cluster: PathBuf,
    policies: Vec<PathBuf>,
}

impl ZoneEntry {
    /// Makes paths mean the same wherever the command is started.
    pub(super) fn below(&mut self, folder: &Path) {
        for path in self.policies.iter_mut().chain([&mut self.cluster]) {
            *path = folder.join(&path);
        }
    }

    /// Its documents.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.policies.iter().chain([&self.cluster])
    }

    /// Reads its documents and puts them in force.
    ///
    /// # Errors
    /// They are refused: what is in force stays.
    pub(super) fn apply(&self, engine: &Engine) -> Result<Applied, Refused> {
        let cluster = policy::load_cluster(&self.cluster)?;
        let policies = policy::load_policies(&self.policies)?;
        for warning in cluster.warnings.iter().chain(&policies.warnings) {
            eprintln!("{warning}");
        }
        Ok(engine.zone(self.number).apply(cluster.value, policies.value)?)
    }
}

/// Checks zones against the zones that tunnels name.
///
/// # Errors
/// Two of one number; a zone that no tunnel leads to; a tunnel to a zone that is not there.
pub(super) fn check(zones: &[ZoneEntry], tunnels: &BTreeSet<u16>) -> Result<(), String> {
    let mut numbers = BTreeSet::new();
    for zone in zones {
        let number = zone.number.get();
        if !numbers.insert(number) {
            return Err(format!("error: zone {number} is there twice"));
        }
        if !tunnels.contains(&number) {
            return Err(format!("error: zone {number}: no tunnel leads to it (packets: tunnels:)"));
        }
    }
    match tunnels.iter().find(|zone| **zone != 0 && !numbers.contains(*zone)) {
        Some(zone) => Err(format!("error: tunnels: zone {zone} is not there (zones:)")),
        None => Ok(()),
    }
}
