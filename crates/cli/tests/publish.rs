//! Policies are replaced and endpoints come and go while packets flow: none may be lost, none
//! misjudged. Needs CAP_NET_ADMIN; says so and skips without.
//!
//! By default a short version, at a rate that a debug build's worker keeps up with. The long version,
//! with 1,000 swaps of policies and 100,000 updates of endpoints, at 20,000 packets a second unless
//! `PORTCULLIS_RATE` says otherwise:
//! `PORTCULLIS_PUBLISH=1000 cargo test --release -p portcullis-cli --test publish -- --nocapture`
//!
//! Every packet is accounted for: what the kernel lost before a worker could see it (the veth's own
//! queue of 256 packets, the RX ring) is told from what the firewall lost, which must be nothing.

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)]
mod lab;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::traffic::{Generator, Load, PORT, Sink};
use lab::{Namespace, Neighbours, Path};
use portcullis::dataplane::port::xdp::ProgramVerdict;
use portcullis::dataplane::reason::Reason;
use portcullis::identity_table::endpoint::Endpoint;
use portcullis::policy::{self, Flow, Source};
use portcullis::{Config, Firewall};

/// Streams by destination port: every policy allows the first, none allows the second.
const ALLOWED: u16 = 0;
const DENIED: u16 = 1;

/// The two ends and, in every other version, another pod of the client's kind.
fn cluster(version: usize) -> portcullis::identity_table::endpoint::ClusterState {
    let mut text = String::new();
    let (client, server) = (Path::CLIENT.to_string(), Path::SERVER.to_string());
    let mut pods = vec![("client", client), ("server", server)];
    if version % 2 == 1 {
        pods.push(("passer", format!("10.77.2.{}", version % 250 + 1)));
    }
    for (name, address) in pods {
        text += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
             status: {{podIP: {address}}}\n"
        );
    }
    policy::parse_cluster(&[Source::new("cluster", text)]).unwrap().value
}

/// Versions differ in the port that they allow besides, so each is compiled anew.
fn policies(version: usize) -> policy::model::PolicySet {
    let (port, other) = (PORT + ALLOWED, 20_000 + version % 100);
    let text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{}}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: server}}}}\n  ingress:\n  - from: [{{podSelector: \
         {{matchLabels: {{app: client}}}}}}]\n    ports: [{{port: {port}, protocol: UDP}}, \
         {{port: {other}, protocol: UDP}}]\n",
        version % 3
    );
    policy::parse_policies(&[Source::new("policies", text)]).unwrap().value
}

