//! NetworkPolicies of projectcalico.org/v3.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Needs, networks, port_ranges, quoted, tell};
use crate::output::Refused;
use crate::recommend::seen::{Peer, Seen};
use crate::recommend::workload::Workload;

pub(super) fn policy(
    out: &mut String,
    seen: &Seen,
    workload: &Workload,
    name: &str,
    needs: &Needs,
) -> Result<(), Refused> {
    let namespace = quoted(&workload.namespace);
    out.push_str("apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n");
    writeln!(out, "metadata: {{name: {}, namespace: {namespace}}}", quoted(name)).ok();
    writeln!(out, "spec:\n  selector: {}", text(&selector(seen, workload)?)).ok();
    out.push_str("  types: [Ingress, Egress]\n");
    for (direction, side, rules) in
        [("ingress", "source", &needs.ingress), ("egress", "destination", &needs.egress)]
    {
        let rules = rules.by_ports();
        if rules.is_empty() {
            writeln!(out, "  {direction}: [] # nothing was seen").ok();
            continue;
        }
        writeln!(out, "  {direction}:").ok();
        for (ports, (peers, evidence)) in rules {
            writeln!(out, "    # {}", tell(&evidence)).ok();
            let ends = ends(seen, workload, &peers)?;
            let mut protocols = BTreeMap::<u8, Vec<String>>::new();
            for (protocol, first, last) in port_ranges(ports) {
                let ports = protocols.entry(protocol).or_default();
                match (first, last) {
                    (0, _) => {}
                    (first, last) if first == last => ports.push(first.to_string()),
                    (first, last) => ports.push(format!("\"{first}:{last}\"")),
                }
            }
            for end in &ends {
                for (protocol, ports) in &protocols {
                    rule(out, side, end, *protocol, ports);
                }
            }
        }
    }
    Ok(())
}

/// One rule: the peer at `side`, the ports at the destination, wherever that is.
fn rule(out: &mut String, side: &str, end: &str, protocol: u8, ports: &[String]) {
    let ports =
        if ports.is_empty() { String::new() } else { format!("ports: [{}]", ports.join(", ")) };
    writeln!(out, "    - action: Allow\n      protocol: {}", self::protocol(protocol)).ok();
    if side == "source" {
        writeln!(out, "      source: {{{end}}}").ok();
        if !ports.is_empty() {
            writeln!(out, "      destination: {{{ports}}}").ok();
        }
    } else {
        let comma = if ports.is_empty() { "" } else { ", " };
        writeln!(out, "      destination: {{{end}{comma}{ports}}}").ok();
    }
}

fn protocol(number: u8) -> String {
    match number {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        number => number.to_string(),
    }
}

/// The peers of a rule, in as few ends as can say it: one for each namespace, one for addresses.
fn ends(seen: &Seen, own: &Workload, peers: &[&Peer]) -> Result<Vec<String>, Refused> {
    let mut selectors = BTreeMap::<&str, Vec<String>>::new();
    for peer in peers {
        if let Peer::Pods(workload) = peer {
            selectors.entry(&workload.namespace).or_default().push(selector(seen, workload)?);
        }
    }
    let mut ends = Vec::new();
    for (namespace, selectors) in selectors {
        let selector = match &*selectors {
            [one] => one.clone(),
            more => more.iter().map(|one| format!("({one})")).collect::<Vec<_>>().join(" || "),
        };
        let mut end = format!("selector: {}", text(&selector));
        if namespace != own.namespace {
            let namespace = format!("kubernetes.io/metadata.name == {}", literal(namespace)?);
            end += &format!(", namespaceSelector: {}", text(&namespace));
        }
        ends.push(end);
    }
    let networks: Vec<String> =
        networks(peers).iter().map(|net| quoted(&net.to_string())).collect();
    if !networks.is_empty() {
        ends.push(format!("nets: [{}]", networks.join(", ")));
    }
    Ok(ends)
}

/// A selector for exactly this workload, among those known of its namespace.
fn selector(seen: &Seen, workload: &Workload) -> Result<String, Refused> {
    let mut terms = Vec::new();
    for (key, value) in &workload.labels {
        terms.push(format!("{} == {}", label(key)?, literal(value)?));
    }
    for key in seen.workloads.absent(workload) {
        terms.push(format!("!has({})", label(key)?));
    }
    Ok(if terms.is_empty() { "all()".to_owned() } else { terms.join(" && ") })
}

/// A key as selectors write it: as it is.
fn label(key: &str) -> Result<&str, Refused> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !key.is_empty() && key.chars().all(plain) {
        return Ok(key);
    }
    Err(format!("error: label {key:?}: a Calico selector cannot name it").into())
}

/// A value in quotes that it does not contain: there is no way to escape one.
fn literal(value: &str) -> Result<String, Refused> {
    let quotes = ['\'', '"'].into_iter().find(|quotes| !value.contains(*quotes));
    let quotes = quotes.filter(|_| !value.contains(char::is_control));
    let quotes = quotes
        .ok_or_else(|| format!("error: label value {value:?}: a Calico selector cannot name it"))?;
    Ok(format!("{quotes}{value}{quotes}"))
}

/// A JSON string, which is a YAML string.
fn text(selector: &str) -> String {
    serde_json::Value::from(selector).to_string()
}
