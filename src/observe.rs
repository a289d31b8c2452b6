//! Looking closer than [`Totals`](crate::Totals): what each rule did, how long batches took, and copies
//! of packets. For the control side: nothing here is cheap enough for every packet.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portcullis_dataplane::capture::{Askers, Filter, Session};
use portcullis_dataplane::connection::Traffic;
use portcullis_dataplane::counter::{BOUNDS, Counted, Counters};
use portcullis_dataplane::pipeline::Judgement;
use portcullis_dataplane::verdict::RuleId;
use portcullis_identity_table::endpoint::Endpoint;
use portcullis_policy::RuleInfo;

use crate::engine::Engine;

/// What one rule let pass and refused since the start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RuleTotals {
    /// Whose packets these are.
    pub counted: Counted,
    /// The rule; `None` for packets of which none decided, and for rules counted together.
    pub rule: Option<Arc<RuleInfo>>,
    /// What it did.
    pub sums: RuleSums,
}

/// Packets and bytes by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleSums {
    /// Packets let pass.
    pub passed: u64,
    /// Bytes of these.
    pub passed_bytes: u64,
    /// Packets not let pass.
    pub refused: u64,
    /// Bytes of these.
    pub refused_bytes: u64,
}

/// How long workers' rounds took: the time that every packet of a round spends in its worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoundTimes {
    /// Rounds by bucket, see [`BOUNDS`].
    pub buckets: [u64; BOUNDS.len() + 1],
    /// All rounds together.
    pub sum: Duration,
}

/// A connection that is open now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveConnection {
    /// Who opened it; port 0 where the protocol has none.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The rule that allowed it.
    pub rule: RuleId,
    /// From the opener, and back.
    pub traffic: [Traffic; 2],
}

/// A copied packet, with names.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CapturedPacket<'a> {
    /// When its batch was received, by the wall clock as it was at the start.
    pub time: SystemTime,
    /// Name of the interface that received it.
    pub interface: Arc<str>,
    /// What was decided.
    pub judgement: Judgement,
    /// The rule that decided, if one did.
    pub rule: Option<Arc<RuleInfo>>,
    /// Who asked for it: see [`Session::asked`].
    pub askers: Askers,
    /// Length of the whole frame in bytes.
    pub wire_len: usize,
    /// Its first bytes.
    pub data: &'a [u8],
}

impl Engine {
    /// What each rule did, over all workers and judges: rules that decided of a packet at least, at most
    /// [`RULES`](portcullis_dataplane::counter::RULES) and two more entries.
    pub fn rule_totals(&self) -> Vec<RuleTotals> {
        let sums = self.0.lanes.lock().rule_sums();
        let control = self.0.control.lock();
        let named = |(counted, sums)| {
            let rule = match counted {
                Counted::Rule(number) => control.rule(number),
                _ => None,
            };
            RuleTotals::new(counted, rule, sums)
        };
        sums.into_iter().map(named).collect()
    }

    /// How long workers' rounds took since the start.
    pub fn round_times(&self) -> RoundTimes {
        self.0.lanes.lock().round_times()
    }

    /// Begins a capture of packets that workers receive; nothing is copied before
    /// [`Session::allow`]. `None`: as many as are possible at a time
    /// ([`SESSIONS`](portcullis_dataplane::capture::SESSIONS)) are open.
    pub fn capture(&self, filter: Filter) -> Option<Session> {
        self.0.plane.tap().open(filter)
    }

    /// Hands over what all captures copied since the last call; answers how many packets. One
    /// reader for all sessions: each packet names those that asked for it.
    pub fn captured(&self, mut take: impl FnMut(&CapturedPacket<'_>)) -> usize {
        let tap = self.0.plane.tap();
        tap.read(|packet| {
            let since = Duration::from_nanos(packet.time.as_nanos());
            take(&CapturedPacket {
                time: self.0.began.checked_add(since).unwrap_or(self.0.began),
                interface: tap.interface_name(packet.interface),
                judgement: packet.judgement,
                rule: self.rule(packet.judgement.rule),
                askers: packet.askers,
                wire_len: packet.wire_len,
                data: packet.data,
            });
        })
    }

    /// Calls `each` for every connection in the table. O(connections), each locked for some
    /// nanoseconds: a million take tens of milliseconds, in which workers find some of their cache
    /// lines elsewhere.
    pub fn live_connections(&self, mut each: impl FnMut(&LiveConnection)) {
        self.0.plane.table().for_each(|key, connection| {
            let tuple = key.tuple(connection.opened);
            each(&LiveConnection {
                source: SocketAddr::new(tuple.source_ip(), tuple.source_port),
                destination: SocketAddr::new(tuple.destination_ip(), tuple.destination_port),
                protocol: tuple.protocol,
                rule: connection.grant.rule,
                traffic: connection.traffic,
            });
        });
    }

    /// The endpoints that own these addresses now, in their order. One lock for all.
    pub fn owners(&self, addresses: &[IpAddr]) -> Vec<Option<Arc<Endpoint>>> {
        let control = self.0.control.lock();
        let registry = control.registry();
        addresses.iter().map(|address| registry.owner(*address).cloned()).collect()
    }

    /// The addresses that an endpoint has now; `None` if there is none of this name.
    pub fn addresses_of(&self, namespace: &str, name: &str) -> Option<Vec<IpAddr>> {
        self.endpoints().find(namespace, name).map(|endpoint| endpoint.addresses)
    }
}

impl RuleTotals {
    /// What a rule did.
    pub fn new(counted: Counted, rule: Option<Arc<RuleInfo>>, sums: RuleSums) -> Self {
        Self { counted, rule, sums }
    }
}

impl RuleSums {
    pub(crate) fn add_all(sums: &mut BTreeMap<Counted, Self>, counters: &Counters) {
        for (counted, counter) in counters.rules.used() {
            let sum = sums.entry(counted).or_default();
            sum.passed += counter.passed.get();
            sum.passed_bytes += counter.passed_bytes.get();
            sum.refused += counter.refused.get();
            sum.refused_bytes += counter.refused_bytes.get();
        }
    }
}

impl RoundTimes {
    pub(crate) fn add(&mut self, counters: &Counters) {
        let buckets = counters.rounds.buckets();
        self.buckets.iter_mut().zip(buckets).for_each(|(sum, count)| *sum += count);
        self.sum += counters.rounds.sum();
    }
}
