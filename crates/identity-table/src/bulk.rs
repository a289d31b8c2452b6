//! Many prefixes at once: bulk loads and named sets.
//!
//! Each of these builds new structures aside and publishes them with one store: readers see all of
//! it or nothing, and are never held up. The writer is busy meanwhile (about 0.1 s for a million
//! prefixes in the table), and for as long as a reader is pinned to the old structures both exist.

use std::collections::BTreeSet;

use crate::lpm::bucket::Item;
use crate::lpm::trie::Trie;
use crate::set::NamedSet;
use crate::{IdentityId, Prefix, TableError, Writer};

/// A prefix and its identity.
type Row = (Prefix, IdentityId);

impl Writer {
    /// Puts many prefixes in at once, as [`Writer::insert`] would one by one; of two identities for
    /// one prefix the later counts. On an error nothing is changed.
    pub fn load<I>(&mut self, rows: I) -> Result<(), TableError>
    where
        I: IntoIterator<Item = Row>,
    {
        let mut rows: Vec<Row> = rows.into_iter().collect();
        // Stable: of equal prefixes the later stays later.
        rows.sort_by_key(|(prefix, _)| *prefix);
        rows.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = later.1;
            }
            same
        });
        let direct = merge(rows, self.direct());
        self.rebuild(direct, None)
    }

    /// Makes the named set consist of exactly `rows`, whatever it held before, and leaves everything
    /// else alone. An empty set is a set. Returns the number of its members.
    ///
    /// Where two speak of the same prefix, what [`Writer::insert`] or [`Writer::load`] put in wins
    /// over any set, and of two sets the one whose name sorts first; the loser comes back when the
    /// winner goes. (Otherwise the longest prefix wins, whoever it belongs to.)
    ///
    /// On an error nothing is changed: [`TableError::Conflict`] if `rows` give one prefix two
    /// identities, [`TableError::Full`].
    ///
    /// ```
    /// use portcullis_identity_table::{IdentityId, Writer};
    /// let mut writer = Writer::new();
    /// let reader = writer.reader();
    /// let bad = IdentityId::new(900);
    /// writer.replace_set("feed", [("192.0.2.0/24".parse()?, bad), ("203.0.113.9".parse()?, bad)])?;
    /// writer.replace_set("feed", [("192.0.2.0/25".parse()?, bad)])?;
    /// assert_eq!(reader.pin().lookup("192.0.2.1".parse()?), bad);
    /// assert_eq!(reader.pin().lookup("203.0.113.9".parse()?), IdentityId::UNKNOWN);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn replace_set<I>(&mut self, name: &str, rows: I) -> Result<usize, TableError>
    where
        I: IntoIterator<Item = Row>,
    {
        let mut rows: Vec<Row> = rows.into_iter().collect();
        rows.sort_unstable();
        rows.dedup();
        if let Some(twice) = rows.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(TableError::Conflict { prefix: twice[0].0, ids: [twice[0].1, twice[1].1] });
        }
        let len = rows.len();
        let direct = self.direct();
        self.rebuild(direct, Some((name, Some(NamedSet::new(&rows)))))?;
        Ok(len)
    }

    /// Takes a named set away with all its members; false if there is no such set.
    pub fn remove_set(&mut self, name: &str) -> Result<bool, TableError> {
        if !self.sets.contains_key(name) {
            return Ok(false);
        }
        let direct = self.direct();
        self.rebuild(direct, Some((name, None)))?;
        Ok(true)
    }

    /// The named sets and how many members each has, by name.
    pub fn sets(&self) -> impl Iterator<Item = (&str, usize)> {
        self.sets.iter().map(|(name, set)| (&**name, set.len()))
    }

    /// What a named set says of exactly this prefix; of several sets, the first by name.
    pub(crate) fn get_in_sets(&self, prefix: &Prefix) -> Option<IdentityId> {
        self.sets.values().find_map(|set| set.get(prefix))
    }

    /// The prefixes that belong to no set, or win over one; sorted.
    fn direct(&self) -> Vec<Row> {
        let mut rows = Vec::with_capacity(self.len());
        for trie in [&self.v4, &self.v6] {
            let row = |item: Item| {
                let prefix = Prefix::from_key(trie.v6, item.key, item.len);
                (prefix, IdentityId::new(trie.id(item.code)))
            };
            rows.extend(trie.items().into_iter().map(row));
        }
        for set in self.sets.values() {
            let mut members = set.iter().map(|(prefix, _)| prefix).peekable();
            rows.retain(|(prefix, _)| {
                while members.next_if(|member| member < prefix).is_some() {}
                members.peek() != Some(prefix) || self.overriding.contains(prefix)
            });
        }
        rows
    }

    /// Builds everything anew with one set changed (or none), and publishes it.
    fn rebuild(
        &mut self,
        direct: Vec<Row>,
        change: Option<(&str, Option<NamedSet>)>,
    ) -> Result<(), TableError> {
        let mut sets = Vec::new();
        for (name, set) in &self.sets {
            if change.as_ref().is_none_or(|(changed, _)| **changed != **name) {
                sets.push((&**name, set));
            }
        }
        if let Some((name, Some(set))) = &change {
            sets.push((name, set));
        }
        sets.sort_unstable_by_key(|(name, _)| *name);
        let mut overriding = BTreeSet::new();
        for (_, set) in &sets {
            let mut own = direct.iter().peekable();
            for (member, _) in set.iter() {
                while own.next_if(|(prefix, _)| *prefix < member).is_some() {}
                if own.peek().is_some_and(|(prefix, _)| *prefix == member) {
                    overriding.insert(member);
                }
            }
        }
        let mut rows = direct;
        for (_, set) in sets {
            rows = merge(rows, set.iter());
        }
        let (v4, v6) = rows.split_at(rows.partition_point(|(prefix, _)| !prefix.is_v6()));
        let (v4, v6) = (filled(false, v4)?, filled(true, v6)?);
        if let Some((name, set)) = change {
            match set {
                Some(set) => self.sets.insert(name.into(), set),
                None => self.sets.remove(name),
            };
        }
        self.overriding = overriding;
        self.swap(v4, v6);
        Ok(())
    }
}

