//! Records in Hubble's form: every field is one of Hubble's schema, of the type that it has there, and
//! every enum has one of its names.

use portcullis::flow::{FlowRecord, hubble};
use serde_json::Value;

/// Fields of Hubble's messages that are written, with their types: a scalar's, an enum's names, or
/// another message. From `flow/flow.proto` and `observer/observer.proto` of Cilium 1.16.
enum Type {
    Text,
    Number,
    Flag,
    Texts,
    Names(&'static [&'static str]),
    Message(&'static str),
    Messages(&'static str),
}
use Type::{Flag, Message, Messages, Names, Number, Text, Texts};

fn schema(message: &str) -> Vec<(&'static str, Type)> {
    match message {
        "GetFlowsResponse" => {
            vec![("flow", Message("Flow")), ("node_name", Text), ("time", Text)]
        }
        "Flow" => vec![
            ("time", Text),
            ("uuid", Text),
            ("verdict", Names(&["FORWARDED", "DROPPED", "ERROR", "AUDIT", "REDIRECTED", "TRACED"])),
            ("drop_reason", Number),
            ("IP", Message("IP")),
            ("l4", Message("Layer4")),
            ("source", Message("Endpoint")),
            ("destination", Message("Endpoint")),
            ("Type", Names(&["UNKNOWN_TYPE", "L3_L4", "L7", "SOCK"])),
            ("node_name", Text),
            ("event_type", Message("CiliumEventType")),
            ("traffic_direction", Names(&["TRAFFIC_DIRECTION_UNKNOWN", "INGRESS", "EGRESS"])),
            (
                "drop_reason_desc",
                Names(&[
                    "DROP_REASON_UNKNOWN",
                    "POLICY_DENIED",
                    "CT_MAP_INSERTION_FAILED",
                    "UNKNOWN_CONNECTION_TRACKING_STATE",
                    "NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION",
                ]),
            ),
            ("is_reply", Flag),
            ("egress_allowed_by", Messages("Policy")),
            ("ingress_allowed_by", Messages("Policy")),
            ("egress_denied_by", Messages("Policy")),
            ("ingress_denied_by", Messages("Policy")),
            ("Summary", Text),
        ],
        "IP" => vec![
            ("source", Text),
            ("destination", Text),
            ("ipVersion", Names(&["IP_NOT_USED", "IPv4", "IPv6"])),
        ],
        "Layer4" => vec![
            ("TCP", Message("TCP")),
            ("UDP", Message("UDP")),
            ("SCTP", Message("UDP")),
            ("ICMPv4", Message("ICMP")),
            ("ICMPv6", Message("ICMP")),
        ],
        "TCP" => vec![
            ("source_port", Number),
            ("destination_port", Number),
            ("flags", Message("TCPFlags")),
        ],
        "UDP" => vec![("source_port", Number), ("destination_port", Number)],
        "ICMP" => vec![("type", Number), ("code", Number)],
        "TCPFlags" => ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS"]
            .map(|name| (name, Flag))
            .into(),
        "Endpoint" => vec![
            ("ID", Number),
            ("identity", Number),
            ("namespace", Text),
            ("labels", Texts),
            ("pod_name", Text),
        ],
        "CiliumEventType" => vec![("type", Number), ("sub_type", Number)],
        "Policy" => vec![("name", Text), ("namespace", Text), ("labels", Texts), ("kind", Text)],
        other => panic!("{other}"),
    }
}

fn check(message: &str, value: &Value, seen: &mut Vec<String>) {
    let schema = schema(message);
    for (name, value) in value.as_object().unwrap_or_else(|| panic!("{message}: {value}")) {
        let found = schema.iter().find(|(known, _)| known == name);
        let (_, kind) = found.unwrap_or_else(|| panic!("{message} has no field {name}"));
        seen.push(format!("{message}.{name}"));
        match kind {
            Text => assert!(value.is_string(), "{name}: {value}"),
            Number => assert!(value.as_u64().is_some_and(|n| n <= u32::MAX.into()), "{name}"),
            Flag => assert!(value.is_boolean(), "{name}: {value}"),
            Texts => assert!(value.as_array().unwrap().iter().all(Value::is_string), "{name}"),
            Names(names) => assert!(names.contains(&value.as_str().unwrap()), "{name}: {value}"),
            Message(message) => check(message, value, seen),
            Messages(message) => {
                value.as_array().unwrap().iter().for_each(|value| check(message, value, seen));
            }
        }
    }
}

fn record(text: &str) -> FlowRecord {
    let mut all: Value = serde_json::from_str(
        r#"{"version":1,"time":"1700000000.5","start":"1700000000","last_seen":"1700000000.5",
            "policy":"NetworkPolicy/shop/web-to-db","rule":"p.yaml:8:5","direction":"ingress",
            "source":{"address":"10.0.0.1","port":40000,"identity":7,"namespace":"shop","name":"web-0",
                      "labels":{"app":"web"}},
            "destination":{"address":"203.0.113.9","port":443},
            "sent":{"packets":3,"bytes":180},"received":{"packets":2,"bytes":120}}"#,
    )
    .unwrap();
    let more: Value = serde_json::from_str(text).unwrap();
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    FlowRecord::parse(&all.to_string()).unwrap()
}

