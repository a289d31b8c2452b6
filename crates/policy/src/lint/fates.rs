//! What became of each rule, over all pairs of classes of addresses and all headers.
//!
//! Rules of a direction are numbered in the order in which they are asked. For each class there are
//! two sets of numbers: rules that apply to it, and rules whose other side it matches. What a rule
//! means is a set of regions of headers; so the rules between two classes are walked for all headers
//! at once, and only if one of them has not had a say yet.

use std::collections::BTreeMap;
use std::convert::Infallible;

use ahash::AHashMap;
use portcullis_identity_table::endpoint::NamedPort;

use super::Scene;
use crate::atlas::AddressClass;
use crate::model::{Action, Direction, IpVersion, Rule, TierDefault};
use crate::parallel::in_parallel;
use crate::space::{self, Ports, Region};
use crate::view::{End, RuleKey, named_ports};

/// What became of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// Both ends match somebody.
    pub(super) has_pair: bool,
    /// And some traffic between them matches.
    pub(super) matches: bool,
    /// It has a say somewhere.
    pub(super) effective: bool,
    /// A rule, or the end of a tier, that keeps it from having a say.
    pub(super) shadowed_by: Option<RuleKey>,
}

/// Regions that all rules of a direction share; if there are more, endpoints get regions of their own.
const MOST_REGIONS: usize = 4096;

/// The fates of all enforced rules of a direction, `Log` left out.
pub(super) fn fates(scene: &Scene<'_>, direction: Direction) -> BTreeMap<RuleKey, Fate> {
    let table = Table::new(scene, direction);
    let everything = table.ground(0..table.rules.len());
    let shared = (everything.regions.len() <= MOST_REGIONS).then_some(everything);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(4);
    let subjects: Vec<usize> = (0..scene.atlas.classes.len()).collect();
    let size = subjects.len().div_ceil(threads * 2).max(1);
    let parts: Vec<&[usize]> = subjects.chunks(size).collect();
    let found = in_parallel(threads, &parts, |part| {
        let mut walker = Walker::new(&table, shared.clone());
        part.iter().for_each(|&subject| walker.subject(subject));
        Ok::<_, Infallible>(walker.fates)
    });
    let mut fates = vec![Fate::default(); table.rules.len()];
    let Ok(found) = found;
    for part in found {
        for (fate, more) in fates.iter_mut().zip(part) {
            fate.has_pair |= more.has_pair;
            fate.matches |= more.matches;
            fate.effective |= more.effective;
            fate.shadowed_by = fate.shadowed_by.or(more.shadowed_by);
        }
    }
    table.rules.iter().map(|rule| rule.key).zip(fates).collect()
}

/// The rules of a direction, and whom they mean.
struct Table<'s> {
    scene: &'s Scene<'s>,
    direction: Direction,
    rules: Vec<Numbered<'s>>,
    /// First numbers of the tiers, and one more than the last number.
    tiers: Vec<usize>,
    /// Words of a set of rules.
    words: usize,
    /// By class of the atlas: rules that apply to it, and rules whose peer it may be.
    near: Vec<u64>,
    far: Vec<u64>,
    /// By class of the atlas, a number that classes with the same named ports share.
    port_lists: Vec<usize>,
    lists: Vec<&'s [NamedPort]>,
}

struct Numbered<'s> {
    key: RuleKey,
    rule: &'s Rule,
    /// Whether it looks up ports by name at the source, and at the destination.
    names: [bool; 2],
}

