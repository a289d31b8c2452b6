//! Reading headers and completing checksums, in CPU time: `cargo bench --bench parse`.

#[path = "support/cpu_time.rs"]
#[allow(dead_code)] // not every bench takes the time itself
mod cpu_time;
#[path = "support/packets.rs"]
#[allow(dead_code)] // the other benches need all of it
mod packets;

use std::hint::black_box;

use cpu_time::CpuTime;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portcullis::dataplane::packet::{Packet, checksum, parse, protocol};

/// The same packet in IPv6, with `extensions` headers of destination options before UDP.
fn v6(extensions: usize) -> Vec<u8> {
    let mut frame = packets::frame(protocol::UDP, [1, 2], [3, 4])[..12].to_vec();
    let len = extensions * 8 + 18;
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, len as u8]);
    frame.extend([if extensions > 0 { 60 } else { 17 }, 64]);
    frame.extend([0xfd; 32]);
    for n in 1..=extensions {
        frame.extend([if n < extensions { 60 } else { 17 }, 0, 1, 4, 0, 0, 0, 0]);
    }
    frame.extend([0, 3, 0, 4, 0, 18, 0, 0]);
    frame.extend([0; 10]);
    frame
}

fn headers(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("parse");
    let tcp = packets::frame(protocol::TCP, [1, 2], [3, 4]);
    let mut qinq = tcp.to_vec();
    qinq.splice(12..12, [0x88, 0xa8, 0, 5, 0x81, 0, 0, 7]);
    let shapes = [
        ("tcp4", tcp.to_vec()),
        ("udp4", packets::frame(protocol::UDP, [1, 2], [3, 4]).to_vec()),
        ("tcp4-qinq", qinq),
        ("udp6", v6(0)),
        ("udp6-4-extensions", v6(4)),
        ("garbage", vec![0xff; 64]),
    ];
    group.throughput(Throughput::Elements(1));
    for (name, frame) in shapes {
        let well_formed = matches!(parse(&frame, frame.len()), Ok(Packet::Ip(_)));
        assert_eq!(well_formed, name != "garbage", "{name}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| parse(black_box(&frame), black_box(frame.len())));
        });
    }
}

fn checksums(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("checksum");
    for len in [64usize, 1514] {
        let mut frame = packets::frame(protocol::TCP, [1, 2], [3, 4]).to_vec();
        frame.resize(len, 7);
        frame[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
        let Ok(Packet::Ip(headers)) = parse(&frame, len) else { unreachable!("a whole packet") };
        let tuple = headers.tuple;
        let (source, destination) = (tuple.source, tuple.destination);
        let pseudo = checksum::pseudo_header(source, destination, tuple.protocol, headers.l4_len);
        let partial = checksum::fold(pseudo).to_be_bytes();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("partial", len), |bencher| {
            bencher.iter(|| {
                frame[50..52].copy_from_slice(&partial);
                assert!(checksum::complete_partial(black_box(&mut frame), &headers));
            });
        });
        group.bench_function(BenchmarkId::new("nothing to do", len), |bencher| {
            bencher.iter(|| checksum::complete_partial(black_box(&mut frame), &headers));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = headers, checksums
}
criterion_main!(benches);
