//! Policies are replaced and endpoints come and go while packets flow: none may be lost, none
//! misjudged. Needs CAP_NET_ADMIN; says so and skips without.
//!
//! By default a short version, at a rate that a debug build's worker keeps up with: what it could not
//! keep up with would look like loss. The long version, at 20,000 packets a second:
//! `PORTCULLIS_PUBLISH=1000 cargo test --release -p portcullis-cli --test publish`

#[path = "../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)]
mod lab;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::traffic::{Generator, Load, PORT, Sink};
use lab::{Namespace, Neighbours, Path};
use portcullis::policy::{self, Source};
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
    let at_server = lab::eth0(&path.server).unwrap();
    path.server.run(|| sink.attach(at_server)).unwrap().unwrap();

    let stop = AtomicBool::new(false);
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
    assert!(sent > 0 && refused > 0);
    assert_eq!(sink.received(DENIED).unwrap(), 0, "denied by every policy, and passed");
    assert_eq!(received, sent, "allowed by every policy: {:?}", firewall.totals());
    firewall.shutdown();
}
