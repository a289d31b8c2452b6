//! policy.networking.k8s.io: v1alpha2 ClusterNetworkPolicy, v1alpha1 AdminNetworkPolicy and
//! BaselineAdminNetworkPolicy, with the limits of their CRDs.
//!
//! The standard asks for failing closed where a peer or protocol holds only a field that the reader
//! does not know (it may come from a later version): an Accept rule then matches nothing, a Deny or
//! Pass rule becomes "deny all". That is done here, with a warning.

use portcullis_identity_table::Selector;

use super::assemble::{self, Draft, Place};
use super::decode::{Fields, Reader};
use super::kubernetes::{TRANSPORTS, transport};
use super::object::{self, PrefixForm, Scope, all, exactly_one, one_of};
use super::tree::{Node, Position, shorten};
use crate::model::{
    Action, Direction, Enforcement, Kind, Match, Policy, PolicyName, PortMatch, PortSpec,
    ProtocolMatch, Rule, Traffic,
};

/// What differs between the three kinds.
struct Dialect {
    kind: Kind,
    /// The words for actions.
    actions: &'static [(&'static str, Action)],
    /// The name of the field that narrows by port: `protocols` or `ports`.
    traffic_field: &'static str,
    /// The most rules a direction.
    most_rules: usize,
    /// The most peers and ports a rule.
    most_items: usize,
    /// Peers that an egress rule may name.
    egress_peers: &'static [&'static str],
}

const INGRESS_PEERS: &[&str] = &["namespaces", "pods"];

const CLUSTER: Dialect = Dialect {
    kind: Kind::ClusterNetworkPolicy,
    actions: &[("Accept", Action::Allow), ("Deny", Action::Deny), ("Pass", Action::Pass)],
    traffic_field: "protocols",
    most_rules: 25,
    most_items: 25,
    egress_peers: &["namespaces", "pods", "nodes", "networks", "domainNames"],
};

const ADMIN: Dialect = Dialect {
    kind: Kind::AdminNetworkPolicy,
    actions: &[("Allow", Action::Allow), ("Deny", Action::Deny), ("Pass", Action::Pass)],
    traffic_field: "ports",
    most_rules: 100,
    most_items: 100,
    egress_peers: &["namespaces", "pods", "nodes", "networks", "domainNames"],
};

const BASELINE: Dialect = Dialect {
    kind: Kind::BaselineAdminNetworkPolicy,
    actions: &[("Allow", Action::Allow), ("Deny", Action::Deny)],
    traffic_field: "ports",
    most_rules: 100,
    most_items: 100,
    egress_peers: &["namespaces", "pods", "nodes", "networks"],
};

/// The most networks or domain names in one peer.
const MOST_NETWORKS: usize = 25;

pub(crate) fn cluster_network_policy(document: &Node, reader: &mut Reader<'_>) -> Option<Draft> {
    policy(document, &CLUSTER, reader, |fields, reader| {
        let tier = fields.require("tier", reader);
        let priority = priority(fields, reader);
        let tier = match reader.word(tier?, "tier", &["Admin", "Baseline"])? {
            "Admin" => assemble::ADMIN,
            _ => assemble::BASELINE,
        };
        Some(Place { tier: tier.into(), tier_origin: None, order: Some(priority?) })
    })
}

pub(crate) fn admin_network_policy(document: &Node, reader: &mut Reader<'_>) -> Option<Draft> {
    policy(document, &ADMIN, reader, |fields, reader| {
        let order = Some(priority(fields, reader)?);
        Some(Place { tier: assemble::ADMIN.into(), tier_origin: None, order })
    })
}

pub(crate) fn baseline_admin_network_policy(
    document: &Node,
    reader: &mut Reader<'_>,
) -> Option<Draft> {
    let draft = policy(document, &BASELINE, reader, |_, _| {
        // Its place beside ClusterNetworkPolicies of tier Baseline is nowhere said: last.
        Some(Place { tier: assemble::BASELINE.into(), tier_origin: None, order: None })
    })?;
    if &*draft.policy.name.name != "default" {
        reader.error(
            document.at,
            format!(
                "a BaselineAdminNetworkPolicy must be called default, found {}",
                shorten(&draft.policy.name.name)
            ),
        );
        return None;
    }
    Some(draft)
}

