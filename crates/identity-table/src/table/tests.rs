use super::*;
use core::net::IpAddr;

use crate::reference::ReferenceTable;
use proptest::prelude::*;

#[test]
fn the_longest_prefix_wins() {
    let mut writer = Writer::new();
    let reader = writer.reader();
    for (prefix, id) in [("0.0.0.0/0", 1), ("10.0.0.0/8", 2), ("10.1.0.0/16", 3), ("::/0", 4)] {
        writer.insert(prefix.parse().unwrap(), IdentityId::new(id)).unwrap();
    }
    let id = |text: &str| reader.pin().lookup(text.parse().unwrap()).get();
    assert_eq!([id("10.1.2.3"), id("10.2.0.0"), id("9.9.9.9"), id("::1")], [3, 2, 1, 4]);
    writer.remove(&"10.1.0.0/16".parse().unwrap()).unwrap();
    assert_eq!(id("10.1.2.3"), 2);
}

#[test]
fn a_full_table_refuses_and_changes_nothing() {
    use crate::lpm::{entry::MAX_WORDS, trie::HEADROOM};
    let mut writer = Writer::new();
    let reader = writer.reader();
    let (known, new): (Prefix, Prefix) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    writer.insert(known, IdentityId::new(1)).unwrap();
    // Words handed out and never touched stand for prefixes.
    let room = MAX_WORDS - HEADROOM - writer.content.v4.alloc.top();
    writer.content.v4.alloc.take(room + 2);
    let full = TableError::Full { family: "IPv4" };
    assert_eq!(writer.insert(new, IdentityId::new(2)), Err(full.clone()));
    assert_eq!(writer.remove(&known), Err(full));
    assert_eq!((writer.get(&new), writer.get(&known)), (None, Some(IdentityId::new(1))));
    assert_eq!(reader.pin().lookup(new.address()), IdentityId::UNKNOWN);
    assert_eq!(reader.pin().lookup(known.address()), IdentityId::new(1));
    // The other family has its own room, and building anew leaves what was lost behind.
    writer.insert("fd00::1".parse().unwrap(), IdentityId::new(3)).unwrap();
    writer.load([(new, IdentityId::new(2))]).unwrap();
    assert_eq!(reader.pin().lookup(new.address()), IdentityId::new(2));
    assert_eq!(writer.remove(&known), Ok(Some(IdentityId::new(1))));
}

/// Few distinct bits, so that prefixes nest, meet and equal each other.
fn prefixes() -> impl Strategy<Value = Prefix> {
    (any::<u64>(), any::<u8>(), 0..8_u8).prop_map(|(picks, len, kind)| {
        let byte = |i: u32| match picks >> (4 * i) & 15 {
            12 => 1,
            13 => 0x80,
            14 => 0xff,
            15 => (picks >> 7) as u8,
            _ => 0,
        };
        let host = (picks >> 32) as u8;
        let (address, len) = match kind {
            0 | 1 => (IpAddr::from([byte(0), byte(1), byte(2), byte(3)]), len % 33),
            2 => (IpAddr::from(core::array::from_fn::<u8, 16, _>(|i| byte(i as u32))), len % 129),
            // Crowded nets, whose pages unfold, fold and grow wide.
            3 | 4 => (IpAddr::from([10, 0, (picks & 3) as u8, host]), 24 + len % 9),
            5 => (IpAddr::from([10, 0, len, host & 0x8f]), 30 + host % 3),
            _ => {
                let bits = 0xfd10 << 112 | u128::from(byte(0)) << 8 | u128::from(host);
                (IpAddr::V6(bits.into()), 112 + len % 17)
            }
        };
        Prefix::truncated(address, len).unwrap()
    })
}

fn ids() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..50_u32, 1 => Just(u32::MAX), 1 => (1_u32 << 31) - 4..(1 << 31) + 3]
}

/// Addresses at and beside the ends of the prefix.
fn edges(prefix: &Prefix) -> Vec<IpAddr> {
    let host = if prefix.is_v6() { 128 } else { 32 };
    let last = prefix.key() | !crate::prefix::mask(prefix.len());
    let one = 1_u128 << (128 - host);
    let cut = crate::prefix::mask(host);
    [prefix.key(), last, prefix.key().wrapping_sub(one), last.wrapping_add(one)]
        .map(|key| Prefix::from_key(prefix.is_v6(), key & cut, host).address())
        .into()
}

fn check(reader: &Reader, twin: &ReferenceTable, addresses: &[IpAddr]) {
    let guard = reader.pin();
    let (mut v4, mut v6, mut want4, mut want6) = (vec![], vec![], vec![], vec![]);
    for address in addresses {
        let want = twin.lookup(*address);
        assert_eq!(guard.lookup(*address), want, "{address}");
        match address {
            IpAddr::V4(a) => (v4.push(u32::from(*a)), want4.push(want)),
            IpAddr::V6(a) => (v6.push(u128::from(*a)), want6.push(want)),
        };
    }
    let mut out = vec![IdentityId::new(7); v4.len()];
    guard.lookup_v4_batch(&v4, &mut out);
    assert_eq!(out, want4);
    let mut out = vec![IdentityId::new(7); v6.len()];
    guard.lookup_v6_batch(&v6, &mut out);
    assert_eq!(out, want6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn equals_its_slow_twin(
        changes in proptest::collection::vec((prefixes(), proptest::option::weighted(0.7, ids())), 1..300),
    ) {
        let mut writer = Writer::new();
        let reader = writer.reader();
        let mut twin = ReferenceTable::default();
        let addresses: Vec<IpAddr> = changes.iter().flat_map(|(p, _)| edges(p)).collect();
        for (i, (prefix, id)) in changes.iter().enumerate() {
            let (old, want) = match id {
                Some(id) => {
                    let id = IdentityId::new(*id);
                    (writer.insert(*prefix, id), twin.insert(*prefix, id))
                }
                None => (writer.remove(prefix), twin.remove(prefix)),
            };
            prop_assert_eq!(old, Ok(want));
            prop_assert_eq!(writer.get(prefix), twin.get(prefix));
            if i % 16 == 0 {
                check(&reader, &twin, &addresses);
            }
        }
        check(&reader, &twin, &addresses);
        let mut loaded = Writer::new();
        loaded.load(twin.iter()).unwrap();
        check(&loaded.reader(), &twin, &addresses);
        let all: Vec<Prefix> = twin.iter().map(|(prefix, _)| prefix).collect();
        prop_assert_eq!(writer.len(), all.len());
        for prefix in all {
            prop_assert_eq!(writer.remove(&prefix), Ok(twin.remove(&prefix)));
        }
        prop_assert!(writer.is_empty());
        check(&reader, &twin, &addresses);
    }
}