/// Two sorted lists as one; of equal prefixes the first list's row stays.
fn merge(first: Vec<Row>, second: impl IntoIterator<Item = Row>) -> Vec<Row> {
    let mut second = second.into_iter().peekable();
    if second.peek().is_none() {
        return first;
    }
    let mut rows = Vec::with_capacity(first.len() + second.size_hint().0);
    for row in first {
        while let Some(before) = second.next_if(|(prefix, _)| *prefix < row.0) {
            rows.push(before);
        }
        second.next_if(|(prefix, _)| *prefix == row.0);
        rows.push(row);
    }
    rows.extend(second);
    rows
}

/// A new structure with these prefixes.
fn filled(v6: bool, rows: &[Row]) -> Result<Trie, TableError> {
    let mut trie = Trie::new(v6, rows.len() * 4);
    let mut items = Vec::with_capacity(rows.len());
    for (prefix, id) in rows {
        items.push(Item { key: prefix.key(), len: prefix.len(), code: trie.code(id.get()) });
    }
    trie.fill(&items);
    if trie.full { Err(crate::table::full(v6)) } else { Ok(trie) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reader;
    use crate::reference::ReferenceTable;
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
        let name = prop_oneof![Just("a"), Just("b"), Just("c")];
        prop_oneof![
            6 => row.prop_map(|(prefix, id)| Change::Insert(prefix, id)),
            6 => prefixes().prop_map(Change::Remove),
            1 => rows.clone().prop_map(Change::Load),
            3 => (name.clone(), rows).prop_map(|(name, rows)| Change::Replace(name, rows)),
            1 => name.prop_map(Change::RemoveSet),
        ]
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
}
