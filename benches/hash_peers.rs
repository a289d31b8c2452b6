//! The connection table beside DPDK's rte_hash, in one run on one core.
//!
//! `cargo bench --bench hash_peers -- --cpu 2 [--connections 1000000]` needs Debian's libdpdk-dev,
//! pkg-config and a C compiler, and says so if they are missing. Rounds of both alternate; what is
//! printed is the median of five. Keys are IPv4 5-tuples, packed into 16 bytes for both.
//!
//! Look-ups are made 32 a call, and as many a call as each takes: rte_hash 64, ours 1,024, which it fetches
//! 64 at a time. What is looked up or inserted is written 1,024 at a time just before, outside the time, and
//! so is in the cache, as that of packets is; a list of all would push the tables out. Before each timed pass of
//! look-ups come a few that are not, as the caches are full of the other's table.
//!
//! To insert, ours writes key and whole state of connections that exist already, as a restart does, 32 a
//! call; the peer, which has no such call, adds keys one by one. To open a connection, as packets do, ours
//! looks it up and decides whether the packet may open it before that.

#[path = "support/dpdk.rs"]
mod dpdk;
#[path = "support/packets.rs"]
#[allow(dead_code)] // the other benches need all of it
mod packets;

use std::collections::HashSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use dpdk::{Library, seconds};
use packets::Random;
use portcullis::dataplane::clock::Time;
use portcullis::dataplane::connection::{
    Config, Connection, Ended, Grant, Key, KeyV4, Probe, Segment, Settled, Table, Tracked,
};
use portcullis::dataplane::packet::{Tuple, Version, protocol};
use portcullis::dataplane::reason::Reason;

const ROUNDS: usize = 5;
/// Passes over the input before a timed one.
const WARM: usize = 3;
const QUERIES: usize = 1 << 20;
const BATCH: usize = 32;
/// Most keys that rte_hash looks up in a call.
const MOST_OF_PEER: usize = 64;
/// Keys that are made together just before they are looked up.
const FRESH: usize = 1024;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let (mut cpu, mut connections) = ("0".to_owned(), 1_000_000);
    let mut rest = args.into_iter();
    while let Some(arg) = rest.next() {
        let value = rest.next().unwrap_or_default();
        match &*arg {
            "--cpu" => cpu = value,
            "--connections" => connections = value.parse().expect("--connections: a number"),
            other => panic!("{other}: there are --cpu N and --connections N"),
        }
    }
    let peer = match Peer::start(&cpu) {
        Ok(peer) => peer,
        Err(why) => return println!("skipped: {why}"),
    };
    let flows = distinct(connections);
    println!("{connections} connections; million a second, medians of {ROUNDS}.\n");
    println!("| what | ours | rte_hash | ratio | ours, bytes each | rte_hash, bytes each |");
    println!("|---|---|---|---|---|---|");
    compare(&peer, &flows);
}

