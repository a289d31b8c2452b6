//! A cluster under its policies, seen as classes of addresses: what explains whole regions of flows
//! at once instead of one flow.
//!
//! It starts from the model, not from the compiled program, so that what it says about a program is
//! a second opinion. Cost: expressions × classes once, then rules a pair of classes.

use std::net::IpAddr;

use ahash::{AHashMap, AHashSet};
use ipnet::IpNet;
use portcullis_identity_table::ClusterState;
use portcullis_identity_table::endpoint::NamedPort;
use portcullis_identity_table::identity::{Class, ClassId, Identity, Owner};
use portcullis_identity_table::region::{Regions, SourceId};
use portcullis_identity_table::registry::{self, Registry};
use std::sync::Arc;

use crate::flow::{Header, Verdict};
use crate::judge::Decider;
use crate::model::{Action, Direction, Enforcement, Match, Policy, PolicySet, Rule, TierDefault};
use crate::space::Ports;

/// The numbers of all prefixes and sets that some policies name; shared by the views that are
/// compared, so that they cut addresses alike.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    prefixes: AHashMap<IpNet, SourceId>,
    /// By view, then by index of the set.
    sets: Vec<Vec<SourceId>>,
    /// Everything, in pairs for [`Regions::build`].
    pairs: Vec<(IpNet, SourceId)>,
    next: u32,
}

impl Sources {
    /// The sources of these policy sets, of which the n-th is viewed as number n. Sets of equal
    /// content are one.
    pub(crate) fn of(policies: &[&PolicySet]) -> Self {
        let mut this = Self::default();
        let mut known: AHashMap<&[IpNet], SourceId> = AHashMap::default();
        for set in policies {
            let mut numbers = Vec::with_capacity(set.sets.len());
            for cidrs in &set.sets {
                let id = *known.entry(&cidrs.prefixes).or_insert_with(|| {
                    let id = SourceId(this.next);
                    this.next += 1;
                    this.pairs.extend(cidrs.prefixes.iter().map(|prefix| (prefix.trunc(), id)));
                    id
                });
                numbers.push(id);
            }
            this.sets.push(numbers);
        }
        for set in policies {
            for policy in set.tiers.iter().flat_map(|tier| &tier.policies) {
                policy.for_each_match(&mut |expression| {
                    if let Match::Cidr(prefix) = expression {
                        this.prefix(prefix.trunc());
                    }
                });
            }
        }
        this
    }

    fn prefix(&mut self, prefix: IpNet) {
        let next = SourceId(self.next);
        if *self.prefixes.entry(prefix).or_insert(next) == next {
            self.next += 1;
            self.pairs.push((prefix, next));
        }
    }

    /// Numbers a set as it is numbered for all views.
    pub(crate) fn canonical(&self, view: usize, expression: &mut Match) {
        if let Match::InSet(index) = expression
            && let Some(id) = self.sets.get(view).and_then(|sets| sets.get(*index as usize))
        {
            *index = id.0;
        }
    }

    pub(crate) fn regions(&self) -> Regions {
        Regions::build(self.pairs.iter().copied())
    }
}

/// See the [module](self).
pub(crate) struct View<'a> {
    pub(crate) policies: &'a PolicySet,
    pub(crate) registry: Registry,
    number: usize,
    sources: &'a Sources,
    /// For each expression of a rule, and each class, whether it holds.
    holds: Vec<Vec<bool>>,
    /// For each direction, tier and policy: its rules.
    rules: [Vec<Vec<Vec<Prepared<'a>>>>; 2],
    /// For each class, the policies that apply, by tier and index.
    applying: [Vec<Vec<(usize, usize)>>; 2],
    /// Enforced policies that select somebody, by tier and index.
    selecting: AHashSet<(usize, usize)>,
}

/// Classes, all of them and by namespace, so that most expressions need not look at all.
struct Filed {
    all: Vec<(usize, Arc<Class>)>,
    by_namespace: AHashMap<Box<str>, Vec<(usize, Arc<Class>)>>,
}

impl Filed {
    fn new(registry: &Registry) -> Self {
        let all: Vec<_> =
            registry.classes().map(|(id, class)| (id.0 as usize, class.clone())).collect();
        let mut by_namespace: AHashMap<Box<str>, Vec<_>> = AHashMap::default();
        for entry in &all {
            if let Owner::Workload(workload) = &entry.1.owner {
                let name = workload.namespace.name.clone();
                by_namespace.entry(name).or_default().push(entry.clone());
            }
        }
        Self { all, by_namespace }
    }

