//! Who talks to whom, in bounded memory: what `portcullis top` shows.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use portcullis::Engine;
use portcullis::flow::{Event, FlowRecord};

use crate::control::top::Pair;

/// Pairs of workloads that are remembered.
const PAIRS: usize = 4096;
/// Pairs that are handed out, of each sort.
const MOST: usize = 100;
/// Different addresses and services of open connections that are told apart.
const OPEN: usize = 65_536;
/// The connection table is read at most so often, however many ask.
const LOOK: Duration = Duration::from_secs(1);

/// Flows by who, with whom, what, and whether they were denied.
#[derive(Default)]
pub(super) struct Talkers {
    pairs: HashMap<Key, Pair>,
    forgotten: u64,
    open: HashMap<Key, Sum>,
    looked: Option<Instant>,
}

/// What passed over open connections.
#[derive(Clone, Copy, Default)]
struct Sum {
    connections: u64,
    packets: u64,
    bytes: u64,
}

/// Connections that are alike but for the source port.
type Alike = (IpAddr, IpAddr, u8, u16);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    source: String,
    destination: String,
    service: String,
    denied: bool,
}

impl Talkers {
    /// Notes what happened to a flow, `at` seconds after the start.
    pub(super) fn note(&mut self, at: f64, record: &FlowRecord) {
        let denied = record.event == Event::Deny;
        let key = Key {
            source: record.source.label(),
            destination: record.destination.label(),
            service: self::service(record),
            denied,
        };
        if !self.pairs.contains_key(&key) && self.pairs.len() >= PAIRS {
            self.forget();
        }
        let new = key.pair();
        let pair = self.pairs.entry(key).or_insert(new);
        pair.last_seen = at;
        match record.event {
            // What is open is read from the table.
            Event::Change | Event::Update => {}
            Event::End => {
                for side in [record.sent, record.received] {
                    pair.packets += side.packets;
                    pair.bytes += side.bytes;
                }
            }
            _ => {
                pair.flows += if denied { record.sent.packets } else { 1 };
                pair.flow = flow(record);
                pair.policy.clone_from(&record.policy);
                pair.rule.clone_from(&record.rule);
                pair.reason.clone_from(&record.reason);
            }
        }
    }

    /// The pairs with the most bytes and flows and those denied most, and how many were forgotten.
    /// Bytes are those of connections that ended and of those that are open.
    pub(super) fn most(&mut self, engine: &Engine) -> (Vec<Pair>, u64) {
        self.look(engine);
        let mut all = self.pairs.clone();
        for (key, sum) in &self.open {
            // One that was opened before it could be noted, or was forgotten.
            let pair = all.entry(key.clone()).or_insert_with(|| key.pair());
            pair.open = sum.connections;
            pair.packets += sum.packets;
            pair.bytes += sum.bytes;
        }
        let mut all: Vec<Pair> = all.into_values().collect();
        let weight = |pair: &Pair| (pair.bytes, pair.flows);
        all.sort_by(|a, b| {
            (weight(b), &a.source, &a.service).cmp(&(weight(a), &b.source, &b.service))
        });
        let (denied, allowed): (Vec<Pair>, Vec<Pair>) =
            all.into_iter().partition(|pair| pair.denied);
        let pairs = allowed.into_iter().take(MOST).chain(denied.into_iter().take(MOST));
        (pairs.collect(), self.forgotten)
    }

    /// Reads what open connections have carried so far.
    fn look(&mut self, engine: &Engine) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        self.looked = Some(Instant::now());
        let mut alike: HashMap<Alike, Sum> = HashMap::new();
        engine.live_connections(|connection| {
            let (source, destination) = (connection.source, connection.destination);
            let key = (source.ip(), destination.ip(), connection.protocol, destination.port());
            if alike.len() < OPEN || alike.contains_key(&key) {
                let sum = alike.entry(key).or_default();
                sum.connections += 1;
                sum.packets += connection.traffic.iter().map(|side| side.packets).sum::<u64>();
                sum.bytes += connection.traffic.iter().map(|side| side.bytes).sum::<u64>();
            }
        });
        let ends: Vec<IpAddr> = alike.keys().flat_map(|(from, to, ..)| [*from, *to]).collect();
        let owners = engine.owners(&ends);
        self.open.clear();
        for (((from, to, protocol, port), sum), owners) in alike.iter().zip(owners.chunks(2)) {
            let name =
                |end: usize| owners[end].as_ref().map(|owner| (&*owner.namespace, &*owner.name));
            let key = Key {
                source: workload(name(0), *from),
                destination: workload(name(1), *to),
                service: named(*protocol, &port.to_string()),
                denied: false,
            };
            let all = self.open.entry(key).or_default();
            all.connections += sum.connections;
            all.packets += sum.packets;
            all.bytes += sum.bytes;
        }
    }

    /// Makes room: forgets the half that was silent for longest.
    fn forget(&mut self) {
        let seen = |(key, pair): (&Key, &Pair)| (pair.last_seen, key.clone());
        let mut oldest: Vec<(f64, Key)> = self.pairs.iter().map(seen).collect();
        oldest.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        oldest.truncate(oldest.len().div_ceil(2));
        for (_, key) in &oldest {
            self.pairs.remove(key);
        }
        self.forgotten += oldest.len() as u64;
    }
}

impl Key {
    /// A pair of which nothing is known yet.
    fn pair(&self) -> Pair {
        Pair {
            source: self.source.clone(),
            destination: self.destination.clone(),
            service: self.service.clone(),
            denied: self.denied,
            ..Pair::default()
        }
    }
}

