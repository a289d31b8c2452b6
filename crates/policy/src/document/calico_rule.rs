//! The rules of Calico's policies, checked as its API server checks them.

use ipnet::IpNet;
use portcullis_identity_table::Selector;

use super::calico_scope::{self, NamedSet, Of};
use super::decode::{Fields, Reader};
use super::object::{self, PrefixForm, all, not, one_of};
use super::tree::{Node, Position, Value, shorten};
use crate::model::{
    Action, Icmp, IpVersion, Match, PortMatch, PortSpec, ProtocolMatch, Rule, Traffic,
};

/// Protocols by name, with their IANA numbers.
const PROTOCOLS: [(&str, u8); 6] =
    [("TCP", 6), ("UDP", 17), ("ICMP", 1), ("ICMPv6", 58), ("SCTP", 132), ("UDPLite", 136)];

/// What the rules of a policy are read against.
pub(crate) struct Surroundings<'a> {
    /// The policy's namespace; `None` for a global one.
    pub(crate) namespace: Option<&'a str>,
    pub(crate) sets: &'a [NamedSet],
}

pub(crate) fn rules(
    node: &Node,
    what: &'static str,
    around: &Surroundings<'_>,
    reader: &mut Reader<'_>,
) -> Option<Vec<Rule>> {
    let items = reader.list(node, what)?;
    let read: Vec<_> = items.iter().map(|item| rule(item, around, reader)).collect();
    read.into_iter().collect()
}

fn rule(item: &Node, around: &Surroundings<'_>, reader: &mut Reader<'_>) -> Option<Rule> {
    let mut fields = reader.fields(item, "a rule")?;
    refuse_unsupported(&mut fields, &["http"], reader);
    let action = fields.require("action", reader);
    let ip_version = fields.take("ipVersion");
    let protocol = Narrowing::take(&mut fields, "protocol", "notProtocol");
    let icmp = Narrowing::take(&mut fields, "icmp", "notICMP");
    let source_node = fields.take("source");
    let destination_node = fields.take("destination");
    if let Some(node) = fields.take("metadata") {
        let mut metadata = reader.fields(node, "the metadata of a rule")?;
        metadata.take("annotations");
        metadata.finish(reader);
    }
    fields.finish(reader);

    let action = match reader.word(action?, "action", &["Allow", "Deny", "Log", "Pass"])? {
        "Allow" => Action::Allow,
        "Deny" => Action::Deny,
        "Log" => Action::Log,
        _ => Action::Pass,
    };
    let traffic = Traffic {
        ip_version: match ip_version {
            None => None,
            Some(node) => Some(self::ip_version(node, reader)?),
        },
        protocol: protocol_match(&protocol, reader)?,
        icmp: icmp.is.map(|node| self::icmp(node, reader)).transpose_some()?,
        not_icmp: icmp.not.map(|node| self::icmp(node, reader)).transpose_some()?,
        ..Traffic::default()
    };
    check_icmp(&traffic, &protocol, &icmp, item, reader)?;
    let source = entity(source_node, "source", around, reader);
    let destination = entity(destination_node, "destination", around, reader);
    let (source, destination) = (source?, destination?);
    check_ports(&traffic, [&source, &destination], [source_node, destination_node], reader)?;
    check_families(traffic.ip_version, [&source, &destination], reader);
    Some(Rule {
        origin: reader.origin(item.at),
        name: None,
        action,
        source: source.who,
        destination: destination.who,
        traffic: vec![Traffic {
            source_ports: source.ports,
            destination_ports: destination.ports,
            ..traffic
        }],
    })
}

/// A field that narrows and the one that excludes.
struct Narrowing<'n> {
    is: Option<&'n Node>,
    not: Option<&'n Node>,
}

impl<'n> Narrowing<'n> {
    fn take(fields: &mut Fields<'n>, is: &'static str, not: &'static str) -> Self {
        Self { is: fields.take(is), not: fields.take(not) }
    }
}

/// Turns an optional reading inside out: absent is fine, unreadable is not.
trait TransposeSome<T> {
    fn transpose_some(self) -> Option<Option<T>>;
}

impl<T> TransposeSome<T> for Option<Option<T>> {
    fn transpose_some(self) -> Option<Option<T>> {
        match self {
            None => Some(None),
            Some(read) => read.map(Some),
        }
    }
}

/// Fields that exist but decide by what is not seen here.
fn refuse_unsupported(fields: &mut Fields<'_>, names: &[&'static str], reader: &mut Reader<'_>) {
    for &name in names {
        if let Some(node) = fields.take(name) {
            reader.error(node.at, format!("{name} is not supported: packets do not tell"));
        }
    }
}