/// A run of both, timed round by round.
fn compare(peer: &Peer, flows: &[Key]) {
    let mut config = Config::default();
    config.capacity = flows.len();
    let table = Table::new(config).expect("address space");
    let probes: Vec<Probe> = flows.iter().map(probe).collect();
    let packed: Vec<[u8; 16]> = flows.iter().map(pack).collect();

    let mut peer_bytes = 0;
    let mut now = Time::default();
    // The first round pays for memory that the kernel hands out: it does not count.
    let [ours, theirs] = rounds(
        |_| {
            now = now.after(Duration::from_secs(600));
            table.expire(now, usize::MAX, |_| {});
            let begin = seconds();
            open_all(&table, now, &probes);
            seconds() - begin
        },
        |last| {
            peer_bytes = peer.create(flows.len());
            let begin = seconds();
            peer.insert(&packed);
            let took = seconds() - begin;
            if !last {
                peer.destroy();
            }
            took
        },
    );
    let numbers: Vec<u32> = (0..flows.len() as u32).collect();
    let [bulk, added] = rounds(
        |_| {
            now = now.after(Duration::from_secs(600));
            table.expire(now, usize::MAX, |_| {});
            let old = old_connection(&flows[0], now);
            time_fresh(
                &numbers,
                |key| Ended { key, ..old },
                |some| some.chunks(BATCH).map(|some| table.insert_all(some)).sum(),
            )
        },
        |_| {
            peer.destroy();
            peer.create(flows.len());
            time_fresh(
                &numbers,
                |key| pack(&key),
                |keys| {
                    peer.insert(keys);
                    keys.len()
                },
            )
        },
    );
    let each = |bytes: usize| bytes as f64 / flows.len() as f64;
    let bytes = (each(table.memory_usage()), each(peer_bytes));
    report("insert", flows.len(), bulk, added, bytes);
    report("open", flows.len(), ours, theirs, bytes);

    for (how, ours_a_call, theirs_a_call) in
        [("32 a call", BATCH, BATCH), ("the most a call", FRESH, MOST_OF_PEER)]
    {
        for (what, skew) in [("uniform", 0.0), ("Zipf 1.1", 1.1)] {
            let picks = picks(flows.len(), skew);
            let mut found = [false; FRESH];
            let [ours, theirs] = warm_rounds(
                |_| {
                    time_fresh(
                        &picks,
                        |key| KeyV4::new(&key),
                        |keys| {
                            for (keys, found) in
                                keys.chunks(ours_a_call).zip(found.chunks_mut(ours_a_call))
                            {
                                table.contains_v4(keys, found);
                            }
                            found.iter().filter(|found| **found).count()
                        },
                    )
                },
                |_| time_fresh(&picks, |key| pack(&key), |keys| peer.lookup(keys, theirs_a_call)),
            );
            report(&format!("look up, {what}, {how}"), QUERIES, ours, theirs, bytes);
        }
    }
    peer.destroy();
}

/// Seconds that `work` takes for the flows with numbers `picks`, with all of which it must succeed,
/// without the time to make keys of them, [`FRESH`] at a time.
fn time_fresh<K>(
    picks: &[u32],
    key: impl Fn(Key) -> K,
    mut work: impl FnMut(&[K]) -> usize,
) -> f64 {
    let mut keys = Vec::with_capacity(FRESH);
    let (mut took, mut done) = (Duration::ZERO, 0);
    for picks in picks.chunks(FRESH) {
        keys.clear();
        keys.extend(picks.iter().map(|n| key(flow(*n))));
        // Not `seconds`: asking for the thread's time is a system call.
        let begin = Instant::now();
        done += work(&keys);
        took += begin.elapsed();
    }
    assert_eq!(done, picks.len());
    took.as_secs_f64()
}

/// As [`rounds`], but each goes over its input before it is timed, as the caches are full of the other's
/// table.
fn warm_rounds(mut ours: impl FnMut(bool) -> f64, mut theirs: impl FnMut(bool) -> f64) -> [f64; 2] {
    rounds(
        |last| {
            (0..WARM).for_each(|_| _ = ours(last));
            ours(last)
        },
        |last| {
            (0..WARM).for_each(|_| _ = theirs(last));
            theirs(last)
        },
    )
}

/// Median seconds of both, whose rounds alternate; each is told whether it is the last one.
fn rounds(mut ours: impl FnMut(bool) -> f64, mut theirs: impl FnMut(bool) -> f64) -> [f64; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        let took = [ours(round == ROUNDS), theirs(round == ROUNDS)];
        if round > 0 {
            times[0].push(took[0]);
            times[1].push(took[1]);
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    })
}

fn report(what: &str, count: usize, ours: f64, theirs: f64, bytes: (f64, f64)) {
    let rate = |seconds: f64| count as f64 / seconds / 1e6;
    println!(
        "| {what} | {:.1} | {:.1} | {:.2} | {:.0} | {:.0} |",
        rate(ours),
        rate(theirs),
        theirs / ours,
        bytes.0,
        bytes.1
    );
}

/// A connection that exists already.
fn old_connection(flow: &Key, now: Time) -> Ended {
    let probe = probe(flow);
    let seen = now.as_millis() as u32;
    let connection =
        Connection::open(&probe, seen, 0, Grant::default(), false).expect("a datagram");
    Ended { key: probe.key, connection }
}

/// Opens all connections, as the pipeline does: a batch is looked up, then settled.
fn open_all(table: &Table, now: Time, probes: &[Probe]) {
    let mut tracked = [Tracked::Invalid(Reason::NoPolicy); BATCH];
    for probes in probes.chunks(BATCH) {
        table.track(now, 0, probes, &mut tracked);
        for probe in probes {
            let decision = Ok(Grant::default());
            let settled = table.settle(now, 0, probe, probe.direction, decision, &mut None);
            assert!(matches!(black_box(settled), Settled::Opened { .. }));
        }
    }
}

