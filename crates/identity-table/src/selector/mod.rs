//! Selectors: one boolean expression over labels, whatever language it was written in.

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
            Self::All => true,
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
