//! From the ordered rules between two classes to a port tree.
//!
//! The slow twin of [`super::fold`], for the tests: each sequence is flattened from nothing. The outcome is constant between neighbouring ends of intervals, so one walk of the rules
//! for each such cell is the whole function.

use portcullis_identity_table::endpoint::NamedPort;

use super::boxes::{Box2, Values, boxes};
use super::resolve::RuleId;
use super::trees::{Field, Full, Outcome, Ref, SLOT_PROTOCOLS, SLOTS, TreeBuilder};
use crate::flow::{Verdict, protocol};
use crate::model::{Action, IpVersion, TierDefault, Traffic};

/// The rules between two classes, in order, tier by tier; only tiers that apply.
#[derive(Debug, Default)]
pub(crate) struct Sequence<'a> {
    pub(crate) tiers: Vec<SequenceTier<'a>>,
    /// Named ports of the class at the source.
    pub(crate) source_ports: &'a [NamedPort],
    /// Named ports of the class at the destination.
    pub(crate) destination_ports: &'a [NamedPort],
}

#[derive(Debug)]
pub(crate) struct SequenceTier<'a> {
    pub(crate) default_action: TierDefault,
    /// The end of the tier by the first enforced policy that applies, if one does.
    pub(crate) enforced_end: Option<RuleId>,
    /// The end of the tier by the first policy that applies, staged or not.
    pub(crate) staged_end: RuleId,
    pub(crate) rules: Vec<SequenceRule<'a>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct SequenceRule<'a> {
    pub(crate) id: RuleId,
    pub(crate) action: Action,
    pub(crate) staged: bool,
    pub(crate) traffic: &'a [Traffic],
}

/// Walks the tiers; `matches` tells of each rule, by tier and place in it, whether it matches.
pub(crate) fn decide(
    sequence: &Sequence<'_>,
    mut matches: impl FnMut(usize, usize) -> bool,
) -> Outcome {
    let mut walk = |staged: bool| {
        let mut log = false;
        'tiers: for (t, tier) in sequence.tiers.iter().enumerate() {
            let end = if staged { Some(tier.staged_end) } else { tier.enforced_end };
            let Some(end) = end else { continue };
            for (r, rule) in tier.rules.iter().enumerate() {
                if (rule.staged && !staged) || !matches(t, r) {
                    continue;
                }
                match rule.action {
                    Action::Allow => return (Verdict::Allow, rule.id, log),
                    Action::Deny => return (Verdict::Deny, rule.id, log),
                    Action::Pass => continue 'tiers,
                    Action::Log => log = true,
                }
            }
            if tier.default_action == TierDefault::Deny {
                return (Verdict::Deny, end, log);
            }
        }
        (Verdict::Allow, RuleId::NONE, log)
    };
    let (verdict, rule, log) = walk(false);
    let any_staged = sequence.tiers.iter().any(|tier| {
        tier.enforced_end != Some(tier.staged_end) || tier.rules.iter().any(|rule| rule.staged)
    });
    let staged = if any_staged {
        let (verdict, rule, _) = walk(true);
        (verdict, rule)
    } else {
        (verdict, rule)
    };
    Outcome { verdict, rule, log, staged }
}

/// Builds the tree of a sequence of rules.
pub(crate) fn tree(sequence: &Sequence<'_>, builder: &mut TreeBuilder) -> Result<Ref, Full> {
    let mut entries = |version| -> Result<[Ref; SLOTS], Full> {
        let mut entries = [Ref(0); SLOTS];
        for (slot, entry) in entries.iter_mut().enumerate() {
            *entry = slot_tree(sequence, version, slot, builder)?;
        }
        Ok(entries)
    };
    let v4 = entries(IpVersion::V4)?;
    let mut traffic = sequence.tiers.iter().flat_map(|t| &t.rules).flat_map(|rule| rule.traffic);
    let v6 = if traffic.any(|t| t.ip_version.is_some()) { entries(IpVersion::V6)? } else { v4 };
    builder.root(v4, v6)
}

/// The rules of a sequence for one IP version and protocol: boxes by tier and place.
type Boxes = Vec<Vec<Vec<Box2>>>;

fn slot_tree(
    sequence: &Sequence<'_>,
    version: IpVersion,
    slot: usize,
    builder: &mut TreeBuilder,
) -> Result<Ref, Full> {
    let (outer, inner) = match SLOT_PROTOCOLS.get(slot) {
        None => (Field::Protocol, Field::Source),
        Some(&p) if protocol::is_icmp(p) => (Field::Source, Field::Destination),
        Some(_) => (Field::Destination, Field::Source),
    };
    let ports = [sequence.source_ports, sequence.destination_ports];
    let boxes: Boxes = sequence
        .tiers
        .iter()
        .map(|tier| {
            tier.rules
                .iter()
                .map(|rule| {
                    rule.traffic.iter().flat_map(|t| boxes(t, ports, version, slot)).collect()
                })
                .collect()
        })
        .collect();
    let all = || boxes.iter().flatten().flatten();
    let mut intervals = Vec::new();
    for start in starts(all().map(|b| &b.outer)) {
        let here = |b: &&Box2| b.outer.contains(start);
        let mut cells = Vec::new();
        for inner_start in starts(all().filter(here).map(|b| &b.inner)) {
            let outcome = decide(sequence, |t, r| {
                boxes[t][r].iter().any(|b| b.outer.contains(start) && b.inner.contains(inner_start))
            });
            cells.push((inner_start, builder.leaf(outcome)?));
        }
        intervals.push((start, builder.node(inner, &cells)?));
    }
    builder.node(outer, &intervals)
}

/// Where the outcome may change: 0, and wherever some values begin or have just ended.
fn starts<'a>(values: impl Iterator<Item = &'a Values>) -> Vec<u16> {
    let mut starts = vec![0];
    for &(first, last) in values.flat_map(|v| &v.0) {
        starts.push(first);
        starts.extend(last.checked_add(1));
    }
    starts.sort_unstable();
    starts.dedup();
    starts
}
