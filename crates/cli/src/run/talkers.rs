//! Who talks to whom, in bounded memory: what `portcullis top` shows.

use std::collections::HashMap;

use portcullis::{FlowEvent, FlowKind, Party};

use crate::control::top::Pair;

/// Pairs of workloads that are remembered.
const PAIRS: usize = 4096;
/// Pairs that are handed out, of each sort.
const MOST: usize = 100;

/// Flows by who, with whom, what, and whether they were denied.
#[derive(Default)]
pub(super) struct Talkers {
    pairs: HashMap<Key, Pair>,
    forgotten: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    source: String,
    destination: String,
    service: String,
    denied: bool,
}

impl Talkers {
    /// Notes what happened to a flow, `at` seconds after the start.
    pub(super) fn note(&mut self, at: f64, event: &FlowEvent) {
        let denied = !event.allowed && event.kind == FlowKind::Dropped;
        let key = Key {
            source: workload(&event.from, event.source.ip()),
            destination: workload(&event.to, event.destination.ip()),
            service: service(event),
            denied,
        };
        if !self.pairs.contains_key(&key) && self.pairs.len() >= PAIRS {
            self.forget();
        }
        let pair = self.pairs.entry(key.clone()).or_insert_with(|| Pair {
            source: key.source,
            destination: key.destination,
            service: key.service,
            denied,
            ..Pair::default()
        });
        pair.last_seen = at;
        match event.kind {
            FlowKind::Ended { traffic, .. } => {
                for side in traffic {
                    pair.packets += side.packets;
                    pair.bytes += side.bytes;
                }
            }
            _ => {
                pair.flows += 1;
                pair.flow = flow(event);
                pair.policy.clone_from(&event.policy);
                pair.rule = event.rule.as_ref().map(|rule| rule.origin.to_string());
                pair.reason = event.reason.map(|reason| reason.as_str().to_owned());
            }
        }
    }

    /// The pairs with the most flows and bytes and those denied most, and how many were forgotten.
    pub(super) fn most(&self) -> (Vec<Pair>, u64) {
        let mut all: Vec<&Pair> = self.pairs.values().collect();
        let weight = |pair: &Pair| (pair.bytes, pair.flows);
        all.sort_by(|a, b| {
            (weight(b), &a.source, &a.service).cmp(&(weight(a), &b.source, &b.service))
        });
        let allowed = all.iter().filter(|pair| !pair.denied).take(MOST);
        let denied = all.iter().filter(|pair| pair.denied).take(MOST);
        (allowed.chain(denied).map(|pair| (*pair).clone()).collect(), self.forgotten)
    }

    /// Makes room: forgets the half that was silent for longest.
    fn forget(&mut self) {
        let mut seen: Vec<f64> = self.pairs.values().map(|pair| pair.last_seen).collect();
        seen.sort_by(f64::total_cmp);
        let before = self.pairs.len();
        let limit = seen.get(before / 2).copied().unwrap_or_default();
        self.pairs.retain(|_, pair| pair.last_seen > limit);
        if self.pairs.len() == before {
            self.pairs.clear();
        }
        self.forgotten += (before - self.pairs.len()) as u64;
    }
}

/// `namespace/name`, else the address; ports of many clients are one.
fn workload(party: &Party, address: std::net::IpAddr) -> String {
    match party.name() {
        Some((namespace, name)) => format!("{namespace}/{name}"),
        None => address.to_string(),
    }
}

fn service(event: &FlowEvent) -> String {
    match event.protocol {
        1 => "icmp".to_owned(),
        58 => "icmpv6".to_owned(),
        6 => format!("tcp/{}", event.destination.port()),
        17 => format!("udp/{}", event.destination.port()),
        132 => format!("sctp/{}", event.destination.port()),
        other => format!("protocol {other}"),
    }
}

/// The flow as `portcullis explain` takes it.
fn flow(event: &FlowEvent) -> String {
    let (from, to) = (event.source, event.destination);
    match event.protocol {
        6 => format!("tcp {from} > {to}"),
        17 => format!("udp {from} > {to}"),
        132 => format!("sctp {from} > {to}"),
        1 => format!("icmp {} > {} type 8 code 0", from.ip(), to.ip()),
        58 => format!("icmpv6 [{}] > [{}] type 128 code 0", from.ip(), to.ip()),
        _ => String::new(),
    }
}
