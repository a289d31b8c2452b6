//! Rates, mirrors and zones by name, through the engine.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use etherparse::PacketBuilder;
use portcullis::dataplane::clock::Virtual;
use portcullis::dataplane::packet::{Encapsulation, Tunnel};
use portcullis::dataplane::pipeline::{Input, Judgement, PacketRate, Unit};
use portcullis::dataplane::reason::Reason;
use portcullis::identity_table::endpoint::{ClusterState, Endpoint};
use portcullis::policy::model::{Direction, PolicySet};
use portcullis::policy::{Flow, Source, Verdict, parse_policies};
use portcullis::{Engine, EngineConfig, Judge, Rates, RuleName};

/// Web may reach the database on two ports, each by a rule of its own.
const TWO_RULES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - {from: [{podSelector: {}}], ports: [{port: 1000, protocol: UDP}]}
  - {from: [{podSelector: {}}], ports: [{port: 1001, protocol: UDP}]}
";

fn policies(text: &str) -> PolicySet {
    parse_policies(&[Source::new("policies.yaml", text)]).unwrap().value
}

fn pod(name: &str, address: &str) -> Endpoint {
    Endpoint {
        labels: [("app", name)].into_iter().collect(),
        addresses: vec![address.parse().unwrap()],
        ..Endpoint::new("shop", name)
    }
}

fn shop() -> ClusterState {
    let endpoints = vec![pod("web", "10.0.0.1"), pod("db", "10.0.0.2")];
    ClusterState { endpoints, ..ClusterState::default() }
}

fn udp(port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let build = link.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(4000, port);
    build.write(&mut frame, b"ask").unwrap();
    frame
}

fn in_vxlan(vni: u32, inner: &[u8]) -> Vec<u8> {
    let payload = [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), inner].concat();
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let build = link.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(5000, 4789);
    build.write(&mut frame, &payload).unwrap();
    frame
}

fn reason(judge: &mut Judge, frame: &[u8]) -> Option<Reason> {
    let mut out = [Judgement::default()];
    assert_eq!(judge.packets(&[Input::new(frame)], &mut out), 1);
    out[0].reason
}

/// How many of ten packets to a port pass.
fn passing(judge: &mut Judge, port: u16) -> usize {
    (0..10).filter(|_| reason(judge, &udp(port)).is_none()).count()
}

fn name(policy: &str, index: Option<u32>) -> RuleName {
    RuleName { policy: policy.to_owned(), direction: None, index }
}

fn packets(burst: u64) -> PacketRate {
    PacketRate { unit: Unit::Packets, per_second: 1, burst }
}

fn engine() -> (Engine, Arc<Virtual>) {
    let clock = Arc::new(Virtual::default());
    let mut config = EngineConfig::default();
    config.clock = clock.clone();
    let network = |vni| Tunnel::Network { encapsulation: Encapsulation::Vxlan, port: 4789, vni };
    config.pipeline.tunnels.open(network(10), 0).unwrap();
    config.pipeline.tunnels.open(network(11), 1).unwrap();
    (Engine::new(config).unwrap(), clock)
}

#[test]
fn rules_are_limited_by_name_whenever_they_are_loaded() {
    let (engine, clock) = engine();
    let db = "NetworkPolicy/shop/db";
    let rules = vec![
        (name(db, None), packets(7)),
        (name(db, Some(1)), packets(3)),
        (name("NetworkPolicy/shop/bd", None), packets(0)),
    ];
    let mut rates = Rates { rules, ..Rates::default() };
    // Before anything is loaded: no packet meets the rules without their limits.
    engine.limit_rates(rates.clone());
    assert_eq!(engine.unknown_rules().len(), 3);
    engine.apply(shop(), policies(TWO_RULES)).unwrap();
    assert_eq!(engine.unknown_rules(), [name("NetworkPolicy/shop/bd", None)]);
    let mut judge = engine.judge();
    assert_eq!((passing(&mut judge, 1000), passing(&mut judge, 1001)), (7, 3));
    assert_eq!(reason(&mut judge, &udp(1000)), Some(Reason::RateLimit));

    // Applying the same again gives nobody tokens; a new rule has its limit from its first packet.
    engine.apply(shop(), policies(TWO_RULES)).unwrap();
    assert_eq!((passing(&mut judge, 1000), passing(&mut judge, 1001)), (0, 0));
    clock.advance(Duration::from_secs(2));
    assert_eq!(passing(&mut judge, 1001), 2);
    let three = format!("{TWO_RULES}  - {{ports: [{{port: 1002, protocol: UDP}}]}}\n");
    engine.apply(shop(), policies(&three)).unwrap();
    assert_eq!(passing(&mut judge, 1002), 7);

    // Of one direction only; then of none.
    rates.rules =
        vec![(RuleName { direction: Some(Direction::Egress), ..name(db, None) }, packets(0))];
    engine.limit_rates(rates);
    assert_eq!(passing(&mut judge, 1000), 10);
    engine.limit_rates(Rates { identity: Some(packets(4)), ..Rates::default() });
    assert_eq!(passing(&mut judge, 1000), 4);
    engine.limit_rates(Rates::default());
    assert_eq!(passing(&mut judge, 1000), 10);
}

