//! The policy model: what every supported document means, in one form.
//!
//! Documents of all kinds are translated to this; the compiler reads nothing else. A program can
//! also build it by hand: whatever YAML can say, these types can say.
//!
//! A [`PolicySet`] is an ordered list of [`Tier`]s, a tier an ordered list of [`Policy`]s, a policy
//! for each direction an ordered list of [`Rule`]s. The decision for one direction of a flow:
//! walk the tiers in order; skip a tier none of whose (enforced) policies applies to the endpoint in
//! this direction; else the first matching rule decides: `Allow` and `Deny` end, `Pass` goes on with
//! the next tier, `Log` with the next rule; at the end of an applying tier its `default_action`
//! counts as the rule. After the last tier: allow. The same walk serves the Kubernetes standard
//! (Admin tier, NetworkPolicy, Baseline tier) and Calico.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_identity_table::Selector;

/// Where something was written: file name, line and column (both from 1; 0 = made in code).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The file as the user named it, or `<code>`.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Default for Origin {
    fn default() -> Self {
        Self { file: "<code>".into(), line: 0, column: 0 }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// What a rule does with a flow that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The direction allows the flow.
    Allow,
    /// The direction denies the flow.
    Deny,
    /// Leave this tier, go on with the next.
    Pass,
    /// Note the flow, go on with the next rule.
    Log,
}

/// Seen from the endpoint that a policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Flows towards the endpoint.
    Ingress,
    /// Flows from the endpoint.
    Egress,
}

/// The document kinds that can decide a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// networking.k8s.io/v1 NetworkPolicy.
    NetworkPolicy,
    /// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// policy.networking.k8s.io/v1alpha1 AdminNetworkPolicy.
    AdminNetworkPolicy,
    /// policy.networking.k8s.io/v1alpha1 BaselineAdminNetworkPolicy.
    BaselineAdminNetworkPolicy,
    /// projectcalico.org/v3 NetworkPolicy; prints like the Kubernetes kind.
    CalicoNetworkPolicy,
    /// projectcalico.org/v3 GlobalNetworkPolicy.
    GlobalNetworkPolicy,
    /// projectcalico.org/v3 StagedNetworkPolicy.
    StagedNetworkPolicy,
    /// projectcalico.org/v3 StagedGlobalNetworkPolicy.
    StagedGlobalNetworkPolicy,
    /// projectcalico.org/v3 StagedKubernetesNetworkPolicy.
    StagedKubernetesNetworkPolicy,
}

impl Kind {
    /// The kind as documents spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NetworkPolicy | Self::CalicoNetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::StagedNetworkPolicy => "StagedNetworkPolicy",
            Self::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            Self::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
        }
    }
}

/// The name of a policy; prints as `Kind/namespace/name`, cluster-scoped as `Kind//name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    /// The document kind.
    pub kind: Kind,
    /// The namespace; `None` for cluster-scoped kinds.
    pub namespace: Option<Box<str>>,
    /// The object's name.
    pub name: Box<str>,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace.as_deref().unwrap_or_default();
        write!(f, "{}/{}/{}", self.kind.as_str(), namespace, self.name)
    }
}

/// Everything loaded, in the order in which it decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicySet {
    /// Tiers in order of evaluation.
    pub tiers: Vec<Tier>,
    /// CIDR sets that [`Match::InSet`] names, by index.
    pub sets: Vec<CidrSet>,
}

/// An ordered group of policies.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// `kube-admin`, `default`, `kube-baseline` or the declared name.
    pub name: Box<str>,
    /// What the end of the tier means for an endpoint to which one of its policies applies.
    pub default_action: TierDefault,
    /// Policies in order of evaluation, staged ones where they would stand.
    pub policies: Vec<Policy>,
    /// Where the tier was declared; `None` for built-in tiers.
    pub origin: Option<Origin>,
}

/// What the end of an applying tier means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TierDefault {
    /// Deny the flow.
    Deny,
    /// Go on with the next tier.
    Pass,
}

/// Whether a policy decides or only reports what it would decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Enforcement {
    /// Decides.
    Enforced,
    /// Evaluated beside, never enforced; does not make a tier apply.
    Staged,
}

/// One policy object.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its name, for counters, flow records and explain.
    pub name: PolicyName,
    /// Where it was written.
    pub origin: Origin,
    /// Enforced or staged.
    pub enforcement: Enforcement,
    /// The endpoints it applies to; evaluated against pods only, host-networked pods never match.
    pub subject: Match,
    /// Ingress rules in order; `None`: the policy says nothing about ingress.
    pub ingress: Option<Vec<Rule>>,
    /// Egress rules in order; `None`: the policy says nothing about egress.
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// Visits every expression of the policy and every part of one.
    pub(crate) fn for_each_match(&self, visit: &mut impl FnMut(&Match)) {
        self.subject.for_each(visit);
        for rule in self.ingress.iter().chain(&self.egress).flatten() {
            rule.source.for_each(visit);
            rule.destination.for_each(visit);
        }
    }
}

/// One rule of a policy. It matches a flow when source, destination and any of `traffic` match.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Where it was written.
    pub origin: Origin,
    /// The rule's own name, where its kind has one.
    pub name: Option<Box<str>>,
    /// What it does.
    pub action: Action,
    /// Who sends the first packet of the flow.
    pub source: Match,
    /// Who receives it.
    pub destination: Match,
    /// What is sent: any of these. An empty list matches nothing; one `Traffic::default()` matches
    /// everything.
    pub traffic: Vec<Traffic>,
}

