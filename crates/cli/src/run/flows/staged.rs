//! Where staged policies would decide otherwise, by who and whom, in bounded memory.

use std::collections::HashMap;

use portcullis::flow::{Action, Event, FlowRecord};

use crate::control::status::StagedPair;
use crate::run::talkers;

/// Pairs that are remembered; further ones are counted only.
const PAIRS: usize = 1024;
/// Pairs that are handed out.
const MOST: usize = 20;

/// Flows that would be decided otherwise.
#[derive(Default)]
pub(in crate::run) struct StagedPairs {
    pairs: HashMap<Key, StagedPair>,
    /// Flows of pairs beyond those.
    others: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    source: String,
    destination: String,
    service: String,
    allowed: bool,
}

impl StagedPairs {
    /// Notes a record, if it says that staged policies differ.
    pub(in crate::run) fn note(&mut self, record: &FlowRecord) {
        let Some(staged) = &record.staged else { return };
        let flows = match record.event {
            Event::Start | Event::Packet => 1,
            Event::Deny => record.sent.packets,
            // Counted when it started, or not at all: it is older than the staged policies.
            _ => 0,
        };
        let key = Key {
            source: record.source.label(),
            destination: record.destination.label(),
            service: talkers::service(record),
            allowed: staged.verdict == Action::Allow,
        };
        if !self.pairs.contains_key(&key) && self.pairs.len() >= PAIRS {
            self.others += flows;
            return;
        }
        let new = || StagedPair {
            source: record.source.label(),
            destination: record.destination.label(),
            service: talkers::service(record),
            ..StagedPair::default()
        };
        let pair = self.pairs.entry(key).or_insert_with(new);
        pair.flows += flows;
        pair.verdict = name(record.verdict).to_owned();
        pair.staged = name(staged.verdict).to_owned();
        pair.policy.clone_from(&staged.policy);
        pair.rule.clone_from(&staged.rule);
    }

    /// Those with the most flows, and flows of pairs that are not remembered.
    pub(in crate::run) fn most(&self) -> (Vec<StagedPair>, u64) {
        let mut all: Vec<StagedPair> = self.pairs.values().cloned().collect();
        all.sort_by(|a, b| {
            (b.flows, &a.source, &a.destination, &a.service).cmp(&(
                a.flows,
                &b.source,
                &b.destination,
                &b.service,
            ))
        });
        all.truncate(MOST);
        (all, self.others)
    }

    /// Other policies are staged now.
    pub(in crate::run) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn name(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Reject => "reject",
    }
}