    /// Classes among which are all for which the expression holds.
    fn candidates(&self, expression: &Match) -> &[(usize, Arc<Class>)] {
        let namespace = |part: &Match| match part {
            Match::Namespace(name) => {
                Some(self.by_namespace.get(name).map_or(&[][..], Vec::as_slice))
            }
            _ => None,
        };
        let found = match expression {
            Match::All(parts) => parts.iter().find_map(namespace),
            other => namespace(other),
        };
        found.unwrap_or(&self.all)
    }
}

/// A rule and its expressions, by their index in [`View::holds`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prepared<'a> {
    source: usize,
    destination: usize,
    pub(crate) rule: &'a Rule,
}

/// An end of a flow, as one direction sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The endpoint that policies apply to.
    Near,
    /// Its peer.
    Far,
}

impl<'a> View<'a> {
    pub(crate) fn new(
        cluster: &ClusterState,
        policies: &'a PolicySet,
        sources: &'a Sources,
        number: usize,
        regions: Regions,
    ) -> Result<Self, registry::Error> {
        let mut registry = Registry::new();
        registry.replace_cluster(cluster.clone())?;
        registry.set_regions(regions);
        registry.commit();
        let mut this = Self {
            policies,
            registry,
            number,
            sources,
            holds: Vec::new(),
            rules: [Vec::new(), Vec::new()],
            applying: [Vec::new(), Vec::new()],
            selecting: AHashSet::default(),
        };
        this.evaluate();
        Ok(this)
    }

