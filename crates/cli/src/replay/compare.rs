//! `replay --compare`: one capture under two sets of policies, and what is decided otherwise.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;

use portcullis::Engine;
use portcullis::dataplane::connection::Key;
use portcullis::dataplane::packet::Tuple;
use portcullis::dataplane::pipeline::Judgement;
use portcullis::dataplane::verdict::Verdict;
use serde::Serialize;

use super::Names;

/// What the two sets decide otherwise.
#[derive(Default)]
pub(super) struct Comparison {
    packets: u64,
    changed: u64,
    /// Flows by either direction: the group that their first changed packet is of.
    flows: HashMap<Key, Group>,
    groups: BTreeMap<Group, Sum>,
}

/// Flows that change alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Group {
    from: Decided,
    to: Decided,
    source: String,
    destination: String,
    protocol: u8,
    destination_port: u16,
}

/// What a set decides, and where that is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Decided {
    verdict: &'static str,
    reason: Option<&'static str>,
    policy: Option<String>,
    /// Where the rule stands, or the policy that made the default deny.
    origin: Option<String>,
}

#[derive(Default, Serialize)]
struct Sum {
    flows: u64,
    packets: u64,
    bytes: u64,
    /// Number of the first packet that changes.
    first: u64,
}

impl Decided {
    pub(super) fn of(engine: &Engine, judgement: &Judgement) -> Self {
        let rule = engine.rule(judgement.rule);
        Self {
            verdict: judgement.verdict.as_str(),
            reason: judgement.reason.map(|reason| reason.as_str()),
            policy: rule.as_ref().map(|rule| rule.policy.name.to_string()),
            origin: rule.as_ref().map(|rule| rule.origin.to_string()),
        }
    }
}

impl Comparison {
    /// Takes packet `n` into account, which the two engines judged; answers whether it changes.
    pub(super) fn packet(
        &mut self,
        n: u64,
        bytes: usize,
        tuple: Option<Tuple>,
        names: &Names,
        [old, new]: [(&Engine, &Judgement); 2],
    ) -> bool {
        self.packets += 1;
        let passes = |judgement: &Judgement| judgement.verdict == Verdict::Allow;
        if passes(old.1) == passes(new.1) {
            return false;
        }
        self.changed += 1;
        // What is no IP packet is decided by settings, which are the same.
        let Some(tuple) = tuple else { return true };
        let mut first_of_flow = false;
        let group = self.flows.entry(Key::of(&tuple).0).or_insert_with(|| {
            first_of_flow = true;
            Group {
                from: Decided::of(old.0, old.1),
                to: Decided::of(new.0, new.1),
                source: names.name(tuple.source_ip()),
                destination: names.name(tuple.destination_ip()),
                protocol: tuple.protocol,
                destination_port: tuple.destination_port,
            }
        });
        let sum = self.groups.entry(group.clone()).or_default();
        if sum.packets == 0 {
            sum.first = n;
        }
        sum.flows += u64::from(first_of_flow);
        sum.packets += 1;
        sum.bytes += bytes as u64;
        true
    }

    /// Whether anything is decided otherwise.
    pub(super) fn differs(&self) -> bool {
        self.changed > 0
    }

    /// One JSON object.
    pub(super) fn as_json(&self) -> serde_json::Value {
        let groups = self.groups.iter().map(|(group, sum)| {
            let mut value = serde_json::json!(group);
            if let (Some(value), serde_json::Value::Object(sum)) =
                (value.as_object_mut(), serde_json::json!(sum))
            {
                value.extend(sum);
            }
            value
        });
        serde_json::json!({
            "packets": self.packets,
            "changed": self.changed,
            "groups": groups.collect::<Vec<_>>(),
        })
    }
}

/// For people: the largest groups last would scroll away, so first.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(group, sum)| (std::cmp::Reverse(sum.packets), *group));
        for (group, sum) in groups {
            let Group { from, to, source, destination, protocol, destination_port } = group;
            let service = match protocol {
                6 => format!("tcp/{destination_port}"),
                17 => format!("udp/{destination_port}"),
                132 => format!("sctp/{destination_port}"),
                1 => "icmp".to_owned(),
                58 => "icmpv6".to_owned(),
                other => format!("protocol {other}"),
            };
            writeln!(
                f,
                "{} -> {}  {source} > {destination} {service}: {} flows, {} packets, {} bytes; first: packet {}",
                from.verdict, to.verdict, sum.flows, sum.packets, sum.bytes, sum.first
            )?;
            writeln!(f, "  before: {from}")?;
            writeln!(f, "  after:  {to}")?;
        }
        let flows = self.flows.len();
        writeln!(
            f,
            "{} of {} packets, of {flows} flows, are decided otherwise",
            self.changed, self.packets
        )
    }
}

impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.policy, &self.origin, self.reason) {
            (Some(policy), Some(origin), _) => write!(f, "{policy} ({origin})"),
            (_, _, Some(reason)) if reason != "policy_denied" => f.write_str(reason),
            _ => f.write_str("default"),
        }
    }
}
