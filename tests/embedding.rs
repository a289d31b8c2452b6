//! The engine as an embedding program uses it: packets and flows handed in, endpoints and sets that
//! change meanwhile, records read back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etherparse::PacketBuilder;
use portcullis::dataplane::clock::Virtual;
use portcullis::dataplane::connection::Windows;
use portcullis::dataplane::pipeline::{Input, Judgement, State};
use portcullis::dataplane::reason::Reason;
use portcullis::dataplane::verdict::Verdict;
use portcullis::identity_table::endpoint::{ClusterState, Endpoint};
use portcullis::policy::model::PolicySet;
use portcullis::policy::{Flow, Source, parse_policies};
use portcullis::{Engine, EngineConfig, Error, FlowKind, Judge};

const WEB_TO_DB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-to-db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
";

const FEED: &str = r#"
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: feed, labels: {kind: threat}}
spec: {nets: ["198.51.100.0/24"]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: drop-threats}
spec:
  selector: all()
  types: [Ingress]
  ingress:
  - {action: Deny, source: {selector: "kind == 'threat'"}}
  - {action: Allow}
"#;

fn policies(text: &str) -> PolicySet {
    parse_policies(&[Source::new("policies.yaml", text)]).unwrap().value
}

fn pod(name: &str, app: &str, address: &str) -> Endpoint {
    Endpoint {
        labels: [("app", app)].into_iter().collect(),
        addresses: vec![address.parse().unwrap()],
        ..Endpoint::new("shop", name)
    }
}

fn shop() -> ClusterState {
    let endpoints = vec![pod("web-0", "web", "10.0.0.1"), pod("db-0", "db", "10.0.0.2")];
    ClusterState { endpoints, ..ClusterState::default() }
}

fn engine(text: &str) -> Engine {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    engine.apply(shop(), policies(text)).unwrap();
    engine
}

