//! One connection in memory: packed, locked by one bit.
//!
//! The hot part of an IPv4 connection is one cache line: key, state, windows, time, and the low
//! halves of the counters. What only records need (rule, identities, time of opening, high halves)
//! is in the cold part. All words are atomics, read and written with plain loads and stores while
//! the lock bit is held, so there is nothing unsafe about a reader who looks at a slot just when it
//! is given to another connection: it sees another key.
//!
//! | word | low half | high half |
//! |---|---|---|
//! | 0 .. KEY | key | |
//! | KEY | flags and lock | last seen, ms |
//! | +1 | generation | windows, 16 bits each |
//! | +2, +3 | end of a side | highest end that it may reach |
//! | +2, +3 of SCTP | tag of the opener | tag of the other end; in force, and offered |
//! | +4 | packets from the opener | packets back |
//! | +5 | bytes from the opener | bytes back |
//!
//! | cold word | | |
//! |---|---|---|
//! | 0 | rule | identity of the opener |
//! | 1 | identity of the other end | opened, ms |
//! | 2 | high 16 bits of packets, twice | high 16 bits of bytes, twice |

use portcullis_identity_table::IdentityId;

use super::memory::Zeroed;
use super::sync::{AtomicU64, Ordering, acquire};
use crate::connection::sctp::{Sctp, SctpPhase};
use crate::connection::state::{Connection, Grant, Protocol, Traffic};
use crate::connection::tcp::{Phase, Side, Step, Tcp, pack_window, unpack_window};
use crate::connection::{Direction, Key, Probe, Segment};
use crate::packet::Version;
use crate::verdict::RuleId;

const LOCK: u64 = 1;
const LIVE: u64 = 1 << 1;
const OPENED_BACK: u64 = 1 << 2;
const PICKED_UP: u64 = 1 << 3;
const TCP: u64 = 1 << 4;
const ANSWERED: u64 = 1 << 5;
const PHASE: u32 = 6;
const FIN: u32 = 9;
const SCALE: u32 = 11;
/// TCP flags seen: eight bits.
const SEEN: u32 = 19;
const SCTP: u64 = 1 << 27;

/// What a protocol's state leaves as it is.
const KEPT: u64 = 0xffff_ffff_0000_0000 | LOCK | LIVE | OPENED_BACK;

/// The words of a key; IPv4 uses the first two.
pub(super) type KeyWords = [u64; 5];

/// The cold part of a slot.
#[derive(Debug)]
pub(super) struct Cold([AtomicU64; 3]);

impl Cold {
    /// The first word.
    #[inline(always)]
    pub(super) fn first(&self) -> &AtomicU64 {
        &self.0[0]
    }

    /// The last word.
    #[inline(always)]
    pub(super) fn last(&self) -> &AtomicU64 {
        &self.0[2]
    }
}

/// Memory of one connection.
pub(super) trait Slot: Zeroed {
    /// Words of the key.
    const KEY: usize;

    /// All hot words, key first.
    fn words(&self) -> &[AtomicU64];

    /// The cold part, which may lie elsewhere.
    fn cold<'a>(&'a self, elsewhere: &'a [Cold], index: usize) -> &'a Cold;

    /// Whether cold parts lie elsewhere.
    const COLD_ELSEWHERE: bool;

    /// The key as words.
    fn pack_key(key: &Key) -> KeyWords;

    /// The key back.
    fn unpack_key(words: &KeyWords) -> Key;
}

/// An IPv4 connection: one cache line, and a cold part elsewhere.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct SlotV4([AtomicU64; 8]);

/// An IPv6 connection: two cache lines, the cold part in the second.
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct SlotV6([AtomicU64; 11], Cold);

const _: () = assert!(cfg!(loom) || size_of::<SlotV4>() == 64);
const _: () = assert!(cfg!(loom) || size_of::<SlotV6>() == 128);

fn zeros<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

// SAFETY: atomics only.
#[allow(unsafe_code)]
unsafe impl Zeroed for SlotV4 {
    fn zero() -> Self {
        Self(zeros())
    }
}

// SAFETY: atomics only.
#[allow(unsafe_code)]
unsafe impl Zeroed for SlotV6 {
    fn zero() -> Self {
        Self(zeros(), Cold::zero())
    }
}

