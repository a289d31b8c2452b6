//! networking.k8s.io/v1 NetworkPolicy, checked as the API server checks it.
//!
//! The staged Calico kind with the same spec is read here too.

use ipnet::IpNet;
use portcullis_identity_table::Selector;

use super::assemble::{Draft, Place};
use super::decode::{Fields, Reader};
use super::object::{self, Header, PrefixForm, Scope, all, not, one_of};
use super::tree::{Node, Value, shorten};
use crate::model::{
    Action, Direction, Enforcement, Kind, Match, Policy, PolicyName, PortMatch, PortSpec,
    ProtocolMatch, Rule, Traffic,
};

/// Where Kubernetes policies stand in the default tier.
pub(crate) const ORDER: f64 = 1000.0;

pub(crate) fn network_policy(document: &Node, reader: &mut Reader<'_>) -> Option<Draft> {
    let (header, spec) = object::object(document, Scope::Namespaced, reader)?;
    let Some(spec) = spec else {
        reader.error(document.at, "the object has no spec");
        return None;
    };
    let mut fields = reader.fields(spec, "spec")?;
    let body = body(&mut fields, &header, reader);
    fields.finish(reader);
    let policy = body?.into_policy(Kind::NetworkPolicy, Enforcement::Enforced, header);
    Some(Draft { place: Place::default_tier(Some(ORDER)), policy })
}

