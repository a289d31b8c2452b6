//! Flow records as an embedding program gets them: complete, exact, and bounded whatever comes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use etherparse::PacketBuilder;
use portcullis::dataplane::clock::Virtual;
use portcullis::dataplane::pipeline::{Input, Judgement};
use portcullis::flow::{
    Action, Config, Event, FlowRecord, Keep, ParseError, PolicyKeep, Recorder, Subscription, Way,
};
use portcullis::identity_table::endpoint::{ClusterState, Endpoint};
use portcullis::policy::model::PolicySet;
use portcullis::policy::{Source, parse_policies};
use portcullis::{Engine, EngineConfig, Judge};

const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-to-db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
";

fn policies(text: &str) -> PolicySet {
    parse_policies(&[Source::new("policies.yaml", text)]).unwrap().value
}

fn pod(name: &str, app: &str, address: [u8; 4]) -> Endpoint {
    Endpoint {
        labels: [("app", app)].into_iter().collect(),
        addresses: vec![address.into()],
        ..Endpoint::new("shop", name)
    }
}

struct Stand {
    clock: Arc<Virtual>,
    engine: Engine,
    judge: Judge,
    recorder: Recorder,
    records: Subscription,
}

const WEB: [u8; 4] = [10, 0, 0, 1];
const DB: [u8; 4] = [10, 0, 0, 2];

impl Stand {
    fn new(config: Config, change: impl FnOnce(&mut EngineConfig)) -> Self {
        let clock = Arc::new(Virtual::default());
        let mut settings = EngineConfig::default();
        settings.clock = clock.clone();
        change(&mut settings);
        let engine = Engine::new(settings).unwrap();
        let endpoints = vec![pod("web-0", "web", WEB), pod("db-0", "db", DB)];
        let cluster = ClusterState { endpoints, ..ClusterState::default() };
        engine.apply(cluster, policies(POLICIES)).unwrap();
        let (judge, recorder) = (engine.judge(), Recorder::new(&engine, config));
        let records = recorder.hub().subscribe(1 << 16);
        Self { clock, engine, judge, recorder, records }
    }

    fn send(&mut self, frame: &[u8]) -> Judgement {
        let mut out = [Judgement::default()];
        self.judge.packets(&[Input::new(frame)], &mut out);
        out[0]
    }

    fn tcp(&mut self, from: ([u8; 4], u16), to: ([u8; 4], u16), flags: &str, seq: u32, ack: u32) {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64);
        let mut builder = builder.tcp(from.1, to.1, seq, 65535);
        for flag in flags.chars() {
            builder = match flag {
                'S' => builder.syn(),
                'A' => builder.ack(ack),
                'F' => builder.fin(),
                _ => builder.rst(),
            };
        }
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).unwrap();
        self.send(&frame);
    }

    /// Lets time pass, in steps in which expired connections are found.
    fn pass(&mut self, time: Duration) {
        for _ in 0..40 {
            self.clock.advance(time / 40);
            self.judge.packets(&[], &mut []);
            self.recorder.poll();
        }
    }

    /// Everything recorded so far.
    fn records(&mut self) -> Vec<FlowRecord> {
        self.recorder.finish();
        std::iter::from_fn(|| self.records.next())
            .map(|received| (*received.record).clone())
            .collect()
    }
}

/// A SYN whose ends can be changed in place.
struct Syn(Vec<u8>);

impl Syn {
    fn new() -> Self {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([11, 0, 0, 1], DB, 64);
        let mut frame = Vec::new();
        builder.tcp(40_000, 22, 1, 65535).syn().write(&mut frame, &[]).unwrap();
        Self(frame)
    }

    fn from(&mut self, source: u32, port: u16, to: u16) -> &[u8] {
        self.0[26..30].copy_from_slice(&source.to_be_bytes());
        self.0[34..36].copy_from_slice(&port.to_be_bytes());
        self.0[36..38].copy_from_slice(&to.to_be_bytes());
        // The checksum of IP is not this firewall's business.
        &self.0
    }
}

