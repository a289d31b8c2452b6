//! What one worker judges packets with, batch by batch.

mod decide;
mod settle;

use std::sync::Arc;

use portcullis_identity_table::IdentityId;

use super::case::{Case, end_of};
use super::engine::Engine;
use super::fold::Folds;
use super::judgement::{Input, Judgement};
use super::reject;
use crate::capture::{self, InterfaceId};
use crate::clock::Time;
use crate::connection::{Probe, Tokens, Tracked};
use crate::counter::Counters;
use crate::event::EventRing;
use crate::frame::{Frame, Umem};
use crate::mirror::Mirror;
use crate::packet::Headers;
use crate::reason::Reason;
use crate::verdict::{Decision, Flow, Identify};

/// Most packets that are judged together.
pub const BATCH: usize = 64;

/// What one worker needs to judge packets. Nothing here allocates after construction.
pub struct Lane {
    engine: Arc<Engine>,
    counters: Arc<Counters>,
    events: Arc<EventRing>,
    /// The handle on the identities of the snapshot with this number.
    identify: Option<(u32, Box<dyn Identify>)>,
    /// The same for zones other than 0, in the order of the snapshot's.
    zones: Vec<(u16, Box<dyn Identify>)>,
    /// The same for the staged snapshot.
    staged: Option<Box<dyn Identify>>,
    folds: Option<Folds>,
    rejects: Tokens,
    capture: capture::Writer,
    mirror: Option<Mirror>,
    released: Vec<Box<[u8]>>,
    scratch: Box<Scratch>,
}

/// Room for one batch.
struct Scratch {
    headers: [Option<Headers>; BATCH],
    /// Packets of connections, and which packet of the batch each is.
    probes: Vec<Probe>,
    probe_of: Vec<u8>,
    tracked: [Tracked; BATCH],
    /// Packets that need the policy.
    cases: Vec<Case>,
    flows: Vec<Flow>,
    decisions: [Decision; BATCH],
    /// Packets that are fragments.
    fragments: Vec<u8>,
    v4: Vec<u32>,
    v6: Vec<u128>,
    identities_v4: [IdentityId; 2 * BATCH],
    identities_v6: [IdentityId; 2 * BATCH],
}

impl Lane {
    /// A lane of `engine`.
    pub fn new(engine: Arc<Engine>) -> Self {
        let events = Arc::new(EventRing::new(engine.config.event_capacity));
        let scratch = Box::new(Scratch {
            headers: [None; BATCH],
            probes: Vec::with_capacity(BATCH),
            probe_of: Vec::with_capacity(BATCH),
            tracked: [Tracked::Invalid(Reason::NoPolicy); BATCH],
            cases: Vec::with_capacity(BATCH),
            flows: Vec::with_capacity(BATCH),
            decisions: [Decision::default(); BATCH],
            fragments: Vec::with_capacity(BATCH),
            v4: Vec::with_capacity(2 * BATCH),
            v6: Vec::with_capacity(2 * BATCH),
            identities_v4: [IdentityId::UNKNOWN; 2 * BATCH],
            identities_v6: [IdentityId::UNKNOWN; 2 * BATCH],
        });
        let capture = capture::Writer::new(Arc::clone(engine.tap()));
        let folds = engine.config.denied_burst.map(Folds::new);
        Self {
            staged: None,
            folds,
            engine,
            capture,
            counters: Arc::default(),
            events,
            identify: None,
            zones: Vec::new(),
            rejects: Tokens::default(),
            mirror: None,
            released: Vec::new(),
            scratch,
        }
    }

    /// The shared part.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// What this lane counts; may be kept and read elsewhere.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What this lane tells; may be kept and read elsewhere.
    pub fn events(&self) -> &Arc<EventRing> {
        &self.events
    }

    /// Headers of packet `n` of the last batch, if it is a well-formed IP packet.
    #[inline]
    pub fn headers(&self, n: usize) -> Option<&Headers> {
        self.scratch.headers.get(n)?.as_ref()
    }

