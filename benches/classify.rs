//! Classification on criterion: engines, kinds and sizes of rule sets, traces, batch sizes, IPv6.
//!
//! `cargo bench --bench classify -- 10k` runs what has `10k` in its name. Rule sets as in
//! support/rulesets.rs.

#[path = "support/rulesets.rs"]
mod rulesets;

use std::hint::black_box;
use std::net::Ipv6Addr;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portcullis::classifier::{
    AddressMatch, Header, Instructions, Ipv6Prefix, Rule, RuleSet, TupleV4, linear, meta, tree,
    tuple, workload,
};

const HEADERS: usize = 16_384;
const BATCH: usize = 64;
const SEED: u64 = 42;

fn tuples(headers: &[Header]) -> Vec<TupleV4> {
    headers.iter().filter_map(TupleV4::of).collect()
}

/// The tree on every set and trace.
fn traces(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tree");
    group.throughput(Throughput::Elements(HEADERS as u64));
    for set in ["1k", "10k", "100k"].iter().flat_map(|size| rulesets::of_size(size)) {
        let tree = tree::Builder::new().build(&set.rules).expect("within the limits");
        let traces = [
            ("uniform", workload::uniform(&set.rules, HEADERS, SEED)),
            ("zipf", workload::zipf(&set.rules, HEADERS, SEED)),
            ("adversarial", workload::adversarial(&tree, HEADERS, SEED)),
        ];
        for (name, headers) in traces {
            let (tuples, mut scratch) = (tuples(&headers), tree::Scratch::default());
            let mut found = vec![None; HEADERS];
            group.bench_function(BenchmarkId::new(&set.name, name), |bencher| {
                bencher.iter(|| {
                    for (tuples, found) in tuples.chunks(BATCH).zip(found.chunks_mut(BATCH)) {
                        tree.lookup_tuples(black_box(tuples), &mut scratch, found);
                    }
                });
            });
        }
    }
}

/// All engines, and the tree with each instruction set, on the uniform trace.
fn engines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(HEADERS as u64));
    for set in rulesets::of_size("1k") {
        let headers = workload::uniform(&set.rules, HEADERS, SEED);
        let tuples = tuples(&headers);
        let mut found = vec![None; HEADERS];
        for instructions in Instructions::available() {
            let config = tree::Config::default().instructions(instructions);
            let tree = tree::Builder::new().configure(config).build(&set.rules).expect("in limits");
            let mut scratch = tree::Scratch::default();
            let name = format!("tree, {instructions:?}");
            group.bench_function(BenchmarkId::new(&set.name, name), |bencher| {
                bencher.iter(|| tree.lookup_tuples(black_box(&tuples), &mut scratch, &mut found));
            });
        }
        let linear = linear::Builder::new().build(&set.rules).expect("no limit");
        let mut scratch = linear::Scratch::default();
        group.bench_function(BenchmarkId::new(&set.name, "linear"), |bencher| {
            bencher.iter(|| linear.lookup_batch(black_box(&headers), &mut scratch, &mut found));
        });
        let mut found = vec![None; HEADERS];
        let limit = tuple::Config::default().max_chain(usize::MAX);
        let table = tuple::Builder::new().configure(limit).build(&set.rules).expect("in limits");
        let mut scratch = tuple::Scratch::default();
        group.bench_function(BenchmarkId::new(&set.name, "tuple"), |bencher| {
            bencher.iter(|| table.lookup_batch(black_box(&headers), &mut scratch, &mut found));
        });
        let meta = meta::Builder::new().build(&set.rules).expect("in limits");
        let mut scratch = meta::Scratch::default();
        group.bench_function(BenchmarkId::new(&set.name, "meta"), |bencher| {
            bencher.iter(|| meta.lookup_tuples(black_box(&tuples), &mut scratch, &mut found));
        });
        group.bench_function(BenchmarkId::new(&set.name, "meta, whole headers"), |bencher| {
            bencher.iter(|| meta.lookup_batch(black_box(&headers), &mut scratch, &mut found));
        });
    }
}

/// Headers a call.
fn batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(HEADERS as u64));
    for set in rulesets::of_size("10k") {
        let tree = tree::Builder::new().build(&set.rules).expect("within the limits");
        let headers = workload::uniform(&set.rules, HEADERS, SEED);
        let (tuples, mut scratch) = (tuples(&headers), tree::Scratch::default());
        let mut found = vec![None; HEADERS];
        group.bench_function(BenchmarkId::new(&set.name, "one by one"), |bencher| {
            bencher.iter(|| headers.iter().filter_map(|header| tree.lookup(header)).count());
        });
        for batch in [4, 16, 32, 64, 256] {
            group.bench_function(BenchmarkId::new(&set.name, batch), |bencher| {
                bencher.iter(|| {
                    for (tuples, found) in tuples.chunks(batch).zip(found.chunks_mut(batch)) {
                        tree.lookup_tuples(black_box(tuples), &mut scratch, found);
                    }
                });
            });
        }
    }
}

/// The same rules with addresses mapped into one IPv6 /64 and /96.
fn ipv6(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ipv6");
    group.throughput(Throughput::Elements(HEADERS as u64));
    for set in ["1k", "10k"].iter().flat_map(|size| rulesets::of_size(size)) {
        let side = |side| match side {
            AddressMatch::V4(prefix) => {
                let bits = u128::from(prefix.address().to_bits()) << 64 | 0x2001_0db8 << 96;
                let address = Ipv6Addr::from_bits(bits);
                AddressMatch::V6(Ipv6Prefix::new(address, 32 + prefix.len()).expect("no host bits"))
            }
            other => other,
        };
        let rules = set.rules.rules().iter().map(|rule| Rule {
            source: side(rule.source),
            destination: side(rule.destination),
            ..rule.clone()
        });
        let rules = RuleSet::new(rules.collect()).expect("one family");
        let tree = tree::Builder::new().build(&rules).expect("within the limits");
        let headers = workload::uniform(&rules, HEADERS, SEED);
        let (mut scratch, mut found) = (tree::Scratch::default(), vec![None; HEADERS]);
        group.bench_function(&set.name, |bencher| {
            bencher.iter(|| tree.lookup_batch(black_box(&headers), &mut scratch, &mut found));
        });
    }
}

/// Rules to trees, and the proof.
fn builds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build");
    group.sample_size(10);
    for set in ["1k", "10k", "100k"].iter().flat_map(|size| rulesets::of_size(size)) {
        group.bench_function(&set.name, |bencher| {
            bencher.iter(|| tree::Builder::new().build(&set.rules).expect("within the limits"));
        });
        let tree = tree::Builder::new().build(&set.rules).expect("within the limits");
        group.bench_function(format!("{}, verify", set.name), |bencher| {
            bencher.iter(|| tree.verify().expect("the proof holds"));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = traces, engines, batches, ipv6, builds
}
criterion_main!(benches);