fn ip_version(node: &Node, reader: &mut Reader<'_>) -> Option<IpVersion> {
    match reader.integer(node, "ipVersion", 0, 255)? {
        4 => Some(IpVersion::V4),
        6 => Some(IpVersion::V6),
        other => {
            reader.error(node.at, format!("ipVersion must be 4 or 6, found {other}"));
            None
        }
    }
}

fn protocol_match(fields: &Narrowing<'_>, reader: &mut Reader<'_>) -> Option<ProtocolMatch> {
    match (fields.is, fields.not) {
        (None, None) => Some(ProtocolMatch::Any),
        (Some(node), None) => Some(ProtocolMatch::Is(protocol(node, reader)?)),
        (None, Some(node)) => Some(ProtocolMatch::Not(protocol(node, reader)?)),
        (Some(is), Some(not)) => {
            let (number, other) = (protocol(is, reader)?, protocol(not, reader)?);
            if number == other {
                reader.error(not.at, "protocol and notProtocol are the same: no flow matches");
                return None;
            }
            Some(ProtocolMatch::Is(number))
        }
    }
}

/// A protocol by name or by number.
fn protocol(node: &Node, reader: &mut Reader<'_>) -> Option<u8> {
    if let Value::Plain(text) = &node.value
        && text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
    {
        return reader.integer(node, "protocol", 1, u8::MAX);
    }
    let name = reader.word(node, "protocol", &PROTOCOLS.map(|(name, _)| name))?;
    PROTOCOLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn icmp(node: &Node, reader: &mut Reader<'_>) -> Option<Icmp> {
    let mut fields = reader.fields(node, "icmp")?;
    let kind_node = fields.take("type");
    let code_node = fields.take("code");
    fields.finish(reader);
    let kind = kind_node.map(|node| reader.integer(node, "type", 0, 254)).transpose_some()?;
    let code = code_node.map(|node| reader.integer(node, "code", 0, 255)).transpose_some()?;
    if let (None, Some(node)) = (kind, code_node) {
        reader.error(node.at, "an ICMP code needs a type beside it");
        return None;
    }
    Some(Icmp { kind, code })
}

fn check_icmp(
    traffic: &Traffic,
    protocol: &Narrowing<'_>,
    icmp: &Narrowing<'_>,
    item: &Node,
    reader: &mut Reader<'_>,
) -> Option<()> {
    let version = match traffic.protocol {
        ProtocolMatch::Is(1) => Some(IpVersion::V4),
        ProtocolMatch::Is(58) => Some(IpVersion::V6),
        _ => None,
    };
    let mut fine = true;
    if let (Some(version), Some(given)) = (version, traffic.ip_version)
        && version != given
    {
        let at = protocol.is.map_or(item.at, |node| node.at);
        reader.error(at, "ICMP goes with ipVersion 4, ICMPv6 with ipVersion 6");
        fine = false;
    }
    if let (None, Some(node)) = (version, icmp.is.or(icmp.not)) {
        reader.error(node.at, "ICMP types need protocol ICMP or ICMPv6");
        fine = false;
    }
    fine.then_some(())
}

/// One end of a rule.
struct Entity {
    who: Match,
    ports: PortMatch,
    /// The families of all networks it names, in either field, and where.
    families: Vec<(IpVersion, Position)>,
}

fn entity(
    node: Option<&Node>,
    what: &'static str,
    around: &Surroundings<'_>,
    reader: &mut Reader<'_>,
) -> Option<Entity> {
    let Some(node) = node else {
        let (ports, families) = (PortMatch::default(), Vec::new());
        return Some(Entity { who: Match::Any, ports, families });
    };
    let mut fields = reader.fields(node, what)?;
    refuse_unsupported(&mut fields, &["services"], reader);
    let selectors = Selectors::read(&mut fields, reader);
    let mut families = Vec::new();
    let mut prefixes = |name, reader: &mut Reader<'_>| match fields.take(name) {
        None => Some(None),
        Some(node) => nets(node, name, &mut families, reader).map(Some),
    };
    let nets = prefixes("nets", reader);
    let not_nets = prefixes("notNets", reader);
    let any_of = ports(fields.take("ports"), "ports", reader);
    let none_of = ports(fields.take("notPorts"), "notPorts", reader);
    fields.finish(reader);

    let mut parts = selectors?.matches(around);
    if let Some(nets) = nets? {
        parts.push(one_of(nets.into_iter().map(Match::Cidr)));
    }
    if let Some(nets) = not_nets? {
        parts.push(not(one_of(nets.into_iter().map(Match::Cidr))));
    }
    let ports = PortMatch { any_of: any_of?, none_of: none_of? };
    Some(Entity { who: all(parts), ports, families })
}