// SAFETY: atomics only.
#[allow(unsafe_code)]
unsafe impl Zeroed for Cold {
    fn zero() -> Self {
        Self(zeros())
    }
}

impl Slot for SlotV4 {
    const KEY: usize = 2;
    const COLD_ELSEWHERE: bool = true;

    #[inline(always)]
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }

    #[inline(always)]
    fn cold<'a>(&'a self, elsewhere: &'a [Cold], index: usize) -> &'a Cold {
        &elsewhere[index]
    }

    #[inline(always)]
    fn pack_key(key: &Key) -> KeyWords {
        [pair(key.a as u32, key.b as u32), pack_ends(key), 0, 0, 0]
    }

    fn unpack_key(words: &KeyWords) -> Key {
        unpack_ends(words[1], low(words[0]).into(), high(words[0]).into(), Version::V4)
    }
}

impl Slot for SlotV6 {
    const KEY: usize = 5;
    const COLD_ELSEWHERE: bool = false;

    #[inline(always)]
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }

    #[inline(always)]
    fn cold<'a>(&'a self, _: &'a [Cold], _: usize) -> &'a Cold {
        &self.1
    }

    #[inline(always)]
    fn pack_key(key: &Key) -> KeyWords {
        let (a, b) = (key.a, key.b);
        [a as u64, (a >> 64) as u64, b as u64, (b >> 64) as u64, pack_ends(key)]
    }

    fn unpack_key(words: &KeyWords) -> Key {
        let address = |at: usize| u128::from(words[at]) | u128::from(words[at + 1]) << 64;
        unpack_ends(words[4], address(0), address(2), Version::V6)
    }
}

#[inline(always)]
fn pack_ends(key: &Key) -> u64 {
    u64::from(key.a_port)
        | u64::from(key.b_port) << 16
        | u64::from(key.zone) << 32
        | u64::from(key.protocol) << 48
}

fn unpack_ends(word: u64, a: u128, b: u128, version: Version) -> Key {
    Key {
        a,
        b,
        a_port: word as u16,
        b_port: (word >> 16) as u16,
        zone: (word >> 32) as u16,
        protocol: (word >> 48) as u8,
        version,
    }
}

/// Whether the slot holds `key`, as far as a look without the lock can tell.
#[inline(always)]
pub(super) fn holds<S: Slot>(slot: &S, key: &KeyWords) -> bool {
    slot.words()[..S::KEY].iter().zip(key).all(|(word, key)| word.load(Ordering::Relaxed) == *key)
}

/// A slot whose lock this value holds, until it is dropped.
pub(super) struct Locked<'a, S: Slot> {
    slot: &'a S,
    cold: &'a Cold,
    /// Flags and time: written back when the lock is released.
    state: u64,
}

impl<'a, S: Slot> Locked<'a, S> {
    /// Waits for the lock of a slot and takes it.
    #[inline(always)]
    pub(super) fn new(slot: &'a S, cold: &'a Cold) -> Self {
        let state = acquire(&slot.words()[S::KEY], LOCK);
        Self { slot, cold, state }
    }

    /// Whether the slot holds a connection with this key.
    #[inline]
    pub(super) fn is(&self, key: &KeyWords) -> bool {
        self.live() && holds(self.slot, key)
    }

    /// Whether the slot holds a connection.
    #[inline]
    pub(super) fn live(&self) -> bool {
        self.state & LIVE != 0
    }

    /// Its key.
    pub(super) fn key_words(&self) -> KeyWords {
        let mut key = KeyWords::default();
        for (key, word) in key.iter_mut().zip(&self.slot.words()[..S::KEY]) {
            *key = word.load(Ordering::Relaxed);
        }
        key
    }

    /// When a packet passed last.
    #[inline]
    pub(super) fn seen(&self) -> u32 {
        high(self.state)
    }

    /// The direction in which it was opened.
    #[inline]
    pub(super) fn opened(&self) -> Direction {
        if self.state & OPENED_BACK == 0 { Direction::AToB } else { Direction::BToA }
    }

