//! How a firewall is.

use serde::{Deserialize, Serialize};

/// Everything at a moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) pid: u32,
    /// Its wires, as given on the command line.
    pub(crate) name: String,
    /// `closed` or `open`.
    pub(crate) fail: String,
    pub(crate) uptime_seconds: f64,
    pub(crate) policy: Policy,
    pub(crate) ports: Vec<Port>,
    /// CPUs, packet memory, polling and pins, as obtained.
    #[serde(default)]
    pub(crate) machine: String,
    /// Why the preferred mode was not to be had, if it was not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) lesser_mode: Option<String>,
    pub(crate) packets: Packets,
    /// Reasons with at least one packet.
    pub(crate) drops: Vec<Drop>,
    pub(crate) connections: Connections,
    pub(crate) events: Events,
    pub(crate) control: Clients,
    pub(crate) metrics: Clients,
    /// Flow records; absent before the first could be made.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) flows: Option<Flows>,
    /// Policies that are judged beside those in force.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) staged: Option<Staged>,
    /// Connections kept over a restart, if they are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) state: Option<Kept>,
}

/// The file that keeps connections over a restart.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    pub(crate) file: String,
    /// Connections that it gave at the start.
    pub(crate) restored: u32,
    /// When it was saved last, in seconds since 1970; 0: not yet.
    pub(crate) saved_at: f64,
    /// Connections in it then, and how long that took.
    pub(crate) saved: u32,
    pub(crate) save_seconds: f64,
    pub(crate) saves: u64,
    pub(crate) failures: u64,
    /// What went wrong the last time, if that was later than the last success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<Refusal>,
}

/// What became of flow records.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Flows {
    /// Records of starts, ends and changes.
    pub(crate) records: u64,
    /// Records of connections that last.
    pub(crate) updates: u64,
    /// Records of denials, and the packets they sum up or will.
    pub(crate) denied_records: u64,
    pub(crate) denied_packets: u64,
    /// Things left out by the sample, and by choice.
    pub(crate) sampled_out: u64,
    pub(crate) left_out: u64,
    /// Things lost in workers' rings.
    pub(crate) lost_starts: u64,
    pub(crate) lost_denied_packets: u64,
    pub(crate) lost_ends: u64,
    pub(crate) lost_others: u64,
    /// Records that `top` did not get.
    pub(crate) unseen: u64,
    /// The flow log, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<FlowLog>,
}

/// Records on their way into the flow log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct FlowLog {
    pub(crate) written: u64,
    pub(crate) bytes: u64,
    /// Not taken by the disk.
    pub(crate) unwritten: u64,
    /// Not taken by the queue before it.
    pub(crate) lost: u64,
    /// Why nothing is written now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failing: Option<String>,
}

/// Policies that are judged beside those in force, and where they differ.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Staged {
    pub(crate) policies: usize,
    /// Why they are staged no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<String>,
    /// New connections and denied packets that were judged by both.
    pub(crate) judged: u64,
    /// Denied now, and allowed then.
    pub(crate) would_allow: u64,
    /// Allowed now, and denied then.
    pub(crate) would_deny: u64,
    /// Who and whom, those with the most flows.
    pub(crate) pairs: Vec<StagedPair>,
    /// Flows of pairs that are not remembered.
    pub(crate) others: u64,
}

/// Two workloads between which staged policies would decide otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StagedPair {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) service: String,
    /// Now, and then.
    pub(crate) verdict: String,
    pub(crate) staged: String,
    /// The staged policy, and where its rule stands.
    pub(crate) policy: String,
    pub(crate) rule: Option<String>,
    /// Connections, or denied packets.
    pub(crate) flows: u64,
}

/// What is in force, and what became of the last attempt to change it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Policy {
    pub(crate) generation: u64,
    pub(crate) policies: usize,
    pub(crate) endpoints: usize,
    pub(crate) identities: usize,
    /// Seconds since 1970 when this was put in force.
    pub(crate) applied_at: f64,
    /// How long reading, compiling and publishing took.
    pub(crate) apply_seconds: f64,
    /// The last attempt, if it was refused: what is in force is older.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) refused: Option<Refusal>,
    /// Attempts since the start.
    pub(crate) applied: u64,
    pub(crate) refusals: u64,
}

/// Documents that were not taken.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) at: f64,
    pub(crate) error: String,
}

/// An interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Port {
    pub(crate) name: String,
    /// The wire that it belongs to.
    #[serde(default)]
    pub(crate) wire: String,
    /// The mode that the kernel reports.
    pub(crate) mode: String,
    pub(crate) mtu: u32,
    pub(crate) queues: Vec<Queue>,
    /// Packets by what the XDP program did with them.
    pub(crate) program: Vec<Steered>,
}

/// One AF_XDP socket: XDP_STATISTICS.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Queue {
    pub(crate) queue: u32,
    pub(crate) rx_dropped: u64,
    pub(crate) rx_invalid_descs: u64,
    pub(crate) tx_invalid_descs: u64,
    pub(crate) rx_ring_full: u64,
    pub(crate) rx_fill_ring_empty_descs: u64,
    pub(crate) tx_ring_empty_descs: u64,
}

impl Queue {
    /// Adds what another counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.rx_dropped += other.rx_dropped;
        self.rx_invalid_descs += other.rx_invalid_descs;
        self.tx_invalid_descs += other.tx_invalid_descs;
        self.rx_ring_full += other.rx_ring_full;
        self.rx_fill_ring_empty_descs += other.rx_fill_ring_empty_descs;
        self.tx_ring_empty_descs += other.tx_ring_empty_descs;
    }

    /// The six statistics by the kernel's names.
    pub(crate) fn statistics(&self) -> [(&'static str, u64); 6] {
        [
            ("rx_dropped", self.rx_dropped),
            ("rx_invalid_descs", self.rx_invalid_descs),
            ("tx_invalid_descs", self.tx_invalid_descs),
            ("rx_ring_full", self.rx_ring_full),
            ("rx_fill_ring_empty_descs", self.rx_fill_ring_empty_descs),
            ("tx_ring_empty_descs", self.tx_ring_empty_descs),
        ]
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Steered {
    pub(crate) verdict: String,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Packets {
    pub(crate) received: u64,
    pub(crate) received_bytes: u64,
    pub(crate) forwarded: u64,
    pub(crate) forwarded_bytes: u64,
    pub(crate) dropped: u64,
    pub(crate) dropped_bytes: u64,
    pub(crate) rejects_sent: u64,
    pub(crate) checksums_completed: u64,
    /// Copies sent to the mirror port, and those left out.
    #[serde(default)]
    pub(crate) mirrored: u64,
    #[serde(default)]
    pub(crate) mirror_lost: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Drop {
    pub(crate) reason: String,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Connections {
    pub(crate) now: usize,
    pub(crate) capacity: usize,
    pub(crate) half_open: usize,
    pub(crate) opened: u64,
    pub(crate) ended: u64,
    pub(crate) evicted: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Events {
    pub(crate) waiting: usize,
    pub(crate) lost: u64,
}

/// Who came to a socket, and who was sent away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Clients {
    /// Connected now.
    pub(crate) now: usize,
    /// Since the start.
    pub(crate) accepted: u64,
    /// Sent away because as many as may be were there.
    pub(crate) too_many: u64,
    /// Because of a line that is too long.
    pub(crate) too_long: u64,
    /// Because they did not read what they had asked for, or did not finish a line.
    pub(crate) too_slow: u64,
    /// Because they asked nothing for a minute.
    pub(crate) idle: u64,
    /// Requests that were refused.
    pub(crate) refused: u64,
}