#[test]
fn nothing_is_lost_or_misjudged_while_policies_change() {
    if let Err(error) = Namespace::new() {
        eprintln!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN ({error})");
        return;
    }
    let all = std::env::var("PORTCULLIS_PUBLISH").ok().map(|swaps| swaps.parse().unwrap());
    let (swaps, rate) = all.map_or((100, 4_000), |swaps: usize| (swaps, 20_000));
    let rate = std::env::var("PORTCULLIS_RATE").map_or(rate, |rate| rate.parse().unwrap());
    // So many for each swap: pods that come and go.
    let updates = 100;

    let path = Path::build(Neighbours::EachOther, 1).unwrap();
    let (fw0, fw1) = Path::MIDDLE;
    let config = Config::wire(fw0, fw1);
    let firewall =
        path.middle.run(|| Firewall::start(config, cluster(0), policies(0))).unwrap().unwrap();
    let interface = lab::eth0(&path.client).unwrap();
    let load = |stream, rate| Load {
        interface,
        interfaces: 1,
        turn: 1,
        link: [Path::SERVER_LINK, Path::CLIENT_LINK],
        source: Path::CLIENT,
        sources: 1,
        destination: Path::SERVER,
        flows: 500,
        rate: Some(rate),
        stream,
    };
    let allowed = Generator::new(&load(ALLOWED, rate)).unwrap();
    let denied = Generator::new(&load(DENIED, rate / 4)).unwrap();
    let mut sink = Sink::new().unwrap();
    let (mut judge, mut judgement) = (firewall.judge(), [Default::default()]);
    let at_server = lab::eth0(&path.server).unwrap();
    path.server.run(|| sink.attach(at_server)).unwrap().unwrap();

    let stop = AtomicBool::new(false);
    let mut took = Vec::new();
    let mut visible = Vec::new();
    let applied = std::thread::scope(|scope| {
        for generator in [&allowed, &denied] {
            let (client, stop) = (&path.client, &stop);
            scope.spawn(move || {
                client
                    .run(|| {
                        while !stop.load(Ordering::Relaxed) {
                            generator.send_for(Duration::from_millis(200)).unwrap();
                        }
                    })
                    .unwrap();
            });
        }
        for version in 1..=swaps {
            firewall.apply(cluster(version), policies(version)).unwrap();
            for n in 0..updates {
                let name = format!("pod{}", n / 2);
                let begin = Instant::now();
                if n % 2 == 0 {
                    let address = format!("10.77.3.{}", n / 2 + 1).parse().unwrap();
                    let endpoint = Endpoint {
                        labels: [("app", "client")].into_iter().collect(),
                        addresses: vec![address],
                        ..Endpoint::new("default", &name)
                    };
                    firewall.endpoints().upsert(endpoint).unwrap();
                } else {
                    assert!(firewall.endpoints().remove("default", &name).unwrap());
                }
                took.push(begin.elapsed());
                // What a worker would see from now on.
                if n % 2 == 0 {
                    let from = format!("10.77.3.{}", n / 2 + 1).parse().unwrap();
                    let flow = Flow::new(from, Path::SERVER.into(), 17, (4000, PORT + ALLOWED));
                    judge.flows(&[flow], &mut judgement);
                    assert_eq!(judgement[0].verdict.as_str(), "allow", "not enforced");
                    visible.push(begin.elapsed());
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        firewall.applied()
    });
    assert_eq!(applied.generation, 1 + swaps as u64);

    // What is still on its way arrives.
    std::thread::sleep(Duration::from_millis(200));
    let sent = allowed.packets().unwrap();
    let received = sink.received(ALLOWED).unwrap();
    let refused = denied.packets().unwrap();
    println!("{swaps} swaps: {sent} sent, {received} received, {refused} to be refused");
    for (what, times) in [("update", &mut took), ("update enforced", &mut visible)] {
        times.sort();
        let at = |part: f64| times[(times.len() as f64 * part) as usize];
        println!("{} x {what}: median {:?}, p99 {:?}", times.len(), at(0.5), at(0.99));
    }
    assert!(sent > 0 && refused > 0);
    assert_eq!(sink.received(DENIED).unwrap(), 0, "denied by every policy, and passed");
    // Where packets went, step by step.
    let totals = firewall.totals();
    let programs = firewall.program_counters().unwrap();
    let of_fw0 = |(name, _): &&(String, _)| name == fw0;
    let program = &programs.iter().find(of_fw0).unwrap().1;
    let steered = program.total(ProgramVerdict::ToSocket).packets;
    let sockets = firewall.socket_statistics().unwrap();
    let of_fw0 = sockets.iter().filter(|(name, ..)| name == fw0);
    let (full, dropped) = of_fw0.fold((0, 0), |(full, dropped), (_, _, of)| {
        (full + of.rx_ring_full, dropped + of.rx_dropped)
    });
    let before = (sent + refused).saturating_sub(steered);
    println!(
        "{before} lost in the veth before the program, {full} for which the RX ring was full, \
         {dropped} dropped by the socket; worker: {} received, {} forwarded",
        totals.received, totals.forwarded
    );
    let not_policy = |(reason, _): &&(Reason, u64)| *reason != Reason::PolicyDenied;
    let ours: u64 = totals.drops.iter().filter(not_policy).map(|(_, count)| count).sum();
    assert_eq!(ours, 0, "dropped by the firewall and not by its policy: {:?}", totals.drops);
    // Both hosts also say a few things on their own account: neighbours, multicast listeners.
    let (all, counted) = (sent + refused, totals.received + before + full + dropped);
    assert!((all..all + 200).contains(&counted), "{all} sent, {counted} accounted for");
    if full + before + dropped == 0 {
        assert_eq!(received, sent, "allowed by every policy: {totals:?}");
    } else {
        // A worker or the generator's own CPU did not get to run for milliseconds: said, and bounded.
        assert!((full + before + dropped) * 10 < sent, "the machine is too busy to tell");
        assert!(received + full + before + dropped >= sent, "lost by the firewall: {totals:?}");
    }
    firewall.shutdown();
}
