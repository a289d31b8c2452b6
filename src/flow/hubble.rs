//! Records as Cilium's Hubble prints flows: `GetFlowsResponse` of its observer, in the JSON mapping of
//! protobuf with the names of the `.proto` file, as `hubble observe -o json` writes it.
//!
//! What Hubble's schema has no field for (byte and packet counts, the staged verdict, how a connection
//! closed) is in the summary, in words. The policy fields need Hubble 1.16 or newer.

use std::net::IpAddr;

use portcullis_dataplane::packet::protocol;
use serde_json::{Map, Value, json};

use super::record::{Action, Event, FlowRecord, Party, Way};

/// Cilium's message types of its monitor: a drop, a trace.
const MESSAGE_DROP: u32 = 1;
const MESSAGE_TRACE: u32 = 4;

/// Cilium's number of identities that are no workload's.
const IDENTITY_WORLD: u32 = 2;

/// Appends a record as one line.
pub fn write(record: &FlowRecord, node: &str, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(&mut *out, &response(record, node));
    out.push(b'\n');
}

/// A record as an object.
pub fn response(record: &FlowRecord, node: &str) -> Value {
    let time = record.time.rfc3339();
    json!({"flow": flow(record, node, &time), "node_name": node, "time": time})
}

fn flow(record: &FlowRecord, node: &str, time: &str) -> Value {
    let denied = record.verdict != Action::Allow;
    let mut flow = Map::new();
    let mut put = |name: &str, value: Value| flow.insert(name.to_owned(), value);
    put("time", json!(time));
    put("verdict", json!(if denied { "DROPPED" } else { "FORWARDED" }));
    put("IP", ip(record));
    if let Some(l4) = layer4(record) {
        put("l4", l4);
    }
    put("source", endpoint(&record.source));
    put("destination", endpoint(&record.destination));
    put("Type", json!("L3_L4"));
    put("node_name", json!(node));
    let message = if denied { MESSAGE_DROP } else { MESSAGE_TRACE };
    put("event_type", json!({"type": message}));
    if let Some(way) = record.direction {
        put(
            "traffic_direction",
            json!(match way {
                Way::Ingress => "INGRESS",
                Way::Egress => "EGRESS",
            }),
        );
    }
    // Records are about a connection in the direction in which it was opened.
    put("is_reply", json!(false));
    if let (true, Some(reason)) = (denied, &record.reason) {
        let (number, name) = drop_reason(reason);
        put("drop_reason", json!(number));
        put("drop_reason_desc", json!(name));
    }
    if let (Some(way), Some(policy)) = (record.direction, policy(&record.policy)) {
        let by = match (way, denied) {
            (Way::Ingress, false) => "ingress_allowed_by",
            (Way::Ingress, true) => "ingress_denied_by",
            (Way::Egress, false) => "egress_allowed_by",
            (Way::Egress, true) => "egress_denied_by",
        };
        put(by, json!([policy]));
    }
    put("Summary", json!(summary(record)));
    Value::Object(flow)
}

fn ip(record: &FlowRecord) -> Value {
    let version = match record.source.address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    json!({
        "source": record.source.address,
        "destination": record.destination.address,
        "ipVersion": version,
    })
}

/// `None` for protocols that Hubble does not know.
fn layer4(record: &FlowRecord) -> Option<Value> {
    let mut ports = json!({
        "source_port": record.source.port,
        "destination_port": record.destination.port,
    });
    let icmp = || {
        json!({
            "type": record.icmp.map_or(0, |icmp| icmp.kind),
            "code": record.icmp.map_or(0, |icmp| icmp.code),
        })
    };
    Some(match record.protocol {
        protocol::TCP => {
            let flags = record.tcp_flags.unwrap_or_default();
            let flags: Map<String, Value> =
                flags.names().map(|name| (name.to_owned(), json!(true))).collect();
            ports["flags"] = Value::Object(flags);
            json!({"TCP": ports})
        }
        protocol::UDP => json!({"UDP": ports}),
        protocol::SCTP => json!({"SCTP": ports}),
        protocol::ICMP => json!({"ICMPv4": icmp()}),
        protocol::ICMPV6 => json!({"ICMPv6": icmp()}),
        _ => return None,
    })
}

fn endpoint(party: &Party) -> Value {
    let Some(labels) = &party.labels else {
        return json!({"identity": IDENTITY_WORLD, "labels": ["reserved:world"]});
    };
    let mut all: Vec<String> =
        labels.iter().map(|(key, value)| format!("k8s:{key}={value}")).collect();
    let mut endpoint = Map::new();
    endpoint.insert("identity".to_owned(), json!(party.identity));
    if let Some(namespace) = &party.namespace {
        all.push(format!("k8s:io.kubernetes.pod.namespace={namespace}"));
        endpoint.insert("namespace".to_owned(), json!(namespace));
    }
    if let Some(name) = &party.name {
        endpoint.insert("pod_name".to_owned(), json!(name));
    }
    all.sort_unstable();
    endpoint.insert("labels".to_owned(), json!(all));
    Value::Object(endpoint)
}

/// Number and name of Hubble's `DropReason` that says about the same.
fn drop_reason(reason: &str) -> (u32, &'static str) {
    match reason {
        "policy_denied" | "policy_rejected" => (133, "POLICY_DENIED"),
        "table_full" | "contention" => (155, "CT_MAP_INSERTION_FAILED"),
        "tcp_not_opening"
        | "tcp_state"
        | "tcp_out_of_window"
        | "tcp_invalid_reset"
        | "sctp_not_opening"
        | "sctp_tag"
        | "sctp_state"
        | "icmp_error_unrelated"
        | "icmp_unsolicited_reply" => (163, "UNKNOWN_CONNECTION_TRACKING_STATE"),
        "no_policy" => (165, "NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION"),
        _ => (0, "DROP_REASON_UNKNOWN"),
    }
}

/// A policy as Hubble names it; `None` if none decided.
fn policy(name: &str) -> Option<Value> {
    let mut parts = name.splitn(3, '/');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let mut policy = Map::new();
    policy.insert("name".to_owned(), json!(name));
    if !namespace.is_empty() {
        policy.insert("namespace".to_owned(), json!(namespace));
    }
    policy.insert("kind".to_owned(), json!(kind));
    Some(Value::Object(policy))
}

fn summary(record: &FlowRecord) -> String {
    let what = match record.event {
        Event::Start => "start".to_owned(),
        Event::Update => "update".to_owned(),
        Event::Change => "change".to_owned(),
        Event::Packet => "packet".to_owned(),
        Event::Deny => format!("denied {} packets", record.sent.packets),
        Event::End => format!("end ({})", record.close.as_deref().unwrap_or("unknown")),
    };
    let (sent, received) = (&record.sent, &record.received);
    let mut text = format!(
        "{what}; {} packets, {} bytes sent; {} packets, {} bytes received",
        sent.packets, sent.bytes, received.packets, received.bytes
    );
    if let Some(rule) = &record.rule {
        text += &format!("; rule {rule}");
    }
    if let Some(staged) = &record.staged {
        let verdict = match staged.verdict {
            Action::Allow => "allow",
            Action::Deny | Action::Reject => "deny",
        };
        text += &format!("; staged {verdict} by {}", staged.policy);
    }
    text
}
