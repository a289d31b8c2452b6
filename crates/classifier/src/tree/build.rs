//! Rules to forest: top down, a table at a time, until few enough rules are left for a leaf.

use std::time::Instant;

use ahash::{HashMap, HashMapExt};

use super::config::{Config, Tuning};
use super::cross::{self, Crossed};
use super::cut::{self, Cut, Fixed};
use super::forest::{Forest, MAX_INDEX, NO_SLOT, NOTHING, Node, RESIDUAL, Root};
use super::region::Region;
use super::subset;
use crate::Error;
use crate::lanes::{Entry, LaneBox, NO_PROTOCOL, Residual, WIDTH, places};
use crate::simd::{GROUP, Group};

/// A leaf that no further bit divides holds at most this many rules.
const MOST_LEAF_RULES: usize = 64;
/// Rules that leave both addresses open overlap each other so much that dividing them further costs
/// more than comparing them; and few headers get as far as their tree.
const OPEN_LEAF_RULES: usize = 16;
/// For the same reason no single bit gains much among them: a table takes all the bits it may, so
/// that there are fewer levels.
const OPEN_LEAST_GAIN: f64 = 1.05;
/// From this level on few rules are left, most of which overlap. To take them apart one bit at a time
/// would make a path that attackers look for, so a table takes more bits, also where rules have to be
/// copied.
const DEEP: usize = 3;
const DEEP_LEAST_GAIN: f64 = 1.6;
const DEEP_SPACE: f64 = 3.0;
/// Rules that a rule is compared with when looking for one that hides it.
const MOST_HIDERS: usize = 1024;
/// Tables on a path.
const MOST_LEVELS: usize = 12;

/// Rules that a further tree and the crossed tables may have together for them to be joined, and the
/// part of the rules, one in so many, that may come behind the first of these.
const JOINED_RULES: usize = 512;
const JOINED_SHARE: usize = 16;
/// Where more come, they take the tables anyhow: the further tree may have twice as many rules as these
/// were made for, and a few, or what the tables then cost is more than a walk.
const JOINED_FEW: usize = 256;
const JOINED_TIMES: f64 = 2.5;

/// Makes a forest out of entries that are in priority order.
pub(super) struct Maker<'a, const B: usize> {
    entries: &'a [Entry<B>],
    fixed: Vec<Fixed<B>>,
    tuning: Tuning,
    size_limit: usize,
    deadline: Instant,
    time_limit: std::time::Duration,
    forest: Forest<B>,
    /// Leaves by the entries that they hold.
    leaves: HashMap<Vec<u32>, Node>,
    /// Cache lines that the deepest path of the tree at hand touches.
    deepest: usize,
    /// Rules in the leaves of each level of the tree at hand.
    at_level: [usize; MOST_LEVELS + 1],
}

impl<'a, const B: usize> Maker<'a, B> {
    pub(super) fn new(
        entries: &'a [Entry<B>],
        config: &Config,
        tuning: Tuning,
        started: Instant,
    ) -> Self {
        let fixed = entries.iter().map(|entry| Fixed::new(&entry.bounds)).collect();
        let mut maker = Self {
            entries,
            fixed,
            tuning,
            size_limit: config.size_limit,
            deadline: started + config.time_limit,
            time_limit: config.time_limit,
            forest: Forest::default(),
            leaves: HashMap::new(),
            deepest: 0,
            at_level: [0; MOST_LEVELS + 1],
        };
        // What `Node::EMPTY` points to.
        maker.push_group(&[]);
        maker
    }