#[test]
fn a_connection_has_a_start_updates_and_an_end_with_all_there_is_to_say() {
    let mut stand = Stand::new(Config::default(), |_| ());
    let (web, db) = ((WEB, 40_000), (DB, 5432));
    stand.tcp(web, db, "S", 100, 0);
    stand.tcp(db, web, "SA", 500, 101);
    stand.tcp(web, db, "A", 101, 501);
    stand.pass(Duration::from_secs(150));
    // Who was web-0 then is somebody else now; the records say who it was.
    stand.engine.endpoints().remove("shop", "web-0").unwrap();
    stand.engine.endpoints().upsert(pod("web-0", "web", WEB)).unwrap();
    stand.tcp(web, db, "FA", 101, 501);
    stand.tcp(db, web, "FA", 501, 102);
    stand.tcp(web, db, "A", 102, 502);
    stand.pass(Duration::from_secs(400));

    let records = stand.records();
    let events: Vec<Event> = records.iter().map(|record| record.event).collect();
    assert_eq!(events.first(), Some(&Event::Start));
    assert_eq!(events.last(), Some(&Event::End));
    let updates = events.iter().filter(|event| **event == Event::Update).count();
    assert!((2..=5).contains(&updates), "one a minute while it lasts: {events:?}");
    let start = &records[0];
    assert_eq!(start.version, 1);
    assert_eq!(start.verdict, Action::Allow);
    assert_eq!(start.policy, "NetworkPolicy/shop/web-to-db");
    assert_eq!(start.rule.as_deref(), Some("policies.yaml:8:5"));
    assert_eq!(start.direction, Some(Way::Ingress));
    assert_eq!(start.source.name.as_deref(), Some("web-0"));
    assert_eq!(start.destination.labels.as_ref().unwrap().value("app"), Some("db"));
    assert_eq!((start.sent.packets, start.sent.bytes), (1, 40));
    assert_eq!(start.tcp_flags.unwrap().names().collect::<Vec<_>>(), ["SYN"]);
    let update = &records[1];
    assert_eq!((update.sent.packets, update.received.packets), (2, 1));
    assert!(update.time > update.last_seen && update.start == update.last_seen);
    let end = records.last().unwrap();
    assert_eq!(end.close.as_deref(), Some("fin"));
    assert_eq!((end.sent.packets, end.received.packets), (4, 2));
    assert_eq!((end.sent.bytes, end.received.bytes), (160, 80));
    assert_eq!(end.tcp_flags.unwrap().names().collect::<Vec<_>>(), ["FIN", "SYN", "ACK"]);
    assert!(end.end.unwrap() > end.last_seen && end.last_seen > end.start);
    assert_eq!(end.source.labels.as_ref().unwrap().value("app"), Some("web"));
    for record in &records {
        let mut line = Vec::new();
        record.write(&mut line);
        let line = String::from_utf8(line).unwrap();
        assert_eq!(&FlowRecord::parse(&line).unwrap(), record, "{line}");
    }
    let totals = stand.engine.totals();
    assert_eq!((totals.opened, totals.ended), (1, 1));
}

