//! The connection table against its slow twin, and under the hands of several threads.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use portcullis_dataplane::clock::Time;
use portcullis_dataplane::connection::{
    Config, Connection, Direction, Ended, Grant, Key, KeyV4, KeyV6, Limits, OnFull, OnPolicyChange,
    Probe, Protocol, Segment, Settled, SimpleTable, Table, Tracked,
};
use portcullis_dataplane::packet::{
    SctpChunks, SctpHeader, TcpFlags, TcpHeader, Tuple, Version, protocol,
};
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::verdict::RuleId;
use portcullis_identity_table::IdentityId;
use proptest::prelude::*;

fn at(millis: u64) -> Time {
    Time::from_nanos(millis * 1_000_000)
}

fn tuple(version: Version, client: u32, protocol: u8) -> Tuple {
    let high = if version == Version::V6 { 0xfd00 << 96 } else { 0 };
    Tuple {
        source: high + u128::from(0x0a00_0000 + (client >> 12)),
        destination: high + 0x0aff_0001,
        source_port: 20_000 + (client & 0xfff) as u16,
        destination_port: 443,
        zone: 0,
        protocol,
        version,
    }
}

fn probe(tuple: &Tuple, segment: Segment) -> Probe {
    let (key, direction) = Key::of(tuple);
    Probe { key, direction, segment, bytes: 100 }
}

fn datagram(version: Version, client: u32) -> Probe {
    probe(&tuple(version, client, protocol::UDP), Segment::Datagram)
}

fn grant(rule: u32, source: u32) -> Grant {
    let (source, destination) = (IdentityId::new(source), IdentityId::new(9));
    Grant { rule: RuleId::new(rule), source, destination }
}

/// What happens to a table.
#[derive(Clone, Debug)]
enum Operation {
    Packets(Vec<(u8, bool, Packet)>),
    Wait(u32),
    Expire,
    NewPolicy,
}

#[derive(Clone, Copy, Debug)]
enum Packet {
    Udp,
    Tcp { flags: u8, seq: u8, ack: u8, payload: u8, window: u16, scale: Option<u8> },
    Error { seq: Option<u8> },
    Request,
    Reply,
    Sctp { tag: u8, initiate: u8, chunk: u8 },
}

fn packet() -> impl Strategy<Value = Packet> {
    let flags = prop_oneof![Just(2u8), Just(0x12), Just(0x10), Just(0x11), Just(4), Just(0x14)];
    prop_oneof![
        1 => Just(Packet::Udp),
        6 => (flags, 0..4u8, 0..4u8, 0..3u8, prop_oneof![Just(0u16), Just(1), Just(65535), any::<u16>()],
              proptest::option::of(0..15u8))
            .prop_map(|(flags, seq, ack, payload, window, scale)| Packet::Tcp {
                flags, seq, ack, payload, window, scale,
            }),
        1 => proptest::option::of(0..4u8).prop_map(|seq| Packet::Error { seq }),
        2 => (0..4u8, 0..4u8, 0..9u8)
            .prop_map(|(tag, initiate, chunk)| Packet::Sctp { tag, initiate, chunk }),
        1 => Just(Packet::Request),
        1 => Just(Packet::Reply),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => proptest::collection::vec((0..6u8, any::<bool>(), packet()), 1..100)
            .prop_map(Operation::Packets),
        2 => (0..200_000u32).prop_map(Operation::Wait),
        1 => Just(Operation::Expire),
        1 => Just(Operation::NewPolicy),
    ]
}