/// A TCP segment without data.
fn tcp(from: &str, to: &str, flags: &str, seq: u32, ack: u32) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => builder.ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => builder.ipv6(a.octets(), b.octets(), 64),
        _ => panic!("two families"),
    };
    let mut builder = builder.tcp(from.port(), to.port(), seq, 65535);
    if flags.contains('S') {
        builder = builder.syn();
    }
    if flags.contains('A') {
        builder = builder.ack(ack);
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

fn judge_one(judge: &mut Judge, frame: &[u8]) -> Judgement {
    let mut out = [Judgement::default()];
    assert_eq!(judge.packets(&[Input::new(frame)], &mut out), 1);
    out[0]
}

fn allowed(engine: &Engine, from: &str, to: &str, port: u16) -> bool {
    let flow = Flow::new(from.parse().unwrap(), to.parse().unwrap(), 6, (40000, port));
    let mut out = [Judgement::default()];
    engine.judge().flows(&[flow], &mut out);
    let fast = out[0].verdict == Verdict::Allow;
    let slow = engine.evaluate(&flow).verdict == portcullis::policy::Verdict::Allow;
    assert_eq!(fast, slow, "table and program say what the registry says: {flow}");
    fast
}

#[test]
fn shared_types_cross_threads() {
    fn shared<T: Send + Sync>() {}
    fn movable<T: Send>() {}
    shared::<Engine>();
    shared::<Error>();
    shared::<portcullis::FlowEvent>();
    shared::<portcullis::Totals>();
    movable::<Judge>();
    #[cfg(feature = "xdp")]
    shared::<portcullis::Firewall>();
}

#[test]
fn a_connection_passes_in_both_directions_and_its_end_is_told() {
    let clock = Arc::new(Virtual::default());
    let mut config = EngineConfig::default();
    config.clock = clock.clone();
    let engine = Engine::new(config).unwrap();
    engine.apply(shop(), policies(WEB_TO_DB)).unwrap();
    let mut judge = engine.judge();
    let (web, db) = ("10.0.0.1:40000", "10.0.0.2:5432");

    let syn = judge_one(&mut judge, &tcp(web, db, "S", 100, 0));
    assert_eq!((syn.verdict, syn.state), (Verdict::Allow, State::New));
    let answer = judge_one(&mut judge, &tcp(db, web, "SA", 500, 101));
    assert_eq!((answer.verdict, answer.state), (Verdict::Allow, State::Established));
    let other = judge_one(&mut judge, &tcp(db, "10.0.0.1:40001", "A", 500, 101));
    assert_eq!(other.reason, Some(Reason::TcpNotOpening));

    // The client goes away; when the connection times out it still has its name.
    clock.advance(Duration::from_secs(1));
    assert!(engine.endpoints().remove("shop", "web-0").unwrap());
    for _ in 0..200 {
        clock.advance(Duration::from_secs(60));
        judge.packets(&[], &mut []);
    }
    let mut events = Vec::new();
    engine.events(|event| events.push(event));
    assert_eq!(events[0].kind, FlowKind::Opened);
    assert_eq!(events[0].from.name(), Some(("shop", "web-0")));
    assert_eq!(events[0].from.labels().unwrap().value("app"), Some("web"));
    assert_eq!(events[0].policy, "NetworkPolicy/shop/web-to-db");
    assert_eq!(events[0].rule.as_ref().unwrap().origin.line, 7);
    let ended = events.iter().find(|e| matches!(e.kind, FlowKind::Ended { .. })).expect("an end");
    assert_eq!(ended.from.name(), Some(("shop", "web-0")));
    let FlowKind::Ended { traffic, .. } = ended.kind else { unreachable!() };
    assert_eq!((traffic[0].packets, traffic[1].packets), (1, 1));
    let totals = engine.totals();
    assert_eq!((totals.received, totals.forwarded, totals.dropped), (3, 2, 1));
    assert_eq!((totals.opened, totals.ended, totals.connections), (1, 1, 0));
}

#[test]
fn endpoints_come_change_and_go() {
    let engine = engine(WEB_TO_DB);
    assert!(allowed(&engine, "10.0.0.1", "10.0.0.2", 5432));

    // Like its sibling; then one that nobody is like; then relabelled; then gone.
    engine.endpoints().upsert(pod("web-1", "web", "10.0.0.3")).unwrap();
    assert!(allowed(&engine, "10.0.0.3", "10.0.0.2", 5432));
    engine.endpoints().upsert(pod("db-1", "db", "10.0.0.4")).unwrap();
    assert!(allowed(&engine, "10.0.0.3", "10.0.0.4", 5432));
    assert!(!allowed(&engine, "10.0.0.2", "10.0.0.4", 5432));
    engine.endpoints().upsert(pod("web-1", "retired", "10.0.0.3")).unwrap();
    assert!(!allowed(&engine, "10.0.0.3", "10.0.0.4", 5432));
    assert!(allowed(&engine, "10.0.0.1", "10.0.0.4", 5432));
    assert!(engine.endpoints().remove("shop", "db-1").unwrap());
    assert!(!engine.endpoints().remove("shop", "db-1").unwrap());
    assert!(allowed(&engine, "10.0.0.2", "10.0.0.4", 80), "outside the cluster nothing applies");

    // An address moves from one to another.
    engine.endpoints().remove("shop", "web-0").unwrap();
    engine.endpoints().upsert(pod("db-2", "db", "10.0.0.1")).unwrap();
    assert!(!allowed(&engine, "10.0.0.1", "10.0.0.2", 5432));
    assert_eq!(engine.endpoints().find("shop", "db-2").unwrap().addresses.len(), 1);

    let applied = engine.endpoints().replace_all(shop().endpoints).unwrap();
    assert_eq!((applied.endpoints, applied.policies), (2, 1));
    assert!(allowed(&engine, "10.0.0.1", "10.0.0.2", 5432));
}

#[test]
fn a_connection_is_judged_again_when_its_endpoint_changes() {
    let engine = engine(WEB_TO_DB);
    let mut judge = engine.judge();
    let (web, db) = ("10.0.0.1:40000", "10.0.0.2:5432");
    judge_one(&mut judge, &tcp(web, db, "S", 100, 0));
    judge_one(&mut judge, &tcp(db, web, "SA", 500, 101));
    assert_eq!(judge_one(&mut judge, &tcp(web, db, "A", 101, 501)).verdict, Verdict::Allow);
    engine.endpoints().upsert(pod("web-9", "web", "10.0.0.9")).unwrap();
    assert_eq!(judge_one(&mut judge, &tcp(web, db, "A", 101, 501)).verdict, Verdict::Allow);
    engine.endpoints().upsert(pod("web-0", "retired", "10.0.0.1")).unwrap();
    let cut = judge_one(&mut judge, &tcp(web, db, "A", 101, 501));
    assert_eq!(cut.reason, Some(Reason::PolicyDenied));
}

/// Flows between all that the tests know.
fn everything(engine: &Engine) -> Vec<bool> {
    let hosts = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "198.51.100.7", "192.0.2.1"];
    let pairs = hosts.iter().flat_map(|a| hosts.iter().map(move |b| (a, b)));
    pairs.flat_map(|(a, b)| [80, 5432].map(|port| allowed(engine, a, b, port))).collect()
}

