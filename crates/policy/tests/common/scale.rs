//! A cluster and policies of any size, shaped as real ones are: many small namespaces, deployments of
//! some replicas, policies that name few peers, a few that concern everyone.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use portcullis_identity_table::endpoint::{ClusterState, Endpoint, NamedPort, Namespace, Node};
use portcullis_identity_table::{Labels, Selector};
use portcullis_policy::model::*;

/// Pods of one deployment.
const REPLICAS: usize = 5;
/// Deployments of one namespace.
const DEPLOYMENTS: usize = 20;
/// Pods of one node.
const PODS_PER_NODE: usize = 100;

/// A reproducible sequence of numbers (SplitMix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound as u64) as usize
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

/// The address of a pod.
pub(crate) fn pod_address(pod: usize) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + pod as u32 + 256).into()
}

/// One pod.
pub(crate) fn pod(pod: usize) -> Endpoint {
    let deployment = pod / REPLICAS;
    let namespace = deployment / DEPLOYMENTS;
    let app = format!("app-{}", deployment % DEPLOYMENTS);
    let tier = ["front", "back", "data"][deployment % 3];
    Endpoint {
        labels: labels(&[("app", &app), ("tier", tier), ("release", "stable")]),
        // Spread over the cluster as a scheduler does.
        node: Some(format!("node-{}", pod * 7 % (pod / PODS_PER_NODE + 1)).into()),
        named_ports: vec![NamedPort { name: "http".into(), protocol: 6, port: 8080 }],
        addresses: vec![pod_address(pod)],
        ..Endpoint::new(&format!("ns-{namespace}"), &format!("{app}-{pod}"))
    }
}

/// A cluster of this many pods.
pub(crate) fn cluster(pods: usize) -> ClusterState {
    let namespaces = pods.div_ceil(REPLICAS * DEPLOYMENTS);
    let teams = ["red", "green", "blue", "white"];
    ClusterState {
        namespaces: (0..namespaces)
            .map(|n| Namespace::new(&format!("ns-{n}"), labels(&[("team", teams[n % 4])])))
            .collect(),
        service_accounts: Vec::new(),
        nodes: (0..pods.div_ceil(PODS_PER_NODE))
            .map(|n| Node {
                name: format!("node-{n}").into(),
                labels: Labels::default(),
                addresses: vec![Ipv4Addr::from_bits(0xc0a8_0000 + n as u32).into()],
            })
            .collect(),
        endpoints: (0..pods).map(pod).collect(),
    }
}

/// This many policies over such a cluster.
pub(crate) fn policies(count: usize, pods: usize) -> PolicySet {
    let mut numbers = Numbers(7);
    let mut list: Vec<Policy> = (0..count).map(|n| policy(n, pods, &mut numbers)).collect();
    let admin = list.iter().position(|p| p.name.namespace.is_some()).unwrap_or(list.len());
    let namespaced = list.split_off(admin);
    let tier = |name: &str, default_action, policies| Tier {
        name: name.into(),
        default_action,
        policies,
        origin: None,
    };
    PolicySet {
        tiers: vec![
            tier("kube-admin", TierDefault::Pass, list),
            tier("default", TierDefault::Deny, namespaced),
        ],
        sets: Vec::new(),
    }
}

/// One policy: the first few concern everyone, the others each one deployment or one namespace.
pub(crate) fn policy(n: usize, pods: usize, numbers: &mut Numbers) -> Policy {
    let namespaces = pods.div_ceil(REPLICAS * DEPLOYMENTS).max(1);
    let namespace: Box<str> = format!("ns-{}", n % namespaces).into();
    let app = |numbers: &mut Numbers| {
        let app = format!("app-{}", numbers.below(DEPLOYMENTS));
        Match::PodLabels(Selector::Equals("app".into(), app.into()))
    };
    let here = |part: Match| Match::All(vec![Match::Namespace(namespace.clone()), part]);
    let rule = |action, source: Match, destination: Match, traffic| Rule {
        origin: Origin::default(),
        name: None,
        action,
        source,
        destination,
        traffic,
    };
    let tcp = |ports: Vec<PortSpec>| {
        vec![Traffic {
            protocol: ProtocolMatch::Is(6),
            destination_ports: PortMatch { any_of: ports, none_of: Vec::new() },
            ..Traffic::default()
        }]
    };
    let port = |p: u16| PortSpec::Range(p, p);
    let name = PolicyName {
        kind: if n < 5 { Kind::ClusterNetworkPolicy } else { Kind::NetworkPolicy },
        namespace: (n >= 5).then(|| namespace.clone()),
        name: format!("policy-{n}").into(),
    };
    let (subject, ingress, egress) = if n < 5 {
        let team = ["red", "green", "blue", "white", "black"][n];
        let team = Match::NamespaceLabels(Selector::Equals("team".into(), team.into()));
        let ports = vec![port(23), port(445 + n as u16)];
        (Match::Pod, Some(vec![rule(Action::Deny, team, Match::Any, tcp(ports))]), None)
    } else {
        match n % 10 {
            // Default deny.
            0 | 1 => (here(Match::Pod), Some(Vec::new()), None),
            // From a whole team.
            2 => {
                let team = ["red", "green", "blue", "white"][numbers.below(4)];
                let team = Match::NamespaceLabels(Selector::Equals("team".into(), team.into()));
                let ports = tcp(vec![PortSpec::Named("http".into())]);
                (here(app(numbers)), Some(vec![rule(Action::Allow, team, Match::Any, ports)]), None)
            }
            // To an outside network, and DNS.
            3 => {
                let outside = 0xc600_0000 + (numbers.below(1 << 16) << 8) as u32;
                let outside = IpNet::from(Ipv4Net::new_assert(Ipv4Addr::from_bits(outside), 24));
                let dns = vec![Traffic {
                    protocol: ProtocolMatch::Is(17),
                    destination_ports: PortMatch { any_of: vec![port(53)], none_of: Vec::new() },
                    ..Traffic::default()
                }];
                let system = Match::Namespace("ns-0".into());
                let rules = vec![
                    rule(Action::Allow, Match::Any, Match::Cidr(outside), tcp(vec![port(443)])),
                    rule(Action::Allow, Match::Any, system, dns),
                ];
                (here(app(numbers)), None, Some(rules))
            }
            // From one or two deployments of the same namespace.
            _ => {
                let mut rules = Vec::new();
                for _ in 0..1 + n % 2 {
                    let first = 1024 + numbers.below(60000) as u16;
                    let ports = vec![port(8080), PortSpec::Range(first, first.saturating_add(10))];
                    let peer = here(app(numbers));
                    rules.push(rule(Action::Allow, peer, Match::Any, tcp(ports)));
                }
                (here(app(numbers)), Some(rules), None)
            }
        }
    };
    let (origin, enforcement) = (Origin::default(), Enforcement::Enforced);
    Policy { name, origin, enforcement, subject, ingress, egress }
}