#[test]
fn a_change_of_policy_is_recorded_where_it_matters() {
    let mut stand = Stand::new(Config::default(), |_| ());
    for port in [1, 2] {
        stand.tcp((WEB, port), (DB, 5432), "S", 100, 0);
        stand.tcp((DB, 5432), (WEB, port), "SA", 500, 101);
    }
    // Allowed by another rule.
    let (cluster, _) = stand.engine.in_force();
    stand.engine.apply(cluster.clone(), policies(&POLICIES.replace("web-to-db", "other"))).unwrap();
    stand.tcp((WEB, 1), (DB, 5432), "A", 101, 501);
    // Denied now.
    stand.engine.apply(cluster, policies(&POLICIES.replace("5432", "1"))).unwrap();
    stand.tcp((WEB, 2), (DB, 5432), "A", 101, 501);
    let records = stand.records();
    let of = |event: Event| records.iter().filter(move |record| record.event == event);
    let change = of(Event::Change).collect::<Vec<_>>();
    assert_eq!(change.len(), 1);
    assert_eq!((change[0].source.port, &*change[0].policy), (1, "NetworkPolicy/shop/other"));
    let end = of(Event::End).next().unwrap();
    assert_eq!((end.source.port, end.close.as_deref()), (2, Some("policy")));
    assert_eq!((end.verdict, end.reason.as_deref()), (Action::Deny, Some("policy_denied")));
    assert_eq!(of(Event::Deny).map(|deny| deny.sent.packets).sum::<u64>(), 1);
}

/// Denies a million packets that differ as `ends` says; answers the records and their bytes.
fn flood(burst: Option<u32>, ends: impl Fn(u32) -> (u32, u16, u16)) -> (Vec<FlowRecord>, usize) {
    const PACKETS: u32 = 1_000_000;
    let mut stand = Stand::new(Config::default(), |settings| {
        settings.pipeline.denied_burst = burst.and_then(NonZeroU32::new);
    });
    let mut syn = Syn::new();
    for n in 0..PACKETS {
        let (source, port, to) = ends(n);
        assert_ne!(stand.send(syn.from(source, port, to)).reason, None);
        // A million in ten seconds.
        stand.clock.advance(Duration::from_micros(10));
        if n % 4096 == 0 {
            stand.recorder.poll();
            assert!(stand.recorder.denied_kinds() <= 2, "bounded memory");
        }
    }
    stand.judge.packets(&[], &mut []);
    drop(std::mem::replace(&mut stand.judge, stand.engine.judge()));
    let records = stand.records();
    let denied: u64 = records.iter().map(FlowRecord::denied).sum();
    assert_eq!(denied, u64::from(PACKETS), "exact");
    assert_eq!(records.iter().map(|record| record.sent.bytes).sum::<u64>(), 40 * denied);
    assert_eq!(stand.engine.totals().events_lost, 0);
    let recorded = stand.recorder.recorded().now();
    assert_eq!((recorded.denied_packets, recorded.denied_recorded), (denied, denied));
    let mut text = Vec::new();
    records.iter().for_each(|record| record.write(&mut text));
    (records, text.len())
}

#[test]
fn a_scan_of_a_million_ports_is_a_few_records() {
    for burst in [None, Some(32)] {
        let web = u32::from_be_bytes(WEB);
        // Of one pod; 5432 it may reach.
        let (records, bytes) = flood(burst, |n| match n as u16 {
            5432 => (web, (n >> 16) as u16, 1),
            to => (web, (n >> 16) as u16, to),
        });
        assert!(
            records.len() <= 12 && bytes < 12 << 10,
            "{} records, {bytes} bytes",
            records.len()
        );
        let ports = records[0].destination_ports.as_ref().unwrap();
        assert_eq!((ports.low, ports.high, ports.samples.len()), (0, 65_535, 8));
        assert_eq!(records[0].source.name.as_deref(), Some("web-0"));
        assert_eq!(records[0].reason.as_deref(), Some("policy_denied"));
    }
}

#[test]
fn a_million_forged_sources_are_a_few_records() {
    for burst in [None, Some(32)] {
        let (records, bytes) = flood(burst, |n| (0x0b00_0000 + n, n as u16, 22));
        assert!(
            records.len() <= 12 && bytes < 12 << 10,
            "{} records, {bytes} bytes",
            records.len()
        );
        let sources = records[0].sources.as_ref().unwrap();
        assert_eq!(sources.low, Ipv4Addr::new(11, 0, 0, 0));
        assert_eq!(sources.samples.len(), 8);
        assert!(!records[0].mixed);
    }
}