    /// The policy generation that judged it last.
    #[inline]
    pub(super) fn generation(&self) -> u32 {
        low(self.word(1).load(Ordering::Relaxed))
    }

    /// Why it may be. Reads the cold part.
    #[inline]
    pub(super) fn grant(&self) -> Grant {
        let (first, second) = (self.cold_word(0), self.cold_word(1));
        Grant {
            rule: RuleId::new(low(first)),
            source: IdentityId::new(high(first)),
            destination: IdentityId::new(low(second)),
        }
    }

    /// The protocol's state.
    #[inline(always)]
    pub(super) fn protocol(&self) -> Protocol {
        if self.state & TCP == 0 {
            if self.state & SCTP != 0 {
                return Protocol::Sctp(self.sctp());
            }
            return Protocol::Datagram { answered: self.state & ANSWERED != 0 };
        }
        let windows = high(self.word(1).load(Ordering::Relaxed));
        let side = |n: u32| {
            let word = self.word(2 + n as usize).load(Ordering::Relaxed);
            let scale = (self.state >> (SCALE + 4 * n)) as u8 & 15;
            Side {
                end: low(word),
                max_end: high(word),
                max_window: unpack_window((windows >> (16 * n)) as u16, scale),
                scale,
                fin: self.state >> (FIN + n) & 1 != 0,
            }
        };
        Protocol::Tcp(Tcp {
            phase: Phase::from_number((self.state >> PHASE) as u8 & 7),
            sides: [side(0), side(1)],
            picked_up: self.state & PICKED_UP != 0,
            flags: (self.state >> SEEN) as u8,
        })
    }

    #[cold]
    fn sctp(&self) -> Sctp {
        let tags = |word: u64| [low(word), high(word)];
        Sctp {
            phase: SctpPhase::from_number((self.state >> PHASE) as u8 & 7),
            tags: tags(self.load(2)),
            offered: tags(self.load(3)),
            picked_up: self.state & PICKED_UP != 0,
        }
    }

    #[cold]
    fn set_sctp(&mut self, sctp: &Sctp) {
        self.state = self.state & KEPT
            | SCTP
            | if sctp.picked_up { PICKED_UP } else { 0 }
            | (sctp.phase as u64) << PHASE;
        self.store(2, pair(sctp.tags[0], sctp.tags[1]));
        self.store(3, pair(sctp.offered[0], sctp.offered[1]));
    }

    /// Takes a packet into account.
    #[inline(always)]
    pub(super) fn step(&mut self, probe: &Probe, now: u32) -> (Step, Protocol) {
        let from = usize::from(probe.direction != self.opened());
        let mut protocol = self.protocol();
        let step = protocol.step(from, &probe.segment);
        if step == Step::Pass && !matches!(probe.segment, Segment::Error { .. }) {
            self.set_protocol(&protocol);
            self.state = self.state & 0xffff_ffff | u64::from(now) << 32;
            self.count(from, probe.bytes);
        }
        (step, protocol)
    }

    /// Judged anew and found good.
    pub(super) fn renew(&mut self, generation: u32, grant: &Grant) {
        let word = self.word(1);
        word.store(pair(generation, high(word.load(Ordering::Relaxed))), Ordering::Relaxed);
        self.set_grant(grant);
    }

    /// The whole connection.
    pub(super) fn read(&self) -> Connection {
        let (packets, bytes) = (self.load(4), self.load(5));
        let carries = self.cold_word(2);
        let traffic = |n: u32| {
            let whole = |lows: u64, carry: u32| {
                u64::from((lows >> (32 * n)) as u32) | u64::from((carry >> (16 * n)) as u16) << 32
            };
            Traffic { packets: whole(packets, low(carries)), bytes: whole(bytes, high(carries)) }
        };
        Connection {
            protocol: self.protocol(),
            opened: self.opened(),
            generation: self.generation(),
            grant: self.grant(),
            created: high(self.cold_word(1)),
            seen: self.seen(),
            traffic: [traffic(0), traffic(1)],
        }
    }

