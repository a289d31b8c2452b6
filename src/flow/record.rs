//! One record, and its line of JSON.

use std::net::{IpAddr, SocketAddr};

use portcullis_identity_table::Labels;
use portcullis_policy::RuleInfo;
use portcullis_policy::model::Direction;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::time::Timestamp;
use crate::event::{self, FlowEvent, FlowKind};

/// Version of the records that this release writes and reads. Fields may be added within a version;
/// what a field means never changes.
pub const VERSION: u32 = 1;

/// What happened to a flow. `docs/flow-records.md` says what each field means, and when it is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FlowRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Of what sort this record is.
    pub event: Event,
    /// When it happened.
    pub time: Timestamp,
    /// When the connection, or what is summed up, began.
    pub start: Timestamp,
    /// When a packet was seen last.
    pub last_seen: Timestamp,
    /// When the connection ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end: Option<Timestamp>,
    /// Whether it may pass.
    pub verdict: Action,
    /// Why not, by the name that counters and metrics have for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// The policy that decided, as `Kind/namespace/name`, or `default`.
    pub policy: String,
    /// Where the rule that decided was written: `file:line:column`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<String>,
    /// The direction which that rule is for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub direction: Option<Way>,
    /// What staged policies say, where they say otherwise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub staged: Option<StagedRecord>,
    /// IP protocol number.
    pub protocol: u8,
    /// The address space, see [`crate::dataplane::packet::Tuple::zone`].
    #[serde(default)]
    pub zone: u16,
    /// ICMP or ICMPv6 type and code.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub icmp: Option<Icmp>,
    /// Who opened it.
    pub source: Party,
    /// To whom.
    pub destination: Party,
    /// From the opener so far; of denials, all that were denied.
    #[serde(default)]
    pub sent: Sum,
    /// Back to the opener so far.
    #[serde(default)]
    pub received: Sum,
    /// TCP flags seen so far, in either direction.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tcp_flags: Option<Flags>,
    /// How it ended: see [`crate::dataplane::event::Close`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub close: Option<String>,
    /// Of denials that are summed up: source addresses, where there were several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sources: Option<Spread<IpAddr>>,
    /// The same of destination addresses.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub destinations: Option<Spread<IpAddr>>,
    /// The same of source ports.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_ports: Option<Spread<u16>>,
    /// The same of destination ports.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub destination_ports: Option<Spread<u16>>,
    /// The sum is over more than one pair of identities or rule, because there were too many to keep
    /// apart: all else in this record is that of the first.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub mixed: bool,
    /// A `Log` rule asked for it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub log: bool,
    /// Things that would have been recorded and were lost since the start, up to here: in full rings,
    /// and on the way to whoever reads this.
    #[serde(default)]
    pub lost: u64,
}

/// Of what sort a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Event {
    /// A connection was opened.
    Start,
    /// It lasts.
    Update,
    /// It is allowed by another rule now, or another identity's.
    Change,
    /// It is over.
    End,
    /// Packets were not let pass.
    Deny,
    /// A packet that opens nothing was let pass.
    Packet,
}

/// What was done, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Let pass.
    Allow,
    /// Dropped.
    Deny,
    /// Dropped, and the sender told.
    Reject,
}

/// The direction that a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Towards the endpoint that the policy is about.
    Ingress,
    /// From it.
    Egress,
}

/// What staged policies would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StagedRecord {
    /// Their verdict.
    pub verdict: Action,
    /// Their policy.
    pub policy: String,
    /// Their rule.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<String>,
}

/// ICMP or ICMPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Icmp {
    /// Type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Code.
    #[serde(default)]
    pub code: u8,
}

/// One end, as it was at that time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Party {
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 where the protocol has none.
    #[serde(default)]
    pub port: u16,
    /// The number of its identity; numbers mean something within one run only.
    #[serde(default)]
    pub identity: u32,
    /// Of the endpoint that had the address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespace: Option<String>,
    /// Of the endpoint that had the address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Of the identity; absent for addresses outside the cluster.
    #[serde(
        skip_serializing_if = "Option::is_none",
        default,
        serialize_with = "write_labels",
        deserialize_with = "read_labels"
    )]
    pub labels: Option<Labels>,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP packets, headers included.
    pub bytes: u64,
}

/// Different values, of which some are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Spread<T> {
    /// The lowest.
    pub low: T,
    /// The highest.
    pub high: T,
    /// The first different ones, at most eight.
    pub samples: Vec<T>,
}

/// TCP flags, in JSON by name: `["SYN","ACK"]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    const NAMES: [&'static str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

    /// Names of those that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let named = Self::NAMES.into_iter().enumerate();
        named.filter(move |(bit, _)| self.0 >> bit & 1 != 0).map(|(_, name)| name)
    }
}

/// Why a line is no record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// It is something else.
    #[error("not a flow record: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It does not say which version it is.
    #[error(
        "no version: not a flow record, or one written before records had versions; this release reads version {VERSION}"
    )]
    NoVersion,
    /// It was written by another version.
    #[error(
        "a flow record of version {0}; this release reads version {VERSION}: use the release that wrote it"
    )]
    Version(u64),
}

