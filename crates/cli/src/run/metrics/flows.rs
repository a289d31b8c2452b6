//! Flow records and staged policies.

use std::fmt::Error;

use super::family::{Families, Labels};
use crate::control::status::Status;

/// A label and a value for each.
fn by<'a, const N: usize>(
    label: &'static str,
    values: [(&'a str, u64); N],
) -> impl Iterator<Item = (Labels, u64)> + 'a {
    values.into_iter().map(move |(name, value)| (vec![(label, name.to_owned())], value))
}

pub(super) fn flows(status: &Status, families: &mut Families<'_>) -> Result<(), Error> {
    let flows = status.flows.clone().unwrap_or_default();
    let log = flows.log.unwrap_or_default();
    families.counters(
        "flow_records",
        "Flow records made, by what they are about",
        by(
            "kind",
            [
                ("connection", flows.records),
                ("update", flows.updates),
                ("denied", flows.denied_records),
            ],
        ),
    )?;
    families.counter(
        "flow_denied_packets",
        "Denied packets that records sum up",
        flows.denied_packets,
    )?;
    families.counters(
        "flow_left_out",
        "Things of which no record is kept, by why",
        by("why", [("sampled", flows.sampled_out), ("chosen", flows.left_out)]),
    )?;
    families.counters(
        "flow_lost",
        "Things that were lost before they could be recorded",
        by(
            "kind",
            [
                ("start", flows.lost_starts),
                ("denied_packet", flows.lost_denied_packets),
                ("end", flows.lost_ends),
                ("other", flows.lost_others),
            ],
        ),
    )?;
    let sink = |sink: &str, outcome: &str, value: u64| {
        (vec![("sink", sink.to_owned()), ("outcome", outcome.to_owned())], value)
    };
    families.counters(
        "flow_sink_records",
        "Records by where they should go and what became of them",
        [
            sink("log", "written", log.written),
            sink("log", "unwritten", log.unwritten),
            sink("log", "lost", log.lost),
            sink("view", "lost", flows.unseen),
        ],
    )?;
    families.counter("flow_log_bytes", "Bytes written to the flow log", log.bytes)?;
    let failing = f64::from(u8::from(log.failing.is_some()));
    families.gauge("flow_log_failing", "1 if the flow log cannot be written now", failing)
}

pub(super) fn staged(status: &Status, families: &mut Families<'_>) -> Result<(), Error> {
    let staged = status.staged.clone().unwrap_or_default();
    families.gauge("staged_policies", "Policies judged beside", staged.policies as f64)?;
    families.counter(
        "staged_judged",
        "New connections and denied packets that staged policies judged too",
        staged.judged,
    )?;
    families.counters(
        "staged_differs",
        "Of these, those that would be decided otherwise",
        by("would", [("allow", staged.would_allow), ("deny", staged.would_deny)]),
    )
}
