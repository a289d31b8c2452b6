//! A made-up cluster for policies without one: somebody for every selector, so that the compiled
//! policies can be proved over more than nothing.
//!
//! Each alternative of each expression gets a pod (or a node) whose labels, namespace and service
//! account satisfy what it asks for; what it forbids is not looked at, so an expression that asks and
//! forbids the same thing has nobody. One more pod has no labels at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_identity_table::endpoint::{
    ClusterState, Endpoint, NAMESPACE_NAME_LABEL, NamedPort, Namespace, Node, ServiceAccount,
};
use portcullis_identity_table::{Labels, Selector};

use crate::flow::protocol;
use crate::model::{Match, PolicySet, PortSpec};

/// Most pods and nodes that are made up; the policies of a large set repeat themselves.
const MOST: usize = 1000;
/// Most alternatives of one expression.
const ALTERNATIVES: usize = 32;

type Pairs = BTreeMap<Box<str>, Box<str>>;

/// Somebody, as far as an expression asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Sketch {
    labels: Pairs,
    namespace: Option<Box<str>>,
    namespace_labels: Pairs,
    account: Option<Box<str>>,
    account_labels: Pairs,
    /// A node with these labels instead of a pod.
    node: Option<Pairs>,
}

/// Makes up a cluster. O(expressions).
pub fn stand_in(policies: &PolicySet) -> ClusterState {
    let mut sketches = BTreeSet::from([Sketch::default()]);
    let mut names = BTreeSet::new();
    for policy in policies.tiers.iter().flat_map(|tier| &tier.policies) {
        sketches.extend(sketch(&policy.subject));
        for rule in policy.ingress.iter().chain(&policy.egress).flatten() {
            sketches.extend(sketch(&rule.source));
            sketches.extend(sketch(&rule.destination));
            for traffic in &rule.traffic {
                let ports = [&traffic.source_ports, &traffic.destination_ports];
                for spec in ports.into_iter().flat_map(|p| p.any_of.iter().chain(&p.none_of)) {
                    if let PortSpec::Named(name) = spec {
                        names.insert(name.clone());
                    }
                }
            }
        }
    }
    let mut cluster = ClusterState::default();
    let mut namespaces: BTreeMap<Box<str>, Pairs> = BTreeMap::new();
    let mut accounts: BTreeMap<(Box<str>, Box<str>), Pairs> = BTreeMap::new();
    for (number, sketch) in sketches.into_iter().take(MOST).enumerate() {
        let (v4, v6) = addresses(number);
        if let Some(labels) = sketch.node {
            let name = format!("node-{number}").into();
            cluster.nodes.push(Node { name, labels: to_labels(&labels), addresses: vec![v4, v6] });
            continue;
        }
        let named = || sketch.namespace_labels.get(NAMESPACE_NAME_LABEL).cloned();
        let namespace = sketch.namespace.clone().or_else(named).unwrap_or_else(|| {
            let own = !sketch.namespace_labels.is_empty();
            if own { format!("made-up-{number}").into() } else { "default".into() }
        });
        merge(namespaces.entry(namespace.clone()).or_default(), &sketch.namespace_labels);
        let account = sketch.account.clone().unwrap_or_else(|| {
            let own = !sketch.account_labels.is_empty();
            if own { format!("made-up-{number}").into() } else { "default".into() }
        });
        let key = (namespace.clone(), account.clone());
        merge(accounts.entry(key).or_default(), &sketch.account_labels);
        cluster.endpoints.push(Endpoint {
            labels: to_labels(&sketch.labels),
            service_account: account,
            named_ports: named_ports(&names, number),
            addresses: vec![v4, v6],
            ..Endpoint::new(&namespace, &format!("made-up-{number}"))
        });
    }
    cluster.namespaces =
        namespaces.iter().map(|(name, pairs)| Namespace::new(name, to_labels(pairs))).collect();
    cluster.service_accounts = accounts
        .into_iter()
        .map(|((namespace, name), pairs)| {
            let labels = to_labels(&pairs);
            ServiceAccount { namespace, name, labels }
        })
        .collect();
    cluster
}

