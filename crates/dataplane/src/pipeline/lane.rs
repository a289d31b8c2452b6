//! The way of a batch of packets through the pipeline.

use std::sync::Arc;

use portcullis_identity_table::IdentityId;

use super::case::{Case, Place, displaced, end_of, refusal};
use super::engine::{Engine, Published};
use super::fold::Folds;
use super::fragment::Fate;
use super::reject;
use crate::capture::{self, InterfaceId};
use crate::clock::Time;
use crate::connection::{Direction, Grant, Probe, Role, Settled, Tokens, Tracked};
use crate::counter::Counters;
use crate::event::{Event, EventKind, EventRing};
use crate::frame::{Frame, Umem};
use crate::mirror::Mirror;
use crate::packet::{Headers, Kind, Version};
use crate::reason::Reason;
use crate::verdict::{Decision, Flow, Identify, RuleId, Verdict};

/// Most packets that are judged together.
pub const BATCH: usize = 64;

/// How often a packet is settled again because another worker changed its connection meanwhile.
const SETTLE_TRIES: usize = 4;

/// A packet to judge.
#[derive(Clone, Copy, Debug, Default)]
pub struct Input<'a> {
    /// The frame from its Ethernet header on: all of it, or the first of its buffers.
    pub data: &'a [u8],
    /// Length of the whole frame in bytes.
    pub wire_len: usize,
}

impl<'a> Input<'a> {
    /// A frame in one buffer.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, wire_len: data.len() }
    }
}

/// What becomes of a packet, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// What to do.
    pub verdict: Verdict,
    /// Why the packet does not pass; `None` if it does.
    pub reason: Option<Reason>,
    /// The rule that decided: for a packet of a connection, the one that allowed that.
    pub rule: RuleId,
    /// Identity of who opened the connection.
    pub source: IdentityId,
    /// Identity of the other end.
    pub destination: IdentityId,
    /// What the packet was to the connection table.
    pub state: State,
}

/// What a packet was to the connection table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nothing: not IP, dropped before, or a packet that stands alone.
    #[default]
    None,
    /// It opened a connection, or tried to.
    New,
    /// It belongs to a known connection.
    Established,
}

impl State {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::New => "new",
            Self::Established => "established",
        }
    }
}

impl Judgement {
    const PASS: Self = Self {
        verdict: Verdict::Allow,
        reason: None,
        rule: RuleId::NONE,
        source: IdentityId::UNKNOWN,
        destination: IdentityId::UNKNOWN,
        state: State::None,
    };

    const fn drop(reason: Reason) -> Self {
        Self { verdict: Verdict::Deny, reason: Some(reason), ..Self::PASS }
    }

    const fn member(grant: &Grant, state: State) -> Self {
        Self {
            rule: grant.rule,
            source: grant.source,
            destination: grant.destination,
            state,
            ..Self::PASS
        }
    }

