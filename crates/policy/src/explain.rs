//! Why a flow is allowed or denied: who is at both ends, which tiers and policies were asked in each
//! direction, what decided and where that is written, what came close, and what staged policies would
//! have done.
//!
//! It walks the model as [`crate::judge`] does, so its cost is O(policies) a flow; it is for people,
//! not for packets.

use std::fmt;

use portcullis_identity_table::Labels;
use portcullis_identity_table::endpoint::{ClusterState, EndpointName};

use crate::flow::{Flow, Verdict};
use crate::judge::{Decider, DirectionDecision, End, Exemption, Judge, Judgement};
use crate::model::{
    Action, Direction, Enforcement, Origin, Policy, PolicyName, PolicySet, PortSpec, ProtocolMatch,
    Rule, Tier, TierDefault,
};
use crate::words;

/// Everything there is to say about one flow. Its [`Display`](fmt::Display) is for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The flow that was asked for.
    pub flow: Flow,
    /// Who sends.
    pub source: Party,
    /// Who receives.
    pub destination: Party,
    /// The decision.
    pub verdict: Verdict,
    /// Why policies were not asked, if so.
    pub exempt: Option<Exemption>,
    /// The policy that decided, if one did.
    pub policy: Option<PolicyName>,
    /// How egress at the source was decided, if a pod is there.
    pub egress: Option<Walk>,
    /// How ingress at the destination was decided, if a pod is there.
    pub ingress: Option<Walk>,
    /// What staged policies would change, if they were enforced.
    pub staged: Option<Staged>,
}

/// Who is at one end.
#[derive(Clone, Debug, PartialEq)]
pub struct Party {
    /// The address.
    pub address: std::net::IpAddr,
    /// The pod that owns it.
    pub pod: Option<EndpointName>,
    /// The node whose address it is.
    pub node: Option<Box<str>>,
    /// The labels of the pod or node.
    pub labels: Labels,
    /// The pod's service account.
    pub service_account: Option<Box<str>>,
}

/// One direction at one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Walk {
    /// Which one.
    pub direction: Direction,
    /// What it says.
    pub verdict: Verdict,
    /// The tiers that were asked, in order; the last one decided, unless it passed.
    pub tiers: Vec<TierStep>,
}

/// What one tier said.
#[derive(Clone, Debug, PartialEq)]
pub struct TierStep {
    /// Its name.
    pub tier: Box<str>,
    /// The policies that apply to the pod in this direction; none: the tier was skipped.
    pub applying: Vec<(PolicyName, Origin)>,
    /// `Log` rules that matched on the way.
    pub logged: Vec<RuleAt>,
    /// What came of it.
    pub outcome: Outcome,
    /// Where no rule matched: rules that nearly did.
    pub near_misses: Vec<NearMiss>,
}

/// What came of a tier.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// None of its policies applies.
    Skipped,
    /// A rule matched.
    Rule(RuleAt),
    /// No rule matched: the end of the tier counted.
    End(TierDefault),
}

/// A rule and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleAt {
    /// Its policy.
    pub policy: PolicyName,
    /// Its place among the policy's rules of the direction, from 1.
    pub number: usize,
    /// Its own name, where it has one.
    pub name: Option<Box<str>>,
    /// Where it is written.
    pub origin: Origin,
    /// What it does.
    pub action: Action,
}

/// A rule that matches all but one thing.
#[derive(Clone, Debug, PartialEq)]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleAt,
    /// The part that does not match.
    pub differs: Part,
    /// What the rule wants there, in words.
    pub wants: String,
}

/// A part of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Who sends.
    Source,
    /// Who receives.
    Destination,
    /// What is sent.
    Traffic,
}

/// What staged policies would do.
#[derive(Clone, Debug, PartialEq)]
pub struct Staged {
    /// The verdict if they were enforced.
    pub verdict: Verdict,
    /// The first staged policy that would have a say.
    pub policy: PolicyName,
    /// Its rule that would match; `None`: it would make its tier deny by default.
    pub rule: Option<RuleAt>,
}

/// The most near misses that are told for one tier.
const MOST_NEAR_MISSES: usize = 5;

