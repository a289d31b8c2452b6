//! What documents cost to load, to compile, to prove and to check.
//!
//! `cargo run --release -p portcullis-policy --example files -- CLUSTER POLICIES` prints one JSON
//! object. Times are of the wall, each step once; the peak is that of the process so far, since it
//! never falls.

use std::time::{Duration, Instant};

use portcullis_policy::model::PolicySet;
use portcullis_policy::{Engine, diff, lint, load_cluster, load_policies};

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(cluster), Some(policies)) = (arguments.next(), arguments.next()) else {
        panic!("usage: files CLUSTER POLICIES");
    };
    let (load, (cluster, policies)) = time(|| {
        let cluster = load_cluster(&cluster).unwrap_or_else(|e| panic!("{e}")).value;
        (cluster, load_policies(&[policies]).unwrap_or_else(|e| panic!("{e}")).value)
    });
    let mut engine = Engine::default();
    let (compile, _) =
        time(|| engine.apply(cluster.clone(), policies.clone()).expect("within limits"));
    let after_compile = peak();
    let (prove, proof) = time(|| engine.prove().expect("a right program"));
    let after_prove = peak();
    let mut newcomer = cluster.endpoints.first().expect("a pod").clone();
    newcomer.labels = newcomer.labels.with("files.example/new", "yes");
    (newcomer.name, newcomer.addresses) = ("newcomer".into(), vec!["192.0.2.77".parse().unwrap()]);
    let (new_labels, _) = time(|| engine.upsert_endpoint(newcomer).expect("within limits"));
    let (one_policy, _) =
        time(|| engine.set_policies(without_one(&policies)).expect("within limits"));
    let (lint, findings) = time(|| lint(&policies, Some(&cluster)).expect("a sound cluster"));
    let after_lint = peak();
    let less = without_one(&policies);
    let (diff, changes) =
        time(|| diff((&cluster, &policies), (&cluster, &less)).expect("a sound cluster"));
    println!(
        "{{\"load_ms\":{:.0},\"compile_ms\":{:.0},\"program_bytes\":{},\"prove_ms\":{:.0},\
         \"proved_cases\":{},\"proved_regions\":{},\"pod_with_new_labels_ms\":{:.1},\"one_policy_ms\":{:.0},\"lint_ms\":{:.0},\"findings\":{},\
         \"diff_ms\":{:.0},\"changes\":{},\"peak_bytes\":{{\"compile\":{after_compile},\
         \"prove\":{after_prove},\"lint\":{after_lint},\"diff\":{}}}}}",
        ms(load),
        ms(compile),
        engine.program().memory_usage(),
        ms(prove),
        proof.cases,
        proof.regions,
        ms(new_labels),
        ms(one_policy),
        ms(lint),
        findings.len(),
        ms(diff),
        changes.changes.len(),
        peak(),
    );
}

/// The policies without the first of them.
fn without_one(policies: &PolicySet) -> PolicySet {
    let mut less = policies.clone();
    if let Some(tier) = less.tiers.iter_mut().find(|tier| !tier.policies.is_empty()) {
        tier.policies.remove(0);
    }
    less
}

fn time<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Most bytes that this process had in memory; 0 where the system does not say.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kib.unwrap_or(0) * 1024
}
