//! Rows: what applies to a class of endpoints in one direction, and the trees that follow for each
//! class of peers.

use std::sync::Arc;

use ahash::AHashMap;
use portcullis_identity_table::endpoint::NamedPort;
use portcullis_identity_table::identity::ClassId;

use super::flatten::{self, Sequence, SequenceRule, SequenceTier};
use super::grid::RowId;
use super::resolve::{Resolved, ResolvedPolicy, RuleId};
use super::trees::{Full, Ref, TreeBuilder};
use super::universe::Universe;
use super::{CompileError, Config};
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
/// Ends the policies of a key, or of a sequence.
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
        config: &Config,
        resolved: &Resolved,
        universe: &Universe,
        memo: &mut Memo,
        builder: &mut TreeBuilder,
    ) -> Result<(Ref, Vec<(u32, Ref)>), CompileError> {
        // Peers that no rule lists share a group; each rule that lists a peer, be it as a member or
        // as one left out, moves it to the group of those that it moved likewise before.
        let mut groups = vec![Group { parent: 0, rule: usize::MAX }];
        let mut steps: AHashMap<(u32, usize), u32> = AHashMap::new();
        let mut group_of: AHashMap<u32, u32> = AHashMap::new();
        for (r, rule) in self.rules.iter().enumerate() {
            for &class in resolved.members(self.far(rule)).listed() {
                let group = group_of.entry(class).or_insert(0);
                *group = *steps.entry((*group, r)).or_insert_with(|| {
                    groups.push(Group { parent: *group, rule: r });
                    groups.len() as u32 - 1
                });
            }
        }
        for name in &self.far_names {
            for &class in universe.with_port_name(name) {
                group_of.entry(class).or_insert(0);
            }
        }
        let default_matches: Vec<bool> =
            self.rules.iter().map(|r| resolved.members(self.far(r)).is_complement()).collect();
        let default = self.tree_of(&default_matches, &[], config, memo, builder)?;
        let mut by_group: Vec<Option<Ref>> = vec![None; groups.len()];
        let mut others = Vec::with_capacity(group_of.len());
        for (class, group) in group_of {
            let ports = self.far_ports(ClassId(class), universe);
            let known = by_group[group as usize].filter(|_| ports.is_empty());
            let tree = match known {
                Some(tree) => tree,
                None => {
                    let mut matches = default_matches.clone();
                    let mut at = group;
                    while at != 0 {
                        let Group { parent, rule } = groups[at as usize];
                        matches[rule] = !matches[rule];
                        at = parent;
                    }
                    let tree = self.tree_of(&matches, &ports, config, memo, builder)?;
                    if ports.is_empty() {
                        by_group[group as usize] = Some(tree);
                    }
                    tree
                }
            };
            if tree != default {
                others.push((class, tree));
            }
        }
        others.sort_unstable();
        Ok((default, others))
    }

    /// The tree of one class of peers.
    pub(crate) fn tree(
        &self,
        class: ClassId,
        config: &Config,
        resolved: &Resolved,
        universe: &Universe,
        memo: &mut Memo,
        builder: &mut TreeBuilder,
    ) -> Result<Ref, CompileError> {
        let holds = |rule: &RowRule| resolved.members(self.far(rule)).contains(class);
        let matches: Vec<bool> = self.rules.iter().map(holds).collect();
        let ports = self.far_ports(class, universe);
        self.tree_of(&matches, &ports, config, memo, builder)
    }

    /// The tree of the rules that match a peer with these ports.
    fn tree_of(
        &self,
        matches: &[bool],
        far_ports: &[NamedPort],
        config: &Config,
        memo: &mut Memo,
        builder: &mut TreeBuilder,
    ) -> Result<Ref, CompileError> {
        let sequence = self.sequence(matches, far_ports);
        let key = sequence_key(&sequence, self.direction);
        if let Some(&tree) = memo.trees.get(&key) {
            return Ok(tree);
        }
        self.check_cells(&sequence, config)?;
        let tree = flatten::tree(&sequence, builder).map_err(|Full| {
            // References cannot number more than this.
            let limit = config.max_program_bytes.min(1 << 30);
            CompileError::TooLarge { bytes: builder.trees.memory_usage(), limit }
        })?;
        memo.trees.insert(key, tree);
        Ok(tree)
    }

    /// The rules between the endpoint and a peer that these rules match.
    pub(crate) fn sequence<'a>(
        &'a self,
        matches: &[bool],
        far_ports: &'a [NamedPort],
    ) -> Sequence<'a> {
        let tiers = self.tiers.iter().map(|tier| {
            let rules = self.rules[tier.rules.clone()].iter().zip(&matches[tier.rules.clone()]);
            SequenceTier {
                default_action: tier.default_action,
                enforced_end: tier.enforced_end,
                staged_end: tier.staged_end,
                rules: rules.filter(|(_, matches)| **matches).map(|(r, _)| self.rule(r)).collect(),
            }
        });
        let near_ports = &self.near_ports[..];
        let (source_ports, destination_ports) = match self.direction {
            Direction::Ingress => (far_ports, near_ports),
            Direction::Egress => (near_ports, far_ports),
        };
        Sequence { tiers: tiers.collect(), source_ports, destination_ports }
    }

    fn rule<'a>(&self, rule: &'a RowRule) -> SequenceRule<'a> {
        let resolved = &rule.policy.rules(self.direction).expect("it has rules").rules[rule.index];
        SequenceRule {
            id: resolved.id,
            action: resolved.action,
            staged: rule.policy.is_staged(),
            traffic: &rule.policy.written(self.direction, rule.index).traffic,
        }
    }

    fn far(&self, rule: &RowRule) -> super::resolve::MatchId {
        rule.policy.rules(self.direction).expect("it has rules").rules[rule.index].far
    }

    /// The ports of a peer that rules look up by name.
    pub(crate) fn far_ports(&self, class: ClassId, universe: &Universe) -> Vec<NamedPort> {
        if self.far_names.is_empty() {
            return Vec::new();
        }
        let ports = universe.named_ports(class).iter();
        ports.filter(|port| self.far_names.binary_search(&port.name).is_ok()).cloned().collect()
    }

    fn check_cells(&self, sequence: &Sequence<'_>, config: &Config) -> Result<(), CompileError> {
        let traffic = || sequence.tiers.iter().flat_map(|t| &t.rules).flat_map(|r| r.traffic);
        let specs =
            |ports: &crate::model::PortMatch| (ports.any_of.len() + ports.none_of.len()) as u64;
        let destinations: u64 = traffic().map(|t| 2 * specs(&t.destination_ports)).sum();
        let sources: u64 = traffic().map(|t| 2 * specs(&t.source_ports)).sum();
        let cells =
            (destinations + 1).saturating_mul(sources + 1).saturating_mul(traffic().count() as u64);
        if cells <= config.max_cells {
            return Ok(());
        }
        let policy = self.rules.first().map(|r| r.policy.name().to_string()).unwrap_or_default();
        Err(CompileError::TooComplex { policy, cells, limit: config.max_cells })
    }
}

