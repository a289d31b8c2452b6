//! Kubernetes label selectors (`matchLabels`, `matchExpressions`) as [`Selector`]s, checked as the
//! API server checks them (apimachinery, `pkg/apis/meta/v1/validation` and `pkg/util/validation`).
//!
//! ```
//! use portcullis_identity_table::{Labels, selector::kubernetes::{self, Operator, Requirement}};
//! let selector = kubernetes::label_selector(
//!     [("app", "web")],
//!     [Requirement { key: "tier", operator: Operator::NotIn, values: vec!["db"] }],
//! ).unwrap();
//! // `NotIn` matches an object without the key.
//! assert!(selector.matches(&[("app", "web")].into_iter().collect()));
//! assert!(kubernetes::label_selector([("app", "no spaces")], []).is_err());
//! ```

use super::Selector;

/// How a requirement of `matchExpressions` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The key is there with one of the values.
    In,
    /// The key is absent, or has none of the values.
    NotIn,
    /// The key is there.
    Exists,
    /// The key is absent.
    DoesNotExist,
}

impl Operator {
    /// The operator as documents spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::In => "In",
            Self::NotIn => "NotIn",
            Self::Exists => "Exists",
            Self::DoesNotExist => "DoesNotExist",
        }
    }
}

impl core::str::FromStr for Operator {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "In" => Ok(Self::In),
            "NotIn" => Ok(Self::NotIn),
            "Exists" => Ok(Self::Exists),
            "DoesNotExist" => Ok(Self::DoesNotExist),
            _ => Err(Error::Operator { found: text.into() }),
        }
    }
}

/// One item of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement<'a> {
    /// The label key.
    pub key: &'a str,
    /// How it compares.
    pub operator: Operator,
    /// The values: at least one for `In` and `NotIn`, none for the others.
    pub values: Vec<&'a str>,
}

/// What the API server would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key is no qualified name.
    #[error("label key `{key}`: {reason}")]
    Key {
        /// The key as given.
        key: Box<str>,
        /// What is wrong, and what would be right.
        reason: &'static str,
    },
    /// The value is no label value.
    #[error("value `{value}` of label `{key}`: {reason}")]
    Value {
        /// The key it belongs to.
        key: Box<str>,
        /// The value as given.
        value: Box<str>,
        /// What is wrong, and what would be right.
        reason: &'static str,
    },
    /// An operator that does not exist.
    #[error("operator `{found}`: use In, NotIn, Exists or DoesNotExist")]
    Operator {
        /// The operator as given.
        found: Box<str>,
    },
    /// `In` or `NotIn` without values.
    #[error("operator {} of label `{key}` needs at least one value", operator.as_str())]
    ValuesMissing {
        /// The key it belongs to.
        key: Box<str>,
        /// The operator.
        operator: Operator,
    },
    /// `Exists` or `DoesNotExist` with values.
    #[error("operator {} of label `{key}` takes no values", operator.as_str())]
    ValuesForbidden {
        /// The key it belongs to.
        key: Box<str>,
        /// The operator.
        operator: Operator,
    },
}

/// A label selector: every pair of `match_labels` and every requirement of `match_expressions`
/// must hold; with none of either, every object is selected.
///
/// # Errors
/// The first key, value or requirement that the API server would refuse.
pub fn label_selector<'a>(
    match_labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    match_expressions: impl IntoIterator<Item = Requirement<'a>>,
) -> Result<Selector, Error> {
    let mut parts = Vec::new();
    for (key, value) in match_labels {
        parts.push(match_label(key, value)?);
    }
    for requirement in match_expressions {
        parts.push(match_expression(&requirement)?);
    }
    Ok(match parts.len() {
        0 => Selector::All,
        1 => parts.remove(0),
        _ => Selector::And(parts),
    })
}

/// One pair of `matchLabels`.
///
/// # Errors
/// [`Error::Key`] or [`Error::Value`].
pub fn match_label(key: &str, value: &str) -> Result<Selector, Error> {
    check_key(key)?;
    check_value(key, value)?;
    Ok(Selector::Equals(key.into(), value.into()))
}

/// One requirement of `matchExpressions`.
///
/// # Errors
/// Any variant of [`Error`] but [`Error::Operator`].
pub fn match_expression(requirement: &Requirement<'_>) -> Result<Selector, Error> {
    let Requirement { key, operator, values } = requirement;
    check_key(key)?;
    let error_key = || Box::from(*key);
    match (operator, values.is_empty()) {
        (Operator::In | Operator::NotIn, true) => {
            return Err(Error::ValuesMissing { key: error_key(), operator: *operator });
        }
        (Operator::Exists | Operator::DoesNotExist, false) => {
            return Err(Error::ValuesForbidden { key: error_key(), operator: *operator });
        }
        _ => {}
    }
    for value in values {
        check_value(key, value)?;
    }
    let key = Box::from(*key);
    let values = || values.iter().map(|v| Box::from(*v)).collect();
    Ok(match operator {
        Operator::In => Selector::In(key, values()),
        Operator::NotIn => Selector::NotIn(key, values()),
        Operator::Exists => Selector::Has(key),
        Operator::DoesNotExist => Selector::Not(Box::new(Selector::Has(key))),
    })
}

