//! TCP connections as a firewall sees them: states (RFC 9293) and windows.
//!
//! The window checks are those of Guido van Rooij, "Real Stateful TCP Packet Filtering in IP
//! Filter" (2000): from what either end has sent, acknowledged and offered follow four bounds that
//! every honest segment keeps. Beyond them:
//! - a reset closes the connection only with exactly the expected sequence number (RFC 5961
//!   section 3); one elsewhere in the window is forwarded, and the receiver's challenge settles it;
//! - a SYN in an open connection is forwarded only from the end that opened it (the receiver answers
//!   with a challenge); from the other end it asks for a new connection, which the policy judges.

use crate::packet::TcpHeader;
use crate::reason::Reason;

/// Acknowledgements may lag this far behind, even where the offered window is smaller.
const MIN_ACK_WINDOW: u32 = 66_000;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Phase {
    /// The opener's SYN was seen.
    #[default]
    SynSent = 0,
    /// Both SYNs were seen.
    SynReceived = 1,
    /// Open in both directions.
    Established = 2,
    /// One end has sent FIN.
    Closing = 3,
    /// Both ends have sent FIN.
    LastAck = 4,
    /// Both FINs are acknowledged.
    TimeWait = 5,
    /// Reset.
    Closed = 6,
}

impl Phase {
    /// The phase with this number; numbers that are none mean [`Phase::Closed`].
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::SynSent,
            1 => Self::SynReceived,
            2 => Self::Established,
            3 => Self::Closing,
            4 => Self::LastAck,
            5 => Self::TimeWait,
            _ => Self::Closed,
        }
    }

    /// Whether the handshake is not finished.
    pub const fn half_open(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived)
    }
}

/// What one end has sent and offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// One beyond the highest sequence number that it sent.
    pub end: u32,
    /// One beyond the highest sequence number that it may send.
    pub max_end: u32,
    /// The largest window that it offered, in bytes; kept to 16 bits at its scale, rounded up.
    pub max_window: u32,
    /// Its window scale; meaningless before its SYN.
    pub scale: u8,
    /// It sent FIN, and `end` stands behind it.
    pub fin: bool,
}

/// The state of one connection. Side 0 opened it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Where it stands.
    pub phase: Phase,
    /// Opener and responder.
    pub sides: [Side; 2],
    /// Seen only from the middle on: windows are not known, so not checked.
    pub picked_up: bool,
    /// Flags seen in segments of either end that passed, as in the header.
    pub flags: u8,
}

/// What a segment is to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It belongs to it.
    Pass,
    /// It asks for a new connection in place of this one.
    Reopen,
    /// It must not pass.
    Invalid(Reason),
}

impl Tcp {
    /// The state after the first segment of a connection, sent by its opener.
    ///
    /// # Errors
    /// [`Reason::TcpNotOpening`] unless the segment is a SYN, or `pick_up` is set and it could be
    /// from the middle of a connection.
    pub fn open(tcp: &TcpHeader, payload: u16, pick_up: bool) -> Result<Self, Reason> {
        let end = segment_end(tcp, payload);
        if tcp.flags.syn() && !tcp.flags.ack() {
            let opener = Side {
                end,
                // Until the answer: the lowest acknowledgement that answers this SYN.
                max_end: tcp.seq.wrapping_add(1),
                max_window: representable(tcp.window.max(1).into(), tcp.scale.unwrap_or(NO_SCALE)),
                scale: tcp.scale.unwrap_or(NO_SCALE),
                fin: false,
            };
            let flags = tcp.flags.0;
            return Ok(Self { sides: [opener, Side::default()], flags, ..Self::default() });
        }
        if !pick_up || tcp.flags.syn() || tcp.flags.rst() || !tcp.flags.ack() {
            return Err(Reason::TcpNotOpening);
        }
        let opener = Side { end, max_end: end, fin: tcp.flags.fin(), ..Side::default() };
        let responder = Side { end: tcp.ack, max_end: tcp.ack, ..Side::default() };
        let phase = if tcp.flags.fin() { Phase::Closing } else { Phase::Established };
        Ok(Self { phase, sides: [opener, responder], picked_up: true, flags: tcp.flags.0 })
    }

    /// Takes a segment into account. `from` is 0 if the opener sent it, else 1. Nothing changes
    /// unless the answer is [`Step::Pass`].
    #[inline]
    pub fn step(&mut self, from: usize, tcp: &TcpHeader, payload: u16) -> Step {
        let seen = self.flags | tcp.flags.0;
        let step = self.follow(from & 1, tcp, payload);
        if step == Step::Pass {
            self.flags = seen;
        }
        step
    }

