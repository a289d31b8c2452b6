//! Rows: what applies to a class of endpoints in one direction, and the trees that follow for each
//! class of peers.

use std::sync::Arc;

use ahash::AHashMap;
use portcullis_identity_table::endpoint::NamedPort;
use portcullis_identity_table::identity::ClassId;

use super::fold::{FoldRule, Folder, States, Stop};
use super::grid::RowId;
use super::resolve::{Resolved, ResolvedPolicy, RuleId};
use super::trees::{Full, Ref, TreeBuilder};
use super::universe::{PortList, Universe};
use crate::model::{Direction, TierDefault};

/// Keys of rows: classes with equal keys share a row.
///
/// A key lists, tier by tier, the policies that apply, then for each rule that asks more of the
/// endpoint whether it gets it, then the endpoint's ports by the names that rules look up.
pub(crate) struct RowKeys {
    /// By class number.
    keys: Vec<Vec<u32>>,
}

/// Begins a tier in a key; policy numbers and ports are smaller.
const TIER_DENY: u32 = u32::MAX;
const TIER_PASS: u32 = u32::MAX - 1;
/// Ends the policies of a key.
const CONDITIONS: u32 = u32::MAX - 2;
const PORTS: u32 = u32::MAX - 3;

impl RowKeys {
    /// The keys of all classes. O(members of all subjects).
    pub(crate) fn of_all(direction: Direction, resolved: &Resolved, universe: &Universe) -> Self {
        let count = universe.count();
        let mut keys: Vec<Vec<u32>> = vec![Vec::new(); count as usize];
        let mut last_tier = vec![usize::MAX; count as usize];
        for (t, tier) in resolved.tiers.iter().enumerate() {
            for policy in &tier.policies {
                if policy.rules(direction).is_none() {
                    continue;
                }
                for class in resolved.members(policy.subject).members(count) {
                    let class = class as usize;
                    if last_tier[class] != t {
                        last_tier[class] = t;
                        keys[class].push(tier_mark(tier.default_action));
                    }
                    keys[class].push(policy.number);
                }
            }
        }
        let demanding: AHashMap<u32, &ResolvedPolicy> = resolved
            .tiers
            .iter()
            .flat_map(|tier| &tier.policies)
            .filter(|policy| is_demanding(policy, direction))
            .map(|policy| (policy.number, &**policy))
            .collect();
        for &class in universe.workloads() {
            let key = &mut keys[class as usize];
            let policies: Vec<_> =
                key.iter().filter_map(|number| demanding.get(number).copied()).collect();
            extend_key(key, direction, ClassId(class), &policies, resolved, universe);
        }
        Self { keys }
    }

    /// The key of one class. O(policies).
    pub(crate) fn of_one(
        direction: Direction,
        class: ClassId,
        resolved: &Resolved,
        universe: &Universe,
    ) -> Vec<u32> {
        let mut key = Vec::new();
        let mut demanding = Vec::new();
        for tier in &resolved.tiers {
            let mut first = true;
            for policy in &tier.policies {
                if policy.rules(direction).is_none()
                    || !resolved.members(policy.subject).contains(class)
                {
                    continue;
                }
                if std::mem::take(&mut first) {
                    key.push(tier_mark(tier.default_action));
                }
                key.push(policy.number);
                if is_demanding(policy, direction) {
                    demanding.push(&**policy);
                }
            }
        }
        extend_key(&mut key, direction, class, &demanding, resolved, universe);
        key
    }

    pub(crate) fn key(&self, class: ClassId) -> &[u32] {
        &self.keys[class.0 as usize]
    }
}

fn tier_mark(default_action: TierDefault) -> u32 {
    match default_action {
        TierDefault::Deny => TIER_DENY,
        TierDefault::Pass => TIER_PASS,
    }
}

/// Whether it matters to the row who exactly the endpoint is.
fn is_demanding(policy: &ResolvedPolicy, direction: Direction) -> bool {
    policy.rules(direction).is_some_and(|r| r.near_conditions || !r.near_names.is_empty())
}

fn extend_key(
    key: &mut Vec<u32>,
    direction: Direction,
    class: ClassId,
    demanding: &[&ResolvedPolicy],
    resolved: &Resolved,
    universe: &Universe,
) {
    for policy in demanding {
        let Some(rules) = policy.rules(direction) else { continue };
        if rules.near_conditions {
            key.push(CONDITIONS);
            let holds = |r: &super::resolve::ResolvedRule| resolved.members(r.near).contains(class);
            key.extend(rules.rules.iter().map(|rule| u32::from(holds(rule))));
        }
        push_ports(key, universe.named_ports(class), &rules.near_names);
    }
}