fn make_probe((client, back, packet): (u8, bool, Packet)) -> Probe {
    let version = if client % 2 == 0 { Version::V4 } else { Version::V6 };
    let number = match packet {
        Packet::Udp => protocol::UDP,
        Packet::Tcp { .. } => protocol::TCP,
        Packet::Error { seq } => {
            if seq.is_some() {
                protocol::TCP
            } else {
                protocol::UDP
            }
        }
        Packet::Request | Packet::Reply => protocol::ICMP,
        Packet::Sctp { .. } => protocol::SCTP,
    };
    let there = tuple(version, client.into(), number);
    let base = if back { 5000 } else { 1000 };
    let tuple = if back { there.reversed() } else { there };
    let segment = match packet {
        Packet::Udp => Segment::Datagram,
        Packet::Tcp { flags, seq, ack, payload, window, scale } => {
            let flags = TcpFlags(flags);
            let other = if back { 1000 } else { 5000 };
            let header = TcpHeader {
                seq: base + u32::from(seq),
                ack: other + u32::from(ack),
                window,
                flags,
                header_len: 20,
                scale: if flags.syn() { scale } else { None },
            };
            Segment::Tcp(header, payload.into())
        }
        Packet::Error { seq } => Segment::Error { seq: seq.map(|seq| base + u32::from(seq)) },
        Packet::Request => Segment::Request,
        Packet::Reply => Segment::Reply,
        Packet::Sctp { tag, initiate, chunk } => Segment::Sctp(SctpHeader {
            tag: tag.into(),
            initiate: initiate.into(),
            chunks: SctpChunks(1 << chunk),
        }),
    };
    let mut probe = probe(&tuple, segment);
    match packet {
        Packet::Request => probe.direction = Direction::AToB,
        Packet::Reply => probe.direction = Direction::BToA,
        _ => {}
    }
    probe
}

/// The policy of the comparison: some clients may open, some may not.
fn decision(probe: &Probe, opened: Direction, generation: u32) -> Result<Grant, Reason> {
    let opener = probe.key.tuple(opened);
    if u32::from(opener.source_port) % 5 == generation % 5 || opener.source_port == 443 {
        return Err(Reason::PolicyDenied);
    }
    Ok(grant(generation, opener.source_port.into()))
}

/// Whatever `track` and `settle` of either table answer, as the pipeline would use them.
macro_rules! run {
    ($table:expr, $now:expr, $generation:expr, $probes:expr) => {{
        let mut out = vec![Tracked::Invalid(Reason::NoPolicy); $probes.len()];
        $table.track($now, $generation, $probes, &mut out);
        let mut results = Vec::new();
        for (probe, tracked) in $probes.iter().zip(out) {
            let Tracked::Judge { mut opened } = tracked else {
                results.push((Some(tracked), None, None));
                continue;
            };
            let mut ended = None;
            let settled = loop {
                let decision = decision(probe, opened, $generation);
                match $table.settle($now, $generation, probe, opened, decision, &mut ended) {
                    Settled::Again { opened: again } => opened = again,
                    settled => break settled,
                }
            };
            results.push((None, Some(settled), ended));
        }
        results
    }};
}

/// Members found at once or by way of `settle` are the same.
fn plain(
    result: &(Option<Tracked>, Option<Settled>, Option<Ended>),
) -> (Result<(bool, Grant), Reason>, Option<Connection>) {
    let outcome = match (result.0, result.1) {
        (Some(Tracked::Member { grant }), _)
        | (_, Some(Settled::Member { grant } | Settled::Renewed { grant })) => Ok((false, grant)),
        (_, Some(Settled::Opened { grant })) => Ok((true, grant)),
        (Some(Tracked::Invalid(reason)), _) | (_, Some(Settled::Dropped(reason))) => Err(reason),
        other => panic!("{other:?}"),
    };
    (outcome, result.2.map(|ended| ended.connection))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Every answer of the table is the model's, whatever comes, for every setting.
    #[test]
    fn the_table_is_its_model(
        operations in proptest::collection::vec(operation(), 1..30),
        change in prop_oneof![
            Just(OnPolicyChange::Keep), Just(OnPolicyChange::Rejudge), Just(OnPolicyChange::Cut)
        ],
        pick_up: bool,
        capacity in prop_oneof![Just(2usize), Just(1000)],
    ) {
        let mut config = Config::default();
        config.capacity = capacity;
        config.on_policy_change = change;
        config.pick_up = pick_up;
        let (table, model) = (Table::new(config).unwrap(), SimpleTable::new(config));
        let (mut now, mut generation) = (u64::from(u32::MAX) - 100_000, 0);
        for operation in operations {
            match operation {
                Operation::Packets(packets) => {
                    let probes: Vec<_> = packets.into_iter().map(make_probe).collect();
                    let real = run!(table, at(now), generation, &probes);
                    let expected = run!(model, at(now), generation, &probes);
                    for (n, (real, expected)) in real.iter().zip(&expected).enumerate() {
                        prop_assert_eq!(plain(real), plain(expected), "packet {}: {:?}", n, probes[n]);
                    }
                }
                Operation::Wait(millis) => now += u64::from(millis),
                Operation::Expire => {
                    let (mut real, mut expected) = (HashMap::new(), HashMap::new());
                    table.expire(at(now), usize::MAX, |e| { real.insert(e.key, e.connection); });
                    model.expire(at(now), |e| { expected.insert(e.key, e.connection); });
                    prop_assert_eq!(real, expected);
                }
                Operation::NewPolicy => generation += 1,
            }
            prop_assert_eq!(table.len(), model.len());
            let mut half_open = 0;
            table.for_each(|_, connection| half_open += usize::from(connection.half_open()));
            prop_assert_eq!(table.half_open(), half_open);
        }
    }
}