    #[inline]
    fn follow(&mut self, from: usize, tcp: &TcpHeader, payload: u16) -> Step {
        if tcp.flags.syn() {
            return self.step_syn(from, tcp, payload);
        }
        if self.phase == Phase::SynSent && !tcp.flags.rst() {
            // Only a SYN can answer a SYN.
            return Step::Invalid(Reason::TcpState);
        }
        if tcp.flags.rst() {
            return self.step_reset(from, tcp);
        }
        let end = segment_end(tcp, payload);
        if !self.in_window(from, tcp.seq, end, tcp.ack) {
            return Step::Invalid(Reason::TcpOutOfWindow);
        }
        if self.phase == Phase::Closed {
            // Stragglers of a reset connection tell nothing new.
            return Step::Pass;
        }
        self.learn(from, tcp, end);
        self.sides[from].fin |= tcp.flags.fin();
        self.phase = self.next_phase(from, tcp.ack);
        Step::Pass
    }

    /// A SYN, with or without ACK.
    #[cold]
    fn step_syn(&mut self, from: usize, tcp: &TcpHeader, payload: u16) -> Step {
        let end = segment_end(tcp, payload);
        let other = 1 - from;
        match (self.phase, from, tcp.flags.ack()) {
            // The opener tries again, perhaps with another sequence number.
            (Phase::SynSent, 0, false) => match Self::open(tcp, payload, false) {
                Ok(again) => {
                    *self = again;
                    Step::Pass
                }
                Err(reason) => Step::Invalid(reason),
            },
            // The answer, or the other half of a simultaneous open.
            (Phase::SynSent, 1, ack) => {
                let opener = &self.sides[0];
                if ack && (after(tcp.ack, opener.end) || after(opener.max_end, tcp.ack)) {
                    return Step::Invalid(Reason::TcpOutOfWindow);
                }
                let window = u32::from(tcp.window).max(1);
                self.sides[1] = Side {
                    end,
                    max_end: end.wrapping_add(self.sides[0].max_window),
                    max_window: window,
                    scale: tcp.scale.unwrap_or(NO_SCALE),
                    fin: false,
                };
                // Both must offer scaling, or nobody scales.
                let unscaled = self.sides.iter().any(|side| side.scale == NO_SCALE);
                for side in &mut self.sides {
                    side.scale = if unscaled { 0 } else { side.scale };
                    side.max_window = representable(side.max_window, side.scale);
                }
                let from_ack = if ack { tcp.ack } else { self.sides[0].end };
                self.sides[0].max_end = from_ack.wrapping_add(window);
                self.phase = Phase::SynReceived;
                Step::Pass
            }
            // Repeated, or a simultaneous open's SYN+ACK from the opener.
            (Phase::SynReceived, _, true) => {
                if end == self.sides[from].end && !after(tcp.ack, self.sides[other].end) {
                    Step::Pass
                } else {
                    Step::Invalid(Reason::TcpOutOfWindow)
                }
            }
            (Phase::SynReceived, _, false) if end == self.sides[from].end => Step::Pass,
            (Phase::Closed, _, false) => Step::Reopen,
            (Phase::LastAck | Phase::TimeWait, _, false) => {
                // RFC 6191: a new connection begins beyond the old one; else an old duplicate.
                if after(self.sides[from].end, tcp.seq) && !self.picked_up {
                    Step::Invalid(Reason::TcpOutOfWindow)
                } else {
                    Step::Reopen
                }
            }
            // The receiver answers these with a challenge (RFC 5961 section 4).
            (_, 0, false) => Step::Pass,
            (_, 1, false) => Step::Reopen,
            (Phase::Established | Phase::Closing, _, true) => {
                if self.in_window(from, tcp.seq, end, tcp.ack) {
                    Step::Pass
                } else {
                    Step::Invalid(Reason::TcpOutOfWindow)
                }
            }
            (_, _, _) => Step::Invalid(Reason::TcpState),
        }
    }

    /// A reset: valid only in the window, final only with the expected number.
    #[cold]
    fn step_reset(&mut self, from: usize, tcp: &TcpHeader) -> Step {
        let sides = &self.sides;
        if self.phase == Phase::SynSent {
            // A refused SYN is answered with its acknowledgement (RFC 9293 section 3.10.7.3); the
            // opener may give up with the number that follows its SYN.
            let opener = &sides[0];
            let valid = if from == 1 {
                tcp.flags.ack() && !after(tcp.ack, opener.end) && !after(opener.max_end, tcp.ack)
            } else {
                tcp.seq == sides[0].end
            };
            if !valid {
                return Step::Invalid(Reason::TcpInvalidReset);
            }
            self.phase = Phase::Closed;
            return Step::Pass;
        }
        if self.picked_up {
            self.phase = Phase::Closed;
            return Step::Pass;
        }
        let (sender, receiver) = (&sides[from], &sides[1 - from]);
        let lowest = sender.end.wrapping_sub(receiver.max_window);
        if after(tcp.seq, sender.max_end) || after(lowest, tcp.seq) {
            return Step::Invalid(Reason::TcpInvalidReset);
        }
        if tcp.seq == sender.end {
            self.phase = Phase::Closed;
        }
        Step::Pass
    }

