//! The state of one connection in memory: packed into one cache line, locked by one bit.
//!
//! All words are atomics, read and written with plain loads and stores while the lock bit is held, so
//! there is nothing unsafe about a reader who looks at a slot just when it is given to another
//! connection.
//!
//! Only a slot that holds a connection can be locked. A free one belongs to whoever took it from the
//! free slots, who fills it without a lock; the store that shows the connection is the last one.
//!
//! | word | low half | high half |
//! |---|---|---|
//! | 0 | flags and lock | last seen, ms |
//! | 1 | generation | windows, 16 bits each |
//! | 2, 3 | end of a side | highest end that it may reach |
//! | 2, 3 of SCTP | tag of the opener | tag of the other end; in force, and offered |
//! | 4 | packets from the opener | packets back |
//! | 5 | bytes from the opener | bytes back |
//! | 6 | rule | identity of the opener |
//! | 7 | identity of the other end | opened, ms |
//!
//! The counts are the low halves; for the few connections that need more, the carry, elsewhere, has
//! the high 16 bits of packets, twice, and those of bytes, twice.

use portcullis_identity_table::IdentityId;

use super::memory::Zeroed;
use super::sync::{AtomicU64, Ordering, acquire_if};
use crate::connection::sctp::{Sctp, SctpPhase};
use crate::connection::state::{Connection, Grant, Protocol, Traffic};
use crate::connection::tcp::{Phase, Side, Step, Tcp, pack_window, unpack_window};
use crate::connection::{Direction, Probe, Segment};
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
/// The carry counts.
const CARRIED: u64 = 1 << 28;

/// What a protocol's state leaves as it is.
const KEPT: u64 = 0xffff_ffff_0000_0000 | LOCK | LIVE | OPENED_BACK | CARRIED;

/// The state of a connection: one cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Slot([AtomicU64; 8]);

/// High bits of the counts of a connection.
#[derive(Debug)]
pub(super) struct Carry(AtomicU64);

const _: () = assert!(cfg!(loom) || size_of::<Slot>() == 64);

// SAFETY: atomics only.
#[allow(unsafe_code)]
unsafe impl Zeroed for Slot {
    fn zero() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

// SAFETY: an atomic only.
#[allow(unsafe_code)]
unsafe impl Zeroed for Carry {
    fn zero() -> Self {
        Self(AtomicU64::new(0))
    }
}

/// A slot whose lock this value holds, until it is dropped.
pub(super) struct Locked<'a> {
    slot: &'a Slot,
    carry: &'a Carry,
    /// Flags and time: written back when the lock is released.
    state: u64,
}

impl<'a> Locked<'a> {
    /// Waits for the lock of a slot and takes it. `None`: it holds no connection.
    #[inline(always)]
    pub(super) fn new(slot: &'a Slot, carry: &'a Carry) -> Option<Self> {
        let state = acquire_if(&slot.0[0], LOCK, LIVE)?;
        Some(Self { slot, carry, state })
    }

    /// A free slot that nobody else has, to be written: it can be locked when this value is dropped.
    #[inline(always)]
    pub(super) fn fresh(slot: &'a Slot, carry: &'a Carry) -> Self {
        Self { slot, carry, state: 0 }
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
        low(self.load(1))
    }

    /// Why it may be.
    #[inline]
    pub(super) fn grant(&self) -> Grant {
        let (first, second) = (self.load(6), self.load(7));
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
        let windows = high(self.load(1));
        let side = |n: u32| {
            let word = self.load(2 + n as usize);
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
        self.store(1, pair(generation, high(self.load(1))));
        self.set_grant(grant, high(self.load(7)));
    }

    /// The whole connection.
    pub(super) fn read(&self) -> Connection {
        let (packets, bytes) = (self.load(4), self.load(5));
        let carries = self.carries();
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
            created: high(self.load(7)),
            seen: self.seen(),
            traffic: [traffic(0), traffic(1)],
        }
    }

    /// Puts a connection into the slot, whatever was there.
    #[inline(always)]
    pub(super) fn write(&mut self, connection: &Connection) {
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
        if carries != 0 {
            self.set_carries(carries);
        }
        self.set_grant(&connection.grant, connection.created);
    }

    /// Empties the slot.
    pub(super) fn clear(&mut self) {
        self.state &= !LIVE;
    }

    fn set_grant(&self, grant: &Grant, created: u32) {
        self.store(6, pair(grant.rule.get(), grant.source.get()));
        self.store(7, pair(grant.destination.get(), created));
    }

    fn carries(&self) -> u64 {
        if self.state & CARRIED == 0 { 0 } else { self.carry.0.load(Ordering::Relaxed) }
    }

    #[cold]
    fn set_carries(&mut self, carries: u64) {
        self.state |= CARRIED;
        self.carry.0.store(carries, Ordering::Relaxed);
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

    /// Counts a packet; the carry is touched only when a low half overflows.
    #[inline(always)]
    fn count(&mut self, from: usize, bytes: u32) {
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
    fn carry(&mut self, shift: u32) {
        let word = self.carries();
        let raised = ((word >> shift) as u16).wrapping_add(1);
        let word = word & !(0xffff << shift) | u64::from(raised) << shift;
        self.set_carries(word);
    }

    #[inline(always)]
    fn load(&self, n: usize) -> u64 {
        self.slot.0[n].load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn store(&self, n: usize, value: u64) {
        self.slot.0[n].store(value, Ordering::Relaxed);
    }
}

impl Drop for Locked<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.slot.0[0].store(self.state & !LOCK, Ordering::Release);
    }
}

/// State word of a slot, without the lock: for looking whether a closer look is worth it.
#[inline]
pub(super) fn glance(slot: &Slot) -> Glance {
    let state = slot.0[0].load(Ordering::Relaxed);
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
        fn a_connection_comes_out_as_it_went_in(connection in connection()) {
            let (slot, carry) = (Slot::zero(), Carry::zero());
            assert!(Locked::new(&slot, &carry).is_none(), "it holds nothing");
            Locked::fresh(&slot, &carry).write(&connection);
            let mut locked = Locked::new(&slot, &carry).unwrap();
            prop_assert_eq!(locked.read(), connection);
            locked.clear();
            drop(locked);
            assert!(Locked::new(&slot, &carry).is_none(), "it is free");
        }
    }

    #[test]
    fn counters_carry() {
        let (slot, carry) = (Slot::zero(), Carry::zero());
        let mut locked = Locked::fresh(&slot, &carry);
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
        locked.write(&connection);
        locked.count(1, 20);
        let after = locked.read().traffic;
        assert_eq!(after[0], traffic[0]);
        assert_eq!((after[1].packets, after[1].bytes), (1 << 32, (1 << 32) + 9));
    }
}
