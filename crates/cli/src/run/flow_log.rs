//! `--flow-log`: a JSON line for each connection that opens or ends and each packet dropped.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use portcullis::{Firewall, FlowEvent, FlowKind, Party};
use serde::{Serialize, Serializer};

use crate::output::Refused;

/// The file, and what it did not take.
pub(super) struct FlowLog {
    path: PathBuf,
    writer: BufWriter<File>,
    written: u64,
    unwritten: u64,
}

impl FlowLog {
    /// Opens the file for appending.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn append(path: &Path) -> Result<Self, Refused> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|e| format!("error: flow log {}: {e}", path.display()))?;
        let writer = BufWriter::with_capacity(1 << 16, file);
        Ok(Self { path: path.to_owned(), writer, written: 0, unwritten: 0 })
    }

    /// Writes what happened since the last call. A disk that is full loses records, which are
    /// counted; packets do not wait for it.
    pub(super) fn follow(&mut self, firewall: &Firewall, mut also: impl FnMut(&FlowEvent)) {
        let (mut written, mut unwritten) = (0, 0);
        firewall.events(|event| {
            also(&event);
            let line = serde_json::to_writer(&mut self.writer, &Record::of(&event))
                .map_err(std::io::Error::from)
                .and_then(|()| self.writer.write_all(b"\n"));
            match line {
                Ok(()) => written += 1,
                Err(_) => unwritten += 1,
            }
        });
        if self.writer.flush().is_err() {
            (written, unwritten) = (0, unwritten + written);
        }
        if unwritten > 0 && self.unwritten == 0 {
            eprintln!("error: flow log {}: not writable, records are lost", self.path.display());
        }
        self.written += written;
        self.unwritten += unwritten;
    }

    /// Records that the file did not take.
    pub(super) fn unwritten(&self) -> u64 {
        self.unwritten
    }

    /// What became of the records.
    pub(super) fn summary(&self, lost: u64) -> String {
        format!(
            "flow log: {} records, {lost} lost before they could be read, {} not written",
            self.written, self.unwritten
        )
    }
}

/// One line.
#[derive(Serialize)]
struct Record<'a> {
    /// Seconds since 1970, as text so that nanoseconds survive.
    time: String,
    event: &'static str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    policy: &'a str,
    /// Where the deciding rule stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    protocol: u8,
    /// Address space, where it is not that of packets outside of tunnels.
    #[serde(skip_serializing_if = "is_zero")]
    zone: u16,
    source: End<'a>,
    destination: End<'a>,
    /// Of a connection that ended: seconds it lasted, packets and bytes both ways.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<Sum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<Sum>,
}

fn is_zero(zone: &u16) -> bool {
    *zone == 0
}

/// One end, as it was at the time.
#[derive(Serialize)]
struct End<'a> {
    address: std::net::IpAddr,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<LabelMap<'a>>,
}

#[derive(Serialize)]
struct Sum {
    packets: u64,
    bytes: u64,
}

/// Labels as a JSON object.
struct LabelMap<'a>(&'a portcullis::identity_table::Labels);

impl Serialize for LabelMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

impl<'a> Record<'a> {
    fn of(event: &'a FlowEvent) -> Self {
        let since = event.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (kind, ended) = match event.kind {
            FlowKind::Opened | FlowKind::Passed => ("open", None),
            FlowKind::Changed => ("change", None),
            FlowKind::Dropped => ("drop", None),
            FlowKind::Ended { duration, traffic, .. } => ("end", Some((duration, traffic))),
            _ => ("other", None),
        };
        let sum = |side: usize| {
            ended.map(|(_, traffic)| Sum {
                packets: traffic[side].packets,
                bytes: traffic[side].bytes,
            })
        };
        Self {
            time: format!("{}.{:09}", since.as_secs(), since.subsec_nanos()),
            event: kind,
            verdict: if event.allowed { "allow" } else { "deny" },
            reason: event.reason.map(|reason| reason.as_str()),
            policy: &event.policy,
            rule: event.rule.as_ref().map(|rule| rule.origin.to_string()),
            protocol: event.protocol,
            zone: event.zone,
            source: End::of(event.source, &event.from),
            destination: End::of(event.destination, &event.to),
            duration: ended.map(|(duration, _)| duration.as_secs_f64()),
            sent: sum(0),
            received: sum(1),
        }
    }
}

impl<'a> End<'a> {
    fn of(address: std::net::SocketAddr, party: &'a Party) -> Self {
        let (namespace, name) = party.name().unzip();
        Self {
            address: address.ip(),
            port: address.port(),
            namespace,
            name,
            labels: party.labels().map(LabelMap),
        }
    }
}