/// Appends the ports that these names mean.
fn push_ports(key: &mut Vec<u32>, ports: &[NamedPort], names: &[Box<str>]) {
    if names.is_empty() {
        return;
    }
    key.push(PORTS);
    for (n, name) in names.iter().enumerate() {
        for port in ports.iter().filter(|port| port.name == *name) {
            key.push(n as u32);
            key.push(u32::from(port.protocol) << 16 | u32::from(port.port));
        }
    }
}

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) direction: Direction,
    key: Box<[u32]>,
    tiers: Vec<RowTier>,
    /// Rules that the endpoint's side of them lets through, in order over all tiers.
    rules: Vec<RowRule>,
    near_ports: Arc<[NamedPort]>,
    /// The number of `near_ports`.
    near_list: u32,
    /// Names looked up at the peer, by some rule.
    far_names: Vec<Box<str>>,
}

#[derive(Debug)]
struct RowTier {
    default_action: TierDefault,
    enforced_end: Option<RuleId>,
    staged_end: RuleId,
    /// Its rules among those of the row.
    rules: core::ops::Range<usize>,
}

#[derive(Debug)]
struct RowRule {
    policy: Arc<ResolvedPolicy>,
    index: usize,
}

impl Row {
    /// What applies to `class`, whose key this is.
    pub(crate) fn new(
        direction: Direction,
        class: ClassId,
        key: &[u32],
        resolved: &Resolved,
        universe: &Universe,
    ) -> Self {
        let mut row = Self {
            direction,
            key: key.into(),
            tiers: Vec::new(),
            rules: Vec::new(),
            near_ports: universe.named_ports(class).into(),
            near_list: universe.port_list(class).number,
            far_names: Vec::new(),
        };
        let mut numbers = key.iter().skip_while(|&&word| !is_tier(word)).peekable();
        for tier in &resolved.tiers {
            // Policies stand in the key in the order of the tiers.
            let Some(&&mark) = numbers.peek() else { break };
            if !is_tier(mark) {
                break;
            }
            let begin = row.rules.len();
            let mut ends: Option<(Option<RuleId>, RuleId)> = None;
            let mut ahead = numbers.clone();
            ahead.next();
            for policy in &tier.policies {
                if ahead.peek() != Some(&&policy.number) {
                    continue;
                }
                let Some(rules) = policy.rules(direction) else { continue };
                ahead.next();
                let ends = ends.get_or_insert((None, rules.end));
                if !policy.is_staged() {
                    ends.0.get_or_insert(rules.end);
                }
                for (index, rule) in rules.rules.iter().enumerate() {
                    if resolved.members(rule.near).contains(class) {
                        row.rules.push(RowRule { policy: policy.clone(), index });
                    }
                }
                row.far_names.extend(rules.far_names.iter().cloned());
            }
            if let Some((enforced_end, staged_end)) = ends {
                numbers = ahead;
                row.tiers.push(RowTier {
                    default_action: tier.default_action,
                    enforced_end,
                    staged_end,
                    rules: begin..row.rules.len(),
                });
            }
        }
        row.far_names.sort_unstable();
        row.far_names.dedup();
        row
    }

