//! What changes between two policy sets, or two clusters, or both: exactly the flows whose verdict
//! is another, as regions rather than samples.
//!
//! Addresses are grouped into the classes that neither side tells apart; for each pair of classes
//! whose policies differ, headers are cut into regions on which neither side changes its mind. So an
//! empty difference is a proof that both sides decide every flow alike. Cost: pairs of classes that a
//! change can touch, times the rules between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ahash::{AHashMap, AHashSet};
use portcullis_identity_table::ClusterState;
use portcullis_identity_table::endpoint::NamedPort;
use portcullis_identity_table::identity::ClassId;
use portcullis_identity_table::registry;

use crate::atlas::{AddressClass, Atlas};
use crate::flow::{Flow, Header, Verdict, protocol};
use crate::group::{Census, Group};
use crate::judge::Decider;
use crate::model::{
    Direction, IpVersion, Match, Origin, Policy, PolicyName, PolicySet, TierDefault,
};
use crate::space::{self, Protocols, Region};
use crate::view::{Sources, View, Walk, named_ports};
use crate::words;

/// The flows whose verdict is another on the new side. Its [`Display`](fmt::Display) is for people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// What changes; empty: both sides decide every flow alike.
    pub changes: Vec<Change>,
    /// Whether pods and nodes have addresses of both families.
    pub dual_stack: bool,
}

/// One group of flows that change alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Who sends.
    pub sources: Group,
    /// Who receives.
    pub destinations: Group,
    /// What is sent.
    pub regions: Vec<Region>,
    /// The families over which it changes.
    pub families: BTreeSet<IpVersion>,
    /// The old decision.
    pub from: Decision,
    /// The new decision.
    pub to: Decision,
    /// One of the flows.
    pub example: Flow,
}

/// A verdict and what decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decision {
    /// Allowed or denied.
    pub verdict: Verdict,
    /// What decided; `None`: nothing did, which allows.
    pub by: Option<DecidedBy>,
}

/// What decided a flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DecidedBy {
    /// The direction that counted.
    pub direction: Direction,
    /// The policy; for the end of a tier, one that made the tier apply.
    pub policy: PolicyName,
    /// The rule's place among the policy's rules of the direction, from 1; `None`: the end of the
    /// tier.
    pub rule: Option<usize>,
    /// Where it is written.
    pub origin: Origin,
}

/// A decision as numbers, to compare and to group by.
pub(crate) type Outcome = (Verdict, Option<By>);

/// What decided, by its place in the policy set.
pub(crate) type By = (Direction, Decider);

/// Compares two sides, each a cluster and the policies over it.
///
/// ```
/// use portcullis_identity_table::ClusterState;
/// use portcullis_policy::{diff, Source, parse_policies};
/// let cluster = ClusterState::default();
/// let policies = parse_policies(&[Source::new("none", "")]).unwrap().value;
/// assert!(diff((&cluster, &policies), (&cluster, &policies)).unwrap().changes.is_empty());
/// ```
///
/// # Errors
/// If one of the clusters contradicts itself.
pub fn diff(
    old: (&ClusterState, &PolicySet),
    new: (&ClusterState, &PolicySet),
) -> Result<Diff, registry::Error> {
    let sources = Sources::of(&[old.1, new.1]);
    let regions = sources.regions();
    let views = [
        View::new(old.0, old.1, &sources, 0, regions.clone())?,
        View::new(new.0, new.1, &sources, 1, regions.clone())?,
    ];
    let atlas = Atlas::new(&views, &regions);
    let comparison = Comparison::new(&views, &atlas, &sources, old.0 != new.0);
    Ok(Diff { changes: comparison.changes(), dual_stack: atlas.is_dual_stack() })
}

struct Comparison<'a> {
    views: &'a [View<'a>; 2],
    atlas: &'a Atlas<'a>,
    exempt: [AHashSet<(IpAddr, IpAddr)>; 2],
    /// For each class of the atlas: whether the two sides see it differently.
    changed: Vec<bool>,
    /// For each class and direction: whether other policies apply to it.
    governed_anew: [Vec<bool>; 2],
    contents: [Contents; 2],
}

/// Policies of a side by content, by tier and index: equal numbers say the same.
type Contents = AHashMap<(usize, usize), usize>;

