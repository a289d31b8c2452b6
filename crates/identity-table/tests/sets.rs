//! A feed is replaced as a whole while readers look up and endpoints come and go.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use portcullis_identity_table::{IdentityId, Prefix, Writer};

/// Members of the feed; `SET_MEMBERS=1000000 cargo test --release … --test sets` for a large one.
fn members() -> u32 {
    std::env::var("SET_MEMBERS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

/// Scattered addresses, the same in every generation.
fn member(i: u32) -> u32 {
    i.wrapping_mul(0x9e37_79b1) | 1
}

#[test]
fn readers_see_one_generation_of_a_set_or_the_next() {
    let members = members();
    let mut writer = Writer::new();
    let pod = |i: u32| Prefix::host(IpAddr::from((0x0a00_0000 | i << 1).to_be_bytes()));
    for i in 0..256 {
        writer.insert(pod(i), IdentityId::new(5000 + i)).unwrap();
    }
    let (stop, lookups) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let reader = writer.reader();
            let (stop, lookups) = (&stop, &lookups);
            scope.spawn(move || {
                let mut first = thread;
                let mut latest = 0;
                while !stop.load(Ordering::Relaxed) {
                    first = (first + 97) % members;
                    let addresses: [u32; 96] =
                        std::array::from_fn(|i| member((first + i as u32 * 131) % members));
                    let mut ids = [IdentityId::UNKNOWN; 96];
                    let guard = reader.pin();
                    guard.lookup_v4_batch(&addresses, &mut ids);
                    let generation = ids[0].get();
                    assert!(ids.iter().all(|id| id.get() == generation), "a mix: {ids:?}");
                    assert!(generation >= latest, "{generation} after {latest}");
                    latest = generation;
                    for i in 0..256 {
                        let id = guard.lookup(pod(i).address()).get();
                        assert!(id == 5000 + i || id == 6000 + i, "pod {i} is {id}");
                    }
                    lookups.fetch_add(96 + 256, Ordering::Relaxed);
                }
            });
        }
        for generation in 1..=8_u32 {
            let rows = (0..members).map(|i| {
                (Prefix::host(IpAddr::from(member(i).to_be_bytes())), IdentityId::new(generation))
            });
            assert_eq!(writer.replace_set("feed", rows), Ok(members as usize));
            for i in 0..256 {
                let base = if generation % 2 == 0 { 5000 } else { 6000 };
                writer.insert(pod(i), IdentityId::new(base + i)).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(lookups.into_inner() > 0);
    assert_eq!(writer.len(), members as usize + 256);
    assert_eq!(writer.remove_set("feed"), Ok(true));
    assert_eq!(writer.len(), 256);
}