/// What the spec says, whatever the kind.
pub(crate) struct Body {
    subject: Match,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

impl Body {
    pub(crate) fn into_policy(
        self,
        kind: Kind,
        enforcement: Enforcement,
        header: Header,
    ) -> Policy {
        Policy {
            name: PolicyName { kind, namespace: header.namespace, name: header.name },
            origin: header.origin,
            enforcement,
            subject: self.subject,
            ingress: self.ingress,
            egress: self.egress,
        }
    }
}

/// Takes the fields of a NetworkPolicy's spec.
pub(crate) fn body(
    fields: &mut Fields<'_>,
    header: &Header,
    reader: &mut Reader<'_>,
) -> Option<Body> {
    let namespace = header.namespace.as_deref().unwrap_or(object::DEFAULT_NAMESPACE);
    // The API server reads a missing selector as an empty one.
    let selector = match fields.take_nullable("podSelector") {
        Some(node) => object::label_selector(node, "podSelector", reader),
        None => {
            reader.warn(fields.at, "no podSelector: every pod of the namespace is selected");
            Some(Selector::All)
        }
    };
    let types = match fields.take("policyTypes") {
        Some(node) => policy_types(node, reader),
        None => Some(Vec::new()),
    };
    let ingress_place = fields.place("ingress");
    let ingress_node = fields.take("ingress");
    let egress_place = fields.place("egress");
    let egress_node = fields.take("egress");
    let mut rules = |node: Option<&Node>, direction| match node {
        None => Some(Vec::new()),
        Some(node) => rules(node, direction, namespace, reader),
    };
    let ingress = rules(ingress_node, Direction::Ingress);
    let egress = rules(egress_node, Direction::Egress);
    let (selector, types, ingress, egress) = (selector?, types?, ingress?, egress?);

    // Absent types: always ingress, and egress if there are egress rules (defaults.go).
    let says = |direction| match types.is_empty() {
        false => types.contains(&direction),
        true => direction == Direction::Ingress || !egress.is_empty(),
    };
    let (says_ingress, says_egress) = (says(Direction::Ingress), says(Direction::Egress));
    if !says_ingress && !ingress.is_empty() {
        reader.warn(ingress_place, "ingress rules do nothing: policyTypes has no Ingress");
    }
    if !says_egress && !egress.is_empty() {
        reader.warn(egress_place, "egress rules do nothing: policyTypes has no Egress");
    }
    Some(Body {
        subject: all([Match::Namespace(namespace.into()), object::pods(selector)]),
        ingress: says_ingress.then_some(ingress),
        egress: says_egress.then_some(egress),
    })
}

fn policy_types(node: &Node, reader: &mut Reader<'_>) -> Option<Vec<Direction>> {
    let items = reader.bounded_list(node, "policyTypes", 0, 2)?;
    items.iter().map(|item| direction(item, "policyTypes", reader)).collect()
}

/// `Ingress` or `Egress`.
pub(crate) fn direction(node: &Node, what: &str, reader: &mut Reader<'_>) -> Option<Direction> {
    match reader.word(node, what, &["Ingress", "Egress"])? {
        "Ingress" => Some(Direction::Ingress),
        _ => Some(Direction::Egress),
    }
}

fn rules(
    node: &Node,
    direction: Direction,
    namespace: &str,
    reader: &mut Reader<'_>,
) -> Option<Vec<Rule>> {
    let what = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let items = reader.list(node, what)?;
    // Every rule is read, so that every mistake is told.
    let read: Vec<_> = items.iter().map(|item| rule(item, direction, namespace, reader)).collect();
    read.into_iter().collect()
}

fn rule(
    item: &Node,
    direction: Direction,
    namespace: &str,
    reader: &mut Reader<'_>,
) -> Option<Rule> {
    let (what, peer_field) = match direction {
        Direction::Ingress => ("an ingress rule", "from"),
        Direction::Egress => ("an egress rule", "to"),
    };
    let origin = reader.origin(item.at);
    // A rule with nothing in it (`- {}` or `-`) matches everything.
    let (peers_node, ports_node) = if item.value == Value::Null {
        (None, None)
    } else {
        let mut fields = reader.fields(item, what)?;
        let taken = (fields.take(peer_field), fields.take("ports"));
        fields.finish(reader);
        taken
    };
    let peers = match peers_node {
        None => Some(Match::Any),
        Some(node) => peers(node, peer_field, namespace, reader),
    };
    let traffic = match ports_node {
        None => Some(vec![Traffic::default()]),
        Some(node) => ports(node, reader),
    };
    let (peers, traffic) = (peers?, traffic?);
    let (source, destination) = match direction {
        Direction::Ingress => (peers, Match::Any),
        Direction::Egress => (Match::Any, peers),
    };
    Some(Rule { origin, name: None, action: Action::Allow, source, destination, traffic })
}

fn peers(
    node: &Node,
    what: &'static str,
    namespace: &str,
    reader: &mut Reader<'_>,
) -> Option<Match> {
    let items = reader.list(node, what)?;
    if items.is_empty() {
        return Some(Match::Any);
    }
    let read: Vec<_> = items.iter().map(|item| peer(item, namespace, reader)).collect();
    Some(one_of(read.into_iter().collect::<Option<Vec<_>>>()?))
}

fn peer(item: &Node, namespace: &str, reader: &mut Reader<'_>) -> Option<Match> {
    if item.value == Value::Null {
        reader.error(item.at, "a peer must have ipBlock, podSelector or namespaceSelector");
        return None;
    }
    let mut fields = reader.fields(item, "a peer")?;
    let pods = fields.take("podSelector");
    let namespaces = fields.take("namespaceSelector");
    let block = fields.take("ipBlock");
    fields.finish(reader);
    if block.is_some() && (pods.is_some() || namespaces.is_some()) {
        reader.error(
            item.at,
            "a peer cannot have ipBlock beside podSelector or namespaceSelector: \
             make two peers of it",
        );
        return None;
    }
    if let Some(node) = block {
        return ip_block(node, reader);
    }
    if pods.is_none() && namespaces.is_none() {
        reader.error(item.at, "a peer must have ipBlock, podSelector or namespaceSelector");
        return None;
    }
    let pods = match pods {
        Some(node) => object::pods(object::label_selector(node, "podSelector", reader)?),
        None => Match::Pod,
    };
    let namespaces = match namespaces {
        Some(node) => {
            object::pods_of_namespaces(object::label_selector(node, "namespaceSelector", reader)?)
        }
        None => Match::Namespace(namespace.into()),
    };
    Some(all([namespaces, pods]))
}

fn ip_block(node: &Node, reader: &mut Reader<'_>) -> Option<Match> {
    let mut fields = reader.fields(node, "ipBlock")?;
    let cidr = fields.require("cidr", reader);
    let except = fields.take("except");
    fields.finish(reader);
    let cidr = object::prefix(cidr?, PrefixForm::Cidr, reader)?;
    let mut holes = Vec::new();
    if let Some(node) = except {
        for item in reader.list(node, "except")? {
            let hole = object::prefix(item, PrefixForm::Cidr, reader)?;
            if !is_strictly_within(&hole, &cidr) {
                reader.error(
                    item.at,
                    format!("except {hole} must be a strict part of the cidr {cidr}"),
                );
                return None;
            }
            holes.push(Match::Cidr(hole.trunc()));
        }
    }
    Some(all([Match::Cidr(cidr.trunc()), not(one_of(holes))]))
}

fn is_strictly_within(inner: &IpNet, outer: &IpNet) -> bool {
    outer.trunc().contains(&inner.trunc()) && inner.prefix_len() > outer.prefix_len()
}

fn ports(node: &Node, reader: &mut Reader<'_>) -> Option<Vec<Traffic>> {
    let items = reader.list(node, "ports")?;
    if items.is_empty() {
        return Some(vec![Traffic::default()]);
    }
    let read: Vec<_> = items.iter().map(|item| port(item, reader)).collect();
    read.into_iter().collect()
}

/// The transport protocols that ports belong to, with their IANA numbers.
pub(crate) const TRANSPORTS: [(&str, u8); 3] = [("TCP", 6), ("UDP", 17), ("SCTP", 132)];

/// `TCP`, `UDP` or `SCTP` as a protocol number.
pub(crate) fn transport(node: &Node, reader: &mut Reader<'_>) -> Option<u8> {
    let name = reader.word(node, "protocol", &TRANSPORTS.map(|(name, _)| name))?;
    TRANSPORTS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn port(item: &Node, reader: &mut Reader<'_>) -> Option<Traffic> {
    let mut protocol = Some(6);
    let mut port_node = None;
    let mut end_node = None;
    if item.value != Value::Null {
        let mut fields = reader.fields(item, "a port")?;
        if let Some(node) = fields.take("protocol") {
            protocol = transport(node, reader);
        }
        port_node = fields.take("port");
        end_node = fields.take("endPort");
        fields.finish(reader);
    }
    let any_of = match port_node {
        None => {
            if let Some(node) = end_node {
                reader.error(node.at, "endPort needs a port to begin at");
                return None;
            }
            Vec::new()
        }
        Some(node) => vec![port_spec(node, end_node, reader)?],
    };
    Some(Traffic {
        protocol: ProtocolMatch::Is(protocol?),
        destination_ports: PortMatch { any_of, none_of: Vec::new() },
        ..Traffic::default()
    })
}

fn port_spec(node: &Node, end: Option<&Node>, reader: &mut Reader<'_>) -> Option<PortSpec> {
    let named = match &node.value {
        Value::Quoted(text) => Some(text),
        Value::Plain(text) if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
            Some(text)
        }
        // A name may begin with a digit: `8080-tcp`.
        Value::Plain(text) if text.bytes().any(|b| b.is_ascii_alphabetic()) => Some(text),
        _ => None,
    };
    if let Some(text) = named {
        if let Some(end) = end {
            reader.error(
                end.at,
                format!("endPort cannot stand beside the named port {}", shorten(text)),
            );
            return None;
        }
        return match object::port_name(text) {
            Ok(name) => Some(PortSpec::Named(name)),
            Err(message) => {
                reader.error(node.at, message);
                None
            }
        };
    }
    let first = reader.integer(node, "port", 1, u16::MAX)?;
    let last = match end {
        None => first,
        Some(end) => {
            let last = reader.integer(end, "endPort", 1, u16::MAX)?;
            if last < first {
                reader.error(end.at, format!("endPort {last} is below port {first}"));
                return None;
            }
            last
        }
    };
    Some(PortSpec::Range(first, last))
}
