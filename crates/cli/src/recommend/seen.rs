//! Connections out of flow records, by workload.

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;
use std::net::IpAddr;

use portcullis::flow::{Action, Event, FlowRecord, Party};
use portcullis::identity_table::endpoint::ClusterState;

use super::workload::{Workload, Workloads};
use crate::output::Refused;

/// One end of connections that are alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    /// Pods told apart from others by these labels.
    Pods(Workload),
    /// An address that is no pod's.
    Outside(IpAddr),
}

/// Connections that are alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    pub(super) from: Peer,
    pub(super) to: Peer,
    /// IP protocol number.
    pub(super) protocol: u8,
    /// Destination port; 0 where the protocol has none.
    pub(super) port: u16,
}

/// How well something is attested.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    /// Connections that were opened.
    pub(super) opened: u64,
    /// Connections whose end was recorded: all there is of those that were opened before the records
    /// begin.
    pub(super) ended: u64,
    /// Seconds since 1970.
    pub(super) last: u64,
}

impl Evidence {
    /// Connections, at least.
    pub(super) fn connections(&self) -> u64 {
        self.opened.max(self.ended).max(1)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.ended += other.ended;
        self.last = self.last.max(other.last);
    }
}

/// All that was seen.
pub(super) struct Seen {
    /// Namespace and labels of pods by address, from the cluster.
    known: HashMap<IpAddr, Workload>,
    /// Workloads of which something is known, to tell them from each other.
    pub(super) workloads: Workloads,
    pub(super) services: BTreeMap<Service, Evidence>,
}

impl Seen {
    pub(super) fn new(cluster: &ClusterState) -> Self {
        let mut workloads = Workloads::default();
        let mut known = HashMap::new();
        for pod in cluster.endpoints.iter().filter(|pod| !pod.host_network) {
            let labels = pod.labels.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            let workload = Workload::of(&pod.namespace, &labels);
            workloads.note(&workload);
            known.extend(pod.addresses.iter().map(|address| (*address, workload.clone())));
        }
        Self { known, workloads, services: BTreeMap::new() }
    }

    /// Reads records, one a line; empty lines are none.
    ///
    /// # Errors
    /// The first line that is no record; nothing can be trusted then.
    pub(super) fn read(&mut self, name: &str, lines: impl BufRead) -> Result<(), Refused> {
        for (number, line) in (1..).zip(lines.lines()) {
            let line = line.map_err(|e| format!("error: {name}:{number}: {e}"))?;
            if line.trim().is_empty() {
                continue;
            }
            let record =
                FlowRecord::parse(&line).map_err(|e| format!("error: {name}:{number}: {e}"))?;
            self.take(&record);
        }
        Ok(())
    }

    /// Notes one.
    pub(super) fn take(&mut self, record: &FlowRecord) {
        let (opened, ended) = match (record.event, record.verdict) {
            (Event::Start | Event::Packet, Action::Allow) => (1, 0),
            // One that was cut by a new policy was allowed once, and is not now; one that lasts may
            // have begun before the records.
            (Event::End, Action::Allow) => (0, 1),
            (Event::Update | Event::Change, Action::Allow) => (0, 0),
            _ => return,
        };
        let last = record.last_seen.seconds();
        let service = Service {
            from: self.peer(&record.source),
            to: self.peer(&record.destination),
            protocol: record.protocol,
            port: record.destination.port,
        };
        self.services.entry(service).or_default().add(&Evidence { opened, ended, last });
    }

    fn peer(&mut self, end: &Party) -> Peer {
        let labels = end.labels.iter().flat_map(|labels| labels.iter());
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let workload = match &end.namespace {
            Some(namespace) => Workload::of(namespace, &labels),
            None => match self.known.get(&end.address) {
                Some(workload) => workload.clone(),
                None => return Peer::Outside(end.address),
            },
        };
        self.workloads.note(&workload);
        Peer::Pods(workload)
    }

    /// Leaves what was seen in the last `seconds` before the newest record.
    pub(super) fn forget_before(&mut self, seconds: u64) {
        let newest = self.services.values().map(|evidence| evidence.last).max().unwrap_or(0);
        self.services.retain(|_, evidence| evidence.last + seconds >= newest);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }
}