/// The fields of an entity that select by labels.
struct Selectors {
    selector: Option<Selector>,
    not_selector: Option<Selector>,
    namespaces: Option<Selector>,
    accounts: Option<Accounts>,
}

/// Service accounts by name and by label; both must hold.
struct Accounts {
    names: Vec<Box<str>>,
    selector: Option<Selector>,
}

impl Selectors {
    fn read(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let mut read = |name, of| match fields.take(name) {
            None => Some(None),
            Some(node) if is_empty(node) => Some(None),
            Some(node) => calico_scope::selector(node, of, reader).map(Some),
        };
        let selector = read("selector", Of::Itself);
        let not_selector = read("notSelector", Of::Itself);
        let namespaces = read("namespaceSelector", Of::Namespace);
        let accounts = match fields.take("serviceAccounts") {
            None => Some(None),
            Some(node) => Accounts::read(node, reader).map(Some),
        };
        Some(Self {
            selector: selector?,
            not_selector: not_selector?,
            namespaces: namespaces?,
            accounts: accounts?,
        })
    }

    /// The parts that must hold. A selector names pods and sets; what neither is matches no selector,
    /// but every `notSelector`.
    fn matches(&self, around: &Surroundings<'_>) -> Vec<Match> {
        let mut parts = Vec::new();
        let accounts = self.accounts.as_ref().filter(|a| a.says_something());
        let selects = self.selector.is_some() || self.not_selector.is_some() || accounts.is_some();
        // Alone, these stay within the namespace of the policy.
        let own = around.namespace.filter(|_| selects && self.namespaces.is_none());
        if self.selector.is_some()
            || self.namespaces.is_some()
            || accounts.is_some()
            || own.is_some()
        {
            let pods = all([
                Match::Pod,
                own.map_or(Match::Any, |name| Match::Namespace(name.into())),
                self.namespaces
                    .as_ref()
                    .map_or(Match::Any, |s| calico_scope::pods(s, Of::Namespace)),
                self.selector.as_ref().map_or(Match::Any, |s| calico_scope::pods(s, Of::Itself)),
                accounts.map_or(Match::Any, Accounts::pods),
            ]);
            let sets = around.sets.iter().map(|set| {
                if own.is_some() && set.namespace.as_deref() != own {
                    return Match::Nothing;
                }
                let on = |selector: Option<&Selector>, of| {
                    selector.map_or(Match::Any, |s| calico_scope::set(s, of, set))
                };
                all([
                    on(self.namespaces.as_ref(), Of::Namespace),
                    on(self.selector.as_ref(), Of::Itself),
                    accounts.map_or(Match::Any, |accounts| accounts.set(set)),
                    Match::InSet(set.index),
                ])
            });
            parts.push(one_of(std::iter::once(pods).chain(sets)));
        }
        if let Some(selector) = &self.not_selector {
            let pods = all([Match::Pod, calico_scope::pods(selector, Of::Itself)]);
            let sets = around.sets.iter().map(|set| {
                all([calico_scope::set(selector, Of::Itself, set), Match::InSet(set.index)])
            });
            parts.push(not(one_of(std::iter::once(pods).chain(sets))));
        }
        parts
    }
}

impl Accounts {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = reader.fields(node, "serviceAccounts")?;
        let names_node = fields.take("names");
        let selector_node = fields.take("selector");
        fields.finish(reader);
        let mut names = Vec::new();
        if let Some(node) = names_node {
            for item in reader.list(node, "names")? {
                names.push(object::object_name(item, "the name of a service account", reader)?);
            }
        }
        let selector = match selector_node {
            Some(node) if !is_empty(node) => {
                Some(calico_scope::selector(node, Of::ServiceAccount, reader)?)
            }
            _ => None,
        };
        Some(Self { names, selector })
    }

    fn says_something(&self) -> bool {
        !self.names.is_empty() || self.selector.is_some()
    }

    fn pods(&self) -> Match {
        let named = one_of(self.names.iter().map(|name| Match::ServiceAccount(name.clone())));
        all([
            if self.names.is_empty() { Match::Any } else { named },
            self.selector
                .as_ref()
                .map_or(Match::Any, |s| calico_scope::pods(s, Of::ServiceAccount)),
        ])
    }

    /// No set runs under a service account.
    fn set(&self, set: &NamedSet) -> Match {
        match &self.selector {
            Some(selector) if self.names.is_empty() => {
                calico_scope::set(selector, Of::ServiceAccount, set)
            }
            _ => Match::Nothing,
        }
    }
}

