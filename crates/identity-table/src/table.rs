//! The table from addresses to identities: one writer, any number of readers.

use core::net::IpAddr;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use crate::reference::ReferenceTable;
use crate::{IdentityId, Prefix};

/// The one who may change the table. Not `Clone`: changes have one order.
#[derive(Debug, Default)]
pub struct Writer {
    shared: Arc<RwLock<ReferenceTable>>,
}

/// A handle for looking up; clone one for each thread.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<RwLock<ReferenceTable>>,
}

/// The right to look up, until dropped. Pin once a batch and drop soon.
#[derive(Debug)]
pub struct Guard<'a> {
    table: RwLockReadGuard<'a, ReferenceTable>,
}

/// Why a change of the table was refused. Nothing was changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The structure for one family has reached its limit of 4 GiB.
    #[error("the {family} table has reached its limit of {limit} bytes: remove prefixes first")]
    Full {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
}

impl Writer {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle for looking up.
    pub fn reader(&self) -> Reader {
        Reader { shared: Arc::clone(&self.shared) }
    }

    /// Puts `prefix` in, or replaces its identity; returns the identity that stood there.
    /// Readers see it before this returns.
    pub fn insert(
        &mut self,
        prefix: Prefix,
        id: IdentityId,
    ) -> Result<Option<IdentityId>, TableError> {
        Ok(self.write().insert(prefix, id))
    }

    /// Takes `prefix` out; returns the identity that stood there.
    /// Readers see it before this returns.
    pub fn remove(&mut self, prefix: &Prefix) -> Result<Option<IdentityId>, TableError> {
        Ok(self.write().remove(prefix))
    }

    /// The identity that stands at exactly `prefix`.
    pub fn get(&self, prefix: &Prefix) -> Option<IdentityId> {
        self.shared.read().unwrap_or_else(|e| e.into_inner()).get(prefix)
    }

    fn write(&mut self) -> std::sync::RwLockWriteGuard<'_, ReferenceTable> {
        self.shared.write().unwrap_or_else(|e| e.into_inner())
    }
}

impl Reader {
    /// Pins the table for a batch of lookups.
    pub fn pin(&self) -> Guard<'_> {
        Guard { table: self.shared.read().unwrap_or_else(|e| e.into_inner()) }
    }
}

impl Guard<'_> {
    /// The identity of the longest prefix that contains `address`, or [`IdentityId::UNKNOWN`].
    /// An IPv4-mapped IPv6 address is looked up as the IPv6 address it is.
    pub fn lookup(&self, address: IpAddr) -> IdentityId {
        self.table.lookup(address)
    }

    /// As [`Guard::lookup`], of an IPv4 address in host byte order.
    pub fn lookup_v4(&self, address: u32) -> IdentityId {
        self.lookup(IpAddr::V4(address.into()))
    }

    /// As [`Guard::lookup`], of an IPv6 address in host byte order.
    pub fn lookup_v6(&self, address: u128) -> IdentityId {
        self.lookup(IpAddr::V6(address.into()))
    }

    /// Looks up each of `addresses` into the same place of `out`; stops at the shorter of both.
    pub fn lookup_v4_batch(&self, addresses: &[u32], out: &mut [IdentityId]) {
        for (address, id) in addresses.iter().zip(out) {
            *id = self.lookup_v4(*address);
        }
    }

    /// Looks up each of `addresses` into the same place of `out`; stops at the shorter of both.
    pub fn lookup_v6_batch(&self, addresses: &[u128], out: &mut [IdentityId]) {
        for (address, id) in addresses.iter().zip(out) {
            *id = self.lookup_v6(*address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let mut writer = Writer::new();
        let reader = writer.reader();
        for (prefix, id) in [("0.0.0.0/0", 1), ("10.0.0.0/8", 2), ("10.1.0.0/16", 3), ("::/0", 4)] {
            writer.insert(prefix.parse().unwrap(), IdentityId::new(id)).unwrap();
        }
        let id = |text: &str| reader.pin().lookup(text.parse().unwrap()).get();
        assert_eq!([id("10.1.2.3"), id("10.2.0.0"), id("9.9.9.9"), id("::1")], [3, 2, 1, 4]);
        writer.remove(&"10.1.0.0/16".parse().unwrap()).unwrap();
        assert_eq!(id("10.1.2.3"), 2);
    }
}