    /// The tree of most peers, and those of the others by class, ascending.
    pub(crate) fn trees(
        &self,
        resolved: &Resolved,
        universe: &Universe,
        folder: &mut Folder,
        builder: &mut TreeBuilder,
    ) -> Result<(Ref, Vec<(u32, Ref)>), Stop> {
        // Peers that some rule lists, be it as members or as those left out, or whose ports some rule
        // asks for. The peer at the last place stands for all others.
        let far = |rule: &RowRule| resolved.members(self.far(rule));
        let listed = self.rules.iter().flat_map(|rule| far(rule).listed());
        let named = self.far_names.iter().flat_map(|name| universe.with_port_name(name));
        let places = folder.places(listed.chain(named).copied());
        let count = places.classes.len();
        // Ports of peers, where some rule asks for them by name.
        let mut ports =
            vec![PortList::EMPTY; if self.far_names.is_empty() { 0 } else { count + 1 }];
        for &class in self.far_names.iter().flat_map(|name| universe.with_port_name(name)) {
            ports[places.of(class)] = universe.port_list(ClassId(class));
        }
        let mut states = States::new(folder.begin(), count + 1);
        for tier in self.tiers.iter().rev() {
            let ends = [tier.enforced_end, Some(tier.staged_end)];
            states.step(0..=count, |s| Ok(folder.tier(s, tier.default_action, ends)))?;
            for row_rule in self.rules[tier.rules.clone()].iter().rev() {
                let (rule, far) = (self.rule(row_rule), far(row_rule));
                let listed = far.listed().iter().map(|&class| places.of(class));
                if rule.names[self.far_end()] {
                    let mut members: Vec<usize> = if far.is_complement() {
                        (0..=count).filter(|&p| places.holds(p, far)).collect()
                    } else {
                        listed.collect()
                    };
                    members.sort_unstable_by_key(|&place| ports[place].number);
                    for same in members.chunk_by(|&a, &b| ports[a].number == ports[b].number) {
                        let condition = folder.condition(&rule, self.ends(ports[same[0]]))?;
                        let same = same.iter().copied();
                        states.step(same, |s| folder.rule(s, &rule, condition))?;
                    }
                    continue;
                }
                let condition = folder.condition(&rule, self.ends(PortList::EMPTY))?;
                let step = |s| folder.rule(s, &rule, condition);
                if far.is_complement() {
                    let others: Vec<_> = listed.map(|place| (place, states.of(place))).collect();
                    states.step(0..=count, step)?;
                    others.into_iter().for_each(|(place, state)| states.put(place, state));
                } else {
                    states.step(listed, step)?;
                }
            }
        }
        let mut finished: Vec<Option<Ref>> = vec![None; states.count()];
        let mut tree = |place: usize| -> Result<Ref, Full> {
            let known = &mut finished[states.number(place)];
            if known.is_none() {
                *known = Some(folder.finish(states.of(place), builder)?);
            }
            Ok(known.expect("just finished"))
        };
        let default = tree(count)?;
        let mut others = Vec::new();
        for (place, &class) in places.classes.iter().enumerate() {
            let tree = tree(place)?;
            if tree != default {
                others.push((class, tree));
            }
        }
        folder.take_back(places);
        others.sort_unstable();
        Ok((default, others))
    }

    /// The tree of one class of peers.
    pub(crate) fn tree(
        &self,
        class: ClassId,
        resolved: &Resolved,
        universe: &Universe,
        folder: &mut Folder,
        builder: &mut TreeBuilder,
    ) -> Result<Ref, Stop> {
        let ports = universe.port_list(class);
        let mut state = folder.begin();
        for tier in self.tiers.iter().rev() {
            let ends = [tier.enforced_end, Some(tier.staged_end)];
            state = folder.tier(state, tier.default_action, ends);
            for row_rule in self.rules[tier.rules.clone()].iter().rev() {
                if resolved.members(self.far(row_rule)).contains(class) {
                    let rule = self.rule(row_rule);
                    let condition = folder.condition(&rule, self.ends(ports))?;
                    state = folder.rule(state, &rule, condition)?;
                }
            }
        }
        Ok(folder.finish(state, builder)?)
    }

    fn rule<'a>(&self, rule: &'a RowRule) -> FoldRule<'a> {
        let resolved = &rule.policy.rules(self.direction).expect("it has rules").rules[rule.index];
        let traffic = &rule.policy.written(self.direction, rule.index).traffic[..];
        FoldRule {
            id: resolved.id,
            action: resolved.action,
            staged: rule.policy.is_staged(),
            traffic,
            names: resolved.names,
        }
    }

    /// The place of the peer among source and destination.
    fn far_end(&self) -> usize {
        match self.direction {
            Direction::Ingress => 0,
            Direction::Egress => 1,
        }
    }

    /// The named ports at source and destination.
    fn ends<'a>(&'a self, far: PortList<'a>) -> [PortList<'a>; 2] {
        let near = PortList { number: self.near_list, ports: &self.near_ports };
        match self.direction {
            Direction::Ingress => [far, near],
            Direction::Egress => [near, far],
        }
    }

    fn far(&self, rule: &RowRule) -> super::matches::MatchId {
        rule.policy.rules(self.direction).expect("it has rules").rules[rule.index].far
    }
}

fn is_tier(word: u32) -> bool {
    word == TIER_DENY || word == TIER_PASS
}

/// All rows, by number and by key, and the rows of each class.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    rows: Vec<Option<StoredRow>>,
    free: Vec<RowId>,
    by_key: AHashMap<(Direction, Box<[u32]>), RowId>,
    of_class: [AHashMap<ClassId, RowId>; 2],
}

#[derive(Debug)]
struct StoredRow {
    row: Row,
    classes: u32,
}

impl Rows {
    pub(crate) fn find(&self, direction: Direction, key: &[u32]) -> Option<RowId> {
        self.by_key.get(&(direction, key.into())).copied()
    }

