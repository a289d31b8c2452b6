//! What a table holds, and who said it: prefixes that were put in directly, and those of named sets.
//!
//! Nothing here knows readers. The writer's content is the one whose words are published; a
//! replacement builds another aside.

use std::collections::{BTreeMap, BTreeSet};

use crate::lpm::bucket::Item;
use crate::lpm::trie::Trie;
use crate::set::NamedSet;
use crate::{IdentityId, Prefix, TableError};
use std::sync::Arc;

/// A prefix and its identity.
pub(crate) type Row = (Prefix, IdentityId);
/// What a prefix was directly set to, or that it was taken out.
pub(crate) type Change = (Prefix, Option<IdentityId>);
/// Named sets, by name.
pub(crate) type Sets = BTreeMap<Box<str>, Arc<NamedSet>>;

/// See the [module](self).
pub(crate) struct Content {
    pub(crate) v4: Trie,
    pub(crate) v6: Trie,
    pub(crate) sets: Sets,
    /// Prefixes that were put in directly and are members of a set too.
    pub(crate) overriding: BTreeSet<Prefix>,
}

impl Content {
    /// Nothing, with room for `room` words a family.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            v4: Trie::new(false, room),
            v6: Trie::new(true, room),
            sets: Sets::new(),
            overriding: BTreeSet::new(),
        }
    }

    /// From sorted rows without doubles that were put in directly, and sets. O(all of them).
    pub(crate) fn build(direct: Vec<Row>, sets: Sets) -> Result<Self, TableError> {
        let mut overriding = BTreeSet::new();
        for set in sets.values() {
            let mut own = direct.iter().peekable();
            for (member, _) in set.iter() {
                while own.next_if(|(prefix, _)| *prefix < member).is_some() {}
                if own.peek().is_some_and(|(prefix, _)| *prefix == member) {
                    overriding.insert(member);
                }
            }
        }
        let mut rows = direct;
        for set in sets.values() {
            rows = merge(rows, set.iter());
        }
        let (v4, v6) = rows.split_at(rows.partition_point(|(prefix, _)| !prefix.is_v6()));
        Ok(Self { v4: filled(false, v4)?, v6: filled(true, v6)?, sets, overriding })
    }

    /// As [`Writer::insert`](crate::Writer::insert), without readers.
    pub(crate) fn insert(
        &mut self,
        prefix: Prefix,
        id: IdentityId,
    ) -> Result<Option<IdentityId>, TableError> {
        self.has_room(&prefix)?;
        if self.get_in_sets(&prefix).is_some() {
            self.overriding.insert(prefix);
        }
        Ok(self.put(prefix, id))
    }

    /// As [`Writer::remove`](crate::Writer::remove), without readers.
    pub(crate) fn remove(&mut self, prefix: &Prefix) -> Result<Option<IdentityId>, TableError> {
        self.has_room(prefix)?;
        if let Some(below) = self.get_in_sets(prefix) {
            let direct = self.overriding.remove(prefix);
            return Ok(if direct { self.put(*prefix, below) } else { None });
        }
        let old = self.trie(prefix.is_v6()).remove(prefix.key(), prefix.len());
        Ok(old.map(IdentityId::new))
    }

    /// Makes the same changes here that were made elsewhere, in order. Nobody reads this content, so
    /// that what they free is used again at once.
    pub(crate) fn replay(&mut self, changes: &[Change]) -> Result<(), TableError> {
        for (prefix, id) in changes {
            match id {
                Some(id) => self.insert(*prefix, *id)?,
                None => self.remove(prefix)?,
            };
            let trie = self.trie(prefix.is_v6());
            for (at, len) in core::mem::take(&mut trie.retired) {
                trie.alloc.give(at, len);
            }
        }
        Ok(())
    }

    /// The identity that stands at exactly `prefix`.
    pub(crate) fn get(&self, prefix: &Prefix) -> Option<IdentityId> {
        let trie = if prefix.is_v6() { &self.v6 } else { &self.v4 };
        trie.get(prefix.key(), prefix.len()).map(IdentityId::new)
    }

    /// What a named set says of exactly this prefix; of several sets, the first by name.
    fn get_in_sets(&self, prefix: &Prefix) -> Option<IdentityId> {
        self.sets.values().find_map(|set| set.get(prefix))
    }

    pub(crate) fn len(&self) -> usize {
        self.v4.len + self.v6.len
    }

    pub(crate) fn bytes(&self) -> usize {
        let sets: usize = self.sets.values().map(|set| set.bytes()).sum();
        self.v4.bytes() + self.v6.bytes() + sets
    }

    pub(crate) fn trie(&mut self, v6: bool) -> &mut Trie {
        if v6 { &mut self.v6 } else { &mut self.v4 }
    }

    /// Adds rows from `from` on to `out`, sorted, until there are `enough` and a slot ends; returns
    /// where to go on. What was changed since the piece before may be in it or not.
    pub(crate) fn scan(&self, from: Place, enough: usize, out: &mut Vec<Row>) -> Option<Place> {
        let trie = if from.v6 { &self.v6 } else { &self.v4 };
        let mut items = Vec::with_capacity(enough.min(trie.len) + 256);
        let next = trie.scan(from.key, enough, &mut items);
        let row = |item: Item| {
            let prefix = Prefix::from_key(trie.v6, item.key, item.len);
            (prefix, IdentityId::new(trie.id(item.code)))
        };
        out.extend(items.into_iter().map(row));
        let next = next.map(|key| Place { key, ..from });
        next.or((!from.v6).then_some(Place { v6: true, key: 0 }))
    }

    /// The rows that belong to no set, or win over one; sorted.
    pub(crate) fn direct(&self) -> Vec<Row> {
        let mut rows = Vec::with_capacity(self.len());
        let mut place = Some(Place::default());
        while let Some(from) = place {
            place = self.scan(from, usize::MAX, &mut rows);
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

    fn put(&mut self, prefix: Prefix, id: IdentityId) -> Option<IdentityId> {
        let old = self.trie(prefix.is_v6()).insert(prefix.key(), prefix.len(), id.get());
        old.map(IdentityId::new)
    }

    fn has_room(&mut self, prefix: &Prefix) -> Result<(), TableError> {
        let room = self.trie(prefix.is_v6()).has_room(prefix.key(), prefix.len());
        if room { Ok(()) } else { Err(full(prefix.is_v6())) }
    }
}

/// Where a scan goes on: IPv4 comes first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    v6: bool,
    key: u128,
}

/// Two sorted lists as one; of equal prefixes the first list's row stays.
pub(crate) fn merge(first: Vec<Row>, second: impl IntoIterator<Item = Row>) -> Vec<Row> {
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
    if trie.full { Err(full(v6)) } else { Ok(trie) }
}

const fn full(v6: bool) -> TableError {
    TableError::Full { family: if v6 { "IPv6" } else { "IPv4" } }
}