#[test]
fn more_kinds_of_denials_than_there_is_room_for_are_summed_up_together() {
    let mut config = Config::default();
    config.denied_kinds = 5;
    let mut stand = Stand::new(config, |_| ());
    let endpoints = (0..20u8).map(|n| pod(&format!("x-{n}"), &format!("x{n}"), [10, 0, 1, n]));
    for endpoint in endpoints {
        stand.engine.endpoints().upsert(endpoint).unwrap();
    }
    let mut syn = Syn::new();
    for n in 0..20u8 {
        for _ in 0..=n {
            stand.send(syn.from(u32::from_be_bytes([10, 0, 1, n]), 9, 22));
        }
    }
    let records = stand.records();
    assert_eq!(records.len(), 6);
    assert_eq!(records.iter().map(FlowRecord::denied).sum::<u64>(), 210);
    let mixed: Vec<_> = records.iter().filter(|record| record.mixed).collect();
    assert_eq!((mixed.len(), mixed[0].sent.packets), (1, 210 - 15));
    assert_eq!(mixed[0].sources.as_ref().unwrap().high, Ipv4Addr::new(10, 0, 1, 19));
}

/// Opens connections from port 1 on and denies one packet for each, and ends all.
fn traffic(stand: &mut Stand, count: u16) {
    for port in 1..=count {
        stand.tcp((WEB, port), (DB, 5432), "S", 100, 0);
        stand.tcp((WEB, port), (DB, 22), "S", 100, 0);
        stand.recorder.poll();
    }
    stand.pass(Duration::from_secs(400));
}

#[test]
fn what_is_recorded_is_chosen_for_all_and_by_policy() {
    let sample = Keep::Sampled(NonZeroU32::new(4).unwrap());
    for (keep, starts, denied) in [
        (Keep::All, 400..=400, 400),
        (Keep::None, 0..=0, 0),
        (Keep::Denied, 0..=0, 400),
        (sample, 50..=150, 400),
    ] {
        let mut by_policy = Config::default();
        by_policy.keep = if keep == Keep::None { Keep::All } else { Keep::None };
        by_policy.policies = vec![
            PolicyKeep { policies: "GlobalNetworkPolicy//x".parse().unwrap(), keep: Keep::All },
            PolicyKeep { policies: "NetworkPolicy/shop/*".parse().unwrap(), keep },
        ];
        let mut globally = Config::default();
        globally.keep = keep;
        for config in [by_policy, globally] {
            let mut stand = Stand::new(config, |_| ());
            traffic(&mut stand, 400);
            let records = stand.records();
            let mut by_port = BTreeMap::<u16, Vec<Event>>::new();
            for record in records.iter().filter(|record| record.event != Event::Deny) {
                by_port.entry(record.source.port).or_default().push(record.event);
            }
            assert!(starts.contains(&by_port.len()), "{keep}: {}", by_port.len());
            for events in by_port.values() {
                assert_eq!((events[0], events[events.len() - 1]), (Event::Start, Event::End));
            }
            assert_eq!(records.iter().map(FlowRecord::denied).sum::<u64>(), denied, "{keep}");
            let recorded = stand.recorder.recorded().now();
            let read =
                recorded.started + recorded.ended + recorded.denied_packets + recorded.others;
            let kept = recorded.records + recorded.denied_recorded;
            assert_eq!(read, kept + recorded.sampled_out + recorded.left_out);
            assert_eq!((recorded.started, recorded.ended), (400, 400));
        }
    }
}

