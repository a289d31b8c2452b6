//! Small random clusters and policy sets, dense enough that everything meets everything.
#![allow(dead_code)]

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_identity_table::endpoint::{
    ClusterState, Endpoint, NamedPort, Namespace, Node, ServiceAccount,
};
use portcullis_identity_table::{Labels, Selector};
use portcullis_policy::Flow;
use portcullis_policy::model::*;
use proptest::prelude::*;

pub(crate) fn address(n: u8) -> IpAddr {
    if n < 10 {
        IpAddr::from([10, 0, n / 4, n])
    } else {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n.into()])
    }
}

/// Addresses of everyone who may be in a random cluster, and of some who never are.
pub(crate) const ADDRESSES: core::ops::Range<u8> = 0..14;

pub(crate) fn any_labels() -> impl Strategy<Value = Labels> {
    let key = prop::sample::select(vec!["a", "b"]);
    prop::collection::vec((key, prop::sample::select(vec!["1", "2"])), 0..3)
        .prop_map(|pairs| pairs.into_iter().collect())
}

pub(crate) fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let port =
        (prop::sample::select(vec!["http", "dns"]), prop::sample::select(vec![6, 17]), 80..82u16)
            .prop_map(|(name, protocol, port)| NamedPort { name: name.into(), protocol, port });
    let addresses = prop::collection::vec(ADDRESSES.prop_map(address), 0..3);
    (
        (0..8u8, 0..2u8, prop::option::of(0..2u8), prop::bool::weighted(0.15)),
        any_labels(),
        prop::collection::vec(port, 0..3),
        addresses,
    )
        .prop_map(|((name, account, node, host_network), labels, named_ports, addresses)| {
            Endpoint {
                labels,
                service_account: format!("s{account}").into(),
                node: node.map(|n| format!("n{n}").into()),
                host_network,
                named_ports,
                addresses,
                ..Endpoint::new(if name < 4 { "x" } else { "y" }, &format!("p{name}"))
            }
        })
}

pub(crate) fn any_cluster() -> impl Strategy<Value = ClusterState> {
    (
        any_labels(),
        any_labels(),
        (any_labels(), any_labels()),
        prop::collection::vec(ADDRESSES.prop_map(address), 0..2),
        prop::collection::vec(any_endpoint(), 0..8),
    )
        .prop_map(|(namespace, account, (n0, n1), addresses, endpoints)| {
            let mut cluster = ClusterState {
                namespaces: vec![Namespace::new("x", namespace)],
                service_accounts: vec![ServiceAccount {
                    namespace: "x".into(),
                    name: "s0".into(),
                    labels: account,
                }],
                nodes: vec![
                    Node { name: "n0".into(), labels: n0, addresses: addresses.clone() },
                    Node { name: "n1".into(), labels: n1, addresses: Vec::new() },
                ],
                endpoints: Vec::new(),
            };
            // The first of several who claim a name or an address keeps it.
            let mut names = std::collections::HashSet::new();
            let mut pods: std::collections::HashSet<IpAddr> = addresses.iter().copied().collect();
            let mut hosts = addresses
                .into_iter()
                .map(|a| (a, Some("n0".into())))
                .collect::<std::collections::HashMap<_, Option<Box<str>>>>();
            for mut endpoint in endpoints {
                if !names.insert(endpoint.key()) {
                    continue;
                }
                if endpoint.host_network {
                    let node = endpoint.node.clone();
                    endpoint.addresses.retain(|a| match hosts.get(a) {
                        Some(other) => *other == node,
                        None => pods.insert(*a),
                    });
                    hosts.extend(endpoint.addresses.iter().map(|&a| (a, node.clone())));
                } else {
                    endpoint.addresses.sort_unstable();
                    endpoint.addresses.dedup();
                    endpoint.addresses.retain(|a| pods.insert(*a));
                }
                cluster.endpoints.push(endpoint);
            }
            cluster
        })
}

fn any_selector() -> impl Strategy<Value = Selector> {
    let key = || prop::sample::select(vec!["a", "b"]).prop_map(Box::<str>::from);
    let value = || prop::sample::select(vec!["1", "2"]).prop_map(Box::<str>::from);
    let leaf = prop_oneof![
        Just(Selector::All),
        key().prop_map(Selector::Has),
        (key(), value()).prop_map(|(k, v)| Selector::Equals(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::NotEquals(k, v)),
        (key(), prop::collection::btree_set(value(), 0..3)).prop_map(|(k, v)| Selector::In(k, v)),
        (key(), prop::collection::btree_set(value(), 0..3))
            .prop_map(|(k, v)| Selector::NotIn(k, v)),
    ];
    leaf.prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|s| Selector::Not(Box::new(s))),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Selector::And),
            prop::collection::vec(inner, 0..3).prop_map(Selector::Or),
        ]
    })
}

pub(crate) fn any_prefix() -> impl Strategy<Value = IpNet> {
    (ADDRESSES, prop::sample::select(vec![0u8, 8, 22, 24, 30, 31, 32])).prop_map(|(n, length)| {
        let address = address(n);
        let length = if address.is_ipv6() { 128 - (32 - length) * 4 } else { length };
        IpNet::new_assert(address, length)
    })
}