impl<'a> Comparison<'a> {
    fn new(
        views: &'a [View<'a>; 2],
        atlas: &'a Atlas<'a>,
        sources: &Sources,
        clusters_differ: bool,
    ) -> Self {
        let changed = atlas
            .classes
            .iter()
            .map(|class| views[0].class(class.ids[0]) != views[1].class(class.ids[1]))
            .collect();
        let contents = contents(views, sources, clusters_differ);
        let governed_anew = [Direction::Ingress, Direction::Egress].map(|direction| {
            let sequence = |side: usize, class: &AddressClass| -> Vec<(&str, TierDefault, usize)> {
                views[side]
                    .applying(direction, class.ids[side])
                    .iter()
                    .map(|at| {
                        let tier = &views[side].policies.tiers[at.0];
                        (&*tier.name, tier.default_action, contents[side][at])
                    })
                    .collect()
            };
            let differs = |class: &AddressClass| sequence(0, class) != sequence(1, class);
            atlas.classes.iter().map(differs).collect()
        });
        let exempt = [atlas.exempt(&views[0]), atlas.exempt(&views[1])];
        Self { views, atlas, exempt, changed, governed_anew, contents }
    }

    fn changes(&self) -> Vec<Change> {
        /// Regions, old and new outcome.
        type How = (Vec<Region>, Outcome, Outcome);
        // First all sources that change alike towards one destination, then all destinations.
        let mut grouped: BTreeMap<(BTreeSet<usize>, How), BTreeSet<usize>> = BTreeMap::new();
        for destination in 0..self.atlas.classes.len() {
            let mut towards: BTreeMap<How, BTreeSet<usize>> = BTreeMap::new();
            for source in 0..self.atlas.classes.len() {
                if !self.may_change(source, destination) {
                    continue;
                }
                for (regions, from, to) in self.changed_regions(source, destination) {
                    towards.entry((regions, from, to)).or_default().insert(source);
                }
            }
            for (how, sources) in towards {
                grouped.entry((sources, how)).or_default().insert(destination);
            }
        }
        let census = Census::of(self.atlas, self.views);
        let group = |indices: &BTreeSet<usize>| {
            let classes = indices.iter().filter_map(|i| self.atlas.classes.get(*i));
            Group::of(classes, self.views, &census)
        };
        let mut changes: Vec<Change> = grouped
            .into_iter()
            .filter_map(|((sources, (regions, from, to)), destinations)| {
                let (source, destination) = sources
                    .iter()
                    .flat_map(|s| destinations.iter().map(move |d| (*s, *d)))
                    .find_map(|(s, d)| self.ordinary_pair(s, d))?;
                let example = example(source, destination, &regions);
                Some(Change {
                    example,
                    families: [example.header.ip_version].into(),
                    sources: group(&sources),
                    destinations: group(&destinations),
                    regions,
                    from: self.decision(0, from),
                    to: self.decision(1, to),
                })
            })
            .collect();
        changes.extend(self.changed_exemptions(&census));
        let key = |c: &Change| {
            let (groups, regions) =
                ((c.destinations.clone(), c.sources.clone()), c.regions.clone());
            (c.to.clone(), groups, regions, c.from.clone())
        };
        changes.sort_by_cached_key(key);
        changes.dedup_by(|gone, kept| {
            let same = key(gone) == key(kept);
            if same {
                kept.families.append(&mut gone.families);
            }
            same
        });
        changes
    }

    /// Whether anything that decides between these classes differs.
    fn may_change(&self, source: usize, destination: usize) -> bool {
        let [ingress, egress] = &self.governed_anew;
        let classes = &self.atlas.classes;
        classes[source].is_v4() == classes[destination].is_v4()
            && (self.changed[source]
                || self.changed[destination]
                || ingress[destination]
                || egress[source])
    }

    /// The regions whose verdict changes between two classes, grouped by the decisions.
    fn changed_regions(
        &self,
        source: usize,
        destination: usize,
    ) -> Vec<(Vec<Region>, Outcome, Outcome)> {
        if self.ordinary_pair(source, destination).is_none() {
            return Vec::new();
        }
        let (source, destination) = (&self.atlas.classes[source], &self.atlas.classes[destination]);
        self.compare(source, destination, [false, false])
    }

    fn compare(
        &self,
        source: &AddressClass,
        destination: &AddressClass,
        exempt: [bool; 2],
    ) -> Vec<(Vec<Region>, Outcome, Outcome)> {
        let sides: Vec<Side<'_>> = (0..2)
            .map(|side| {
                let ids = (source.ids[side], destination.ids[side]);
                Side::new(&self.views[side], ids, exempt[side])
            })
            .collect();
        if exempt[0] == exempt[1] && self.ask_the_same(&sides) {
            return Vec::new();
        }
        let version = if destination.is_v4() { IpVersion::V4 } else { IpVersion::V6 };
        // A port name may stand for other numbers on either side.
        let mut cells = Vec::new();
        for region in regions_of(&sides) {
            let header = region.example(version);
            let outcomes = (sides[0].decide(&header), sides[1].decide(&header));
            if outcomes.0.0 != outcomes.1.0 {
                cells.push((region, outcomes));
            }
        }
        let mut by_outcome: BTreeMap<(Outcome, Outcome), Vec<Region>> = BTreeMap::new();
        for (region, outcomes) in space::merge(cells) {
            by_outcome.entry(outcomes).or_default().push(region);
        }
        by_outcome.into_iter().map(|((from, to), regions)| (regions, from, to)).collect()
    }

    /// Whether the same rules are asked on both sides, in the same order, with the same ends of tiers:
    /// then no verdict differs, whatever policies apply beside them.
    fn ask_the_same(&self, sides: &[Side<'_>]) -> bool {
        let [old, new] = sides else { return false };
        let numbers = |side: usize| {
            move |at: (usize, usize)| self.contents[side].get(&at).copied().unwrap_or(usize::MAX)
        };
        let same = |old: &Option<Walk<'_>>, new: &Option<Walk<'_>>| match (old, new) {
            (Some(old), Some(new)) => old.steps_by(numbers(0)).eq(new.steps_by(numbers(1))),
            (None, None) => true,
            _ => false,
        };
        old.names == new.names && same(&old.egress, &new.egress) && same(&old.ingress, &new.ingress)
    }

    fn ordinary_pair(&self, source: usize, destination: usize) -> Option<(IpAddr, IpAddr)> {
        let classes = &self.atlas.classes;
        self.atlas.ordinary_pair(&classes[source], &classes[destination], &self.exempt)
    }

    /// Pairs of addresses that one side exempts from policies and the other does not.
    fn changed_exemptions(&self, census: &Census) -> Vec<Change> {
        let mut pairs: Vec<_> =
            self.exempt[0].symmetric_difference(&self.exempt[1]).copied().collect();
        pairs.sort_unstable();
        let mut changes = Vec::new();
        for pair in pairs {
            let (Some(source), Some(destination)) =
                (self.atlas.host(pair.0), self.atlas.host(pair.1))
            else {
                continue;
            };
            let exempt = [self.exempt[0].contains(&pair), self.exempt[1].contains(&pair)];
            let classes = &self.atlas.classes;
            for (regions, from, to) in self.compare(&classes[source], &classes[destination], exempt)
            {
                let (mut sources, mut destinations) = (Group::default(), Group::default());
                sources.add_host(pair.0, self.views, census);
                destinations.add_host(pair.1, self.views, census);
                let example = example(pair.0, pair.1, &regions);
                changes.push(Change {
                    example,
                    families: [example.header.ip_version].into(),
                    sources,
                    destinations,
                    regions,
                    from: self.decision(0, from),
                    to: self.decision(1, to),
                });
            }
        }
        changes
    }

    fn decision(&self, side: usize, (verdict, by): Outcome) -> Decision {
        Decision { verdict, by: by.and_then(|by| decided_by(self.views[side].policies, by)) }
    }
}

