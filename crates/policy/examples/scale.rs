//! What a cluster of a given size costs to compile, to change, to prove and to ask.
//!
//! `cargo run --release -p portcullis-policy --example scale -- PODS POLICIES [FEED]` prints one JSON
//! object; FEED is the number of prefixes of a threat feed that one more policy denies. Times are of
//! the wall, medians of five where a step can be repeated.

use std::hint::black_box;
use std::time::{Duration, Instant};

use portcullis_policy::model::*;
use portcullis_policy::{Decision, Engine, Flow, FlowKey, diff, lint};

#[path = "../tests/common/scale.rs"]
mod scale;

use scale::{Numbers, cluster, pod, pod_address, policies, policy};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse().expect("a number"));
    let pods: usize = arguments.next().unwrap_or(10_000);
    let count: usize = arguments.next().unwrap_or(2_000);
    let feed: usize = arguments.next().unwrap_or(0);

    let mut set = policies(count, pods);
    add_feed(&mut set, feed);
    let (state, mut engine) = (cluster(pods), Engine::default());
    let cluster_time = time(|| drop(engine.set_cluster(state).expect("a sound cluster")));
    let first = set.clone();
    let set_time = time(|| drop(engine.set_policies(first).expect("policies within limits")));

    let one_policy = median(|n| {
        let mut changed = engine.policies().clone();
        let tier = &mut changed.tiers[1].policies;
        let at = (tier.len() / 2 + n) % tier.len();
        tier[at] = Policy {
            name: tier[at].name.clone(),
            ..policy(count + n * 10 + 4, pods, &mut Numbers(n as u64))
        };
        time(|| drop(engine.set_policies(changed).expect("policies within limits")))
    });
    let new_prefix = median(|n| {
        let mut changed = engine.policies().clone();
        let tier = &mut changed.tiers[1].policies;
        let at = (tier.len() / 3 + n) % tier.len();
        tier[at] = Policy {
            name: tier[at].name.clone(),
            ..policy(count + n * 10 + 3, pods, &mut Numbers(n as u64))
        };
        time(|| drop(engine.set_policies(changed).expect("policies within limits")))
    });
    let like_siblings = median(|n| {
        let mut new = pod(n * 5);
        (new.name, new.addresses) = (format!("more-{n}").into(), vec![pod_address(pods + n)]);
        time(|| assert!(engine.upsert_endpoint(new).expect("a sound endpoint").program.is_none()))
    });
    let new_labels = median(|n| {
        let mut new = pod(n * 5);
        new.labels = new.labels.with("canary", &n.to_string());
        (new.name, new.addresses) = (format!("new-{n}").into(), vec![pod_address(pods + 10 + n)]);
        time(|| assert!(engine.upsert_endpoint(new).expect("a sound endpoint").program.is_some()))
    });
    let mut proof = None;
    let proof_time = time(|| proof = Some(engine.prove().expect("a right program")));
    let proof = proof.expect("just made");

    let keys = questions(&engine, pods);
    let mut out = vec![Decision::NOT_READY; 32];
    let program = engine.program().clone();
    let lookup = median(|_| {
        time(|| {
            for _ in 0..20 {
                for batch in keys.chunks(32) {
                    program.decide(black_box(batch), &mut out[..batch.len()]);
                    black_box(&mut out);
                }
            }
        })
    });
    let resident = resident();
    let (state, set) = (cluster(pods), engine.policies().clone());
    let lint_time = time(|| drop(lint(&set, Some(&state)).expect("a sound cluster")));
    let mut changed = set.clone();
    changed.tiers[1].policies.remove(0);
    let diff_time =
        time(|| drop(diff((&state, &set), (&state, &changed)).expect("a sound cluster")));
    println!(
        "{{\"pods\":{pods},\"policies\":{count},\"feed\":{feed},\"cluster_ms\":{:.1},\"compile_ms\":{:.1},\
         \"one_policy_ms\":{:.2},\"one_policy_with_new_prefix_ms\":{:.2},\"pod_like_siblings_us\":{:.1},\
         \"pod_with_new_labels_ms\":{:.2},\"prove_ms\":{:.0},\"proved_pairs\":{},\"proved_cases\":{},\
         \"proved_regions\":{},\"lint_ms\":{:.0},\"diff_ms\":{:.0},\"lookup_ns\":{:.1},\"program_bytes\":{},\"compiler_bytes\":{},\"resident_bytes\":{resident},\"peak_bytes\":{}}}",
        ms(cluster_time),
        ms(set_time),
        ms(one_policy),
        ms(new_prefix),
        ms(like_siblings) * 1e3,
        ms(new_labels),
        ms(proof_time),
        proof.pairs,
        proof.cases,
        proof.regions,
        ms(lint_time),
        ms(diff_time),
        lookup.as_secs_f64() * 1e9 / (20 * keys.len()) as f64,
        program.memory_usage(),
        engine.memory_usage(),
        peak(),
    );
}

/// Denies everyone the prefixes of a feed.
fn add_feed(set: &mut PolicySet, count: usize) {
    if count == 0 {
        return;
    }
    let mut numbers = Numbers(1);
    let mut prefix = || {
        let length = 20 + numbers.below(13) as u8;
        let address = std::net::Ipv4Addr::from_bits(numbers.below(1 << 32) as u32 | 0x4000_0000);
        ipnet::Ipv4Net::new_assert(address, length).into()
    };
    let prefixes = (0..count).map(|_| prefix()).collect();
    set.sets.push(CidrSet { name: "feed".into(), origin: Origin::default(), prefixes });
    let mut policy = policy(0, 1, &mut Numbers(0));
    policy.ingress = Some(vec![Rule {
        origin: Origin::default(),
        name: None,
        action: Action::Deny,
        source: Match::InSet(0),
        destination: Match::Any,
        traffic: vec![Traffic::default()],
    }]);
    set.tiers[0].policies.push(policy);
}

/// Flows between random pods, some from outside.
fn questions(engine: &Engine, pods: usize) -> Vec<FlowKey> {
    let mut numbers = Numbers(42);
    (0..64 * 1024)
        .map(|_| {
            let destination = pod_address(numbers.below(pods));
            let source = match numbers.below(10) {
                0 => std::net::Ipv4Addr::from_bits(numbers.below(1 << 32) as u32).into(),
                _ => pod_address(numbers.below(pods)),
            };
            let port = [8080, 443, 53, 5432][numbers.below(4)];
            engine.key(&Flow::new(source, destination, [6, 17][numbers.below(2)], (40000, port)))
        })
        .collect()
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn median(mut once: impl FnMut(usize) -> Duration) -> Duration {
    let mut times: Vec<_> = (0..5).map(&mut once).collect();
    times.sort_unstable();
    times[2]
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Bytes of this process in memory; 0 where the system does not say.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Most bytes that this process had in memory; 0 where the system does not say.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kib.unwrap_or(0) * 1024
}
