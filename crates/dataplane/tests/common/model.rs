//! The whole pipeline against a slow, obvious model of it; driven by bytes, so that a property test
//! and a fuzzer can share it.
//!
//! The model looks at one packet at a time, keeps connections in a hash map, and asks the policy
//! about one flow at a time. The pipeline gets the same packets in batches cut at will. Both must
//! agree on every packet.

#[path = "packets.rs"]
mod packets;

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use portcullis_dataplane::clock::Time;
use portcullis_dataplane::connection::{
    Direction, Grant, OnPolicyChange, Probe, Role, Segment, Settled, SimpleTable, Tracked,
};
use portcullis_dataplane::event::{Event, EventKind, Staged};
use portcullis_dataplane::frame::{FramePool, Umem};
use portcullis_dataplane::mirror::{Filter, Mirror};
use portcullis_dataplane::packet::{
    Headers, Packet, Transport, Tunnels, Version, checksum, parse, protocol,
};
use portcullis_dataplane::pipeline::{
    Config, Engine, Input, Judgement, Lane, PacketRate, RateLimits, Snapshot, Unit, reject,
};
use portcullis_dataplane::port::memory::{MemoryEnd, MemoryPort};
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::verdict::{Decision, Flow, Identify, Policy, RuleId, Verdict};
use portcullis_identity_table::IdentityId;

use packets::{Bytes, packet, tunnels};

/// The identity of an address is its last byte.
#[derive(Clone)]
struct LastByte;

impl Identify for LastByte {
    fn identify_v4(&self, addresses: &[u32], out: &mut [IdentityId]) {
        for (address, out) in addresses.iter().zip(out) {
            *out = IdentityId::new(address & 0xff);
        }
    }

    fn identify_v6(&self, addresses: &[u128], out: &mut [IdentityId]) {
        for (address, out) in addresses.iter().zip(out) {
            *out = IdentityId::new((address & 0xff) as u32);
        }
    }
}

/// A policy whose answers look like nothing, and differ between versions.
struct Mixed(u32);

fn decide(version: u32, flow: &Flow) -> Decision {
    let mut number = version;
    for part in [
        flow.source.get(),
        flow.destination.get(),
        flow.protocol.into(),
        flow.destination_port.into(),
        flow.icmp_kind.into(),
        flow.icmp_code.into(),
    ] {
        number = (number ^ part).wrapping_mul(0x9e37_79b1).rotate_left(13);
    }
    let verdict = match number % 8 {
        0 | 1 => Verdict::Deny,
        2 => Verdict::Reject,
        _ => Verdict::Allow,
    };
    Decision { verdict, rule: RuleId::new(number), log: false }
}

impl Policy for Mixed {
    fn decide(&self, flows: &[Flow], out: &mut [Decision]) {
        for (flow, out) in flows.iter().zip(out) {
            *out = decide(self.0, flow);
        }
    }
}

/// The obvious pipeline.
struct Model {
    connections: SimpleTable,
    /// Grows with everything that is published.
    generation: u32,
    policy: u32,
    /// Zone 1 has a policy.
    zone: bool,
    staged: Option<u32>,
    tunnels: Tunnels,
    limits: RateLimits,
    /// What each limited rule and identity has left.
    of_rules: HashMap<RuleId, Tokens>,
    of_identities: HashMap<IdentityId, Tokens>,
    /// What the lane must have counted of the staged policy: judged, allows, denies.
    counted: [u64; 3],
}

/// A token bucket of the obvious sort, in billionths of tokens.
#[derive(Clone, Copy)]
struct Tokens {
    left: u128,
    at: u64,
}

/// Rates that divide a second into whole parts of a nanosecond.
const RATES: [PacketRate; 3] = [
    PacketRate { unit: Unit::Packets, per_second: 1000, burst: 5 },
    PacketRate { unit: Unit::Bytes, per_second: 100_000, burst: 400 },
    PacketRate { unit: Unit::Packets, per_second: 0, burst: 5 },
];

impl Tokens {
    const WHOLE: u128 = 1_000_000_000;

    fn full(rate: &PacketRate) -> Self {
        Self { left: u128::from(rate.burst) * Self::WHOLE, at: 0 }
    }