/// Explains a flow.
///
/// ```
/// use portcullis_policy::{Flow, Source, explain, parse_cluster, parse_policies};
/// let cluster = parse_cluster(&[Source::new("cluster.yaml", "
/// apiVersion: v1
/// kind: Pod
/// metadata: {name: web, namespace: shop, labels: {app: web}}
/// status: {podIP: 10.0.0.1}
/// ")]).unwrap().value;
/// let policies = parse_policies(&[Source::new("policies.yaml", "
/// apiVersion: networking.k8s.io/v1
/// kind: NetworkPolicy
/// metadata: {name: deny-all, namespace: shop}
/// spec: {podSelector: {}}
/// ")]).unwrap().value;
/// let flow = Flow::new("10.9.9.9".parse().unwrap(), "10.0.0.1".parse().unwrap(), 6, (40000, 80));
/// let explanation = explain(&cluster, &policies, &flow);
/// assert!(explanation.to_string().starts_with("DENIED"));
/// assert!(explanation.to_string().contains("policies.yaml:2:1"));
/// ```
pub fn explain(cluster: &ClusterState, policies: &PolicySet, flow: &Flow) -> Explanation {
    let judge = Judge::new(cluster, policies);
    let (source, destination) = (judge.end(flow.source), judge.end(flow.destination));
    let judgement = judge.judge(flow);
    let parties = (party(&source, cluster), party(&destination, cluster));
    let explainer = Explainer { judge, policies, flow, source, destination };
    Explanation {
        flow: *flow,
        source: parties.0,
        destination: parties.1,
        verdict: judgement.verdict,
        exempt: judgement.exempt,
        policy: judgement.policy(policies).cloned(),
        egress: judgement.egress.map(|d| explainer.walk(Direction::Egress, d)),
        ingress: judgement.ingress.map(|d| explainer.walk(Direction::Ingress, d)),
        staged: explainer.staged(&judgement),
    }
}

fn party(end: &End<'_>, cluster: &ClusterState) -> Party {
    let node_labels = || {
        let node = cluster.nodes.iter().find(|node| Some(&*node.name) == end.node)?;
        Some(node.labels.clone())
    };
    Party {
        address: end.address,
        pod: end.pod.map(|pod| pod.key()),
        node: end.node.map(Into::into),
        labels: end.pod.map(|pod| pod.labels.clone()).or_else(node_labels).unwrap_or_default(),
        service_account: end.pod.map(|pod| pod.service_account.clone()),
    }
}

struct Explainer<'a> {
    judge: Judge<'a>,
    policies: &'a PolicySet,
    flow: &'a Flow,
    source: End<'a>,
    destination: End<'a>,
}