/// Somebody for each alternative of an expression.
fn sketch(expression: &Match) -> Vec<Sketch> {
    let of = |selector: &Selector, set: fn(&mut Sketch, Pairs)| {
        let mut pairs = Pairs::new();
        satisfy(selector, &mut pairs);
        let mut sketch = Sketch::default();
        set(&mut sketch, pairs);
        vec![sketch]
    };
    match expression {
        Match::PodLabels(selector) => of(selector, |s, pairs| s.labels = pairs),
        Match::NamespaceLabels(selector) => of(selector, |s, pairs| s.namespace_labels = pairs),
        Match::ServiceAccountLabels(selector) => of(selector, |s, pairs| s.account_labels = pairs),
        Match::NodeLabels(selector) => of(selector, |s, pairs| s.node = Some(pairs)),
        Match::Namespace(name) => {
            vec![Sketch { namespace: Some(name.clone()), ..Sketch::default() }]
        }
        Match::ServiceAccount(name) => {
            vec![Sketch { account: Some(name.clone()), ..Sketch::default() }]
        }
        Match::OneOf(parts) => parts.iter().flat_map(sketch).take(ALTERNATIVES).collect(),
        Match::All(parts) => parts.iter().fold(vec![Sketch::default()], |so_far, part| {
            let more = sketch(part);
            let both = so_far.iter().flat_map(|a| more.iter().map(|b| a.clone().and(b)));
            both.take(ALTERNATIVES).collect()
        }),
        _ => vec![Sketch::default()],
    }
}

impl Sketch {
    fn and(mut self, other: &Self) -> Self {
        merge(&mut self.labels, &other.labels);
        merge(&mut self.namespace_labels, &other.namespace_labels);
        merge(&mut self.account_labels, &other.account_labels);
        self.namespace = self.namespace.or_else(|| other.namespace.clone());
        self.account = self.account.or_else(|| other.account.clone());
        self.node = self.node.or_else(|| other.node.clone());
        self
    }
}

fn merge(pairs: &mut Pairs, more: &Pairs) {
    for (key, value) in more {
        pairs.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

/// Adds labels that satisfy a selector, where it asks for some.
fn satisfy(selector: &Selector, pairs: &mut Pairs) {
    let mut put = |key: &str, value: &str| {
        pairs.entry(key.into()).or_insert_with(|| value.into());
    };
    match selector {
        Selector::Has(key) => put(key, "any"),
        Selector::Equals(key, value)
        | Selector::Contains(key, value)
        | Selector::StartsWith(key, value)
        | Selector::EndsWith(key, value) => put(key, value),
        Selector::In(key, values) => {
            if let Some(value) = values.first() {
                put(key, value);
            }
        }
        Selector::And(parts) => parts.iter().for_each(|part| satisfy(part, pairs)),
        Selector::Or(parts) => {
            if let Some(part) = parts.first() {
                satisfy(part, pairs);
            }
        }
        _ => {}
    }
}

fn to_labels(pairs: &Pairs) -> Labels {
    pairs.iter().map(|(key, value)| (&**key, &**value)).collect()
}

/// Every name that some rule looks up, as other ports on every second pod.
fn named_ports(names: &BTreeSet<Box<str>>, number: usize) -> Vec<NamedPort> {
    let first = if number.is_multiple_of(2) { 8000 } else { 18000 };
    let transports = [protocol::TCP, protocol::UDP, protocol::SCTP];
    let ports = names.iter().take(1000).zip(first..).flat_map(|(name, port)| {
        transports.map(|protocol| NamedPort { name: name.clone(), protocol, port })
    });
    ports.collect()
}

fn addresses(number: usize) -> (IpAddr, IpAddr) {
    let number = number as u32 + 1;
    let v4 = Ipv4Addr::from_bits(u32::from_be_bytes([100, 64, 0, 0]) + number);
    let v6 = Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(number));
    (v4.into(), v6.into())
}
