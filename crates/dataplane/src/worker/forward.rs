//! One wire's share of a worker's round.

use std::ops::AddAssign;
use std::sync::Arc;

use super::switch::Switching;
use crate::capture::{InterfaceId, Tap};
use crate::clock::Time;
use crate::counter::Counters;
use crate::frame::{Batch, Frame, FramePool, Umem};
use crate::packet::checksum;
use crate::pipeline::{BATCH, Input, Judgement, Lane, reject};
use crate::port::Port;
use crate::reason::Reason;
use crate::topology::{Kind, Wire};
use crate::verdict::Verdict;

/// A wire and the batches on their way through it.
#[derive(Debug)]
pub(super) struct Forwarder {
    pub(super) wire: Wire,
    received: Batch,
    to_send: Batch,
    to_answer: Batch,
    judgements: Vec<Judgement>,
    /// Frames of a packet whose first buffer was judged in an earlier batch: its fate.
    unfinished: Box<[Option<bool>]>,
    interfaces: Box<[InterfaceId]>,
    /// Of a switch.
    switching: Option<Switching>,
    /// Rounds since a frame came.
    pub(super) idle: u32,
    /// Whether the worker looks at it in every round.
    pub(super) awake: bool,
}

impl Forwarder {
    pub(super) fn new(wire: Wire, tap: &Tap) -> Self {
        let interfaces = wire.interfaces.iter().map(|name| tap.interface(name)).collect();
        let switching = match &wire.kind {
            Kind::Switch(addresses) => {
                Some(Switching::new(Arc::clone(addresses), wire.ports.len()))
            }
            Kind::Wire | Kind::Hairpin => None,
        };
        Self {
            switching,
            unfinished: wire.ports.iter().map(|_| None).collect(),
            wire,
            interfaces,
            received: Batch::new(BATCH),
            to_send: Batch::new(BATCH),
            to_answer: Batch::new(BATCH),
            judgements: vec![Judgement::default(); BATCH],
            idle: 0,
            awake: false,
        }
    }

    /// One batch from each port; answers how many frames came.
    pub(super) fn round(&mut self, now: Time, lane: &mut Lane) -> usize {
        let ports = self.wire.ports.len();
        if let Some(switching) = &self.switching {
            switching.expire(now);
            for port in &mut self.wire.ports {
                port.reclaim(&mut self.wire.pool);
            }
        }
        let received = (0..ports).map(|from| self.one_way(from, now, lane)).sum();
        // Also tells the kernel about frames still to be sent and about free ones to receive into.
        for port in &mut self.wire.ports {
            // A port that is down or gone may come back; until then its packets are counted.
            let _ = port.flush();
        }
        self.idle = if received > 0 { 0 } else { self.idle.saturating_add(1) };
        received
    }

    /// Whether frames are still being transmitted.
    pub(super) fn outstanding(&self) -> bool {
        self.wire.outstanding()
    }

    fn one_way(&mut self, from: usize, now: Time, lane: &mut Lane) -> usize {
        let Wire { ports, pool, kind, .. } = &mut self.wire;
        let to = match kind {
            Kind::Wire => 1 - from,
            Kind::Hairpin | Kind::Switch(_) => from,
        };
        ports[to].reclaim(pool);
        let count = ports[from].receive(pool, &mut self.received);
        if count == 0 {
            return 0;
        }
        let umem = Arc::clone(pool.umem());
        self.received.frames().iter().for_each(|frame| umem.prefetch(frame));
        let mut inputs = [Input::default(); BATCH];
        let mut packets = 0;
        let mut bytes = 0;
        {
            // The buffers after the first of a packet share its fate.
            let mut continues = self.unfinished[from].is_some();
            for frame in self.received.frames() {
                let data = umem.data(frame);
                bytes += data.len() as u64;
                if !continues {
                    inputs[packets] = Input::new(data);
                    packets += 1;
                } else if packets > 0 {
                    inputs[packets - 1].wire_len += data.len();
                }
                continues = frame.more;
            }
        }
        let inputs = &inputs[..packets];
        lane.judge(now, inputs, &mut self.judgements);
        lane.capture(now, self.interfaces[from], inputs, &self.judgements);

        // Frames that end a packet of the batch before have been judged with it.
        let frames = self.received.frames_mut();
        let begun = match self.unfinished[from] {
            Some(_) => frames.iter().take_while(|frame| frame.more).count() + 1,
            None => 0,
        };
        let fresh = frames.get_mut(begun..).unwrap_or_default();
        if lane.engine().config().complete_checksums {
            complete_checksums(&umem, fresh, &self.judgements, lane);
        }
        lane.mirror(&umem, fresh, &self.judgements);
        let mut packet = 0;
        let (mut forwarded, mut forwarded_bytes) = (0, 0);
        for mut frame in self.received.drain_front(count) {
            let verdict = match self.unfinished[from] {
                Some(true) => Verdict::Allow,
                Some(false) => Verdict::Deny,
                None => {
                    let verdict = self.judgements[packet].verdict;
                    packet += 1;
                    forwarded += u64::from(verdict == Verdict::Allow);
                    verdict
                }
            };
            self.unfinished[from] = frame.more.then_some(verdict == Verdict::Allow);
            let refused = match verdict {
                Verdict::Allow => {
                    forwarded_bytes += frame.len() as u64;
                    self.to_send.push(frame)
                }
                Verdict::Reject if answer(now, packet - 1, &umem, &mut frame, lane) => {
                    self.to_answer.push(frame)
                }
                _ => Some(frame),
            };
            // Batches are equally long: what comes back here is what shall not go on.
            if let Some(frame) = refused {
                put_back(pool, frame);
            }
        }
        if !self.to_answer.is_empty() {
            let unsent = transmit(&mut *ports[from], &mut self.to_answer, pool);
            lane.counters().rejects_sent.add(unsent.packets.wrapping_neg());
        }
        let mut send = |batch: &mut Batch, pool: &mut FramePool, counters: &Counters| {
            match &mut self.switching {
                None => transmit(&mut *ports[to], batch, pool),
                Some(it) => it.distribute(from, now, batch, (ports, pool), counters),
            }
        };
        let mut unsent = send(&mut self.to_send, pool, lane.counters());
        // Nothing is allocated unless fragments that were held may go on.
        let released: Vec<_> = lane.released().collect();
        for packet in released {
            forwarded += 1;
            forwarded_bytes += packet.len() as u64;
            // Without a free frame it is lost like one that does not fit into the queue.
            unsent += match pool.take_with(&packet) {
                Some(frame) => {
                    self.to_send.push(frame);
                    send(&mut self.to_send, pool, lane.counters())
                }
                None => Unsent { packets: 1, bytes: packet.len() as u64, ..Unsent::default() },
            };
        }
        let counters = lane.counters();
        counters.received.add(packets as u64);
        counters.received_bytes.add(bytes);
        counters.forwarded.add(forwarded);
        counters.forwarded_bytes.add(forwarded_bytes);
        count_unsent(counters, unsent);
        count
    }
}