pub(crate) fn any_match() -> impl Strategy<Value = Match> {
    let name = || prop::sample::select(vec!["x", "y"]).prop_map(Box::<str>::from);
    let leaf = prop_oneof![
        3 => Just(Match::Any),
        1 => Just(Match::Nothing),
        1 => Just(Match::Pod),
        3 => any_selector().prop_map(Match::PodLabels),
        2 => name().prop_map(Match::Namespace),
        2 => any_selector().prop_map(Match::NamespaceLabels),
        1 => prop::sample::select(vec!["s0", "s1"]).prop_map(|s| Match::ServiceAccount(s.into())),
        1 => any_selector().prop_map(Match::ServiceAccountLabels),
        1 => any_selector().prop_map(Match::NodeLabels),
        3 => any_prefix().prop_map(Match::Cidr),
        1 => (0..3u32).prop_map(Match::InSet),
        1 => (name(), any_selector()).prop_map(|(n, s)| Match::NamespaceHas(n, s)),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|m| Match::Not(Box::new(m))),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Match::All),
            prop::collection::vec(inner, 0..3).prop_map(Match::OneOf),
        ]
    })
}

fn any_ports() -> impl Strategy<Value = PortMatch> {
    let spec = || {
        prop_oneof![
            (79..83u16, 0..3u16).prop_map(|(first, more)| PortSpec::Range(first, first + more)),
            Just(PortSpec::Range(0, 80)),
            Just(PortSpec::Range(81, u16::MAX)),
            prop::sample::select(vec!["http", "dns", "none"])
                .prop_map(|n| PortSpec::Named(n.into())),
        ]
    };
    let some = |n| prop::collection::vec(spec(), 0..n);
    prop_oneof![
        2 => Just(PortMatch::default()),
        1 => (some(3), some(2)).prop_map(|(any_of, none_of)| PortMatch { any_of, none_of }),
    ]
}

pub(crate) fn any_traffic() -> impl Strategy<Value = Traffic> {
    let icmp = || {
        let number = || prop::option::of(prop::sample::select(vec![0u8, 8, 255]));
        prop::option::weighted(
            0.15,
            (number(), number()).prop_map(|(kind, code)| Icmp { kind, code }),
        )
    };
    let protocols = || prop::sample::select(vec![1u8, 6, 17, 47, 58, 132]);
    let protocol = prop_oneof![
        Just(ProtocolMatch::Any),
        protocols().prop_map(ProtocolMatch::Is),
        protocols().prop_map(ProtocolMatch::Not),
    ];
    let version =
        prop::option::weighted(0.2, prop::sample::select(vec![IpVersion::V4, IpVersion::V6]));
    (version, protocol, any_ports(), any_ports(), icmp(), icmp()).prop_map(
        |(ip_version, protocol, source_ports, destination_ports, icmp, not_icmp)| Traffic {
            ip_version,
            protocol,
            source_ports,
            destination_ports,
            icmp,
            not_icmp,
        },
    )
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let action = prop::sample::select(vec![
        Action::Allow,
        Action::Allow,
        Action::Deny,
        Action::Pass,
        Action::Log,
    ]);
    let near = || prop_oneof![3 => Just(Match::Any), 1 => any_match()];
    (action, any_match(), near(), any::<bool>(), prop::collection::vec(any_traffic(), 0..3))
        .prop_map(|(action, one, other, swap, traffic)| {
            let (source, destination) = if swap { (other, one) } else { (one, other) };
            Rule { origin: Origin::default(), name: None, action, source, destination, traffic }
        })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let rules = || prop::option::weighted(0.7, prop::collection::vec(any_rule(), 0..4));
    let staged = prop::bool::weighted(0.2);
    (0..6u8, staged, any_match(), rules(), rules()).prop_map(
        |(name, staged, subject, ingress, egress)| Policy {
            name: PolicyName {
                kind: if staged {
                    Kind::StagedGlobalNetworkPolicy
                } else {
                    Kind::GlobalNetworkPolicy
                },
                namespace: None,
                name: format!("p{name}").into(),
            },
            origin: Origin::default(),
            enforcement: if staged { Enforcement::Staged } else { Enforcement::Enforced },
            subject,
            ingress,
            egress,
        },
    )
}

pub(crate) fn any_policies() -> impl Strategy<Value = PolicySet> {
    let default_action = prop::sample::select(vec![TierDefault::Deny, TierDefault::Pass]);
    let tier = (0..3u8, default_action, prop::collection::vec(any_policy(), 0..4)).prop_map(
        |(name, default_action, policies)| Tier {
            name: format!("t{name}").into(),
            default_action,
            policies,
            origin: None,
        },
    );
    let set = prop::collection::vec(any_prefix(), 0..3).prop_map(|prefixes| CidrSet {
        name: "set".into(),
        origin: Origin::default(),
        prefixes: prefixes.into(),
    });
    (prop::collection::vec(tier, 0..4), prop::collection::vec(set, 0..4))
        .prop_map(|(tiers, sets)| PolicySet { tiers, sets })
}

/// Headers at and around everything that the random traffic tells apart.
pub(crate) fn headers() -> Vec<(u8, (u16, u16))> {
    let mut headers = vec![(2, (0, 0)), (47, (0, 0)), (255, (0, 0))];
    for protocol in [6, 17, 132] {
        for destination in [0, 79, 80, 81, 82, 84, u16::MAX] {
            headers.push((protocol, (40000, destination)));
        }
        headers.extend([(protocol, (80, 80)), (protocol, (81, 443)), (protocol, (79, 81))]);
    }
    for protocol in [1, 58] {
        for (kind, code) in [(0, 0), (8, 0), (8, 8), (1, 255), (255, 255), (255, 1)] {
            headers.push((protocol, (kind, code)));
        }
    }
    headers
}

/// Flows between all addresses of one family.
pub(crate) fn flows() -> impl Iterator<Item = Flow> {
    let pairs = ADDRESSES.flat_map(|a| ADDRESSES.map(move |b| (address(a), address(b))));
    pairs.filter(|(a, b)| a.is_ipv4() == b.is_ipv4()).flat_map(|(source, destination)| {
        headers()
            .into_iter()
            .map(move |(protocol, ports)| Flow::new(source, destination, protocol, ports))
    })
}
