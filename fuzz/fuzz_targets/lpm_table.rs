//! Any order of inserts, removes and replaced sets: the table answers as its slow twin does.

#![no_main]

use std::collections::BTreeMap;
use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use portcullis_identity_table::reference::ReferenceTable;
use portcullis_identity_table::{IdentityId, Prefix, Replacement, Writer};

fuzz_target!(|data: &[u8]| {
    let mut writer = Writer::new();
    let reader = writer.reader();
    let mut direct = BTreeMap::new();
    let mut set = BTreeMap::new();
    for change in data.chunks_exact(8) {
        let prefix = prefix(change);
        let id = IdentityId::new(u32::from(change[7]) << (change[6] & 24));
        match change[0] >> 4 & 7 {
            0..=3 => {
                writer.insert(prefix, id).expect("far below the limit");
                direct.insert(prefix, id);
            }
            4..=6 => {
                assert_eq!(writer.remove(&prefix), Ok(direct.remove(&prefix)));
            }
            _ => {
                if set.insert(prefix, id).is_some() {
                    set.clear();
                }
                if change[0] & 0x80 == 0 {
                    writer.replace_set("set", set.clone()).expect("each prefix once");
                    continue;
                }
                // The same, while the prefix comes and goes by itself.
                let replacement = Replacement::new("set", set.clone()).expect("each prefix once");
                let mut comes = false;
                let replaced = replacement.run(|step| {
                    comes = !comes;
                    if comes {
                        writer.insert(prefix, id).expect("far below the limit");
                        direct.insert(prefix, id);
                    } else {
                        assert_eq!(writer.remove(&prefix), Ok(direct.remove(&prefix)));
                    }
                    step(&mut writer);
                });
                assert_eq!(replaced, Ok(set.len()));
            }
        }
    }
    let mut twin = ReferenceTable::default();
    for (prefix, id) in set.iter().chain(&direct) {
        twin.insert(*prefix, *id);
    }
    let guard = reader.pin();
    let addresses: Vec<IpAddr> =
        data.chunks_exact(8).map(|change| prefix(change).address()).collect();
    for address in &addresses {
        assert_eq!(guard.lookup(*address), twin.lookup(*address), "{address}");
    }
    let v4 = addresses
        .iter()
        .filter_map(|a| if let IpAddr::V4(a) = a { Some(u32::from(*a)) } else { None });
    let v6 = addresses
        .iter()
        .filter_map(|a| if let IpAddr::V6(a) = a { Some(u128::from(*a)) } else { None });
    let (v4, v6): (Vec<u32>, Vec<u128>) = (v4.collect(), v6.collect());
    let mut out = vec![IdentityId::UNKNOWN; addresses.len()];
    guard.lookup_v4_batch(&v4, &mut out);
    for (address, id) in v4.iter().zip(&out) {
        assert_eq!(*id, twin.lookup(IpAddr::V4((*address).into())));
    }
    guard.lookup_v6_batch(&v6, &mut out);
    for (address, id) in v6.iter().zip(&out) {
        assert_eq!(*id, twin.lookup(IpAddr::V6((*address).into())));
    }
});

/// Bytes that are mostly zero, so that prefixes nest and meet.
fn prefix(change: &[u8]) -> Prefix {
    let (kind, len) = (change[0] & 15, change[1]);
    let (address, width) = if kind & 1 == 0 {
        (IpAddr::from([change[2], change[3] & 3, change[4] & 1, change[5]]), 32)
    } else {
        let mut bytes = [0; 16];
        bytes[usize::from(kind)] = change[3];
        bytes[0] = change[2] & 1;
        bytes[14] = change[4] & 3;
        bytes[15] = change[5];
        (IpAddr::from(bytes), 128)
    };
    Prefix::truncated(address, len % (width + 1)).expect("a length of the family")
}