fn is_tier(word: u32) -> bool {
    word == TIER_DENY || word == TIER_PASS
}

/// What tells sequences of rules apart; rule numbers stand for all that rules say.
fn sequence_key(sequence: &Sequence<'_>, direction: Direction) -> Box<[u32]> {
    let mut key = vec![direction as u32];
    for tier in &sequence.tiers {
        key.push(tier_mark(tier.default_action));
        key.push(tier.enforced_end.map_or(0, |end| end.0));
        key.push(tier.staged_end.0);
        key.extend(tier.rules.iter().map(|rule| rule.id.0));
    }
    let named = |t: &crate::model::Traffic| {
        let mut specs = [&t.source_ports, &t.destination_ports]
            .into_iter()
            .flat_map(|p| p.any_of.iter().chain(&p.none_of));
        specs.any(|spec| matches!(spec, crate::model::PortSpec::Named(_)))
    };
    let rules = || sequence.tiers.iter().flat_map(|t| &t.rules);
    if rules().any(|rule| rule.traffic.iter().any(named)) {
        for ports in [sequence.source_ports, sequence.destination_ports] {
            key.push(PORTS);
            for port in ports {
                key.push(u32::from(port.protocol) << 16 | u32::from(port.port));
                key.push(port.name.len() as u32);
                key.extend(port.name.bytes().map(u32::from));
            }
        }
    }
    key.into()
}

/// Peers that the same rules listed.
#[derive(Clone, Copy)]
struct Group {
    parent: u32,
    rule: usize,
}

/// Trees by the sequence of rules that they decide.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    trees: AHashMap<Box<[u32]>, Ref>,
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