impl Explainer<'_> {
    /// The tiers up to the one that decided.
    fn walk(&self, direction: Direction, decision: DirectionDecision) -> Walk {
        let last = match decision.decider {
            Decider::Rule { tier, .. } | Decider::TierDefault { tier, .. } => tier,
            Decider::NoTier => usize::MAX,
        };
        let asked = self.policies.tiers.iter().take(last.saturating_add(1));
        let tiers = asked.map(|tier| self.tier(tier, direction)).collect();
        Walk { direction, verdict: decision.verdict, tiers }
    }

    fn tier(&self, tier: &Tier, direction: Direction) -> TierStep {
        let subject = match direction {
            Direction::Ingress => &self.destination,
            Direction::Egress => &self.source,
        };
        let mut step = TierStep {
            tier: tier.name.clone(),
            applying: Vec::new(),
            logged: Vec::new(),
            outcome: Outcome::Skipped,
            near_misses: Vec::new(),
        };
        let mut matched = None;
        for policy in &tier.policies {
            let Some(rules) = policy.rules(direction) else { continue };
            if policy.enforcement == Enforcement::Staged
                || !self.judge.holds(&policy.subject, subject)
            {
                continue;
            }
            step.applying.push((policy.name.clone(), policy.origin.clone()));
            for (rule_index, rule) in rules.iter().enumerate() {
                if matched.is_some() {
                    break;
                }
                match self.mismatches(rule)[..] {
                    [] if rule.action == Action::Log => {
                        step.logged.push(rule_at(policy, rule_index, rule));
                    }
                    [] => matched = Some(rule_at(policy, rule_index, rule)),
                    [part] if is_way_out(rule) && step.near_misses.len() < MOST_NEAR_MISSES => {
                        step.near_misses.push(NearMiss {
                            rule: rule_at(policy, rule_index, rule),
                            differs: part,
                            wants: self.wants(rule, part),
                        });
                    }
                    _ => {}
                }
            }
        }
        step.outcome = match matched {
            Some(rule) => Outcome::Rule(rule),
            None if step.applying.is_empty() => Outcome::Skipped,
            None => Outcome::End(tier.default_action),
        };
        if step.outcome != Outcome::End(TierDefault::Deny) {
            step.near_misses.clear();
        }
        step
    }

    fn mismatches(&self, rule: &Rule) -> Vec<Part> {
        let header = &self.flow.header;
        let traffic =
            rule.traffic.iter().any(|t| t.matches(header, &self.source, &self.destination));
        [
            (Part::Source, self.judge.holds(&rule.source, &self.source)),
            (Part::Destination, self.judge.holds(&rule.destination, &self.destination)),
            (Part::Traffic, traffic),
        ]
        .into_iter()
        .filter(|(_, holds)| !holds)
        .map(|(part, _)| part)
        .collect()
    }

    fn wants(&self, rule: &Rule, part: Part) -> String {
        match part {
            Part::Source => words::who(&rule.source, self.policies),
            Part::Destination => words::who(&rule.destination, self.policies),
            Part::Traffic => words::traffic(&rule.traffic) + &self.named_ports(rule),
        }
    }

    /// What the port names of a rule mean at the ends of this flow, in brackets; nothing if it has
    /// none.
    fn named_ports(&self, rule: &Rule) -> String {
        let mut found: Vec<String> = Vec::new();
        for traffic in &rule.traffic {
            let ends = [
                (&traffic.source_ports, &self.source),
                (&traffic.destination_ports, &self.destination),
            ];
            for (ports, end) in ends {
                for spec in ports.any_of.iter().chain(&ports.none_of) {
                    let PortSpec::Named(name) = spec else { continue };
                    let text = port_named(name, traffic.protocol, end);
                    if !found.contains(&text) {
                        found.push(text);
                    }
                }
            }
        }
        if found.is_empty() { String::new() } else { format!(" ({})", found.join("; ")) }
    }

    /// What staged policies would do, if it is another verdict or one of them would decide.
    fn staged(&self, enforced: &Judgement) -> Option<Staged> {
        let verdict = self.judge.judge_staged(self.flow).verdict;
        let asked = enforced.exempt.is_none();
        let by = [Direction::Ingress, Direction::Egress]
            .into_iter()
            .filter(|_| asked)
            .find_map(|direction| self.staged_rule(direction));
        match by {
            Some((policy, rule)) if asked => Some(Staged { verdict, policy, rule }),
            _ => None,
        }
    }

    /// The first staged policy that would have a say in a direction: by a rule that matches, or by
    /// making a tier deny by default.
    fn staged_rule(&self, direction: Direction) -> Option<(PolicyName, Option<RuleAt>)> {
        let subject = match direction {
            Direction::Ingress => &self.destination,
            Direction::Egress => &self.source,
        };
        'tiers: for tier in &self.policies.tiers {
            let mut staged = None;
            let mut applies = false;
            for policy in &tier.policies {
                let Some(rules) = policy.rules(direction) else { continue };
                if !self.judge.holds(&policy.subject, subject) {
                    continue;
                }
                let is_staged = policy.enforcement == Enforcement::Staged;
                applies |= !is_staged;
                if is_staged && staged.is_none() {
                    staged = Some(policy.name.clone());
                }
                for (index, rule) in rules.iter().enumerate() {
                    if rule.action == Action::Log || !self.mismatches(rule).is_empty() {
                        continue;
                    }
                    if is_staged {
                        return Some((policy.name.clone(), Some(rule_at(policy, index, rule))));
                    }
                    match rule.action {
                        Action::Pass => continue 'tiers,
                        _ => return None,
                    }
                }
            }
            if tier.default_action == TierDefault::Deny && (applies || staged.is_some()) {
                // An enforced policy makes the tier deny already.
                return staged.filter(|_| !applies).map(|name| (name, None));
            }
        }
        None
    }
}

