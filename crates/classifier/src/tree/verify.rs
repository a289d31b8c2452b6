//! The proof that a forest answers as its rules do: not by sampling, but by walking all of it.
//!
//! A lookup takes, of each tree, one leaf, and in it the first rule whose box holds the header. So
//! it is right for every header when
//!
//! 1. whatever a leaf holds is a rule of the list (so nothing is found that does not match),
//! 2. a leaf's rules, and the bounds by which subtrees are skipped, are in order,
//! 3. each rule belongs to a tree in which every leaf whose region meets the rule either holds it,
//!    or holds an earlier rule that matches wherever it does in that region.
//!
//! The walk takes one header bit at a time and shares nothing with the builder's way of dividing
//! rules but [`Region`].

use ahash::{HashMap, HashMapExt};

use super::cross::Crossed;
use super::forest::{Forest, Kind, NO_SLOT, NOTHING, Node, RESIDUAL};
use super::region::{Region, first_at_least};
use crate::lanes::{Entry, Key, LaneBox, Residual, WIDTH};
use crate::simd::GROUP;

/// What is wrong with a forest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw<const B: usize> {
    /// A leaf may answer wrongly for this header.
    At(Key<B>),
    /// A group holds what no rule says, or out of order; or a bound skips a rule.
    Table,
}

/// Checks all of `forest` against `entries`, which are in priority order.
pub(super) fn verify<const B: usize>(
    forest: &Forest<B>,
    entries: &[Entry<B>],
) -> Result<(), Flaw<B>> {
    let slots = Slots::new(forest, entries)?;
    let mut home = vec![None; entries.len()];
    for (number, root) in forest.roots.iter().enumerate() {
        let mut walk = Walk { forest, entries, slots: &slots, lenient: false };
        walk.homes(root.node, number, &mut home);
    }
    let mut in_crossed = Vec::new();
    if let Some(crossed) = &forest.crossed {
        // What the rows say is what the boxes say, so a lookup is a linear search of the boxes.
        in_crossed = slots.of_crossed(crossed)?;
        if !crossed.says_its_bounds() || !in_crossed.is_sorted() {
            return Err(Flaw::Table);
        }
    }
    for &place in &in_crossed {
        home[place as usize] = Some(forest.roots.len());
    }
    let mut lost: Vec<u32> =
        places(entries).filter(|&place| home[place as usize].is_none()).collect();
    for (number, root) in forest.roots.iter().enumerate() {
        let mut walk = Walk { forest, entries, slots: &slots, lenient: false };
        let at_home =
            places(entries).filter(|&place| home[place as usize] == Some(number)).collect();
        walk.node(root.node, Region::ALL, at_home)?;
        // A rule that is in no tree must be hidden everywhere in one of them.
        walk.lenient = true;
        lost.retain(|&place| walk.node(root.node, Region::ALL, vec![place]).is_err());
    }
    lost.retain(|&place| !hidden_by(&in_crossed, entries, place));
    match lost.first() {
        Some(&place) => Err(Flaw::At(witness(&Region::ALL, &entries[place as usize].bounds))),
        None => Ok(()),
    }
}

/// Whether one of the entries at `places` comes first wherever that at `place` matches.
fn hidden_by<const B: usize>(places: &[u32], entries: &[Entry<B>], place: u32) -> bool {
    let entry = &entries[place as usize];
    places.iter().take_while(|&&earlier| earlier <= place).any(|&earlier| {
        let earlier = &entries[earlier as usize];
        earlier.residual.is_none() && Region::ALL.covers(&earlier.bounds, Some(&entry.bounds))
    })
}

fn places<const B: usize>(entries: &[Entry<B>]) -> impl Iterator<Item = u32> {
    (0u32..).zip(entries).map(|(place, _)| place)
}

/// Which entry each slot of each group holds.
struct Slots<'a, const B: usize> {
    entries: &'a [Entry<B>],
    by_id: HashMap<u32, Vec<u32>>,
    groups: Vec<[Option<u32>; GROUP]>,
}