fn open(table: &Table, now: u64, probe: &Probe, source: u32) -> Settled {
    let decision = Ok(grant(1, source));
    table.settle(at(now), 0, probe, probe.direction, decision, &mut None)
}

fn known(table: &Table, now: u64, probe: &Probe) -> bool {
    let mut out = [Tracked::Invalid(Reason::NoPolicy)];
    table.track(at(now), 0, std::slice::from_ref(probe), &mut out);
    matches!(out[0], Tracked::Member { .. })
}

#[test]
fn a_full_table_holds_every_connection_within_its_bytes() {
    const COUNT: u32 = 200_000;
    let mut config = Config::default();
    config.capacity = COUNT as usize;
    let table = Table::new(config).unwrap();
    for client in 0..COUNT {
        let settled = open(&table, 0, &datagram(Version::V4, client), 1);
        assert!(matches!(settled, Settled::Opened { .. }), "{client}: {settled:?}");
    }
    assert_eq!(
        open(&table, 0, &datagram(Version::V4, COUNT), 1),
        Settled::Dropped(Reason::TableFull)
    );
    assert!((0..COUNT).all(|client| known(&table, 1, &datagram(Version::V4, client))));
    let bytes = table.memory_usage() as f64 / f64::from(COUNT);
    assert!(bytes <= 96.0, "{bytes} bytes a connection");
    assert_eq!(table.expire(at(40_000), usize::MAX, |_| {}), COUNT as usize);
    assert!(table.is_empty());
    for client in 0..COUNT {
        let settled = open(&table, 50_000, &datagram(Version::V4, client + COUNT), 1);
        assert!(matches!(settled, Settled::Opened { .. }), "{client}: {settled:?}");
    }
}