    fn evaluate(&mut self) {
        let count = self.registry.classes().map(|(id, _)| id.0 as usize + 1).max().unwrap_or(0);
        let filed = Filed::new(&self.registry);
        self.applying = [vec![Vec::new(); count], vec![Vec::new(); count]];
        let policies = self.policies;
        let mut expressions: AHashMap<&'a Match, usize> = AHashMap::default();
        let mut index = |this: &mut Self, expression: &'a Match| {
            *expressions.entry(expression).or_insert_with(|| {
                let mut members = vec![false; count];
                for (id, class) in filed.candidates(expression) {
                    members[*id] = this.holds(expression, class);
                }
                this.holds.push(members);
                this.holds.len() - 1
            })
        };
        for (tier_index, tier) in policies.tiers.iter().enumerate() {
            for direction in [Direction::Ingress, Direction::Egress] {
                let mut prepared = Vec::with_capacity(tier.policies.len());
                for policy in &tier.policies {
                    let rules = policy.rules(direction).unwrap_or_default().iter();
                    // Staged policies decide nothing.
                    let rules = rules.filter(|_| policy.enforcement == Enforcement::Enforced);
                    let rules = rules.map(|rule| Prepared {
                        source: index(self, &rule.source),
                        destination: index(self, &rule.destination),
                        rule,
                    });
                    prepared.push(rules.collect());
                }
                self.rules[direction as usize].push(prepared);
            }
            for (policy_index, policy) in tier.policies.iter().enumerate() {
                if policy.enforcement == Enforcement::Staged {
                    continue;
                }
                for (id, class) in filed.candidates(&policy.subject) {
                    if !is_workload(class) || !self.holds(&policy.subject, class) {
                        continue;
                    }
                    self.selecting.insert((tier_index, policy_index));
                    for direction in [Direction::Ingress, Direction::Egress] {
                        if policy.rules(direction).is_some() {
                            self.applying[direction as usize][*id].push((tier_index, policy_index));
                        }
                    }
                }
            }
        }
    }

    /// Whether an expression holds for the addresses of a class.
    pub(crate) fn holds(&self, expression: &Match, class: &Class) -> bool {
        let workload = match &class.owner {
            Owner::Workload(workload) => Some(workload),
            _ => None,
        };
        let covered =
            |id: Option<&SourceId>| id.is_some_and(|id| class.cover.binary_search(id).is_ok());
        match expression {
            Match::Any => true,
            Match::Nothing => false,
            Match::Pod => workload.is_some(),
            Match::PodLabels(selector) => workload.is_some_and(|w| selector.matches(&w.labels)),
            Match::Namespace(name) => workload.is_some_and(|w| w.namespace.name == *name),
            Match::NamespaceLabels(selector) => {
                workload.is_some_and(|w| selector.matches(&w.namespace.labels))
            }
            Match::ServiceAccount(name) => {
                workload.is_some_and(|w| w.service_account.name == *name)
            }
            Match::ServiceAccountLabels(selector) => {
                workload.is_some_and(|w| selector.matches(&w.service_account.labels))
            }
            Match::NodeLabels(selector) => match &class.owner {
                Owner::Node { labels, .. } => selector.matches(labels),
                _ => false,
            },
            Match::Cidr(prefix) => covered(self.sources.prefixes.get(&prefix.trunc())),
            Match::InSet(index) => {
                let sets = self.sources.sets.get(self.number);
                covered(sets.and_then(|sets| sets.get(*index as usize)))
            }
            Match::NamespaceHas(name, selector) => {
                selector.matches(&self.registry.namespace(name).labels)
            }
            Match::Not(part) => !self.holds(part, class),
            Match::All(parts) => parts.iter().all(|part| self.holds(part, class)),
            Match::OneOf(parts) => parts.iter().any(|part| self.holds(part, class)),
        }
    }

    pub(crate) fn identity(&self, address: IpAddr) -> Option<&Arc<Identity>> {
        self.registry.identity(self.registry.lookup(address))
    }

    /// The class of an address; what nothing speaks of is the world.
    pub(crate) fn class_id(&self, address: IpAddr) -> ClassId {
        self.identity(address).map_or(ClassId::WORLD, |identity| identity.class_id)
    }

    pub(crate) fn class(&self, id: ClassId) -> Option<&Arc<Class>> {
        self.registry.class(id)
    }

    /// The policies that apply to a class, by tier and index.
    pub(crate) fn applying(&self, direction: Direction, class: ClassId) -> &[(usize, usize)] {
        self.applying[direction as usize].get(class.0 as usize).map_or(&[], Vec::as_slice)
    }

    /// Whether an enforced policy, by tier and index, selects somebody.
    pub(crate) fn selects(&self, at: (usize, usize)) -> bool {
        self.selecting.contains(&at)
    }

    pub(crate) fn policy(&self, (tier, policy): (usize, usize)) -> Option<&'a Policy> {
        self.policies.tiers.get(tier)?.policies.get(policy)
    }

    /// The rules of a policy, `Log` left out, with their places.
    pub(crate) fn rules_of(
        &self,
        direction: Direction,
        (tier, policy): (usize, usize),
    ) -> impl Iterator<Item = (RuleKey, Prepared<'a>)> {
        let rules = self.rules[direction as usize].get(tier).and_then(|tier| tier.get(policy));
        rules
            .into_iter()
            .flatten()
            .enumerate()
            .filter(|(_, prepared)| prepared.rule.action != Action::Log)
            .map(move |(rule, prepared)| (RuleKey { tier, policy, rule }, *prepared))
    }

    /// The rules that apply to a class, `Log` left out, with both ends left to be asked.
    pub(crate) fn rules_applying(&self, direction: Direction, subject: ClassId) -> Vec<RuleKey> {
        let applying = self.applying(direction, subject).iter();
        applying.flat_map(|at| self.rules_of(direction, *at).map(|(key, _)| key)).collect()
    }

    /// Whether one end of a rule holds for a class.
    pub(crate) fn has_end(
        &self,
        end: End,
        direction: Direction,
        key: RuleKey,
        class: ClassId,
    ) -> bool {
        let policies = self.rules[direction as usize].get(key.tier);
        let rules = policies.and_then(|policies| policies.get(key.policy));
        rules.and_then(|rules| rules.get(key.rule)).is_some_and(|rule| {
            let expression = match (direction, end) {
                (Direction::Ingress, End::Far) | (Direction::Egress, End::Near) => rule.source,
                (Direction::Ingress, End::Near) | (Direction::Egress, End::Far) => rule.destination,
            };
            self.has(expression, class)
        })
    }

    fn has(&self, expression: usize, class: ClassId) -> bool {
        let members = self.holds.get(expression);
        members.and_then(|members| members.get(class.0 as usize)).copied().unwrap_or(false)
    }

    /// What one direction says between two classes, ready to be asked about headers; `None` if no
    /// workload is at its end.
    pub(crate) fn walk(
        &self,
        direction: Direction,
        source: ClassId,
        destination: ClassId,
    ) -> Option<Walk<'a>> {
        let subject = match direction {
            Direction::Ingress => destination,
            Direction::Egress => source,
        };
        if !self.class(subject).is_some_and(|class| is_workload(class)) {
            return None;
        }
        let mut steps = Vec::new();
        let mut open: Option<(usize, usize)> = None;
        let close = |open: Option<(usize, usize)>, steps: &mut Vec<Step<'a>>| {
            if let Some((tier, policy)) = open {
                steps.push(Step::End(tier, policy, self.policies.tiers[tier].default_action));
            }
        };
        for &at in self.applying(direction, subject) {
            if open.is_none_or(|(current, _)| current != at.0) {
                close(open, &mut steps);
                open = Some(at);
            }
            for (key, rule) in self.rules_of(direction, at) {
                if self.has(rule.source, source) && self.has(rule.destination, destination) {
                    steps.push(Step::Rule(key.tier, key.policy, key.rule, rule.rule));
                }
            }
        }
        close(open, &mut steps);
        Some(Walk { steps })
    }
}

/// One direction between two classes: what remains to be asked about a header.
#[derive(Debug, Default)]
pub(crate) struct Walk<'a> {
    steps: Vec<Step<'a>>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Rule(usize, usize, usize, &'a Rule),
    /// The end of a tier, and the first policy in it that applies.
    End(usize, usize, TierDefault),
}

