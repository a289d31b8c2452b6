//! Selectors: one boolean expression over labels, whatever language it was written in.

pub mod calico;
pub mod index;
pub mod kubernetes;

use std::collections::BTreeSet;

use crate::Labels;

/// A boolean expression over the labels of one object.
///
/// Kubernetes label selectors and Calico's selector language both become this. A test on a key that
/// is absent is false, except [`Selector::NotIn`] and [`Selector::NotEquals`], which hold
/// (apimachinery `labels.Requirement.Matches`; Calico `parser/ast.go`).
///
/// ```
/// use portcullis_identity_table::{Labels, Selector};
/// let web = Selector::Equals("app".into(), "web".into());
/// let labels: Labels = [("app", "web")].into_iter().collect();
/// assert!(web.matches(&labels));
/// assert!(Selector::NotEquals("tier".into(), "db".into()).matches(&labels));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Selector {
    /// Every object.
    All,
    /// The object belongs to no namespace (Calico's `global()`). Labels cannot tell, so
    /// [`matches`](Selector::matches) says yes, as for any object that labels alone describe;
    /// whoever reads a `namespaceSelector` must give it its meaning.
    Global,
    /// The key is there, with any value.
    Has(Box<str>),
    /// The key is there with this value.
    Equals(Box<str>, Box<str>),
    /// The key is absent or has another value.
    NotEquals(Box<str>, Box<str>),
    /// The key is there with one of these values.
    In(Box<str>, BTreeSet<Box<str>>),
    /// The key is absent or has none of these values.
    NotIn(Box<str>, BTreeSet<Box<str>>),
    /// The key is there and its value contains this text.
    Contains(Box<str>, Box<str>),
    /// The key is there and its value starts with this text.
    StartsWith(Box<str>, Box<str>),
    /// The key is there and its value ends with this text.
    EndsWith(Box<str>, Box<str>),
    /// The part does not hold.
    Not(Box<Selector>),
    /// All parts hold; with no part: every object.
    And(Vec<Selector>),
    /// At least one part holds; with no part: no object.
    Or(Vec<Selector>),
}

impl Selector {
    /// Whether `labels` satisfy the expression. O(size of the expression × log labels).
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Has(key) => labels.value(key).is_some(),
            Self::Equals(key, value) => labels.value(key) == Some(value),
            Self::NotEquals(key, value) => labels.value(key) != Some(value),
            Self::In(key, values) => labels.value(key).is_some_and(|v| values.contains(v)),
            Self::NotIn(key, values) => labels.value(key).is_none_or(|v| !values.contains(v)),
            Self::Contains(key, part) => labels.value(key).is_some_and(|v| v.contains(&**part)),
            Self::StartsWith(key, part) => {
                labels.value(key).is_some_and(|v| v.starts_with(&**part))
            }
            Self::EndsWith(key, part) => labels.value(key).is_some_and(|v| v.ends_with(&**part)),
            Self::Not(part) => !part.matches(labels),
            Self::And(parts) => parts.iter().all(|p| p.matches(labels)),
            Self::Or(parts) => parts.iter().any(|p| p.matches(labels)),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_key() -> impl Strategy<Value = Box<str>> {
        prop::sample::select(vec!["a", "b", "c.d/e", "in", "has"]).prop_map(Into::into)
    }

    fn any_value() -> impl Strategy<Value = Box<str>> {
        prop::sample::select(vec!["", "x", "xy", "y'z", "\"q"]).prop_map(Into::into)
    }

    pub(crate) fn any_labels() -> impl Strategy<Value = Labels> {
        prop::collection::vec((any_key(), any_value()), 0..4)
            .prop_map(|pairs| pairs.into_iter().collect())
    }

    /// Selectors of every variant, nested a few levels.
    pub(crate) fn any_selector() -> impl Strategy<Value = Selector> {
        let values = || prop::collection::btree_set(any_value(), 0..3);
        let leaf = prop_oneof![
            Just(Selector::All),
            any_key().prop_map(Selector::Has),
            (any_key(), any_value()).prop_map(|(k, v)| Selector::Equals(k, v)),
            (any_key(), any_value()).prop_map(|(k, v)| Selector::NotEquals(k, v)),
            (any_key(), values()).prop_map(|(k, v)| Selector::In(k, v)),
            (any_key(), values()).prop_map(|(k, v)| Selector::NotIn(k, v)),
            (any_key(), any_value()).prop_map(|(k, v)| Selector::Contains(k, v)),
            (any_key(), any_value()).prop_map(|(k, v)| Selector::StartsWith(k, v)),
            (any_key(), any_value()).prop_map(|(k, v)| Selector::EndsWith(k, v)),
        ];
        leaf.prop_recursive(4, 16, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|s| Selector::Not(Box::new(s))),
                prop::collection::vec(inner.clone(), 0..3).prop_map(Selector::And),
                prop::collection::vec(inner, 0..3).prop_map(Selector::Or),
            ]
        })
    }
}