proptest! {
    /// Tables of any size, filled, emptied and filled again with others: what was there is forgotten,
    /// what found no room in its bucket is found, in batches of any length.
    #[test]
    fn look_ups_without_lock_find_exactly_what_is_there(
        capacity in 1..600usize,
        waves in proptest::collection::vec((0..1200u32, 0..600u32), 1..6),
        batch in 1..400usize,
        v6: bool,
    ) {
        let version = if v6 { Version::V6 } else { Version::V4 };
        let mut config = Config::default();
        config.capacity = capacity;
        let table = Table::new(config).unwrap();
        let mut there = HashSet::new();
        for (wave, (first, count)) in waves.into_iter().enumerate() {
            // A datagram without answer lives for 30 seconds: every second wave finds the one before.
            let now = wave as u64 * 20_000;
            table.expire(at(now), usize::MAX, |ended| assert!(there.remove(&ended.key)));
            for client in first..first + count {
                let probe = datagram(version, client);
                if matches!(open(&table, now, &probe, 1), Settled::Opened { .. }) {
                    prop_assert!(there.insert(probe.key));
                }
            }
            let keys: Vec<_> = (0..2000).map(|client| datagram(version, client).key).collect();
            let mut found = vec![false; keys.len()];
            for (keys, found) in keys.chunks(batch).zip(found.chunks_mut(batch)) {
                if v6 {
                    let keys: Vec<_> = keys.iter().map(KeyV6::new).collect();
                    table.contains_v6(&keys, found);
                } else {
                    let keys: Vec<_> = keys.iter().map(KeyV4::new).collect();
                    table.contains_v4(&keys, found);
                }
            }
            for (key, found) in keys.iter().zip(found) {
                prop_assert_eq!(found, there.contains(key), "{:?}", key);
            }
            prop_assert_eq!(table.len(), there.len());
        }
    }

    /// Many at once are what one after the other are: as many as find room, the first of equal keys.
    #[test]
    fn many_inserted_at_once_are_those_that_find_room(
        capacity in 1..200usize,
        before in proptest::collection::vec((0..150u32, any::<bool>()), 0..100),
        clients in proptest::collection::vec((0..150u32, any::<bool>()), 0..200),
    ) {
        let mut config = Config::default();
        config.capacity = capacity;
        let table = Table::new(config).unwrap();
        let version = |v6: bool| if v6 { Version::V6 } else { Version::V4 };
        // Slots that were used before, in any order.
        for (client, v6) in before {
            open(&table, 0, &datagram(version(v6), client), 1);
        }
        table.expire(at(40_000), usize::MAX, |_| {});
        prop_assert!(table.is_empty());
        let ended: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(n, (client, v6))| {
                let segment = Segment::Tcp(
                    TcpHeader { flags: TcpFlags(TcpFlags::SYN), ..TcpHeader::default() },
                    0,
                );
                let probe = probe(&tuple(version(*v6), *client, protocol::TCP), segment);
                let connection = Connection::open(&probe, 40_000, 1, grant(n as u32, 7), false);
                Ended { key: probe.key, connection: connection.unwrap() }
            })
            .collect();
        let mut expected = HashMap::new();
        for Ended { key, connection } in &ended {
            if expected.len() < capacity {
                expected.entry(*key).or_insert(*connection);
            }
        }
        prop_assert_eq!(table.insert_all(&ended), expected.len());
        prop_assert_eq!((table.len(), table.half_open()), (expected.len(), expected.len()));
        let mut found = HashMap::new();
        table.for_each(|key, connection| assert!(found.insert(key, connection).is_none()));
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn packed_keys_come_out_as_they_went_in(
        a: u128, b: u128, ends: [u16; 3], protocol: u8,
    ) {
        let [a_port, b_port, zone] = ends;
        let key = Key { a, b, a_port, b_port, zone, protocol, version: Version::V6 };
        prop_assert_eq!(KeyV6::new(&key).key(), key);
        let (a, b) = (u128::from(a as u32), u128::from(b as u32));
        let key = Key { a, b, version: Version::V4, ..key };
        prop_assert_eq!(KeyV4::new(&key).key(), key);
    }
}

/// Several threads insert the same connections at once, each in an order of its own, while others of
/// theirs come and go: each is there once, and no slot is lost.
#[test]
fn many_inserted_by_several_threads_are_there_once() {
    const COUNT: u32 = 20_000;
    let mut config = Config::default();
    config.capacity = 2 * COUNT as usize;
    let table = Table::new(config).unwrap();
    let ended: Vec<_> = (0..COUNT)
        .map(|client| {
            let probe = datagram(if client % 3 == 0 { Version::V6 } else { Version::V4 }, client);
            let connection = Connection::open(&probe, 0, 1, grant(client, 7), false).unwrap();
            Ended { key: probe.key, connection }
        })
        .collect();
    for round in 0..5u64 {
        let now = round * 100_000;
        let inserted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let (table, ended, inserted) = (&table, &ended, &inserted);
                scope.spawn(move || {
                    let mut mine: Vec<_> = ended.clone();
                    mine.rotate_left((thread * COUNT / 4) as usize);
                    for connection in &mut mine {
                        connection.connection.seen = now as u32;
                    }
                    for (n, part) in mine.chunks(100).enumerate() {
                        inserted.fetch_add(table.insert_all(part) as u64, Ordering::Relaxed);
                        let other = COUNT + thread * 1000 + n as u32 % 1000;
                        open(table, now, &datagram(Version::V4, other), 1);
                    }
                });
            }
        });
        assert_eq!(inserted.load(Ordering::Relaxed), u64::from(COUNT));
        let others = 4 * u64::from((COUNT / 100).min(1000));
        assert_eq!(table.len() as u64, u64::from(COUNT) + others);
        let mut found = HashSet::new();
        table.for_each(|key, _| assert!(found.insert(key)));
        assert!(ended.iter().all(|ended| found.contains(&ended.key)));
        assert_eq!(table.expire(at(now + 90_000), usize::MAX, |_| {}), found.len());
    }
}