/// Whether a rule, had it matched, could have let the flow through.
fn is_way_out(rule: &Rule) -> bool {
    matches!(rule.action, Action::Allow | Action::Pass)
}

fn rule_at(policy: &Policy, index: usize, rule: &Rule) -> RuleAt {
    RuleAt {
        policy: policy.name.clone(),
        number: index + 1,
        name: rule.name.clone(),
        origin: rule.origin.clone(),
        action: rule.action,
    }
}

impl fmt::Display for RuleAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}", self.number)?;
        if let Some(name) = &self.name {
            write!(f, " ({name})")?;
        }
        write!(f, " of {} at {}", self.policy, self.origin)
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.pod, &self.node) {
            (Some(pod), _) => write!(f, "pod {pod}")?,
            (None, Some(node)) => write!(f, "node {node}")?,
            (None, None) => f.write_str("no pod or node of this cluster")?,
        }
        write!(f, " ({}", self.address)?;
        for (key, value) in self.labels.iter() {
            write!(f, ", {key}={value}")?;
        }
        match self.service_account.as_deref() {
            None | Some("default") => {}
            Some(account) => write!(f, ", service account {account}")?,
        }
        f.write_str(")")
    }
}

/// A party in a few words.
fn short(party: &Party) -> String {
    match (&party.pod, &party.node) {
        (Some(pod), _) => pod.to_string(),
        (None, Some(node)) => format!("node {node}"),
        (None, None) => party.address.to_string(),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Allow => "ALLOWED",
            Verdict::Deny => "DENIED",
        };
        writeln!(
            f,
            "{verdict}: {} from {} to {}",
            words::header(&self.flow.header),
            short(&self.source),
            short(&self.destination)
        )?;
        writeln!(f, "  {}", self.because())?;
        writeln!(f, "\nfrom  {}", self.source)?;
        writeln!(f, "to    {}", self.destination)?;
        if self.exempt.is_none() {
            describe_walk(f, "egress", self.egress.as_ref(), &self.source)?;
            describe_walk(f, "ingress", self.ingress.as_ref(), &self.destination)?;
        }
        if let Some(staged) = &self.staged {
            match &staged.rule {
                Some(rule) => write!(f, "\nstaged: {rule} would {}", verb(rule.action))?,
                None => write!(f, "\nstaged: {} would make its tier deny", staged.policy)?,
            }
            let unchanged = if staged.verdict == self.verdict { " still" } else { "" };
            let verdict = match staged.verdict {
                Verdict::Allow => "allowed",
                Verdict::Deny => "denied",
            };
            writeln!(f, "; the flow would{unchanged} be {verdict}")?;
        }
        Ok(())
    }
}

impl Explanation {
    /// One sentence, and another if both directions deny: then one rule will not do.
    fn because(&self) -> String {
        let mut text = self.first_reason();
        let denies =
            |walk: &Option<Walk>| walk.as_ref().is_some_and(|walk| walk.verdict == Verdict::Deny);
        if denies(&self.ingress) && denies(&self.egress) {
            text += &format!("\n  Egress of {} denies it as well.", short(&self.source));
        }
        text
    }

    fn first_reason(&self) -> String {
        match self.exempt {
            Some(Exemption::SamePod) => {
                return "A pod always reaches itself; no policy is asked.".to_owned();
            }
            Some(Exemption::OwnNode) => {
                return "A node always reaches its own pods; no policy is asked.".to_owned();
            }
            None => {}
        }
        let walks = [&self.ingress, &self.egress];
        let deciding =
            walks.into_iter().flatten().filter(|w| w.verdict == self.verdict).collect::<Vec<_>>();
        let Some(walk) = deciding.iter().find(|w| w.decided()).or(deciding.first()) else {
            return "No pod of this cluster is at either end; no policy is asked.".to_owned();
        };
        let who = match walk.direction {
            Direction::Ingress => short(&self.destination),
            Direction::Egress => short(&self.source),
        };
        let direction = direction_name(walk.direction);
        match walk.tiers.last() {
            Some(TierStep { outcome: Outcome::Rule(rule), .. })
                if matches!(rule.action, Action::Allow | Action::Deny) =>
            {
                format!("The {direction} {rule} decides.")
            }
            Some(TierStep { outcome: Outcome::End(TierDefault::Deny), applying, tier, .. }) => {
                let way = match walk.direction {
                    Direction::Ingress => "in",
                    Direction::Egress => "out",
                };
                format!(
                    "{} {who} for {direction}, and no rule of tier {tier} lets this {way}: \
                     default deny.",
                    selecting(applying)
                )
            }
            _ => format!("No policy decides about {direction} of {who}: allowed by default."),
        }
    }
}