impl<'a, const B: usize> Slots<'a, B> {
    /// Finds the entry of each slot; that it is there is the first thing to show.
    fn new(forest: &Forest<B>, entries: &'a [Entry<B>]) -> Result<Self, Flaw<B>> {
        let mut by_id: HashMap<u32, Vec<u32>> = HashMap::new();
        for (place, entry) in (0u32..).zip(entries) {
            by_id.entry(entry.id).or_default().push(place);
        }
        let mut slots = Self { entries, by_id, groups: Vec::with_capacity(forest.groups.len()) };
        for group in 0..forest.groups.len() {
            let mut row = [None; GROUP];
            for (slot, found) in row.iter_mut().enumerate() {
                let name = forest.ids[group][slot];
                let bounds = slot_bounds(forest, group, slot);
                if name != NO_SLOT {
                    *found = Some(slots.entry(name, &bounds, &forest.residuals)?);
                    continue;
                }
                let protocol = const { crate::lanes::places(B) }.protocol;
                if bounds.low.as_flattened()[protocol] <= 255 {
                    return Err(Flaw::Table);
                }
            }
            slots.groups.push(row);
        }
        Ok(slots)
    }

    /// The entry with the id or residual `name` and with these bounds.
    fn entry(
        &self,
        name: u32,
        bounds: &LaneBox<B>,
        residuals: &[Residual],
    ) -> Result<u32, Flaw<B>> {
        let (id, residual) = match name & RESIDUAL {
            0 => (name, None),
            _ => {
                let residual = residuals.get((name ^ RESIDUAL) as usize).ok_or(Flaw::Table)?;
                (residual.id, Some(residual))
            }
        };
        let same = |place: &&u32| {
            let entry = &self.entries[**place as usize];
            entry.bounds == *bounds && entry.residual.as_deref() == residual
        };
        let place = self.by_id.get(&id).and_then(|places| places.iter().find(same));
        place.copied().ok_or(Flaw::Table)
    }

    /// The entries of bit crossed, in the order of comparison.
    fn of_crossed(&self, crossed: &Crossed<B>) -> Result<Vec<u32>, Flaw<B>> {
        let slots = crossed.ids.iter().zip(&crossed.bounds);
        slots.map(|(name, bounds)| self.entry(*name, bounds, &crossed.residuals)).collect()
    }

    /// The entries of a leaf, in the order of comparison.
    fn of(&self, first: u32, groups: u32) -> impl Iterator<Item = u32> + '_ {
        self.groups[first as usize..(first + groups) as usize].iter().flatten().flatten().copied()
    }
}

/// The box that a slot compares with.
fn slot_bounds<const B: usize>(forest: &Forest<B>, group: usize, slot: usize) -> LaneBox<B> {
    let mut bounds = LaneBox { low: [[0; WIDTH]; B], high: [[0; WIDTH]; B] };
    for block in 0..B {
        for lane in 0..WIDTH {
            let low = forest.groups[group].low[block][slot][lane];
            bounds.low[block][lane] = low;
            bounds.high[block][lane] =
                low.wrapping_add(forest.groups[group].span[block][slot][lane]);
        }
    }
    bounds
}

struct Walk<'a, const B: usize> {
    forest: &'a Forest<B>,
    entries: &'a [Entry<B>],
    slots: &'a Slots<'a, B>,
    /// Whether order and bounds were looked at before.
    lenient: bool,
}

