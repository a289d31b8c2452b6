//! Answers to questions about policies as JSON: what the command prints with `--json`, and programs read
//! that are not written in Rust.
//!
//! ```
//! use portcullis::policy::{Flow, explain};
//! use portcullis::report;
//!
//! let flow = Flow::new("10.0.0.1".parse()?, "10.0.0.2".parse()?, 6, (40000, 80));
//! let explanation = explain(&Default::default(), &Default::default(), &flow);
//! assert_eq!(report::explanation(&explanation)["verdict"], "allow");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeSet;

use portcullis_identity_table::Labels;
use portcullis_identity_table::endpoint::{Endpoint, NamedPort};
use portcullis_policy::Flow;
use portcullis_policy::diff::{Change, DecidedBy, Decision, Diff};
use portcullis_policy::explain::{
    Explanation, Outcome as TierOutcome, Part, Party, RuleAt, TierStep, Walk,
};
use portcullis_policy::group::Group;
use portcullis_policy::judge::Exemption;
use portcullis_policy::lint::Finding;
use portcullis_policy::model::{Direction, IpVersion, Origin, TierDefault};
use portcullis_policy::reach::{Reach, Row, Way, Why};
use portcullis_policy::space::{self, Protocols, Region};
use serde_json::{Value, json};

/// Why a flow is decided as it is.
pub fn explanation(explanation: &Explanation) -> Value {
    json!({
        "flow": flow(&explanation.flow),
        "verdict": explanation.verdict.as_str(),
        "policy": explanation.policy.as_ref().map(ToString::to_string),
        "exempt": explanation.exempt.map(|exempt| match exempt {
            Exemption::SamePod => "same-pod",
            Exemption::OwnNode => "own-node",
        }),
        "source": party(&explanation.source),
        "destination": party(&explanation.destination),
        "egress": explanation.egress.as_ref().map(walk),
        "ingress": explanation.ingress.as_ref().map(walk),
        "staged": explanation.staged.as_ref().map(|staged| json!({
            "verdict": staged.verdict.as_str(),
            "policy": staged.policy.to_string(),
            "rule": staged.rule.as_ref().map(rule),
        })),
    })
}

fn party(party: &Party) -> Value {
    json!({
        "address": party.address.to_string(),
        "pod": party.pod.as_ref().map(ToString::to_string),
        "node": party.node,
        "labels": labels(&party.labels),
        "service_account": party.service_account,
    })
}

fn walk(walk: &Walk) -> Value {
    json!({
        "verdict": walk.verdict.as_str(),
        "tiers": walk.tiers.iter().map(tier).collect::<Vec<_>>(),
    })
}

fn tier(step: &TierStep) -> Value {
    let policies: Vec<Value> = step
        .applying
        .iter()
        .map(|(name, at)| json!({"policy": name.to_string(), "origin": origin(at)}))
        .collect();
    let near: Vec<Value> = step
        .near_misses
        .iter()
        .map(|miss| {
            let differs = match miss.differs {
                Part::Source => "source",
                Part::Destination => "destination",
                Part::Traffic => "traffic",
            };
            json!({"rule": rule(&miss.rule), "differs": differs, "wants": miss.wants})
        })
        .collect();
    let (outcome, by) = match &step.outcome {
        TierOutcome::Skipped => ("skipped", None),
        TierOutcome::Rule(by) => ("rule", Some(rule(by))),
        TierOutcome::End(TierDefault::Deny) => ("default-deny", None),
        TierOutcome::End(TierDefault::Pass) => ("default-pass", None),
    };
    json!({
        "tier": step.tier,
        "outcome": outcome,
        "rule": by,
        "applying": policies,
        "logged": step.logged.iter().map(rule).collect::<Vec<_>>(),
        "near_misses": near,
    })
}

fn rule(rule: &RuleAt) -> Value {
    json!({
        "policy": rule.policy.to_string(),
        "number": rule.number,
        "name": rule.name,
        "action": format!("{:?}", rule.action).to_lowercase(),
        "origin": origin(&rule.origin),
    })
}

/// Which flows are decided otherwise.
pub fn diff(diff: &Diff) -> Value {
    json!({"changes": diff.changes.iter().map(change).collect::<Vec<_>>()})
}

