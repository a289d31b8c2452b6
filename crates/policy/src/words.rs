//! Expressions, traffic and endpoints in words that a person reads at once.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::flow::{Header, protocol};
use crate::model::{
    Icmp, IpVersion, Match, PolicySet, PortMatch, PortSpec, ProtocolMatch, Traffic,
};

/// Who an expression means, such as `pods with app == "web" of namespace shop`.
pub fn who(expression: &Match, policies: &PolicySet) -> String {
    let list = |parts: &[Match], joint: &str| -> String {
        let parts: Vec<String> = parts
            .iter()
            .map(|part| match part {
                Match::All(_) | Match::OneOf(_) => format!("({})", who(part, policies)),
                _ => who(part, policies),
            })
            .collect();
        parts.join(joint)
    };
    match expression {
        Match::Any => "anyone".to_owned(),
        Match::Nothing => "no one".to_owned(),
        Match::Pod => "any pod".to_owned(),
        Match::PodLabels(selector) => format!("pods with {selector}"),
        Match::Namespace(name) => format!("pods of namespace {name}"),
        Match::NamespaceLabels(selector) => format!("pods of namespaces with {selector}"),
        Match::ServiceAccount(name) => format!("pods under service account {name}"),
        Match::ServiceAccountLabels(selector) => {
            format!("pods under service accounts with {selector}")
        }
        Match::NodeLabels(selector) => format!("nodes with {selector}"),
        Match::Cidr(prefix) => prefix.to_string(),
        Match::InSet(index) => match policies.sets.get(*index as usize) {
            Some(set) => set.name.to_string(),
            None => format!("network set {index}"),
        },
        Match::NamespaceHas(name, selector) => format!("namespace {name} having {selector}"),
        Match::Not(part) => format!("not ({})", who(part, policies)),
        Match::All(parts) => match &parts[..] {
            [Match::Namespace(name), Match::PodLabels(selector)] => {
                format!("pods with {selector} of namespace {name}")
            }
            [Match::NamespaceLabels(namespaces), Match::PodLabels(selector)] => {
                format!("pods with {selector} of namespaces with {namespaces}")
            }
            _ => list(parts, " and "),
        },
        Match::OneOf(parts) => list(parts, " or "),
    }
}

/// What a rule's list of traffic means, such as `TCP 80, 443 or UDP 53`.
pub fn traffic(list: &[Traffic]) -> String {
    if list.is_empty() {
        return "no traffic".to_owned();
    }
    let mut words: Vec<String> = Vec::new();
    for traffic in list {
        let word = one_traffic(traffic);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" or ")
}

fn one_traffic(traffic: &Traffic) -> String {
    let mut text = match traffic.protocol {
        ProtocolMatch::Any => String::new(),
        ProtocolMatch::Is(number) => protocol_name(number),
        ProtocolMatch::Not(number) => format!("all but {}", protocol_name(number)),
    };
    let mut add = |word: &str| {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    };
    if traffic.destination_ports != PortMatch::default() {
        add(&ports(&traffic.destination_ports));
    }
    if traffic.source_ports != PortMatch::default() {
        add(&format!("from port {}", ports(&traffic.source_ports)));
    }
    if let Some(icmp) = traffic.icmp {
        add(&icmp_words(icmp));
    }
    if let Some(icmp) = traffic.not_icmp {
        add(&format!("but not {}", icmp_words(icmp)));
    }
    match traffic.ip_version {
        Some(IpVersion::V4) => add("over IPv4"),
        Some(IpVersion::V6) => add("over IPv6"),
        None => {}
    }
    if text.is_empty() { "all traffic".to_owned() } else { text }
}

fn ports(ports: &PortMatch) -> String {
    let list = |specs: &[PortSpec]| {
        let words: Vec<String> = specs
            .iter()
            .map(|spec| match spec {
                PortSpec::Range(first, last) => range(*first, *last),
                PortSpec::Named(name) => format!("port \"{name}\""),
            })
            .collect();
        words.join(", ")
    };
    match (ports.any_of.is_empty(), ports.none_of.is_empty()) {
        (_, true) => list(&ports.any_of),
        (true, false) => format!("all but {}", list(&ports.none_of)),
        (false, false) => format!("{} but not {}", list(&ports.any_of), list(&ports.none_of)),
    }
}

fn icmp_words(icmp: Icmp) -> String {
    match (icmp.kind, icmp.code) {
        (Some(kind), Some(code)) => format!("type {kind} code {code}"),
        (Some(kind), None) => format!("type {kind}"),
        (None, Some(code)) => format!("code {code}"),
        (None, None) => "any type".to_owned(),
    }
}

/// A range of ports as people write it.
pub(crate) fn range(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// `TCP`, `UDP` and so on; `protocol 47` for those without a name here.
pub fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "TCP".to_owned(),
        protocol::UDP => "UDP".to_owned(),
        protocol::SCTP => "SCTP".to_owned(),
        protocol::ICMP => "ICMP".to_owned(),
        protocol::ICMPV6 => "ICMPv6".to_owned(),
        136 => "UDPLite".to_owned(),
        _ => format!("protocol {number}"),
    }
}

/// Over which families, unless over both.
pub(crate) fn families(families: &BTreeSet<IpVersion>) -> &'static str {
    match (families.contains(&IpVersion::V4), families.contains(&IpVersion::V6)) {
        (true, false) => " (IPv4)",
        (false, true) => " (IPv6)",
        _ => "",
    }
}

/// What a flow carries, such as `TCP port 80` or `ICMP type 8 code 0`.
pub fn header(header: &Header) -> String {
    let mut text = protocol_name(header.protocol);
    if let Some((kind, code)) = header.icmp() {
        let _ = write!(text, " type {kind} code {code}");
    } else if protocol::has_ports(header.protocol) {
        let _ = write!(text, " port {}", header.destination_port);
    }
    text
}

/// `1 rule`, `2 rules`.
pub(crate) fn count(number: usize, one: &str, several: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {several}") }
}
