//! Policies as YAML, each rule with its evidence: what every format needs, and the choice of one.

mod calico;
mod kubernetes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;

use super::seen::{Evidence, Peer, Seen, Service};
use super::workload::Workload;
use crate::output::Refused;

/// The kind of policies to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// NetworkPolicy of networking.k8s.io/v1
    #[default]
    Kubernetes,
    /// NetworkPolicy of projectcalico.org/v3, which can speak of ICMP and other protocols too
    Calico,
}

/// What one workload needs.
#[derive(Default)]
struct Needs {
    ingress: Rules,
    egress: Rules,
}

/// Protocols and ports that rules speak of together; port 0 where the protocol has none.
type Ports = BTreeSet<(u8, u16)>;

/// Ports by peer, then peers by ports: peers that use the same ports share a rule.
#[derive(Default)]
struct Rules(BTreeMap<Peer, (Ports, Evidence)>);

impl Rules {
    fn note(&mut self, peer: &Peer, service: &Service, evidence: &Evidence) {
        let (ports, sum) = self.0.entry(peer.clone()).or_default();
        ports.insert((service.protocol, service.port));
        sum.add(evidence);
    }

    fn by_ports(&self) -> BTreeMap<&Ports, (Vec<&Peer>, Evidence)> {
        let mut rules = BTreeMap::<&Ports, (Vec<&Peer>, Evidence)>::new();
        for (peer, (ports, evidence)) in &self.0 {
            let (peers, sum) = rules.entry(ports).or_default();
            peers.push(peer);
            sum.add(evidence);
        }
        rules
    }
}

impl Format {
    /// Whether a policy of this kind can allow it and nothing else.
    fn can_say(self, service: &Service) -> bool {
        match service.protocol {
            6 | 17 | 132 => service.port != 0,
            0 => false,
            _ => self == Self::Calico,
        }
    }
}

/// The policies, as one YAML stream.
///
/// # Errors
/// A label that a policy of this kind cannot name.
pub(super) fn policies(seen: &Seen, format: Format) -> Result<String, Refused> {
    let mut needs = BTreeMap::<&Workload, Needs>::new();
    let mut unsaid = String::new();
    for (service, evidence) in &seen.services {
        for peer in [&service.from, &service.to] {
            if let Peer::Pods(workload) = peer {
                needs.entry(workload).or_default();
            }
        }
        if !format.can_say(service) {
            let Service { from, to, protocol, .. } = service;
            let (from, to) = (describe(from), describe(to));
            let told = tell(evidence);
            writeln!(unsaid, "# protocol {protocol} from {from} to {to}: {told}").ok();
            continue;
        }
        if let Peer::Pods(workload) = &service.from {
            needs.entry(workload).or_default().egress.note(&service.to, service, evidence);
        }
        if let Peer::Pods(workload) = &service.to {
            needs.entry(workload).or_default().ingress.note(&service.from, service, evidence);
        }
    }
    let mut out = String::new();
    let mut names = BTreeSet::new();
    for (workload, needs) in &needs {
        let mut name = workload.name();
        for n in 2.. {
            if names.insert((&workload.namespace, name.clone())) {
                break;
            }
            name = format!("{}-{n}", workload.name());
        }
        match format {
            Format::Kubernetes => kubernetes::policy(&mut out, seen, workload, &name, needs),
            Format::Calico => calico::policy(&mut out, seen, workload, &name, needs)?,
        }
        out.push_str("---\n");
    }
    if !unsaid.is_empty() {
        out += "# These policies cannot say the following, so that they deny it:\n";
        out += &unsaid;
    }
    Ok(out)
}

/// The networks of those peers that are outside. Folding loses nothing: two halves become the whole
/// only if both were seen.
fn networks(peers: &[&Peer]) -> Vec<IpNet> {
    let outside = peers.iter().filter_map(|peer| match peer {
        Peer::Outside(address) => Some(IpNet::from(*address)),
        Peer::Pods(_) => None,
    });
    IpNet::aggregate(&outside.collect())
}

/// Neighbouring ports of a protocol as ranges: protocol, first, last.
fn port_ranges(ports: &Ports) -> Vec<(u8, u16, u16)> {
    let mut ranges: Vec<(u8, u16, u16)> = Vec::new();
    for &(protocol, port) in ports {
        match ranges.last_mut() {
            Some((same, _, last)) if *same == protocol && *last + 1 == port => *last = port,
            _ => ranges.push((protocol, port, port)),
        }
    }
    ranges
}

fn tell(evidence: &Evidence) -> String {
    let count = evidence.connections();
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} connection{plural}, the last at {}", utc(evidence.last))
}

fn describe(peer: &Peer) -> String {
    match peer {
        Peer::Pods(workload) => format!("{}/{}", workload.namespace, workload.name()),
        Peer::Outside(address) => IpAddr::to_string(address),
    }
}

/// A JSON string is a YAML string, whatever is in it.
fn quoted(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-./_".contains(c))
        // Words that YAML takes for something else.
        && !["true", "false", "yes", "no", "on", "off", "null", "y", "n"]
            .contains(&&*text.to_ascii_lowercase());
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// Seconds since 1970 as `2026-11-21T05:00:00Z` (days to civil dates as in Hinnant's chrono papers).
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_237_199, "2026-11-21T04:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn ports_in_a_row_are_a_range() {
        let ports: Ports = [(6, 80), (6, 81), (6, 82), (6, 443), (17, 83)].into();
        assert_eq!(port_ranges(&ports), [(6, 80, 82), (6, 443, 443), (17, 83, 83)]);
        assert_eq!(port_ranges(&[(6, 65_534), (6, 65_535)].into()), [(6, 65_534, 65_535)]);
    }

    #[test]
    fn what_yaml_would_misread_is_quoted() {
        for text in ["true", "No", "1.0", "a: b", "#", "", "10.0.0.0/8", "y"] {
            assert!(quoted(text).starts_with('"'), "{text}");
        }
        assert_eq!(quoted("app.kubernetes.io/name"), "app.kubernetes.io/name");
    }
}
