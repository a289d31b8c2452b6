//! How many connections an identity may have, open in a second, and leave half-open.
//!
//! So that whoever floods harms himself: his new connections are refused; known connections, which
//! are not even looked at here, and other identities are not touched.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;
use portcullis_identity_table::IdentityId;

use crate::reason::Reason;

/// Limits of each identity, as opener of connections. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at a time.
    pub connections: Option<u32>,
    /// TCP connections and SCTP associations at a time whose handshake is not finished.
    pub half_open: Option<u32>,
    /// The same of all identities together. Workers that open some at the same moment may exceed it
    /// by one each.
    pub half_open_in_all: Option<u32>,
    /// New connections.
    pub rate: Option<Rate>,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second; at most 4 million.
    pub per_second: u32,
    /// Tokens that may be saved up.
    pub burst: u32,
}

/// The fill of a token bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Thousandths of tokens missing.
    missing: u64,
    /// When that was, in milliseconds of a wrapping clock.
    at: u32,
}

impl Tokens {
    /// Takes a token; `false` if there is none.
    #[inline]
    pub fn take(&mut self, rate: &Rate, now: u32) -> bool {
        let passed = now.wrapping_sub(self.at);
        // Another worker's clock may be a little ahead.
        if passed <= u32::MAX / 2 {
            self.missing =
                self.missing.saturating_sub(u64::from(passed) * u64::from(rate.per_second));
            self.at = now;
        }
        if self.missing + 1000 > u64::from(rate.burst) * 1000 {
            return false;
        }
        self.missing += 1000;
        true
    }
}

/// What one identity has open.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    connections: u32,
    half_open: u32,
    tokens: Tokens,
}

/// What all identities have open. One lock and one hash look-up for each connection that opens, ends
/// or finishes its handshake; nothing for other packets, and nothing at all without limits.
#[derive(Debug)]
pub(super) struct Quotas {
    limits: Limits,
    shards: Box<[CachePadded<Mutex<Shard>>]>,
}

type Shard = HashMap<IdentityId, Usage, ahash::RandomState>;

const SHARDS: usize = 64;

impl Quotas {
    pub(super) fn new(limits: Limits) -> Self {
        let Limits { connections, half_open, rate, half_open_in_all: _ } = limits;
        let any = connections.is_some() || half_open.is_some() || rate.is_some();
        let count = if any { SHARDS } else { 0 };
        Self { limits, shards: (0..count).map(|_| CachePadded::default()).collect() }
    }

    /// A connection of `opener` is about to open.
    pub(super) fn open(&self, opener: IdentityId, half_open: bool, now: u32) -> Result<(), Reason> {
        let Some(mut shard) = self.shard(opener) else { return Ok(()) };
        let usage = shard.entry(opener).or_default();
        let reached = |limit: Option<u32>, used: u32| limit.is_some_and(|limit| used >= limit);
        if reached(self.limits.connections, usage.connections) {
            return Err(Reason::ConnectionLimit);
        }
        if half_open && reached(self.limits.half_open, usage.half_open) {
            return Err(Reason::HalfOpenLimit);
        }
        if self.limits.rate.is_some_and(|rate| !usage.tokens.take(&rate, now)) {
            return Err(Reason::ConnectionRate);
        }
        usage.connections += 1;
        usage.half_open += u32::from(half_open);
        Ok(())
    }

    /// A connection is counted for `opener` without being asked about: it exists already.
    pub(super) fn adopt(&self, opener: IdentityId, half_open: bool) {
        if let Some(mut shard) = self.shard(opener) {
            let usage = shard.entry(opener).or_default();
            usage.connections += 1;
            usage.half_open += u32::from(half_open);
        }
    }

    /// A half-open connection of `opener` became open, or was reset.
    #[cold]
    pub(super) fn finish(&self, opener: IdentityId) {
        if let Some(mut shard) = self.shard(opener) {
            let usage = shard.entry(opener).or_default();
            usage.half_open = usage.half_open.saturating_sub(1);
        }
    }

    /// A connection of `opener` is no more.
    pub(super) fn end(&self, opener: IdentityId, half_open: bool) {
        let Some(mut shard) = self.shard(opener) else { return };
        let Some(usage) = shard.get_mut(&opener) else { return };
        usage.connections = usage.connections.saturating_sub(1);
        usage.half_open = usage.half_open.saturating_sub(half_open.into());
        // Forgotten only with a full bucket, or ending a connection would buy tokens.
        if usage.connections == 0 && self.limits.rate.is_none() {
            shard.remove(&opener);
        }
    }

    /// Whether anything is limited.
    #[inline]
    pub(super) fn active(&self) -> bool {
        !self.shards.is_empty()
    }

    fn shard(&self, identity: IdentityId) -> Option<MutexGuard<'_, Shard>> {
        let shard = self.shards.get(identity.get() as usize % SHARDS)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_at_the_rate() {
        let rate = Rate { per_second: 10, burst: 5 };
        let mut tokens = Tokens::default();
        let mut taken = |now| (0..100).filter(|_| tokens.take(&rate, now)).count();
        assert_eq!(taken(0), 5);
        assert_eq!(taken(99), 0);
        assert_eq!(taken(100), 1);
        assert_eq!(taken(350), 2);
        assert_eq!(taken(100_000), 5);
        assert_eq!(taken(99_000), 0, "time does not go back");
    }

    #[test]
    fn each_limit_stops_its_identity_only() {
        let limits = Limits { connections: Some(3), half_open: Some(2), ..Limits::default() };
        let quotas = Quotas::new(limits);
        let (one, other) = (IdentityId::new(300), IdentityId::new(301));
        assert_eq!(quotas.open(one, true, 0), Ok(()));
        assert_eq!(quotas.open(one, true, 0), Ok(()));
        assert_eq!(quotas.open(one, true, 0), Err(Reason::HalfOpenLimit));
        assert_eq!(quotas.open(other, true, 0), Ok(()));
        quotas.finish(one);
        assert_eq!(quotas.open(one, true, 0), Ok(()));
        assert_eq!(quotas.open(one, false, 0), Err(Reason::ConnectionLimit));
        quotas.end(one, true);
        assert_eq!(quotas.open(one, false, 0), Ok(()));
    }
}
