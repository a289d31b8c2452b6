//! Connections across a restart.

mod common;

use common::*;
use portcullis_dataplane::clock::Time;
use portcullis_dataplane::connection::{Config, OnPolicyChange, RestoreError, Table};
use portcullis_dataplane::pipeline;
use portcullis_dataplane::reason::Reason;
use proptest::prelude::*;
use std::net::Ipv6Addr;

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
    let mut file = Vec::new();
    assert_eq!(before.engine().table().save(at(1_010_000), &mut file).unwrap(), 3);

    // The next process has another clock.
    for (mode, go_on) in [
        (OnPolicyChange::Rejudge, true),
        (OnPolicyChange::Keep, true),
        (OnPolicyChange::Cut, false),
    ] {
        let mut config = pipeline::Config::default();
        config.connections.on_policy_change = mode;
        let mut after = lane(config.clone(), policy());
        let restored = after.engine().table().restore(at(5), &mut &file[..]).unwrap();
        assert_eq!((restored.restored, restored.left_out), (3, 0));
        assert_eq!(passes(&mut after, 10, &s.is("PA", 5001, 1001, 100)), go_on);
        assert_eq!(passes(&mut after, 10, &udp(B, 53, A, 5000, b"a")), go_on);
        assert_eq!(passes(&mut after, 10, &ping(b6, a6, 9, true)), go_on);
        if go_on {
            // Windows and silences were kept.
            let far = judge(&mut after, 10, &s.is("PA", 500_001, 1001, 100));
            assert_eq!(far.reason, Some(Reason::TcpOutOfWindow));
            assert_eq!(after.engine().table().restore(at(5), &mut &file[..]).unwrap().left_out, 3);
        }
        let late = common::lane(config, policy());
        late.engine().table().restore(at(5), &mut &file[..]).unwrap();
        let mut late = late;
        assert_eq!(late.expire(at(5 + 19_999), 100), 0);
        assert_eq!(late.expire(at(5 + 20_000), 100), 2, "10 s of 30 had passed before");
    }
}

use common::Table as Table_;

#[test]
fn damaged_files_change_nothing() {
    let mut lane =
        lane(pipeline::Config::default(), Always(portcullis_dataplane::verdict::Verdict::Allow));
    assert!(passes(&mut lane, 0, &udp(A, 5000, B, 53, b"q")));
    assert!(passes(&mut lane, 0, &Tcp::new(A, B).build()));
    let mut file = Vec::new();
    lane.engine().table().save(Time::default(), &mut file).unwrap();
    let restore = |file: &[u8]| {
        let table = Table::new(Config::default()).unwrap();
        let result = table.restore(Time::default(), &mut &*file);
        assert!(result.is_ok() || table.is_empty());
        result
    };
    assert_eq!(restore(&file).unwrap().restored, 2);
    for len in 0..file.len() {
        assert!(matches!(restore(&file[..len]), Err(RestoreError::Read(_))));
    }
    for (at, value) in [(0, 0u8), (4, 9), (12, 5), (12 + 2 + 4, 1), (12 + 2 + 16 + 4, 1)] {
        let mut damaged = file.clone();
        damaged[at] = value;
        assert!(restore(&damaged).is_err(), "byte {at}");
    }
}

proptest! {
    /// Any file is refused or read, never more; what is read can be saved and read again.
    #[test]
    fn any_file(mut file in proptest::collection::vec(any::<u8>(), 0..400), header: bool) {
        if header {
            let count = (file.len().saturating_sub(12) / 96) as u32;
            for (byte, right) in file.iter_mut().zip(b"PCTS\x01\0\0\0".iter().chain(&count.to_le_bytes())) {
                *byte = *right;
            }
            for record in file.get_mut(12..).unwrap_or_default().chunks_exact_mut(96) {
                record[0] = 6;
                record[17] = 0;
            }
        }
        let table = Table::new(Config::default()).unwrap();
        if table.restore(at(1000), &mut &file[..]).is_ok() {
            let mut again = Vec::new();
            table.save(at(1000), &mut again).unwrap();
            let other = Table::new(Config::default()).unwrap();
            other.restore(at(1000), &mut &again[..]).unwrap();
            prop_assert_eq!(other.len(), table.len());
        } else {
            prop_assert!(table.is_empty());
        }
    }
}
