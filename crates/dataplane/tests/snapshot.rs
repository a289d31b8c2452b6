//! Connections across a restart.

mod common;

use common::*;
use portcullis_dataplane::connection::{
    Config, OnPolicyChange, RestoreError, Restored, Table, Windows,
};
use portcullis_dataplane::pipeline::{self, Lane};
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::verdict::Verdict;
use proptest::prelude::*;
use std::io::Read;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// Some time of the wall clock: milliseconds since 1970.
const SAVED: u64 = 1_000_000_000_000;

fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(SAVED)
}

fn save(table: &Table, now: u64, wall: SystemTime) -> Vec<u8> {
    let mut file = Vec::new();
    let count = table.save(at(now), wall, &mut file).unwrap();
    assert_eq!(count as usize, table.len());
    file
}

fn restore(
    table: &Table,
    now: u64,
    wall: SystemTime,
    mut file: &[u8],
) -> Result<Restored, RestoreError> {
    table.restore(at(now), wall, Windows::Hold, &mut file)
}

#[test]
fn connections_go_on_after_a_restart() {
    let policy = || Table_::allow(&[(1, 2, 6, 80), (1, 2, 17, 53), (257, 258, 58, 128)]);
    let mut before = lane(pipeline::Config::default(), policy());
    let (c, s) = (Tcp::new(A, B), Tcp::new(A, B).back());
    let (a6, b6) = (Ipv6Addr::from_bits(1), Ipv6Addr::from_bits(2));
    for packet in [
        c.is("S", 1000, 0, 0),
        s.is("SA", 5000, 1001, 0),
        c.is("A", 1001, 5001, 0),
        udp(A, 5000, B, 53, b"q"),
        ping(a6, b6, 9, false),
    ] {
        assert!(passes(&mut before, 1_000_000, &packet));
    }
    let file = save(before.engine().table(), 1_010_000, epoch());
    assert_eq!(file.len(), 16 + 3 * 96 + 96);

    // The next process has another clock.
    for (mode, go_on) in [
        (OnPolicyChange::Rejudge, true),
        (OnPolicyChange::Keep, true),
        (OnPolicyChange::Cut, false),
    ] {
        let mut config = pipeline::Config::default();
        config.connections.on_policy_change = mode;
        let mut after = lane(config.clone(), policy());
        let restored = restore(after.engine().table(), 5, epoch(), &file).unwrap();
        assert_eq!((restored.restored, restored.left_out), (3, 0));
        assert_eq!(passes(&mut after, 10, &s.is("PA", 5001, 1001, 100)), go_on);
        assert_eq!(passes(&mut after, 10, &udp(B, 53, A, 5000, b"a")), go_on);
        assert_eq!(passes(&mut after, 10, &ping(b6, a6, 9, true)), go_on);
        if go_on {
            // Windows and silences were kept.
            let far = judge(&mut after, 10, &s.is("PA", 500_001, 1001, 100));
            assert_eq!(far.reason, Some(Reason::TcpOutOfWindow));
            assert_eq!(restore(after.engine().table(), 5, epoch(), &file).unwrap().left_out, 3);
        }
        // 10 s of 30 had passed before, and 5 s pass between the two.
        let wall = epoch() + Duration::from_secs(5);
        let mut late = common::lane(config, policy());
        assert_eq!(restore(late.engine().table(), 5, wall, &file).unwrap().age.as_secs(), 5);
        assert_eq!(late.expire(at(5 + 14_999), 100), 0);
        assert_eq!(late.expire(at(5 + 15_000), 100), 2);
    }
}

/// Workers go on while a file is written: a connection with a packet since then is as young as can be.
#[test]
fn packets_that_come_while_a_file_is_written_lose_no_connection() {
    let policy = || Table_::allow(&[(1, 2, 17, 53)]);
    let mut before = lane(pipeline::Config::default(), policy());
    assert!(passes(&mut before, 1000, &udp(A, 5000, B, 53, b"q")));
    assert!(passes(&mut before, 1043, &udp(B, 53, A, 5000, b"a")));
    let file = save(before.engine().table(), 1000, epoch());
    let mut after = lane(pipeline::Config::default(), policy());
    let later = epoch() + Duration::from_secs(1);
    let restored = restore(after.engine().table(), 50, later, &file).unwrap();
    assert_eq!((restored.restored, restored.left_out), (1, 0));
    // Three minutes of silence, one second of which the restart took.
    assert_eq!(after.expire(at(50 + 178_999), 100), 0);
    assert_eq!(after.expire(at(50 + 179_000), 100), 1);
}

