//! Rules named by people: whose packets are limited, and whose are mirrored. Names are looked up anew
//! whenever rules are loaded, before the first packet meets them.

use std::sync::Arc;

use portcullis_dataplane::mirror;
use portcullis_dataplane::pipeline::{self, PacketRate, RateLimits};
use portcullis_dataplane::verdict::{RuleId, Verdict};
use portcullis_policy::RuleInfo;
use portcullis_policy::model::Direction;

use crate::engine::Engine;

/// A rule, or all rules of a policy, as people name them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleName {
    /// The policy as records name it: `NetworkPolicy/shop/web`.
    pub policy: String,
    /// Its rules of one direction; `None`: of both.
    pub direction: Option<Direction>,
    /// One rule by its place in that direction, from 0; `None`: all, and the end of the policy's tier
    /// where that decides.
    pub index: Option<u32>,
}

/// How many packets may pass. See [`Engine::limit_rates`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Of the connections that each identity opened, both ways.
    pub identity: Option<PacketRate>,
    /// Of the connections that a rule allowed, both ways: each rule that a name means has a bucket of
    /// its own. Of several that mean one rule the last counts.
    pub rules: Vec<(RuleName, PacketRate)>,
}

/// Which packets are copied to the mirror port. See [`Engine::mirror`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirrored {
    /// Those with one of these verdicts; none: any verdict.
    pub verdicts: Vec<Verdict>,
    /// Those that one of these rules decided; none: any rule, or no rule.
    pub rules: Vec<RuleName>,
}

impl Engine {
    /// Limits how many packets pass, from now on; packets beyond are dropped
    /// ([`RateLimit`](portcullis_dataplane::reason::Reason::RateLimit)). [`Rates::default`] limits
    /// nothing. Names may be of rules that are loaded later. Buckets begin full, and are full again
    /// when rules are loaded that have a limit and were never loaded before.
    ///
    /// Identities of different [zones](crate::Zone) may share a bucket.
    pub fn limit_rates(&self, rates: Rates) {
        self.0.book.lock().limit_rates(rates);
    }

    /// Copies packets to the firewall's mirror port ([`Config::mirror_to`](crate::Config)) from now on;
    /// `None`: none. Names may be of rules that are loaded later.
    pub fn mirror(&self, mirrored: Option<Mirrored>) {
        self.0.book.lock().mirror(mirrored);
    }

    /// The names given to [`Engine::limit_rates`] and [`Engine::mirror`] that no rule loaded so far has:
    /// perhaps misspelt.
    pub fn unknown_rules(&self) -> Vec<RuleName> {
        self.0.book.lock().unknown()
    }
}

impl RuleName {
    fn means(&self, rule: &RuleInfo) -> bool {
        self.direction.is_none_or(|direction| direction == rule.direction)
            && self.index.is_none_or(|index| rule.index == Some(index))
            && rule.policy.name.to_string() == self.policy
    }
}

/// What was asked for, and what it means for the rules loaded so far.
#[derive(Debug)]
pub(crate) struct Selected {
    plane: Arc<pipeline::Engine>,
    rates: Rates,
    limits: RateLimits,
    mirrored: Option<Mirrored>,
    filter: Option<mirror::Filter>,
    changed: [bool; 2],
}

impl Selected {
    pub(crate) fn new(plane: Arc<pipeline::Engine>) -> Self {
        Self {
            plane,
            rates: Rates::default(),
            limits: RateLimits::default(),
            mirrored: None,
            filter: None,
            changed: [false; 2],
        }
    }

    pub(crate) fn limit_rates(&mut self, rates: Rates, rules: &[Arc<RuleInfo>]) {
        self.limits = RateLimits::default();
        self.limits.identity = rates.identity;
        self.rates = rates;
        for (number, rule) in (0..).zip(rules) {
            self.limit(RuleId::new(number), rule);
        }
        self.changed[0] = true;
        self.settle();
    }

    pub(crate) fn mirror(&mut self, mirrored: Option<Mirrored>, rules: &[Arc<RuleInfo>]) {
        self.filter = mirrored.as_ref().map(|mirrored| {
            let mut filter = mirror::Filter::default();
            filter.verdicts.clone_from(&mirrored.verdicts);
            filter.rules = (!mirrored.rules.is_empty()).then(Vec::new);
            filter
        });
        self.mirrored = mirrored;
        for (number, rule) in (0..).zip(rules) {
            self.copy(RuleId::new(number), rule);
        }
        self.changed[1] = true;
        self.settle();
    }

    /// A rule is loaded for the first time. [`Selected::settle`] must follow.
    pub(crate) fn loaded(&mut self, number: RuleId, rule: &RuleInfo) {
        self.limit(number, rule);
        self.copy(number, rule);
    }

    /// Puts in force what changed.
    pub(crate) fn settle(&mut self) {
        let [rates, mirror] = std::mem::take(&mut self.changed);
        if rates {
            self.plane.limit_rates(self.limits.clone());
        }
        if mirror {
            self.plane.mirror(self.filter.clone());
        }
    }

    /// Names that mean none of these rules.
    pub(crate) fn unknown(&self, rules: &[Arc<RuleInfo>]) -> Vec<RuleName> {
        let limited = self.rates.rules.iter().map(|(name, _)| name);
        let mirrored = self.mirrored.iter().flat_map(|mirrored| &mirrored.rules);
        let unknown = |name: &&RuleName| !rules.iter().any(|rule| name.means(rule));
        limited.chain(mirrored).filter(unknown).cloned().collect()
    }

    fn limit(&mut self, number: RuleId, rule: &RuleInfo) {
        for (name, rate) in &self.rates.rules {
            if name.means(rule) {
                self.limits.rules.push((number, *rate));
                self.changed[0] = true;
            }
        }
    }

    fn copy(&mut self, number: RuleId, rule: &RuleInfo) {
        let Some(mirrored) = &self.mirrored else { return };
        let Some(rules) = self.filter.as_mut().and_then(|filter| filter.rules.as_mut()) else {
            return;
        };
        if mirrored.rules.iter().any(|name| name.means(rule)) {
            rules.push(number);
            self.changed[1] = true;
        }
    }
}