impl<'s> Table<'s> {
    fn new(scene: &'s Scene<'s>, direction: Direction) -> Self {
        let view = scene.view;
        let mut rules = Vec::new();
        let mut tiers = vec![0];
        for (tier, written) in scene.policies.tiers.iter().enumerate() {
            for policy in 0..written.policies.len() {
                for (key, rule) in view.rules_of(direction, (tier, policy)) {
                    rules.push(Numbered { key, rule: rule.rule, names: rule.rule.asks_names() });
                }
            }
            tiers.push(rules.len());
        }
        let numbers: AHashMap<RuleKey, usize> =
            rules.iter().enumerate().map(|(number, rule)| (rule.key, number)).collect();
        let words = rules.len().div_ceil(64).max(1);
        let classes = &scene.atlas.classes;
        let mut this = Self {
            scene,
            direction,
            tiers,
            words,
            near: vec![0; words * classes.len()],
            far: vec![0; words * classes.len()],
            port_lists: Vec::with_capacity(classes.len()),
            lists: Vec::new(),
            rules,
        };
        let mut lists: AHashMap<&[NamedPort], usize> = AHashMap::new();
        for (at, class) in classes.iter().enumerate() {
            let id = class.ids[0];
            for key in view.rules_applying(direction, id) {
                if view.has_end(End::Near, direction, key, id) {
                    put(&mut this.near[at * words..][..words], numbers[&key]);
                }
            }
            for (number, rule) in this.rules.iter().enumerate() {
                if view.has_end(End::Far, direction, rule.key, id) {
                    put(&mut this.far[at * words..][..words], number);
                }
            }
            let ports = named_ports(view.class(id));
            let list = *lists.entry(ports).or_insert_with(|| {
                this.lists.push(ports);
                this.lists.len() - 1
            });
            this.port_lists.push(list);
        }
        this
    }

    fn near(&self, class: usize) -> &[u64] {
        &self.near[class * self.words..][..self.words]
    }

    fn far(&self, class: usize) -> &[u64] {
        &self.far[class * self.words..][..self.words]
    }

    /// Regions that some rules make, whatever the named ports of the ends.
    fn ground(&self, rules: impl Iterator<Item = usize>) -> Ground {
        let ports: Vec<NamedPort> = self.lists.iter().flat_map(|list| list.to_vec()).collect();
        let rules = rules.map(|number| self.rules[number].rule);
        let regions = space::regions(rules, [&ports, &ports]);
        let words = regions.len().div_ceil(64);
        Ground { regions, words, known: AHashMap::new() }
    }
}

/// Regions of headers, and what rules mean in them.
#[derive(Clone)]
struct Ground {
    regions: Vec<Region>,
    words: usize,
    /// By rule, IP version, and lists of named ports where they matter.
    known: AHashMap<(usize, IpVersion, [usize; 2]), Box<[u64]>>,
}

impl Ground {
    /// The regions that a rule means.
    fn condition(
        &mut self,
        table: &Table<'_>,
        number: usize,
        version: IpVersion,
        lists: [usize; 2],
    ) -> &[u64] {
        let rule = &table.rules[number];
        let lists = [0, 1].map(|end| if rule.names[end] { lists[end] + 1 } else { 0 });
        self.known.entry((number, version, lists)).or_insert_with(|| {
            let ports = lists.map(|list| match list.checked_sub(1) {
                Some(list) => Ports(table.lists[list]),
                None => Ports(&[]),
            });
            let mut bits = vec![0; self.words].into_boxed_slice();
            for (at, region) in self.regions.iter().enumerate() {
                let header = region.example(version);
                if rule.rule.traffic.iter().any(|t| t.matches(&header, &ports[0], &ports[1])) {
                    put(&mut bits, at);
                }
            }
            bits
        })
    }
}

/// Walks from one class to the next, and remembers what it saw.
struct Walker<'t, 's> {
    table: &'t Table<'s>,
    /// Whether all rules share their regions.
    shared: bool,
    /// The regions of the last class, and the rules that they are of.
    ground: Option<(Vec<u64>, Ground)>,
    fates: Vec<Fate>,
    /// Rules that have had no say yet.
    pending: Vec<u64>,
}

/// The two ends that a walk is between.
#[derive(Clone, Copy)]
struct Pair {
    version: IpVersion,
    lists: [usize; 2],
}

impl<'t, 's> Walker<'t, 's> {
    fn new(table: &'t Table<'s>, shared: Option<Ground>) -> Self {
        let mut pending = vec![0; table.words];
        (0..table.rules.len()).for_each(|number| put(&mut pending, number));
        let fates = vec![Fate::default(); table.rules.len()];
        let ground = shared.map(|ground| (Vec::new(), ground));
        Self { table, shared: ground.is_some(), ground, fates, pending }
    }

