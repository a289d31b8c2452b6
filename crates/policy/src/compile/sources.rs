//! Sources of prefixes: every prefix and every set that the loaded policies name, by number.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use ipnet::IpNet;
use portcullis_identity_table::region::{Regions, SourceId};

use crate::model::{Match, PolicySet};

/// Prefixes and sets in use, and the numbers by which regions and classes know them.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    prefixes: AHashMap<IpNet, SourceId>,
    /// By the index that policies use.
    sets: Vec<SourceId>,
    next: u32,
}

/// All prefixes with their sources.
#[derive(Debug)]
pub(crate) struct Content {
    prefixes: Vec<(IpNet, SourceId)>,
    /// By the index that policies use.
    pub(crate) sets: Vec<(Arc<[IpNet]>, SourceId)>,
}

impl Content {
    /// O(n log n) in all prefixes.
    pub(crate) fn regions(&self) -> Regions {
        let sets = self.sets.iter().flat_map(|(set, id)| set.iter().map(|&prefix| (prefix, *id)));
        Regions::build(self.prefixes.iter().copied().chain(sets))
    }
}

impl Sources {
    /// Makes the sources those of `new`, where they were those of `old`; what stays keeps its
    /// number, and so does a set that holds something else: nothing that is compiled depends on
    /// that. Tells whether anything changed.
    pub(crate) fn update(&mut self, old: &PolicySet, new: &PolicySet) -> bool {
        let mut used = AHashSet::new();
        for policy in new.tiers.iter().flat_map(|tier| &tier.policies) {
            policy.for_each_match(&mut |expression| {
                if let Match::Cidr(prefix) = expression {
                    used.insert(prefix.trunc());
                }
            });
        }
        let count = self.prefixes.len();
        self.prefixes.retain(|prefix, _| used.contains(prefix));
        let mut changed = self.prefixes.len() != count;
        let mut added: Vec<IpNet> =
            used.into_iter().filter(|prefix| !self.prefixes.contains_key(prefix)).collect();
        added.sort_unstable();
        changed |= !added.is_empty();
        for prefix in added {
            let id = self.number();
            self.prefixes.insert(prefix, id);
        }

        changed |= old.sets.len() != new.sets.len();
        let mut numbers: Vec<Option<SourceId>> = self.sets.drain(..).map(Some).collect();
        for set in &new.sets {
            let mut kept = old.sets.iter().zip(&mut numbers).filter(|(o, _)| o.name == set.name);
            let kept = kept.find_map(|(o, number)| Some((o, number.take()?)));
            changed |= kept.is_none_or(|(o, _)| o.prefixes != set.prefixes);
            let id = kept.map_or_else(|| self.number(), |(_, number)| number);
            self.sets.push(id);
        }
        changed
    }

    /// The regions that the sources make. O(n log n) in their prefixes.
    pub(crate) fn regions(&self, policies: &PolicySet) -> Regions {
        self.content(policies).regions()
    }

    /// What the regions are made of. O(prefixes that policies name + sets).
    pub(crate) fn content(&self, policies: &PolicySet) -> Content {
        let sets = policies.sets.iter().zip(&self.sets);
        Content {
            prefixes: self.prefixes.iter().map(|(&prefix, &id)| (prefix, id)).collect(),
            sets: sets.map(|(set, &id)| (Arc::clone(&set.prefixes), id)).collect(),
        }
    }

    /// The number of the set at an index.
    pub(crate) fn set(&self, index: u32) -> Option<SourceId> {
        self.sets.get(index as usize).copied()
    }

    /// The expression with every prefix and set by its number, as [`super::universe`] wants it.
    pub(crate) fn canonical(&self, expression: &Match) -> Match {
        let parts = |parts: &[Match]| parts.iter().map(|part| self.canonical(part)).collect();
        let source = |id: Option<SourceId>| id.map_or(Match::Nothing, |id| Match::InSet(id.0));
        match expression {
            Match::Cidr(prefix) => source(self.prefixes.get(&prefix.trunc()).copied()),
            Match::InSet(index) => source(self.set(*index)),
            Match::Not(part) => Match::Not(Box::new(self.canonical(part))),
            Match::All(list) => Match::All(parts(list)),
            Match::OneOf(list) => Match::OneOf(parts(list)),
            other => other.clone(),
        }
    }

    fn number(&mut self) -> SourceId {
        let id = SourceId(self.next);
        self.next = self.next.checked_add(1).expect("fewer than 2^32 sources");
        id
    }
}