#[test]
fn a_zone_has_a_cluster_policies_and_records_of_its_own() {
    let (engine, _clock) = engine();
    let one = NonZeroU16::new(1).unwrap();
    let mut judge = engine.judge();
    let ask = |vni, port| in_vxlan(vni, &udp(port));
    let closed = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: tenant-db}}}
";
    engine.apply(shop(), policies(TWO_RULES)).unwrap();
    assert_eq!(reason(&mut judge, &ask(11, 1000)), Some(Reason::PolicyDenied), "nothing applied");
    assert_eq!((engine.zone(one).applied(), engine.zone(one).remove()), (None, false));
    assert!(!engine.zone(one).upsert_endpoint(pod("x", "10.0.0.9")).unwrap());

    let tenants = || {
        let endpoints = vec![pod("tenant-web", "10.0.0.1"), pod("tenant-db", "10.0.0.2")];
        ClusterState { endpoints, ..ClusterState::default() }
    };
    let applied = engine.zone(one).apply(tenants(), policies(closed)).unwrap();
    assert_eq!((applied.generation, applied.endpoints, engine.zones()), (1, 2, vec![1]));
    assert_eq!(engine.applied().generation, 1, "zone 0 is another matter");
    assert_eq!(reason(&mut judge, &ask(10, 1000)), None);
    assert_eq!(reason(&mut judge, &ask(11, 1000)), Some(Reason::PolicyDenied));

    // Records name who had the address in that zone, and the rule of that zone.
    let mut seen = Vec::new();
    engine.events(|event| {
        let who = event.to.name().map(|(_, name)| name.to_owned());
        seen.push((event.zone, event.allowed, who, event.policy.clone()));
    });
    let db = |zone, allowed, who: &str, policy: &str| {
        (zone, allowed, Some(who.to_owned()), format!("NetworkPolicy/shop/{policy}"))
    };
    assert_eq!(seen[1..], [db(0, true, "db", "db"), db(1, false, "tenant-db", "closed")]);

    // Its endpoints change in place, and its policies as a whole; what is refused changes nothing.
    assert!(engine.zone(one).remove_endpoint("shop", "tenant-db").unwrap());
    assert_eq!(reason(&mut judge, &ask(11, 1000)), None, "no policy selects the address any more");
    assert!(engine.zone(one).upsert_endpoint(pod("tenant-db", "10.0.0.2")).unwrap());
    assert_eq!(reason(&mut judge, &ask(11, 1000)), Some(Reason::PolicyDenied));
    let twice = vec![pod("a", "10.0.0.2"), pod("b", "10.0.0.2")];
    let broken = ClusterState { endpoints: twice, ..ClusterState::default() };
    assert!(engine.zone(one).apply(broken, policies(closed)).is_err());
    let flow = Flow::new("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 17, (1, 1000));
    assert_eq!(engine.zone(one).evaluate(&flow).unwrap().verdict, Verdict::Deny);
    assert_eq!(engine.evaluate(&flow).verdict, Verdict::Allow);

    assert!(engine.zone(one).remove());
    assert_eq!(reason(&mut judge, &ask(11, 1000)), Some(Reason::PolicyDenied));
    assert_eq!(reason(&mut judge, &ask(10, 1001)), None);
}