impl<const B: usize> Walk<'_, B> {
    /// Notes for each entry of a leaf below `node` that tree `number` is its home.
    fn homes(&mut self, node: Node, number: usize, home: &mut [Option<usize>]) {
        match node.kind() {
            Kind::Leaf { first, groups } => {
                for place in self.slots.of(first, groups) {
                    home[place as usize] = Some(number);
                }
            }
            Kind::Table { first, mask, .. } => {
                for index in 0..1usize << mask.count_ones() {
                    self.homes(self.forest.nodes[first as usize + index], number, home);
                }
            }
        }
    }

    /// Checks `node`, which stands for `region`; `places` are the entries that meet it.
    fn node(&mut self, node: Node, region: Region<B>, places: Vec<u32>) -> Result<(), Flaw<B>> {
        if self.lenient && places.is_empty() {
            return Ok(());
        }
        match node.kind() {
            Kind::Leaf { first, groups } => self.leaf(node, first, groups, &region, &places),
            Kind::Table { first, offset, mask } => {
                self.table(node, first, offset, (mask, mask.count_ones()), region, places, 0)
            }
        }
    }

    /// Takes the bits that are left of a table one by one, the highest first.
    #[allow(clippy::too_many_arguments)]
    fn table(
        &mut self,
        parent: Node,
        first: u32,
        offset: usize,
        (mask, left): (u64, u32),
        region: Region<B>,
        places: Vec<u32>,
        index: usize,
    ) -> Result<(), Flaw<B>> {
        if left == 0 {
            let child = self.forest.nodes[first as usize + index];
            if child.best < parent.best {
                return Err(Flaw::Table);
            }
            return self.node(child, region, places);
        }
        let bit = 63 - mask.leading_zeros() as usize;
        let (lane, bit) = (offset + bit / 16, bit % 16);
        for one in [false, true] {
            let mut region = region;
            region.fix(lane, bit, one);
            let meets =
                |place: &u32| region.lane_meets(lane, &self.entries[*place as usize].bounds);
            let places = places.iter().copied().filter(meets).collect();
            let rest = mask & !(1 << (63 - mask.leading_zeros()));
            let index = index | usize::from(one) << (left - 1);
            self.table(parent, first, offset, (rest, left - 1), region, places, index)?;
        }
        Ok(())
    }

    fn leaf(
        &self,
        node: Node,
        first: u32,
        groups: u32,
        region: &Region<B>,
        places: &[u32],
    ) -> Result<(), Flaw<B>> {
        let held: Vec<u32> = self.slots.of(first, groups).collect();
        if !self.lenient {
            let ids = held.iter().map(|&place| self.entries[place as usize].id);
            let bound = ids.clone().min().unwrap_or(NOTHING);
            if !ids.is_sorted() || node.best > bound {
                return Err(Flaw::Table);
            }
        }
        for &place in places {
            let entry = &self.entries[place as usize];
            let hidden = |&earlier: &u32| {
                let earlier = &self.entries[earlier as usize];
                earlier.id <= entry.id
                    && earlier.residual.is_none()
                    && region.covers(&earlier.bounds, Some(&entry.bounds))
            };
            if !held.contains(&place) && !held.iter().any(hidden) {
                return Err(Flaw::At(witness(region, &entry.bounds)));
            }
        }
        Ok(())
    }
}

/// The lowest header of the region that lies in the box.
fn witness<const B: usize>(region: &Region<B>, bounds: &LaneBox<B>) -> Key<B> {
    let mut key = Key(bounds.low);
    for (lane, value) in key.0.as_flattened_mut().iter_mut().enumerate() {
        let given = region.given.as_flattened()[lane];
        let fixed = region.value.as_flattened()[lane];
        *value = first_at_least(given, fixed, *value).unwrap_or(*value);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{PortRange, Rule, RuleSet};
    use crate::tree::{Builder, ForestV4, Tree};

    fn tree() -> Tree {
        let rules = (0..300u16)
            .map(|n| {
                let [_, low] = n.to_be_bytes();
                let to = format!("10.{}.{low}.0/24", n % 7).parse().unwrap();
                let ports = PortRange::new(n % 50, n % 50 + n % 3).unwrap();
                Rule::any(0).to_v4(to).destination_ports(ports)
            })
            .chain([Rule::any(1)])
            .collect();
        Builder::new().build(&RuleSet::new(rules).unwrap()).unwrap()
    }

    fn spoilt(spoil: impl FnOnce(&mut Forest<1>)) -> bool {
        let mut tree = tree();
        let ForestV4::Short(forest) = &mut tree.v4 else { unreachable!("plain rules") };
        spoil(forest);
        tree.verify().is_err()
    }

    #[test]
    fn a_sound_forest_passes() {
        assert!(!spoilt(|_| ()));
    }

    #[test]
    fn each_spoilt_slot_is_found() {
        let ForestV4::Short(forest) = tree().v4 else { unreachable!("plain rules") };
        for group in 0..forest.groups.len() {
            for slot in 0..GROUP {
                assert!(spoilt(|forest| forest.ids[group][slot] = 5_000), "id {group} {slot}");
                if forest.ids[group][slot] == NO_SLOT {
                    continue;
                }
                assert!(
                    spoilt(|forest| forest.groups[group].low[0][slot][4] ^= 1),
                    "bounds {group} {slot}"
                );
            }
        }
    }

    #[test]
    fn each_spoilt_node_is_found() {
        let ForestV4::Short(forest) = tree().v4 else { unreachable!("plain rules") };
        let mut seen = 0;
        for (number, node) in forest.nodes.iter().enumerate() {
            if node.best == NOTHING {
                continue;
            }
            seen += 1;
            assert!(spoilt(|forest| forest.nodes[number] = Node::EMPTY), "emptied {number}");
            assert!(spoilt(|forest| forest.nodes[number].best += 1), "bound of {number}");
        }
        assert!(seen > 50, "{seen} nodes");
    }
}
