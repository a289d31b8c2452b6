//! Metrics as OpenMetrics text, which Prometheus reads.
//!
//! How many series there can be does not depend on traffic: labels are verdicts, drop reasons (one
//! enum), at most [`ports::PORTS`] interfaces with their queues, and at most [`rules::RULES`] rules; what is
//! beyond is one series.
//! No label holds an address, a pod or a user's text but the names of policies.

mod family;
mod flows;
mod ports;
mod rules;

use std::fmt::Error;

use portcullis::dataplane::counter::BOUNDS;
use portcullis::dataplane::reason::Reason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::observed::Details;
use crate::control::status::{Clients, Status};
use family::Families;

/// Everything, as text.
pub(super) fn text(status: &Status, details: &Details) -> String {
    let rules = rules::bounded(&details.rules);
    let (buckets, sum) = (details.rounds.buckets, details.rounds.sum.as_secs_f64());
    let mut registry = Registry::with_prefix("portcullis");
    registry.register_collector(Box::new(Snapshot { status: status.clone(), rules, buckets, sum }));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

/// What is written.
#[derive(Debug)]
struct Snapshot {
    status: Status,
    rules: Vec<rules::Series>,
    buckets: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut families = Families(encoder);
        self.traffic(&mut families)?;
        self.rules(&mut families)?;
        self.ports(&mut families)?;
        self.connections(&mut families)?;
        self.policy(&mut families)?;
        flows::flows(&self.status, &mut families)?;
        flows::staged(&self.status, &mut families)?;
        self.state(&mut families)?;
        self.health(&mut families)
    }
}

impl Snapshot {
    fn traffic(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let Status { packets, drops, .. } = &self.status;
        let of = |reason: &Reason| drops.iter().find(|drop| drop.reason == reason.as_str());
        let passed = ("allow", "none");
        let refused: Vec<_> = Reason::ALL
            .iter()
            .map(|reason| {
                let verdict = if *reason == Reason::PolicyRejected { "reject" } else { "deny" };
                let count = of(reason).map_or((0, 0), |drop| (drop.packets, drop.bytes));
                ((verdict, reason.as_str()), count)
            })
            .collect();
        let with = |first: u64, part: fn(&(u64, u64)) -> u64| {
            let rest = refused.iter().map(move |(labels, count)| (*labels, part(count)));
            std::iter::once((passed, first)).chain(rest)
        };
        let label = |((verdict, reason), value): ((&str, &str), u64)| {
            (vec![("verdict", verdict.to_owned()), ("reason", reason.to_owned())], value)
        };
        families.counters(
            "packets",
            "Packets by verdict and, if dropped, by reason",
            with(packets.forwarded, |count| count.0).map(label),
        )?;
        families.counters(
            "bytes",
            "Bytes of packets by verdict and, if dropped, by reason",
            with(packets.forwarded_bytes, |count| count.1).map(label),
        )?;
        families.counter("received_packets", "Packets received", packets.received)?;
        families.counter("received_bytes", "Bytes received", packets.received_bytes)?;
        families.counter(
            "rejects_sent",
            "Answers to senders of rejected packets",
            packets.rejects_sent,
        )?;
        families.counter(
            "checksums_completed",
            "Packets whose unfinished checksum was completed",
            packets.checksums_completed,
        )?;
        families.counter("mirrored", "Copies sent to the mirror port", packets.mirrored)?;
        families.counter(
            "mirror_lost",
            "Copies left out because the mirror port could not keep up",
            packets.mirror_lost,
        )
    }

    fn rules(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let both = |part: fn(&rules::Series) -> [u64; 2]| {
            self.rules.iter().flat_map(move |series| {
                let [passed, refused] = part(series);
                [("pass", passed), ("refuse", refused)].map(|(what, value)| {
                    let mut labels = series.labels.clone();
                    labels.push(("effect", what.to_owned()));
                    (labels, value)
                })
            })
        };
        families.counters(
            "rule_packets",
            "Packets by the rule that decided; rules beyond a bound are one series",
            both(|series| series.packets),
        )?;
        families.counters(
            "rule_bytes",
            "Bytes by the rule that decided",
            both(|series| series.bytes),
        )
    }