fn probe(key: &Key) -> Probe {
    let (key, direction) = Key::of(&key.tuple(portcullis::dataplane::connection::Direction::AToB));
    Probe { key, direction, segment: Segment::Datagram, bytes: 64 }
}

/// Different flows between many hosts.
fn distinct(count: usize) -> Vec<Key> {
    let flows: Vec<Key> = (0..count as u32).map(flow).collect();
    assert_eq!(flows.iter().collect::<HashSet<_>>().len(), count, "no two are alike");
    flows
}

/// Flow number `n`: computed, so that it takes no memory to know it.
fn flow(n: u32) -> Key {
    let mut random = Random(0x5eed_0001 + (u64::from(n) << 20));
    let (hosts, ports) = (random.next(), random.next());
    let host = |number: u64| u128::from(0x0a00_0000 | (number as u32 & 0xff_ffff));
    let tuple = Tuple {
        source: host(hosts),
        destination: host(hosts >> 32),
        source_port: ports as u16,
        destination_port: (ports >> 16) as u16 & 0xfff,
        zone: 0,
        protocol: protocol::UDP,
        version: Version::V4,
    };
    Key::of(&tuple).0
}

/// As the peer has it.
fn pack(key: &Key) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&(key.a as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&(key.b as u32).to_le_bytes());
    bytes[8..10].copy_from_slice(&key.a_port.to_le_bytes());
    bytes[10..12].copy_from_slice(&key.b_port.to_le_bytes());
    bytes[12] = key.protocol;
    bytes
}

/// Which connection each query is about: rank n with a weight of n to the power of `-skew`.
fn picks(count: usize, skew: f64) -> Vec<u32> {
    let mut sum = 0.0;
    let cumulative: Vec<f64> = (1..=count)
        .map(|rank| {
            sum += (rank as f64).powf(-skew);
            sum
        })
        .collect();
    let mut random = Random(7);
    (0..QUERIES)
        .map(|_| {
            let point = (random.next() >> 11) as f64 / (1u64 << 53) as f64 * sum;
            cumulative.partition_point(|c| *c < point).min(count - 1) as u32
        })
        .collect()
}

/// The functions of `peers/hash_dpdk.c`.
struct Peer {
    create: unsafe extern "C" fn(u32) -> usize,
    destroy: unsafe extern "C" fn(),
    insert: unsafe extern "C" fn(*const u8, usize) -> usize,
    lookup: unsafe extern "C" fn(*const u8, usize, usize) -> usize,
}

impl Peer {
    fn start(cpu: &str) -> Result<Self, String> {
        let library = Library::start("hash_dpdk", cpu, "1024")?;
        Ok(Self {
            // SAFETY: hash_dpdk.c declares it so.
            create: unsafe { library.function(c"create") },
            // SAFETY: as above.
            destroy: unsafe { library.function(c"destroy") },
            // SAFETY: as above.
            insert: unsafe { library.function(c"insert") },
            // SAFETY: as above.
            lookup: unsafe { library.function(c"lookup") },
        })
    }

    /// A new table for `count` keys; its bytes.
    fn create(&self, count: usize) -> usize {
        // SAFETY: any number will do; there is no table now.
        let bytes = unsafe { (self.create)(count as u32) };
        assert_ne!(bytes, 0, "1 GB is enough for 10 million keys");
        bytes
    }

    fn destroy(&self) {
        // SAFETY: there is a table.
        unsafe { (self.destroy)() };
    }

    fn insert(&self, keys: &[[u8; 16]]) {
        // SAFETY: keys of 16 bytes, and their number.
        let refused = unsafe { (self.insert)(keys.as_ptr().cast(), keys.len()) };
        assert_eq!(refused, 0, "rte_hash has room");
    }

    fn lookup(&self, keys: &[[u8; 16]], burst: usize) -> usize {
        assert!(keys.len().is_multiple_of(burst) && burst <= MOST_OF_PEER);
        // SAFETY: keys of 16 bytes, a multiple of `burst`, which is no more than it takes.
        unsafe { (self.lookup)(keys.as_ptr().cast(), keys.len(), burst) }
    }
}