/// Rules and identities have other numbers in the next process: a restored connection is the policy's
/// to judge before its first packet passes.
#[test]
fn restored_connections_are_judged_before_they_pass() {
    let mut before = lane(pipeline::Config::default(), Table_::allow(&[(1, 2, 6, 80)]));
    let (c, s) = (Tcp::new(A, B), Tcp::new(A, B).back());
    for packet in [c.is("S", 1000, 0, 0), s.is("SA", 5000, 1001, 0), c.is("A", 1001, 5001, 0)] {
        assert!(passes(&mut before, 0, &packet));
    }
    let file = save(before.engine().table(), 0, epoch());
    // Even where what this process allowed once would be kept.
    for mode in [OnPolicyChange::Rejudge, OnPolicyChange::Keep] {
        let mut config = pipeline::Config::default();
        config.connections.on_policy_change = mode;
        let mut closed = lane(config, Table_::allow(&[(1, 2, 6, 81)]));
        restore(closed.engine().table(), 0, epoch(), &file).unwrap();
        // Whichever end speaks first.
        assert!(!passes(&mut closed, 1, &s.is("PA", 5001, 1001, 100)));
        assert!(closed.engine().table().is_empty(), "denied, it is forgotten");
        assert!(!passes(&mut closed, 2, &c.is("PA", 1001, 5001, 100)));
    }

    // What is not in the file stays unknown, however much it looks like the middle of a connection.
    let mut open = lane(pipeline::Config::default(), Table_::allow(&[(1, 2, 6, 80)]));
    restore(open.engine().table(), 0, epoch(), &file).unwrap();
    let forged = Tcp { source_port: 40001, ..Tcp::new(A, B) }.is("PA", 1001, 5001, 100);
    assert_eq!(judge(&mut open, 1, &forged).reason, Some(Reason::TcpNotOpening));
    assert!(passes(&mut open, 1, &c.is("PA", 1001, 5001, 100)));
}

#[test]
fn windows_are_kept_or_given_up() {
    let policy = || Table_::allow(&[(1, 2, 6, 80)]);
    let mut before = lane(pipeline::Config::default(), policy());
    let (c, s) = (Tcp::new(A, B), Tcp::new(A, B).back());
    for packet in [c.is("S", 1000, 0, 0), s.is("SA", 5000, 1001, 0), c.is("A", 1001, 5001, 0)] {
        assert!(passes(&mut before, 0, &packet));
    }
    let file = save(before.engine().table(), 0, epoch());
    for (windows, passed) in [(Windows::Hold, false), (Windows::Moved, true)] {
        let mut after = lane(pipeline::Config::default(), policy());
        let table = after.engine().table();
        table.restore(at(0), epoch(), windows, &mut &file[..]).unwrap();
        // Ten megabytes went by unseen.
        let far = judge(&mut after, 1, &c.is("PA", 10_001_001, 5001, 100));
        assert_eq!(far.verdict == Verdict::Allow, passed, "{windows:?}: {far:?}");
    }
}

use common::Table as Table_;

#[test]
fn damaged_files_change_nothing() {
    let mut lane = lane(pipeline::Config::default(), Always(Verdict::Allow));
    assert!(passes(&mut lane, 0, &udp(A, 5000, B, 53, b"q")));
    assert!(passes(&mut lane, 0, &Tcp::new(A, B).build()));
    let file = save(lane.engine().table(), 0, epoch());
    let restore = |file: &[u8]| {
        let table = Table::new(Config::default()).unwrap();
        let result = restore(&table, 0, epoch(), file);
        assert!(result.is_ok() || table.is_empty());
        result
    };
    assert_eq!(restore(&file).unwrap().restored, 2);
    for len in 0..file.len() {
        assert!(matches!(restore(&file[..len]), Err(RestoreError::Truncated)), "{len} bytes");
    }
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut damaged = file.clone();
            damaged[at] ^= 1 << bit;
            assert!(restore(&damaged).is_err(), "bit {bit} of byte {at}");
        }
    }
    for (at, value, expected) in [
        (0, 0u8, "not a file of connections"),
        (4, 2, "in format 2"),
        (16, 5, "an IP version that is none"),
        (16 + 2 + 4, 1, "more than 32 bits"),
        (16 + 50, 200, "checksum"),
        (15, 1, "in the future"),
    ] {
        let mut damaged = file.clone();
        damaged[at] = value;
        let error = restore(&damaged).unwrap_err().to_string();
        assert!(error.contains(expected), "byte {at}: {error}");
    }
}

#[test]
fn files_are_bounded_and_have_an_age() {
    let config = |capacity| {
        let mut config = Config::default();
        config.capacity = capacity;
        config
    };
    let mut lane = lane(pipeline::Config::default(), Always(Verdict::Allow));
    for port in 1..=21 {
        assert!(passes(&mut lane, 0, &udp(A, port, B, 53, b"q")));
    }
    let file = save(lane.engine().table(), 0, epoch());
    let small = Table::new(config(11)).unwrap();
    let restored = restore(&small, 0, epoch(), &file).unwrap();
    assert_eq!((restored.restored, restored.left_out), (11, 10), "what there is room for");
    let smaller = Table::new(config(10)).unwrap();
    let error = restore(&smaller, 0, epoch(), &file);
    assert!(matches!(error, Err(RestoreError::TooMany { most: 20 })), "{error:?}");
    assert!(smaller.is_empty());
    // A file without end is no endless work.
    let mut endless = file[..16 + 96].chain(std::io::repeat(4));
    let table = Table::new(config(1000)).unwrap();
    let error = table.restore(at(0), epoch(), Windows::Hold, &mut endless);
    assert!(error.is_err() && table.is_empty(), "{error:?}");

    let table = || Table::new(config(100)).unwrap();
    let back = |seconds| restore(&table(), 0, epoch() - Duration::from_secs(seconds), &file);
    assert_eq!(back(60).unwrap().age, Duration::ZERO, "clocks differ a little");
    assert!(matches!(back(61), Err(RestoreError::Future(_))), "not by so much");
    // Ages beyond what the clock can say are no youth.
    for days in [12, 13, 24, 25, 49, 50, 99, 100, 40_000] {
        let table = table();
        let wall = epoch() + Duration::from_secs(86_400 * days);
        let restored = restore(&table, 0, wall, &file).unwrap();
        assert_eq!(restored.restored, if days <= 12 { 21 } else { 0 }, "{days} days");
        let ended = table.expire(at(1), 1000, |_| {});
        assert_eq!(ended as u32, restored.restored, "{days} days: what came in is over");
    }
}

