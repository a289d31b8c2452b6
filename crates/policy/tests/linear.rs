//! The compiled program beside the classifier: NetworkPolicies written out as an ordered list of
//! rules over classes, one class an address, tried one by one by the `linear` engine and looked up by
//! the `tree` engine. A second opinion that shares no code with the policy compiler's own.

#[allow(dead_code)] // each test uses its own part
mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;

use common::cases;
use portcullis_classifier::{
    Addresses, ClassMatch, Header, PortRange, Rule, RuleSet, linear, tree,
};
use portcullis_identity_table::endpoint::ClusterState;
use portcullis_policy::judge::Judge;
use portcullis_policy::model::{
    Action, Direction, IpVersion, Kind, Match, Policy, PolicySet, PortSpec, ProtocolMatch,
    TierDefault, Traffic,
};
use portcullis_policy::{self as policy, Engine, Flow, Verdict, load_cluster, load_policies};

const ALLOW: u32 = 1;
const DENY: u32 = 0;

/// Addresses by class number.
struct Classes<'a> {
    judge: Judge<'a>,
    numbers: BTreeMap<IpAddr, u32>,
}

impl Classes<'_> {
    fn holding(&self, expression: &Match) -> ClassMatch {
        let holds = |a: &IpAddr| self.judge.holds(expression, &self.judge.end(*a));
        ClassMatch::set(self.numbers.iter().filter(|(a, _)| holds(a)).map(|(_, n)| *n))
    }

    /// Pods that a policy applies to.
    fn subjects(&self, policy: &Policy) -> ClassMatch {
        self.holding(&Match::All(vec![Match::Pod, policy.subject.clone()]))
    }
}

/// The list for one direction: what policies allow, then who is isolated, then all else.
fn list(direction: Direction, policies: &[Policy], classes: &Classes<'_>) -> RuleSet {
    let mut rules = Vec::new();
    let near = |rule: Rule, subjects: &ClassMatch| match direction {
        Direction::Ingress => rule.destination_class(subjects.clone()),
        Direction::Egress => rule.source_class(subjects.clone()),
    };
    let applying = policies.iter().filter_map(|p| Some((p, p.rules(direction)?)));
    let applying: Vec<_> = applying.map(|(p, rules)| (classes.subjects(p), rules)).collect();
    for (subjects, allowed) in &applying {
        for rule in *allowed {
            for traffic in &rule.traffic {
                for shape in shapes(traffic) {
                    rules.push(match direction {
                        Direction::Ingress => {
                            near(shape, subjects).source_class(classes.holding(&rule.source))
                        }
                        Direction::Egress => near(shape, subjects)
                            .destination_class(classes.holding(&rule.destination)),
                    });
                }
            }
        }
    }
    rules.extend(applying.iter().map(|(subjects, _)| near(Rule::any(DENY), subjects)));
    rules.push(Rule::any(ALLOW));
    RuleSet::new(rules).unwrap()
}

/// The traffic of a rule as classifier rules.
fn shapes(traffic: &Traffic) -> Vec<Rule> {
    let base = match traffic.protocol {
        ProtocolMatch::Any => Rule::any(ALLOW),
        ProtocolMatch::Is(protocol) => Rule::any(ALLOW).protocol(protocol),
        ProtocolMatch::Not(_) => unreachable!("no NetworkPolicy says so"),
    };
    if traffic.destination_ports.any_of.is_empty() {
        return vec![base];
    }
    let ports = traffic.destination_ports.any_of.iter().map(|spec| match spec {
        PortSpec::Range(first, last) => PortRange::new(*first, *last).unwrap(),
        PortSpec::Named(_) => unreachable!("left out below"),
    });
    ports.map(|range| base.clone().destination_ports(range)).collect()
}

/// The policies, if they are NetworkPolicies without named ports.
fn plain(set: &PolicySet) -> Option<&[Policy]> {
    let [tier] = &set.tiers[..] else { return None };
    let rules = tier.policies.iter().flat_map(|p| p.ingress.iter().chain(&p.egress)).flatten();
    let named = |t: &Traffic| {
        t.destination_ports.any_of.iter().any(|spec| matches!(spec, PortSpec::Named(_)))
    };
    let kubernetes = tier.policies.iter().all(|p| p.name.kind == Kind::NetworkPolicy);
    let simple = kubernetes
        && tier.default_action == TierDefault::Deny
        && rules.clone().all(|r| r.action == Action::Allow && !r.traffic.iter().any(named));
    simple.then_some(&tier.policies[..])
}

