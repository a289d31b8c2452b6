//! What is said of each packet, and of all of them.

use std::collections::BTreeMap;
use std::io::Write;

use portcullis::dataplane::packet::{Packet, Tuple};
use portcullis::dataplane::pipeline::{Judgement, State};
use serde::{Serialize, Serializer};

use super::Names;

/// One packet's line.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    n: u64,
    /// Seconds since the first packet.
    #[serde(serialize_with = "seconds")]
    time: u64,
    pub(super) verdict: &'static str,
    pub(super) reason: Option<&'static str>,
    /// The policy that decided; `default` if none did, none for packets that no policy judges.
    pub(super) policy: Option<&'a str>,
    #[serde(flatten)]
    ends: Option<Ends>,
    state: &'static str,
}

/// Who talks to whom.
#[derive(Serialize)]
struct Ends {
    source: String,
    destination: String,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
}

/// The 5-tuple of an IP packet.
pub(super) fn tuple(packet: &Packet) -> Option<Tuple> {
    match packet {
        Packet::Ip(headers) => Some(headers.tuple),
        _ => None,
    }
}

impl<'a> Line<'a> {
    pub(super) fn new(
        n: u64,
        time: u64,
        judgement: &Judgement,
        policy: Option<&'a str>,
        tuple: Option<Tuple>,
        names: &Names,
    ) -> Self {
        let ends = tuple.map(|tuple| Ends {
            source: names.name(tuple.source_ip()),
            destination: names.name(tuple.destination_ip()),
            protocol: tuple.protocol,
            source_port: tuple.source_port,
            destination_port: tuple.destination_port,
        });
        Self {
            n,
            time,
            verdict: judgement.verdict.as_str(),
            reason: judgement.reason.map(|reason| reason.as_str()),
            policy: policy.or(ends.as_ref().map(|_| "default")),
            ends,
            state: match judgement.state {
                State::None => "none",
                State::New => "new",
                State::Established => "established",
            },
        }
    }
}

/// Nanoseconds as a decimal number of seconds, without the rounding of a binary one.
fn seconds<S: Serializer>(nanoseconds: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    let text = format!("{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    serializer.serialize_str(&text)
}

/// Packets and bytes by what became of them.
#[derive(Default)]
pub(super) struct Summary {
    packets: u64,
    by_outcome: BTreeMap<(&'static str, &'static str, String), (u64, u64)>,
}

impl Summary {
    pub(super) fn count(&mut self, line: &Line<'_>, bytes: usize) {
        self.packets += 1;
        let key = (
            line.verdict,
            line.reason.unwrap_or(line.state),
            line.policy.unwrap_or("-").to_owned(),
        );
        let (packets, sum) = self.by_outcome.entry(key).or_default();
        *packets += 1;
        *sum += bytes as u64;
    }

    pub(super) fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "{:<8} {:<22} {:>10} {:>14}  policy", "verdict", "why", "packets", "bytes")?;
        for ((verdict, why, policy), (packets, bytes)) in &self.by_outcome {
            writeln!(out, "{verdict:<8} {why:<22} {packets:>10} {bytes:>14}  {policy}")?;
        }
        writeln!(out, "{} packets", self.packets)
    }
}