/// Whether `key` is a qualified name: `name` or `dns.subdomain/name`.
///
/// # Errors
/// [`Error::Key`].
pub fn check_key(key: &str) -> Result<(), Error> {
    let fail = |reason| Err(Error::Key { key: key.into(), reason });
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if name.contains('/') {
        return fail("has more than one `/`");
    }
    if prefix.is_some_and(|prefix| !is_subdomain(prefix)) {
        return fail(
            "the part before `/` must be a DNS subdomain: at most 253 characters, lower case \
             letters, digits, `-` and `.`",
        );
    }
    if name.is_empty() || !is_label_text(name) {
        return fail(
            "the name must have 1 to 63 characters: letters, digits, `-`, `_` and `.`, the first \
             and the last a letter or digit",
        );
    }
    Ok(())
}

/// Whether `value` may be the value of a label; it may be empty.
///
/// # Errors
/// [`Error::Value`].
pub fn check_value(key: &str, value: &str) -> Result<(), Error> {
    if is_label_text(value) {
        return Ok(());
    }
    Err(Error::Value {
        key: key.into(),
        value: value.into(),
        reason: "must be empty or have at most 63 characters: letters, digits, `-`, `_` and `.`, \
                 the first and the last a letter or digit",
    })
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    bytes.len() <= 63
        && bytes.iter().all(inner)
        && bytes.first().is_none_or(u8::is_ascii_alphanumeric)
        && bytes.last().is_none_or(u8::is_ascii_alphanumeric)
}

/// RFC 1123 as Kubernetes reads it; parts are not limited to 63 characters.
fn is_subdomain(text: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 253
        && text.split('.').all(|part| {
            let bytes = part.as_bytes();
            bytes.first().is_some_and(edge)
                && bytes.last().is_some_and(edge)
                && bytes.iter().all(|b| edge(b) || *b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Labels;

    #[test]
    fn keys_and_values_as_the_api_server_takes_them() {
        let long = "a".repeat(63);
        for key in
            ["a", "A.b_c-9", "example.com/a", "a.b-c.d/X", &long, &format!("{}/x", "a".repeat(253))]
        {
            check_key(key).unwrap_or_else(|e| panic!("{e}"));
        }
        for key in [
            "",
            "/a",
            "a/",
            "a/b/c",
            "-a",
            "a-",
            "a b",
            "Example.com/a",
            "a..b/x",
            "a-./x",
            "ä",
            &"a".repeat(64),
            &format!("{}/x", "a".repeat(254)),
        ] {
            assert!(matches!(check_key(key), Err(Error::Key { .. })), "{key}");
        }
        for value in ["", "1", "a_b", "A.b-c", &long] {
            check_value("k", value).unwrap_or_else(|e| panic!("{e}"));
        }
        for value in [" ", "a/b", "_a", "a.", "a b", &"a".repeat(64)] {
            assert!(check_value("k", value).is_err(), "{value}");
        }
    }

    #[test]
    fn operators() {
        let requirement = |operator, values: &[&'static str]| {
            match_expression(&Requirement { key: "k", operator, values: values.to_vec() })
        };
        let labels = |value: &str| Labels::from_iter([("k", value)]);
        let none = Labels::default();
        let within = requirement(Operator::In, &["a", ""]).unwrap();
        assert!(
            within.matches(&labels("a")) && within.matches(&labels("")) && !within.matches(&none)
        );
        let outside = requirement(Operator::NotIn, &["a"]).unwrap();
        assert!(
            outside.matches(&labels("b"))
                && outside.matches(&none)
                && !outside.matches(&labels("a"))
        );
        let exists = requirement(Operator::Exists, &[]).unwrap();
        assert!(exists.matches(&labels("")) && !exists.matches(&none));
        let missing = requirement(Operator::DoesNotExist, &[]).unwrap();
        assert!(missing.matches(&none) && !missing.matches(&labels("a")));

        assert!(matches!(requirement(Operator::In, &[]), Err(Error::ValuesMissing { .. })));
        assert!(matches!(requirement(Operator::NotIn, &[]), Err(Error::ValuesMissing { .. })));
        assert!(matches!(
            requirement(Operator::Exists, &["a"]),
            Err(Error::ValuesForbidden { .. })
        ));
        assert!(matches!(
            requirement(Operator::DoesNotExist, &["a"]),
            Err(Error::ValuesForbidden { .. })
        ));
        assert!(matches!(requirement(Operator::In, &["a b"]), Err(Error::Value { .. })));
        assert!("NotExists".parse::<Operator>().is_err());
        for operator in [Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist] {
            assert_eq!(operator.as_str().parse::<Operator>().unwrap(), operator);
        }
    }

    #[test]
    fn an_empty_selector_selects_everything() {
        assert_eq!(label_selector([], []).unwrap(), Selector::All);
        let two = label_selector(
            [("a", "1")],
            [Requirement { key: "b", operator: Operator::Exists, values: vec![] }],
        )
        .unwrap();
        assert!(two.matches(&[("a", "1"), ("b", "")].into_iter().collect()));
        assert!(!two.matches(&[("a", "1")].into_iter().collect()));
    }
}
