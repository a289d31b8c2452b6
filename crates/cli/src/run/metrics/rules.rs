//! Rules as metrics: so many one by one, the rest together.

use portcullis::RuleTotals;
use portcullis::dataplane::counter::Counted;

use super::family::Labels;

/// Rules with series of their own: those loaded first.
pub(super) const RULES: u32 = 1000;

/// What one rule did, or all that are counted together.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) labels: Labels,
    /// Let pass, refused.
    pub(super) packets: [u64; 2],
    pub(super) bytes: [u64; 2],
}

/// One series for each of the first [`RULES`] rules that decided anything, one for all others, one for
/// packets of which no rule decided.
pub(super) fn bounded(totals: &[RuleTotals]) -> Vec<Series> {
    let mut all = Vec::new();
    let mut others = Series { labels: named("others", "", ""), packets: [0; 2], bytes: [0; 2] };
    for total in totals {
        let sums = &total.sums;
        let (packets, bytes) =
            ([sums.passed, sums.refused], [sums.passed_bytes, sums.refused_bytes]);
        let labels = match (&total.counted, &total.rule) {
            (Counted::Rule(number), Some(rule)) if number.get() < RULES => named(
                &rule.policy.name.to_string(),
                &rule.origin.to_string(),
                match rule.direction {
                    portcullis::policy::model::Direction::Ingress => "ingress",
                    portcullis::policy::model::Direction::Egress => "egress",
                },
            ),
            (Counted::NoRule, _) => named("none", "", ""),
            _ => {
                for (sum, more) in others.packets.iter_mut().zip(packets) {
                    *sum += more;
                }
                for (sum, more) in others.bytes.iter_mut().zip(bytes) {
                    *sum += more;
                }
                continue;
            }
        };
        all.push(Series { labels, packets, bytes });
    }
    if others.packets != [0; 2] {
        all.push(others);
    }
    merge(all)
}

/// A rule that is told apart by something that is no label (a tier's end and the policy it is written
/// in) must not make two series of the same labels.
fn merge(mut all: Vec<Series>) -> Vec<Series> {
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    all.dedup_by(|later, first| {
        let same = later.labels == first.labels;
        if same {
            for side in 0..2 {
                first.packets[side] += later.packets[side];
                first.bytes[side] += later.bytes[side];
            }
        }
        same
    });
    all
}

fn named(policy: &str, rule: &str, direction: &str) -> Labels {
    vec![
        ("policy", policy.to_owned()),
        ("rule", rule.to_owned()),
        ("direction", direction.to_owned()),
    ]
}
