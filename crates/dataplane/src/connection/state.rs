//! What the table remembers of a connection, and how packets change it.

use portcullis_identity_table::IdentityId;

use super::key::{Direction, Key, Probe, Segment};
use super::sctp::Sctp;
use super::tcp::{Phase, Step, Tcp};
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
    /// SCTP.
    Sctp(Sctp),
    /// UDP, ICMP queries, protocols without ports.
    Datagram {
        /// The other end has answered.
        answered: bool,
    },
}

impl Protocol {
    /// Takes a packet into account; `from` is 0 if the opener sent it, else 1. Nothing changes
    /// unless the answer is [`Step::Pass`]. An ICMP error changes nothing, and does not count as a
    /// packet of the connection.
    #[inline(always)]
    pub fn step(&mut self, from: usize, segment: &Segment) -> Step {
        match (self, segment) {
            (Self::Tcp(state), Segment::Tcp(tcp, payload)) => state.step(from, tcp, *payload),
            // Whoever forges an error must at least know what was sent (RFC 5927).
            (Self::Tcp(state), Segment::Error { seq: Some(seq) }) if !state.sent(from, *seq) => {
                Step::Invalid(Reason::IcmpErrorUnrelated)
            }
            // Likewise (RFC 9260 section 10).
            (Self::Sctp(state), Segment::Error { seq: Some(tag) }) if !state.sent(from, *tag) => {
                Step::Invalid(Reason::IcmpErrorUnrelated)
            }
            (_, Segment::Error { .. }) => Step::Pass,
            (Self::Datagram { answered }, _) => {
                *answered |= from == 1;
                Step::Pass
            }
            (Self::Tcp(_), _) => Step::Invalid(Reason::TcpState),
            (Self::Sctp(state), Segment::Sctp(packet)) => state.step(from, packet),
            (Self::Sctp(_), _) => Step::Invalid(Reason::SctpState),
        }
    }

    /// Milliseconds without packets after which a connection of IP protocol `number` is forgotten.
    #[inline]
    pub const fn timeout(&self, number: u8, timeouts: &Timeouts) -> u32 {
        match self {
            Self::Tcp(tcp) => timeouts.tcp(tcp.phase),
            Self::Sctp(sctp) => timeouts.sctp(sctp.phase),
            Self::Datagram { answered } => timeouts.datagram(number, *answered),
        }
    }

    /// Whether this is TCP or SCTP and the handshake not finished.
    #[inline]
    pub const fn half_open(&self) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.phase.half_open(),
            Self::Sctp(sctp) => sctp.phase.half_open(),
            Self::Datagram { .. } => false,
        }
    }

    /// Whether nothing would be lost by forgetting it: never answered, or over.
    pub const fn expendable(&self) -> bool {
        match self {
            Self::Tcp(tcp) => {
                tcp.phase.half_open() || matches!(tcp.phase, Phase::TimeWait | Phase::Closed)
            }
            Self::Sctp(sctp) => sctp.phase.half_open() || sctp.phase.over(),
            Self::Datagram { answered } => !*answered,
        }
    }
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
    #[inline(always)]
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
            Segment::Sctp(packet) => Protocol::Sctp(Sctp::open(&packet, pick_up)?),
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
        match self.protocol.step(from, &probe.segment) {
            Step::Pass if matches!(probe.segment, Segment::Error { .. }) => {}
            Step::Pass => {
                self.seen = now;
                self.traffic[from].packets += 1;
                self.traffic[from].bytes += u64::from(probe.bytes);
            }
            other => return other,
        }
        Step::Pass
    }

    /// Milliseconds without packets after which it is forgotten.
    #[inline]
    pub fn timeout(&self, key: &Key, timeouts: &Timeouts) -> u32 {
        self.protocol.timeout(key.protocol, timeouts)
    }

    /// Whether it has been idle for longer than it may.
    #[inline]
    pub fn expired(&self, key: &Key, now: u32, timeouts: &Timeouts) -> bool {
        idle(now, self.seen) >= self.timeout(key, timeouts)
    }

    /// Whether it is TCP or SCTP and its handshake not finished.
    pub const fn half_open(&self) -> bool {
        self.protocol.half_open()
    }
}

/// Milliseconds from `seen` to `now` on a wrapping clock; 0 if another worker saw it "later".
#[inline]
pub(crate) const fn idle(now: u32, seen: u32) -> u32 {
    let idle = now.wrapping_sub(seen);
    if idle > u32::MAX / 2 { 0 } else { idle }
}