impl<'a> Walk<'a> {
    pub(crate) fn rules(&self) -> impl Iterator<Item = &'a Rule> {
        self.steps.iter().filter_map(|step| match step {
            Step::Rule(.., rule) => Some(*rule),
            Step::End(..) => None,
        })
    }

    /// Rules by the number that `number` gives their policy and by their place in it, and the ends of
    /// tiers, whichever policy comes first there.
    pub(crate) fn steps_by(
        &self,
        number: impl Fn((usize, usize)) -> usize,
    ) -> impl Iterator<Item = (usize, usize, Option<TierDefault>)> {
        self.steps.iter().map(move |step| match *step {
            Step::Rule(tier, policy, rule, _) => (number((tier, policy)), rule, None),
            Step::End(_, _, end) => (0, 0, Some(end)),
        })
    }

    pub(crate) fn decide(&self, header: &Header, names: [&[NamedPort]; 2]) -> (Verdict, Decider) {
        let [source, destination] = names.map(Ports);
        let mut passed = None;
        for step in &self.steps {
            match *step {
                Step::Rule(tier, policy, rule, written) => {
                    let matches =
                        || written.traffic.iter().any(|t| t.matches(header, &source, &destination));
                    if passed == Some(tier) || !matches() {
                        continue;
                    }
                    let verdict = match written.action {
                        Action::Allow => Verdict::Allow,
                        Action::Deny => Verdict::Deny,
                        Action::Pass | Action::Log => {
                            passed = Some(tier);
                            continue;
                        }
                    };
                    return (verdict, Decider::Rule { tier, policy, rule });
                }
                Step::End(tier, policy, TierDefault::Deny) if passed != Some(tier) => {
                    return (Verdict::Deny, Decider::TierDefault { tier, policy });
                }
                Step::End(..) => {}
            }
        }
        (Verdict::Allow, Decider::NoTier)
    }

    /// What comes before a rule, and the rule itself; `None` if it is not part of the walk.
    #[cfg(test)]
    pub(crate) fn until(&self, last: RuleKey) -> Option<Self> {
        let is_last = |step: &Step<'_>| match *step {
            Step::Rule(tier, policy, rule, _) => RuleKey { tier, policy, rule } == last,
            Step::End(..) => false,
        };
        let end = self.steps.iter().position(is_last)?;
        Some(Self { steps: self.steps[..=end].to_vec() })
    }

    /// Whether the last rule of the walk matches the header, and if so what keeps it from having a
    /// say: a rule, or the end of a tier ([`RuleKey::END`]); `Some(None)`: nothing does.
    #[cfg(test)]
    pub(crate) fn last_rule(
        &self,
        header: &Header,
        names: [&[NamedPort]; 2],
    ) -> Option<Option<RuleKey>> {
        let [source, destination] = names.map(Ports);
        let matches =
            |rule: &Rule| rule.traffic.iter().any(|t| t.matches(header, &source, &destination));
        let (last, before) = self.steps.split_last()?;
        let Step::Rule(last_tier, _, _, last) = last else { return None };
        if !matches(last) {
            return None;
        }
        let mut passed: Option<RuleKey> = None;
        for step in before {
            match *step {
                Step::Rule(tier, policy, rule, written) => {
                    if passed.is_some_and(|by| by.tier == tier) || !matches(written) {
                        continue;
                    }
                    let key = RuleKey { tier, policy, rule };
                    match written.action {
                        Action::Pass | Action::Log => passed = Some(key),
                        Action::Allow | Action::Deny => return Some(Some(key)),
                    }
                }
                Step::End(tier, policy, TierDefault::Deny)
                    if passed.is_none_or(|by| by.tier != tier) =>
                {
                    return Some(Some(RuleKey { tier, policy, rule: RuleKey::END }));
                }
                Step::End(..) => {}
            }
        }
        Some(passed.filter(|by| by.tier == *last_tier))
    }
}

/// A rule by its place in a policy set; the direction goes without saying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RuleKey {
    pub(crate) tier: usize,
    pub(crate) policy: usize,
    pub(crate) rule: usize,
}

impl RuleKey {
    /// In place of a rule: the end of the tier, in which the policy is the first that applies.
    pub(crate) const END: usize = usize::MAX;
}

pub(crate) fn is_workload(class: &Class) -> bool {
    matches!(class.owner, Owner::Workload(_))
}

/// The named ports of a class; none unless it is a workload.
pub(crate) fn named_ports(class: Option<&Arc<Class>>) -> &[NamedPort] {
    match class.map(|class| &class.owner) {
        Some(Owner::Workload(workload)) => &workload.named_ports,
        _ => &[],
    }
}
