use super::*;
use crate::reference::ReferenceTable;
use crate::{IdentityId, Prefix, Reader};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What the table should hold, in the words of the documentation.
#[derive(Default)]
struct Twin {
    direct: BTreeMap<Prefix, IdentityId>,
    sets: BTreeMap<String, BTreeMap<Prefix, IdentityId>>,
}

impl Twin {
    fn table(&self) -> ReferenceTable {
        let mut table = ReferenceTable::default();
        for rows in self.sets.values().rev().chain([&self.direct]) {
            for (prefix, id) in rows {
                table.insert(*prefix, *id);
            }
        }
        table
    }
}

#[derive(Clone, Debug)]
enum Change {
    Insert(Prefix, IdentityId),
    Remove(Prefix),
    Load(Vec<Row>),
    Replace(&'static str, Vec<Row>),
    RemoveSet(&'static str),
    /// A set is replaced, or goes, while these changes happen.
    Aside(&'static str, Option<Vec<Row>>, Vec<Change>),
}

fn prefixes() -> impl Strategy<Value = Prefix> + Clone {
    (any::<bool>(), 0..3_u32, 0..33_u8).prop_map(|(v6, net, len)| {
        let bits = u128::from(net) << 96 | u128::from(net) << 112;
        Prefix::from_key(v6, bits & crate::prefix::mask(len), len)
    })
}

fn changes() -> impl Strategy<Value = Change> {
    let row = (prefixes(), (0..9_u32).prop_map(IdentityId::new));
    let rows = proptest::collection::vec(row.clone(), 0..40);
    let meanwhile = prop_oneof![
        8 => row.clone().prop_map(|(prefix, id)| Change::Insert(prefix, id)),
        8 => prefixes().prop_map(Change::Remove),
        // These make a replacement begin anew.
        1 => rows.clone().prop_map(Change::Load),
        1 => rows.clone().prop_map(|rows| Change::Replace("b", rows)),
    ];
    let meanwhile = proptest::collection::vec(meanwhile, 0..60);
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    prop_oneof![
        6 => row.prop_map(|(prefix, id)| Change::Insert(prefix, id)),
        6 => prefixes().prop_map(Change::Remove),
        1 => rows.clone().prop_map(Change::Load),
        3 => (name.clone(), rows.clone()).prop_map(|(name, rows)| Change::Replace(name, rows)),
        1 => name.clone().prop_map(Change::RemoveSet),
        3 => (name, proptest::option::weighted(0.8, rows), meanwhile)
            .prop_map(|(name, rows, meanwhile)| Change::Aside(name, rows, meanwhile)),
    ]
}

/// Runs a replacement step by step, with changes and checks between the steps.
fn aside(
    writer: &mut Writer,
    twin: &mut Twin,
    name: &'static str,
    rows: Option<Vec<Row>>,
    meanwhile: Vec<Change>,
) {
    let members: Option<BTreeMap<_, _>> = rows.clone().map(|rows| rows.into_iter().collect());
    let replacement = match rows {
        None => Replacement::removal(name),
        Some(rows) => match (Replacement::new(name, rows.clone()), &members) {
            (Ok(replacement), _) => replacement,
            (Err(TableError::Conflict { prefix, ids }), Some(members)) => {
                assert!(ids[0] != ids[1] && members.contains_key(&prefix));
                return;
            }
            (other, _) => panic!("{other:?}"),
        },
    };
    let want = replacement.len();
    let reader = writer.reader();
    let (mut meanwhile, mut done, mut steps) = (meanwhile.into_iter(), false, 0);
    let result = replacement.run(|step| {
        // A few changes before each step, also after the exchange.
        for change in meanwhile.by_ref().take(4) {
            apply(writer, twin, change);
        }
        // Not each time: most steps only read.
        steps += 1;
        if steps % 8 == 0 {
            check(writer, &reader, twin);
        }
        let generation = writer.exchanges;
        step(writer);
        if writer.exchanges != generation {
            assert!(!done, "exchanged twice");
            done = true;
            match &members {
                Some(members) => twin.sets.insert(name.into(), members.clone()),
                None => twin.sets.remove(name),
            };
            check(writer, &reader, twin);
        }
    });
    assert_eq!(result, Ok(want));
    assert!(done);
    for change in meanwhile {
        apply(writer, twin, change);
    }
}

fn apply(writer: &mut Writer, twin: &mut Twin, change: Change) {
    match change {
        Change::Insert(prefix, id) => {
            let old = twin.table().get(&prefix);
            twin.direct.insert(prefix, id);
            assert_eq!(writer.insert(prefix, id), Ok(old));
        }
        Change::Remove(prefix) => {
            let old = twin.direct.remove(&prefix);
            assert_eq!(writer.remove(&prefix), Ok(old));
        }
        Change::Load(rows) => {
            twin.direct.extend(rows.iter().copied());
            writer.load(rows).unwrap();
        }
        Change::Replace(name, rows) => {
            let members: BTreeMap<_, _> = rows.iter().copied().collect();
            let clear = rows.iter().all(|(prefix, id)| members[prefix] == *id);
            let done = writer.replace_set(name, rows);
            assert_eq!(done.is_ok(), clear);
            if clear {
                assert_eq!(done, Ok(members.len()));
                twin.sets.insert(name.into(), members);
            }
        }
        Change::RemoveSet(name) => {
            let known = twin.sets.remove(name).is_some();
            assert_eq!(writer.remove_set(name), Ok(known));
        }
        Change::Aside(name, rows, meanwhile) => aside(writer, twin, name, rows, meanwhile),
    }
}

fn check(writer: &Writer, reader: &Reader, twin: &Twin) {
    let table = twin.table();
    assert_eq!(writer.len(), table.iter().count());
    assert!(table.iter().all(|(prefix, id)| writer.get(&prefix) == Some(id)));
    let sets: Vec<_> = twin.sets.iter().map(|(n, rows)| (&**n, rows.len())).collect();
    assert_eq!(writer.sets().collect::<Vec<_>>(), sets);
    for (prefix, _) in table.iter() {
        let address = prefix.address();
        assert_eq!(reader.pin().lookup(address), table.lookup(address), "{address}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sets_and_direct_prefixes_share_one_table(
        changes in proptest::collection::vec(changes(), 1..60),
    ) {
        let (mut writer, mut twin) = (Writer::new(), Twin::default());
        let reader = writer.reader();
        for change in changes {
            apply(&mut writer, &mut twin, change);
            check(&writer, &reader, &twin);
        }
    }
}
