//! The status line: what happens now, in one line every few seconds.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use portcullis::{Firewall, Totals};

/// Seconds between two lines where somebody looks on.
const ON_A_TERMINAL: u32 = 10;

/// Reasons of drops that a line names.
const REASONS: usize = 3;

/// See the [module](self).
pub(super) struct StatusLine {
    every: Option<Duration>,
    last: Instant,
    before: Totals,
}

impl StatusLine {
    /// One every so many seconds; 0: none. Unless it is said: on a terminal only.
    pub(super) fn new(seconds: Option<u32>, firewall: &Firewall) -> Self {
        let watched = || if std::io::stdout().is_terminal() { ON_A_TERMINAL } else { 0 };
        let seconds = seconds.unwrap_or_else(watched);
        let every = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        Self { every, last: Instant::now(), before: firewall.totals() }
    }

    /// Prints a line if it is time.
    pub(super) fn tick(&mut self, firewall: &Firewall) {
        let passed = self.last.elapsed();
        if self.every.is_none_or(|every| passed < every) {
            return;
        }
        let totals = firewall.totals();
        println!("{}", line(&self.before, &totals, passed, firewall.applied().generation));
        (self.last, self.before) = (Instant::now(), totals);
    }
}

/// What happened between two looks.
fn line(before: &Totals, now: &Totals, passed: Duration, generation: u64) -> String {
    let a_second = |count: u64| (count as f64 / passed.as_secs_f64().max(0.001)).round() as u64;
    let rate = |of: fn(&Totals) -> u64| a_second(of(now).saturating_sub(of(before)));
    let mut drops: Vec<_> = now
        .drops
        .iter()
        .map(|(reason, count)| {
            let earlier = before.drops.iter().find(|(known, _)| known == reason);
            (count.saturating_sub(earlier.map_or(0, |(_, count)| *count)), reason)
        })
        .filter(|(count, _)| *count > 0)
        .collect();
    drops.sort_by_key(|(count, reason)| (std::cmp::Reverse(*count), reason.as_str()));
    let mut text = format!(
        "status: {}/s in, {}/s forwarded, {}/s dropped",
        rate(|totals| totals.received),
        rate(|totals| totals.forwarded),
        rate(|totals| totals.dropped),
    );
    for (n, (count, reason)) in drops.iter().take(REASONS).enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{}{} {}/s",
            if n == 0 { " (" } else { ", " },
            reason.as_str(),
            a_second(*count)
        );
    }
    match drops.len() {
        0 => {}
        1..=REASONS => text.push(')'),
        _ => text.push_str(", ...)"),
    }
    let _ = write!(
        text,
        "; {} of {} connections, {} new/s; generation {generation}",
        now.connections,
        now.capacity,
        rate(|totals| totals.opened),
    );
    if now.events_lost > before.events_lost {
        let _ = write!(text, "; {} records lost", now.events_lost - before.events_lost);
    }
    text
}

#[cfg(test)]
mod tests {
    use portcullis::dataplane::reason::Reason;

    use super::*;

    fn totals(received: u64, drops: &[(Reason, u64)]) -> Totals {
        let mut totals = Totals::default();
        totals.received = received;
        totals.drops = drops.to_vec();
        totals.dropped = drops.iter().map(|(_, count)| count).sum();
        totals.forwarded = received - totals.dropped;
        (totals.capacity, totals.connections, totals.opened) = (100, 7, received / 10);
        totals
    }

    #[test]
    fn a_line_is_about_the_time_since_the_last() {
        let before = totals(1000, &[(Reason::PolicyDenied, 10)]);
        let now = totals(
            3000,
            &[
                (Reason::PolicyDenied, 30),
                (Reason::RateLimit, 400),
                (Reason::TcpNotOpening, 3),
                (Reason::TableFull, 5),
            ],
        );
        assert_eq!(
            line(&before, &now, Duration::from_secs(2), 4),
            "status: 1000/s in, 786/s forwarded, 214/s dropped (rate_limit 200/s, policy_denied 10/s, \
             table_full 3/s, ...); 7 of 100 connections, 100 new/s; generation 4"
        );
        let mut lost = now.clone();
        lost.events_lost = 5;
        assert_eq!(
            line(&now, &lost, Duration::from_secs(2), 4),
            "status: 0/s in, 0/s forwarded, 0/s dropped; 7 of 100 connections, 0 new/s; generation 4; \
             5 records lost"
        );
    }
}
