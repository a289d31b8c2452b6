//! The connection table: `cargo bench --bench connection`. `portcullis bench flows` times the same
//! with more connections and prints figures to compare with other tables.

#[path = "support/cpu_time.rs"]
#[allow(dead_code)] // not every bench takes the time itself
mod cpu_time;
#[path = "support/packets.rs"]
#[allow(dead_code)] // the other benches need all of it
mod packets;

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use cpu_time::CpuTime;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use packets::Random;
use portcullis::dataplane::clock::Time;
use portcullis::dataplane::connection::{
    Config, Grant, Key, Probe, Segment, SimpleTable, Table, Tracked, Windows,
};
use portcullis::dataplane::packet::{Tuple, Version, protocol};
use portcullis::dataplane::reason::Reason;

const BATCH: usize = 64;
const PROBES: usize = 16_384;

fn probe(flow: u32, version: Version) -> Probe {
    let high = if version == Version::V6 { 0xfd00 << 112 } else { 0 };
    let tuple = Tuple {
        source: high | u128::from(0x0a00_0000 | (flow >> 8)),
        destination: high | 0x0b00_0001,
        source_port: 1024 + (flow & 0xff) as u16,
        destination_port: 53,
        zone: 0,
        protocol: protocol::UDP,
        version,
    };
    let (key, direction) = Key::of(&tuple);
    Probe { key, direction, segment: Segment::Datagram, bytes: 100 }
}

fn table(flows: u32, version: Version) -> Table {
    let mut config = Config::default();
    config.capacity = flows as usize;
    let table = Table::new(config).expect("address space");
    for flow in 0..flows {
        open(&table, Time::default(), &probe(flow, version));
    }
    table
}

fn open(table: &Table, now: Time, probe: &Probe) {
    let decision = Ok(Grant::default());
    black_box(table.settle(now, 0, probe, probe.direction, decision, &mut None));
}

fn track(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("track");
    group.throughput(Throughput::Elements(PROBES as u64));
    for (version, flows) in [
        (Version::V4, 1000),
        (Version::V4, 1 << 16),
        (Version::V4, 1 << 20),
        (Version::V6, 1 << 16),
    ] {
        let table = table(flows, version);
        let mut random = Random(3);
        let probes: Vec<_> =
            (0..PROBES).map(|_| probe(random.next() as u32 % flows, version)).collect();
        let mut out = [Tracked::Invalid(Reason::NoPolicy); BATCH];
        table.track(Time::default(), 0, &probes[..BATCH], &mut out);
        group.bench_function(BenchmarkId::new(format!("{version:?}"), flows), |bencher| {
            bencher.iter(|| {
                for probes in probes.chunks(BATCH) {
                    table.track(Time::default(), 0, probes, black_box(&mut out));
                }
            });
        });
        assert!(out.iter().all(|tracked| matches!(tracked, Tracked::Member { .. })));
    }
}

fn open_and_expire(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("open");
    group.throughput(Throughput::Elements(PROBES as u64));
    let mut config = Config::default();
    config.capacity = PROBES;
    let table = Table::new(config).expect("address space");
    let probes: Vec<_> = (0..PROBES as u32).map(|flow| probe(flow, Version::V4)).collect();
    let mut now = Time::default();
    group.bench_function("V4", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut total = Duration::ZERO;
            for _ in 0..rounds {
                let begin = cpu_time::now();
                probes.iter().for_each(|probe| open(&table, now, probe));
                total += cpu_time::now() - begin;
                now = now.after(Duration::from_secs(100));
                assert_eq!(table.expire(now, usize::MAX, |_| {}), PROBES);
            }
            total
        });
    });
}

/// What a worker does between two rounds at most: 2,048 places, of which none or all end.
fn slice(criterion: &mut Criterion<CpuTime>) {
    const SLICE: usize = 2048;
    let tell = |ended| {
        black_box(ended);
    };
    let mut group = criterion.benchmark_group("slice");
    let full = table(1 << 20, Version::V4);
    group.bench_function("none ends", |bencher| {
        bencher.iter(|| assert_eq!(full.expire(Time::default(), SLICE, |_| {}), 0));
    });
    group.sample_size(10);
    group.bench_function("all end", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut total = Duration::ZERO;
            let late = Time::default().after(Duration::from_secs(100));
            let mut filled = None;
            for _ in 0..rounds {
                let table = match filled.take().filter(|table: &Table| table.len() >= SLICE) {
                    Some(table) => table,
                    None => table(1 << 16, Version::V4),
                };
                let begin = cpu_time::now();
                assert_eq!(table.expire(late, SLICE, tell), SLICE);
                total += cpu_time::now() - begin;
                filled = Some(table);
            }
            total
        });
    });
}

/// Over a restart: a million connections into memory, and back into an empty table.
fn snapshot(criterion: &mut Criterion<CpuTime>) {
    const FLOWS: u32 = 1 << 20;
    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(10).throughput(Throughput::Elements(FLOWS.into()));
    let (now, wall) = (Time::default(), SystemTime::UNIX_EPOCH);
    let full = table(FLOWS, Version::V4);
    let mut file = Vec::with_capacity(128 << 20);
    group.bench_function("save", |bencher| {
        bencher.iter(|| {
            file.clear();
            assert_eq!(full.save(now, wall, &mut file).expect("memory"), FLOWS);
        });
    });
    let mut config = Config::default();
    config.capacity = FLOWS as usize;
    group.bench_function("restore", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut total = Duration::ZERO;
            for _ in 0..rounds {
                let empty = Table::new(config).expect("address space");
                let begin = cpu_time::now();
                let restored = empty.restore(now, wall, Windows::Hold, &mut &file[..]);
                total += cpu_time::now() - begin;
                assert_eq!(restored.expect("its own file").restored, FLOWS);
            }
            total
        });
    });
}

/// The slow, obvious table, for scale.
fn simple(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("simple");
    group.throughput(Throughput::Elements(PROBES as u64));
    let table = SimpleTable::new(Config::default());
    let probes: Vec<_> = (0..PROBES as u32).map(|flow| probe(flow % 1000, Version::V4)).collect();
    for probe in &probes {
        let (now, decision) = (Time::default(), Ok(Grant::default()));
        black_box(table.settle(now, 0, probe, probe.direction, decision, &mut None));
    }
    let mut out = [Tracked::Invalid(Reason::NoPolicy); BATCH];
    group.bench_function("1000", |bencher| {
        bencher.iter(|| {
            for probes in probes.chunks(BATCH) {
                table.track(Time::default(), 0, probes, black_box(&mut out));
            }
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime).sample_size(20);
    targets = track, open_and_expire, slice, snapshot, simple
}
criterion_main!(benches);
