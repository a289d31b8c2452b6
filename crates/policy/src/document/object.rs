//! What every object has: kind, name, namespace, labels. And the values that many kinds share:
//! label selectors, prefixes, port names.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_identity_table::selector::kubernetes::{self, Operator, Requirement};
use portcullis_identity_table::{Labels, Selector};

use super::decode::{Fields, Reader};
use super::tree::{Node, Position, Value, shorten};
use crate::model::{Match, Origin};

/// The namespace of a namespaced object that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Cluster,
    Namespaced,
}

/// Who an object is.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) origin: Origin,
    pub(crate) name: Box<str>,
    /// `None` for cluster-scoped kinds.
    pub(crate) namespace: Option<Box<str>>,
    pub(crate) labels: Labels,
}

/// Splits an object into its header and its spec, refusing every field that is neither these nor
/// what the API server adds. A missing or empty `spec` is an error unless the kind can do without.
pub(crate) fn object<'n>(
    document: &'n Node,
    scope: Scope,
    reader: &mut Reader<'_>,
) -> Option<(Header, Option<&'n Node>)> {
    let mut fields = reader.fields(document, "the object")?;
    fields.take("apiVersion");
    fields.take("kind");
    fields.take("status");
    let metadata = fields.require("metadata", reader);
    let spec = fields.take("spec");
    fields.finish(reader);
    let header = header(document.at, metadata?, scope, reader)?;
    Some((header, spec))
}

fn header(at: Position, metadata: &Node, scope: Scope, reader: &mut Reader<'_>) -> Option<Header> {
    let mut fields = reader.fields(metadata, "metadata")?;
    let name = fields.require("name", reader);
    let namespace = fields.take("namespace");
    let object_labels = fields.take("labels");
    // What the API server and its clients keep about an object; no policy depends on it.
    for kept in [
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ] {
        fields.take(kept);
    }
    fields.finish(reader);
    let labels = match object_labels {
        Some(node) => labels(node, reader)?,
        None => Labels::default(),
    };
    let name = object_name(name?, "metadata.name", reader)?;
    let namespace = match (scope, namespace) {
        (Scope::Cluster, None) => None,
        (Scope::Cluster, Some(node)) => {
            // Some tools write an empty one.
            if !matches!(&node.value, Value::Quoted(text) if text.is_empty()) {
                reader.error(node.at, "this kind is cluster-scoped: it cannot have a namespace");
                return None;
            }
            None
        }
        (Scope::Namespaced, None) => Some(DEFAULT_NAMESPACE.into()),
        (Scope::Namespaced, Some(node)) => Some(namespace_name(node, reader)?),
    };
    Some(Header { origin: reader.origin(at), name, namespace, labels })
}

/// A name that is a DNS subdomain (RFC 1123), as the API server wants it.
pub(crate) fn object_name(node: &Node, what: &str, reader: &mut Reader<'_>) -> Option<Box<str>> {
    let text = reader.string(node, what)?;
    let valid = !text.is_empty() && text.len() <= 253 && text.split('.').all(is_dns_part);
    if !valid {
        reader.error(
            node.at,
            format!(
                "{what} {:?} is no DNS subdomain: lower case letters, digits, `-` and `.`, \
                 at most 253 characters",
                shorten(text)
            ),
        );
        return None;
    }
    Some(text.into())
}

/// A name that is a DNS label (RFC 1123), as namespaces have.
pub(crate) fn namespace_name(node: &Node, reader: &mut Reader<'_>) -> Option<Box<str>> {
    let text = reader.string(node, "a namespace")?;
    if text.len() > 63 || !is_dns_part(text) {
        reader.error(
            node.at,
            format!(
                "namespace {:?} is no DNS label: lower case letters, digits and `-`, \
                 at most 63 characters",
                shorten(text)
            ),
        );
        return None;
    }
    Some(text.into())
}

fn is_dns_part(text: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(edge)
        && bytes.last().copied().is_some_and(edge)
        && bytes.iter().all(|b| edge(*b) || *b == b'-')
}

/// The labels of an object.
pub(crate) fn labels(node: &Node, reader: &mut Reader<'_>) -> Option<Labels> {
    let Value::Map(entries) = &node.value else {
        reader.error(node.at, format!("labels must be a mapping, found {}", node.describe()));
        return None;
    };
    let mut pairs = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let text = reader.string(value, &format!("the value of label {}", shorten(&key.text)))?;
        let checked = kubernetes::match_label(&key.text, text);
        if let Err(error) = checked {
            reader.error(key.at, error.to_string());
            return None;
        }
        pairs.push((&*key.text, text));
    }
    Some(pairs.into_iter().collect())
}

/// A Kubernetes label selector: `matchLabels` and `matchExpressions`, all of which must hold.
/// `null` and `{}` select everything.
pub(crate) fn label_selector(
    node: &Node,
    what: &'static str,
    reader: &mut Reader<'_>,
) -> Option<Selector> {
    if node.value == Value::Null {
        return Some(Selector::All);
    }
    let mut fields = reader.fields(node, what)?;
    let match_labels = fields.take("matchLabels");
    let match_expressions = fields.take("matchExpressions");
    fields.finish(reader);
    let mut parts = Vec::new();
    if let Some(node) = match_labels {
        let labels = labels(node, reader)?;
        parts.extend(labels.iter().map(|(k, v)| Selector::Equals(k.into(), v.into())));
    }
    if let Some(node) = match_expressions {
        for item in reader.list(node, "matchExpressions")? {
            parts.push(requirement(item, reader)?);
        }
    }
    Some(match parts.len() {
        0 => Selector::All,
        1 => parts.remove(0),
        _ => Selector::And(parts),
    })
}

