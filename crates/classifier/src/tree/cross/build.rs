//! Rules to cross-product tables.

use super::sets::{self, Run, Set};
use super::{BLOCK, BLOCK_BITS, Crossed, Join, Lane, REGISTERS, Way, is_whole, numbers};
use crate::lanes::{Entry, Residual, WIDTH, places};
use crate::tree::forest::{NOTHING, RESIDUAL};

/// Rules at most.
pub(in crate::tree) const MOST_RULES: usize = 2048;
/// Entries of the last table: so many for each rule of the whole set, within these bounds.
const ENTRIES_A_RULE: usize = 16;
const LEAST_ENTRIES: usize = 1 << 14;
const MOST_ENTRIES: usize = 1 << 20;
/// Entries of a table that is not the last.
const INNER_ENTRIES: usize = 1 << 16;
/// All lanes are crossed at once when that makes no more entries than this.
const FEW_ENTRIES: usize = 1 << 12;
/// A lane with more entries has two tables.
const DIRECT: u32 = 1 << (16 - BLOCK_BITS);

/// What leads to a table: which rules each class stands for.
pub(super) struct Source {
    /// A lane, or a table.
    pub(super) from: From,
    pub(super) classes: Vec<Set>,
}

#[derive(Clone, Copy)]
pub(super) enum From {
    Lane(usize),
    Join(usize),
}

impl<const B: usize> Crossed<B> {
    /// Tables for `entries`, which are in priority order and out of a set of `all` rules; `None` when
    /// the tables would be too large.
    pub(in crate::tree) fn new(entries: &[&Entry<B>], all: usize) -> Option<Self> {
        if entries.is_empty() || entries.len() > MOST_RULES {
            return None;
        }
        let mut crossed = Self {
            best: entries[0].id,
            lanes: Vec::new(),
            joins: Vec::new(),
            tables: Vec::new(),
            outcomes: Vec::new(),
            lists: Vec::new(),
            ids: Vec::with_capacity(entries.len()),
            bounds: entries.iter().map(|entry| entry.bounds).collect(),
            residuals: Vec::new(),
        };
        for entry in entries {
            crossed.ids.push(match &entry.residual {
                None => entry.id,
                Some(residual) => {
                    crossed.residuals.push(Residual::clone(residual));
                    RESIDUAL | (crossed.residuals.len() - 1) as u32
                }
            });
        }
        let (mut addresses, mut others) = (Vec::new(), Vec::new());
        for lane in 0..B * WIDTH {
            let ranges: Vec<(u16, u16)> = crossed.ranges(lane).collect();
            if ranges.iter().any(|range| !is_whole::<B>(lane, range)) {
                let source = crossed.add_lane(lane, &ranges)?;
                let (from, to) = const { places(B) }.address_lanes();
                let group = if from.contains(&lane) || to.contains(&lane) {
                    &mut addresses
                } else {
                    &mut others
                };
                group.push(source);
            }
        }
        // Rules that ask nothing at all still need a table.
        if addresses.is_empty() && others.is_empty() {
            let ranges: Vec<(u16, u16)> = crossed.ranges(0).collect();
            others.push(crossed.add_lane(0, &ranges)?);
        }
        let limit = (all * ENTRIES_A_RULE).clamp(LEAST_ENTRIES, MOST_ENTRIES);
        crossed.join_all(addresses, others, limit)?;
        crossed.tables.shrink_to_fit();
        crossed.outcomes.shrink_to_fit();
        crossed.residuals.shrink_to_fit();
        assert!(crossed.check(), "no sum of classes leads outside a table");
        Some(crossed)
    }

    /// The tables of a lane of which each rule takes a range.
    fn add_lane(&mut self, lane: usize, ranges: &[(u16, u16)]) -> Option<Source> {
        let (runs, classes) = sets::runs(ranges, numbers::<B>(lane))?;
        let class = |number| runs[runs.partition_point(|run| run.first <= number) - 1].class;
        let first = self.tables.len();
        let shift = runs.iter().map(|run| run.first.trailing_zeros().min(15)).min().unwrap_or(0);
        let last = runs.last().map_or(0, |run| run.first >> shift);
        let way = Way::default();
        let from = From::Lane(self.lanes.len());
        if last < DIRECT {
            self.tables.extend((0..=last).map(|index| class(index << shift)));
            let last = u16::try_from(last).ok()?;
            self.lanes.push(Lane { lane, shift, last, first, blocks: None, way });
            return Some(Source { from, classes });
        }
        let last = last << shift >> BLOCK_BITS;
        let blocks = first + last as usize + 1;
        self.tables.resize(blocks, 0);
        self.add_blocks(first, blocks, &runs)?;
        let last = u16::try_from(last).ok()?;
        self.lanes.push(Lane { lane, shift: BLOCK_BITS, last, first, blocks: Some(blocks), way });
        Some(Source { from, classes })
    }