impl Rule {
    /// Whether it looks up ports by name at the source, and at the destination.
    pub(crate) fn asks_names(&self) -> [bool; 2] {
        let named = |ports: fn(&Traffic) -> &PortMatch| {
            let mut specs =
                self.traffic.iter().map(ports).flat_map(|p| p.any_of.iter().chain(&p.none_of));
            specs.any(|spec| matches!(spec, PortSpec::Named(_)))
        };
        [named(|t| &t.source_ports), named(|t| &t.destination_ports)]
    }
}

/// A boolean expression over one end of a flow: who or where it is.
///
/// It is decided per identity, never per packet. "Pod" is a live pod with its own address;
/// host-networked pods are their node's address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Match {
    /// Anything.
    Any,
    /// Nothing.
    Nothing,
    /// Any live pod.
    Pod,
    /// A pod whose own labels satisfy the selector.
    PodLabels(Selector),
    /// A pod in the namespace of this name.
    Namespace(Box<str>),
    /// A pod whose namespace's labels satisfy the selector (`kubernetes.io/metadata.name` included).
    NamespaceLabels(Selector),
    /// A pod that runs under the service account of this name.
    ServiceAccount(Box<str>),
    /// A pod whose service account's labels satisfy the selector.
    ServiceAccountLabels(Selector),
    /// An address of a node whose labels satisfy the selector.
    NodeLabels(Selector),
    /// An address within the prefix (host bits ignored), whoever owns it.
    Cidr(IpNet),
    /// An address within a prefix of the set at this index of [`PolicySet::sets`].
    InSet(u32),
    /// Whatever the address: the labels of the cluster's namespace of this name satisfy the selector
    /// (`kubernetes.io/metadata.name` included; a namespace the cluster does not have has that label
    /// alone). Calico's namespaced sets inherit their namespace's labels, so
    /// `All([InSet(i), NamespaceHas(..)])` is how a namespace selector picks such a set.
    NamespaceHas(Box<str>, Selector),
    /// The part does not hold.
    Not(Box<Match>),
    /// All parts hold; with no part: anything.
    All(Vec<Match>),
    /// At least one part holds; with no part: nothing.
    OneOf(Vec<Match>),
}

impl Match {
    /// Visits the expression and every part of it.
    pub(crate) fn for_each(&self, visit: &mut impl FnMut(&Self)) {
        visit(self);
        match self {
            Self::Not(part) => part.for_each(visit),
            Self::All(parts) | Self::OneOf(parts) => parts.iter().for_each(|p| p.for_each(visit)),
            _ => {}
        }
    }

    /// Visits the expression and every part of it, which may be changed.
    pub(crate) fn for_each_mut(&mut self, visit: &mut impl FnMut(&mut Self)) {
        visit(self);
        match self {
            Self::Not(part) => part.for_each_mut(visit),
            Self::All(parts) | Self::OneOf(parts) => {
                parts.iter_mut().for_each(|p| p.for_each_mut(visit));
            }
            _ => {}
        }
    }
}

/// A named set of prefixes (a threat feed, a Calico NetworkSet), possibly with millions of entries.
#[derive(Clone, Debug, PartialEq)]
pub struct CidrSet {
    /// Its name, for messages.
    pub name: Box<str>,
    /// Where it was written.
    pub origin: Origin,
    /// Its prefixes, in any order; host bits ignored. Shared, so that a set of millions is cheap to
    /// clone and to compare with itself.
    pub prefixes: Arc<[IpNet]>,
}

/// Which traffic a rule means; all parts must hold. The default is all traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Traffic {
    /// IP version, if the rule names one.
    pub ip_version: Option<IpVersion>,
    /// IP protocol.
    pub protocol: ProtocolMatch,
    /// Source ports; named ones are looked up on the source pod.
    pub source_ports: PortMatch,
    /// Destination ports; named ones are looked up on the destination pod.
    pub destination_ports: PortMatch,
    /// ICMP or ICMPv6 types that match.
    pub icmp: Option<Icmp>,
    /// ICMP or ICMPv6 types that do not match.
    pub not_icmp: Option<Icmp>,
}

/// IP version of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// IP protocol numbers a rule means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolMatch {
    /// Every protocol.
    #[default]
    Any,
    /// This protocol (IANA number).
    Is(u8),
    /// Every protocol but this.
    Not(u8),
}

/// Ports a rule means: one of `any_of` (empty: every port) and none of `none_of`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMatch {
    /// Ports that match; empty: all, and protocols without ports.
    pub any_of: Vec<PortSpec>,
    /// Ports that do not match.
    pub none_of: Vec<PortSpec>,
}

/// One port, range of ports or named port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortSpec {
    /// From the first to the last port, both included.
    Range(u16, u16),
    /// A container port by name (and the rule's protocol) on the pod at that end.
    Named(Box<str>),
}

/// An ICMP or ICMPv6 message: a type, and perhaps a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Icmp {
    /// Type; `None`: every type.
    pub kind: Option<u8>,
    /// Code; `None`: every code.
    pub code: Option<u8>,
}
