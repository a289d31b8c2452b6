//! From frames to verdicts, and from port to port: `cargo bench --bench pipeline`.
//!
//! Identities and policy answer at once here: their own benches time them. What is timed is parsing,
//! connection tracking, batching, and moving frames.

#[path = "support/cpu_time.rs"]
#[allow(dead_code)] // not every bench takes the time itself
mod cpu_time;
#[path = "support/packets.rs"]
mod packets;

use std::collections::VecDeque;
use std::hint::black_box;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cpu_time::CpuTime;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use packets::Random;
use portcullis::dataplane::clock::Time;
use portcullis::dataplane::frame::{Batch, Frame, FramePool, Umem};
use portcullis::dataplane::packet::protocol;
use portcullis::dataplane::pipeline::{BATCH, Config, Engine, Input, Judgement, Lane, Snapshot};
use portcullis::dataplane::port::Port;
use portcullis::dataplane::topology::Wire;
use portcullis::dataplane::verdict::{Decision, Flow, Identify, Policy, RuleId, Verdict};
use portcullis::dataplane::worker::{self, Worker};
use portcullis::identity_table::IdentityId;

const FRAMES: usize = 16_384;

#[derive(Clone)]
struct Everyone;

impl Identify for Everyone {
    fn identify_v4(&self, _: &[u32], out: &mut [IdentityId]) {
        out.fill(IdentityId::WORLD_V4);
    }

    fn identify_v6(&self, _: &[u128], out: &mut [IdentityId]) {
        out.fill(IdentityId::WORLD_V6);
    }
}

struct Open;

impl Policy for Open {
    fn decide(&self, _: &[Flow], out: &mut [Decision]) {
        out.fill(Decision { verdict: Verdict::Allow, rule: RuleId::new(1), log: false });
    }
}

fn lane(config: Config) -> Lane {
    let engine = Arc::new(Engine::new(config).expect("address space"));
    engine.publish(Snapshot { identities: Arc::new(Everyone), policy: Arc::new(Open) });
    Lane::new(engine)
}

fn config() -> Config {
    let mut config = Config::default();
    config.connections.capacity = 1 << 20;
    // The frames are from the middle of connections.
    config.connections.pick_up = true;
    config
}

/// Frames of `flows` TCP connections, in random order.
fn of_flows(flows: u32) -> Vec<[u8; 64]> {
    let mut random = Random(7);
    (0..FRAMES.max(flows as usize))
        .map(|n| {
            let flow = if n < flows as usize { n as u32 } else { random.next() as u32 % flows };
            packets::frame(protocol::TCP, [flow >> 8, 9], [1024 + (flow & 0xff) as u16, 443])
        })
        .collect()
}

fn judge_all(lane: &mut Lane, now: Time, frames: &[[u8; 64]]) -> usize {
    let mut out = [Judgement::default(); BATCH];
    let mut passed = 0;
    for frames in frames.chunks(BATCH) {
        let mut inputs = [Input::default(); BATCH];
        for (input, frame) in inputs.iter_mut().zip(frames) {
            *input = Input::new(frame);
        }
        lane.judge(now, &inputs[..frames.len()], black_box(&mut out));
        passed += out[..frames.len()].iter().filter(|j| j.verdict == Verdict::Allow).count();
    }
    passed
}

fn known(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("judge");
    for flows in [1000, 100_000] {
        let mut lane = lane(config());
        let frames = of_flows(flows);
        let now = Time::default();
        assert_eq!(judge_all(&mut lane, now, &frames), frames.len());
        group.throughput(Throughput::Elements(frames.len() as u64));
        group.bench_function(BenchmarkId::new("known", flows), |bencher| {
            bencher.iter(|| judge_all(&mut lane, now, &frames));
        });
        assert_eq!(lane.counters().dropped_total(), 0);
    }
}

/// Every packet opens a connection; connections are forgotten between rounds, off the clock.
fn new(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("judge");
    let mut lane = lane(config());
    let frames = of_flows(FRAMES as u32);
    let mut now = Time::default();
    group.throughput(Throughput::Elements(frames.len() as u64));
    group.bench_function(BenchmarkId::new("new", FRAMES), |bencher| {
        bencher.iter_custom(|rounds| {
            let mut total = Duration::ZERO;
            for _ in 0..rounds {
                let begin = cpu_time::now();
                assert_eq!(judge_all(&mut lane, now, &frames), frames.len());
                total += cpu_time::now() - begin;
                now = now.after(Duration::from_secs(100_000));
                assert_eq!(lane.expire(now, usize::MAX), frames.len());
                while lane.events().pop().is_some() {}
            }
            total
        });
    });
}

/// A port that hands out the frames that were sent to it or its twin: no kernel, no copies.
struct Carousel(Arc<Mutex<VecDeque<Frame>>>);

impl Port for Carousel {
    fn receive(&mut self, _: &mut FramePool, batch: &mut Batch) -> usize {
        let mut waiting = self.0.lock().expect("not poisoned");
        let count = batch.room().min(waiting.len());
        for frame in waiting.drain(..count) {
            assert!(batch.push(frame).is_none());
        }
        count
    }

    fn transmit(&mut self, batch: &mut Batch) -> usize {
        let count = batch.len();
        self.0.lock().expect("not poisoned").extend(batch.drain_front(count));
        count
    }

    fn reclaim(&mut self, _: &mut FramePool) -> usize {
        0
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn outstanding(&self) -> usize {
        0
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn forward(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("forward");
    for flows in [1000, 100_000] {
        let frames = of_flows(flows);
        let mut pool = Umem::heap(frames.len() as u32, 2048);
        let frames = frames.iter().filter_map(|frame| pool.take_with(frame));
        let wheel = Arc::new(Mutex::new(frames.collect::<VecDeque<_>>()));
        let config = worker::Config::default();
        let mut worker = Worker::new(config, lane(self::config())).expect("descriptors");
        let ports = [Carousel(Arc::clone(&wheel)), Carousel(wheel)].map(Box::new);
        let [a, b] = ports;
        worker.add(Wire::new("carousel", a, b, pool)).expect("descriptors");
        for _ in 0..10_000 {
            worker.round();
        }
        let before = worker.lane().counters().forwarded.get();
        assert!(before > 1_000_000, "frames go round: {before}");
        // A round is one batch in each direction.
        group.throughput(Throughput::Elements(2 * BATCH as u64));
        group.bench_function(BenchmarkId::new("known", flows), |bencher| {
            bencher.iter(|| worker.round());
        });
        assert_eq!(worker.lane().counters().dropped_total(), 0);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime).sample_size(20);
    targets = known, new, forward
}
criterion_main!(benches);