    /// The second table of a lane. Blocks in which all numbers have one class are made once.
    fn add_blocks(&mut self, first: usize, blocks: usize, runs: &[Run]) -> Option<()> {
        let mut whole = ahash::HashMap::default();
        let mut run = 0;
        for index in first..blocks {
            let start = ((index - first) * BLOCK) as u32;
            while runs.get(run + 1).is_some_and(|next| next.first <= start) {
                run += 1;
            }
            let next = u16::try_from((self.tables.len() - blocks) / BLOCK).ok()?;
            let behind = start + BLOCK as u32;
            if runs.get(run + 1).is_none_or(|next| next.first >= behind) {
                let class = runs[run].class;
                self.tables[index] = *whole.entry(class).or_insert(next);
                if self.tables[index] == next {
                    self.tables.extend([class; BLOCK]);
                }
                continue;
            }
            self.tables[index] = next;
            let mut at = run;
            for number in start..behind {
                while runs.get(at + 1).is_some_and(|next| next.first <= number) {
                    at += 1;
                }
                self.tables.push(runs[at].class);
            }
        }
        Some(())
    }

    /// The tables behind those of lanes.
    fn join_all(
        &mut self,
        addresses: Vec<Source>,
        others: Vec<Source>,
        limit: usize,
    ) -> Option<()> {
        let mut sources: Vec<Source> = addresses;
        let middle = sources.len();
        sources.extend(others);
        if size(&sources) > FEW_ENTRIES && middle > 0 && middle < sources.len() {
            let others = sources.split_off(middle);
            sources = vec![self.reduce(sources)?, self.reduce(others)?];
        }
        while size(&sources) > limit && sources.len() > 2 {
            let half = sources.split_off(sources.len() / 2);
            sources = vec![self.reduce(sources)?, self.reduce(half)?];
        }
        if size(&sources) > limit {
            return None;
        }
        let first = self.tables.len();
        let mut outcomes = ahash::HashMap::default();
        for index in 0..size(&sources) {
            let found = self.first_of(&crossing(&sources, index));
            let outcome = match outcomes.get(&found) {
                Some(outcome) => *outcome,
                None => {
                    let outcome = u16::try_from(self.outcomes.len()).ok()?;
                    let name = self.name(&found);
                    self.outcomes.push(name);
                    outcomes.insert(found, outcome);
                    outcome
                }
            };
            self.tables.push(outcome);
        }
        self.push_join(first, &sources)
    }

    /// One source in the place of several.
    fn reduce(&mut self, mut sources: Vec<Source>) -> Option<Source> {
        if sources.len() == 1 {
            return sources.pop();
        }
        if size(&sources) > INNER_ENTRIES && sources.len() > 2 {
            let half = sources.split_off(sources.len() / 2);
            sources = vec![self.reduce(sources)?, self.reduce(half)?];
        }
        if size(&sources) > INNER_ENTRIES {
            return None;
        }
        let first = self.tables.len();
        let mut classes = sets::Classes::default();
        for index in 0..size(&sources) {
            let class = classes.of(crossing(&sources, index))?;
            self.tables.push(class);
        }
        self.push_join(first, &sources)?;
        Some(Source { from: From::Join(self.joins.len() - 1), classes: classes.sets })
    }

    /// Sends the sources to the table that starts at `first` and ends at the end.
    fn push_join(&mut self, first: usize, sources: &[Source]) -> Option<()> {
        let to = self.joins.len();
        let mut factor = 1;
        for source in sources {
            let way = Way { to, factor: u32::try_from(factor).ok()? };
            match source.from {
                From::Lane(lane) => self.lanes[lane].way = way,
                From::Join(join) => self.joins[join].way = way,
            }
            factor *= source.classes.len();
        }
        let len = self.tables.len() - first;
        self.joins.push(Join { first, len, way: Way::default() });
        (self.joins.len() <= REGISTERS).then_some(())
    }

    /// The rules of a set that have to be asked: up to the first that has no more to ask.
    pub(super) fn first_of(&self, set: &Set) -> Vec<u32> {
        let mut found = Vec::new();
        for rule in sets::members(set) {
            found.push(rule);
            if self.ids[rule as usize] & RESIDUAL == 0 {
                break;
            }
        }
        found
    }

    /// What `outcomes` says for these rules.
    fn name(&mut self, found: &[u32]) -> u32 {
        match *found {
            [] => NOTHING,
            [rule] if self.ids[rule as usize] & RESIDUAL == 0 => self.ids[rule as usize],
            _ => {
                self.lists.push(found.to_vec());
                RESIDUAL | (self.lists.len() - 1) as u32
            }
        }
    }
}

/// Entries of a table that crosses these.
pub(super) fn size(sources: &[Source]) -> usize {
    sources.iter().fold(1, |size: usize, source| size.saturating_mul(source.classes.len()))
}

/// The rules that all classes of an entry stand for.
pub(super) fn crossing(sources: &[Source], mut index: usize) -> Set {
    let mut common: Option<Set> = None;
    for source in sources {
        let set = &source.classes[index % source.classes.len()];
        index /= source.classes.len();
        match &mut common {
            None => common = Some(set.clone()),
            Some(common) => common.iter_mut().zip(set).for_each(|(common, word)| *common &= word),
        }
    }
    common.unwrap_or_default()
}
