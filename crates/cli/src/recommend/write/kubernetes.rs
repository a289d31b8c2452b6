//! NetworkPolicies of networking.k8s.io/v1.

use std::fmt::Write;

use super::{Needs, networks, port_ranges, quoted, tell};
use crate::recommend::seen::{Peer, Seen};
use crate::recommend::workload::Workload;

pub(super) fn policy(
    out: &mut String,
    seen: &Seen,
    workload: &Workload,
    name: &str,
    needs: &Needs,
) {
    let namespace = quoted(&workload.namespace);
    out.push_str("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n");
    writeln!(out, "metadata: {{name: {}, namespace: {namespace}}}", quoted(name)).ok();
    writeln!(out, "spec:\n  podSelector: {}", selector(seen, workload)).ok();
    out.push_str("  policyTypes: [Ingress, Egress]\n");
    for (direction, side, rules) in
        [("ingress", "from", &needs.ingress), ("egress", "to", &needs.egress)]
    {
        let rules = rules.by_ports();
        if rules.is_empty() {
            writeln!(out, "  {direction}: [] # nothing was seen").ok();
            continue;
        }
        writeln!(out, "  {direction}:").ok();
        for (ports, (peers, evidence)) in rules {
            writeln!(out, "    # {}", tell(&evidence)).ok();
            writeln!(out, "    - {side}:").ok();
            for peer in peer_list(seen, workload, &peers) {
                writeln!(out, "        - {peer}").ok();
            }
            let ports: Vec<_> = port_ranges(ports).into_iter().map(port).collect();
            writeln!(out, "      ports: [{}]", ports.join(", ")).ok();
        }
    }
}

/// `podSelector` for exactly this workload, among those known.
fn selector(seen: &Seen, workload: &Workload) -> String {
    let labels = workload.labels.iter();
    let labels: Vec<_> = labels.map(|(k, v)| format!("{}: {}", quoted(k), quoted(v))).collect();
    let absent = seen.workloads.absent(workload);
    let absent: Vec<_> = absent
        .into_iter()
        .map(|key| format!("{{key: {}, operator: DoesNotExist}}", quoted(key)))
        .collect();
    let mut parts = Vec::new();
    if !labels.is_empty() {
        parts.push(format!("matchLabels: {{{}}}", labels.join(", ")));
    }
    if !absent.is_empty() {
        parts.push(format!("matchExpressions: [{}]", absent.join(", ")));
    }
    format!("{{{}}}", parts.join(", "))
}

fn peer_list(seen: &Seen, own: &Workload, peers: &[&Peer]) -> Vec<String> {
    let mut list = Vec::new();
    for peer in peers {
        let Peer::Pods(workload) = peer else { continue };
        let pods = format!("podSelector: {}", selector(seen, workload));
        list.push(if workload.namespace == own.namespace {
            format!("{{{pods}}}")
        } else {
            let name = quoted(&workload.namespace);
            let label = format!("matchLabels: {{kubernetes.io/metadata.name: {name}}}");
            format!("{{namespaceSelector: {{{label}}}, {pods}}}")
        });
    }
    let networks = networks(peers);
    let blocks = networks.iter().map(|net| quoted(&net.to_string()));
    list.extend(blocks.map(|cidr| format!("{{ipBlock: {{cidr: {cidr}}}}}")));
    list
}

fn port((protocol, first, last): (u8, u16, u16)) -> String {
    let protocol = match protocol {
        6 => "TCP",
        17 => "UDP",
        _ => "SCTP",
    };
    let end = if last > first { format!(", endPort: {last}") } else { String::new() };
    format!("{{protocol: {protocol}, port: {first}{end}}}")
}
