//! What Calico's selectors select: pods, and the addresses of network sets.
//!
//! Calico gives every endpoint and set one map of labels: its own, some that Calico adds
//! (`projectcalico.org/namespace`, `projectcalico.org/orchestrator`,
//! `projectcalico.org/serviceaccount`), those of its namespace with the prefix `pcns.`, and those of
//! its service account with the prefix `pcsa.`. A `namespaceSelector` is a selector over the `pcns.`
//! part, a service account selector one over the `pcsa.` part. Here each test on such a label becomes
//! the test of the thing that it stands for.

use portcullis_identity_table::endpoint::NAMESPACE_NAME_LABEL;
use portcullis_identity_table::selector::calico;
use portcullis_identity_table::{Labels, Selector};

use super::decode::Reader;
use super::object::{all, not, one_of};
use super::tree::Node;
use crate::model::Match;

const NAMESPACE: &str = "projectcalico.org/namespace";
const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// On namespaces and service accounts: their own name.
const NAME: &str = "projectcalico.org/name";
const NAMESPACE_PREFIX: &str = "pcns.";
const SERVICE_ACCOUNT_PREFIX: &str = "pcsa.";

/// Whose labels a selector speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// The endpoint or set itself.
    Itself,
    /// Its namespace.
    Namespace,
    /// Its service account.
    ServiceAccount,
}

/// A network set as a thing that selectors select.
#[derive(Clone, Debug)]
pub(crate) struct NamedSet {
    /// Index into the sets of the policy set.
    pub(crate) index: u32,
    /// `None` for a global one.
    pub(crate) namespace: Option<Box<str>>,
    pub(crate) labels: Labels,
}

/// Reads a selector; refuses tests that have no meaning here.
pub(crate) fn selector(node: &Node, of: Of, reader: &mut Reader<'_>) -> Option<Selector> {
    let text = reader.string(node, "a selector")?;
    let selector = match calico::parse(text) {
        Ok(selector) => selector,
        Err(error) => {
            reader.error(node.at, format!("this is no selector: {error}"));
            return None;
        }
    };
    if of != Of::Namespace && any_leaf(&selector, &|leaf| matches!(leaf, Selector::Global)) {
        reader.error(node.at, "global() belongs in a namespaceSelector");
        return None;
    }
    let unsupported = |leaf: &Selector| {
        matches!(leaf, Selector::Contains(..) | Selector::StartsWith(..) | Selector::EndsWith(..))
            && is_account_name(leaf, of)
    };
    if any_leaf(&selector, &unsupported) {
        reader.error(
            node.at,
            "the name of a service account can be compared with ==, !=, in and not in only",
        );
        return None;
    }
    Some(selector)
}

/// The pods that satisfy a selector. The result holds for no address but a pod's, if it stands
/// beside [`Match::Pod`].
pub(crate) fn pods(selector: &Selector, of: Of) -> Match {
    let special = |leaf: &Selector| match of {
        Of::Itself => leaf_key(leaf).is_none_or(is_special),
        Of::Namespace => matches!(leaf, Selector::All | Selector::Global),
        Of::ServiceAccount => is_account_name(leaf, of),
    };
    if any_leaf(selector, &special) {
        return walk(selector, &|leaf| pod_leaf(leaf, of));
    }
    match of {
        Of::Itself => Match::PodLabels(selector.clone()),
        Of::Namespace => Match::NamespaceLabels(rename(selector)),
        Of::ServiceAccount => Match::ServiceAccountLabels(selector.clone()),
    }
}

/// Whether a set satisfies a selector: [`Match::Any`] if so, [`Match::Nothing`] if not, or a
/// condition on its namespace.
pub(crate) fn set(selector: &Selector, of: Of, set: &NamedSet) -> Match {
    walk(selector, &|leaf| set_leaf(leaf, of, set))
}

fn pod_leaf(leaf: &Selector, of: Of) -> Match {
    match leaf {
        // Every pod has a namespace and a service account.
        Selector::All => return Match::Any,
        Selector::Global => return Match::Nothing,
        _ => {}
    }
    let key = leaf_key(leaf).unwrap_or_default();
    match of {
        Of::Namespace => Match::NamespaceLabels(rename(leaf)),
        Of::ServiceAccount if key == NAME => account_named(leaf),
        Of::ServiceAccount => Match::ServiceAccountLabels(leaf.clone()),
        Of::Itself => {
            if key == NAMESPACE {
                Match::NamespaceLabels(with_key(leaf, NAMESPACE_NAME_LABEL))
            } else if key == ORCHESTRATOR {
                truth(leaf.matches(&[(ORCHESTRATOR, "k8s")].into_iter().collect()))
            } else if key == SERVICE_ACCOUNT {
                account_named(leaf)
            } else if let Some(inner) = key.strip_prefix(NAMESPACE_PREFIX) {
                pod_leaf(&with_key(leaf, inner), Of::Namespace)
            } else if let Some(inner) = key.strip_prefix(SERVICE_ACCOUNT_PREFIX) {
                pod_leaf(&with_key(leaf, inner), Of::ServiceAccount)
            } else {
                Match::PodLabels(leaf.clone())
            }
        }
    }
}

