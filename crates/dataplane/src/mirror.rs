//! Copies of packets to another port: what a monitor would see on a tap.
//!
//! A worker that mirrors has a port of its own for it, with frames of its own. A copy never delays the
//! packet it is of, and never costs it its frame: without a free frame, or with a full transmit queue,
//! the copy is left out and counted. Copies leave as packets arrived, checksums completed; those of
//! packets that were tunnelled with their tunnel.
//!
//! Not copied: fragments that were held for their first (they pass as "released" frames), and answers
//! to rejected packets.

use std::fmt;

use crate::frame::{Batch, Frame, FramePool, Umem};
use crate::pipeline::{BATCH, Judgement};
use crate::port::Port;
use crate::verdict::{RuleId, Verdict};

/// Which packets are copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// Those with one of these verdicts; none: any verdict.
    pub verdicts: Vec<Verdict>,
    /// Those that one of these rules decided, the packets of connections that it allowed included.
    /// `None`: any rule, or none.
    pub rules: Option<Vec<RuleId>>,
}

impl Filter {
    /// Whether a packet with this judgement is copied. O(log rules).
    #[inline]
    pub(crate) fn wants(&self, judgement: &Judgement) -> bool {
        let verdict = self.verdicts.is_empty() || self.verdicts.contains(&judgement.verdict);
        let rule = |rules: &Vec<RuleId>| rules.binary_search(&judgement.rule).is_ok();
        verdict && self.rules.as_ref().is_none_or(rule)
    }

    /// The same, made for asking.
    pub(crate) fn sorted(mut self) -> Self {
        if let Some(rules) = &mut self.rules {
            rules.sort_unstable();
            rules.dedup();
        }
        self
    }
}

/// A worker's port for copies.
pub struct Mirror {
    port: Box<dyn Port>,
    pool: FramePool,
    batch: Batch,
    /// Bytes of the longest frame that the port takes.
    longest: usize,
}

/// What became of the packets of a batch that were to be copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
}

/// Link-layer bytes on top of an MTU: Ethernet and one VLAN tag, which every driver takes.
const LINK_HEADER: usize = 18;

/// Frames of the longest packet that is copied.
const LONGEST: usize = 16;

impl Mirror {
    /// Copies leave by `port`, in frames of `pool`, which is of the port's UMEM. Nothing is received.
    /// `mtu`: of the port; packets that it does not take are left out.
    pub fn new(port: Box<dyn Port>, pool: FramePool, mtu: u32) -> Self {
        let longest = mtu as usize + LINK_HEADER;
        Self { port, pool, batch: Batch::new(BATCH + LONGEST), longest }
    }

    /// Copies those packets of a batch that the filter wants. `frames` begin with the first of the
    /// first packet, `judgements[n]` is of the n-th. One look at the transmit ring, and at most one
    /// system call.
    pub(crate) fn copy(
        &mut self,
        filter: &Filter,
        umem: &Umem,
        frames: &[Frame],
        judgements: &[Judgement],
    ) -> Copied {
        let mut copied = Copied::default();
        let packets = frames.chunk_by(|frame, _| frame.more).zip(judgements);
        for (pieces, _) in packets.filter(|(_, judgement)| filter.wants(judgement)) {
            // One that ends in a later batch could only be copied in part.
            let whole = pieces.last().is_some_and(|frame| !frame.more);
            if !whole || !self.take(umem, pieces) {
                copied.lost += 1;
            } else {
                copied.sent += 1;
            }
        }
        if !self.batch.is_empty() {
            let unsent = self.send();
            copied.sent -= unsent;
            copied.lost += unsent;
        }
        copied
    }

    /// Goes on with what is being transmitted.
    pub(crate) fn flush(&mut self) {
        if self.port.outstanding() > 0 {
            // A monitor that is down misses copies, nothing else.
            let _ = self.port.flush();
            self.port.reclaim(&mut self.pool);
        }
    }

    /// Puts a copy into the batch; `false`, and nothing done, if there is no room for all of it.
    fn take(&mut self, umem: &Umem, pieces: &[Frame]) -> bool {
        if self.pool.available() < pieces.len() {
            self.port.reclaim(&mut self.pool);
        }
        let room = self.pool.available().min(self.batch.room()).min(LONGEST);
        let fits = self.pool.umem().chunk_size() - crate::frame::HEADROOM;
        let bytes: usize = pieces.iter().map(Frame::len).sum();
        if pieces.len() > room
            || bytes > self.longest
            || pieces.iter().any(|frame| frame.len() > fits as usize)
        {
            return false;
        }
        for piece in pieces {
            // There is room, as just seen.
            if let Some(mut copy) = self.pool.take_with(umem.data(piece)) {
                copy.more = piece.more;
                self.batch.push(copy);
            }
        }
        true
    }

    /// Transmits the batch; answers how many packets did not fit.
    fn send(&mut self) -> u64 {
        self.port.transmit(&mut self.batch);
        let _ = self.port.flush();
        self.port.reclaim(&mut self.pool);
        let mut unsent = 0;
        let left = self.batch.len();
        for mut frame in self.batch.drain_front(left) {
            unsent += u64::from(!frame.more);
            frame.more = false;
            // Frames of this pool: it takes them back.
            let _ = self.pool.put(frame);
        }
        unsent
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("free", &self.pool.available()).finish_non_exhaustive()
    }
}
