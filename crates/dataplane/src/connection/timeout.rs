//! How long a connection may be silent.

use std::time::Duration;

use super::sctp::SctpPhase;
use super::tcp::Phase;
use crate::packet::protocol;

/// Idle times after which connections are forgotten, in milliseconds. At most about 24 days
/// (2^31 ms); longer ones count as that.
///
/// The defaults follow RFC 5382 and RFC 4787 (what NATs must keep) and are shorter than those only
/// where a half-open connection would let an attacker fill the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// A SYN without answer: 20 s.
    pub tcp_syn_sent: u32,
    /// A SYN+ACK without ACK: 30 s.
    pub tcp_syn_received: u32,
    /// Open and silent: 2 h 4 min (RFC 5382 REQ-5).
    pub tcp_established: u32,
    /// One end has closed: 4 min.
    pub tcp_closing: u32,
    /// Both ends have closed: 30 s.
    pub tcp_last_ack: u32,
    /// Closed in order: 60 s.
    pub tcp_time_wait: u32,
    /// Reset: 5 s.
    pub tcp_closed: u32,
    /// UDP, first packets without answer: 30 s.
    pub udp_unanswered: u32,
    /// UDP that goes both ways: 3 min (RFC 4787 REQ-5 wants at least 2).
    pub udp: u32,
    /// SCTP, open and silent: 2 h 4 min.
    pub sctp: u32,
    /// SCTP whose handshake is not finished: 30 s.
    pub sctp_opening: u32,
    /// SCTP that is being shut down: 30 s.
    pub sctp_closing: u32,
    /// SCTP that was aborted or shut down: 5 s.
    pub sctp_closed: u32,
    /// ICMP queries: 30 s.
    pub icmp: u32,
    /// Other protocols: 10 min, unanswered 30 s.
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn_sent: 20_000,
            tcp_syn_received: 30_000,
            tcp_established: 7_440_000,
            tcp_closing: 240_000,
            tcp_last_ack: 30_000,
            tcp_time_wait: 60_000,
            tcp_closed: 5_000,
            udp_unanswered: 30_000,
            udp: 180_000,
            sctp: 7_440_000,
            sctp_opening: 30_000,
            sctp_closing: 30_000,
            sctp_closed: 5_000,
            icmp: 30_000,
            other: 600_000,
        }
    }
}

impl Timeouts {
    /// The shortest of all, in milliseconds.
    pub fn shortest(&self) -> u32 {
        let tcp = (0..=6).map(|phase| self.tcp(Phase::from_number(phase))).min();
        let sctp = (0..=5).map(|phase| self.sctp(SctpPhase::from_number(phase))).min();
        let others = [self.udp_unanswered, self.udp, self.icmp, self.other];
        bounded(others.into_iter().chain(tcp).chain(sctp).min().unwrap_or(0))
    }

    /// The timeout of a TCP connection in `phase`, in milliseconds.
    #[inline]
    pub const fn tcp(&self, phase: Phase) -> u32 {
        let timeout = match phase {
            Phase::SynSent => self.tcp_syn_sent,
            Phase::SynReceived => self.tcp_syn_received,
            Phase::Established => self.tcp_established,
            Phase::Closing => self.tcp_closing,
            Phase::LastAck => self.tcp_last_ack,
            Phase::TimeWait => self.tcp_time_wait,
            Phase::Closed => self.tcp_closed,
        };
        bounded(timeout)
    }

    /// The timeout of an SCTP association in `phase`, in milliseconds.
    #[inline]
    pub const fn sctp(&self, phase: SctpPhase) -> u32 {
        let timeout = match phase {
            SctpPhase::Opening | SctpPhase::Echoed => self.sctp_opening,
            SctpPhase::Established => self.sctp,
            SctpPhase::Closing => self.sctp_closing,
            SctpPhase::Closed | SctpPhase::Aborted => self.sctp_closed,
        };
        bounded(timeout)
    }

    /// The timeout of a connection of another protocol, in milliseconds.
    #[inline]
    pub const fn datagram(&self, protocol: u8, answered: bool) -> u32 {
        let timeout = match (protocol, answered) {
            (protocol::ICMP | protocol::ICMPV6, _) => self.icmp,
            (protocol::UDP, true) => self.udp,
            (_, true) => self.other,
            (_, false) => self.udp_unanswered,
        };
        bounded(timeout)
    }
}

/// A duration as timeouts are written: milliseconds, at most 2^31 - 1.
pub fn millis(duration: Duration) -> u32 {
    bounded(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX))
}

const fn bounded(millis: u32) -> u32 {
    if millis > i32::MAX as u32 { i32::MAX as u32 } else { millis }
}