#[test]
fn every_field_and_name_is_one_of_hubbles() {
    let mut seen = Vec::new();
    for text in [
        r#"{"event":"start","verdict":"allow","protocol":6,"tcp_flags":["SYN","ECE"]}"#,
        r#"{"event":"end","verdict":"allow","protocol":17,"close":"timeout","direction":"egress"}"#,
        r#"{"event":"deny","verdict":"deny","reason":"policy_denied","protocol":6,"tcp_flags":["SYN"]}"#,
        r#"{"event":"deny","verdict":"reject","reason":"policy_rejected","protocol":132,"direction":"egress"}"#,
        r#"{"event":"deny","verdict":"deny","reason":"table_full","protocol":1,"icmp":{"type":8}}"#,
        r#"{"event":"deny","verdict":"deny","reason":"tcp_not_opening","protocol":58,"icmp":{"type":128},
            "source":{"address":"fd00::1"},"destination":{"address":"fd00::2"},"policy":"default"}"#,
        r#"{"event":"deny","verdict":"deny","reason":"no_policy","protocol":47}"#,
        r#"{"event":"deny","verdict":"deny","reason":"port_down","protocol":47}"#,
        r#"{"event":"update","verdict":"allow","protocol":6,
            "staged":{"verdict":"deny","policy":"NetworkPolicy/shop/next"}}"#,
    ] {
        let response = hubble::response(&record(text), "node-1");
        check("GetFlowsResponse", &response, &mut seen);
    }
    for field in [
        "Flow.IP",
        "Layer4.TCP",
        "Layer4.UDP",
        "Layer4.SCTP",
        "Layer4.ICMPv4",
        "Layer4.ICMPv6",
        "Flow.drop_reason_desc",
        "Flow.ingress_allowed_by",
        "Flow.ingress_denied_by",
        "Flow.egress_allowed_by",
        "Flow.egress_denied_by",
        "Endpoint.pod_name",
        "TCPFlags.SYN",
    ] {
        assert!(seen.iter().any(|name| name == field), "{field} is never written");
    }
}

#[test]
fn a_denied_flow_reads_as_hubble_prints_it() {
    let record = record(
        r#"{"event":"deny","verdict":"deny","reason":"policy_denied","protocol":6,"tcp_flags":["SYN"]}"#,
    );
    let mut line = Vec::new();
    hubble::write(&record, "node-1", &mut line);
    let value: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert_eq!(value["time"], "2023-11-14T22:13:20.500000000Z");
    let flow = &value["flow"];
    assert_eq!(flow["verdict"], "DROPPED");
    assert_eq!(
        (&flow["drop_reason"], &flow["drop_reason_desc"]),
        (&133.into(), &"POLICY_DENIED".into())
    );
    assert_eq!(flow["l4"]["TCP"]["flags"], serde_json::json!({"SYN": true}));
    assert_eq!(flow["source"]["pod_name"], "web-0");
    let labels = serde_json::json!(["k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop"]);
    assert_eq!(flow["source"]["labels"], labels);
    assert_eq!(flow["destination"]["labels"], serde_json::json!(["reserved:world"]));
    assert_eq!(flow["ingress_denied_by"][0]["name"], "web-to-db");
    assert!(flow["Summary"].as_str().unwrap().contains("p.yaml:8:5"));
}