fn priority(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<f64> {
    let node = fields.require("priority", reader)?;
    reader.integer(node, "priority", 0u16, 1000).map(f64::from)
}

fn policy<'n>(
    document: &'n Node,
    dialect: &Dialect,
    reader: &mut Reader<'_>,
    place: impl FnOnce(&mut Fields<'n>, &mut Reader<'_>) -> Option<Place>,
) -> Option<Draft> {
    let (header, spec) = object::object(document, Scope::Cluster, reader)?;
    let Some(spec) = spec else {
        reader.error(document.at, "the object has no spec");
        return None;
    };
    let mut fields = reader.fields(spec, "spec")?;
    let place = place(&mut fields, reader);
    let subject = fields.require("subject", reader).and_then(|node| subject(node, reader));
    let ingress = fields.take("ingress");
    let egress = fields.take("egress");
    fields.finish(reader);
    let ingress = rules(ingress, Direction::Ingress, dialect, reader);
    let egress = rules(egress, Direction::Egress, dialect, reader);
    Some(Draft {
        place: place?,
        policy: Policy {
            name: PolicyName { kind: dialect.kind, namespace: None, name: header.name },
            origin: header.origin,
            enforcement: Enforcement::Enforced,
            subject: subject?,
            ingress: ingress?,
            egress: egress?,
        },
    })
}

fn subject(node: &Node, reader: &mut Reader<'_>) -> Option<Match> {
    let mut fields = reader.fields(node, "subject")?;
    let one = exactly_one(&mut fields, "subject", &["namespaces", "pods"], reader);
    fields.finish(reader);
    let (name, node) = one?;
    workloads(name, node, reader)
}

/// `namespaces` or `pods`.
fn workloads(name: &str, node: &Node, reader: &mut Reader<'_>) -> Option<Match> {
    if name == "namespaces" {
        return Some(object::pods_of_namespaces(object::label_selector(
            node,
            "namespaces",
            reader,
        )?));
    }
    let mut fields = reader.fields(node, "pods")?;
    let namespaces = match fields.take_nullable("namespaceSelector") {
        Some(node) => object::label_selector(node, "namespaceSelector", reader),
        None => Some(Selector::All),
    };
    let pods = match fields.take_nullable("podSelector") {
        Some(node) => object::label_selector(node, "podSelector", reader),
        None => {
            reader.error(fields.at, "pods has no podSelector");
            None
        }
    };
    fields.finish(reader);
    Some(all([object::pods_of_namespaces(namespaces?), object::pods(pods?)]))
}

/// The rules of a direction; none at all leaves the direction alone.
fn rules(
    node: Option<&Node>,
    direction: Direction,
    dialect: &Dialect,
    reader: &mut Reader<'_>,
) -> Option<Option<Vec<Rule>>> {
    let Some(node) = node else { return Some(None) };
    let what = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let items = reader.bounded_list(node, what, 0, dialect.most_rules)?;
    let read: Vec<_> = items.iter().map(|item| rule(item, direction, dialect, reader)).collect();
    let rules = read.into_iter().collect::<Option<Vec<_>>>()?;
    Some((!rules.is_empty()).then_some(rules))
}

/// What the items of a list say, and whether one of them is of an unknown sort.
struct Items<T> {
    known: Vec<T>,
    unknown: Option<Position>,
}

fn rule(
    item: &Node,
    direction: Direction,
    dialect: &Dialect,
    reader: &mut Reader<'_>,
) -> Option<Rule> {
    let (what, peer_field, peer_names) = match direction {
        Direction::Ingress => ("an ingress rule", "from", INGRESS_PEERS),
        Direction::Egress => ("an egress rule", "to", dialect.egress_peers),
    };
    let mut fields = reader.fields(item, what)?;
    let name = fields.take("name");
    let action_node = fields.require("action", reader);
    let peers_node = fields.require(peer_field, reader);
    let traffic_node = fields.take(dialect.traffic_field);
    fields.finish(reader);

    let name = match name {
        Some(node) => Some(rule_name(node, reader)?),
        None => None,
    };
    let action = {
        let words: Vec<&str> = dialect.actions.iter().map(|(word, _)| *word).collect();
        let word = reader.word(action_node?, "action", &words)?;
        dialect.actions.iter().find(|(known, _)| *known == word)?.1
    };
    let peers = peers(peers_node?, peer_field, peer_names, action, dialect, reader);
    let traffic = match traffic_node {
        Some(node) => traffic(node, dialect, reader),
        None => Some(Items { known: vec![Traffic::default()], unknown: None }),
    };
    let (peers, traffic) = (peers?, traffic?);
    refuse_ports_nobody_names(&peers.known, traffic_node, &traffic.known, reader)?;

    let unknown = peers.unknown.or(traffic.unknown);
    let peer = one_of(peers.known.into_iter().map(|(_, peer)| peer));
    let (action, peer, traffic) = match unknown {
        None => (action, peer, traffic.known),
        Some(at) => fail_closed(action, at, reader),
    };
    let (source, destination) = match direction {
        Direction::Ingress => (peer, Match::Any),
        Direction::Egress => (Match::Any, peer),
    };
    Some(Rule { origin: reader.origin(item.at), name, action, source, destination, traffic })
}