impl Walk {
    /// Whether a policy decided, rather than none.
    fn decided(&self) -> bool {
        match self.tiers.last().map(|step| &step.outcome) {
            Some(Outcome::Rule(rule)) => matches!(rule.action, Action::Allow | Action::Deny),
            Some(Outcome::End(end)) => *end == TierDefault::Deny,
            _ => false,
        }
    }
}

/// `NetworkPolicy/a/b at f:1:1 selects`, or `... and 3 more select`.
fn selecting(applying: &[(PolicyName, Origin)]) -> String {
    match applying {
        [] => "Nothing selects".to_owned(),
        [(name, origin)] => format!("{name} at {origin} selects"),
        [(name, origin), rest @ ..] => {
            let more = words::count(rest.len(), "other policy", "other policies");
            format!("{name} at {origin} and {more} select")
        }
    }
}

fn describe_walk(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    walk: Option<&Walk>,
    party: &Party,
) -> fmt::Result {
    let Some(walk) = walk else {
        return writeln!(f, "\n{name}: not asked, {} is no pod", short(party));
    };
    writeln!(f, "\n{name} of {}: {}", short(party), walk.verdict.as_str())?;
    if walk.tiers.iter().all(|step| step.outcome == Outcome::Skipped) {
        return writeln!(f, "  no policy applies");
    }
    for step in &walk.tiers {
        if step.outcome == Outcome::Skipped {
            continue;
        }
        match &step.outcome {
            Outcome::Skipped => {}
            Outcome::Rule(rule) => {
                writeln!(f, "  tier {}: {:?} by {rule}", step.tier, rule.action)?;
            }
            Outcome::End(TierDefault::Deny) => {
                writeln!(
                    f,
                    "  tier {}: no rule matches, so Deny; these policies apply:",
                    step.tier
                )?;
                for (name, origin) in step.applying.iter().take(10) {
                    writeln!(f, "    {name} at {origin}")?;
                }
                if step.applying.len() > 10 {
                    writeln!(f, "    and {} more", step.applying.len() - 10)?;
                }
            }
            Outcome::End(TierDefault::Pass) => {
                writeln!(f, "  tier {}: no rule matches, so Pass", step.tier)?;
            }
        }
        for rule in &step.logged {
            writeln!(f, "    logged by {rule}")?;
        }
        for miss in &step.near_misses {
            let part = match miss.differs {
                Part::Source => "source",
                Part::Destination => "destination",
                Part::Traffic => "traffic",
            };
            writeln!(f, "    close: {}, but its {part} is {}", miss.rule, miss.wants)?;
        }
    }
    Ok(())
}

/// What a port name of a rule for this protocol means at an end.
fn port_named(name: &str, protocol: ProtocolMatch, end: &End<'_>) -> String {
    let Some(pod) = end.pod else {
        return format!("{} is no pod, so it names no port", end.address);
    };
    let owner = format!("{}/{}", pod.namespace, pod.name);
    let ports = pod.named_ports.iter().filter(|p| *p.name == *name && protocol.matches(p.protocol));
    let numbers: Vec<String> = ports.map(|port| port.port.to_string()).collect();
    if numbers.is_empty() {
        return format!("{owner} has no such port named {name:?}");
    }
    format!("{name:?} is port {} of {owner}", numbers.join(" and "))
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow it",
        Action::Deny => "deny it",
        Action::Pass => "pass it on to the next tier",
        Action::Log => "log it",
    }
}

fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}
