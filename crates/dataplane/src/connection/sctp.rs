//! SCTP associations as a firewall sees them (RFC 9260): states and verification tags.
//!
//! Each end chooses a tag when the association is set up, and every packet to that end carries it. Who
//! is not on the path does not know it, so it is what sequence numbers are to TCP: a packet with
//! another tag does not pass, and an ABORT only ends the association with the right one.
//!
//! The tags of a handshake are kept beside those in force until its COOKIE ECHO proves that somebody
//! got the INIT ACK. So an INIT into an open association changes nothing by itself: a restart
//! (RFC 9260 section 5.2.2) goes through, a forged INIT ends nothing.

use super::tcp::Step;
use crate::packet::{SctpChunks, SctpHeader};
use crate::reason::Reason;

/// Where an association stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SctpPhase {
    /// INIT was seen, and perhaps its answer.
    #[default]
    Opening = 0,
    /// COOKIE ECHO was seen.
    Echoed = 1,
    /// Open.
    Established = 2,
    /// An end asked for the end.
    Closing = 3,
    /// Shut down.
    Closed = 4,
    /// Aborted.
    Aborted = 5,
}

impl SctpPhase {
    /// The phase with this number; numbers that are none mean [`SctpPhase::Aborted`].
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Opening,
            1 => Self::Echoed,
            2 => Self::Established,
            3 => Self::Closing,
            4 => Self::Closed,
            _ => Self::Aborted,
        }
    }

    /// Whether the handshake is not finished.
    pub const fn half_open(self) -> bool {
        matches!(self, Self::Opening | Self::Echoed)
    }

    /// Whether nothing more is to come.
    pub const fn over(self) -> bool {
        matches!(self, Self::Closed | Self::Aborted)
    }
}

/// The state of one association. Side 0 opened it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sctp {
    /// Where it stands.
    pub phase: SctpPhase,
    /// The tags in force: `tags[n]` is in packets to side `n`. 0: not known.
    pub tags: [u32; 2],
    /// Those of a handshake that is going on.
    pub offered: [u32; 2],
    /// Seen only from the middle on: tags are learnt from the first packet either way.
    pub picked_up: bool,
}

impl Sctp {
    /// The state after the first packet of an association, sent by its opener.
    ///
    /// # Errors
    /// [`Reason::SctpNotOpening`] unless it is an INIT, or `pick_up` is set and it could be from the
    /// middle of an association; [`Reason::SctpState`] for an INIT that no stack sends.
    pub fn open(header: &SctpHeader, pick_up: bool) -> Result<Self, Reason> {
        let chunks = header.chunks;
        if chunks.any(SctpChunks::INIT) {
            well_formed_init(header)?;
            return Ok(Self { offered: [header.initiate, 0], ..Self::default() });
        }
        const NOT_MIDDLE: u16 = SctpChunks::INIT_ACK
            | SctpChunks::ABORT
            | SctpChunks::SHUTDOWN_ACK
            | SctpChunks::SHUTDOWN_COMPLETE
            | SctpChunks::MALFORMED;
        if !pick_up || header.tag == 0 || chunks.0 == 0 || chunks.any(NOT_MIDDLE) {
            return Err(Reason::SctpNotOpening);
        }
        let phase = SctpPhase::Established;
        Ok(Self { phase, tags: [0, header.tag], picked_up: true, ..Self::default() })
    }

    /// Takes a packet into account. `from` is 0 if the opener sent it, else 1. Nothing changes unless
    /// the answer is [`Step::Pass`].
    #[cold]
    pub fn step(&mut self, from: usize, header: &SctpHeader) -> Step {
        match self.stepped(from & 1, header) {
            Ok(Some(next)) => {
                *self = next;
                Step::Pass
            }
            Ok(None) => Step::Reopen,
            Err(reason) => Step::Invalid(reason),
        }
    }

