//! Any file of connections is read or refused: nothing of a refused one is in the table, and what was
//! read is what is written again. Packets of such connections make no panic.
#![no_main]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use portcullis_dataplane::clock::Time;
use portcullis_dataplane::connection::{Config, Connection, Key, OnPolicyChange, Table, Windows};
use portcullis_dataplane::pipeline::{self, Input, Judgement, Lane};

/// Milliseconds since 1970.
const SAVED: u64 = 1 << 40;

const RECORD: usize = 96;

fuzz_target!(|data: &[u8]| {
    let Some((&how, rest)) = data.split_first() else { return };
    let file = if how & 1 == 0 { rest.to_vec() } else { sealed(rest) };
    let wall =
        SystemTime::UNIX_EPOCH + Duration::from_millis(SAVED + u64::from(how >> 3) * 100_000);
    let windows = if how & 2 == 0 { Windows::Hold } else { Windows::Moved };
    let now = Time::from_nanos(5_000_000_000);

    let mut config = pipeline::Config::default();
    config.connections.capacity = 8;
    if how & 4 != 0 {
        config.connections.on_policy_change = OnPolicyChange::Keep;
    }
    let engine = Arc::new(pipeline::Engine::new(config).expect("room for 8"));
    let Ok(restored) = engine.table().restore(now, wall, windows, &mut &file[..]) else {
        assert!(engine.table().is_empty(), "nothing of a refused file");
        return;
    };
    assert_eq!(restored.restored as usize, engine.table().len());
    assert!(restored.restored <= 8);

    let mut again = Vec::new();
    let count = engine.table().save(now, wall, &mut again).expect("memory");
    assert_eq!(count, restored.restored);
    let mut config = Config::default();
    config.capacity = 8;
    let other = Table::new(config).expect("room for 8");
    other.restore(now, wall, Windows::Hold, &mut &again[..]).expect("its own file");
    assert_eq!(all(&other), all(engine.table()));

    // Whatever is in the table, packets meet it; nothing has been published, so nothing passes.
    let mut lane = Lane::new(Arc::clone(&engine));
    for record in rest.chunks(RECORD) {
        let mut out = [Judgement::default()];
        lane.judge(now, &[Input::new(record)], &mut out);
    }
    lane.expire(now, 64);
});

/// A file of these records: right header, number and checksum, and zeros where most noise is refused.
fn sealed(noise: &[u8]) -> Vec<u8> {
    let mut file = b"PCTS\x03\0\0\0".to_vec();
    file.extend(SAVED.to_le_bytes());
    let records = noise.chunks_exact(RECORD);
    let count = records.len() as u32;
    for record in records {
        let at = file.len();
        file.extend_from_slice(record);
        if record[RECORD - 1] & 1 == 0 {
            file[at] = if record[0] & 1 == 0 { 4 } else { 6 };
            file[at + 2..at + 18].fill(0);
            file[at + 22..at + 34].fill(0);
        }
    }
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    for word in file.chunks_exact(8) {
        sum ^= u64::from_le_bytes(word.try_into().expect("eight"));
        sum = sum.wrapping_mul(1_099_511_628_211);
    }
    let mut end = [0; RECORD];
    end[4..8].copy_from_slice(&count.to_le_bytes());
    end[8..16].copy_from_slice(&sum.to_le_bytes());
    file.extend(end);
    file
}

/// Keys and states, in order; times and flags of TCP that are not written apart.
fn all(table: &Table) -> Vec<(Key, Connection)> {
    let mut all = Vec::new();
    table.for_each(|key, connection| all.push((key, connection)));
    all.sort_by_key(|(key, _)| *key);
    all
}