/// Whether the text of a selector is empty, which is as if it were absent.
pub(crate) fn is_empty(node: &Node) -> bool {
    matches!(&node.value, Value::Quoted(text) if text.trim().is_empty())
}

fn nets(
    node: &Node,
    what: &str,
    families: &mut Vec<(IpVersion, Position)>,
    reader: &mut Reader<'_>,
) -> Option<Vec<IpNet>> {
    let mut read = Vec::new();
    for item in reader.list(node, what)? {
        let net = object::prefix(item, PrefixForm::CidrOrAddress, reader);
        let family = |net: IpNet| match net {
            IpNet::V4(_) => IpVersion::V4,
            IpNet::V6(_) => IpVersion::V6,
        };
        families.extend(net.map(|net| (family(net), item.at)));
        read.push(net);
    }
    let nets = read.into_iter().collect::<Option<Vec<_>>>()?;
    if nets.is_empty() {
        reader.error(node.at, format!("{what} is empty: leave it out, or name a network"));
        return None;
    }
    Some(nets.into_iter().map(|net| net.trunc()).collect())
}

fn ports(node: Option<&Node>, what: &str, reader: &mut Reader<'_>) -> Option<Vec<PortSpec>> {
    let Some(node) = node else { return Some(Vec::new()) };
    let read: Vec<_> = reader.list(node, what)?.iter().map(|item| port(item, reader)).collect();
    read.into_iter().collect()
}

/// A number, a range `first:last`, or a name.
fn port(item: &Node, reader: &mut Reader<'_>) -> Option<PortSpec> {
    let (Value::Plain(text) | Value::Quoted(text)) = &item.value else {
        reader.error(item.at, format!("a port must be a single value, found {}", item.describe()));
        return None;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok().filter(|port| *port > 0)).flatten()
    };
    let mut refuse = || {
        reader.error(
            item.at,
            format!(
                "port {:?} is no number from 1 to 65535, range such as 8000:8010, or name",
                shorten(text)
            ),
        );
        None
    };
    if let Some((first, last)) = text.split_once(':') {
        let (Some(first), Some(last)) = (number(first), number(last)) else { return refuse() };
        if first > last {
            reader.error(item.at, format!("the port range {text} ends before it begins"));
            return None;
        }
        return Some(PortSpec::Range(first, last));
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        return match number(text) {
            Some(port) => Some(PortSpec::Range(port, port)),
            None => refuse(),
        };
    }
    let name = text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if name { Some(PortSpec::Named(text.clone())) } else { refuse() }
}

/// Calico's API server wants all networks of a rule to be of one family, that of its ipVersion if it
/// has one. What such a rule means is plain all the same, so it is not refused here.
fn check_families(ip_version: Option<IpVersion>, entities: [&Entity; 2], reader: &mut Reader<'_>) {
    let mut families = entities.into_iter().flat_map(|entity| &entity.families);
    let Some(first) = ip_version.or_else(|| families.clone().next().map(|(family, _)| *family))
    else {
        return;
    };
    if let Some((_, at)) = families.find(|(family, _)| *family != first) {
        let message = match ip_version {
            Some(IpVersion::V4) => "the rule has ipVersion 4: it never matches this IPv6 network",
            Some(IpVersion::V6) => "the rule has ipVersion 6: it never matches this IPv4 network",
            None => {
                "networks of both IPv4 and IPv6 in one rule: Calico refuses that, make two of it"
            }
        };
        reader.warn(*at, message);
    }
}

/// Ports need a protocol that has them.
fn check_ports(
    traffic: &Traffic,
    entities: [&Entity; 2],
    nodes: [Option<&Node>; 2],
    reader: &mut Reader<'_>,
) -> Option<()> {
    if matches!(traffic.protocol, ProtocolMatch::Is(6 | 17 | 132)) {
        return Some(());
    }
    for (entity, node) in entities.into_iter().zip(nodes) {
        let named = !entity.ports.any_of.is_empty() || !entity.ports.none_of.is_empty();
        if let (true, Some(node)) = (named, node) {
            reader.error(node.at, "ports need protocol TCP, UDP or SCTP in the rule");
            return None;
        }
    }
    Some(())
}
