//! `portcullis bench flows`: the connection table with many TCP connections.

use std::collections::HashSet;
use std::time::Duration;

use portcullis::dataplane::clock::Time;
use portcullis::dataplane::connection::{
    Config, Grant, Key, KeyV4, KeyV6, Probe, Segment, Settled, Table, Tracked,
};
use portcullis::dataplane::packet::{TcpFlags, TcpHeader, Tuple, Version, protocol};
use portcullis::dataplane::reason::Reason;
use serde::Serialize;

use super::time::{Timing, median_of_five};
use crate::output::{Outcome, Refused};

/// Packets looked up in a round.
const PACKETS: usize = 1 << 21;

/// Flags of `portcullis bench flows`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Connections in the table, which has room for no more
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    connections: u32,
    /// Skew of the packets over connections: exponent of a Zipf distribution; 0 is uniform
    #[arg(long, default_value_t = 0.0)]
    zipf: f64,
    /// Packets in a call
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// IPv6 connections instead of IPv4
    #[arg(long)]
    ipv6: bool,
}

#[derive(Serialize)]
struct Report {
    connections: usize,
    zipf: f64,
    batch: u32,
    ip_version: u8,
    /// Is this connection known? No lock, no state.
    lookup: Timing,
    /// The whole work on a packet of a known connection: windows, state, counters, time.
    track: Timing,
    /// A SYN of an unknown connection is found unknown, allowed, and its connection inserted.
    insert_mps: f64,
    /// A connection is found expired and taken out.
    expire_mps: f64,
    bytes: usize,
    bytes_per_connection: f64,
}

/// Fills the table, sends packets through, empties it, reports.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    if !args.zipf.is_finite() || args.zipf < 0.0 {
        return Err(Refused::from("error: --zipf: a number from 0 on is needed".to_owned()));
    }
    let mut random = Random(0x5eed_0001);
    let version = if args.ipv6 { Version::V6 } else { Version::V4 };
    let flows = distinct(args.connections as usize, version, &mut random);
    let mut config = Config::default();
    config.capacity = flows.len();
    let table = Table::new(config)
        .map_err(|error| Refused::from(format!("error: {} connections: {error}", flows.len())))?;

    // The first fill pays for memory that the kernel hands out; the others are the table's own.
    let mut clock = Time::default();
    let mut opened = Vec::new();
    let mut expired = Vec::new();
    for round in 0..4 {
        let started = super::time::now();
        open_all(&table, clock, &flows)?;
        opened.push(flows.len() as f64 / (super::time::now() - started) / 1e6);
        if round < 3 {
            clock = clock.after(Duration::from_secs(60));
            let started = super::time::now();
            let count = table.expire(clock, usize::MAX, |_| {});
            expired.push(count as f64 / (super::time::now() - started) / 1e6);
        }
    }
    establish_all(&table, clock, &flows);
    // As small as a packet's 5-tuple, so that reading the trace does not disturb the measurement.
    let trace: Vec<Pick> =
        picks(flows.len(), args.zipf, &mut random).map(|n| Pick::of(&flows[n as usize])).collect();
    let batch = args.batch as usize;

    let key = |pick: &Pick| Key::of(&pick.tuple(version)).0;
    let lookup = match version {
        Version::V4 => {
            let key = |pick: &Pick| KeyV4::new(&key(pick));
            look_up(&trace, batch, key, |keys, found| table.contains_v4(keys, found))
        }
        Version::V6 => {
            let key = |pick: &Pick| KeyV6::new(&key(pick));
            look_up(&trace, batch, key, |keys, found| table.contains_v6(keys, found))
        }
    }?;

    let mut probes = Vec::with_capacity(batch);
    let mut tracked = vec![Tracked::Invalid(Reason::NoPolicy); batch];
    let mut passed = 0;
    let track = median_of_five(trace.len(), || {
        for picks in trace.chunks(batch) {
            probes.clear();
            let ack =
                |pick: &Pick| probe(&pick.tuple(version), TcpFlags::ACK, CLIENT + 1, SERVER + 1);
            probes.extend(picks.iter().map(ack));
            table.track(clock, 0, &probes, &mut tracked);
            let members = tracked[..probes.len()].iter();
            passed += members.filter(|t| matches!(t, Tracked::Member { .. })).count();
        }
    });
    if passed != trace.len() * 6 {
        return Err(Refused::from(format!(
            "error: {passed} of {} packets passed",
            trace.len() * 6
        )));
    }

    let bytes = table.memory_usage();
    let median = |figures: &mut [f64]| {
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    crate::output::json(&Report {
        connections: flows.len(),
        zipf: args.zipf,
        batch: args.batch,
        ip_version: version as u8,
        lookup,
        track,
        insert_mps: median(&mut opened[1..]),
        expire_mps: median(&mut expired),
        bytes,
        bytes_per_connection: bytes as f64 / flows.len() as f64,
    })?;
    Ok(Outcome::Done)
}

