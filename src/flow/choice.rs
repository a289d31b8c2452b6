//! Which flows are recorded: globally, and by policy.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

use portcullis_dataplane::event::{Event, EventKind};
use portcullis_dataplane::packet::Tuple;
use portcullis_policy::RuleInfo;

use super::config::ConfigError;

/// What is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    None,
    /// What is denied, connections that a new policy cuts included.
    Denied,
    /// Everything.
    #[default]
    All,
    /// What is denied, and one connection in so many: all records of a connection, or none. Which ones
    /// is decided by a keyed hash of its ends, so that nobody can choose to stay unseen.
    Sampled(NonZeroU32),
}

impl FromStr for Keep {
    type Err = ConfigError;

    /// `none`, `denied`, `all`, or `1/N`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "none" => Ok(Self::None),
            "denied" => Ok(Self::Denied),
            "all" => Ok(Self::All),
            _ => {
                let number = text.strip_prefix("1/").and_then(|number| number.parse().ok());
                number.map(Self::Sampled).ok_or_else(|| ConfigError::Keep(text.to_owned()))
            }
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Denied => f.write_str("denied"),
            Self::All => f.write_str("all"),
            Self::Sampled(number) => write!(f, "1/{number}"),
        }
    }
}

/// Policies by name: `Kind/namespace/name`, each part a text or `*`; `default` is what no policy
/// decided. Policies without a namespace have an empty one: `GlobalNetworkPolicy//quarantine`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPattern(Option<[Box<str>; 3]>);

impl FromStr for PolicyPattern {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if text == "default" {
            return Ok(Self(None));
        }
        let parts: Vec<Box<str>> = text.split('/').map(Into::into).collect();
        let parts: Result<[Box<str>; 3], _> = parts.try_into();
        parts.map(|parts| Self(Some(parts))).map_err(|_| ConfigError::Pattern(text.to_owned()))
    }
}

impl PolicyPattern {
    /// Whether the policy of this rule is meant; `None`: no policy decided.
    fn matches(&self, rule: Option<&RuleInfo>) -> bool {
        match (&self.0, rule) {
            (None, None) => true,
            (Some([kind, namespace, name]), Some(rule)) => {
                let of = &rule.policy.name;
                let alike = |pattern: &str, text: &str| pattern == "*" || pattern == text;
                alike(kind, of.kind.as_str())
                    && alike(namespace, of.namespace.as_deref().unwrap_or_default())
                    && alike(name, &of.name)
            }
            _ => false,
        }
    }
}

/// What is recorded of flows that some policies decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyKeep {
    /// The policies.
    pub policies: PolicyPattern,
    /// What is recorded.
    pub keep: Keep,
}

/// The same by number of the rule.
#[derive(Debug)]
pub(super) struct Choices {
    keep: Keep,
    policies: Vec<PolicyKeep>,
    hasher: ahash::RandomState,
    none: Option<Keep>,
    known: Vec<Option<Keep>>,
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    /// It is recorded.
    Kept,
    /// Its connection is none of the sample.
    SampledOut,
    /// Such are not recorded.
    LeftOut,
}

/// Rules whose choice is remembered; those beyond are looked up each time.
const KNOWN: usize = 1 << 20;

impl Choices {
    pub(super) fn new(keep: Keep, policies: Vec<PolicyKeep>) -> Self {
        let hasher = ahash::RandomState::new();
        Self { keep, policies, hasher, none: None, known: Vec::new() }
    }

    /// Whether an event is recorded; `rule` names its rule.
    pub(super) fn choose(
        &mut self,
        event: &Event,
        rule: impl FnOnce() -> Option<Arc<RuleInfo>>,
    ) -> Chosen {
        let keep = if self.policies.is_empty() { self.keep } else { self.by_policy(event, rule) };
        let denied = match event.kind {
            EventKind::Dropped { .. } | EventKind::Folded { .. } => true,
            EventKind::Ended { reason, .. } => reason.is_some(),
            _ => false,
        };
        match keep {
            Keep::All => Chosen::Kept,
            Keep::None => Chosen::LeftOut,
            Keep::Denied if denied => Chosen::Kept,
            Keep::Denied => Chosen::LeftOut,
            // A connection that is cut is recorded as denied, whether or not its start was.
            Keep::Sampled(_) if denied => Chosen::Kept,
            Keep::Sampled(of) if self.sampled(&event.tuple, of) => Chosen::Kept,
            Keep::Sampled(_) => Chosen::SampledOut,
        }
    }

    fn by_policy(&mut self, event: &Event, rule: impl FnOnce() -> Option<Arc<RuleInfo>>) -> Keep {
        let number = event.rule.get() as usize;
        let none = event.rule == portcullis_dataplane::verdict::RuleId::NONE;
        let known = if none { self.none } else { self.known.get(number).copied().flatten() };
        if let Some(keep) = known {
            return keep;
        }
        let rule = if none { None } else { rule() };
        let first = self.policies.iter().find(|of| of.policies.matches(rule.as_deref()));
        let keep = first.map_or(self.keep, |of| of.keep);
        if none {
            self.none = Some(keep);
        } else if number < KNOWN {
            let len = self.known.len().max(number + 1);
            self.known.resize(len, None);
            self.known[number] = Some(keep);
        }
        keep
    }

    /// Whether a connection is one of the sample: the same for both directions.
    fn sampled(&self, tuple: &Tuple, of: NonZeroU32) -> bool {
        let (a, b) =
            ((tuple.source, tuple.source_port), (tuple.destination, tuple.destination_port));
        let ends = (a.min(b), a.max(b), tuple.zone, tuple.protocol);
        self.hasher.hash_one(ends).is_multiple_of(u64::from(of.get()))
    }
}
