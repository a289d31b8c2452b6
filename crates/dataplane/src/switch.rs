//! Which link-layer address is behind which port of a switch.
//!
//! One word holds an entry: address, port, and when it was last seen. Workers share the table, read and
//! change it with single atomic operations, and never wait: who loses a race learns from the next
//! packet.
//!
//! # What an attacker can do
//! A port that sends from ever new addresses fills its own share of the table, not that of others;
//! what is not learned is flooded, and floods are limited for each port. Which addresses meet in a
//! bucket depends on a random key. An address that speaks at one port cannot be taken by another until
//! it has been silent for some seconds.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use ahash::RandomState;

use crate::clock::Time;
use crate::connection::Rate;

/// Settings of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// How long an address is remembered that says nothing (rounded to 64ths). 300 s, as in IEEE 802.1D.
    pub age: Duration,
    /// Addresses behind each port that are remembered.
    pub addresses_per_port: u32,
    /// Packets a second from each port that go to all others: for groups, for everybody, or for
    /// addresses that are not known. More are dropped.
    pub floods: Rate,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(300),
            addresses_per_port: 1024,
            floods: Rate { per_second: 1000, burst: 1000 },
        }
    }
}

/// Most ports of a switch.
pub const PORTS: usize = 64;

/// Entries that are looked at for an address: a cache line.
const WAYS: usize = 8;
/// Steps of time after which an entry is too old.
const OLD: u8 = 64;
/// Steps for which an address stays with the port where it spoke.
const HOLD: u8 = 2;