fn change(change: &Change) -> Value {
    json!({
        "sources": group(&change.sources),
        "destinations": group(&change.destinations),
        "traffic": traffic(&change.regions, &change.families),
        "from": decision(&change.from),
        "to": decision(&change.to),
        "example": flow(&change.example),
    })
}

fn decision(decision: &Decision) -> Value {
    json!({
        "verdict": decision.verdict.as_str(),
        "by": decision.by.as_ref().map(decided_by),
    })
}

/// Who can reach an endpoint, or whom it can reach.
pub fn reach(reach: &Reach) -> Value {
    json!({
        "endpoint": reach.endpoint.to_string(),
        "way": match reach.way { Way::To => "to", Way::From => "from" },
        "rows": reach.rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn row(row: &Row) -> Value {
    let (why, by) = match &row.why {
        Why::Rule(by) => ("rule", Some(decided_by(by))),
        Why::NoPolicy => ("no-policy", None),
        Why::Exempt(Exemption::OwnNode) => ("own-node", None),
        Why::Exempt(Exemption::SamePod) => ("same-pod", None),
    };
    json!({
        "peers": group(&row.peers),
        "traffic": traffic(&row.regions, &row.families),
        "why": why,
        "by": by,
        "example": flow(&row.example),
    })
}

/// A probable mistake.
pub fn finding(finding: &Finding) -> Value {
    json!({
        "level": finding.level.as_str(),
        "code": finding.code.as_str(),
        "origin": finding.origin.as_ref().map(origin),
        "message": finding.message,
    })
}

/// An endpoint.
pub fn endpoint(endpoint: &Endpoint) -> Value {
    let port =
        |port: &NamedPort| json!({"name": port.name, "protocol": port.protocol, "port": port.port});
    json!({
        "namespace": endpoint.namespace,
        "name": endpoint.name,
        "labels": labels(&endpoint.labels),
        "service_account": endpoint.service_account,
        "node": endpoint.node,
        "host_network": endpoint.host_network,
        "ports": endpoint.named_ports.iter().map(port).collect::<Vec<_>>(),
        "addresses": endpoint.addresses,
    })
}

fn labels(labels: &Labels) -> Value {
    labels.iter().map(|(key, value)| (key.to_owned(), json!(value))).collect()
}

/// Where something was written.
pub fn origin(origin: &Origin) -> Value {
    json!({"file": *origin.file, "line": origin.line, "column": origin.column})
}

/// `ingress` or `egress`.
pub fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn decided_by(by: &DecidedBy) -> Value {
    json!({
        "direction": direction(by.direction),
        "policy": by.policy.to_string(),
        "rule": by.rule,
        "origin": origin(&by.origin),
    })
}

fn group(group: &Group) -> Value {
    let pods: Vec<String> = group
        .pods
        .iter()
        .flat_map(|(namespace, pods)| {
            pods.names.iter().map(move |name| format!("{namespace}/{name}"))
        })
        .collect();
    json!({
        "text": group.to_string(),
        "pods": pods,
        "nodes": group.nodes,
        "prefixes": group.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "more_prefixes": group.more_prefixes,
    })
}

fn traffic(regions: &[Region], families: &BTreeSet<IpVersion>) -> Value {
    let families: Vec<u8> = families
        .iter()
        .map(|version| match version {
            IpVersion::V4 => 4,
            IpVersion::V6 => 6,
        })
        .collect();
    let list: Vec<Value> = regions
        .iter()
        .map(|region| {
            let protocol = match region.protocols {
                Protocols::Is(number) => json!(number),
                Protocols::Others { .. } => json!("other"),
            };
            json!({
                "protocol": protocol,
                "source": [region.source.0, region.source.1],
                "destination": [region.destination.0, region.destination.1],
            })
        })
        .collect();
    json!({"text": space::phrase(regions), "regions": list, "ip_versions": families})
}

/// A flow.
pub fn flow(flow: &Flow) -> Value {
    json!({
        "text": flow.to_string(),
        "source": flow.source.to_string(),
        "destination": flow.destination.to_string(),
        "protocol": flow.header.protocol,
        "source_port": flow.header.source_port,
        "destination_port": flow.header.destination_port,
    })
}
