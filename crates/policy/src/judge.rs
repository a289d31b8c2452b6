//! The decision procedure, read straight from the model: no identity, no compilation, no index.
//!
//! It is the slow, obvious twin of the compiled program: property tests compare the two, and whoever
//! explains a decision walks it step by step. Cost: O(everything) a flow.

use std::net::IpAddr;

use portcullis_identity_table::endpoint::{
    ClusterState, Endpoint, Namespace, Node, ServiceAccount,
};
use portcullis_identity_table::{Labels, Selector};

use crate::flow::{Flow, Header, NamedPorts, Verdict};
use crate::model::{
    Action, Direction, Enforcement, Match, Policy, PolicyName, PolicySet, Rule, TierDefault,
};

/// A cluster and the policies over it.
///
/// ```
/// use portcullis_identity_table::ClusterState;
/// use portcullis_policy::judge::Judge;
/// use portcullis_policy::model::PolicySet;
/// use portcullis_policy::{Flow, Verdict};
/// let (cluster, policies) = (ClusterState::default(), PolicySet::default());
/// let judge = Judge::new(&cluster, &policies);
/// let flow = Flow::new("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 6, (40000, 80));
/// assert_eq!(judge.judge(&flow).verdict, Verdict::Allow);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    cluster: &'a ClusterState,
    policies: &'a PolicySet,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its address.
    pub address: IpAddr,
    /// The pod that owns the address; never a host-networked one.
    pub pod: Option<&'a Endpoint>,
    /// The name of the node whose address it is, by its own word or by that of a host-networked pod.
    pub node: Option<&'a str>,
}

/// What decided a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decider {
    /// A rule, by its place in the set.
    Rule {
        /// Index into [`PolicySet::tiers`].
        tier: usize,
        /// Index into the tier's policies.
        policy: usize,
        /// Index into the policy's rules of the direction.
        rule: usize,
    },
    /// The end of a tier that denies by default.
    TierDefault {
        /// Index into [`PolicySet::tiers`].
        tier: usize,
        /// The first policy of the tier that applies to the endpoint in this direction.
        policy: usize,
    },
    /// No tier decided: allowed.
    NoTier,
}

/// The decision of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectionDecision {
    /// Allowed or denied.
    pub verdict: Verdict,
    /// By what.
    pub decider: Decider,
    /// Whether a `Log` rule matched on the way.
    pub log: bool,
}

/// The decision of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it may pass.
    pub verdict: Verdict,
    /// Why neither direction was asked, if so.
    pub exempt: Option<Exemption>,
    /// What egress at the source says; `None` if no pod is there, or the flow is exempt.
    pub egress: Option<DirectionDecision>,
    /// What ingress at the destination says; `None` if no pod is there, or the flow is exempt.
    pub ingress: Option<DirectionDecision>,
}

/// Why a flow is allowed whatever policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exemption {
    /// The same pod is at both ends.
    SamePod,
    /// The source is the node that the destination pod runs on.
    OwnNode,
}

impl Judgement {
    /// The policy to name for the verdict: for a deny, one of a denying direction; for an allow, one
    /// that allowed, ingress preferred; `None` if no policy decided.
    pub fn policy<'p>(&self, policies: &'p PolicySet) -> Option<&'p PolicyName> {
        [self.ingress, self.egress]
            .into_iter()
            .flatten()
            .filter(|direction| direction.verdict == self.verdict)
            .find_map(|direction| direction.decider.policy(policies))
            .map(|policy| &policy.name)
    }
}

impl Decider {
    /// The policy that decided, or through which its tier came to decide.
    pub fn policy(self, policies: &PolicySet) -> Option<&Policy> {
        let (Self::Rule { tier, policy, .. } | Self::TierDefault { tier, policy }) = self else {
            return None;
        };
        policies.tiers.get(tier)?.policies.get(policy)
    }
}

impl<'a> Judge<'a> {
    /// Over this cluster and these policies.
    pub fn new(cluster: &'a ClusterState, policies: &'a PolicySet) -> Self {
        Self { cluster, policies }
    }

    /// Decides a flow by the enforced policies.
    pub fn judge(&self, flow: &Flow) -> Judgement {
        self.judge_with(flow, Enforcement::Enforced)
    }

    /// Decides a flow as if staged policies were enforced too.
    pub fn judge_staged(&self, flow: &Flow) -> Judgement {
        self.judge_with(flow, Enforcement::Staged)
    }

    fn judge_with(&self, flow: &Flow, up_to: Enforcement) -> Judgement {
        let (source, destination) = (self.end(flow.source), self.end(flow.destination));
        if let Some(exempt) = exemption(&source, &destination) {
            let exempt = Some(exempt);
            return Judgement { verdict: Verdict::Allow, exempt, egress: None, ingress: None };
        }
        let walk = |pod: Option<&Endpoint>, direction| {
            pod.map(|_| self.walk(direction, &source, &destination, &flow.header, up_to))
        };
        let egress = walk(source.pod, Direction::Egress);
        let ingress = walk(destination.pod, Direction::Ingress);
        let denied = |d: &Option<DirectionDecision>| d.is_some_and(|d| d.verdict == Verdict::Deny);
        let verdict =
            if denied(&egress) || denied(&ingress) { Verdict::Deny } else { Verdict::Allow };
        Judgement { verdict, exempt: None, egress, ingress }
    }