    /// The row of a class; none unless it is a workload.
    pub(crate) fn of(&self, direction: Direction, class: ClassId) -> Option<RowId> {
        self.of_class[direction as usize].get(&class).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (RowId, &Row)> {
        let numbered = self.rows.iter().enumerate();
        numbered.filter_map(|(i, row)| Some((RowId(i as u32), &row.as_ref()?.row)))
    }

    pub(crate) fn insert(&mut self, row: Row) -> RowId {
        let id = self.free.pop().unwrap_or_else(|| {
            // The first is `RowId::NONE`.
            let count = self.rows.len().max(1);
            self.rows.resize_with(count + 1, || None);
            RowId(u32::try_from(count).expect("fewer than 2^32 rows"))
        });
        self.by_key.insert((row.direction, row.key.clone()), id);
        self.rows[id.0 as usize] = Some(StoredRow { row, classes: 0 });
        id
    }

    /// Gives all classes of a direction their rows at once; rows left without a class are dropped.
    pub(crate) fn replace(&mut self, direction: Direction, used: Vec<(ClassId, RowId)>) {
        for &(_, row) in &used {
            self.count(row, 1);
        }
        let old =
            std::mem::replace(&mut self.of_class[direction as usize], used.into_iter().collect());
        for row in old.into_values() {
            self.count(row, -1);
        }
    }

    /// Gives one class its row.
    pub(crate) fn assign(&mut self, direction: Direction, class: ClassId, row: Option<RowId>) {
        let of_class = &mut self.of_class[direction as usize];
        let old = match row {
            Some(row) => of_class.insert(class, row),
            None => of_class.remove(&class),
        };
        if let Some(row) = row {
            self.count(row, 1);
        }
        if let Some(row) = old {
            self.count(row, -1);
        }
    }

    fn count(&mut self, id: RowId, change: i32) {
        let slot = &mut self.rows[id.0 as usize];
        let Some(stored) = slot else { return };
        stored.classes = stored.classes.wrapping_add_signed(change);
        if stored.classes == 0
            && change < 0
            && let Some(gone) = slot.take()
        {
            self.by_key.remove(&(gone.row.direction, gone.row.key));
            self.free.push(id);
        }
    }

    pub(crate) fn memory_usage(&self) -> usize {
        let row = |row: &StoredRow| {
            row.row.key.len() * 8 + row.row.rules.capacity() * size_of::<RowRule>() + 200
        };
        self.rows.iter().flatten().map(row).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::flatten::{self, Sequence, SequenceRule, SequenceTier};
    use super::*;
    use crate::engine::Engine;
    use crate::random;
    use proptest::prelude::*;

    impl Row {
        /// The rules between the endpoint and a class of peers, for the slow twin.
        fn sequence<'a>(
            &'a self,
            class: ClassId,
            far_ports: PortList<'a>,
            resolved: &Resolved,
        ) -> Sequence<'a> {
            let matches = |rule: &&RowRule| resolved.members(self.far(rule)).contains(class);
            let tiers = self.tiers.iter().map(|tier| SequenceTier {
                default_action: tier.default_action,
                enforced_end: tier.enforced_end,
                staged_end: tier.staged_end,
                rules: self.rules[tier.rules.clone()]
                    .iter()
                    .filter(matches)
                    .map(|rule| {
                        let FoldRule { id, action, staged, traffic, .. } = self.rule(rule);
                        SequenceRule { id, action, staged, traffic }
                    })
                    .collect(),
            });
            let [source_ports, destination_ports] = self.ends(far_ports).map(|list| list.ports);
            Sequence { tiers: tiers.collect(), source_ports, destination_ports }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 100 } else { 5000 }))]

        /// Trees are hash-consed, so equal trees are one reference.
        #[test]
        fn folding_and_flattening_make_the_same_trees(
            cluster in random::any_cluster(),
            policies in random::any_policies(),
        ) {
            let mut engine = Engine::default();
            let _ = engine.apply(cluster, policies).unwrap();
            let compiler = engine.compiler_mut();
            let universe = &compiler.universe;
            for (id, row) in compiler.rows.iter() {
                for class in (0..universe.count()).map(ClassId) {
                    if universe.class(class).is_none() {
                        continue;
                    }
                    let ports = universe.port_list(class);
                    let sequence = row.sequence(class, ports, &compiler.resolved);
                    let slow = flatten::tree(&sequence, &mut compiler.trees).unwrap();
                    prop_assert_eq!(compiler.grid.grid.tree(id, class.0), Some(slow));
                }
            }
        }
    }
}