/// Completes the checksums of those packets that may pass.
fn complete_checksums(umem: &Umem, frames: &mut [Frame], judgements: &[Judgement], lane: &Lane) {
    let packets = frames.chunk_by_mut(|frame, _| frame.more);
    for (packet, (frames, judgement)) in packets.zip(judgements).enumerate() {
        if judgement.verdict == Verdict::Allow
            && let Some(headers) = lane.headers(packet)
            && let Some((first, rest)) = frames.split_first_mut()
        {
            let rest = rest.iter().map(|frame| umem.data(frame));
            if checksum::complete_partial_pieces(umem.data_mut(first), rest, headers) {
                lane.counters().checksums_completed.add(1);
            }
        }
    }
}

/// Turns the rejected packet in `frame`, number `packet` of the batch, into the answer to its sender.
/// `false`: there is none, and the frame is as it was.
fn answer(now: Time, packet: usize, umem: &Umem, frame: &mut Frame, lane: &mut Lane) -> bool {
    let mut answer = [0; reject::LONGEST];
    let Some(len) = lane.answer(now, packet, umem.data(frame), &mut answer) else { return false };
    let (offset, more) = (frame.offset(), std::mem::take(&mut frame.more));
    if !umem.set_bounds(frame, offset, len as u32) {
        frame.more = more;
        return false;
    }
    umem.data_mut(frame).copy_from_slice(&answer[..len]);
    lane.counters().rejects_sent.add(1);
    true
}

/// Packets and bytes that are not forwarded although they may pass.
#[derive(Clone, Copy, Default)]
pub(super) struct Unsent {
    /// Did not fit into the transmit queue.
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// Were dropped for another reason, and counted with it.
    pub(super) held: u64,
    pub(super) held_bytes: u64,
}

impl AddAssign for Unsent {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.held += other.held;
        self.held_bytes += other.held_bytes;
    }
}

/// Sends what is in `batch`; what does not fit after one reclaim is dropped.
pub(super) fn transmit(tx: &mut dyn Port, batch: &mut Batch, pool: &mut FramePool) -> Unsent {
    tx.transmit(batch);
    if batch.is_empty() {
        return Unsent::default();
    }
    let _ = tx.flush();
    tx.reclaim(pool);
    tx.transmit(batch);
    let mut unsent = Unsent::default();
    let left = batch.len();
    for frame in batch.drain_front(left) {
        unsent.packets += u64::from(!frame.more);
        unsent.bytes += frame.len() as u64;
        put_back(pool, frame);
    }
    unsent
}

fn count_unsent(counters: &Counters, unsent: Unsent) {
    let Unsent { packets, bytes, held, held_bytes } = unsent;
    if packets + held > 0 {
        counters.forwarded.add((packets + held).wrapping_neg());
        counters.forwarded_bytes.add((bytes + held_bytes).wrapping_neg());
        counters.dropped(Reason::TransmitFull).add(packets);
        counters.dropped_bytes(Reason::TransmitFull).add(bytes);
    }
}

pub(super) fn put_back(pool: &mut FramePool, mut frame: Frame) {
    frame.more = false;
    // A frame of another UMEM would be a port's mistake; it is lost to this pool, not to safety.
    let _ = pool.put(frame);
}