    /// Puts a connection into the slot, whatever was there.
    pub(super) fn write(&mut self, key: &KeyWords, connection: &Connection) {
        for (word, key) in self.slot.words()[..S::KEY].iter().zip(key) {
            word.store(*key, Ordering::Relaxed);
        }
        self.state = LIVE | u64::from(connection.seen) << 32;
        if connection.opened == Direction::BToA {
            self.state |= OPENED_BACK;
        }
        self.store(1, u64::from(connection.generation));
        self.set_protocol(&connection.protocol);
        let [there, back] = connection.traffic;
        self.store(4, pair(there.packets as u32, back.packets as u32));
        self.store(5, pair(there.bytes as u32, back.bytes as u32));
        let carry = |there: u64, back: u64| {
            u32::from((there >> 32) as u16) | u32::from((back >> 32) as u16) << 16
        };
        let carries = pair(carry(there.packets, back.packets), carry(there.bytes, back.bytes));
        self.cold.0[2].store(carries, Ordering::Relaxed);
        self.cold.0[1].store(pair(0, connection.created), Ordering::Relaxed);
        self.set_grant(&connection.grant);
    }

    /// Empties the slot.
    pub(super) fn clear(&mut self) {
        self.state &= !LIVE;
    }

    fn set_grant(&self, grant: &Grant) {
        let created = high(self.cold_word(1));
        self.cold.0[0].store(pair(grant.rule.get(), grant.source.get()), Ordering::Relaxed);
        self.cold.0[1].store(pair(grant.destination.get(), created), Ordering::Relaxed);
    }

    #[inline(always)]
    fn set_protocol(&mut self, protocol: &Protocol) {
        match protocol {
            Protocol::Sctp(sctp) => self.set_sctp(sctp),
            Protocol::Datagram { answered } => {
                self.state = self.state & KEPT | if *answered { ANSWERED } else { 0 };
            }
            Protocol::Tcp(tcp) => {
                let [there, back] = &tcp.sides;
                self.state = self.state & KEPT
                    | TCP
                    | if tcp.picked_up { PICKED_UP } else { 0 }
                    | (tcp.phase as u64) << PHASE
                    | u64::from(there.fin) << FIN
                    | u64::from(back.fin) << (FIN + 1)
                    | u64::from(there.scale & 15) << SCALE
                    | u64::from(back.scale & 15) << (SCALE + 4)
                    | u64::from(tcp.flags) << SEEN;
                let windows = u32::from(pack_window(there.max_window, there.scale))
                    | u32::from(pack_window(back.max_window, back.scale)) << 16;
                self.store(1, pair(low(self.load(1)), windows));
                self.store(2, pair(there.end, there.max_end));
                self.store(3, pair(back.end, back.max_end));
            }
        }
    }

    /// Counts a packet; the cold part is touched only when a low half overflows.
    #[inline(always)]
    fn count(&self, from: usize, bytes: u32) {
        for (at, add, carry_shift) in [(4, 1, 0), (5, bytes, 32)] {
            let word = self.load(at);
            let shift = 32 * from as u32;
            let (sum, overflow) = ((word >> shift) as u32).overflowing_add(add);
            self.store(at, word & !(0xffff_ffff << shift) | u64::from(sum) << shift);
            if overflow {
                self.carry(carry_shift + 16 * from as u32);
            }
        }
    }

    #[cold]
    fn carry(&self, shift: u32) {
        let word = self.cold_word(2);
        let raised = ((word >> shift) as u16).wrapping_add(1);
        let word = word & !(0xffff << shift) | u64::from(raised) << shift;
        self.cold.0[2].store(word, Ordering::Relaxed);
    }

    #[inline(always)]
    fn word(&self, n: usize) -> &AtomicU64 {
        &self.slot.words()[S::KEY + n]
    }

    #[inline(always)]
    fn load(&self, n: usize) -> u64 {
        self.word(n).load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn store(&self, n: usize, value: u64) {
        self.word(n).store(value, Ordering::Relaxed);
    }

    #[inline(always)]
    fn cold_word(&self, n: usize) -> u64 {
        self.cold.0[n].load(Ordering::Relaxed)
    }
}

impl<S: Slot> Drop for Locked<'_, S> {
    #[inline]
    fn drop(&mut self) {
        self.slot.words()[S::KEY].store(self.state & !LOCK, Ordering::Release);
    }
}