    /// Judges packets in order: `out[n]` is what becomes of `inputs[n]`. The result is the same
    /// however a stream of packets is cut into batches, as long as time and policy are.
    ///
    /// Judges the first [`BATCH`] packets at most, and no more than `out` has room for; answers how
    /// many. Counts drops, but not what is received or forwarded: the caller knows that.
    pub fn judge(&mut self, now: Time, inputs: &[Input<'_>], out: &mut [Judgement]) -> usize {
        let count = inputs.len().min(out.len()).min(BATCH);
        let (inputs, out) = (&inputs[..count], &mut out[..count]);
        let engine = Arc::clone(&self.engine);
        let published = engine.published.load();
        let published = published.as_deref();

        self.parse(inputs, out);
        match published {
            Some(published) => {
                self.follow(published);
                let generation = published.generation();
                self.track(now, generation, out);
                if !self.scratch.cases.is_empty() {
                    self.decide(published);
                    self.settle(now, generation, published, out);
                }
                if !self.scratch.fragments.is_empty() {
                    self.join_fragments(now, inputs, out);
                }
            }
            None => self.refuse_all(out),
        }
        if let Some(rates) = &*engine.rates.load() {
            rates.limit(now, inputs, out);
        }
        self.count(inputs, out);
        count
    }

    /// Counts drops by reason, and all packets by rule.
    fn count(&self, inputs: &[Input<'_>], out: &[Judgement]) {
        let Some(first) = out.first() else { return };
        // Most batches pass as a whole, by one rule or without: that is found without a branch a
        // packet.
        let (mut alike, mut all_bytes) = (true, 0);
        for (input, judgement) in inputs.iter().zip(out) {
            alike &= judgement.reason.is_none() & (judgement.rule == first.rule);
            all_bytes += input.wire_len as u64;
        }
        if alike {
            let of_rule = self.counters.rules.of(first.rule);
            of_rule.passed.add(out.len() as u64);
            of_rule.passed_bytes.add(all_bytes);
            return;
        }
        for (input, judgement) in inputs.iter().zip(out) {
            let bytes = input.wire_len as u64;
            let of_rule = self.counters.rules.of(judgement.rule);
            let Some(reason) = judgement.reason else {
                of_rule.passed.add(1);
                of_rule.passed_bytes.add(bytes);
                continue;
            };
            if reason != Reason::FragmentHeld {
                of_rule.refused.add(1);
                of_rule.refused_bytes.add(bytes);
                self.counters.dropped(reason).add(1);
                self.counters.dropped_bytes(reason).add(bytes);
            }
        }
    }

    /// Fragments that were held ([`Reason::FragmentHeld`]) and pass now that the first of their packet
    /// came in the last batch: whole frames, to be sent after those of the batch. The caller must
    /// take them before the next batch, and count them as forwarded.
    pub fn released(&mut self) -> impl Iterator<Item = Box<[u8]>> + '_ {
        self.released.drain(..)
    }

    /// Writes the answer to the sender of packet `n` of the last batch, which was rejected, into
    /// `out`; answers its length in bytes. `None` if there must be none, or there were too many (see
    /// [`super::Config::reject_rate`]).
    pub fn answer(
        &mut self,
        now: Time,
        n: usize,
        frame: &[u8],
        out: &mut [u8; reject::LONGEST],
    ) -> Option<usize> {
        let headers = self.scratch.headers.get(n)?.as_ref()?;
        let len = reject::answer(frame, headers, out)?;
        let rate = &self.engine.config.reject_rate;
        self.rejects.take(rate, now.as_millis() as u32).then_some(len)
    }

    /// Copies packets of the last batch, `inputs` and what became of them, that somebody captures.
    /// One branch while nobody does.
    #[inline]
    pub fn capture(
        &mut self,
        now: Time,
        interface: InterfaceId,
        inputs: &[Input<'_>],
        judgements: &[Judgement],
    ) {
        if self.capture.armed() {
            let headers = self.scratch.headers.iter().map(Option::as_ref);
            let packets = inputs.iter().zip(headers).zip(judgements);
            let packets = packets.map(|((input, headers), judgement)| (input, headers, judgement));
            self.capture.batch(now, interface, packets);
        }
    }

    /// Sends copies of the packets that [`Engine::mirror`] names to a port, in place of the one before.
    pub fn mirror_to(&mut self, mirror: Mirror) -> Option<Mirror> {
        self.mirror.replace(mirror)
    }

    /// Copies those packets of the last batch that are to be: `frames` begin with the first of its
    /// first packet. One branch without a mirror.
    #[inline]
    pub fn mirror(&mut self, umem: &Umem, frames: &[Frame], judgements: &[Judgement]) {
        if let Some(mirror) = &mut self.mirror
            && let Some(filter) = &*self.engine.mirrored.load()
        {
            let copied = mirror.copy(filter, umem, frames, judgements);
            self.counters.mirrored.add(copied.sent);
            self.counters.mirror_lost.add(copied.lost);
        }
    }

    /// Looks at the next `budget` places of the connection table, forgets connections that were
    /// silent for too long and tells of their end; answers how many. See [`Engine::sweep_size`].
    pub fn expire(&mut self, now: Time, budget: usize) -> usize {
        let (events, counters) = (&self.events, &self.counters);
        if let Some(mirror) = &mut self.mirror {
            mirror.flush();
        }
        let late = self.engine.fragments.expire(now);
        counters.dropped(Reason::FragmentTimeout).add(late as u64);
        if let Some(folds) = &mut self.folds {
            folds.look(now, events);
        }
        self.engine.connections.expire(now, budget, |ended| {
            counters.ended.add(1);
            events.push(end_of(now, &ended));
        })
    }

    /// Tells what was kept back, because this lane judges no more. See
    /// [`super::Config::denied_burst`].
    pub fn finish(&mut self) {
        if let Some(folds) = &mut self.folds {
            folds.finish(&self.events);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.finish();
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("counters", &self.counters).finish_non_exhaustive()
    }
}