#[test]
fn connections_are_records_and_lost_ones_however_small_the_rings() {
    for room in [1, 7, 100] {
        let mut stand = Stand::new(Config::default(), |settings| {
            settings.pipeline.event_capacity = room;
        });
        for port in 1..=500 {
            stand.tcp((WEB, port), (DB, 5432), "S", 100, 0);
            stand.tcp((WEB, port), (DB, 22), "S", 100, 0);
            if port % 200 == 0 {
                stand.recorder.poll();
            }
        }
        stand.pass(Duration::from_secs(400));
        let records = stand.records();
        let count =
            |event: Event| records.iter().filter(|record| record.event == event).count() as u64;
        let totals = stand.engine.totals();
        let [opened, denied, ended, ..] = totals.events_lost_by_kind;
        assert!(opened > 0 && denied > 0, "there is something to lose");
        assert_eq!(totals.opened, count(Event::Start) + opened);
        assert_eq!(totals.ended, count(Event::End) + ended);
        let told: u64 = records.iter().map(FlowRecord::denied).sum();
        assert_eq!(totals.dropped, told + denied);
        assert_eq!(records.last().unwrap().lost, totals.events_lost);
        assert_eq!(stand.recorder.recorded().now().lost, totals.events_lost_by_kind);
    }
}

#[test]
fn every_consumer_has_its_own_queue_and_count() {
    let mut stand = Stand::new(Config::default(), |_| ());
    let small = stand.recorder.hub().subscribe(10);
    for port in 1..=100 {
        stand.tcp((WEB, port), (DB, 5432), "S", 100, 0);
    }
    let all = stand.records();
    assert_eq!((all.len(), small.len(), small.lost()), (100, 10, 90));
    assert_eq!(small.next().unwrap().source.port, 1, "the first ones are kept");
    stand.tcp((WEB, 200), (DB, 5432), "S", 100, 0);
    stand.recorder.poll();
    let last = std::iter::from_fn(|| small.next()).last().unwrap();
    assert_eq!((last.source.port, last.lost), (200, 90));
    assert!(small.wait(Duration::from_millis(1)).is_none());
    assert_eq!(stand.recorder.hub().consumers(), 2);
    drop(small);
    assert_eq!(stand.recorder.hub().consumers(), 1);
}

#[test]
fn records_of_other_versions_are_refused_in_words() {
    let refused = |line: &str| FlowRecord::parse(line).unwrap_err();
    assert!(matches!(refused("{\"version\":2,\"what\":\"ever\"}"), ParseError::Version(2)));
    assert!(refused("{\"version\":2}").to_string().contains("reads version 1"));
    assert!(matches!(refused("{\"event\":\"open\"}"), ParseError::NoVersion));
    for line in ["", "[]", "{", "{\"version\":1}", "{\"version\":\"1\"}", "7", "{\"version\":-1}"] {
        assert!(matches!(refused(line), ParseError::Malformed(_)), "{line:?}: {:?}", refused(line));
    }
}

#[test]
fn staged_policies_are_judged_beside_and_change_nothing() {
    let mut stand = Stand::new(Config::default(), |_| ());
    stand.tcp((WEB, 1), (DB, 5432), "S", 100, 0);
    // Staged: db is reached on 22, and no more on 5432.
    let staged = POLICIES.replace("5432", "22").replace("web-to-db", "next");
    stand.engine.stage(policies(&staged)).unwrap();
    assert_eq!(stand.engine.staged(), Ok(Some(1)));
    for (from, to) in [(2, 5432), (3, 22), (4, 80)] {
        stand.tcp((WEB, from), (DB, to), "S", 100, 0);
    }
    // One that is known already, and an endpoint that comes while policies are staged.
    stand.tcp((DB, 5432), (WEB, 1), "SA", 500, 101);
    stand.engine.endpoints().upsert(pod("web-1", "web", [10, 0, 0, 3])).unwrap();
    stand.tcp(([10, 0, 0, 3], 5), (DB, 22), "S", 100, 0);
    let totals = stand.engine.totals();
    assert_eq!((totals.staged, totals.staged_allows, totals.staged_denies), (4, 2, 1));
    assert_eq!((totals.opened, totals.dropped), (2, 3), "what is in force decides");
    let records = stand.records();
    let staged_of = |port: u16| {
        let of_port = |record: &&FlowRecord| record.source.port == port;
        let record = records.iter().find(of_port).unwrap_or_else(|| panic!("no record of {port}"));
        record.staged.as_ref().map(|staged| (staged.verdict, &*staged.policy))
    };
    assert_eq!(staged_of(1), None);
    assert_eq!(staged_of(2), Some((Action::Deny, "NetworkPolicy/shop/next")));
    assert_eq!(staged_of(3), Some((Action::Allow, "NetworkPolicy/shop/next")));
    assert_eq!(staged_of(4), None);
    let allowed = records.iter().find(|record| record.source.port == 3).unwrap();
    assert_eq!(allowed.sent.packets, 2, "replicas are one kind, whatever is staged");

    assert!(stand.engine.unstage() && !stand.engine.unstage());
    assert_eq!(stand.engine.staged(), Ok(None));
    stand.tcp((WEB, 9), (DB, 22), "S", 100, 0);
    assert_eq!(stand.engine.totals().staged, 4, "no more");
    let records = stand.records();
    assert!(records.iter().all(|record| record.staged.is_none()));
}