    /// A tree for each subset of the entries.
    pub(super) fn forest(mut self) -> Result<Forest<B>, Error> {
        let mut subsets = subset::divide(&self.fixed);
        self.join_small(&mut subsets);
        for subset in subsets {
            self.deepest = 0;
            let usual = self.tuning;
            if subset.open {
                self.tuning.leaf_rules = OPEN_LEAF_RULES;
                self.tuning.least_gain = OPEN_LEAST_GAIN;
            }
            if subset.open && self.take_crossed(&subset.rules) {
                continue;
            }
            self.at_level = [0; MOST_LEVELS + 1];
            let root = self.node(subset.rules, Region::ALL, 0)?;
            // A tree that is one leaf still starts with a table, of one entry.
            let root = if root.is_leaf() {
                let first = self.reserve(1)?;
                self.forest.nodes[first as usize] = root;
                Node::table(first, 0, 0, root.best)
            } else {
                root
            };
            self.tuning = usual;
            if root.best != NOTHING {
                let usual_steps = self.usual_steps();
                let steps = self.at_level.iter().rposition(|rules| *rules > 0).unwrap_or(0);
                let steps = steps.saturating_sub(1) as u32;
                self.forest.roots.push(Root { node: root, usual_steps, steps });
                self.forest.touches += self.deepest + 1;
            }
        }
        self.forest.roots.sort_by_key(|root| root.node.best);
        self.forest.nodes.shrink_to_fit();
        self.forest.groups.shrink_to_fit();
        self.forest.ids.shrink_to_fit();
        self.forest.bytes = self.forest.memory_usage();
        assert!(self.forest.check(), "a forest's indices stay inside it");
        Ok(self.forest)
    }

    /// Lets the crossed tables take a further tree that is small: what is looked up together costs a
    /// header made by an attacker less than two walks.
    fn join_small(&self, subsets: &mut Vec<subset::Subset>) {
        let Some(open) = subsets.iter().rposition(|subset| subset.open) else { return };
        let Some(small) = open.checked_sub(1).filter(|small| *small > 0) else { return };
        let (further, crossed) = (subsets[small].rules.len(), subsets[open].rules.len());
        let rules = further + crossed;
        let first = |subset: &subset::Subset| subset.rules[0];
        let first = first(&subsets[small]).min(first(&subsets[open])) as usize;
        let come = self.entries.len() - first;
        let few_come = rules <= JOINED_RULES && come * JOINED_SHARE <= self.entries.len();
        let few = rules <= JOINED_FEW && further as f64 <= crossed as f64 * JOINED_TIMES;
        if !few_come && !few {
            return;
        }
        let rules = subsets.remove(small).rules;
        let open = &mut subsets[open - 1].rules;
        open.extend(rules);
        open.sort_unstable();
    }

    /// Makes crossed tables for `rules`; whether that could be done.
    fn take_crossed(&mut self, rules: &[u32]) -> bool {
        let mut rules = rules.to_vec();
        if rules.len() > cross::MOST_RULES {
            return false;
        }
        self.drop_shadowed(&mut rules, &Region::ALL);
        let entries: Vec<&Entry<B>> =
            rules.iter().map(|rule| &self.entries[*rule as usize]).collect();
        let room = self.size_limit.saturating_sub(self.bytes());
        self.forest.crossed = Crossed::new(&entries, self.entries.len())
            .filter(|crossed| crossed.memory_usage() <= room);
        if let Some(crossed) = &self.forest.crossed {
            self.forest.touches += crossed.touches();
        }
        self.forest.crossed.is_some()
    }

    /// Levels below the first that eight in ten rules are within, and one more if there are more: a
    /// step that all take together costs a quarter of one that some take alone.
    fn usual_steps(&self) -> u32 {
        let all: usize = self.at_level.iter().sum();
        let mut within = 0;
        let level = self.at_level.iter().position(|rules| {
            within += rules;
            within * 10 >= all * 8
        });
        let level = level.unwrap_or(0);
        let more = self.at_level.iter().skip(level + 1).any(|rules| *rules > 0);
        (level + usize::from(more)).saturating_sub(1) as u32
    }

    /// The node for the rules that meet `region`.
    fn node(
        &mut self,
        mut rules: Vec<u32>,
        region: Region<B>,
        level: usize,
    ) -> Result<Node, Error> {
        self.drop_shadowed(&mut rules, &region);
        if rules.is_empty() {
            return Ok(Node::EMPTY);
        }
        if rules.len() <= self.tuning.leaf_rules {
            return self.leaf(rules, level);
        }
        let cut = match level {
            MOST_LEVELS => None,
            _ => cut::choose(&rules, &self.fixed, &self.tuning_at(level)),
        };
        let Some(cut) = cut else {
            self.drop_hidden(&mut rules, &region);
            return self.crowded_leaf(rules, level);
        };
        if Instant::now() > self.deadline {
            return Err(Error::BuildTime { limit: self.time_limit });
        }
        self.table(&rules, cut, region, level)
    }