/// Addresses and their ports. Memory: 16 bytes for each address that may be remembered.
#[derive(Debug)]
pub struct Addresses {
    buckets: Box<[Bucket]>,
    keys: RandomState,
    /// Entries of each port.
    held: Box<[AtomicU32]>,
    config: Config,
    step: u64,
    /// The step of the last search for old entries.
    swept: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

impl Addresses {
    /// For so many ports, at most [`PORTS`].
    pub fn new(ports: usize, config: Config) -> Self {
        let ports = ports.clamp(1, PORTS);
        // Twice the room, so that a bucket that is full by chance is rare.
        let entries = 2 * ports * config.addresses_per_port.clamp(1, 1 << 20) as usize;
        let buckets = entries.div_ceil(WAYS).next_power_of_two();
        Self {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            keys: RandomState::new(),
            held: (0..ports).map(|_| AtomicU32::new(0)).collect(),
            config,
            step: (config.age.as_nanos() as u64 / u64::from(OLD)).max(1),
            swept: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// What it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Addresses remembered now.
    pub fn len(&self) -> usize {
        self.held.iter().map(|held| held.load(Ordering::Relaxed) as usize).sum()
    }

    /// Whether no address is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often an address was not remembered: its port has as many as it may, its bucket is full, or
    /// it speaks at another port.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Notes that `address` spoke at `port`. O(1), no lock.
    #[inline]
    pub fn learn(&self, address: [u8; 6], port: usize, now: Time) {
        if address[0] & 1 != 0 || address == [0; 6] || port >= self.held.len() {
            return;
        }
        let stamp = self.stamp(now);
        let new = entry(address, port, stamp);
        for slot in &self.bucket(address).0 {
            let old = slot.load(Ordering::Relaxed);
            if old >> 16 == new >> 16 && !is_old(old, stamp) {
                if old != new {
                    self.see_again(slot, old, new, stamp);
                }
                return;
            }
        }
        self.insert(address, port, new, stamp);
    }

    /// The port where `address` spoke last; `None` if it is not known. O(1), no lock.
    #[inline]
    pub fn port(&self, address: [u8; 6], now: Time) -> Option<usize> {
        let (key, stamp) = (entry(address, 0, 0) >> 16, self.stamp(now));
        let slots = self.bucket(address).0.iter().map(|slot| slot.load(Ordering::Relaxed));
        let found = slots.into_iter().find(|entry| entry >> 16 == key && !is_old(*entry, stamp));
        found.filter(|entry| *entry != 0).map(port_of)
    }

    /// Forgets what is old; once in a 64th of the age, so that it can be called every round. O(entries).
    pub fn expire(&self, now: Time) {
        let step = now.as_nanos() / self.step;
        if self.swept.swap(step, Ordering::Relaxed) == step {
            return;
        }
        let stamp = self.stamp(now);
        for slot in self.buckets.iter().flat_map(|bucket| &bucket.0) {
            let entry = slot.load(Ordering::Relaxed);
            if entry != 0 && is_old(entry, stamp) {
                self.exchange(slot, entry, 0);
            }
        }
    }

    /// A known address spoke, later than noted or at another port.
    #[cold]
    fn see_again(&self, slot: &AtomicU64, old: u64, new: u64, stamp: u8) {
        let moved = port_of(old) != port_of(new);
        let held = age(old, stamp) < HOLD;
        if moved && (held || !self.has_room(port_of(new))) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.exchange(slot, old, new);
    }

    #[cold]
    fn insert(&self, address: [u8; 6], port: usize, new: u64, stamp: u8) {
        let free = |slot: &&AtomicU64| {
            let entry = slot.load(Ordering::Relaxed);
            entry == 0 || is_old(entry, stamp)
        };
        let slot = self.bucket(address).0.iter().find(free);
        match slot.filter(|_| self.has_room(port)) {
            Some(slot) => self.exchange(slot, slot.load(Ordering::Relaxed), new),
            None => drop(self.refused.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Replaces an entry unless another worker was faster, and keeps the numbers of both ports.
    fn exchange(&self, slot: &AtomicU64, old: u64, new: u64) {
        // Room is taken before the entry is there, so that no port ever has more than it may.
        let same = old != 0 && new != 0 && port_of(old) == port_of(new);
        if new != 0 && !same {
            let held = &self.held[port_of(new)];
            if held.fetch_add(1, Ordering::Relaxed) >= self.config.addresses_per_port {
                held.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
        let done = slot.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let leaves = if done { old } else { new };
        if leaves != 0 && !same {
            self.held[port_of(leaves)].fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn has_room(&self, port: usize) -> bool {
        self.held[port].load(Ordering::Relaxed) < self.config.addresses_per_port
    }

    #[inline]
    fn bucket(&self, address: [u8; 6]) -> &Bucket {
        let hash = self.keys.hash_one(address) as usize;
        &self.buckets[hash & (self.buckets.len() - 1)]
    }

    #[inline]
    fn stamp(&self, now: Time) -> u8 {
        (now.as_nanos() / self.step) as u8
    }
}

/// Address in 48 bits, port in 8, time in 8. Never 0: that address is not learned.
#[inline]
fn entry(address: [u8; 6], port: usize, stamp: u8) -> u64 {
    let [a, b, c, d, e, f] = address;
    u64::from_be_bytes([a, b, c, d, e, f, port as u8, stamp])
}

#[inline]
fn port_of(entry: u64) -> usize {
    usize::from((entry >> 8) as u8)
}

#[inline]
fn age(entry: u64, stamp: u8) -> u8 {
    let age = stamp.wrapping_sub(entry as u8);
    // Another worker's clock may be a step ahead.
    if age > u8::MAX - 8 { 0 } else { age }
}

#[inline]
fn is_old(entry: u64, stamp: u8) -> bool {
    age(entry, stamp) >= OLD
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn seconds(n: u64) -> Time {
        Time::from_nanos(n * 1_000_000_000)
    }

    fn address(n: u32) -> [u8; 6] {
        let [a, b, c, d] = n.to_be_bytes();
        [2, 0, a, b, c, d]
    }

    #[test]
    fn addresses_are_learned_age_and_move_once_they_are_silent() {
        let table = Addresses::new(4, Config::default());
        let (one, now) = (address(1), seconds(1000));
        assert_eq!(table.port(one, now), None);
        table.learn(one, 2, now);
        assert_eq!(table.port(one, now), Some(2));
        // While it speaks, nobody else takes it.
        table.learn(one, 3, seconds(1001));
        assert_eq!((table.port(one, now), table.refused()), (Some(2), 1));
        table.learn(one, 3, seconds(1015));
        assert_eq!(table.port(one, seconds(1015)), Some(3));
        assert_eq!(table.port(one, seconds(1300)), Some(3));
        assert_eq!(table.port(one, seconds(1330)), None, "too old");
        table.expire(seconds(1330));
        assert!(table.is_empty());
        // Groups and nobody are no senders; a port that is not there has nobody.
        table.learn([0xff; 6], 0, now);
        table.learn([1, 0, 0x5e, 0, 0, 1], 0, now);
        table.learn([0; 6], 0, now);
        table.learn(one, 4, now);
        assert!(table.is_empty());
        assert_eq!(table.port([0; 6], now), None);
    }

    #[test]
    fn a_port_that_floods_addresses_takes_nothing_from_others() {
        let config = Config { addresses_per_port: 64, ..Config::default() };
        let table = Addresses::new(4, config);
        let now = seconds(10);
        table.learn(address(1), 1, now);
        for n in 0..100_000 {
            table.learn(address(1000 + n), 0, now);
        }
        assert!((50..=64).contains(&(table.len() - 1)), "{}", table.len());
        assert_eq!(table.port(address(1), now), Some(1));
        for n in 2..20 {
            table.learn(address(n), 2, now);
        }
        let known = (2..20).filter(|n| table.port(address(*n), now) == Some(2)).count();
        assert!(known >= 17, "{known}: a bucket may be full by chance");
        assert!(table.refused() >= 99_936 - 2);
    }

    /// Against a map, through a day of random speakers: what is known is where it spoke.
    #[test]
    fn what_is_known_is_what_a_plain_map_knows() {
        let table = Addresses::new(8, Config::default());
        let mut model: HashMap<[u8; 6], (usize, u64)> = HashMap::new();
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut below = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        let step = 300_000_000_000 / 64;
        let mut now = 0;
        for _ in 0..200_000 {
            now += below(900_000_000);
            let (who, port) = (address(below(300) as u32), below(8) as usize);
            let time = Time::from_nanos(now);
            table.expire(time);
            let known = model.get(&who).filter(|(_, at)| now / step - at < u64::from(OLD));
            assert_eq!(table.port(who, time), known.map(|(port, _)| *port));
            let held =
                known.is_some_and(|(at, when)| *at != port && now / step - when < u64::from(HOLD));
            if !held {
                model.insert(who, (port, now / step));
            }
            table.learn(who, port, time);
        }
    }

    #[test]
    fn workers_that_race_keep_the_numbers_right() {
        let config = Config { addresses_per_port: 100, ..Config::default() };
        let table = Addresses::new(4, config);
        let rounds: u32 = if cfg!(miri) { 200 } else { 50_000 };
        std::thread::scope(|scope| {
            for worker in 0..4u32 {
                let table = &table;
                scope.spawn(move || {
                    for n in 0..rounds {
                        let now = seconds(u64::from(n / 50));
                        table.learn(
                            address(n.wrapping_mul(7 + worker) % 300),
                            (n % 4) as usize,
                            now,
                        );
                        table.expire(now);
                    }
                });
            }
        });
        for held in &table.held {
            assert!(held.load(Ordering::Relaxed) <= 100);
        }
        let entries = table.buckets.iter().flat_map(|bucket| &bucket.0);
        let there = entries.filter(|slot| slot.load(Ordering::Relaxed) != 0).count();
        assert_eq!(there, table.len());
        table.expire(seconds(1_000_000));
        assert_eq!(table.len(), 0);
    }
}