    fn take(&mut self, rate: &PacketRate, now: u64, bytes: usize) -> bool {
        if rate.per_second == 0 {
            return false;
        }
        let cost = match rate.unit {
            Unit::Packets => Self::WHOLE,
            Unit::Bytes => bytes as u128 * Self::WHOLE,
        };
        let back = u128::from(now - self.at) * u128::from(rate.per_second);
        self.left = (self.left + back).min(Self::full(rate).left);
        self.at = now;
        let enough = self.left >= cost;
        self.left -= if enough { cost } else { 0 };
        enough
    }
}

/// What zone 1 decides differs from what zone 0 decides.
const OF_ZONE: u32 = 0x8000_0000;
/// What is staged differs from what is in force.
const STAGED: u32 = 0x4000_0000;

impl Model {
    /// What becomes of one packet. `None`: a later fragment, which the model does not follow.
    fn judge(&self, now: Time, frame: &[u8]) -> Option<Result<Option<Grant>, Reason>> {
        let headers = match self.tunnels.parse(frame, frame.len()) {
            Err(reason) => return Some(Err(reason)),
            Ok(Packet::Arp) => return Some(Ok(None)),
            Ok(Packet::Other(_)) => return Some(Err(Reason::NonIp)),
            Ok(Packet::Ip(headers)) => headers,
        };
        if headers.is_neighbour_discovery() {
            return Some(Ok(None));
        }
        if headers.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return None;
        }
        Some(match Probe::of(frame, &headers) {
            Err(reason) => Err(reason),
            Ok(Role::Alone) => self.decide(headers.tuple.zone, &alone(&headers)).map(Some),
            Ok(Role::Member(probe)) => self.member(now, &probe, &headers).map(Some),
        })
    }

    /// Whether a packet that passes by this grant is within the rates of its rule and its opener.
    fn within_rates(&mut self, now: Time, grant: &Grant, bytes: usize) -> bool {
        let (now, limits) = (now.as_nanos(), &self.limits);
        let rule = limits.rules.iter().rev().find(|(rule, _)| *rule == grant.rule);
        let of_rule = rule.is_none_or(|(rule, rate)| {
            let tokens = self.of_rules.entry(*rule).or_insert(Tokens::full(rate));
            tokens.take(rate, now, bytes)
        });
        let mut of_identity = || {
            limits.identity.as_ref().is_none_or(|rate| {
                let tokens = self.of_identities.entry(grant.source).or_insert(Tokens::full(rate));
                tokens.take(rate, now, bytes)
            })
        };
        of_rule && of_identity()
    }

    /// Looks at what the lane told of one batch: the staged policy's word is as the policy gives it.
    fn told(&mut self, event: &Event) {
        let flow = Flow {
            source: event.source,
            destination: event.destination,
            source_port: event.tuple.source_port,
            destination_port: event.tuple.destination_port,
            icmp_kind: event.icmp[0],
            icmp_code: event.icmp[1],
            protocol: event.tuple.protocol,
            version: event.tuple.version,
            same_address: event.tuple.source == event.tuple.destination,
        };
        let staged = self.staged.filter(|_| event.tuple.zone == 0);
        let staged = staged.map(|version| decide(version ^ STAGED, &flow));
        let allows = |decision: &Decision| decision.verdict == Verdict::Allow;
        let (counts, differs) = match event.kind {
            EventKind::Opened | EventKind::Passed => (2, staged.filter(|says| !allows(says))),
            EventKind::Changed => (0, staged.filter(|says| !allows(says))),
            EventKind::Dropped { reason: Reason::PolicyDenied | Reason::PolicyRejected } => {
                (1, staged.filter(allows))
            }
            _ => (0, None),
        };
        let expected = differs.map(|Decision { verdict, rule, .. }| Staged { verdict, rule });
        assert_eq!(event.staged, expected, "{event:?}");
        if counts > 0 && staged.is_some() {
            self.counted[0] += 1;
            self.counted[counts] += u64::from(differs.is_some());
        }
    }

    fn member(&self, now: Time, probe: &Probe, headers: &Headers) -> Result<Grant, Reason> {
        let mut tracked = [Tracked::Invalid(Reason::NoPolicy)];
        self.connections.track(now, self.generation, std::slice::from_ref(probe), &mut tracked);
        let mut opened = match tracked[0] {
            Tracked::Member { grant } => return Ok(grant),
            Tracked::Invalid(reason) => return Err(reason),
            Tracked::Judge { opened } => opened,
        };
        loop {
            let decision = self.decide(probe.key.zone, &flow(probe, opened, headers));
            let ended = &mut None;
            match self.connections.settle(now, self.generation, probe, opened, decision, ended) {
                Settled::Opened { grant }
                | Settled::Member { grant }
                | Settled::Renewed { grant, .. } => return Ok(grant),
                Settled::Dropped(reason) => return Err(reason),
                Settled::Again { opened: again } => opened = again,
            }
        }
    }

    fn decide(&self, zone: u16, flow: &Flow) -> Result<Grant, Reason> {
        let decision = match zone {
            0 => decide(self.policy, flow),
            1 if self.zone => decide(self.policy ^ OF_ZONE, flow),
            _ => Decision::default(),
        };
        match decision.verdict {
            Verdict::Allow => {
                let (source, destination) = (flow.source, flow.destination);
                Ok(Grant { rule: decision.rule, source, destination })
            }
            Verdict::Deny => Err(Reason::PolicyDenied),
            Verdict::Reject => Err(Reason::PolicyRejected),
        }
    }
}