    fn tuning_at(&self, level: usize) -> Tuning {
        if level < DEEP {
            return self.tuning;
        }
        let least_gain = self.tuning.least_gain.max(DEEP_LEAST_GAIN);
        Tuning { space: DEEP_SPACE, least_gain, ..self.tuning }
    }

    /// Drops what comes after a rule that matches the whole region and, among few rules, those that
    /// an earlier one hides.
    fn drop_shadowed(&self, rules: &mut Vec<u32>, region: &Region<B>) {
        let entries = self.entries;
        let plain = |rule: u32| entries[rule as usize].residual.is_none();
        if let Some(last) = rules
            .iter()
            .position(|&rule| plain(rule) && region.covers(&entries[rule as usize].bounds, None))
        {
            rules.truncate(last + 1);
        }
        if rules.len() <= MOST_LEAF_RULES {
            self.drop_hidden(rules, region);
        }
    }

    /// Drops rules that one earlier rule hides within the region. Quadratic.
    fn drop_hidden(&self, rules: &mut Vec<u32>, region: &Region<B>) {
        let entries = self.entries;
        let plain = |rule: u32| entries[rule as usize].residual.is_none();
        let mut kept: Vec<u32> = Vec::with_capacity(rules.len());
        for &rule in rules.iter() {
            let bounds = &entries[rule as usize].bounds;
            let hidden = kept.iter().any(|&earlier| {
                plain(earlier) && region.covers(&entries[earlier as usize].bounds, Some(bounds))
            });
            if !hidden {
                kept.push(rule);
            }
            // More than this is refused anyway.
            if kept.len() > MOST_HIDERS {
                return;
            }
        }
        *rules = kept;
    }

    fn table(
        &mut self,
        rules: &[u32],
        cut: Cut,
        region: Region<B>,
        level: usize,
    ) -> Result<Node, Error> {
        let size = 1usize << cut.mask.count_ones();
        let first = self.reserve(size)?;
        let mut best = NOTHING;
        for (index, part) in self.distribute(rules, cut, &region).into_iter().enumerate() {
            if part.is_empty() {
                continue;
            }
            let node = self.node(part, region.child(cut.offset, cut.mask, index), level + 1)?;
            best = best.min(node.best);
            self.forest.nodes[first as usize + index] = node;
        }
        Ok(Node::table(first, cut.offset, cut.mask, best))
    }

    /// The rules that meet each child of a table.
    fn distribute(&self, rules: &[u32], cut: Cut, region: &Region<B>) -> Vec<Vec<u32>> {
        let bits: Vec<usize> = (0..64)
            .filter(|bit| cut.mask >> bit & 1 == 1)
            .map(|bit| cut.offset * 16 + bit)
            .collect();
        let mut parts: Vec<Vec<u32>> = vec![Vec::new(); 1 << bits.len()];
        for &rule in rules {
            let fixed = &self.fixed[rule as usize];
            let (care, value) = (fixed.care.as_flattened(), fixed.value.as_flattened());
            let (mut base, mut free) = (0usize, 0usize);
            for (at, bit) in bits.iter().enumerate() {
                let (lane, bit) = (bit / 16, bit % 16);
                base |= usize::from(value[lane] >> bit & 1) << at;
                free |= usize::from(!care[lane] >> bit & 1) << at;
            }
            if free == 0 {
                parts[base].push(rule);
                continue;
            }
            let bounds = &self.entries[rule as usize].bounds;
            let ragged = ragged_lanes(bounds, fixed, &cut);
            let mut extra = 0usize;
            loop {
                let index = base | extra;
                if ragged.is_empty() || {
                    let child = region.child(cut.offset, cut.mask, index);
                    ragged.iter().all(|&lane| child.lane_meets(lane, bounds))
                } {
                    parts[index].push(rule);
                }
                extra = extra.wrapping_sub(free) & free;
                if extra == 0 {
                    break;
                }
            }
        }
        parts
    }

    /// A leaf for rules that no cut divides further.
    fn crowded_leaf(&mut self, rules: Vec<u32>, level: usize) -> Result<Node, Error> {
        if rules.len() > MOST_LEAF_RULES {
            return Err(Error::TooEntangled {
                rule: self.entries[rules[0] as usize].id as usize,
                count: rules.len(),
                limit: MOST_LEAF_RULES,
            });
        }
        self.leaf(rules, level)
    }