/// What packets meet, whatever the engine says of itself.
fn on_the_wire(engine: &Engine) -> bool {
    let mut judge = engine.judge();
    let syn = tcp("10.0.0.1:40000", "10.0.0.2:5432", "S", 1, 0);
    judge_one(&mut judge, &syn).verdict == Verdict::Allow
}

#[test]
fn what_fails_changes_nothing_now_or_later() {
    let mut config = EngineConfig::default();
    config.policy.max_cells = 64;
    let small = Engine::new(config).unwrap();
    small.apply(shop(), policies(WEB_TO_DB)).unwrap();
    let twin = engine(WEB_TO_DB);
    let before = everything(&small);
    assert_eq!(before, everything(&twin));

    // A cluster that contradicts itself.
    let mut clash = shop();
    clash.endpoints.push(pod("thief", "web", "10.0.0.2"));
    let error = small.apply(clash, policies(WEB_TO_DB)).unwrap_err();
    assert!(error.to_string().contains("10.0.0.2"), "{error}");
    assert_eq!(small.applied().generation, 1);

    // A good cluster with policies that are too large: neither is taken.
    let ports: Vec<String> = (0..200).map(|n| format!("{{port: {}}}", 1000 + 2 * n)).collect();
    let large = WEB_TO_DB.replace("{port: 5432}", &ports.join(", "));
    let mut other = shop();
    other.endpoints[0].labels = [("app", "other")].into_iter().collect();
    other.endpoints.push(pod("web-7", "web", "10.0.0.3"));
    let error = small.apply(other.clone(), policies(&large)).unwrap_err();
    assert!(matches!(error, Error::Policy(_)), "{error}");
    assert!(on_the_wire(&small));
    assert_eq!((small.applied(), small.endpoints().count()), (twin.applied(), 2));

    // One endpoint with an address that another has, or that no table takes.
    assert!(small.endpoints().upsert(pod("thief", "web", "10.0.0.2")).is_err());
    assert!(small.endpoints().upsert(pod("odd", "web", "::ffff:10.0.0.9")).is_err());
    let mut mapped = shop().endpoints;
    mapped.push(pod("odd", "web", "::ffff:10.0.0.9"));
    assert!(small.endpoints().replace_all(mapped).is_err());
    assert!(matches!(small.sets().replace("nosuch", vec![]), Err(Error::NoSuchSet { .. })));
    assert!(on_the_wire(&small));

    // What follows is as if nothing had been tried.
    for engine in [&small, &twin] {
        engine.endpoints().upsert(pod("web-1", "web", "10.0.0.3")).unwrap();
    }
    assert_eq!(everything(&small), everything(&twin));
    assert!(allowed(&small, "10.0.0.3", "10.0.0.2", 5432));
    for engine in [&small, &twin] {
        engine.endpoints().upsert(pod("web-0", "none", "10.0.0.1")).unwrap();
        engine.endpoints().remove("shop", "web-1").unwrap();
    }
    assert_eq!(everything(&small), everything(&twin));
    assert!(!on_the_wire(&small));
    small.apply(shop(), policies(WEB_TO_DB)).unwrap();
    assert_eq!(everything(&small), before);
}