fn set_leaf(leaf: &Selector, of: Of, set: &NamedSet) -> Match {
    let nothing_known = || truth(leaf.matches(&Labels::default()));
    match (of, leaf) {
        (Of::Itself, Selector::All) => return Match::Any,
        // `all()` over namespaces or accounts means: has one.
        (Of::Namespace, Selector::All) => return truth(set.namespace.is_some()),
        (Of::Namespace, Selector::Global) => return truth(set.namespace.is_none()),
        (Of::ServiceAccount, Selector::All) | (_, Selector::Global) => return Match::Nothing,
        _ => {}
    }
    let key = leaf_key(leaf).unwrap_or_default();
    match of {
        Of::ServiceAccount => nothing_known(),
        Of::Namespace => match &set.namespace {
            Some(namespace) => Match::NamespaceHas(namespace.clone(), rename(leaf)),
            None => nothing_known(),
        },
        Of::Itself => {
            if key == NAMESPACE {
                let labels = set.namespace.as_deref().map(|name| (NAMESPACE, name));
                truth(leaf.matches(&labels.into_iter().collect()))
            } else if let Some(inner) = key.strip_prefix(NAMESPACE_PREFIX) {
                set_leaf(&with_key(leaf, inner), Of::Namespace, set)
            } else if is_special(key) {
                nothing_known()
            } else {
                truth(leaf.matches(&set.labels))
            }
        }
    }
}

/// Translates the leaves of an expression and keeps its shape.
fn walk(selector: &Selector, leaf: &impl Fn(&Selector) -> Match) -> Match {
    match selector {
        Selector::And(parts) => all(parts.iter().map(|part| walk(part, leaf))),
        Selector::Or(parts) => one_of(parts.iter().map(|part| walk(part, leaf))),
        Selector::Not(part) => not(walk(part, leaf)),
        other => leaf(other),
    }
}

/// A test of a service account's name as a test of pods.
fn account_named(leaf: &Selector) -> Match {
    let named = |name: &str| Match::ServiceAccount(name.into());
    match leaf {
        Selector::Equals(_, name) => named(name),
        Selector::NotEquals(_, name) => not(named(name)),
        Selector::In(_, names) => one_of(names.iter().map(|name| named(name))),
        Selector::NotIn(_, names) => not(one_of(names.iter().map(|name| named(name)))),
        // `has(name)`; the other tests of text were refused when the selector was read.
        _ => Match::Any,
    }
}

fn is_account_name(leaf: &Selector, of: Of) -> bool {
    let Some(key) = leaf_key(leaf) else { return false };
    match of {
        Of::Itself => {
            key == SERVICE_ACCOUNT || key.strip_prefix(SERVICE_ACCOUNT_PREFIX) == Some(NAME)
        }
        Of::ServiceAccount => key == NAME,
        Of::Namespace => false,
    }
}

fn is_special(key: &str) -> bool {
    matches!(key, NAMESPACE | ORCHESTRATOR | SERVICE_ACCOUNT)
        || key.starts_with(NAMESPACE_PREFIX)
        || key.starts_with(SERVICE_ACCOUNT_PREFIX)
}

/// Calico's label for a namespace's name is the API server's.
fn rename(selector: &Selector) -> Selector {
    match selector {
        Selector::And(parts) => Selector::And(parts.iter().map(rename).collect()),
        Selector::Or(parts) => Selector::Or(parts.iter().map(rename).collect()),
        Selector::Not(part) => Selector::Not(Box::new(rename(part))),
        leaf if leaf_key(leaf) == Some(NAME) => with_key(leaf, NAMESPACE_NAME_LABEL),
        leaf => leaf.clone(),
    }
}

fn any_leaf(selector: &Selector, holds: &impl Fn(&Selector) -> bool) -> bool {
    match selector {
        Selector::And(parts) | Selector::Or(parts) => parts.iter().any(|p| any_leaf(p, holds)),
        Selector::Not(part) => any_leaf(part, holds),
        leaf => holds(leaf),
    }
}

fn leaf_key(leaf: &Selector) -> Option<&str> {
    match leaf {
        Selector::Has(key)
        | Selector::Equals(key, _)
        | Selector::NotEquals(key, _)
        | Selector::In(key, _)
        | Selector::NotIn(key, _)
        | Selector::Contains(key, _)
        | Selector::StartsWith(key, _)
        | Selector::EndsWith(key, _) => Some(key),
        _ => None,
    }
}

/// The same test on another key.
fn with_key(leaf: &Selector, key: &str) -> Selector {
    let mut leaf = leaf.clone();
    match &mut leaf {
        Selector::Has(old)
        | Selector::Equals(old, _)
        | Selector::NotEquals(old, _)
        | Selector::In(old, _)
        | Selector::NotIn(old, _)
        | Selector::Contains(old, _)
        | Selector::StartsWith(old, _)
        | Selector::EndsWith(old, _) => *old = key.into(),
        _ => {}
    }
    leaf
}

fn truth(holds: bool) -> Match {
    if holds { Match::Any } else { Match::Nothing }
}
