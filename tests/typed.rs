//! Policies made in code: whatever documents can say, types can say.

use portcullis::Engine;
use portcullis::identity_table::Selector;
use portcullis::identity_table::endpoint::{ClusterState, Endpoint};
use portcullis::policy::model::{
    Action, CidrSet, Enforcement, Icmp, Kind, Match, Origin, Policy, PolicyName, PolicySet,
    PortMatch, PortSpec, ProtocolMatch, Rule, Tier, TierDefault, Traffic,
};
use portcullis::policy::{Flow, Source, Verdict, parse_policies};

const DOCUMENTS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
    - from:
        - podSelector: {matchExpressions: [{key: app, operator: In, values: [api, web]}]}
        - namespaceSelector: {matchLabels: {team: ops}}
        - ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.8/29]}
      ports: [{port: 5432, endPort: 5440}, {protocol: UDP, port: dns}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: ops-first}
spec:
  tier: Admin
  priority: 7
  subject: {namespaces: {}}
  ingress:
    - {name: monitoring, action: Accept, from: [{namespaces: {matchLabels: {team: ops}}}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: feed, labels: {list: threats}}
spec: {nets: [198.51.100.0/24]}
---
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: no-threats}
spec:
  order: 5
  selector: app == 'web'
  types: [Ingress]
  ingress:
    - {action: Deny, source: {selector: list == 'threats'}}
    - {action: Log, protocol: ICMP, icmp: {type: 8}}
";

/// The same, made in code.
fn made() -> PolicySet {
    let label = |key: &str, value: &str| Selector::Equals(key.into(), value.into());
    let ops = Match::NamespaceLabels(label("team", "ops"));
    let admin = Tier {
        name: "kube-admin".into(),
        default_action: TierDefault::Pass,
        policies: vec![Policy {
            ingress: Some(vec![Rule {
                name: Some("monitoring".into()),
                ..rule(Action::Allow, ops.clone())
            }]),
            ..policy(Kind::ClusterNetworkPolicy, None, "ops-first", Match::Pod)
        }],
        origin: None,
    };
    let ping = Traffic {
        protocol: ProtocolMatch::Is(1),
        icmp: Some(Icmp { kind: Some(8), code: None }),
        ..Traffic::default()
    };
    let web = Match::PodLabels(label("app", "web"));
    let staged = Policy {
        enforcement: Enforcement::Staged,
        ingress: Some(vec![
            rule(
                Action::Deny,
                Match::OneOf(vec![Match::PodLabels(label("list", "threats")), Match::InSet(0)]),
            ),
            Rule { traffic: vec![ping], ..rule(Action::Log, Match::Any) },
        ]),
        ..policy(Kind::StagedGlobalNetworkPolicy, None, "no-threats", web)
    };
    let ports = |protocol, port| Traffic {
        protocol: ProtocolMatch::Is(protocol),
        destination_ports: PortMatch { any_of: vec![port], none_of: vec![] },
        ..Traffic::default()
    };
    let in_shop =
        |selector| Match::All(vec![Match::Namespace("shop".into()), Match::PodLabels(selector)]);
    let values = ["api", "web"].into_iter().map(Into::into).collect();
    let block = Match::All(vec![
        Match::Cidr("192.0.2.0/24".parse().unwrap()),
        Match::Not(Box::new(Match::Cidr("192.0.2.8/29".parse().unwrap()))),
    ]);
    let peers = Match::OneOf(vec![in_shop(Selector::In("app".into(), values)), ops, block]);
    let database = Policy {
        ingress: Some(vec![Rule {
            traffic: vec![
                ports(6, PortSpec::Range(5432, 5440)),
                ports(17, PortSpec::Named("dns".into())),
            ],
            ..rule(Action::Allow, peers)
        }]),
        ..policy(Kind::NetworkPolicy, Some("shop"), "db", in_shop(label("app", "db")))
    };
    let default = Tier {
        name: "default".into(),
        default_action: TierDefault::Deny,
        policies: vec![staged, database],
        origin: None,
    };
    let feed = CidrSet {
        name: "GlobalNetworkSet//feed".into(),
        origin: Origin::default(),
        prefixes: vec!["198.51.100.0/24".parse().unwrap()].into(),
    };
    PolicySet { tiers: vec![admin, default], sets: vec![feed] }
}

fn policy(kind: Kind, namespace: Option<&str>, name: &str, subject: Match) -> Policy {
    Policy {
        name: PolicyName { kind, namespace: namespace.map(Into::into), name: name.into() },
        origin: Origin::default(),
        enforcement: Enforcement::Enforced,
        subject,
        ingress: None,
        egress: None,
    }
}

fn rule(action: Action, source: Match) -> Rule {
    Rule {
        origin: Origin::default(),
        name: None,
        action,
        source,
        destination: Match::Any,
        traffic: vec![Traffic::default()],
    }
}

/// As if it had been made in code.
fn without_origins(mut set: PolicySet) -> PolicySet {
    set.sets.iter_mut().for_each(|set| set.origin = Origin::default());
    for tier in &mut set.tiers {
        tier.origin = None;
        for policy in &mut tier.policies {
            policy.origin = Origin::default();
            for rule in policy.ingress.iter_mut().chain(&mut policy.egress).flatten() {
                rule.origin = Origin::default();
            }
        }
    }
    set
}

#[test]
fn documents_and_code_make_the_same_policies() {
    let parsed = parse_policies(&[Source::new("policies.yaml", DOCUMENTS)]).unwrap().value;
    assert_eq!(without_origins(parsed), made());
}

#[test]
fn policies_made_in_code_decide_and_are_explained() {
    let engine = Engine::new(Default::default()).unwrap();
    let pod = |name: &str, app: &str, address: &str| Endpoint {
        labels: [("app", app)].into_iter().collect(),
        addresses: vec![address.parse().unwrap()],
        ..Endpoint::new("shop", name)
    };
    let endpoints = vec![pod("api-0", "api", "10.0.0.1"), pod("db-0", "db", "10.0.0.2")];
    engine.apply(ClusterState { endpoints, ..Default::default() }, made()).unwrap();
    engine.prove().unwrap();
    let flow = |port| {
        Flow::new("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 6, (40_000, port))
    };
    assert_eq!(engine.evaluate(&flow(5435)).verdict, Verdict::Allow);
    let denied = engine.evaluate(&flow(22));
    assert_eq!(denied.verdict, Verdict::Deny);
    assert_eq!(denied.rule.unwrap().origin.to_string(), "<code>:0:0");
    assert!(engine.explain(&flow(22)).to_string().contains("NetworkPolicy/shop/db"));
}