    fn ports(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let ports = &ports::bounded(&self.status.ports);
        families.gauge("ports", "Interfaces in use", self.status.ports.len() as f64)?;
        families.gauges(
            "port_info",
            "Interfaces in use and the AF_XDP mode in force; 1, or how many are beyond the bound",
            ports.iter().map(|port| {
                let labels = vec![("interface", port.name.clone()), ("mode", port.mode.clone())];
                (labels, port.interfaces as f64)
            }),
        )?;
        families.gauges(
            "port_queues",
            "Queues in use",
            ports
                .iter()
                .map(|port| (vec![("interface", port.name.clone())], port.all_queues as f64)),
        )?;
        families.counters(
            "xdp_statistics",
            "XDP_STATISTICS of each socket",
            ports.iter().flat_map(|port| {
                port.queues.iter().flat_map(|(queue, sums)| {
                    sums.statistics().map(|(statistic, value)| {
                        let labels = vec![
                            ("interface", port.name.clone()),
                            ("queue", queue.clone()),
                            ("statistic", statistic.to_owned()),
                        ];
                        (labels, value)
                    })
                })
            }),
        )?;
        families.counters(
            "xdp_program_packets",
            "Packets by what the XDP program did with them",
            ports.iter().flat_map(|port| {
                port.program.iter().map(|(action, packets)| {
                    let interface = ("interface", port.name.clone());
                    (vec![interface, ("action", action.clone())], *packets)
                })
            }),
        )
    }

    fn connections(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let connections = &self.status.connections;
        families.gauge("connections", "Connections now", connections.now as f64)?;
        families.gauge(
            "connections_limit",
            "Connections that there is room for",
            connections.capacity as f64,
        )?;
        families.gauge(
            "connections_half_open",
            "TCP connections whose handshake is not finished",
            connections.half_open as f64,
        )?;
        families.counter("connections_opened", "Connections opened", connections.opened)?;
        families.counter("connections_ended", "Connections that ended", connections.ended)?;
        families.counter(
            "connections_evicted",
            "Connections that had to go because the table was full",
            connections.evicted,
        )
    }

    fn policy(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let policy = &self.status.policy;
        families.gauge("policy_generation", "Generation in force", policy.generation as f64)?;
        families.gauge("policies", "Policies in force", policy.policies as f64)?;
        families.gauge("endpoints", "Endpoints known", policy.endpoints as f64)?;
        families.gauge("identities", "Identities known", policy.identities as f64)?;
        families.gauge(
            "policy_applied_timestamp_seconds",
            "When documents were last put in force, by the wall clock",
            policy.applied_at,
        )?;
        families.gauge(
            "policy_apply_seconds",
            "How long reading, compiling and publishing took the last time",
            policy.apply_seconds,
        )?;
        families.gauge(
            "policy_refused",
            "1 if the last documents were refused, so that older ones are in force",
            f64::from(u8::from(policy.refused.is_some())),
        )?;
        families.counter("policy_refusals", "Documents that were refused", policy.refusals)
    }

    fn state(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let Some(kept) = &self.status.state else { return Ok(()) };
        families.gauge(
            "state_restored_connections",
            "Connections that the state file gave at the start",
            kept.restored.into(),
        )?;
        families.gauge(
            "state_saved_timestamp_seconds",
            "When connections were saved last, since 1970; 0: not yet",
            kept.saved_at,
        )?;
        families.gauge("state_saved_connections", "Connections saved then", kept.saved.into())?;
        families.counter("state_saves", "Times that connections were saved", kept.saves)?;
        families.counter("state_failures", "Times that this failed", kept.failures)
    }

    fn health(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let Status { events, control, metrics, .. } = &self.status;
        families.gauge("uptime_seconds", "Since packets flow", self.status.uptime_seconds)?;
        families.gauge(
            "events_waiting",
            "Flow events that wait to be read",
            events.waiting as f64,
        )?;
        families.counter("events_lost", "Flow events that did not fit into a ring", events.lost)?;
        let sockets: [(&str, &Clients); 2] = [("control", control), ("metrics", metrics)];
        families.counters(
            "clients_disconnected",
            "Clients of the control and metrics sockets that were sent away",
            sockets.into_iter().flat_map(|(socket, clients)| {
                [
                    ("too_many", clients.too_many),
                    ("too_long", clients.too_long),
                    ("too_slow", clients.too_slow),
                    ("idle", clients.idle),
                ]
                .map(|(cause, value)| {
                    (vec![("socket", socket.to_owned()), ("cause", cause.to_owned())], value)
                })
            }),
        )?;
        let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.buckets).collect();
        families.histogram(
            "batch_seconds",
            "How long a worker's rounds with packets took: what each packet of it waits within the worker",
            self.sum,
            &buckets,
        )
    }
}

#[cfg(test)]
mod tests;