/// The flow of a packet that opens nothing.
fn alone(headers: &Headers) -> Flow {
    let tuple = headers.tuple;
    let (kind, code) = match headers.transport {
        Transport::Icmp { kind, code, .. } => (kind, code),
        _ => (0, 0),
    };
    Flow {
        source: IdentityId::new(tuple.source as u8 as u32),
        destination: IdentityId::new(tuple.destination as u8 as u32),
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        icmp_kind: kind,
        icmp_code: code,
        protocol: tuple.protocol,
        version: tuple.version,
        same_address: tuple.source == tuple.destination,
    }
}

/// The flow that a connection opened in direction `opened` is.
fn flow(probe: &Probe, opened: Direction, headers: &Headers) -> Flow {
    let tuple = probe.key.tuple(opened);
    let mut flow = alone(&Headers { tuple, transport: Transport::Other, ..*headers });
    if matches!(tuple.protocol, protocol::ICMP | protocol::ICMPV6) {
        (flow.source_port, flow.destination_port) = (0, 0);
        flow.icmp_kind = probe.key.b_port as u8;
        if let (Segment::Request, Transport::Icmp { code, .. }) = (probe.segment, headers.transport)
        {
            flow.icmp_code = code;
        }
    }
    flow
}

/// Lets `data` happen to the pipeline and the model.
///
/// # Panics
/// They disagree.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut config = Config::default();
    config.connections.capacity = if bytes.below(4) == 0 { 3 } else { 1000 };
    // What is lost is counted; what is not is looked at.
    config.event_capacity = bytes.pick(&[4, 512]);
    config.connections.pick_up = bytes.below(2) == 1;
    config.connections.on_policy_change =
        bytes.pick(&[OnPolicyChange::Keep, OnPolicyChange::Rejudge, OnPolicyChange::Cut]);
    config.tunnels = tunnels();
    let connections = SimpleTable::new(config.connections);
    let mut model = Model {
        connections,
        generation: 1,
        policy: 0,
        zone: true,
        staged: None,
        tunnels: tunnels(),
        limits: RateLimits::default(),
        of_rules: HashMap::new(),
        of_identities: HashMap::new(),
        counted: [0; 3],
    };
    let engine = Arc::new(Engine::new(config).expect("memory"));
    let mut lane = Lane::new(Arc::clone(&engine));
    let mut monitor = Monitor::new(&mut lane);
    publish(&engine, &model);
    let mut now = 1_000_000_000u64;
    let mut batch = Vec::new();
    while !bytes.0.is_empty() {
        let what = bytes.below(16);
        if matches!(what, 0 | 1 | 3 | 5..=8) || batch.len() == 64 {
            flush(&mut lane, &mut model, &mut monitor, now, &mut batch);
        }
        match what {
            0 => now += u64::from(bytes.next()) << bytes.below(32),
            1 => {
                model.policy += 1;
                model.zone = bytes.below(4) > 0;
                publish(&engine, &model);
                model.generation += 1;
            }
            2 => {
                let len = usize::from(bytes.next()).min(bytes.0.len());
                let (raw, rest) = bytes.0.split_at(len);
                batch.push(raw.to_vec());
                bytes.0 = rest;
            }
            3 => {}
            4 => {
                let at = Time::from_nanos(now);
                lane.expire(at, usize::MAX);
                model.connections.expire(at, |_| {});
            }
            5 => {
                let limits = &mut model.limits;
                limits.identity = (bytes.below(2) == 1).then(|| bytes.pick(&RATES));
                let rules = (0..bytes.below(4))
                    .map(|_| (some_rule(&mut bytes, model.policy), bytes.pick(&RATES)));
                limits.rules = rules.collect();
                model.of_rules.clear();
                model.of_identities.clear();
                engine.limit_rates(limits.clone());
            }
            6 => {
                let all = [Verdict::Allow, Verdict::Deny, Verdict::Reject];
                let chosen = bytes.next();
                let mut filter = Filter::default();
                filter.verdicts =
                    (0..3).filter(|bit| chosen >> bit & 1 != 0).map(|bit| all[bit]).collect();
                let rules = (0..4).map(|_| some_rule(&mut bytes, model.policy));
                filter.rules = (chosen & 8 != 0).then(|| rules.collect());
                monitor.filter = (chosen & 0x30 != 0).then_some(filter);
                engine.mirror(monitor.filter.clone());
            }
            7 => {
                model.staged = (bytes.below(4) > 0).then(|| bytes.below(3).into());
                engine.stage(model.staged.map(|version| snapshot(version ^ STAGED)));
                model.generation += 1;
            }
            _ => batch.push(packet(&mut bytes)),
        }
    }
    flush(&mut lane, &mut model, &mut monitor, now, &mut batch);
    let at = Time::from_nanos(now + (1 << 50));
    lane.expire(at, usize::MAX);
    assert_eq!(engine.connections(), 0, "connections that nothing ends");
}

