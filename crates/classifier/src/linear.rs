//! The `linear` engine: tries the rules one by one. Slow, obvious, and therefore the judge of all
//! other engines. It also serves as an engine for a handful of rules.

use crate::Error;
use crate::header::{Header, TupleV4};
use crate::rule::{RuleId, RuleSet};

/// Settings of the [`Linear`] engine.
///
/// ```
/// use portcullis_classifier::{Rule, RuleSet, linear};
///
/// let config = linear::Config::default().max_rules(1);
/// let rules = RuleSet::new(vec![Rule::any(0), Rule::any(1)]).unwrap();
/// assert!(linear::Builder::new().configure(config).build(&rules).is_err());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Config {
    max_rules: usize,
}

impl Default for Config {
    /// No limit but that of the rule set.
    fn default() -> Self {
        Self { max_rules: usize::MAX }
    }
}

impl Config {
    /// Refuses more than `limit` rules, which bounds the cost of a lookup.
    #[must_use]
    pub fn max_rules(self, limit: usize) -> Self {
        Self { max_rules: limit }
    }
}

/// Builds a [`Linear`].
///
/// ```
/// use portcullis_classifier::{Rule, RuleSet, linear};
///
/// let rules = RuleSet::new(vec![Rule::any(0)]).unwrap();
/// assert_eq!(linear::Builder::new().build(&rules).unwrap().rules(), &rules);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Builder {
    config: Config,
}

impl Builder {
    /// A builder with default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes settings.
    #[must_use]
    pub fn configure(self, config: Config) -> Self {
        Self { config }
    }

    /// "Compiles" the rules: keeps them as they are, shared with the set.
    ///
    /// # Errors
    /// [`Error::TooManyRules`].
    pub fn build(&self, rules: &RuleSet) -> Result<Linear, Error> {
        if rules.len() > self.config.max_rules {
            return Err(Error::TooManyRules { count: rules.len(), limit: self.config.max_rules });
        }
        Ok(Linear { rules: rules.clone() })
    }
}

/// What a thread keeps between batches. The linear engine needs nothing.
///
/// ```
/// use portcullis_classifier::{Header, Rule, RuleSet, linear};
///
/// let rules = RuleSet::new(vec![Rule::any(3)]).unwrap();
/// let engine = linear::Builder::new().build(&rules).unwrap();
/// let mut scratch = linear::Scratch::default();
/// let header = Header::v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 1, 2);
/// for batch in [[header; 8], [header; 8]] {
///     let mut found = [None; 8];
///     engine.lookup_batch(&batch, &mut scratch, &mut found);
///     assert!(found.iter().all(Option::is_some));
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Scratch {}

/// Rules tried one by one: a lookup costs time linear in the number of rules.
///
/// ```
/// use portcullis_classifier::{linear, Header, Rule, RuleSet};
///
/// let rules = RuleSet::new(vec![Rule::any(1).protocol(6), Rule::any(0)]).unwrap();
/// let linear = linear::Builder::new().build(&rules).unwrap();
/// let header = Header::v4([10, 0, 0, 1], [10, 0, 0, 2], 17, 1, 2);
/// assert_eq!(linear.lookup(&header).unwrap().index(), 1);
/// ```
#[derive(Clone, Debug)]
pub struct Linear {
    rules: RuleSet,
}

impl Linear {
    /// The first rule that matches.
    #[must_use]
    pub fn lookup(&self, header: &Header) -> Option<RuleId> {
        self.rules.iter().find(|(_, rule)| rule.matches(header)).map(|(id, _)| id)
    }

    /// The first rule that matches, for each header.
    ///
    /// # Panics
    /// When `headers` and `found` differ in length.
    pub fn lookup_batch(
        &self,
        headers: &[Header],
        _scratch: &mut Scratch,
        found: &mut [Option<RuleId>],
    ) {
        assert_eq!(headers.len(), found.len(), "one answer a header");
        for (header, found) in headers.iter().zip(found) {
            *found = self.lookup(header);
        }
    }

    /// The first rule that matches, for each IPv4 5-tuple.
    ///
    /// # Panics
    /// When `tuples` and `found` differ in length.
    pub fn lookup_tuples(
        &self,
        tuples: &[TupleV4],
        _scratch: &mut Scratch,
        found: &mut [Option<RuleId>],
    ) {
        assert_eq!(tuples.len(), found.len(), "one answer a tuple");
        for (tuple, found) in tuples.iter().zip(found) {
            *found = self.lookup(&tuple.header());
        }
    }

    /// The rules it was built from.
    #[must_use]
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// Bytes of heap that the rules take, class sets apart.
    #[must_use]
    pub fn memory_usage(&self) -> usize {
        size_of_val(self.rules.rules())
    }
}