fn rule_name(node: &Node, reader: &mut Reader<'_>) -> Option<Box<str>> {
    let text = reader.string(node, "name")?;
    if text.chars().count() > 100 {
        reader.error(node.at, "the name of a rule has at most 100 characters");
        return None;
    }
    Some(text.into())
}

/// What becomes of a rule that holds something from a later version of the standard.
fn fail_closed(
    action: Action,
    at: Position,
    reader: &mut Reader<'_>,
) -> (Action, Match, Vec<Traffic>) {
    let everything = vec![Traffic::default()];
    if action == Action::Allow {
        reader.warn(at, "no known field here: as the standard asks, this rule matches nothing");
        (Action::Allow, Match::Nothing, everything)
    } else {
        reader.warn(at, "no known field here: as the standard asks, this rule denies everything");
        (Action::Deny, Match::Any, everything)
    }
}

/// Nodes, networks and domains have no named ports.
fn refuse_ports_nobody_names(
    peers: &[(&'static str, Match)],
    traffic_node: Option<&Node>,
    traffic: &[Traffic],
    reader: &mut Reader<'_>,
) -> Option<()> {
    let outside = peers.iter().find(|(name, _)| !INGRESS_PEERS.contains(name));
    let named = traffic
        .iter()
        .any(|t| t.destination_ports.any_of.iter().any(|port| matches!(port, PortSpec::Named(_))));
    match (outside, traffic_node) {
        (Some((name, _)), Some(node)) if named => {
            reader.error(node.at, format!("a named port cannot stand beside a {name} peer"));
            None
        }
        _ => Some(()),
    }
}

fn peers(
    node: &Node,
    what: &'static str,
    names: &'static [&'static str],
    action: Action,
    dialect: &Dialect,
    reader: &mut Reader<'_>,
) -> Option<Items<(&'static str, Match)>> {
    let mut items = Items { known: Vec::new(), unknown: None };
    let mut refused = false;
    for item in reader.bounded_list(node, what, 1, dialect.most_items)? {
        match peer(item, names, action, reader) {
            Some(Some(peer)) => items.known.push(peer),
            Some(None) => items.unknown = Some(item.at),
            None => refused = true,
        }
    }
    (!refused).then_some(items)
}

/// One peer, by the name of its field; `Some(None)` if that is unknown.
fn peer(
    item: &Node,
    names: &'static [&'static str],
    action: Action,
    reader: &mut Reader<'_>,
) -> Option<Option<(&'static str, Match)>> {
    let mut fields = reader.fields(item, "a peer")?;
    if only_unknown(&mut fields, names) {
        return Some(None);
    }
    let one = exactly_one(&mut fields, "a peer", names, reader);
    fields.finish(reader);
    let (name, node) = one?;
    let peer = match name {
        "nodes" => Match::NodeLabels(object::label_selector(node, "nodes", reader)?),
        "networks" => networks(node, reader)?,
        "domainNames" => domain_names(node, action, reader)?,
        _ => workloads(name, node, reader)?,
    };
    Some(Some((name, peer)))
}

/// Whether the mapping holds something, but nothing of these names.
fn only_unknown(fields: &mut Fields<'_>, names: &[&'static str]) -> bool {
    !fields.is_empty() && names.iter().all(|name| fields.take_nullable(name).is_none())
}

fn networks(node: &Node, reader: &mut Reader<'_>) -> Option<Match> {
    let items = reader.bounded_list(node, "networks", 1, MOST_NETWORKS)?;
    let read: Vec<_> =
        items.iter().map(|item| object::prefix(item, PrefixForm::Cidr, reader)).collect();
    let prefixes = read.into_iter().collect::<Option<Vec<_>>>()?;
    Some(one_of(prefixes.into_iter().map(|prefix| Match::Cidr(prefix.trunc()))))
}

/// Domain names match nothing as long as nobody knows their addresses.
fn domain_names(node: &Node, action: Action, reader: &mut Reader<'_>) -> Option<Match> {
    let items = reader.bounded_list(node, "domainNames", 1, MOST_NETWORKS)?;
    for item in items {
        let name = reader.string(item, "a domain name")?;
        if !is_domain_name(name) {
            reader.error(
                item.at,
                format!(
                    "{:?} is no domain name, such as a.example.com or *.example.com",
                    shorten(name)
                ),
            );
            return None;
        }
    }
    if action != Action::Allow {
        reader.error(node.at, "domainNames may only stand in rules that accept");
        return None;
    }
    reader.warn(node.at, "domainNames match nothing: addresses of names are not known here");
    Some(Match::Nothing)
}

fn is_domain_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.contains('.') && name.split('.').all(is_label)
}

