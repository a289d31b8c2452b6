//! Policies: what a decision costs, and what a change costs, at 10,000 pods.
//!
//! `cargo bench --bench policy`. The pairs to compare stand side by side: a decision under 10 and
//! under 2,000 policies; selectors looked up by the index and one by one.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portcullis_identity_table::selector::index::SelectorIndex;
use portcullis_identity_table::{Labels, Selector};
use portcullis_policy::model::Policy;
use portcullis_policy::{Decision, Engine, Flow, FlowKey};

#[path = "../crates/policy/tests/common/scale.rs"]
mod scale;

use scale::{Numbers, cluster, pod, pod_address, policies, policy};

const PODS: usize = 10_000;

fn engine(count: usize) -> Engine {
    let mut engine = Engine::default();
    let _ = engine.apply(cluster(PODS), policies(count, PODS)).expect("policies within limits");
    engine
}

/// Flows between random pods, one in ten from outside.
fn questions(engine: &Engine) -> Vec<FlowKey> {
    let mut numbers = Numbers(42);
    let mut flow = || {
        let destination = pod_address(numbers.below(PODS));
        let source = match numbers.below(10) {
            0 => Ipv4Addr::from_bits(numbers.below(1 << 32) as u32).into(),
            _ => pod_address(numbers.below(PODS)),
        };
        let port = [8080, 443, 53, 5432][numbers.below(4)];
        Flow::new(source, destination, [6, 17][numbers.below(2)], (40000, port))
    };
    (0..32 * 1024).map(|_| engine.key(&flow())).collect()
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy/decide");
    for count in [10, 2_000] {
        let engine = engine(count);
        let keys = questions(&engine);
        let program = engine.program();
        let mut out = vec![Decision::NOT_READY; 32];
        group.throughput(Throughput::Elements(keys.len() as u64));
        group.bench_function(BenchmarkId::new("policies", count), |b| {
            b.iter(|| {
                for batch in keys.chunks(32) {
                    program.decide(black_box(batch), &mut out);
                    black_box(&mut out);
                }
            });
        });
    }
    group.finish();
}

fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy/change");
    group.sample_size(10);
    group.bench_function("whole set of 2,000 policies", |b| {
        b.iter_batched(
            || {
                let mut engine = Engine::default();
                let _ = engine.set_cluster(cluster(PODS)).expect("a sound cluster");
                (engine, policies(2_000, PODS))
            },
            |(mut engine, set)| {
                let _ = engine.set_policies(set).expect("policies within limits");
                engine
            },
            BatchSize::PerIteration,
        );
    });
    let mut engine = engine(2_000);
    let mut n = 0;
    group.bench_function("one policy of 2,000", |b| {
        b.iter_custom(|count| {
            let mut spent = Duration::ZERO;
            for _ in 0..count {
                n += 1;
                let mut set = engine.policies().clone();
                let changed = &mut set.tiers[1].policies[100 + n % 1_000];
                let name = changed.name.clone();
                *changed = Policy { name, ..policy(4 + n * 10, PODS, &mut Numbers(n as u64)) };
                let start = Instant::now();
                let update = engine.set_policies(set).expect("policies within limits");
                spent += start.elapsed();
                let _ = black_box(update);
            }
            spent
        });
    });
    let mut n = 0;
    group.bench_function("a pod like its siblings", |b| {
        b.iter_batched(
            || {
                n += 1;
                let mut new = pod(n % PODS);
                new.name = format!("more-{n}").into();
                new.addresses = vec![pod_address(PODS + n)];
                new
            },
            |new| engine.upsert_endpoint(new).expect("a sound endpoint"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn selectors(c: &mut Criterion) {
    let mut group = c.benchmark_group("selectors/10,000");
    let selectors: Vec<Selector> = (0..10_000)
        .map(|n| {
            let app = Selector::Equals("app".into(), format!("app-{n}").into());
            match n % 10 {
                0 => Selector::And(vec![app, Selector::Has("tier".into())]),
                1 if n % 1_000 == 1 => Selector::Not(Box::new(Selector::Has("canary".into()))),
                _ => app,
            }
        })
        .collect();
    let mut index = SelectorIndex::default();
    for selector in &selectors {
        index.insert(selector.clone());
    }
    let labels: Labels =
        [("app", "app-70"), ("tier", "front"), ("release", "stable")].into_iter().collect();
    group.bench_function("index", |b| b.iter(|| index.matching(black_box(&labels))));
    group.bench_function("one by one", |b| {
        b.iter(|| {
            let labels = black_box(&labels);
            selectors.iter().filter(|selector| selector.matches(labels)).count()
        });
    });
    group.finish();
}

criterion_group!(benches, decide, change, selectors);
criterion_main!(benches);