fn header(flow: &Flow, classes: &Classes<'_>) -> Header {
    let addresses = match (flow.source, flow.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Addresses::V4 { source, destination },
        (IpAddr::V6(source), IpAddr::V6(destination)) => Addresses::V6 { source, destination },
        _ => panic!("flows are of one family"),
    };
    let icmp = flow.header.icmp();
    let ports = |port| if icmp.is_none() { port } else { 0 };
    Header {
        source_class: classes.numbers[&flow.source],
        destination_class: classes.numbers[&flow.destination],
        ..Header::new(
            addresses,
            flow.header.protocol,
            ports(flow.header.source_port),
            ports(flow.header.destination_port),
        )
    }
}

#[test]
fn the_program_agrees_with_the_classifier() {
    let (mut compared, mut used) = (0, 0);
    for case in cases().iter().filter(|case| !case.is_invalid()) {
        let policies = load_policies([case.join("policies.yaml")]).unwrap().value;
        let cluster = load_cluster(case.join("cluster.yaml")).unwrap().value;
        let Some(list_of) = plain(&policies) else { continue };
        let flows = every_pair(&case.flows());
        if flows.len() > 10_000 {
            continue; // rules times classes times flows: the small cases show the same
        }
        used += 1;
        compared += compare(&cluster, &policies, list_of, &flows, &case.to_string());
    }
    assert!(used > 40 && compared > 1000, "{used} cases, {compared} flows");
}

/// What the case sends, between all the addresses that it names.
fn every_pair(asked: &[Flow]) -> Vec<Flow> {
    let mut addresses: Vec<IpAddr> = asked.iter().flat_map(|f| [f.source, f.destination]).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let mut headers: Vec<_> = asked.iter().map(|f| f.header).collect();
    headers.sort_unstable();
    headers.dedup();
    let mut flows = Vec::new();
    for &source in &addresses {
        for &destination in &addresses {
            let fits = |h: &&_| {
                let policy::flow::Header { ip_version, .. } = **h;
                let v4 = ip_version == IpVersion::V4;
                source.is_ipv4() == v4 && destination.is_ipv4() == v4
            };
            flows.extend(headers.iter().filter(fits).map(|&header| Flow {
                source,
                destination,
                header,
            }));
        }
    }
    flows
}

fn compare(
    cluster: &ClusterState,
    policies: &PolicySet,
    list_of: &[Policy],
    flows: &[Flow],
    case: &str,
) -> usize {
    let mut addresses: Vec<IpAddr> = flows.iter().flat_map(|f| [f.source, f.destination]).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let judge = Judge::new(cluster, policies);
    let classes = Classes { judge, numbers: addresses.into_iter().zip(0..).collect() };
    let engines = [Direction::Egress, Direction::Ingress].map(|direction| {
        let rules = list(direction, list_of, &classes);
        let linear = linear::Builder::new().build(&rules).unwrap();
        let tree = tree::Builder::new().build(&rules).unwrap();
        (rules, linear, tree)
    });
    let mut engine = Engine::default();
    let _ = engine.apply(cluster.clone(), policies.clone()).unwrap();
    let mut compared = 0;
    for flow in flows {
        // The exemptions of every policy (a pod itself, its own node) are no rules.
        if classes.judge.judge(flow).exempt.is_some() {
            continue;
        }
        let header = header(flow, &classes);
        let verdicts = engines.each_ref().map(|(rules, linear, tree)| {
            let found = linear.lookup(&header);
            assert_eq!(tree.lookup(&header), found, "{case}: tree: {flow:?}");
            rules.rule(found.expect("the last rule matches everything")).unwrap().action
        });
        let expected = if verdicts == [ALLOW, ALLOW] { Verdict::Allow } else { Verdict::Deny };
        assert_eq!(engine.evaluate(flow).verdict, expected, "{case}: {flow:?}");
        compared += 1;
    }
    compared
}