fn snapshot(version: u32) -> Snapshot {
    Snapshot { identities: Arc::new(LastByte), policy: Arc::new(Mixed(version)) }
}

fn publish(engine: &Engine, model: &Model) {
    engine.publish(snapshot(model.policy));
    let of_zone = model.zone.then(|| snapshot(model.policy ^ OF_ZONE));
    engine.publish_zone(NonZeroU16::MIN, of_zone);
}

/// The rule that decides a flow that may come.
fn some_rule(bytes: &mut Bytes<'_>, policy: u32) -> RuleId {
    let flow = Flow {
        source: IdentityId::new(bytes.below(3).into()),
        destination: IdentityId::new(bytes.below(3).into()),
        protocol: bytes.pick(&[protocol::TCP, protocol::UDP, protocol::SCTP]),
        destination_port: bytes.below(2).into(),
        ..Flow::default()
    };
    decide(policy ^ bytes.pick(&[0, OF_ZONE]), &flow).rule
}

/// Who gets copies, and of what.
struct Monitor {
    end: MemoryEnd,
    filter: Option<Filter>,
    /// Where packets to be copied lie.
    pool: FramePool,
}

/// Copies of one batch that there is room for.
const COPIES: u32 = 16;

impl Monitor {
    fn new(lane: &mut Lane) -> Self {
        let pool = Umem::heap(COPIES, 2048);
        let (port, end) = MemoryPort::new(pool.umem()).expect("descriptors");
        lane.mirror_to(Mirror::new(Box::new(port), pool, 9000));
        Self { end, filter: None, pool: Umem::heap(64, 2048) }
    }

