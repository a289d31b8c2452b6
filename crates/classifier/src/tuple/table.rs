//! A table that one writer changes while any number of readers look things up, without locks.
//!
//! Entries live in slots that are filled once and never reused, linked into chains by atomic
//! indices. Inserting fills a slot and then stores one index; deleting stores one index. So a
//! reader sees each change whole or not at all, and one that stands on a deleted entry still finds
//! its way out. When the slots run out, the writer copies what is alive into a new table and
//! publishes that one.

use std::sync::OnceLock;

use super::shape::{Shape, keyed_at_random};
use super::{Match, Priority};
use crate::Error;
use crate::lanes::{Entry, Key, LaneBox, Residual};
use crate::sync::{AtomicU32, Ordering};

/// No slot.
const END: u32 = u32::MAX;

/// Limits of a table, which bound the cost of a lookup.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) shapes: usize,
    pub(super) chain: usize,
}

/// What a lookup has found so far: the lower the better.
pub(crate) type Found = Option<(Priority, Match)>;

/// Entries of one layout, by shape and hash.
#[derive(Debug)]
pub(super) struct Table<const B: usize> {
    shapes: Box<[OnceLock<Shape<B>>]>,
    shape_count: AtomicU32,
    heads: Box<[AtomicU32]>,
    slots: Box<[Slot<B>]>,
    hasher: ahash::RandomState,
}

#[derive(Debug)]
struct Slot<const B: usize> {
    node: OnceLock<Node<B>>,
    next: AtomicU32,
}

/// An entry of the table; never changes once it is linked.
#[derive(Clone, Debug)]
struct Node<const B: usize> {
    bounds: LaneBox<B>,
    residual: Option<Box<Residual>>,
    hash: u64,
    priority: Priority,
    found: Match,
}