fn traffic(node: &Node, dialect: &Dialect, reader: &mut Reader<'_>) -> Option<Items<Traffic>> {
    let mut items = Items { known: Vec::new(), unknown: None };
    let mut refused = false;
    // The older kinds read an empty list as no list.
    let least = usize::from(dialect.kind == Kind::ClusterNetworkPolicy);
    let list = reader.bounded_list(node, dialect.traffic_field, least, dialect.most_items)?;
    if list.is_empty() {
        items.known.push(Traffic::default());
    }
    for item in list {
        let read = if dialect.kind == Kind::ClusterNetworkPolicy {
            protocol(item, reader)
        } else {
            port(item, reader)
        };
        match read {
            Some(Some(traffic)) => items.known.extend(traffic),
            Some(None) => items.unknown = Some(item.at),
            None => refused = true,
        }
    }
    (!refused).then_some(items)
}

/// An item of `protocols`; `Some(None)` if it is of an unknown sort.
fn protocol(item: &Node, reader: &mut Reader<'_>) -> Option<Option<Vec<Traffic>>> {
    const NAMES: &[&str] = &["tcp", "udp", "sctp", "destinationNamedPort"];
    let mut fields = reader.fields(item, "an item of protocols")?;
    if only_unknown(&mut fields, NAMES) {
        return Some(None);
    }
    let one = exactly_one(&mut fields, "an item of protocols", NAMES, reader);
    fields.finish(reader);
    let (name, node) = one?;
    if name == "destinationNamedPort" {
        return named_port(node, reader).map(Some);
    }
    let number = TRANSPORTS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?.1;
    let mut fields = reader.fields(node, "tcp, udp or sctp")?;
    let port = fields.require("destinationPort", reader);
    fields.finish(reader);
    let mut fields = reader.fields(port?, "destinationPort")?;
    let one = exactly_one(&mut fields, "destinationPort", &["number", "range"], reader);
    fields.finish(reader);
    let spec = match one? {
        ("number", node) => single(node, "number", reader)?,
        (_, node) => {
            let mut fields = reader.fields(node, "range")?;
            let bounds = bounds(&mut fields, reader);
            fields.finish(reader);
            bounds?
        }
    };
    Some(Some(vec![to_port(number, spec)]))
}

/// An item of `ports`; `Some(None)` if it is of an unknown sort.
fn port(item: &Node, reader: &mut Reader<'_>) -> Option<Option<Vec<Traffic>>> {
    const NAMES: &[&str] = &["portNumber", "namedPort", "portRange"];
    let mut fields = reader.fields(item, "an item of ports")?;
    if only_unknown(&mut fields, NAMES) {
        return Some(None);
    }
    let one = exactly_one(&mut fields, "an item of ports", NAMES, reader);
    fields.finish(reader);
    let (name, node) = one?;
    if name == "namedPort" {
        return named_port(node, reader).map(Some);
    }
    let mut fields = reader.fields(node, "portNumber or portRange")?;
    let protocol = match fields.take("protocol") {
        Some(node) => transport(node, reader),
        None => Some(6),
    };
    let spec = if name == "portNumber" {
        fields.require("port", reader).and_then(|node| single(node, "port", reader))
    } else {
        bounds(&mut fields, reader)
    };
    fields.finish(reader);
    Some(Some(vec![to_port(protocol?, spec?)]))
}

fn single(node: &Node, what: &str, reader: &mut Reader<'_>) -> Option<PortSpec> {
    let port = reader.integer(node, what, 1, u16::MAX)?;
    Some(PortSpec::Range(port, port))
}

/// `start` and `end`, of which the first must be smaller.
fn bounds(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<PortSpec> {
    let start_node = fields.require("start", reader);
    let end_node = fields.require("end", reader);
    let start = reader.integer(start_node?, "start", 1, u16::MAX)?;
    let end_node = end_node?;
    let end = reader.integer(end_node, "end", 1, u16::MAX)?;
    if start >= end {
        reader.error(end_node.at, format!("end {end} must be above start {start}"));
        return None;
    }
    Some(PortSpec::Range(start, end))
}

/// A named port takes number and protocol from the container, so it may be of any transport.
fn named_port(node: &Node, reader: &mut Reader<'_>) -> Option<Vec<Traffic>> {
    let text = reader.string(node, "a named port")?;
    match object::port_name(text) {
        Ok(name) => Some(
            TRANSPORTS
                .iter()
                .map(|(_, protocol)| to_port(*protocol, PortSpec::Named(name.clone())))
                .collect(),
        ),
        Err(message) => {
            reader.error(node.at, message);
            None
        }
    }
}

fn to_port(protocol: u8, port: PortSpec) -> Traffic {
    Traffic {
        protocol: ProtocolMatch::Is(protocol),
        destination_ports: PortMatch { any_of: vec![port], none_of: Vec::new() },
        ..Traffic::default()
    }
}
