//! The proof that cross-product tables answer as their boxes do: all numbers of all lanes, and all
//! classes with each other.

use ahash::{HashSet, HashSetExt};

use super::build::{From, Source, crossing, size};
use super::sets::{self, Set};
use super::{Crossed, Lane, is_whole, numbers};
use crate::lanes::WIDTH;
use crate::tree::forest::{NOTHING, RESIDUAL};

impl<const B: usize> Crossed<B> {
    /// Whether the tables say what `bounds` say: for every number of every lane, and for all classes
    /// with each other.
    pub(in crate::tree) fn says_its_bounds(&self) -> bool {
        let asked = |lane: usize| self.lanes.iter().any(|asked| asked.lane == lane);
        let open = |lane| self.ranges(lane).all(|range| is_whole::<B>(lane, &range));
        if !(0..B * WIDTH).all(|lane| asked(lane) || open(lane))
            || self.ids.iter().any(|id| self.rule(*id) < self.best)
        {
            return false;
        }
        let mut sources: Vec<Vec<(u32, Vec<Set>)>> = vec![Vec::new(); self.joins.len()];
        for lane in &self.lanes {
            let Some(classes) = self.classes_of_lane(lane) else { return false };
            sources[lane.way.to].push((lane.way.factor, classes));
        }
        for (number, join) in self.joins.iter().enumerate() {
            let mut parts = std::mem::take(&mut sources[number]);
            parts.sort_by_key(|(factor, _)| *factor);
            let parts: Vec<Source> = parts
                .into_iter()
                .scan(1, |size, (factor, classes)| {
                    // Each class needs a factor of its own.
                    let sound = factor == *size;
                    *size *= u32::try_from(classes.len()).ok()?;
                    sound.then_some(Source { from: From::Join(number), classes })
                })
                .collect();
            if size(&parts) != join.len {
                return false;
            }
            if number + 1 == self.joins.len() {
                return (0..join.len).all(|index| {
                    let found = self.first_of(&crossing(&parts, index));
                    self.says(self.outcomes[usize::from(self.tables[join.first + index])], &found)
                });
            }
            let mut known = Known::default();
            let table = &self.tables[join.first..join.first + join.len];
            if !table
                .iter()
                .enumerate()
                .all(|(index, class)| known.same(*class, &crossing(&parts, index)))
            {
                return false;
            }
            let Some(classes) = known.complete() else { return false };
            sources[join.way.to].push((join.way.factor, classes));
        }
        false
    }

    /// Whether an outcome names these rules.
    fn says(&self, outcome: u32, found: &[u32]) -> bool {
        match *found {
            [] => outcome == NOTHING,
            [rule] if self.ids[rule as usize] & RESIDUAL == 0 => outcome == self.ids[rule as usize],
            _ => {
                outcome != NOTHING
                    && outcome & RESIDUAL != 0
                    && self
                        .lists
                        .get((outcome ^ RESIDUAL) as usize)
                        .is_some_and(|list| list == found)
            }
        }
    }

    /// Which rules each class of a lane stands for, if that is the same wherever it is.
    fn classes_of_lane(&self, lane: &Lane) -> Option<Vec<Set>> {
        let ranges: Vec<(u16, u16)> = self.ranges(lane.lane).collect();
        let end = numbers::<B>(lane.lane);
        let (runs, sets) = sets::runs(&ranges, end)?;
        let mut known = Known::default();
        // Pairs of a block and of a run that holds throughout that were seen.
        let mut seen = HashSet::new();
        let mut run = 0;
        for index in 0..=u32::from(lane.last) {
            let first = index << lane.shift;
            let behind = if index == lane.last.into() { end } else { (index + 1) << lane.shift };
            while runs.get(run + 1).is_some_and(|next| next.first <= first) {
                run += 1;
            }
            let whole = runs.get(run + 1).is_none_or(|next| next.first >= behind);
            let entry = self.tables[lane.first + index as usize];
            if whole && !seen.insert((entry, runs[run].class)) {
                continue;
            }
            // What is behind the last entry reads as its last number does.
            let behind = if whole { behind.min(first + (1 << lane.shift)) } else { behind };
            let mut at = run;
            for number in first..behind {
                while runs.get(at + 1).is_some_and(|next| next.first <= number) {
                    at += 1;
                }
                let class = self.class_of(lane, u16::try_from(number).ok()?.into());
                if !known.same(class, &sets[usize::from(runs[at].class)]) {
                    return None;
                }
                if lane.blocks.is_none() && whole {
                    break;
                }
            }
        }
        known.complete()
    }
}

/// What classes were seen to stand for.
#[derive(Default)]
struct Known(Vec<Option<Set>>);

impl Known {
    /// Whether `class` stood for the same before, or for nothing.
    fn same(&mut self, class: u16, set: &Set) -> bool {
        let class = usize::from(class);
        if self.0.len() <= class {
            self.0.resize(class + 1, None);
        }
        self.0[class].get_or_insert_with(|| set.clone()) == set
    }

    fn complete(self) -> Option<Vec<Set>> {
        self.0.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::rule::{IcmpMatch, PortRange, ProtocolMatch, Rule, RuleSet};
    use crate::tree::cross::Crossed;
    use crate::tree::forest::NOTHING;

    /// Rules that leave both addresses open, a few with more to ask than a box can say.
    fn crossed() -> Crossed<1> {
        let rules: Vec<Rule> = (0..70u16)
            .map(|n| {
                let ports = PortRange::new(n * 37 % 600, n * 37 % 600 + n % 5 * 900).unwrap();
                let rule = Rule::any(n.into()).destination_ports(ports);
                match n % 7 {
                    0 => Rule {
                        protocol: ProtocolMatch::Set([1, 3, 5, 7, 9, 11].into_iter().collect()),
                        ..rule
                    },
                    1 => rule.source_ports(PortRange::exact(n)).protocol(17),
                    2 => rule.protocol(1).icmp(IcmpMatch { icmp_type: 8, code: None }),
                    3 => rule.from_v4("64.0.0.0/4".parse().unwrap()),
                    _ => rule.protocol(6),
                }
            })
            .chain([Rule::any(70).protocol(6)])
            .collect();
        let entries = crate::tree::entries::<1>(&RuleSet::new(rules).unwrap());
        let crossed = Crossed::new(&entries.iter().collect::<Vec<_>>(), 1_000).unwrap();
        assert!(crossed.joins.len() > 1 && !crossed.lists.is_empty(), "{crossed:?}");
        assert!(crossed.lanes.iter().any(|lane| lane.blocks.is_some()), "{crossed:?}");
        crossed
    }

    #[test]
    fn sound_tables_pass() {
        assert!(crossed().says_its_bounds());
    }

    /// There is no entry that may hold anything: each class is some header's, and lanes are free of
    /// each other.
    #[test]
    fn each_spoilt_entry_is_found() {
        let sound = crossed();
        // An odd step, so that there are some of all tables.
        for at in (0..sound.tables.len()).step_by((sound.tables.len() / 60) | 1) {
            let mut spoilt = sound.clone();
            spoilt.tables[at] ^= 1;
            assert!(!spoilt.check() || !spoilt.says_its_bounds(), "entry {at}");
        }
        for at in 0..sound.outcomes.len() {
            let mut spoilt = sound.clone();
            spoilt.outcomes[at] = if spoilt.outcomes[at] == NOTHING { 0 } else { NOTHING };
            assert!(!spoilt.says_its_bounds(), "outcome {at}");
        }
    }
}