/// Times the question whether the connections of `trace` are there, with keys made of it batch by batch.
fn look_up<K>(
    trace: &[Pick],
    batch: usize,
    key: impl Fn(&Pick) -> K,
    contains: impl Fn(&[K], &mut [bool]),
) -> Result<Timing, Refused> {
    let mut keys = Vec::with_capacity(batch);
    let mut found = vec![false; batch];
    let mut hits = 0;
    let timing = median_of_five(trace.len(), || {
        for picks in trace.chunks(batch) {
            keys.clear();
            keys.extend(picks.iter().map(&key));
            contains(&keys, &mut found);
            hits += found[..keys.len()].iter().filter(|found| **found).count();
        }
    });
    if hits != trace.len() * 6 {
        return Err(Refused::from(format!("error: {hits} of {} look-ups hit", trace.len() * 6)));
    }
    Ok(timing)
}

/// First sequence numbers of both ends.
const CLIENT: u32 = 1000;
const SERVER: u32 = 5000;

/// Opens a connection for each flow, as the pipeline would: look up a batch, then settle it.
fn open_all(table: &Table, now: Time, flows: &[Tuple]) -> Result<(), Refused> {
    let mut tracked = [Tracked::Invalid(Reason::NoPolicy); 32];
    let mut probes = Vec::with_capacity(32);
    for flows in flows.chunks(32) {
        probes.clear();
        probes.extend(flows.iter().map(|flow| probe(flow, TcpFlags::SYN, CLIENT, 0)));
        table.track(now, 0, &probes, &mut tracked);
        for probe in &probes {
            let decision = Ok(Grant::default());
            match table.settle(now, 0, probe, probe.direction, decision, &mut None) {
                Settled::Opened { .. } => {}
                other => return Err(Refused::from(format!("error: not opened: {other:?}"))),
            }
        }
    }
    Ok(())
}

/// Finishes the handshake of each flow.
fn establish_all(table: &Table, now: Time, flows: &[Tuple]) {
    let mut tracked = [Tracked::Invalid(Reason::NoPolicy); 2];
    for flow in flows {
        let answer = TcpFlags::SYN | TcpFlags::ACK;
        let handshake = [
            probe(&flow.reversed(), answer, SERVER, CLIENT + 1),
            probe(flow, TcpFlags::ACK, CLIENT + 1, SERVER + 1),
        ];
        table.track(now, 0, &handshake, &mut tracked);
    }
}

/// A TCP segment without payload.
fn probe(flow: &Tuple, flags: u8, seq: u32, ack: u32) -> Probe {
    let (key, direction) = Key::of(flow);
    let flags = TcpFlags(flags);
    let header = TcpHeader { seq, ack, window: 64_000, flags, header_len: 20, scale: None };
    Probe { key, direction, segment: Segment::Tcp(header, 0), bytes: 64 }
}

/// Different flows between many hosts.
fn distinct(count: usize, version: Version, random: &mut Random) -> Vec<Tuple> {
    let mut seen = HashSet::with_capacity(count);
    let mut flows = Vec::with_capacity(count);
    while flows.len() < count {
        let (hosts, ports) = (random.next(), random.next());
        let host = |number: u64| 0x0a00_0000 | (number as u32 & 0xff_ffff);
        let pick = Pick {
            hosts: [host(hosts), host(hosts >> 32)],
            ports: [ports as u16, (ports >> 16) as u16 & 0xfff],
        };
        let flow = pick.tuple(version);
        if seen.insert(Key::of(&flow).0) {
            flows.push(flow);
        }
    }
    flows
}

/// A flow in 12 bytes.
#[derive(Clone, Copy)]
struct Pick {
    hosts: [u32; 2],
    ports: [u16; 2],
}

impl Pick {
    fn of(flow: &Tuple) -> Self {
        Self {
            hosts: [flow.source as u32, flow.destination as u32],
            ports: [flow.source_port, flow.destination_port],
        }
    }

    #[inline]
    fn tuple(&self, version: Version) -> Tuple {
        Tuple {
            source: HIGH[usize::from(version == Version::V6)] | u128::from(self.hosts[0]),
            destination: HIGH[usize::from(version == Version::V6)] | u128::from(self.hosts[1]),
            source_port: self.ports[0],
            destination_port: self.ports[1],
            zone: 0,
            protocol: protocol::TCP,
            version,
        }
    }
}

/// What stands before the last 32 bits of IPv4 and IPv6 addresses.
const HIGH: [u128; 2] = [0, 0xfd00 << 112];

/// Which connection each packet belongs to.
fn picks(count: usize, zipf: f64, random: &mut Random) -> impl Iterator<Item = u32> {
    let mut sum = 0.0;
    let cumulative: Vec<f64> = (1..=count)
        .map(|rank| {
            sum += (rank as f64).powf(-zipf);
            sum
        })
        .collect();
    (0..PACKETS).map(move |_| {
        let point = (random.next() >> 11) as f64 / (1u64 << 53) as f64 * sum;
        cumulative.partition_point(|c| *c < point).min(count - 1) as u32
    })
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