    /// One class against all of its peers.
    fn subject(&mut self, subject: usize) {
        let table = self.table;
        let near = table.near(subject);
        let mut words: Vec<usize> = Vec::new();
        let find = |pending: &[u64], words: &mut Vec<usize>| {
            words.clear();
            words.extend((0..table.words).filter(|&word| near[word] & pending[word] != 0));
        };
        find(&self.pending, &mut words);
        if words.is_empty() {
            return;
        }
        let (of, mut ground) = match self.ground.take() {
            Some((of, ground)) if self.shared || of == near => (of, ground),
            _ => (near.to_vec(), table.ground(ones(near, 0..table.rules.len()))),
        };
        let classes = &table.scene.atlas.classes;
        let is_v4 = classes[subject].is_v4();
        let version = if is_v4 { IpVersion::V4 } else { IpVersion::V6 };
        let mut joined = vec![0; table.words];
        for (peer, class) in classes.iter().enumerate() {
            let far = table.far(peer);
            let asked = |word: &usize| near[*word] & far[*word] & self.pending[*word] != 0;
            if class.is_v4() != is_v4 || !words.iter().any(asked) {
                continue;
            }
            (0..table.words).for_each(|word| joined[word] = near[word] & far[word]);
            let lists = match table.direction {
                Direction::Ingress => [table.port_lists[peer], table.port_lists[subject]],
                Direction::Egress => [table.port_lists[subject], table.port_lists[peer]],
            };
            if self.walk(&classes[subject], &joined, Pair { version, lists }, &mut ground) {
                find(&self.pending, &mut words);
            }
        }
        self.ground = Some((of, ground));
    }

    /// The rules between two classes in order. True if some had its first say.
    fn walk(
        &mut self,
        subject: &AddressClass,
        joined: &[u64],
        pair: Pair,
        ground: &mut Ground,
    ) -> bool {
        let table = self.table;
        let mut undecided = vec![u64::MAX; ground.words];
        let mut news = false;
        let last = (0..table.words).rev().find_map(|word| {
            let bits = joined[word] & self.pending[word];
            (bits != 0).then(|| word * 64 + 63 - bits.leading_zeros() as usize)
        });
        let Some(last) = last else { return false };
        for (tier, denies, _) in tiers(table, subject) {
            let numbers = table.tiers[tier]..table.tiers[tier + 1];
            if numbers.start > last {
                break;
            }
            let mut here = undecided.clone();
            for number in ones(joined, numbers) {
                let means = ground.condition(table, number, pair.version, pair.lists);
                let reached = means.iter().zip(&here).any(|(a, b)| a & b != 0);
                if has(&self.pending, number) {
                    let matches = means.iter().any(|&word| word != 0);
                    let fate = &mut self.fates[number];
                    fate.has_pair = true;
                    fate.matches |= matches;
                    if reached {
                        fate.effective = true;
                        self.pending[number / 64] &= !(1 << (number % 64));
                        news = true;
                    } else if matches && fate.shadowed_by.is_none() {
                        let by = shadow(table, subject, joined, pair, ground, number);
                        self.fates[number].shadowed_by = by;
                        continue;
                    }
                }
                if !reached {
                    continue;
                }
                let passes = table.rules[number].rule.action == Action::Pass;
                for (word, means) in means.iter().enumerate() {
                    here[word] &= !means;
                    if !passes {
                        undecided[word] &= !means;
                    }
                }
            }
            if denies {
                undecided.iter_mut().zip(&here).for_each(|(word, here)| *word &= !here);
            }
        }
        news
    }
}

/// The tiers that apply to a class, whether they deny at their end, and the first policy in each.
fn tiers<'t>(
    table: &'t Table<'_>,
    subject: &AddressClass,
) -> impl Iterator<Item = (usize, bool, usize)> + 't {
    let applying = table.scene.view.applying(table.direction, subject.ids[0]);
    applying.chunk_by(|a, b| a.0 == b.0).map(|same| {
        let (tier, policy) = same[0];
        let end = table.scene.policies.tiers[tier].default_action;
        (tier, end == TierDefault::Deny, policy)
    })
}