    /// Exactly the packets with the verdicts and rules asked for are copied, as they are and in order; of those
    /// beyond what there is room for, none.
    fn check(&mut self, lane: &mut Lane, batch: &[Vec<u8>], judgements: &[Judgement]) {
        let frames: Vec<_> = batch.iter().map_while(|frame| self.pool.take_with(frame)).collect();
        assert_eq!(frames.len(), batch.len());
        let umem = Arc::clone(self.pool.umem());
        lane.mirror(&umem, &frames, judgements);
        for frame in frames {
            assert!(self.pool.put(frame).is_none());
        }
        let wanted = batch.iter().zip(judgements);
        let wanted = wanted.filter(|(_, of)| {
            self.filter.as_ref().is_some_and(|filter| {
                let verdict = filter.verdicts.is_empty() || filter.verdicts.contains(&of.verdict);
                verdict && filter.rules.as_ref().is_none_or(|rules| rules.contains(&of.rule))
            })
        });
        let copies: Vec<_> = std::iter::from_fn(|| self.end.receive()).collect();
        let expected: Vec<_> =
            wanted.map(|(frame, _)| frame.clone()).take(COPIES as usize).collect();
        assert_eq!(copies, expected);
    }
}

/// Judges a batch both ways.
fn flush(
    lane: &mut Lane,
    model: &mut Model,
    monitor: &mut Monitor,
    now: u64,
    batch: &mut Vec<Vec<u8>>,
) {
    let now = Time::from_nanos(now);
    let inputs: Vec<_> = batch.iter().map(|frame| Input::new(frame)).collect();
    let mut out = [Judgement::default(); 64];
    assert_eq!(lane.judge(now, &inputs, &mut out), batch.len());
    for (n, (frame, judgement)) in batch.iter().zip(&out).enumerate() {
        let found = judgement.reason.map_or(Ok(()), Err);
        assert_eq!(found.is_ok(), judgement.verdict == Verdict::Allow);
        match model.judge(now, frame) {
            // What the pieces of a packet decide among each other is not the model's to know.
            Some(expected) if !is_about_fragments(found) => {
                let expected = expected.and_then(|grant| {
                    let Some(grant) = grant else { return Ok(()) };
                    let of = Grant {
                        rule: judgement.rule,
                        source: judgement.source,
                        destination: judgement.destination,
                    };
                    assert_eq!(of, grant, "packet {n} of the batch: {frame:02x?}");
                    let passes = model.within_rates(now, &grant, frame.len());
                    if passes { Ok(()) } else { Err(Reason::RateLimit) }
                });
                assert_eq!(found, expected, "packet {n} of the batch: {frame:02x?}");
            }
            Some(_) | None => {}
        }
        if judgement.verdict == Verdict::Reject {
            check_answer(lane, now, n, frame);
        }
    }
    monitor.check(lane, batch, &out);
    for held in lane.released() {
        assert!(held.len() > 14 + 20);
    }
    assert_eq!(lane.engine().connections(), model.connections.len());
    while let Some(event) = lane.events().pop() {
        model.told(&event);
    }
    let counters = lane.counters();
    let counted = [&counters.staged, &counters.staged_allows, &counters.staged_denies];
    if lane.events().lost() == 0 {
        assert_eq!(counted.map(|counter| counter.get()), model.counted);
    }
    batch.clear();
}

fn is_about_fragments(found: Result<(), Reason>) -> bool {
    found.is_err_and(|reason| {
        matches!(reason, Reason::FragmentOverlap | Reason::FragmentLimit | Reason::FragmentHeld)
    })
}

/// An answer is a whole, right packet to who sent the rejected one.
fn check_answer(lane: &mut Lane, now: Time, n: usize, frame: &[u8]) {
    let mut out = [0; reject::LONGEST];
    let Some(len) = lane.answer(now, n, frame, &mut out) else { return };
    let Ok(Packet::Ip(answer)) = parse(&out[..len], len) else { panic!("not a packet") };
    let Ok(Packet::Ip(asked)) = parse(frame, frame.len()) else { panic!("not a packet") };
    assert_eq!(answer.tuple.destination, asked.tuple.source);
    assert_eq!(answer.tuple.source, asked.tuple.destination);
    assert_eq!(answer.tuple.version, asked.tuple.version);
    assert_ne!(checksum::verify(&out[..len], &answer), Some(false));
    assert!(asked.tuple.version == Version::V6 || len <= 14 + 8 + 576);
}
