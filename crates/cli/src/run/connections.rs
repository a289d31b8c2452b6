//! The part of the settings file that is about connections at their edges: how long they may be silent,
//! what happens when there is no room, when the policy changes, and to those that nobody saw begin.

use portcullis::dataplane::connection::{self, OnFull, OnPolicyChange, Timeouts};
use portcullis::dataplane::pipeline;
use serde::Deserialize;

/// What the file says of it; what it leaves out is as the library has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Tracking {
    timeouts: Seconds,
    on_full: Option<Full>,
    on_policy_change: Option<Change>,
    pick_up: bool,
    fragments: Pieces,
}

/// Silence after which connections are forgotten, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Seconds {
    tcp_syn_sent: Option<u32>,
    tcp_syn_received: Option<u32>,
    tcp_established: Option<u32>,
    tcp_closing: Option<u32>,
    tcp_last_ack: Option<u32>,
    tcp_time_wait: Option<u32>,
    tcp_closed: Option<u32>,
    udp_unanswered: Option<u32>,
    udp: Option<u32>,
    sctp: Option<u32>,
    sctp_opening: Option<u32>,
    sctp_closing: Option<u32>,
    sctp_closed: Option<u32>,
    icmp: Option<u32>,
    other: Option<u32>,
}

/// Packets in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Pieces {
    packets: Option<usize>,
    packets_per_source: Option<usize>,
    held_bytes: Option<usize>,
    of_a_packet: Option<usize>,
    seconds: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Full {
    DenyNew,
    EvictOldest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Change {
    Keep,
    Rejudge,
    Cut,
}

/// The longest that can be said: 2^31 ms, some 24 days.
const LONGEST: u32 = i32::MAX as u32 / 1000;

impl Tracking {
    /// Puts it into the pipeline's settings.
    ///
    /// # Errors
    /// A time that cannot be.
    pub(super) fn apply(&self, config: &mut pipeline::Config) -> Result<(), String> {
        let connection::Config { timeouts, on_full, on_policy_change, pick_up, .. } =
            &mut config.connections;
        self.timeouts.apply(timeouts)?;
        match self.on_full {
            Some(Full::DenyNew) => *on_full = OnFull::DenyNew,
            Some(Full::EvictOldest) => *on_full = OnFull::EvictOldest,
            None => {}
        }
        match self.on_policy_change {
            Some(Change::Keep) => *on_policy_change = OnPolicyChange::Keep,
            Some(Change::Rejudge) => *on_policy_change = OnPolicyChange::Rejudge,
            Some(Change::Cut) => *on_policy_change = OnPolicyChange::Cut,
            None => {}
        }
        *pick_up |= self.pick_up;
        let (pieces, fragments) = (&self.fragments, &mut config.fragments);
        for (said, field) in [
            (pieces.packets, &mut fragments.packets),
            (pieces.packets_per_source, &mut fragments.packets_per_source),
            (pieces.held_bytes, &mut fragments.held_bytes),
            (pieces.of_a_packet, &mut fragments.fragments),
        ] {
            *field = said.unwrap_or(*field);
        }
        millis("fragments: seconds", pieces.seconds, &mut fragments.timeout)
    }
}

impl Seconds {
    fn apply(&self, timeouts: &mut Timeouts) -> Result<(), String> {
        let said = [
            ("tcp-syn-sent", self.tcp_syn_sent, &mut timeouts.tcp_syn_sent),
            ("tcp-syn-received", self.tcp_syn_received, &mut timeouts.tcp_syn_received),
            ("tcp-established", self.tcp_established, &mut timeouts.tcp_established),
            ("tcp-closing", self.tcp_closing, &mut timeouts.tcp_closing),
            ("tcp-last-ack", self.tcp_last_ack, &mut timeouts.tcp_last_ack),
            ("tcp-time-wait", self.tcp_time_wait, &mut timeouts.tcp_time_wait),
            ("tcp-closed", self.tcp_closed, &mut timeouts.tcp_closed),
            ("udp-unanswered", self.udp_unanswered, &mut timeouts.udp_unanswered),
            ("udp", self.udp, &mut timeouts.udp),
            ("sctp", self.sctp, &mut timeouts.sctp),
            ("sctp-opening", self.sctp_opening, &mut timeouts.sctp_opening),
            ("sctp-closing", self.sctp_closing, &mut timeouts.sctp_closing),
            ("sctp-closed", self.sctp_closed, &mut timeouts.sctp_closed),
            ("icmp", self.icmp, &mut timeouts.icmp),
            ("other", self.other, &mut timeouts.other),
        ];
        said.into_iter().try_for_each(|(name, seconds, field)| {
            millis(&format!("timeouts: {name}"), seconds, field)
        })
    }
}

fn millis(name: &str, seconds: Option<u32>, field: &mut u32) -> Result<(), String> {
    match seconds {
        None => Ok(()),
        Some(seconds @ 1..=LONGEST) => {
            *field = seconds * 1000;
            Ok(())
        }
        Some(seconds) => Err(format!("error: {name} {seconds}: expected 1 to {LONGEST} seconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(text: &str) -> Result<pipeline::Config, String> {
        let tracking: Tracking = yaml_serde::from_str(text).map_err(|error| error.to_string())?;
        let mut config = pipeline::Config::default();
        tracking.apply(&mut config).map(|()| config)
    }

    #[test]
    fn everything_can_be_said() {
        assert_eq!(applied("{}"), Ok(pipeline::Config::default()));
        let config = applied(
            "timeouts: {tcp-syn-sent: 1, tcp-syn-received: 2, tcp-established: 3, tcp-closing: 4,\n  \
             tcp-last-ack: 5, tcp-time-wait: 6, tcp-closed: 7, udp-unanswered: 8, udp: 9, sctp: 10,\n  \
             sctp-opening: 11, sctp-closing: 12, sctp-closed: 13, icmp: 14, other: 2147483}\n\
             on-full: evict-oldest\non-policy-change: cut\npick-up: true\n\
             fragments: {packets: 1, packets-per-source: 2, held-bytes: 3, of-a-packet: 4, seconds: 5}\n",
        )
        .unwrap();
        let timeouts = config.connections.timeouts;
        assert_eq!((timeouts.tcp_syn_sent, timeouts.tcp_syn_received), (1000, 2000));
        assert_eq!((timeouts.tcp_established, timeouts.tcp_closing), (3000, 4000));
        assert_eq!((timeouts.tcp_last_ack, timeouts.tcp_time_wait), (5000, 6000));
        assert_eq!((timeouts.tcp_closed, timeouts.udp_unanswered), (7000, 8000));
        assert_eq!((timeouts.udp, timeouts.sctp, timeouts.sctp_opening), (9000, 10_000, 11_000));
        assert_eq!((timeouts.sctp_closing, timeouts.sctp_closed), (12_000, 13_000));
        assert_eq!((timeouts.icmp, timeouts.other), (14_000, 2_147_483_000));
        let connections = config.connections;
        assert_eq!(connections.on_full, OnFull::EvictOldest);
        assert_eq!(connections.on_policy_change, OnPolicyChange::Cut);
        assert!(connections.pick_up);
        let fragments = config.fragments;
        assert_eq!((fragments.packets, fragments.packets_per_source), (1, 2));
        assert_eq!((fragments.held_bytes, fragments.fragments), (3, 4));
        assert_eq!(fragments.timeout, 5000);
        for (word, meant) in [("keep", OnPolicyChange::Keep), ("rejudge", OnPolicyChange::Rejudge)]
        {
            let config = applied(&format!("on-policy-change: {word}\n")).unwrap();
            assert_eq!(config.connections.on_policy_change, meant);
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (text, expected) in [
            ("timeouts: {udp: 0}", "timeouts: udp 0"),
            ("timeouts: {icmp: 2147484}", "1 to 2147483 seconds"),
            ("timeouts: {tcp: 5}", "tcp"),
            ("fragments: {seconds: 0}", "fragments: seconds 0"),
            ("on-full: evict", "evict-oldest"),
            ("on-policy-change: drop", "rejudge"),
            ("pick-up: maybe", "maybe"),
        ] {
            let error = applied(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
