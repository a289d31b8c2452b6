//! Flows and endpoints as people type them.

use std::net::{IpAddr, SocketAddr};

use portcullis_identity_table::ClusterState;
use portcullis_identity_table::endpoint::Endpoint;

use crate::flow::{Flow, protocol};

/// The source port of a flow that names none: some ephemeral one.
const SOURCE_PORT: u16 = 40000;

/// Reads a flow: `tcp 10.0.0.1:40000 > 10.0.0.2:80`.
///
/// Pods may stand for their addresses (`tcp shop/web > shop/db:5432`), a source port may be left out,
/// IPv6 addresses with a port stand in brackets, and ICMP adds `type 8 code 0` (an echo request if
/// left out). Protocols: tcp, udp, sctp, icmp, icmpv6, or a number.
///
/// # Errors
/// What is wrong, in one sentence.
pub fn parse_flow(text: &str, cluster: &ClusterState) -> Result<Flow, String> {
    let shape = || {
        format!(
            "{text:?} is no flow, such as 'tcp 10.0.0.1:40000 > 10.0.0.2:80' or 'tcp shop/web > shop/db:5432'"
        )
    };
    let (left, right) = text.split_once('>').ok_or_else(shape)?;
    let left = left.strip_suffix('-').unwrap_or(left);
    let mut left = left.split_whitespace();
    let (Some(name), Some(source), None) = (left.next(), left.next(), left.next()) else {
        return Err(shape());
    };
    let mut right = right.split_whitespace();
    let destination = right.next().ok_or_else(shape)?;
    let number = protocol_number(name)?;
    let rest: Vec<&str> = right.collect();
    let (source, source_port) = party(source, cluster)?;
    let (destination, destination_port) = party(destination, cluster)?;
    let ports = if protocol::has_ports(number) {
        if !rest.is_empty() {
            return Err(shape());
        }
        let destination_port = destination_port
            .filter(|port| *port > 0)
            .ok_or_else(|| format!("{text:?} names no destination port, such as :80"))?;
        (source_port.unwrap_or(SOURCE_PORT), destination_port)
    } else if protocol::is_icmp(number) {
        let echo = if number == protocol::ICMP { 8 } else { 128 };
        icmp(&rest, echo).ok_or_else(shape)?
    } else if rest.is_empty() {
        (0, 0)
    } else {
        return Err(shape());
    };
    let (source, destination) = same_family(&source, &destination)
        .ok_or_else(|| "source and destination have no address of one family".to_owned())?;
    Ok(Flow::new(source, destination, number, ports))
}

fn protocol_number(name: &str) -> Result<u8, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "sctp" => protocol::SCTP,
        "icmp" => protocol::ICMP,
        "icmpv6" | "icmp6" => protocol::ICMPV6,
        other => other.parse().map_err(|_| {
            format!("{name:?} is no protocol: use tcp, udp, sctp, icmp, icmpv6 or a number")
        })?,
    })
}

/// `type N`, `type N code N` or nothing.
fn icmp(words: &[&str], echo: u16) -> Option<(u16, u16)> {
    let byte = |text: &str| text.parse::<u8>().ok().map(u16::from);
    match words {
        [] => Some((echo, 0)),
        ["type", kind] => Some((byte(kind)?, 0)),
        ["type", kind, "code", code] => Some((byte(kind)?, byte(code)?)),
        _ => None,
    }
}

/// The addresses behind an address or the name of a pod, and the port if there is one.
fn party(text: &str, cluster: &ClusterState) -> Result<(Vec<IpAddr>, Option<u16>), String> {
    if let Ok(both) = text.parse::<SocketAddr>() {
        return Ok((vec![both.ip().to_canonical()], Some(both.port())));
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok((vec![address.to_canonical()], None));
    }
    let (name, port) = match text.rsplit_once(':') {
        None => (text, None),
        Some((name, port)) => {
            let port = port.parse().map_err(|_| format!("{port:?} in {text:?} is no port"))?;
            (name, Some(port))
        }
    };
    let endpoint = find_endpoint(name, cluster)?;
    if endpoint.addresses.is_empty() {
        return Err(format!("pod {name} has no address yet"));
    }
    Ok((endpoint.addresses.clone(), port))
}