#[test]
fn the_end_of_a_connection_says_what_the_staged_policies_would_say_of_it() {
    let mut stand = Stand::new(Config::default(), |_| ());
    stand.tcp((WEB, 1), (DB, 5432), "S", 100, 0);
    stand.engine.stage(policies(&POLICIES.replace("5432", "22"))).unwrap();
    stand.pass(Duration::from_secs(400));
    let records = stand.records();
    let end = records.iter().find(|record| record.event == Event::End).unwrap();
    assert_eq!(end.staged.as_ref().unwrap().verdict, Action::Deny);
    assert_eq!(end.close.as_deref(), Some("timeout"));
}

#[test]
fn calicos_staged_kinds_are_in_the_records_too() {
    let mut stand = Stand::new(Config::default(), |_| ());
    let (cluster, _) = stand.engine.in_force();
    let calico = "
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: close, namespace: shop}
spec:
  order: 1
  selector: app == 'db'
  types: [Ingress]
  ingress: [{action: Deny}]
";
    stand.engine.apply(cluster, policies(&format!("{POLICIES}---{calico}"))).unwrap();
    stand.tcp((WEB, 1), (DB, 5432), "S", 100, 0);
    let records = stand.records();
    let staged = records[0].staged.as_ref().unwrap();
    assert_eq!(staged.verdict, Action::Deny);
    assert!(staged.policy.ends_with("/shop/close"), "{}", staged.policy);
}

/// What one set of policies says of a flow, by an engine of its own.
fn alone(cluster: &ClusterState, text: &str) -> Engine {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    engine.apply(cluster.clone(), policies(text)).unwrap();
    engine
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    /// A staged set says of every flow what it says where it is in force, and the packets go where they
    /// would have gone without it. Both sets name networks of their own, so identities differ too.
    #[test]
    fn staged_verdicts_are_those_of_an_engine_that_enforces_them(
        rules in proptest::array::uniform2(proptest::collection::vec((0..4u8, 0..4u16), 0..6)),
        flows in proptest::collection::vec((0..6u8, 0..3u8, 0..4u16), 1..60),
    ) {
        let set = |name: &str, rules: &[(u8, u16)]| {
            let mut text = format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, \
                 namespace: shop}}\nspec:\n  podSelector: {{matchLabels: {{app: db}}}}\n  \
                 policyTypes: [Ingress]\n  ingress:\n"
            );
            for (from, port) in rules {
                let peer = match from {
                    0 => "podSelector: {matchLabels: {app: web}}".to_owned(),
                    net => format!("ipBlock: {{cidr: 10.0.{net}.0/24}}"),
                };
                text += &format!("  - {{from: [{{{peer}}}], ports: [{{port: {}}}]}}\n", 80 + port);
            }
            if rules.is_empty() { text.replace("  ingress:\n", "") } else { text }
        };
        let (now, next) = (set("now", &rules[0]), set("next", &rules[1]));
        let mut stand = Stand::new(Config::default(), |_| ());
        let (cluster, _) = stand.engine.in_force();
        stand.engine.apply(cluster.clone(), policies(&now)).unwrap();
        stand.engine.stage(policies(&next)).unwrap();
        let (by_now, by_next) = (alone(&cluster, &now), alone(&cluster, &next));
        let mut expected = (0, 0, 0);
        for (n, (from, to, port)) in flows.iter().enumerate() {
            let from = if *from == 0 { WEB } else { [10, 0, *from, 9] };
            let to = if *to == 0 { WEB } else { DB };
            let ports = (1000 + n as u16, 80 + port);
            stand.tcp((from, ports.0), (to, ports.1), "S", 1, 0);
            let flow = portcullis::policy::Flow::new(from.into(), to.into(), 6, ports);
            let allows = |engine: &Engine| {
                engine.evaluate(&flow).verdict == portcullis::policy::Verdict::Allow
            };
            let (is, would) = (allows(&by_now), allows(&by_next));
            expected.0 += 1;
            expected.1 += u64::from(!is && would);
            expected.2 += u64::from(is && !would);
            for record in stand.records() {
                let allowed = record.verdict == Action::Allow;
                proptest::prop_assert_eq!(allowed, is);
                let staged = record.staged.map(|staged| staged.verdict == Action::Allow);
                proptest::prop_assert_eq!(staged, (is != would).then_some(would), "{:?}", flow);
            }
        }
        let totals = stand.engine.totals();
        let counted = (totals.staged, totals.staged_allows, totals.staged_denies);
        proptest::prop_assert_eq!(counted, expected);
    }
}