/// `namespace/name`, else the address.
fn workload(name: Option<(&str, &str)>, address: IpAddr) -> String {
    match name {
        Some((namespace, name)) => format!("{namespace}/{name}"),
        None => address.to_string(),
    }
}

/// What was wanted: `tcp/5432`, of a scan `tcp/1-1024`.
pub(super) fn service(record: &FlowRecord) -> String {
    let port = match &record.destination_ports {
        Some(ports) => format!("{}-{}", ports.low, ports.high),
        None => record.destination.port.to_string(),
    };
    named(record.protocol, &port)
}

fn named(protocol: u8, port: &str) -> String {
    match protocol {
        1 => "icmp".to_owned(),
        58 => "icmpv6".to_owned(),
        6 => format!("tcp/{port}"),
        17 => format!("udp/{port}"),
        132 => format!("sctp/{port}"),
        other => format!("protocol {other}"),
    }
}

/// The flow as `portcullis explain` takes it.
fn flow(record: &FlowRecord) -> String {
    let at = |party: &portcullis::flow::Party| SocketAddr::new(party.address, party.port);
    let (from, to) = (at(&record.source), at(&record.destination));
    let icmp = |echo: u8| record.icmp.map_or((echo, 0), |icmp| (icmp.kind, icmp.code));
    match record.protocol {
        6 => format!("tcp {from} > {to}"),
        17 => format!("udp {from} > {to}"),
        132 => format!("sctp {from} > {to}"),
        1 => {
            let (kind, code) = icmp(8);
            format!("icmp {} > {} type {kind} code {code}", from.ip(), to.ip())
        }
        58 => {
            let (kind, code) = icmp(128);
            format!("icmpv6 [{}] > [{}] type {kind} code {code}", from.ip(), to.ip())
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use portcullis::Judge;
    use portcullis::dataplane::pipeline::Input;
    use portcullis::flow::{Recorder, Subscription};
    use portcullis::policy::{Source, parse_cluster, parse_policies};

    use super::*;

    /// An engine in which pod `a` may reach pod `b` on port 80.
    fn engine() -> Engine {
        let pod = |name: &str, address: &str| {
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, \
                 status: {{podIP: {address}}}}}"
            )
        };
        let pods = format!("{}\n---\n{}", pod("a", "10.0.0.1"), pod("b", "10.0.0.2"));
        let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n\
                      spec:\n  podSelector: {matchLabels: {app: b}}\n  ingress: [{ports: [{port: 80}]}]\n";
        let engine = Engine::new(Default::default()).unwrap();
        let cluster = parse_cluster(&[Source::new("c.yaml", pods)]).unwrap().value;
        engine
            .apply(cluster, parse_policies(&[Source::new("p.yaml", policy)]).unwrap().value)
            .unwrap();
        engine
    }

    /// An engine, what watches it, and what is learned of that.
    struct Stand {
        engine: Engine,
        judge: Judge,
        recorder: Recorder,
        records: Subscription,
        talkers: Talkers,
    }

    impl Stand {
        fn new() -> Self {
            let engine = engine();
            let mut config = portcullis::flow::Config::default();
            config.denied = Duration::ZERO;
            let (judge, recorder) = (engine.judge(), Recorder::new(&engine, config));
            let records = recorder.hub().subscribe_to_all(1024);
            Self { engine, judge, recorder, records, talkers: Talkers::default() }
        }

        /// A SYN, and what the talkers learn of it.
        fn syn(&mut self, from: [u8; 4], ports: (u16, u16)) {
            let mut frame = Vec::new();
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4(from, [10, 0, 0, 2], 64)
                .tcp(ports.0, ports.1, 0, 65_535)
                .syn()
                .write(&mut frame, &[])
                .unwrap();
            self.judge.packets(&[Input::new(&frame)], &mut [Default::default()]);
            self.recorder.finish();
            while let Some(received) = self.records.next() {
                self.talkers.note(f64::from(ports.0), &received.record);
            }
        }
    }

    #[test]
    fn workloads_are_pairs_and_open_connections_have_bytes() {
        let mut stand = Stand::new();
        for port in 1000..1010 {
            stand.syn([10, 0, 0, 1], (port, 80));
        }
        stand.syn([10, 0, 0, 1], (1000, 22));
        let (pairs, forgotten) = stand.talkers.most(&stand.engine);
        assert_eq!((pairs.len(), forgotten), (2, 0));
        let [allowed, denied] = &pairs[..] else { panic!("{pairs:?}") };
        assert_eq!((&*allowed.source, &*allowed.destination), ("default/a", "default/b"));
        assert_eq!((&*allowed.service, allowed.flows, allowed.open), ("tcp/80", 10, 10));
        assert_eq!((allowed.packets, allowed.bytes), (10, 400));
        assert_eq!((denied.denied, denied.flows, denied.bytes), (true, 1, 0));
        assert_eq!(denied.reason.as_deref(), Some("policy_denied"));
        assert!(denied.rule.as_ref().unwrap().starts_with("p.yaml:"));
        assert_eq!(denied.flow, "tcp 10.0.0.1:1000 > 10.0.0.2:22");
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_counted() {
        let mut stand = Stand::new();
        let count = PAIRS as u32 * 2 + 10;
        for n in 0..count {
            let [_, a, b, c] = n.to_be_bytes();
            stand.syn([11, a, b, c], (1000, 22));
            assert!((1..=PAIRS).contains(&stand.talkers.pairs.len()));
        }
        let (pairs, forgotten) = stand.talkers.most(&stand.engine);
        assert_eq!(pairs.len(), MOST);
        assert_eq!(stand.talkers.pairs.len() as u64 + forgotten, u64::from(count));
    }
}