    /// The state after a packet; `None` if it asks for a new association.
    fn stepped(&self, from: usize, header: &SctpHeader) -> Result<Option<Self>, Reason> {
        let (mut next, to) = (*self, 1 - from);
        let SctpHeader { tag, initiate, chunks } = *header;
        if chunks.any(SctpChunks::MALFORMED) || chunks.0 == 0 {
            return Err(Reason::SctpState);
        }
        if chunks.any(SctpChunks::INIT) {
            well_formed_init(header)?;
            if self.phase.over() {
                return Ok(None);
            }
            next.offered[from] = initiate;
            return Ok(Some(next));
        }
        if tag == 0 {
            return Err(Reason::SctpTag);
        }
        if chunks.any(SctpChunks::INIT_ACK) {
            // It answers the other end's INIT.
            if initiate == 0 || tag != self.offered[to] {
                return Err(Reason::SctpTag);
            }
            next.offered[from] = initiate;
            return Ok(Some(next));
        }
        let both_offered = self.offered[0] != 0 && self.offered[1] != 0;
        if chunks.any(SctpChunks::COOKIE_ECHO) && both_offered && tag == self.offered[to] {
            (next.tags, next.offered) = (self.offered, [0, 0]);
            // One that was open and is set up anew does not become half-open for that.
            next.phase = match self.phase {
                SctpPhase::Opening => SctpPhase::Echoed,
                SctpPhase::Closing => SctpPhase::Established,
                phase => phase,
            };
            next.picked_up = false;
            return Ok(Some(next));
        }
        if chunks.any(SctpChunks::ABORT) && self.phase == SctpPhase::Opening {
            // A refused INIT is answered with its own tag; who got an answer may give up with that.
            if tag != self.offered[to] {
                return Err(Reason::SctpTag);
            }
            next.phase = SctpPhase::Aborted;
            return Ok(Some(next));
        }
        if self.picked_up && next.tags[to] == 0 && !chunks.any(SctpChunks::REFLECTED) {
            next.tags[to] = tag;
        }
        let reflected = chunks.any(SctpChunks::REFLECTED) && tag == self.tags[from];
        if tag != next.tags[to] && !reflected {
            return Err(Reason::SctpTag);
        }
        next.phase = self.next_phase(from, chunks);
        Ok(Some(next))
    }

    /// The phase after a packet from `from` with the right tag.
    fn next_phase(&self, from: usize, chunks: SctpChunks) -> SctpPhase {
        const CLOSING: u16 = SctpChunks::SHUTDOWN | SctpChunks::SHUTDOWN_ACK;
        match self.phase {
            over if over.over() => over,
            _ if chunks.any(SctpChunks::ABORT) => SctpPhase::Aborted,
            _ if chunks.any(SctpChunks::SHUTDOWN_COMPLETE) => SctpPhase::Closed,
            _ if chunks.any(CLOSING) => SctpPhase::Closing,
            // Either end may have sent the COOKIE ECHO; its answer comes from the other, and so does
            // whatever an end sends that is open.
            SctpPhase::Echoed if chunks.any(SctpChunks::COOKIE_ACK) => SctpPhase::Established,
            SctpPhase::Echoed if from == 1 && chunks.any(SctpChunks::OTHER) => {
                SctpPhase::Established
            }
            phase => phase,
        }
    }

    /// Whether the end `from` may have sent a packet with this tag: what an ICMP error quotes.
    pub fn sent(&self, from: usize, tag: u32) -> bool {
        let to = 1 - (from & 1);
        match tag {
            0 => self.phase == SctpPhase::Opening,
            tag => {
                let learning = self.picked_up && self.tags[to] == 0;
                learning || tag == self.tags[to] || tag == self.offered[to]
            }
        }
    }
}

/// An INIT stands alone, has no tag and offers one.
fn well_formed_init(header: &SctpHeader) -> Result<(), Reason> {
    let alone = header.chunks.0 == SctpChunks::INIT;
    if alone && header.tag == 0 && header.initiate != 0 { Ok(()) } else { Err(Reason::SctpState) }
}

#[cfg(test)]
#[path = "sctp_tests.rs"]
mod tests;
