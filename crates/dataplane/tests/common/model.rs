//! The whole pipeline against a slow, obvious model of it; driven by bytes, so that a property test
//! and a fuzzer can share it.
//!
//! The model looks at one packet at a time, keeps connections in a hash map, and asks the policy
//! about one flow at a time. The pipeline gets the same packets in batches cut at will. Both must
//! agree on every packet.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use portcullis_dataplane::clock::Time;
use portcullis_dataplane::connection::{
    Direction, Grant, OnPolicyChange, Probe, Role, Segment, Settled, SimpleTable, Tracked,
};
use portcullis_dataplane::frame::{FramePool, Umem};
use portcullis_dataplane::mirror::{Filter, Mirror};
use portcullis_dataplane::packet::{
    Encapsulation, Headers, Packet, Transport, Tunnel, Tunnels, Version, checksum, parse, protocol,
};
use portcullis_dataplane::pipeline::{
    Config, Engine, Input, Judgement, Lane, PacketRate, RateLimits, Snapshot, Unit, reject,
};
use portcullis_dataplane::port::memory::{MemoryEnd, MemoryPort};
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::verdict::{Decision, Flow, Identify, Policy, RuleId, Verdict};
use portcullis_identity_table::IdentityId;

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
    policy: u32,
    tunnels: Tunnels,
    /// Packets that each identity may still send, while that is limited.
    tokens: Option<HashMap<IdentityId, Tokens>>,
}

/// A token bucket of the obvious sort, in billionths of tokens.
#[derive(Clone, Copy)]
struct Tokens {
    left: u128,
    at: u64,
}

/// What identities are limited to: it divides a second.
const RATE: PacketRate = PacketRate { unit: Unit::Packets, per_second: 1000, burst: 5 };

impl Tokens {
    const WHOLE: u128 = 1_000_000_000;
    const FULL: Self = Self { left: RATE.burst as u128 * Self::WHOLE, at: 0 };

    fn take(&mut self, now: u64) -> bool {
        let back = u128::from(now - self.at) * u128::from(RATE.per_second);
        self.left = (self.left + back).min(Self::FULL.left);
        self.at = now;
        let enough = self.left >= Self::WHOLE;
        self.left -= if enough { Self::WHOLE } else { 0 };
        enough
    }
}