    fn leaf(&mut self, rules: Vec<u32>, level: usize) -> Result<Node, Error> {
        // A group is two lines a block, and its ids are one; a residual is counted as two.
        let groups = rules.len().div_ceil(GROUP);
        let residuals =
            rules.iter().filter(|&&rule| self.entries[rule as usize].residual.is_some());
        self.deepest = self.deepest.max(level + groups * (2 * B + 1) + 2 * residuals.count());
        self.at_level[level] += rules.len();
        if let Some(node) = self.leaves.get(&rules) {
            return Ok(*node);
        }
        let first = self.forest.groups.len();
        self.check_size(0, groups)?;
        for chunk in rules.chunks(GROUP) {
            self.push_group(chunk);
        }
        let best = self.entries[rules[0] as usize].id;
        let first = index(first)?;
        let node = Node::leaf(first, index(groups)?, best);
        self.leaves.insert(rules, node);
        Ok(node)
    }

    fn push_group(&mut self, rules: &[u32]) {
        let mut group = Group { low: [[[0; WIDTH]; GROUP]; B], span: [[[0; WIDTH]; GROUP]; B] };
        let mut ids = [NO_SLOT; GROUP];
        let protocol = const { places(B) }.protocol;
        for (slot, name) in ids.iter_mut().enumerate() {
            let Some(&rule) = rules.get(slot) else {
                group.low[protocol / WIDTH][slot][protocol % WIDTH] = NO_PROTOCOL;
                continue;
            };
            let entry = &self.entries[rule as usize];
            let LaneBox { low, high } = entry.bounds;
            for block in 0..B {
                group.low[block][slot] = low[block];
                for lane in 0..WIDTH {
                    group.span[block][slot][lane] = high[block][lane] - low[block][lane];
                }
            }
            *name = match &entry.residual {
                None => entry.id,
                Some(residual) => {
                    self.forest.residuals.push(Residual::clone(residual));
                    RESIDUAL | (self.forest.residuals.len() - 1) as u32
                }
            };
        }
        self.forest.groups.push(group);
        self.forest.ids.push(ids);
    }

    /// Room for a table of `size` nodes, empty so far.
    fn reserve(&mut self, size: usize) -> Result<u32, Error> {
        self.check_size(size, 0)?;
        let first = index(self.forest.nodes.len())?;
        index(self.forest.nodes.len() + size)?;
        self.forest.nodes.resize(self.forest.nodes.len() + size, Node::EMPTY);
        Ok(first)
    }

    fn check_size(&self, nodes: usize, groups: usize) -> Result<(), Error> {
        let bytes = self.bytes() + nodes * size_of::<Node>() + groups * Self::GROUP_BYTES;
        if bytes > self.size_limit {
            return Err(Error::TooLarge { limit: self.size_limit });
        }
        Ok(())
    }

    const GROUP_BYTES: usize = size_of::<Group<B>>() + size_of::<[u32; GROUP]>();

    /// What the trees take so far.
    fn bytes(&self) -> usize {
        self.forest.nodes.len() * size_of::<Node>() + self.forest.groups.len() * Self::GROUP_BYTES
    }
}

/// Lanes that the cut looks at in which the rule's range is no prefix: some of the numbers with the
/// same fixed bits are outside.
fn ragged_lanes<const B: usize>(bounds: &LaneBox<B>, fixed: &Fixed<B>, cut: &Cut) -> Vec<usize> {
    (cut.offset..cut.offset + 4)
        .filter(|&lane| {
            let care = fixed.care.as_flattened()[lane];
            let value = fixed.value.as_flattened()[lane];
            let whole = bounds.low.as_flattened()[lane] == value
                && bounds.high.as_flattened()[lane] == value | !care;
            !whole && cut.mask >> (16 * (lane - cut.offset)) & 0xffff != 0
        })
        .collect()
}

fn index(number: usize) -> Result<u32, Error> {
    u32::try_from(number)
        .ok()
        .filter(|&number| number < MAX_INDEX)
        .ok_or(Error::TooLarge { limit: MAX_INDEX as usize })
}
