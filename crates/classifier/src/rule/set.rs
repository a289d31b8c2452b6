//! A checked list of rules, the input of every engine.

use std::sync::Arc;

use super::{AddressMatch, ClassMatch, Rule, RuleId, VlanMatch};
use crate::Error;

/// Limits on a [`RuleSet`].
///
/// ```
/// use portcullis_classifier::{Rule, RuleSetConfig};
///
/// let config = RuleSetConfig::default().max_rules(1);
/// assert!(config.build(vec![Rule::any(0)]).is_ok());
/// assert!(config.build(vec![Rule::any(0), Rule::any(1)]).is_err());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RuleSetConfig {
    max_rules: usize,
}

impl Default for RuleSetConfig {
    /// At most 1,048,576 rules.
    fn default() -> Self {
        Self { max_rules: 1 << 20 }
    }
}

impl RuleSetConfig {
    /// Refuses more than `limit` rules. Values above `u32::MAX - 1` count as that.
    #[must_use]
    pub fn max_rules(self, limit: usize) -> Self {
        Self { max_rules: limit.min(u32::MAX as usize - 1) }
    }

    /// Checks `rules`, which are in priority order: the first match wins.
    ///
    /// # Errors
    /// [`Error::TooManyRules`], or [`Error::Rule`] for a rule that mixes address families, asks
    /// for a VLAN above 4095, or has a class set or range that [`ClassMatch`] would not have made.
    pub fn build(self, rules: Vec<Rule>) -> Result<RuleSet, Error> {
        if rules.len() > self.max_rules {
            return Err(Error::TooManyRules { count: rules.len(), limit: self.max_rules });
        }
        for (index, rule) in rules.iter().enumerate() {
            check(rule).map_err(|why| Error::Rule { index, why })?;
        }
        Ok(RuleSet { rules: rules.into() })
    }
}

/// An immutable, checked list of rules in priority order. Cloning shares it.
///
/// ```
/// use portcullis_classifier::{Rule, RuleSet};
///
/// let rules = RuleSet::new(vec![Rule::any(1).protocol(6), Rule::any(0)]).unwrap();
/// assert_eq!(rules.len(), 2);
/// assert_eq!(rules.iter().next().unwrap().0.index(), 0);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    rules: Arc<[Rule]>,
}

impl RuleSet {
    /// Checks `rules` under the default limits: see [`RuleSetConfig::build`].
    ///
    /// # Errors
    /// As [`RuleSetConfig::build`].
    pub fn new(rules: Vec<Rule>) -> Result<Self, Error> {
        RuleSetConfig::default().build(rules)
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules in priority order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule of an id of this set, or `None` for an id of a longer one.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(id.index())
    }

    /// Ids and rules in priority order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (RuleId, &Rule)> {
        self.rules.iter().enumerate().map(|(index, rule)| {
            let index = u32::try_from(index).expect("a rule set holds fewer than 2^32 - 1 rules");
            (RuleId::new(index).expect("a rule set holds fewer than 2^32 - 1 rules"), rule)
        })
    }
}

pub(crate) fn check(rule: &Rule) -> Result<(), &'static str> {
    if matches!(
        (rule.source, rule.destination),
        (AddressMatch::V4(_), AddressMatch::V6(_)) | (AddressMatch::V6(_), AddressMatch::V4(_))
    ) {
        return Err("source and destination are of different address families");
    }
    if matches!(rule.vlan, VlanMatch::Id(4096..)) {
        return Err("a VLAN identifier is at most 4095");
    }
    check_class(&rule.source_class)?;
    check_class(&rule.destination_class)
}

fn check_class(class: &ClassMatch) -> Result<(), &'static str> {
    match class {
        ClassMatch::Range(first, last) if first > last => {
            Err("a class range ends before it starts: make it with ClassMatch::range")
        }
        ClassMatch::Set(set) if !set.is_sorted_by(|a, b| a < b) => {
            Err("a class set is not ascending: make it with ClassMatch::set")
        }
        _ => Ok(()),
    }
}