/// Policies by content: two with the same number say the same, wherever they are written.
fn contents(views: &[View<'_>; 2], sources: &Sources, clusters_differ: bool) -> [Contents; 2] {
    let mut numbers = [AHashMap::default(), AHashMap::default()];
    let mut old: AHashMap<&PolicyName, (usize, Policy)> = AHashMap::default();
    let mut next = 0;
    for side in 0..2 {
        for (tier_index, tier) in views[side].policies.tiers.iter().enumerate() {
            for (index, policy) in tier.policies.iter().enumerate() {
                let content = content(policy, side, sources);
                let same = old.get(&policy.name).filter(|(_, before)| {
                    side == 1 && *before == content && !(clusters_differ && asks_cluster(before))
                });
                let number = same.map_or(next, |(number, _)| *number);
                next += 1;
                numbers[side].insert((tier_index, index), number);
                if side == 0 {
                    old.insert(&policy.name, (number, content));
                }
            }
        }
    }
    numbers
}

/// A policy without what does not decide: places, and the numbering of sets.
fn content(policy: &Policy, side: usize, sources: &Sources) -> Policy {
    let mut policy = policy.clone();
    policy.origin = Origin::default();
    policy.subject.for_each_mut(&mut |part| sources.canonical(side, part));
    for rule in policy.ingress.iter_mut().chain(&mut policy.egress).flatten() {
        rule.origin = Origin::default();
        rule.source.for_each_mut(&mut |part| sources.canonical(side, part));
        rule.destination.for_each_mut(&mut |part| sources.canonical(side, part));
    }
    policy
}

/// Whether the policy speaks of the cluster's namespaces as such.
fn asks_cluster(policy: &Policy) -> bool {
    let mut asks = false;
    policy.for_each_match(&mut |part| asks |= matches!(part, Match::NamespaceHas(..)));
    asks
}

/// One side's decision between two classes.
pub(crate) struct Side<'a> {
    egress: Option<Walk<'a>>,
    ingress: Option<Walk<'a>>,
    names: [&'a [NamedPort]; 2],
}

impl<'a> Side<'a> {
    pub(crate) fn new(
        view: &'a View<'a>,
        (source, destination): (ClassId, ClassId),
        exempt: bool,
    ) -> Self {
        let walk = |direction| {
            if exempt { None } else { view.walk(direction, source, destination) }
        };
        Self {
            egress: walk(Direction::Egress),
            ingress: walk(Direction::Ingress),
            names: [named_ports(view.class(source)), named_ports(view.class(destination))],
        }
    }

    pub(crate) fn decide(&self, header: &Header) -> Outcome {
        let ask = |direction, walk: &Option<Walk<'_>>| {
            let (verdict, decider) = walk.as_ref()?.decide(header, self.names);
            Some((verdict, (decider != Decider::NoTier).then_some((direction, decider))))
        };
        let ingress = ask(Direction::Ingress, &self.ingress);
        let egress = ask(Direction::Egress, &self.egress);
        let denying = [&ingress, &egress].into_iter().flatten().find(|d| d.0 == Verdict::Deny);
        if let Some(denied) = denying {
            return *denied;
        }
        let by = ingress.and_then(|d| d.1).or(egress.and_then(|d| d.1));
        (Verdict::Allow, by)
    }
}