/// What keeps a rule from having a say between two ends: one thing that takes all of it, if there is
/// one, else what takes the first region of it.
fn shadow(
    table: &Table<'_>,
    subject: &AddressClass,
    joined: &[u64],
    pair: Pair,
    ground: &mut Ground,
    number: usize,
) -> Option<RuleKey> {
    let means = ground.condition(table, number, pair.version, pair.lists).to_vec();
    let key = table.rules[number].key;
    let before = table.tiers[key.tier]..number;
    let covers = |other: &usize| {
        let others = ground.condition(table, *other, pair.version, pair.lists);
        means.iter().zip(others).all(|(means, others)| means & !others == 0)
    };
    if let Some(other) = ones(joined, before).find(covers) {
        return Some(table.rules[other].key);
    }
    let region = ones(&means, 0..ground.regions.len()).next()?;
    for (tier, denies, policy) in tiers(table, subject) {
        let mut taken = None;
        for other in ones(joined, table.tiers[tier]..table.tiers[tier + 1].min(number)) {
            if has(ground.condition(table, other, pair.version, pair.lists), region) {
                taken = Some(other);
                break;
            }
        }
        match taken {
            Some(other) if tier == key.tier || table.rules[other].rule.action != Action::Pass => {
                return Some(table.rules[other].key);
            }
            None if denies && tier < key.tier => {
                return Some(RuleKey { tier, policy, rule: RuleKey::END });
            }
            _ => {}
        }
    }
    None
}

fn put(bits: &mut [u64], at: usize) {
    bits[at / 64] |= 1 << (at % 64);
}

fn has(bits: &[u64], at: usize) -> bool {
    bits[at / 64] >> (at % 64) & 1 == 1
}

/// Places within a range at which bits are set.
fn ones(bits: &[u64], range: std::ops::Range<usize>) -> impl Iterator<Item = usize> {
    let words = range.start / 64..range.end.div_ceil(64);
    words.flat_map(move |word| {
        let mut left = bits[word];
        if word == range.start / 64 {
            left &= u64::MAX << (range.start % 64);
        }
        std::iter::from_fn(move || {
            let at = word * 64 + left.trailing_zeros() as usize;
            let found = left != 0;
            left &= left.wrapping_sub(1);
            found.then_some(at)
        })
        .take_while({
            let end = range.end;
            move |at| *at < end
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::directions;
    use super::*;
    use crate::atlas::Atlas;
    use crate::group::Census;
    use crate::random;
    use crate::view::{Sources, View};
    use proptest::prelude::*;

    /// The slow twin: every rule, every pair of classes, every region of the rules between them.
    fn slowly(scene: &Scene<'_>, direction: Direction, key: RuleKey) -> Fate {
        let mut fate = Fate::default();
        for (subject, peer) in scene
            .atlas
            .classes
            .iter()
            .flat_map(|s| scene.atlas.classes.iter().map(move |p| (s, p)))
            .filter(|(s, p)| s.is_v4() == p.is_v4())
        {
            let (source, destination) = match direction {
                Direction::Ingress => (peer.ids[0], subject.ids[0]),
                Direction::Egress => (subject.ids[0], peer.ids[0]),
            };
            let Some(walk) = scene.view.walk(direction, source, destination) else { continue };
            let Some(until) = walk.until(key) else { continue };
            fate.has_pair = true;
            let names = [source, destination].map(|id| named_ports(scene.view.class(id)));
            let version = if subject.is_v4() { IpVersion::V4 } else { IpVersion::V6 };
            for region in space::regions(walk.rules(), names) {
                if let Some(taken) = until.last_rule(&region.example(version), names) {
                    fate.matches = true;
                    fate.effective |= taken.is_none();
                }
            }
        }
        fate
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 60 } else { 2000 }))]

        #[test]
        fn walking_all_headers_at_once_is_walking_one_by_one(
            cluster in random::any_cluster(),
            policies in random::any_policies(),
        ) {
            let sources = Sources::of(&[&policies]);
            let regions = sources.regions();
            let views =
                [View::new(&cluster, &policies, &sources, 0, regions.clone()).unwrap()];
            let atlas = Atlas::new(&views, &regions);
            let census = Census::of(&atlas, &views);
            let policies = &policies;
            let scene = Scene { policies, view: &views[0], views: &views, atlas, census };
            for (direction, _) in directions() {
                for (key, fate) in fates(&scene, direction) {
                    let slow = slowly(&scene, direction, key);
                    prop_assert_eq!(fate.effective, slow.effective, "{:?} {:?}", direction, key);
                    if !fate.effective {
                        prop_assert_eq!(Fate { shadowed_by: None, ..fate }, slow);
                        prop_assert_eq!(fate.shadowed_by.is_some(), fate.matches);
                    }
                }
            }
        }
    }
}