    /// Who is at an address.
    pub fn end(&self, address: IpAddr) -> End<'a> {
        let owns = |e: &&Endpoint| e.addresses.contains(&address);
        let pod = self.cluster.endpoints.iter().filter(|e| !e.host_network).find(owns);
        // A host-networked pod's address is its node's, even if the node does not list it.
        let hosts = self.cluster.endpoints.iter().filter(|e| e.host_network && owns(e));
        let lists = |n: &&Node| n.addresses.contains(&address);
        let node = match self.cluster.nodes.iter().find(lists) {
            Some(node) => Some(&*node.name),
            None => hosts.filter_map(|e| e.node.as_deref()).min(),
        };
        End { address, pod, node: if pod.is_some() { None } else { node } }
    }

    /// One direction: the tiers in order, as [`crate::model`] says.
    fn walk(
        &self,
        direction: Direction,
        source: &End<'_>,
        destination: &End<'_>,
        header: &Header,
        up_to: Enforcement,
    ) -> DirectionDecision {
        let subject = match direction {
            Direction::Ingress => destination,
            Direction::Egress => source,
        };
        let mut log = false;
        'tiers: for (tier_index, tier) in self.policies.tiers.iter().enumerate() {
            let applying = tier.policies.iter().enumerate().filter(|(_, policy)| {
                (policy.enforcement == Enforcement::Enforced || up_to == Enforcement::Staged)
                    && policy.rules(direction).is_some()
                    && self.holds(&policy.subject, subject)
            });
            let mut first = None;
            for (policy_index, policy) in applying {
                first.get_or_insert(policy_index);
                for (rule_index, rule) in policy.rules(direction).into_iter().flatten().enumerate()
                {
                    if !self.rule_matches(rule, source, destination, header) {
                        continue;
                    }
                    let verdict = match rule.action {
                        Action::Allow => Verdict::Allow,
                        Action::Deny => Verdict::Deny,
                        Action::Pass => continue 'tiers,
                        Action::Log => {
                            log = true;
                            continue;
                        }
                    };
                    let (tier, policy, rule) = (tier_index, policy_index, rule_index);
                    let decider = Decider::Rule { tier, policy, rule };
                    return DirectionDecision { verdict, decider, log };
                }
            }
            if let (Some(policy), TierDefault::Deny) = (first, tier.default_action) {
                let decider = Decider::TierDefault { tier: tier_index, policy };
                return DirectionDecision { verdict: Verdict::Deny, decider, log };
            }
        }
        DirectionDecision { verdict: Verdict::Allow, decider: Decider::NoTier, log }
    }

    /// Whether a rule matches a flow between these ends.
    pub fn rule_matches(
        &self,
        rule: &Rule,
        source: &End<'_>,
        destination: &End<'_>,
        header: &Header,
    ) -> bool {
        self.holds(&rule.source, source)
            && self.holds(&rule.destination, destination)
            && rule.traffic.iter().any(|traffic| traffic.matches(header, source, destination))
    }

    /// Whether an expression holds for one end.
    pub fn holds(&self, expression: &Match, end: &End<'_>) -> bool {
        match expression {
            Match::Any => true,
            Match::Nothing => false,
            Match::Pod => end.pod.is_some(),
            Match::PodLabels(selector) => end.pod.is_some_and(|p| selector.matches(&p.labels)),
            Match::Namespace(name) => end.pod.is_some_and(|p| p.namespace == *name),
            Match::NamespaceLabels(selector) => {
                end.pod.is_some_and(|p| self.namespace_has(&p.namespace, selector))
            }
            Match::ServiceAccount(name) => end.pod.is_some_and(|p| p.service_account == *name),
            Match::ServiceAccountLabels(selector) => {
                end.pod.is_some_and(|p| match self.service_account(p) {
                    Some(account) => selector.matches(&account.labels),
                    None => selector.matches(&Labels::default()),
                })
            }
            Match::NodeLabels(selector) => end.node.is_some_and(|n| self.node_has(n, selector)),
            Match::Cidr(prefix) => prefix.contains(&end.address),
            Match::InSet(index) => self
                .policies
                .sets
                .get(*index as usize)
                .is_some_and(|set| set.prefixes.iter().any(|p| p.contains(&end.address))),
            Match::NamespaceHas(name, selector) => self.namespace_has(name, selector),
            Match::Not(part) => !self.holds(part, end),
            Match::All(parts) => parts.iter().all(|part| self.holds(part, end)),
            Match::OneOf(parts) => parts.iter().any(|part| self.holds(part, end)),
        }
    }

    fn namespace_has(&self, name: &str, selector: &Selector) -> bool {
        match self.cluster.namespaces.iter().find(|n| *n.name == *name) {
            Some(namespace) => selector.matches(&namespace.labels),
            None => selector.matches(&Namespace::new(name, Labels::default()).labels),
        }
    }

    fn node_has(&self, name: &str, selector: &Selector) -> bool {
        match self.cluster.nodes.iter().find(|n| *n.name == *name) {
            Some(node) => selector.matches(&node.labels),
            None => selector.matches(&Labels::default()),
        }
    }

    fn service_account(&self, pod: &Endpoint) -> Option<&'a ServiceAccount> {
        self.cluster
            .service_accounts
            .iter()
            .find(|a| a.namespace == pod.namespace && a.name == pod.service_account)
    }
}

impl Policy {
    /// The rules of one direction; `None` if the policy says nothing about it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

impl NamedPorts for End<'_> {
    fn is(&self, name: &str, protocol: u8, port: u16) -> bool {
        self.pod.is_some_and(|pod| {
            pod.named_ports
                .iter()
                .any(|p| *p.name == *name && p.protocol == protocol && p.port == port)
        })
    }
}

fn exemption(source: &End<'_>, destination: &End<'_>) -> Option<Exemption> {
    let destination = destination.pod?;
    if source
        .pod
        .is_some_and(|p| p.namespace == destination.namespace && p.name == destination.name)
    {
        return Some(Exemption::SamePod);
    }
    let own_node = source.node.is_some_and(|n| destination.node.as_deref() == Some(n));
    own_node.then_some(Exemption::OwnNode)
}