/// The link of a free slot to the next one: in the first word, which is nobody's key then.
#[inline]
pub(super) fn link<S: Slot>(slot: &S) -> &AtomicU64 {
    &slot.words()[0]
}

/// State word of a slot, without the lock: for looking whether a closer look is worth it.
#[inline]
pub(super) fn glance<S: Slot>(slot: &S) -> Glance {
    let state = slot.words()[S::KEY].load(Ordering::Relaxed);
    Glance { live: state & LIVE != 0, seen: high(state) }
}

/// What [`glance`] sees.
#[derive(Clone, Copy)]
pub(super) struct Glance {
    pub(super) live: bool,
    pub(super) seen: u32,
}

#[inline(always)]
const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

#[inline(always)]
const fn low(word: u64) -> u32 {
    word as u32
}

#[inline(always)]
const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn side()(end: u32, max_end: u32, window: u32, scale in 0u8..16, fin: bool) -> Side {
            let max_window = unpack_window(pack_window(window, scale), scale);
            Side { end, max_end, max_window, scale, fin }
        }
    }

    prop_compose! {
        fn connection()(
            tcp in proptest::option::of((side(), side(), 0u8..7, any::<bool>(), any::<u8>())),
            answered: bool,
            back: bool,
            numbers: [u32; 6],
            counts: [u64; 4],
        ) -> Connection {
            let protocol = match tcp {
                None => Protocol::Datagram { answered },
                Some((there, back, phase, picked_up, flags)) => Protocol::Tcp(Tcp {
                    phase: Phase::from_number(phase), sides: [there, back], picked_up, flags,
                }),
            };
            let traffic = |n: usize| Traffic {
                packets: counts[n] >> 16, bytes: counts[n + 1] >> 16,
            };
            Connection {
                protocol,
                opened: if back { Direction::BToA } else { Direction::AToB },
                generation: numbers[0],
                grant: Grant {
                    rule: RuleId::new(numbers[1]),
                    source: IdentityId::new(numbers[2]),
                    destination: IdentityId::new(numbers[3]),
                },
                created: numbers[4],
                seen: numbers[5],
                traffic: [traffic(0), traffic(2)],
            }
        }
    }

    proptest! {
        #[test]
        fn a_connection_comes_out_as_it_went_in(
            connection in connection(), a: u128, b: u128, ends: [u16; 3], protocol: u8,
        ) {
            fn check<S: Slot>(key: Key, connection: &Connection) {
                let (slot, cold) = (S::zero(), Cold::zero());
                let words = S::pack_key(&key);
                assert_eq!(S::unpack_key(&words), key);
                let cold = std::slice::from_ref(&cold);
                let mut locked = Locked::new(&slot, slot.cold(cold, 0));
                assert!(!locked.live());
                locked.write(&words, connection);
                drop(locked);
                let locked = Locked::new(&slot, slot.cold(cold, 0));
                assert!(locked.is(&words));
                assert_eq!(locked.key_words(), words);
                assert_eq!(locked.read(), *connection);
            }
            let [a_port, b_port, zone] = ends;
            let key = Key { a, b, a_port, b_port, zone, protocol, version: Version::V6 };
            check::<SlotV6>(key, &connection);
            let (a, b) = (u128::from(a as u32), u128::from(b as u32));
            check::<SlotV4>(Key { a, b, version: Version::V4, ..key }, &connection);
        }
    }

    #[test]
    fn counters_carry_into_the_cold_part() {
        let (slot, cold) = (SlotV4::zero(), [Cold::zero()]);
        let mut locked = Locked::new(&slot, slot.cold(&cold, 0));
        let traffic = [Traffic { packets: u32::MAX.into(), bytes: u64::from(u32::MAX) - 10 }; 2];
        let connection = Connection {
            protocol: Protocol::Datagram { answered: false },
            opened: Direction::AToB,
            generation: 0,
            grant: Grant::default(),
            created: 0,
            seen: 0,
            traffic,
        };
        locked.write(&KeyWords::default(), &connection);
        locked.count(1, 20);
        let after = locked.read().traffic;
        assert_eq!(after[0], traffic[0]);
        assert_eq!((after[1].packets, after[1].bytes), (1 << 32, (1 << 32) + 9));
    }
}
