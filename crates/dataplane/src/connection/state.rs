//! What the table remembers of a connection, and how packets change it.

use portcullis_identity_table::IdentityId;

use super::key::{Direction, Key, Probe, Segment};
use super::tcp::{Step, Tcp};
use super::timeout::Timeouts;
use crate::reason::Reason;
use crate::verdict::RuleId;

/// Why the policy let the connection be: kept for flow records and for judging it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The rule that allowed it.
    pub rule: RuleId,
    /// Identity of the end that opened it, at that time.
    pub source: IdentityId,
    /// Identity of the other end, at that time.
    pub destination: IdentityId,
}

/// Packets and bytes that went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP packets, headers included.
    pub bytes: u64,
}

/// The part of a connection's state that its protocol decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp(Tcp),
    /// UDP, SCTP, ICMP queries, protocols without ports.
    Datagram {
        /// The other end has answered.
        answered: bool,
    },
}

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// State of the protocol.
    pub protocol: Protocol,
    /// Direction of the packet that opened it.
    pub opened: Direction,
    /// Policy generation that judged it last.
    pub generation: u32,
    /// Why it may be.
    pub grant: Grant,
    /// When it was opened: milliseconds of the table's time, wrapping.
    pub created: u32,
    /// When a packet passed last, likewise.
    pub seen: u32,
    /// From the opener, and back.
    pub traffic: [Traffic; 2],
}

impl Connection {
    /// A connection that begins with `probe`.
    ///
    /// # Errors
    /// The probe may not open one.
    pub fn open(
        probe: &Probe,
        now: u32,
        generation: u32,
        grant: Grant,
        pick_up: bool,
    ) -> Result<Self, Reason> {
        let protocol = match probe.segment {
            Segment::Tcp(tcp, payload) => Protocol::Tcp(Tcp::open(&tcp, payload, pick_up)?),
            Segment::Datagram | Segment::Request => Protocol::Datagram { answered: false },
            Segment::Continuation if pick_up => Protocol::Datagram { answered: false },
            Segment::Continuation => return Err(Reason::SctpNotOpening),
            Segment::Reply => return Err(Reason::IcmpUnsolicitedReply),
            Segment::Error { .. } => return Err(Reason::IcmpErrorUnrelated),
        };
        let first = Traffic { packets: 1, bytes: probe.bytes.into() };
        let traffic = [first, Traffic::default()];
        let opened = probe.direction;
        Ok(Self { protocol, opened, generation, grant, created: now, seen: now, traffic })
    }

    /// Takes a packet into account. Nothing changes unless the answer is [`Step::Pass`].
    #[inline]
    pub fn step(&mut self, probe: &Probe, now: u32) -> Step {
        let from = usize::from(probe.direction != self.opened);
        match (&mut self.protocol, probe.segment) {
            (Protocol::Tcp(state), Segment::Tcp(tcp, payload)) => {
                match state.step(from, &tcp, payload) {
                    Step::Pass => {}
                    other => return other,
                }
            }
            (protocol, Segment::Error { seq }) => {
                return match (protocol, seq) {
                    // Whoever forges an error must at least know what was sent (RFC 5927).
                    (Protocol::Tcp(state), Some(seq)) if !state.sent(from, seq) => {
                        Step::Invalid(Reason::IcmpErrorUnrelated)
                    }
                    // Errors neither prolong nor change a connection.
                    _ => Step::Pass,
                };
            }
            (Protocol::Datagram { answered }, _) => *answered |= from == 1,
            (Protocol::Tcp(_), _) => return Step::Invalid(Reason::TcpState),
        }
        self.seen = now;
        self.traffic[from].packets += 1;
        self.traffic[from].bytes += u64::from(probe.bytes);
        Step::Pass
    }

    /// Milliseconds without packets after which it is forgotten.
    #[inline]
    pub fn timeout(&self, key: &Key, timeouts: &Timeouts) -> u32 {
        match self.protocol {
            Protocol::Tcp(tcp) => timeouts.tcp(tcp.phase),
            Protocol::Datagram { answered } => timeouts.datagram(key.protocol, answered),
        }
    }

    /// Whether it has been idle for longer than it may.
    #[inline]
    pub fn expired(&self, key: &Key, now: u32, timeouts: &Timeouts) -> bool {
        idle(now, self.seen) >= self.timeout(key, timeouts)
    }

    /// Whether its handshake is not finished, or its first datagram not answered.
    pub const fn half_open(&self) -> bool {
        match self.protocol {
            Protocol::Tcp(tcp) => tcp.phase.half_open(),
            Protocol::Datagram { answered } => !answered,
        }
    }
}

/// Milliseconds from `seen` to `now` on a wrapping clock; 0 if another worker saw it "later".
#[inline]
pub(super) const fn idle(now: u32, seen: u32) -> u32 {
    let idle = now.wrapping_sub(seen);
    if idle > u32::MAX / 2 { 0 } else { idle }
}
