//! A set of many prefixes is replaced while endpoints come and go.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portcullis::Engine;
use portcullis::identity_table::endpoint::{ClusterState, Endpoint};
use portcullis::policy::{Flow, Source, parse_policies};

const FEED: &str = "GlobalNetworkSet//feed";
const POLICIES: &str = "
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: feed, labels: {kind: feed}}}
---
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: threats},
 spec: {selector: \"app == 'web'\", types: [Ingress], ingress: [{action: Deny, source: {selector: \"kind == 'feed'\"}}, {action: Allow}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: db, namespace: shop},
 spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}}
";
/// Members of the set: about a second to replace, built with or without optimisation.
const MEMBERS: u32 = if cfg!(debug_assertions) { 400_000 } else { 2_000_000 };

fn pod(name: &str, app: &str, address: [u8; 4]) -> Endpoint {
    Endpoint {
        labels: [("app", app)].into_iter().collect(),
        addresses: vec![address.into()],
        ..Endpoint::new("shop", name)
    }
}

fn passes(engine: &Engine, source: IpAddr, destination: [u8; 4]) -> bool {
    let flow = Flow::new(source, destination.into(), 6, (40000, 5432));
    let mut judged = [Default::default()];
    engine.judge().flows(&[flow], &mut judged);
    judged[0].verdict.as_str() == "allow"
}

#[test]
fn endpoints_come_and_go_while_a_large_set_is_replaced() {
    let engine = Engine::new(Default::default()).unwrap();
    let policies = parse_policies(&[Source::new("policies.yaml", POLICIES)]).unwrap().value;
    let endpoints = vec![pod("db", "db", [10, 0, 0, 1]), pod("web", "web", [10, 0, 0, 2])];
    engine.apply(ClusterState { endpoints, ..Default::default() }, policies).unwrap();
    // Scattered over 64.0.0.0/2: an odd factor, so that every member is another address.
    let member = |n: u32| Ipv4Addr::from(n.wrapping_mul(0x9e37_79b1) >> 2 | 1 << 30).into();
    let feed = |from: u32| (from..from + MEMBERS).map(|n| IpAddr::into(member(n))).collect();
    engine.sets().replace(FEED, feed(0)).unwrap();
    assert!(!passes(&engine, member(0), [10, 0, 0, 2]));

    let done = AtomicBool::new(false);
    let (took, waits) = std::thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            let started = Instant::now();
            engine.sets().replace(FEED, feed(MEMBERS)).unwrap();
            done.store(true, Ordering::Release);
            started.elapsed()
        });
        // Each change is in force when its call returns: of a new identity every other time.
        let mut waits = Vec::new();
        let mut change = |app: &str, passing: bool| {
            let started = Instant::now();
            engine.endpoints().upsert(pod("client", app, [10, 0, 0, 3])).unwrap();
            waits.push(started.elapsed());
            assert_eq!(passes(&engine, [10, 0, 0, 3].into(), [10, 0, 0, 1]), passing, "{app}");
        };
        for n in 0.. {
            if done.load(Ordering::Acquire) {
                break;
            }
            change("web", true);
            change(&format!("other-{}", n % 3), false);
            std::thread::sleep(Duration::from_millis(1));
        }
        (replacing.join().unwrap(), waits)
    });
    let longest = *waits.iter().max().unwrap();
    println!("{MEMBERS} members in {took:?}; {} changes, at most {longest:?} each", waits.len());
    assert!(waits.len() >= 20, "{} changes during {took:?}", waits.len());
    assert!(longest < took / 4, "a change waited for {longest:?} of {took:?}");

    // The set is the new one, and the endpoint that changed is where it should be.
    assert!(passes(&engine, member(0), [10, 0, 0, 2]));
    assert!(!passes(&engine, member(MEMBERS), [10, 0, 0, 2]));
    assert!(!passes(&engine, [10, 0, 0, 3].into(), [10, 0, 0, 1]));
    assert!(passes(&engine, [10, 0, 0, 2].into(), [10, 0, 0, 1]));
    assert_eq!(engine.sets().list(), [(FEED.to_owned(), MEMBERS as usize)]);
    engine.prove().unwrap();
}