/// What zone 1 decides differs from what zone 0 decides.
const OF_ZONE: u32 = 0x8000_0000;

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

    /// Whether a packet that passes by this grant is within its opener's rate.
    fn within_rate(&mut self, now: Time, grant: Option<Grant>) -> bool {
        let (Some(tokens), Some(grant)) = (&mut self.tokens, grant) else { return true };
        tokens.entry(grant.source).or_insert(Tokens::FULL).take(now.as_nanos())
    }

    fn member(&self, now: Time, probe: &Probe, headers: &Headers) -> Result<Grant, Reason> {
        let mut tracked = [Tracked::Invalid(Reason::NoPolicy)];
        self.connections.track(now, self.policy, std::slice::from_ref(probe), &mut tracked);
        let mut opened = match tracked[0] {
            Tracked::Member { grant } => return Ok(grant),
            Tracked::Invalid(reason) => return Err(reason),
            Tracked::Judge { opened } => opened,
        };
        loop {
            let decision = self.decide(probe.key.zone, &flow(probe, opened, headers));
            let ended = &mut None;
            match self.connections.settle(now, self.policy, probe, opened, decision, ended) {
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
            1 => decide(self.policy ^ OF_ZONE, flow),
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

/// Bytes that steer what happens; zeros when they run out.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn below(&mut self, limit: u8) -> u8 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.next()) % of.len()]
    }
}

/// A packet between few hosts and ports, so that packets meet each other's connections.
fn packet(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let shape = bytes.next();
    let (v6, tagged, fragment) = (shape & 1 != 0, shape & 6 == 6, shape & 0x38 == 0x38);
    let [source, destination] = [bytes.below(3), bytes.below(3)];
    let number = match bytes.below(8) {
        0..=3 => protocol::TCP,
        4 => protocol::UDP,
        5 => protocol::SCTP,
        6 => {
            if v6 {
                protocol::ICMPV6
            } else {
                protocol::ICMP
            }
        }
        _ => bytes.pick(&[47, 50, 253]),
    };
    let l4 = match number {
        protocol::TCP => tcp(bytes),
        protocol::ICMP | protocol::ICMPV6 => icmp(bytes, v6, source),
        protocol::SCTP => sctp(bytes),
        _ => {
            let ports = [bytes.below(2), bytes.below(2)];
            let mut l4 = vec![0, ports[0], 0, ports[1], 0, 20, 0, 0, 0, 0, 0, 0];
            l4.extend([bytes.below(3), 0, 0, 0, 0, 0, 0, 0]);
            l4
        }
    };
    let mut frame = vec![2, 0, 0, 0, 0, destination, 2, 0, 0, 0, 0, source];
    if tagged {
        frame.extend([0x81, 0, 0, 7]);
    }
    let l3 = ip(v6, source, destination, number, &l4, fragment.then(|| bytes.next()));
    frame.extend(l3);
    for _ in 0..bytes.next().saturating_sub(200) % 4 {
        let at = usize::from(bytes.next()) % frame.len();
        frame[at] = bytes.next();
    }
    if bytes.below(32) == 31 {
        frame.truncate(usize::from(bytes.next()));
    }
    if bytes.below(8) == 7 { in_vxlan(bytes.below(4), &frame) } else { frame }
}

/// The frame in a tunnel: one of zone 0, of zone 1, of a zone without policy, of no zone.
fn in_vxlan(vni: u8, frame: &[u8]) -> Vec<u8> {
    let len = (8 + 8 + frame.len()) as u8;
    let mut l4 = vec![0, 9, 0x12, 0xb5, 0, len, 0, 0, 8, 0, 0, 0, 0, 0, vni, 0];
    l4.extend(frame);
    let mut out = vec![2; 12];
    out.extend(ip(false, 1, 2, protocol::UDP, &l4, None));
    out
}

fn tunnels() -> Tunnels {
    let mut tunnels = Tunnels::default();
    let encapsulation = Encapsulation::Vxlan;
    for (vni, zone) in [(0, 0), (1, 1), (2, 2)] {
        let tunnel = Tunnel::Network { encapsulation, port: 4789, vni };
        tunnels.open(tunnel, zone).expect("different networks");
    }
    tunnels
}

fn ip(v6: bool, source: u8, destination: u8, number: u8, l4: &[u8], piece: Option<u8>) -> Vec<u8> {
    let mut out = if v6 { vec![0x86, 0xdd] } else { vec![8, 0] };
    // Identification, offset in units of 8 bytes, more.
    let piece = piece.map(|byte| (byte & 3, byte >> 2 & 3, byte & 0x10 != 0));
    let len = l4.len() / 8 * 8;
    let l4 = if piece.is_some() { &l4[..len] } else { l4 };
    if v6 {
        let extra = if piece.is_some() { 8 } else { 0 };
        out.extend([0x60, 0, 0, 0, 0, (l4.len() + extra) as u8]);
        out.extend([if extra > 0 { 44 } else { number }, 255]);
        for host in [source, destination] {
            out.extend([0xfd; 15]);
            out.push(host);
        }
        if let Some((id, offset, more)) = piece {
            out.extend([number, 0, 0, offset << 3 | u8::from(more), 0, 0, 0, id]);
        }
    } else {
        let (id, offset, more) = piece.unwrap_or_default();
        out.extend([0x45, 0, 0, (20 + l4.len()) as u8, 0, id, u8::from(more) << 5, offset]);
        out.extend([64, number, 0, 0, 10, 0, 0, source, 10, 0, 0, destination]);
    }
    out.extend(l4);
    out
}

fn tcp(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let ports = [bytes.below(2), bytes.below(2)];
    let flags = bytes.pick(&[0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x04, 0x14, 0xff]);
    let mut out = vec![0, ports[0], 0, ports[1], 0, 0, 0, bytes.below(6), 0, 0, 0, bytes.below(6)];
    let scaled = flags & 2 != 0 && bytes.below(2) == 1;
    out.push(if scaled { 6 } else { 5 } << 4);
    out.extend([flags, bytes.pick(&[0, 0xff]), bytes.pick(&[0, 1, 0xff]), 0, 0, 0, 0]);
    if scaled {
        out.extend([3, 3, bytes.below(16), 0]);
    }
    out.extend(vec![0x55; bytes.below(3).into()]);
    out
}

/// One chunk or two, with tags that others may have offered.
fn sctp(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let ports = [bytes.below(2), bytes.below(2)];
    let mut out = vec![0, ports[0], 0, ports[1], 0, 0, 0, bytes.below(4), 0, 0, 0, 0];
    for _ in 0..1 + bytes.below(8) / 7 {
        let kind = bytes.pick(&[1, 1, 2, 2, 10, 11, 0, 0, 6, 7, 8, 14, 4]);
        out.extend([kind, bytes.below(8) / 7, 0, 8, 0, 0, 0, bytes.below(4)]);
    }
    out
}

fn icmp(bytes: &mut Bytes<'_>, v6: bool, source: u8) -> Vec<u8> {
    let kinds = if v6 { [128, 129, 1, 135, 134] } else { [8, 0, 3, 13, 9] };
    let kind = bytes.pick(&kinds);
    let mut out = vec![kind, bytes.below(2), 0, 0, 0, bytes.below(2), 0, 0];
    if matches!((v6, kind), (true, 1) | (false, 3)) {
        // Quotes something that somebody may have sent.
        let number = bytes.pick(&[protocol::TCP, protocol::UDP, protocol::SCTP]);
        // A UDP length, or the end of a number that somebody may have sent.
        let high = if number == protocol::UDP { 8 } else { 0 };
        let l4 = [0, bytes.below(2), 0, bytes.below(2), 0, high, 0, bytes.below(6)];
        let receiver = bytes.below(3);
        out.extend(&ip(v6, receiver, source, number, &l4, None)[2..]);
    }
    out
}

/// Lets `data` happen to the pipeline and the model.
///
/// # Panics
/// They disagree.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut config = Config::default();
    config.connections.capacity = if bytes.below(4) == 0 { 3 } else { 1000 };
    config.event_capacity = 4;
    config.connections.pick_up = bytes.below(2) == 1;
    config.connections.on_policy_change =
        bytes.pick(&[OnPolicyChange::Keep, OnPolicyChange::Rejudge, OnPolicyChange::Cut]);
    config.tunnels = tunnels();
    let connections = SimpleTable::new(config.connections);
    let mut model = Model { connections, policy: 0, tunnels: tunnels(), tokens: None };
    let engine = Arc::new(Engine::new(config).expect("memory"));
    let mut lane = Lane::new(Arc::clone(&engine));
    let mut monitor = Monitor::new(&mut lane);
    let publish = |version| {
        let snapshot =
            |version| Snapshot { identities: Arc::new(LastByte), policy: Arc::new(Mixed(version)) };
        engine.publish(snapshot(version));
        engine.publish_zone(NonZeroU16::MIN, Some(snapshot(version ^ OF_ZONE)));
    };
    publish(0);
    let mut now = 1_000_000_000u64;
    let mut batch = Vec::new();
    while !bytes.0.is_empty() {
        match bytes.below(16) {
            0 => {
                flush(&mut lane, &mut model, &mut monitor, now, &mut batch);
                now += u64::from(bytes.next()) << bytes.below(32);
            }
            1 => {
                flush(&mut lane, &mut model, &mut monitor, now, &mut batch);
                model.policy += 1;
                publish(model.policy);
            }
            2 => {
                let len = usize::from(bytes.next()).min(bytes.0.len());
                let (raw, rest) = bytes.0.split_at(len);
                batch.push(raw.to_vec());
                bytes.0 = rest;
            }
            3 => flush(&mut lane, &mut model, &mut monitor, now, &mut batch),
            4 => {
                let at = Time::from_nanos(now);
                lane.expire(at, usize::MAX);
                model.connections.expire(at, |_| {});
            }
            5 => {
                flush(&mut lane, &mut model, &mut monitor, now, &mut batch);
                let mut limits = RateLimits::default();
                limits.identity = (bytes.below(2) == 1).then_some(RATE);
                model.tokens = limits.identity.map(|_| HashMap::new());
                engine.limit_rates(limits);
            }
            6 => {
                flush(&mut lane, &mut model, &mut monitor, now, &mut batch);
                let all = [Verdict::Allow, Verdict::Deny, Verdict::Reject];
                let chosen = bytes.next();
                monitor.verdicts =
                    (0..3).filter(|bit| chosen >> bit & 1 != 0).map(|bit| all[bit]).collect();
                let mut filter = Filter::default();
                filter.verdicts.clone_from(&monitor.verdicts);
                engine.mirror((!monitor.verdicts.is_empty()).then_some(filter));
            }
            _ => batch.push(packet(&mut bytes)),
        }
        if batch.len() == 64 {
            flush(&mut lane, &mut model, &mut monitor, now, &mut batch);
        }
    }
    flush(&mut lane, &mut model, &mut monitor, now, &mut batch);
    let at = Time::from_nanos(now + (1 << 50));
    lane.expire(at, usize::MAX);
    assert_eq!(engine.connections(), 0, "connections that nothing ends");
}

/// Who gets copies, and of what.
struct Monitor {
    end: MemoryEnd,
    verdicts: Vec<Verdict>,
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
        Self { end, verdicts: Vec::new(), pool: Umem::heap(64, 2048) }
    }

    /// Exactly the packets with the verdicts asked for are copied, as they are and in order; of those
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
        let wanted = wanted.filter(|(_, of)| self.verdicts.contains(&of.verdict));
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
                let expected = expected.and_then(|grant| match model.within_rate(now, grant) {
                    true => Ok(()),
                    false => Err(Reason::RateLimit),
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