#[test]
fn a_feed_is_replaced_and_stays_when_policies_are_applied() {
    let engine = engine(FEED);
    let name = "GlobalNetworkSet//feed";
    assert_eq!(engine.sets().list(), [(name.to_owned(), 1)]);
    assert!(!allowed(&engine, "198.51.100.7", "10.0.0.2", 80));
    assert!(allowed(&engine, "192.0.2.1", "10.0.0.2", 80));

    let feed = vec!["192.0.2.0/25".parse().unwrap(), "2001:db8:bad::/48".parse().unwrap()];
    engine.sets().replace(name, feed).unwrap();
    assert!(allowed(&engine, "198.51.100.7", "10.0.0.2", 80));
    assert!(!allowed(&engine, "192.0.2.1", "10.0.0.2", 80));

    engine.apply(shop(), policies(FEED)).unwrap();
    assert!(!allowed(&engine, "192.0.2.1", "10.0.0.2", 80), "the feed outlives the documents");
    // And single endpoints still come and go beside it.
    engine.endpoints().upsert(pod("web-1", "web", "192.0.2.1")).unwrap();
    assert!(!allowed(&engine, "192.0.2.1", "10.0.0.2", 80), "a pod within the feed's prefix too");
    assert!(engine.sets().forget(name));
    engine.apply(shop(), policies(FEED)).unwrap();
    assert!(allowed(&engine, "192.0.2.1", "10.0.0.2", 80));
}

#[test]
fn policies_alone_are_replaced_and_endpoints_stay() {
    let engine = engine(FEED);
    engine.endpoints().upsert(pod("web-1", "web", "10.0.0.7")).unwrap();
    engine.sets().replace("GlobalNetworkSet//feed", vec!["10.0.0.7/32".parse().unwrap()]).unwrap();
    let applied = engine.set_policies(policies(WEB_TO_DB)).unwrap();
    assert_eq!((applied.policies, applied.endpoints), (1, 3));
    assert!(allowed(&engine, "10.0.0.7", "10.0.0.2", 5432), "an endpoint that came meanwhile");
    assert!(!allowed(&engine, "10.0.0.7", "10.0.0.2", 22));
    engine.set_policies(policies(FEED)).unwrap();
    assert!(!allowed(&engine, "10.0.0.7", "10.0.0.2", 22), "the feed kept its content");
    assert!(allowed(&engine, "198.51.100.1", "10.0.0.2", 22));
}

#[test]
fn two_engines_know_nothing_of_each_other() {
    let (one, two) = (engine(WEB_TO_DB), engine(FEED));
    assert!(!allowed(&one, "10.0.0.1", "10.0.0.2", 80));
    assert!(allowed(&two, "10.0.0.1", "10.0.0.2", 80));
    let mut judge = one.judge();
    judge_one(&mut judge, &tcp("10.0.0.1:1", "10.0.0.2:80", "S", 1, 0));
    assert_eq!((one.totals().received, two.totals().received), (1, 0));
}

#[test]
fn without_a_policy_nothing_passes() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let mut judge = engine.judge();
    let syn = judge_one(&mut judge, &tcp("10.0.0.1:1", "10.0.0.2:80", "S", 1, 0));
    assert_eq!((syn.verdict, syn.reason), (Verdict::Deny, Some(Reason::NoPolicy)));
    let flow = Flow::new("10.0.0.1".parse().unwrap(), "::1".parse().unwrap(), 6, (1, 1));
    let mut out = [Judgement::default(); 2];
    assert_eq!(judge.flows(&[flow], &mut out), 1);
    assert_eq!(out[0].reason, Some(Reason::NoPolicy));
    engine.apply(shop(), PolicySet::default()).unwrap();
    // A flow of two families is none.
    judge.flows(&[flow], &mut out);
    assert_eq!(out[0].reason, Some(Reason::IpVersion));
}

#[test]
fn batches_of_any_length_and_shape() {
    let engine = engine(WEB_TO_DB);
    let mut judge = engine.judge();
    let v4: Vec<_> = (0..300u16)
        .map(|n| tcp(&format!("10.0.0.1:{}", 1000 + n), "10.0.0.2:5432", "S", 1, 0))
        .collect();
    let inputs: Vec<_> = v4.iter().map(|frame| Input::new(frame)).collect();
    for (packets, room) in [(300, 300), (300, 70), (70, 300), (65, 64), (0, 5), (5, 0)] {
        let mut out = vec![Judgement::default(); room];
        assert_eq!(judge.packets(&inputs[..packets], &mut out), packets.min(room));
        for judgement in &out[..packets.min(room)] {
            assert_eq!(judgement.verdict, Verdict::Allow);
        }
    }
    // Families mixed in one batch.
    let address = |text: &str| -> IpAddr { text.parse().unwrap() };
    let flows: Vec<Flow> = (0..200)
        .map(|n| match n % 3 {
            0 => Flow::new(address("2001:db8::1"), address("2001:db8::2"), 6, (1, 2)),
            1 => Flow::new(address("10.0.0.1"), address("10.0.0.2"), 6, (1, 5432)),
            _ => Flow::new(address("10.0.0.1"), address("10.0.0.2"), 1, (8, 0)),
        })
        .collect();
    let mut out = vec![Judgement::default(); 200];
    assert_eq!(judge.flows(&flows, &mut out), 200);
    for (flow, out) in flows.iter().zip(&out) {
        let verdict = engine.evaluate(flow).verdict == portcullis::policy::Verdict::Allow;
        assert_eq!(out.verdict == Verdict::Allow, verdict, "{flow}");
    }
}