/// The first pair of addresses of one family, IPv4 first.
fn same_family(sources: &[IpAddr], destinations: &[IpAddr]) -> Option<(IpAddr, IpAddr)> {
    let mut pairs: Vec<(IpAddr, IpAddr)> = sources
        .iter()
        .flat_map(|s| destinations.iter().map(move |d| (*s, *d)))
        .filter(|(s, d)| s.is_ipv4() == d.is_ipv4())
        .collect();
    pairs.sort_by_key(|(s, _)| s.is_ipv6());
    pairs.first().copied()
}

/// The pod called `namespace/name`; a pod of namespace `default` may go without.
///
/// # Errors
/// One sentence, with pods of similar name if there are.
pub fn find_endpoint<'c>(text: &str, cluster: &'c ClusterState) -> Result<&'c Endpoint, String> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let found = cluster.endpoints.iter().find(|e| *e.namespace == *namespace && *e.name == *name);
    found.ok_or_else(|| {
        let mut similar: Vec<String> = cluster
            .endpoints
            .iter()
            .filter(|e| {
                *e.name == *name || (*e.namespace == *namespace && e.name.starts_with(name))
            })
            .map(|e| e.key().to_string())
            .collect();
        similar.sort();
        similar.truncate(3);
        let hint = if similar.is_empty() {
            String::from("write namespace/pod, or an address")
        } else {
            format!("did you mean {}?", similar.join(" or "))
        };
        format!("there is no pod {namespace}/{name} in the cluster: {hint}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterState {
        let pod = |namespace: &str, name: &str, addresses: &[&str]| Endpoint {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ..Endpoint::new(namespace, name)
        };
        ClusterState {
            endpoints: vec![
                pod("shop", "web", &["fd00::1", "10.0.0.1"]),
                pod("shop", "db", &["10.0.0.2", "fd00::2"]),
                pod("default", "six", &["fd00::3"]),
                pod("shop", "new", &[]),
            ],
            ..ClusterState::default()
        }
    }

    #[test]
    fn flows_read_back() {
        for text in [
            "tcp 10.0.0.1:40000 > 10.0.0.2:80",
            "udp [fd00::1]:1 > [fd00::2]:53",
            "icmp 10.0.0.1 > 10.0.0.2 type 3 code 1",
            "47 10.0.0.1 > 10.0.0.2",
        ] {
            assert_eq!(parse_flow(text, &cluster()).unwrap().to_string(), text);
        }
    }

    #[test]
    fn names_and_short_forms() {
        let read = |text| parse_flow(text, &cluster()).unwrap().to_string();
        assert_eq!(read("tcp shop/web > shop/db:5432"), "tcp 10.0.0.1:40000 > 10.0.0.2:5432");
        assert_eq!(read("TCP shop/web:1->shop/db:2"), "tcp 10.0.0.1:1 > 10.0.0.2:2");
        assert_eq!(read("tcp six > shop/web:80"), "tcp [fd00::3]:40000 > [fd00::1]:80");
        assert_eq!(read("icmpv6 fd00::1 > fd00::2"), "icmpv6 fd00::1 > fd00::2 type 128 code 0");
        assert_eq!(read("icmp shop/web > 8.8.8.8"), "icmp 10.0.0.1 > 8.8.8.8 type 8 code 0");
    }

    #[test]
    fn what_is_no_flow() {
        let error = |text| parse_flow(text, &cluster()).unwrap_err();
        assert!(error("").contains("is no flow"));
        assert!(error("tcp 10.0.0.1 > ").contains("is no flow"));
        assert!(error("tcp 10.0.0.1 > 10.0.0.2").contains("names no destination port"));
        assert!(error("tcp 10.0.0.1 > 10.0.0.2:0").contains("names no destination port"));
        assert!(error("tcp 10.0.0.1 > 10.0.0.2:99999").contains("is no port"));
        assert!(error("http 10.0.0.1 > 10.0.0.2:80").contains("is no protocol"));
        assert!(error("tcp db > 10.0.0.2:80").contains("did you mean shop/db?"));
        assert!(error("tcp 10.0.0.1 > fd00::2").contains("names no destination port"));
        assert!(error("tcp 10.0.0.1 > [fd00::2]:80").contains("no address of one family"));
        assert!(error("tcp shop/new > 10.0.0.2:80").contains("has no address yet"));
    }
}