/// The file whose records are made of noise: with a right header and end, and so little put right in
/// each record that some of them can be.
fn sealed(noise: &[u8]) -> Vec<u8> {
    let mut file = b"PCTS\x03\0\0\0".to_vec();
    file.extend(SAVED.to_le_bytes());
    let records = noise.chunks_exact(96);
    let count = records.len() as u32;
    for record in records {
        let mut record: [u8; 96] = record.try_into().unwrap();
        record[0] = [4, 6][usize::from(record[0] & 1)];
        record[1] = [6, 17, 132, 1, record[1]][usize::from(record[1] % 5)];
        // The first address below the second, of which only the last byte is left; no time in which
        // it was not silent; flags and states of the first few.
        record[2..34].fill(0);
        record[18] = 1;
        record[44..48].fill(0);
        record[72..76].iter_mut().for_each(|byte| *byte &= 3);
        file.extend(record);
    }
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    for word in file.chunks(8) {
        sum ^= u64::from_le_bytes(word.try_into().unwrap());
        sum = sum.wrapping_mul(1_099_511_628_211);
    }
    let mut end = [0; 96];
    end[4..8].copy_from_slice(&count.to_le_bytes());
    end[8..16].copy_from_slice(&sum.to_le_bytes());
    file.extend(end);
    file
}

#[test]
fn sealed_files_are_read() {
    let table = Table::new(Config::default()).unwrap();
    let restored = restore(&table, 0, epoch(), &sealed(&[0; 2 * 96])).unwrap();
    assert_eq!((restored.restored, restored.left_out), (1, 1), "twice the same");
}

/// Connections open, go on and end while they are saved: every file is a right one, whatever it caught,
/// and each connection in it is one that was there.
#[test]
fn files_saved_under_traffic_are_right() {
    let mut config = pipeline::Config::default();
    config.connections.capacity = 4000;
    let first = lane(config, Always(Verdict::Allow));
    let engine = Arc::clone(first.engine());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..2u16 {
            let (engine, stop) = (Arc::clone(&engine), &stop);
            scope.spawn(move || {
                let mut lane = Lane::new(engine);
                let mut now = 0;
                while !stop.load(Ordering::Relaxed) {
                    // 1,000 at a time of each worker, both ways; they time out half a minute later.
                    for port in 0..1000 {
                        let port = 2000 + 1000 * worker + port;
                        assert!(passes(&mut lane, now, &udp(A, port, B, 53, b"q")));
                        assert!(passes(&mut lane, now, &udp(B, 53, A, port, b"a")));
                    }
                    now += 200_000;
                    lane.expire(at(now), 4000);
                }
            });
        }
        while engine.connections() < 1000 {
            std::thread::yield_now();
        }
        let mut most = 0;
        for _ in 0..300 {
            let mut file = Vec::new();
            let count = engine.table().save(at(0), epoch(), &mut file).unwrap();
            let table = Table::new(Config::default()).unwrap();
            let restored = restore(&table, 0, epoch(), &file).unwrap();
            assert_eq!(restored.restored + restored.left_out, count);
            table.for_each(|key, connection| {
                assert_eq!((key.a_port.min(key.b_port), key.protocol), (53, 17));
                assert!((2000..4000).contains(&key.a_port.max(key.b_port)));
                assert!(connection.traffic[0].packets > 0);
            });
            most = most.max(restored.restored);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(most > 100, "{most}: they were there");
    });
}

proptest! {
    /// Any file is refused or read, never more; what is read can be saved and read again.
    #[test]
    fn any_file(mut file in proptest::collection::vec(any::<u8>(), 0..400), seal: bool) {
        if seal {
            file = sealed(&file);
        }
        let table = Table::new(Config::default()).unwrap();
        let result = restore(&table, 1000, epoch(), &file);
        prop_assert!(!seal || !matches!(result, Err(RestoreError::Checksum)), "{:?}", result);
        if result.is_ok() {
            let again = save(&table, 1000, epoch());
            let other = Table::new(Config::default()).unwrap();
            restore(&other, 1000, epoch(), &again).unwrap();
            prop_assert_eq!(other.len(), table.len());
        } else {
            prop_assert!(table.is_empty());
        }
    }
}