impl<const B: usize> Table<B> {
    /// An empty table of `capacity` slots.
    pub(super) fn new(capacity: usize, limits: Limits) -> Self {
        let slot = || Slot { node: OnceLock::new(), next: AtomicU32::new(END) };
        let buckets = (capacity * 2).next_power_of_two();
        Self {
            shapes: (0..limits.shapes.min(capacity)).map(|_| OnceLock::new()).collect(),
            shape_count: AtomicU32::new(0),
            heads: (0..buckets).map(|_| AtomicU32::new(END)).collect(),
            slots: (0..capacity).map(|_| slot()).collect(),
            hasher: keyed_at_random(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn memory_usage(&self) -> usize {
        size_of_val(&*self.shapes) + size_of_val(&*self.heads) + size_of_val(&*self.slots)
    }

    /// Shapes in use.
    pub(super) fn shapes(&self) -> usize {
        self.shape_count.load(Ordering::Acquire) as usize
    }

    /// Improves `found` by the best entry that matches `key`.
    pub(super) fn lookup(&self, key: &Key<B>, found: &mut Found) {
        for shape in self.shapes.iter().take(self.shapes()).filter_map(OnceLock::get) {
            let hash = shape.hash(&key.0, &self.hasher);
            let mut at = self.head(hash).load(Ordering::Acquire);
            while let Some(slot) = self.slots.get(at as usize) {
                if let Some(node) = slot.node.get()
                    && found.is_none_or(|best| (node.priority, node.found) < best)
                    && node.bounds.contains(key)
                    && node.residual.as_ref().is_none_or(|residual| residual.matches(key))
                {
                    *found = Some((node.priority, node.found));
                }
                at = slot.next.load(Ordering::Acquire);
            }
        }
    }

    /// Whether a lookup of a key in the box of `entry` comes by this very entry: its shape is known,
    /// and it is linked where the hash of its box leads.
    pub(super) fn leads_to(&self, entry: &Entry<B>, priority: Priority, found: Match) -> bool {
        let shape = Shape::of(&entry.bounds);
        let known = self.shapes.iter().take(self.shapes());
        let hash = shape.hash(&entry.bounds.low, &self.hasher);
        let first = self.head(hash).load(Ordering::Acquire);
        let same = |at: u32| {
            self.slots[at as usize].node.get().is_some_and(|node| {
                node.bounds == entry.bounds
                    && node.residual == entry.residual
                    && (node.priority, node.found) == (priority, found)
            })
        };
        known.filter_map(OnceLock::get).any(|known| *known == shape) && self.chain(first).any(same)
    }

    /// Entries that are linked.
    pub(super) fn linked(&self) -> usize {
        self.heads.iter().map(|head| self.chain(head.load(Ordering::Acquire)).count()).sum()
    }

    /// Cache lines that a lookup touches at most, with the shapes that there are and chains of
    /// `chain` entries: for each shape itself and a head, and for each entry a slot and a residual.
    pub(super) fn touches(&self, chain: usize) -> usize {
        let slot = size_of::<Slot<B>>().div_ceil(64) + 1;
        let residual = size_of::<Residual>().div_ceil(64) + 1;
        let shape = size_of::<OnceLock<Shape<B>>>().div_ceil(64) + 1;
        self.shapes() * (shape + 1 + chain.min(self.capacity()) * (slot + residual))
    }

    /// Fills slot number `slot`, which must be fresh, and links it. For one writer at a time.
    pub(super) fn insert(
        &self,
        slot: usize,
        entry: &Entry<B>,
        priority: Priority,
        found: Match,
        limits: Limits,
    ) -> Result<(), Error> {
        let wanted = Shape::of(&entry.bounds);
        self.add_shape(&wanted, limits)?;
        let hash = wanted.hash(&entry.bounds.low, &self.hasher);
        let head = self.head(hash);
        let first = head.load(Ordering::Acquire);
        let chain = self.chain(first).count();
        if chain >= limits.chain {
            return Err(Error::DeltaChain { limit: limits.chain });
        }
        let fresh = &self.slots[slot];
        let node =
            Node { bounds: entry.bounds, residual: entry.residual.clone(), hash, priority, found };
        fresh.node.set(node).map_err(|_| Error::DeltaFull { limit: self.capacity() })?;
        fresh.next.store(first, Ordering::Release);
        head.store(u32::try_from(slot).unwrap_or(END), Ordering::Release);
        Ok(())
    }

    /// Unlinks slot number `slot`. Its memory stays. For one writer at a time.
    pub(super) fn remove(&self, slot: usize) {
        let Some(node) = self.slots[slot].node.get() else { return };
        let mut link = self.head(node.hash);
        loop {
            let at = link.load(Ordering::Acquire);
            let Some(current) = self.slots.get(at as usize) else { return };
            if at as usize == slot {
                link.store(current.next.load(Ordering::Acquire), Ordering::Release);
                return;
            }
            link = &current.next;
        }
    }

    fn head(&self, hash: u64) -> &AtomicU32 {
        &self.heads[(hash as usize) & (self.heads.len() - 1)]
    }

    fn chain(&self, first: u32) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(Some(first), |&at| {
            self.slots.get(at as usize).map(|slot| slot.next.load(Ordering::Acquire))
        })
        .take_while(|&at| at != END)
    }

    /// Adds a shape when it is new.
    fn add_shape(&self, wanted: &Shape<B>, limits: Limits) -> Result<(), Error> {
        let count = self.shape_count.load(Ordering::Acquire);
        if self.shapes.iter().take(count as usize).any(|shape| shape.get() == Some(wanted)) {
            return Ok(());
        }
        let full = || Error::DeltaShapes { limit: limits.shapes };
        let slot = self.shapes.get(count as usize).ok_or_else(full)?;
        slot.set(*wanted).map_err(|_| full())?;
        self.shape_count.store(count + 1, Ordering::Release);
        Ok(())
    }
}

/// Every interleaving of a writer and readers:
/// `RUSTFLAGS="--cfg loom" cargo test -p portcullis-classifier --release --lib loom`.
#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Arc;

    use super::*;
    use crate::lanes::{WHOLE, entries};
    use crate::rule::Rule;
    use crate::tuple::RuleHandle;
    use crate::{Header, TupleV4};

    const LIMITS: Limits = Limits { shapes: 2, chain: 8 };

    fn entry(rule: &Rule) -> Entry<2> {
        let mut found = Vec::new();
        entries(0, rule, WHOLE, &mut found);
        found.remove(0)
    }

    fn insert(table: &Table<2>, slot: usize, rule: &Rule, number: u64) {
        let found = Match { rule: RuleHandle::new(number), action: rule.action };
        table.insert(slot, &entry(rule), Priority::new(number), found, LIMITS).unwrap();
    }

    fn lookup(table: &Table<2>, header: &Header) -> Option<u32> {
        let mut found = None;
        table.lookup(&Key::new(header).unwrap(), &mut found);
        found.map(|(_, found)| found.action)
    }

    fn header() -> Header {
        TupleV4::new([10, 0, 0, 1], [10, 0, 0, 2], 6, 1, 2).header()
    }

    /// A reader beside an insert, a second insert into the same chain and a delete sees states in
    /// the order in which they were made, and the rule that stays always.
    #[test]
    fn loom_updates_are_whole_and_in_order() {
        loom::model(|| {
            let table = Arc::new(Table::<2>::new(4, LIMITS));
            insert(&table, 0, &Rule::any(9).protocol(6), 9);
            let reader = {
                let table = Arc::clone(&table);
                loom::thread::spawn(move || [lookup(&table, &header()), lookup(&table, &header())])
            };
            insert(&table, 1, &Rule::any(5).protocol(6), 5);
            insert(&table, 2, &Rule::any(1).protocol(6), 1);
            table.remove(1);
            let seen = reader.join().unwrap().map(|found| found.expect("a rule stays"));
            assert!(seen.iter().all(|action| [9, 5, 1].contains(action)), "{seen:?}");
            assert!(seen[0] >= seen[1], "no way back: {seen:?}");
        });
    }

    /// A reader that stands on a deleted entry finds its way to the rest of the chain.
    #[test]
    fn loom_a_deleted_entry_leads_on() {
        loom::model(|| {
            let table = Arc::new(Table::<2>::new(4, LIMITS));
            insert(&table, 0, &Rule::any(9).protocol(6), 9);
            insert(&table, 1, &Rule::any(5).protocol(6), 5);
            let reader = {
                let table = Arc::clone(&table);
                loom::thread::spawn(move || lookup(&table, &header()))
            };
            table.remove(1);
            assert!(matches!(reader.join().unwrap(), Some(9 | 5)));
        });
    }
}