#[test]
fn the_descriptor_is_readable_while_events_wait() {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let engine = engine(WEB_TO_DB);
    let ready = || {
        let mut fds = [PollFd::new(engine.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    };
    let mut judge = engine.judge();
    assert!(!ready());
    for port in [1u16, 2, 3] {
        judge_one(&mut judge, &tcp(&format!("10.0.0.1:{port}"), "10.0.0.2:5432", "S", 1, 0));
    }
    assert!(ready());
    assert_eq!(engine.events_up_to(2, drop), 2);
    assert!(ready(), "one is left");
    assert_eq!(engine.events_up_to(2, drop), 1);
    assert!(!ready());
    // The events of a judge that is gone are not lost.
    judge_one(&mut judge, &tcp("10.0.0.1:4", "10.0.0.2:5432", "S", 1, 0));
    drop(judge);
    assert!(ready());
    assert_eq!(engine.events_up_to(usize::MAX, drop), 1);
    assert_eq!(engine.totals().received, 4, "nor are its counts");
}

/// Endpoints come, are relabelled and go while a judge asks all the time: what always may pass
/// always passes, what never may never does.
#[test]
fn no_flow_is_misjudged_while_endpoints_change() {
    let mut config = EngineConfig::default();
    config.retention = Duration::ZERO;
    let engine = Engine::new(config).unwrap();
    engine.apply(shop(), policies(WEB_TO_DB)).unwrap();
    engine.endpoints().upsert(pod("busy", "web", "10.0.0.50")).unwrap();
    let stop = AtomicBool::new(false);
    let (mut asked, rounds) = (0u64, if cfg!(debug_assertions) { 150 } else { 1500 });
    let address = |text: &str| -> IpAddr { text.parse().unwrap() };
    let flow = |from: &str, to: &str, port| Flow::new(address(from), address(to), 6, (1, port));
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for n in 0..rounds {
                // Still a web server, but each time with another identity.
                let mut busy = pod("busy", "web", "10.0.0.50");
                busy.labels = busy.labels.with("turn", &n.to_string());
                engine.endpoints().upsert(busy).unwrap();
                let (extra, app) = (format!("extra-{}", n % 7), format!("app-{}", n % 5));
                engine.endpoints().upsert(pod(&extra, &app, &format!("10.1.0.{}", n % 7))).unwrap();
                if n % 3 == 0 {
                    let gone = format!("extra-{}", (n + 3) % 7);
                    engine.endpoints().remove("shop", &gone).unwrap();
                }
                if n % 50 == 0 {
                    let all = engine.in_force().0.endpoints;
                    engine.endpoints().replace_all(all).unwrap();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        let always = [
            flow("10.0.0.50", "10.0.0.2", 5432),
            flow("10.0.0.1", "10.0.0.2", 5432),
            flow("10.0.0.2", "10.0.0.50", 80),
        ];
        let never = [flow("10.0.0.50", "10.0.0.2", 80), flow("10.1.0.3", "10.0.0.2", 5432)];
        let mut judge = engine.judge();
        let mut out = [Judgement::default(); 3];
        while !stop.load(Ordering::Relaxed) {
            judge.flows(&always, &mut out);
            for (flow, judgement) in always.iter().zip(&out) {
                assert_eq!(judgement.verdict, Verdict::Allow, "{flow} after {asked}");
            }
            judge.flows(&never, &mut out);
            for (flow, judgement) in never.iter().zip(&out) {
                assert_eq!(judgement.verdict, Verdict::Deny, "{flow} after {asked}");
            }
            asked += 1;
        }
        changes.join().unwrap();
    });
    assert!(asked > 10, "the judge was heard");
    // Numbers of identities that are gone are given again: they do not grow with changes.
    let mut out = [Judgement::default()];
    engine.judge().flows(&[flow("10.0.0.50", "10.0.0.2", 5432)], &mut out);
    assert!((256..400).contains(&out[0].source.get()), "{}", out[0].source);
}

/// Identities and rules have other numbers in the next process: a connection that is restored is named by
/// those of its own time.
#[test]
fn connections_are_restored_and_judged_by_what_is_in_force() {
    let (web, db) = ("10.0.0.1:40000", "10.0.0.2:5432");
    let before = engine(WEB_TO_DB);
    let mut judge = before.judge();
    for frame in
        [tcp(web, db, "S", 100, 0), tcp(db, web, "SA", 500, 101), tcp(web, db, "A", 101, 501)]
    {
        assert_eq!(judge_one(&mut judge, &frame).verdict, Verdict::Allow);
    }
    let mut file = Vec::new();
    assert_eq!(before.save_connections(&mut file).unwrap(), 1);

    // Others were there first, and have the numbers.
    let prepared = |policy: &str| {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let mut cluster = shop();
        cluster.endpoints.insert(0, pod("cache-0", "cache", "10.0.0.9"));
        let first = WEB_TO_DB.replace("web-to-db", "another").replace("app: db", "app: cache");
        engine.apply(cluster, policies(&format!("{first}---{policy}"))).unwrap();
        let restored = engine.restore_connections(Windows::Hold, &mut &file[..]).unwrap();
        assert_eq!((restored.restored, restored.left_out), (1, 0));
        engine
    };
    let middle = tcp(db, web, "A", 501, 101);
    let open = prepared(WEB_TO_DB);
    let mut judge = open.judge();
    let other = judge_one(&mut judge, &tcp(db, "10.0.0.1:40001", "A", 501, 101));
    assert_eq!(other.reason, Some(Reason::TcpNotOpening), "an unknown one");
    let judgement = judge_one(&mut judge, &middle);
    assert_eq!((judgement.verdict, judgement.state), (Verdict::Allow, State::Established));
    let rule = open.rule(judgement.rule).expect("a rule of this process");
    assert_eq!(rule.policy.name.to_string(), "NetworkPolicy/shop/web-to-db");
    // Whoever reads records hears of it, with the names of this process.
    let mut events = Vec::new();
    open.events(|event| events.push(event));
    let kinds: Vec<FlowKind> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [FlowKind::Dropped, FlowKind::Changed]);
    assert_eq!(events[1].policy, "NetworkPolicy/shop/web-to-db");
    assert_eq!(events[1].from.name(), Some(("shop", "web-0")), "who opened it");
    assert_eq!(events[1].to.name(), Some(("shop", "db-0")));

    let closed = prepared(&WEB_TO_DB.replace("5432", "5433"));
    let judgement = judge_one(&mut closed.judge(), &middle);
    assert_eq!(judgement.verdict, Verdict::Deny);
    assert_eq!(closed.totals().connections, 0, "denied, it is forgotten");

    file[20] ^= 1;
    let engine = engine(WEB_TO_DB);
    assert!(engine.restore_connections(Windows::Hold, &mut &file[..]).is_err());
    assert_eq!(engine.totals().connections, 0);
}

/// A `Log` rule marks the records of what it met, whatever decides afterwards, and decides nothing.
#[test]
fn what_a_log_rule_meets_is_marked_in_its_record() {
    let engine = engine(
        r#"
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: noted}
spec:
  selector: app == 'db'
  types: [Ingress]
  ingress:
  - {action: Log, protocol: TCP, destination: {ports: [5432, 5433]}}
  - {action: Allow, protocol: TCP, destination: {ports: [5432, 5434]}}
  - {action: Deny}
"#,
    );
    let mut judge = engine.judge();
    for (port, verdict, log) in [
        (5432, Verdict::Allow, true),
        (5433, Verdict::Deny, true),
        (5434, Verdict::Allow, false),
        (5435, Verdict::Deny, false),
    ] {
        let syn = tcp("10.0.0.1:40000", &format!("10.0.0.2:{port}"), "S", 100, 0);
        assert_eq!(judge_one(&mut judge, &syn).verdict, verdict, "{port}");
        let mut events = Vec::new();
        engine.events(|event| events.push(event));
        assert_eq!(events.iter().map(|event| event.log).collect::<Vec<_>>(), [log], "{port}");
    }
}