    /// Whether the end `from` may have sent sequence number `seq` lately.
    pub fn sent(&self, from: usize, seq: u32) -> bool {
        let (sender, receiver) = (&self.sides[from & 1], &self.sides[1 - (from & 1)]);
        let window = receiver.max_window.max(MIN_ACK_WINDOW);
        self.picked_up || (!after(seq, sender.end) && after(seq, sender.end.wrapping_sub(window)))
    }

    /// The four bounds.
    #[inline]
    fn in_window(&self, from: usize, seq: u32, end: u32, ack: u32) -> bool {
        if self.picked_up {
            return true;
        }
        let (sender, receiver) = (&self.sides[from], &self.sides[1 - from]);
        let lowest = sender.end.wrapping_sub(receiver.max_window).wrapping_sub(1);
        let ack_window = sender.max_window.max(MIN_ACK_WINDOW);
        let lowest_ack = receiver.end.wrapping_sub(ack_window).wrapping_sub(1);
        !after(seq, sender.max_end)
            && after(end, lowest)
            && !after(ack, receiver.end)
            && after(ack, lowest_ack)
    }

    /// Moves the bounds.
    #[inline]
    fn learn(&mut self, from: usize, tcp: &TcpHeader, end: u32) {
        let scale = self.sides[from].scale;
        let window = unpack_window(tcp.window, scale);
        let sender = &mut self.sides[from];
        if after(end, sender.end) {
            sender.end = end;
            if after(end, sender.max_end) {
                sender.max_end = end;
            }
        }
        sender.max_window = representable(sender.max_window.max(window), scale);
        // A closed window may be probed with one byte.
        let limit = tcp.ack.wrapping_add(window.max(1));
        let receiver = &mut self.sides[1 - from];
        if after(limit, receiver.max_end) {
            receiver.max_end = limit;
        }
        if self.picked_up && after(tcp.ack, receiver.end) {
            receiver.end = tcp.ack;
        }
    }

    /// The phase after a segment from `from` that acknowledges `ack`.
    #[inline]
    fn next_phase(&self, from: usize, ack: u32) -> Phase {
        let fins = (self.sides[0].fin, self.sides[1].fin);
        match self.phase {
            // The handshake ends when an end acknowledges the other's SYN; in the usual one, that
            // is the opener.
            Phase::SynReceived if fins == (false, false) => {
                if ack == self.sides[1 - from].end || from == 0 {
                    Phase::Established
                } else {
                    Phase::SynReceived
                }
            }
            Phase::TimeWait => Phase::TimeWait,
            Phase::LastAck if ack == self.sides[1 - from].end => Phase::TimeWait,
            phase => match fins {
                (false, false) => phase,
                (true, true) => Phase::LastAck,
                _ => Phase::Closing,
            },
        }
    }
}

/// The bits by which a window at `scale` is shifted.
#[inline]
const fn shift(scale: u8) -> u32 {
    if scale > 14 { 0 } else { scale as u32 }
}

/// A window in 16 bits at `scale`, rounded up.
#[inline]
pub(super) const fn pack_window(window: u32, scale: u8) -> u16 {
    let packed = window.div_ceil(1 << shift(scale));
    if packed > 0xffff { 0xffff } else { packed as u16 }
}

/// The window that [`pack_window`] packed.
#[inline]
pub(super) const fn unpack_window(packed: u16, scale: u8) -> u32 {
    (packed as u32) << shift(scale)
}

/// The window as it is after packing and unpacking.
#[inline]
const fn representable(window: u32, scale: u8) -> u32 {
    unpack_window(pack_window(window, scale), scale)
}

/// "No window scale option", in place of a scale.
pub const NO_SCALE: u8 = 15;

/// One beyond the last sequence number of a segment: SYN and FIN count one each.
#[inline]
const fn segment_end(tcp: &TcpHeader, payload: u16) -> u32 {
    tcp.seq
        .wrapping_add(payload as u32)
        .wrapping_add(tcp.flags.syn() as u32)
        .wrapping_add(tcp.flags.fin() as u32)
}

/// Whether `a` comes after `b` in sequence space (RFC 9293 section 3.4).
#[inline]
const fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}