/// Regions on which none of the sides changes its mind.
pub(crate) fn regions_of(sides: &[Side<'_>]) -> Vec<Region> {
    let rules =
        sides.iter().flat_map(|side| [&side.egress, &side.ingress]).flatten().flat_map(Walk::rules);
    let join = |end: usize| {
        let mut names: Vec<_> = sides.iter().flat_map(|side| side.names[end]).cloned().collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    space::regions(rules, [&join(0), &join(1)])
}

/// What decided, by name and place.
pub(crate) fn decided_by(policies: &PolicySet, (direction, decider): By) -> Option<DecidedBy> {
    let policy = decider.policy(policies)?;
    let (rule, origin) = match decider {
        Decider::Rule { rule, .. } => {
            let written = policy.rules(direction)?.get(rule)?;
            (Some(rule + 1), written.origin.clone())
        }
        _ => (None, policy.origin.clone()),
    };
    Some(DecidedBy { direction, policy: policy.name.clone(), rule, origin })
}

/// One flow of the regions between two addresses, over TCP if there is a choice.
pub(crate) fn example(source: IpAddr, destination: IpAddr, regions: &[Region]) -> Flow {
    let version = if destination.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 };
    let is_tcp = |region: &&Region| region.protocols == Protocols::Is(protocol::TCP);
    let header = regions
        .iter()
        .find(is_tcp)
        .or(regions.first())
        .map(|region| region.example(version))
        .expect("a change has at least one region");
    Flow { source, destination, header }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verdict.as_str())?;
        match &self.by {
            None => f.write_str(" (no policy decides)"),
            Some(by) => write!(f, " by {by}"),
        }
    }
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        match self.rule {
            Some(number) => write!(f, "{direction} rule {number} of {}", self.policy)?,
            None => write!(f, "{direction} default deny of {}", self.policy)?,
        }
        write!(f, " at {}", self.origin)
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changes.is_empty() {
            return writeln!(f, "No flow changes: both sides decide every flow alike.");
        }
        for change in &self.changes {
            let title = match change.to.verdict {
                Verdict::Allow => "NEWLY ALLOWED",
                Verdict::Deny => "NEWLY DENIED",
            };
            let families = if self.dual_stack { words::families(&change.families) } else { "" };
            writeln!(f, "{title}: {}{families}", space::phrase(&change.regions))?;
            writeln!(f, "  from     {}", change.sources)?;
            writeln!(f, "  to       {}", change.destinations)?;
            writeln!(f, "  before   {}", change.from)?;
            writeln!(f, "  after    {}", change.to)?;
            writeln!(f, "  example  {}\n", change.example)?;
        }
        let count =
            words::count(self.changes.len(), "group of flows changes", "groups of flows change");
        writeln!(f, "{count}; all other flows are decided as before.")
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