#[test]
fn eviction_prefers_what_nobody_misses() {
    let mut config = Config::default();
    config.capacity = 32;
    config.on_full = OnFull::EvictOldest;
    let table = Table::new(config).unwrap();
    // Half of them are answered, and older.
    for client in 0..32 {
        open(&table, u64::from(client), &datagram(Version::V4, client), 1);
        if client < 16 {
            let there = tuple(Version::V4, client, protocol::UDP);
            assert!(known(&table, u64::from(client), &probe(&there.reversed(), Segment::Datagram)));
        }
    }
    for client in 0..16 {
        let mut ended = None;
        let new = datagram(Version::V6, 100 + client);
        let opened = new.direction;
        let settled = table.settle(at(1000), 0, &new, opened, Ok(grant(1, 1)), &mut ended);
        assert!(matches!(settled, Settled::Opened { .. }));
        let ended = ended.expect("one had to go");
        let unanswered = Protocol::Datagram { answered: false };
        assert_eq!(ended.connection.protocol, unanswered);
    }
    for client in 0..16 {
        assert!(known(&table, 1000, &datagram(Version::V4, client)));
    }
    assert_eq!((table.len(), table.evicted()), (32, 16));
}

#[test]
fn a_syn_flood_harms_only_who_floods() {
    let mut limits = Limits::default();
    limits.half_open = Some(100);
    limits.connections = Some(1000);
    let mut config = Config::default();
    config.capacity = 4096;
    config.limits = limits;
    let table = Table::new(config).unwrap();
    let syn = |client| {
        let flags = TcpFlags(TcpFlags::SYN);
        let header = TcpHeader { flags, header_len: 20, ..TcpHeader::default() };
        probe(&tuple(Version::V4, client, protocol::TCP), Segment::Tcp(header, 0))
    };
    let old = datagram(Version::V4, 5);
    open(&table, 0, &old, 7);
    let mut opened = 0;
    for client in 0..100_000 {
        match open(&table, 1, &syn(client), 666) {
            Settled::Opened { .. } => opened += 1,
            Settled::Dropped(reason) => assert_eq!(reason, Reason::HalfOpenLimit),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((opened, table.half_open()), (100, 100));
    assert!(known(&table, 2, &old));
    assert!(matches!(open(&table, 2, &syn(200_000), 7), Settled::Opened { .. }));
    // Answered handshakes and expired ones make room again.
    assert_eq!(table.expire(at(20_001), usize::MAX, |_| {}), 100);
    assert!(matches!(open(&table, 20_001, &syn(1), 666), Settled::Opened { .. }));
}

/// Half-open connections of many identities together are bounded too: TCP and SCTP, and nothing else.
#[test]
fn half_open_connections_are_bounded_over_all_identities() {
    let mut config = Config::default();
    config.limits.half_open_in_all = Some(10);
    let table = Table::new(config).unwrap();
    let opening = |client: u32| {
        if client.is_multiple_of(2) {
            let flags = TcpFlags(TcpFlags::SYN);
            let header = TcpHeader { flags, header_len: 20, ..TcpHeader::default() };
            probe(&tuple(Version::V4, client, protocol::TCP), Segment::Tcp(header, 0))
        } else {
            let chunks = SctpChunks(SctpChunks::INIT);
            let header = SctpHeader { initiate: 5, chunks, ..SctpHeader::default() };
            probe(&tuple(Version::V6, client, protocol::SCTP), Segment::Sctp(header))
        }
    };
    for client in 0..20 {
        let settled = open(&table, 0, &opening(client), client);
        match settled {
            Settled::Opened { .. } => assert!(client < 10),
            other => {
                assert_eq!(other, Settled::Dropped(Reason::HalfOpenLimit));
                assert!(client >= 10);
            }
        }
    }
    assert!(matches!(open(&table, 0, &datagram(Version::V4, 1), 1), Settled::Opened { .. }));
    // Finished handshakes make room: the association with client 1.
    let back =
        |client| probe(&tuple(Version::V6, client, protocol::SCTP).reversed(), Segment::Reply);
    let sctp = |mut packet: Probe, tag, initiate, chunk| {
        let chunks = SctpChunks(chunk);
        packet.segment = Segment::Sctp(SctpHeader { tag, initiate, chunks });
        packet
    };
    for packet in [
        sctp(back(1), 5, 6, SctpChunks::INIT_ACK),
        sctp(opening(1), 6, 0, SctpChunks::COOKIE_ECHO),
        sctp(back(1), 5, 0, SctpChunks::COOKIE_ACK),
    ] {
        assert!(known(&table, 1, &packet), "{packet:?}");
    }
    assert!(matches!(open(&table, 1, &opening(30), 30), Settled::Opened { .. }));
    assert_eq!(open(&table, 1, &opening(31), 31), Settled::Dropped(Reason::HalfOpenLimit));
    assert_eq!(table.half_open(), 10);
}

/// Threads open, use and expire connections of few keys and many; afterwards nothing is lost, found
/// twice or left over, and no packet was counted twice.
#[test]
fn several_workers_at_one_table() {
    let (threads, rounds, keys) = if cfg!(miri) { (2, 30, 8) } else { (4, 20_000, 300) };
    let mut config = Config::default();
    config.capacity = 256;
    config.on_full = OnFull::EvictOldest;
    let table = Table::new(config).unwrap();
    let counted = AtomicU64::new(0);
    let ended = Mutex::new(0u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (table, counted, ended) = (&table, &counted, &ended);
            scope.spawn(move || {
                let mut random = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(thread + 1);
                let mut passed = 0;
                let mut over = 0;
                for round in 0..rounds {
                    random =
                        random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let client = ((random >> 33) % keys) as u32;
                    let version = if client.is_multiple_of(3) { Version::V6 } else { Version::V4 };
                    let probe = datagram(version, client);
                    let mut gone = None;
                    let decision = Ok(grant(client, 300 + client));
                    match table.settle(
                        at(round / 10),
                        0,
                        &probe,
                        probe.direction,
                        decision,
                        &mut gone,
                    ) {
                        Settled::Opened { .. } => passed += 1,
                        Settled::Member { grant } => {
                            assert_eq!(grant.rule.get(), client, "another's connection");
                            passed += 1;
                        }
                        Settled::Dropped(Reason::TableFull | Reason::Contention)
                        | Settled::Again { .. } => {}
                        other => panic!("{other:?}"),
                    }
                    if let Some(gone) = gone {
                        over += gone.connection.traffic[0].packets;
                    }
                    if round % 1000 == 999 {
                        table.expire(at(round / 10 + 29_990), 64, |gone| {
                            over += gone.connection.traffic[0].packets;
                        });
                    }
                }
                counted.fetch_add(passed, Ordering::Relaxed);
                *ended.lock().unwrap() += over;
            });
        }
    });
    let mut left = HashMap::new();
    let mut packets = 0;
    table.for_each(|key, connection| {
        packets += connection.traffic[0].packets;
        assert!(left.insert(key, ()).is_none(), "twice in the table");
    });
    assert_eq!(left.len(), table.len());
    assert!(left.keys().all(|key| known(
        &table,
        0,
        &Probe { key: *key, ..datagram(Version::V4, 0) }
    )));
    let ended = *ended.lock().unwrap();
    assert_eq!(packets + ended, counted.load(Ordering::Relaxed));
}

/// Both directions of one connection on two threads while a third sweeps: no packet is lost.
#[test]
fn both_directions_meet() {
    let rounds = if cfg!(miri) { 50 } else { 50_000 };
    let table = Table::new(Config::default()).unwrap();
    let there = tuple(Version::V4, 1, protocol::UDP);
    open(&table, 0, &probe(&there, Segment::Datagram), 1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers = [there, there.reversed()].map(|tuple| {
            let (table, probe) = (&table, probe(&tuple, Segment::Datagram));
            scope.spawn(move || assert!((0..rounds).all(|_| known(table, 1, &probe))))
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                table.expire(at(2), 1000, |_| panic!("not idle"));
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    table.for_each(|_, connection| {
        let [there, back] = connection.traffic;
        assert_eq!((there.packets, back.packets), (rounds + 1, rounds));
        assert_eq!((there.bytes, back.bytes), ((rounds + 1) * 100, rounds * 100));
    });
}
