//! The slow obvious twin of the table, which tests and fuzz targets compare it with.

use core::net::IpAddr;
use std::collections::BTreeMap;

use crate::{IdentityId, Prefix};

/// A longest-prefix-match table as its definition reads: a sorted map, probed from the longest
/// length to the shortest. Up to 129 map lookups an address; no use in production.
#[derive(Clone, Debug, Default)]
pub struct ReferenceTable {
    prefixes: BTreeMap<Prefix, IdentityId>,
}

impl ReferenceTable {
    /// Puts `prefix` in, and returns what stood there.
    pub fn insert(&mut self, prefix: Prefix, id: IdentityId) -> Option<IdentityId> {
        self.prefixes.insert(prefix, id)
    }

    /// Takes `prefix` out, and returns what stood there.
    pub fn remove(&mut self, prefix: &Prefix) -> Option<IdentityId> {
        self.prefixes.remove(prefix)
    }

    /// What stands at exactly `prefix`.
    pub fn get(&self, prefix: &Prefix) -> Option<IdentityId> {
        self.prefixes.get(prefix).copied()
    }

    /// The identity of the longest prefix that contains `address`.
    pub fn lookup(&self, address: IpAddr) -> IdentityId {
        let longest = Prefix::host(address).len();
        (0..=longest)
            .rev()
            .filter_map(|len| self.get(&Prefix::truncated(address, len).ok()?))
            .next()
            .unwrap_or(IdentityId::UNKNOWN)
    }

    /// All prefixes, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, IdentityId)> {
        self.prefixes.iter().map(|(p, id)| (*p, *id))
    }
}