#[test]
fn nothing_is_counted_twice_or_forgotten_between_threads() {
    let mut settings = EngineConfig::default();
    settings.pipeline.event_capacity = 256;
    settings.pipeline.denied_burst = NonZeroU32::new(16);
    let engine = Engine::new(settings).unwrap();
    let endpoints = vec![pod("web-0", "web", WEB), pod("db-0", "db", DB)];
    let cluster = ClusterState { endpoints, ..ClusterState::default() };
    engine.apply(cluster, policies(POLICIES)).unwrap();
    let mut recorder = Recorder::new(&engine, Config::default());
    let records = recorder.hub().subscribe(500);
    let recorded = recorder.recorded();
    let done = std::sync::atomic::AtomicUsize::new(0);
    let (mut starts, mut denied, mut taken) = (0, 0, 0);
    std::thread::scope(|scope| {
        for worker in 0..3u32 {
            let (engine, done) = (&engine, &done);
            scope.spawn(move || {
                let mut judge = engine.judge();
                let mut syn = Syn::new();
                for n in 0..20_000u32 {
                    let port = if n % 3 == 0 { 5432 } else { 22 };
                    let from = u32::from_be_bytes(WEB);
                    let frame = syn.from(from, (worker * 20_000 + n) as u16, port).to_vec();
                    judge.packets(&[Input::new(&frame)], &mut [Judgement::default()]);
                }
                drop(judge);
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        let mut last = false;
        loop {
            recorder.poll();
            if last {
                recorder.finish();
            }
            while let Some(received) = records.next() {
                taken += 1;
                starts += u64::from(received.event == Event::Start);
                denied += received.denied();
            }
            if last {
                break;
            }
            last = done.load(std::sync::atomic::Ordering::SeqCst) == 3;
        }
    });
    let (totals, recorded) = (engine.totals(), recorded.now());
    assert_eq!(totals.received, 60_000);
    assert_eq!(totals.opened, recorded.started + totals.events_lost_by_kind[0]);
    assert_eq!(totals.dropped, recorded.denied_packets + totals.events_lost_by_kind[1]);
    assert_eq!(recorded.denied_packets, recorded.denied_recorded);
    assert_eq!(recorded.records + recorded.denied_records, taken + records.lost());
    if records.lost() == 0 {
        assert_eq!((starts, denied), (recorded.started, recorded.denied_packets));
    }
}