fn requirement(item: &Node, reader: &mut Reader<'_>) -> Option<Selector> {
    let mut fields = reader.fields(item, "an item of matchExpressions")?;
    let key = fields.require("key", reader);
    let operator_node = fields.require("operator", reader);
    let values_node = fields.take("values");
    fields.finish(reader);
    let key = reader.string(key?, "key")?;
    let operator: Operator = match reader.string(operator_node?, "operator")?.parse() {
        Ok(operator) => operator,
        Err(error) => {
            reader.error(operator_node?.at, format!("{error}"));
            return None;
        }
    };
    let mut values = Vec::new();
    if let Some(node) = values_node {
        for value in reader.list(node, "values")? {
            values.push(reader.string(value, "a value")?);
        }
    }
    match kubernetes::match_expression(&Requirement { key, operator, values }) {
        Ok(selector) => Some(selector),
        Err(error) => {
            reader.error(item.at, error.to_string());
            None
        }
    }
}

/// How a prefix may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrefixForm {
    /// Address and length; the length must be there.
    Cidr,
    /// A bare address is a prefix of full length.
    CidrOrAddress,
}

/// An IPv4 or IPv6 prefix; host bits are kept as written.
pub(crate) fn prefix(node: &Node, form: PrefixForm, reader: &mut Reader<'_>) -> Option<IpNet> {
    let text = reader.string(node, "a CIDR")?;
    let parsed = parse_prefix(text, form);
    match parsed {
        Some(IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => {
            reader.error(
                node.at,
                format!("{text} is an IPv4 prefix in IPv6 clothes: write it as IPv4"),
            );
            None
        }
        Some(net) => Some(net),
        None => {
            reader.error(
                node.at,
                format!("{:?} is no CIDR, such as 10.0.0.0/8 or fd00::/8", shorten(text)),
            );
            None
        }
    }
}

/// Stricter than `IpNet`'s own reading, to which `010.0.0.0/8` is ten and not eight.
fn parse_prefix(text: &str, form: PrefixForm) -> Option<IpNet> {
    let Some((address, length)) = text.split_once('/') else {
        return match form {
            PrefixForm::Cidr => None,
            PrefixForm::CidrOrAddress => text.parse::<IpAddr>().ok().map(IpNet::from),
        };
    };
    let plain = length == "0" || !length.starts_with(['0', '+']);
    let length = length.parse().ok().filter(|_| plain)?;
    IpNet::new(address.parse().ok()?, length).ok()
}

/// A container port name: at most 15 lower case letters, digits and single `-`, with a letter.
pub(crate) fn port_name(text: &str) -> Result<Box<str>, String> {
    let valid = (1..=15).contains(&text.len())
        && is_dns_part(text)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.contains("--");
    if valid {
        return Ok(text.into());
    }
    Err(format!(
        "{:?} is no port name: at most 15 lower case letters, digits and single `-`, at least one \
         a letter (a number goes without quotes)",
        shorten(text)
    ))
}

/// Pods by their own labels.
pub(crate) fn pods(selector: Selector) -> Match {
    match selector {
        Selector::All => Match::Pod,
        selector => Match::PodLabels(selector),
    }
}

/// Pods by their namespace's labels.
pub(crate) fn pods_of_namespaces(selector: Selector) -> Match {
    match selector {
        Selector::All => Match::Pod,
        selector => Match::NamespaceLabels(selector),
    }
}

/// All of `parts`, in the shortest form.
pub(crate) fn all(parts: impl IntoIterator<Item = Match>) -> Match {
    let mut kept = Vec::new();
    for part in parts {
        match part {
            Match::Any => {}
            Match::Nothing => return Match::Nothing,
            Match::All(inner) => kept.extend(inner),
            part => kept.push(part),
        }
    }
    // Every test of a pod's labels implies that there is a pod.
    let is_pod_test = |part: &Match| {
        matches!(
            part,
            Match::PodLabels(_)
                | Match::Namespace(_)
                | Match::NamespaceLabels(_)
                | Match::ServiceAccount(_)
                | Match::ServiceAccountLabels(_)
        )
    };
    if kept.iter().any(is_pod_test) {
        kept.retain(|part| *part != Match::Pod);
    }
    kept.dedup();
    match kept.len() {
        0 => Match::Any,
        1 => kept.remove(0),
        _ => Match::All(kept),
    }
}

/// Any of `parts`, in the shortest form.
pub(crate) fn one_of(parts: impl IntoIterator<Item = Match>) -> Match {
    let mut kept = Vec::new();
    for part in parts {
        match part {
            Match::Nothing => {}
            Match::Any => return Match::Any,
            Match::OneOf(inner) => kept.extend(inner),
            part => kept.push(part),
        }
    }
    match kept.len() {
        0 => Match::Nothing,
        1 => kept.remove(0),
        _ => Match::OneOf(kept),
    }
}

/// What `part` does not match.
pub(crate) fn not(part: Match) -> Match {
    match part {
        Match::Any => Match::Nothing,
        Match::Nothing => Match::Any,
        Match::Not(inner) => *inner,
        part => Match::Not(Box::new(part)),
    }
}

/// Reads the one field that is set in a union type; refuses none and more than one.
pub(crate) fn exactly_one<'n>(
    fields: &mut Fields<'n>,
    what: &str,
    names: &[&'static str],
    reader: &mut Reader<'_>,
) -> Option<(&'static str, &'n Node)> {
    let mut set = Vec::new();
    for &name in names {
        if let Some(node) = fields.take_nullable(name) {
            set.push((name, node));
        }
    }
    if let [one] = set[..] {
        return Some(one);
    }
    let names = names.join(", ");
    reader
        .error(fields.at, format!("{what} must have exactly one of {names}, found {}", set.len()));
    None
}