impl FlowRecord {
    /// Reads a line.
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn parse(line: &str) -> Result<Self, ParseError> {
        /// Of whatever version.
        #[derive(Deserialize)]
        struct Head {
            version: Option<u64>,
        }
        match serde_json::from_str::<Head>(line)?.version {
            None => Err(ParseError::NoVersion),
            Some(version) if version == u64::from(VERSION) => Ok(serde_json::from_str(line)?),
            Some(version) => Err(ParseError::Version(version)),
        }
    }

    /// Appends the record as one line to `out`, its end included.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Writing to memory does not fail, and no map here has keys that are no text.
        let _ = serde_json::to_writer(&mut *out, self);
        out.push(b'\n');
    }

    /// How many packets this record says were denied; 0 of other records.
    pub fn denied(&self) -> u64 {
        if self.event == Event::Deny { self.sent.packets } else { 0 }
    }

    pub(super) fn of(event: &FlowEvent, lost: u64) -> Self {
        let time = Timestamp::from(event.time);
        let (kind, end, close, traffic) = match event.kind {
            FlowKind::Opened => (Event::Start, None, None, None),
            FlowKind::Changed => (Event::Change, None, None, None),
            FlowKind::Passed => (Event::Packet, None, None, None),
            FlowKind::Dropped => (Event::Deny, None, None, None),
            FlowKind::Ended { traffic, close, .. } => {
                (Event::End, Some(time), Some(close.as_str().to_owned()), Some(traffic))
            }
        };
        let sums = traffic
            .map(|traffic| traffic.map(|side| Sum { packets: side.packets, bytes: side.bytes }));
        let one = Sum { packets: event.packets, bytes: event.bytes };
        let [sent, received] = match (sums, kind) {
            (Some(sums), _) => sums,
            (None, Event::Change) => [Sum::default(); 2],
            (None, _) => [one, Sum::default()],
        };
        Self {
            version: VERSION,
            event: kind,
            time,
            start: event.since.into(),
            last_seen: event.last_seen.into(),
            end,
            verdict: match event.reason {
                None => Action::Allow,
                Some(portcullis_dataplane::reason::Reason::PolicyRejected) => Action::Reject,
                Some(_) => Action::Deny,
            },
            reason: event.reason.map(|reason| reason.as_str().to_owned()),
            policy: event.policy.clone(),
            rule: event.rule.as_ref().map(|rule| rule.origin.to_string()),
            direction: event.rule.as_ref().map(|rule| Way::of(rule)),
            staged: event.staged.as_ref().map(StagedRecord::of),
            protocol: event.protocol,
            zone: event.zone,
            icmp: event.icmp.map(|[kind, code]| Icmp { kind, code }),
            source: Party::of(event.source, &event.from),
            destination: Party::of(event.destination, &event.to),
            sent,
            received,
            tcp_flags: event.tcp_flags.map(Flags),
            close,
            sources: None,
            destinations: None,
            source_ports: None,
            destination_ports: None,
            mixed: false,
            log: event.log,
            lost,
        }
    }
}

impl Way {
    fn of(rule: &RuleInfo) -> Self {
        match rule.direction {
            Direction::Ingress => Self::Ingress,
            Direction::Egress => Self::Egress,
        }
    }
}

impl StagedRecord {
    fn of(staged: &event::StagedVerdict) -> Self {
        let rule = staged.rule.as_ref();
        Self {
            verdict: if staged.allowed { Action::Allow } else { Action::Deny },
            policy: rule.map_or("default".to_owned(), |rule| rule.policy.name.to_string()),
            rule: rule.map(|rule| rule.origin.to_string()),
        }
    }
}

impl Party {
    fn of(address: SocketAddr, party: &event::Party) -> Self {
        let (namespace, name) = party.name().unzip();
        Self {
            address: address.ip(),
            port: address.port(),
            identity: party.id.get(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            labels: party.labels().cloned(),
        }
    }

    /// `namespace/name`, else the address.
    pub fn label(&self) -> String {
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => self.address.to_string(),
        }
    }
}

fn write_labels<S: Serializer>(labels: &Option<Labels>, to: S) -> Result<S::Ok, S::Error> {
    match labels {
        Some(labels) => to.collect_map(labels.iter()),
        None => to.serialize_none(),
    }
}

fn read_labels<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Labels>, D::Error> {
    let labels = Option::<std::collections::BTreeMap<String, String>>::deserialize(from)?;
    Ok(labels.map(|labels| labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()))
}

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for Flags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flags = 0;
        for name in Vec::<String>::deserialize(deserializer)? {
            let bit = Self::NAMES.iter().position(|known| *known == name);
            let bit = bit.ok_or_else(|| D::Error::custom(format!("no TCP flag {name:?}")))?;
            flags |= 1 << bit;
        }
        Ok(Self(flags))
    }
}