    fn refused(reason: Reason, case: &Case, state: State) -> Self {
        let verdict = match reason {
            Reason::PolicyRejected => Verdict::Reject,
            _ => Verdict::Deny,
        };
        Self {
            verdict,
            reason: Some(reason),
            rule: case.decision.rule,
            source: case.flow.source,
            destination: case.flow.destination,
            state,
        }
    }
}

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

    /// Reads headers; settles what needs no connection and no policy.
    fn parse(&mut self, inputs: &[Input<'_>], out: &mut [Judgement]) {
        let scratch = &mut *self.scratch;
        scratch.probes.clear();
        scratch.probe_of.clear();
        scratch.cases.clear();
        scratch.fragments.clear();
        let config = &self.engine.config;
        let headers = &mut scratch.headers[..inputs.len()];
        for ((input, out), headers) in inputs.iter().zip(&mut *out).zip(&mut *headers) {
            // Read where they stay: a copy would have to wait for the stores that made them.
            let read = headers.insert(Headers::default());
            let kind = config.tunnels.parse_into(input.data, input.wire_len, read);
            if kind != Ok(Kind::Ip) {
                *headers = None;
                *out = match kind {
                    Err(reason) => Judgement::drop(reason),
                    Ok(Kind::Arp) if config.pass_arp => Judgement::PASS,
                    Ok(Kind::Other(_)) if config.pass_non_ip => Judgement::PASS,
                    Ok(_) => Judgement::drop(Reason::NonIp),
                };
            }
        }
        // Another round, for the same reason: by now the stores are done.
        for (n, ((input, out), headers)) in inputs.iter().zip(out).zip(headers).enumerate() {
            let Some(headers) = headers else { continue };
            if config.pass_neighbour_discovery && headers.is_neighbour_discovery() {
                *out = Judgement::PASS;
                continue;
            }
            if let Some(fragment) = headers.fragment {
                scratch.fragments.push(n as u8);
                if fragment.offset > 0 {
                    *out = Judgement::drop(Reason::NoPolicy);
                    continue;
                }
            }
            match Probe::of(input.data, headers) {
                Ok(Role::Member(probe)) => {
                    scratch.probes.push(probe);
                    scratch.probe_of.push(n as u8);
                }
                Ok(Role::Alone) => scratch.cases.push(Case::alone(n, headers)),
                Err(reason) => *out = Judgement::drop(reason),
            }
        }
    }

    /// Takes packets of known connections into account; what is left becomes cases.
    fn track(&mut self, now: Time, generation: u32, out: &mut [Judgement]) {
        let scratch = &mut *self.scratch;
        let count = scratch.probes.len();
        let tracked = &mut scratch.tracked[..count];
        self.engine.connections.track(now, generation, &scratch.probes, tracked);
        let mut established = 0;
        for ((probe, n), tracked) in scratch.probes.iter().zip(&scratch.probe_of).zip(tracked) {
            let n = usize::from(*n);
            match tracked {
                Tracked::Member { grant } => {
                    established += 1;
                    out[n] = Judgement::member(grant, State::Established);
                }
                Tracked::Invalid(reason) => out[n] = Judgement::drop(*reason),
                Tracked::Judge { opened } => {
                    scratch.cases.push(Case::member(n, probe, *opened, &scratch.headers[n]));
                }
            }
        }
        self.counters.established.add(established);
    }

    /// Takes handles on the identities of a new snapshot: the one allocation, once a change.
    fn follow(&mut self, published: &Published) {
        if self.identify.as_ref().is_none_or(|(number, _)| *number != published.number) {
            self.identify = Some((published.number, published.snapshot.identities.handle()));
            let zones = published.zones.iter();
            self.zones = zones.map(|(zone, of)| (*zone, of.identities.handle())).collect();
            self.staged = published.staged.as_ref().map(|staged| staged.identities.handle());
        }
    }

    /// Asks for identities and verdicts of all cases together.
    fn decide(&mut self, published: &Published) {
        let Some((_, identify)) = &self.identify else { return };
        let scratch = &mut *self.scratch;
        scratch.v4.clear();
        scratch.v6.clear();
        scratch.flows.clear();
        for case in &scratch.cases {
            match case.tuple.version {
                Version::V4 => {
                    scratch.v4.push(case.tuple.source as u32);
                    scratch.v4.push(case.tuple.destination as u32);
                }
                Version::V6 => {
                    scratch.v6.push(case.tuple.source);
                    scratch.v6.push(case.tuple.destination);
                }
            }
        }
        let (v4, v6) = (scratch.v4.len(), scratch.v6.len());
        if v4 > 0 {
            identify.identify_v4(&scratch.v4, &mut scratch.identities_v4[..v4]);
        }
        if v6 > 0 {
            identify.identify_v6(&scratch.v6, &mut scratch.identities_v6[..v6]);
        }
        let mut pairs_v4 = scratch.identities_v4[..v4].chunks_exact(2);
        let mut pairs_v6 = scratch.identities_v6[..v6].chunks_exact(2);
        for case in &mut scratch.cases {
            let pair = match case.tuple.version {
                Version::V4 => pairs_v4.next(),
                Version::V6 => pairs_v6.next(),
            };
            if let Some([source, destination]) = pair {
                case.flow.source = *source;
                case.flow.destination = *destination;
            }
            scratch.flows.push(case.flow);
        }
        let decisions = &mut scratch.decisions[..scratch.flows.len()];
        published.snapshot.policy.decide(&scratch.flows, decisions);
        for (case, decision) in scratch.cases.iter_mut().zip(decisions) {
            case.decision = *decision;
            if case.tuple.zone != 0 {
                case.decide(Place::of(case.tuple.zone, &**identify, &self.zones, published));
            }
        }
        if let (Some(snapshot), Some(identify)) = (&published.staged, &self.staged) {
            let cases = self.scratch.cases.iter_mut().filter(|case| case.tuple.zone == 0);
            cases.for_each(|case| case.stage(Place::staged(&**identify, snapshot)));
        }
    }

    /// Applies decisions, packets of connections in their order.
    fn settle(&mut self, now: Time, generation: u32, published: &Published, out: &mut [Judgement]) {
        for n in 0..self.scratch.cases.len() {
            let case = self.scratch.cases[n];
            let judgement = match case.member {
                None => self.settle_alone(now, &case),
                Some((probe, opened)) => {
                    self.settle_member(now, generation, published, case, &probe, opened)
                }
            };
            out[usize::from(case.packet)] = judgement;
        }
    }

    /// Later fragments share the fate of the first.
    #[cold]
    fn join_fragments(&mut self, now: Time, inputs: &[Input<'_>], out: &mut [Judgement]) {
        let fragments = &self.engine.fragments;
        for n in self.scratch.fragments.iter().map(|n| usize::from(*n)) {
            let Some(headers) = &self.scratch.headers[n] else { continue };
            let Some(fragment) = &headers.fragment else { continue };
            let first = fragment.offset == 0;
            let fate = if first {
                let decision = out[n].reason.map_or(Ok(()), Err);
                fragments.first(now, headers, fragment, decision)
            } else {
                let Input { data, wire_len } = inputs[n];
                let whole = (data.len() == wire_len).then_some(data);
                fragments.later(now, headers, fragment, whole)
            };
            match fate {
                Fate::Pass(held) => {
                    self.released.extend(held);
                    out[n] = if first { out[n] } else { Judgement::PASS };
                }
                Fate::Held => out[n] = Judgement::drop(Reason::FragmentHeld),
                Fate::Dropped(reason, held) => {
                    self.counters.dropped(reason).add(held as u64);
                    if out[n].reason != Some(reason) {
                        out[n] = Judgement::drop(reason);
                    }
                }
            }
        }
    }

    /// Tells of a packet that was judged.
    #[inline]
    fn tell(&mut self, now: Time, case: &Case, kind: EventKind) {
        let event = case.event(now, kind);
        if case.staged.is_some() {
            self.count_staged(&event);
        }
        match (&mut self.folds, kind) {
            (Some(folds), EventKind::Dropped { reason }) => {
                folds.tell(event, reason, &self.events);
            }
            _ => self.events.push(event),
        }
    }

    #[cold]
    fn count_staged(&self, event: &Event) {
        let allowed = match event.kind {
            EventKind::Opened | EventKind::Passed => true,
            EventKind::Dropped { reason: Reason::PolicyDenied | Reason::PolicyRejected } => false,
            _ => return,
        };
        self.counters.staged.add(1);
        if event.staged.is_some() {
            let differs =
                if allowed { &self.counters.staged_denies } else { &self.counters.staged_allows };
            differs.add(1);
        }
    }

    /// Tells what was kept back, because this lane judges no more. See
    /// [`super::Config::denied_burst`].
    pub fn finish(&mut self) {
        if let Some(folds) = &mut self.folds {
            folds.finish(&self.events);
        }
    }

    fn settle_alone(&mut self, now: Time, case: &Case) -> Judgement {
        let judgement = match refusal(&case.decision) {
            None => Judgement::member(&case.grant(), State::None),
            Some(reason) => Judgement::refused(reason, case, State::None),
        };
        let kind = match judgement.reason {
            None => EventKind::Passed,
            Some(reason) => EventKind::Dropped { reason },
        };
        self.tell(now, case, kind);
        judgement
    }

    fn settle_member(
        &mut self,
        now: Time,
        generation: u32,
        published: &Published,
        mut case: Case,
        probe: &Probe,
        mut opened: Direction,
    ) -> Judgement {
        for _ in 0..SETTLE_TRIES {
            let decision = match refusal(&case.decision) {
                None => Ok(case.grant()),
                Some(reason) => Err(reason),
            };
            let mut ended = None;
            let connections = &self.engine.connections;
            let settled = connections.settle(now, generation, probe, opened, decision, &mut ended);
            if let Some(ended) = ended {
                let reason = match settled {
                    Settled::Dropped(reason) => Some(reason),
                    _ => None,
                };
                self.counters.ended.add(1);
                self.events.push(displaced(now, &ended, &probe.key, reason));
            }
            match settled {
                Settled::Member { grant } => {
                    self.counters.established.add(1);
                    return Judgement::member(&grant, State::Established);
                }
                Settled::Renewed { grant } => {
                    self.counters.established.add(1);
                    self.tell(now, &case, EventKind::Changed);
                    return Judgement::member(&grant, State::Established);
                }
                Settled::Opened { grant } => {
                    self.counters.opened.add(1);
                    self.tell(now, &case, EventKind::Opened);
                    return Judgement::member(&grant, State::New);
                }
                Settled::Dropped(reason) => {
                    self.tell(now, &case, EventKind::Dropped { reason });
                    return Judgement::refused(reason, &case, State::New);
                }
                Settled::Again { opened: actual } => {
                    opened = actual;
                    case = Case::member(case.packet.into(), probe, opened, &None);
                    let Some((_, identify)) = &self.identify else { break };
                    let zone = case.tuple.zone;
                    case.decide(Place::of(zone, &**identify, &self.zones, published));
                    if let (Some(snapshot), Some(identify), 0) =
                        (&published.staged, &self.staged, zone)
                    {
                        case.stage(Place::staged(&**identify, snapshot));
                    }
                }
            }
        }
        Judgement::refused(Reason::Contention, &case, State::New)
    }

    /// Without a policy nothing passes that would need one.
    #[cold]
    fn refuse_all(&mut self, out: &mut [Judgement]) {
        let cases = self.scratch.cases.iter().map(|case| case.packet);
        for n in self.scratch.probe_of.iter().copied().chain(cases) {
            out[usize::from(n)] = Judgement::drop(Reason::NoPolicy);
        }
        self.scratch.cases.clear();
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
