//! How a capture is asked for and what comes back: a line of answer, then for each packet a line of
//! [`Packet`] and as many bytes as it says, then a line of [`Summary`].

use serde::{Deserialize, Serialize};

/// Packets a second that are copied unless told otherwise.
pub(crate) const RATE: u32 = 10_000;

/// What to capture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Endpoints as `namespace/name`; empty for all packets.
    pub(crate) endpoints: Vec<String>,
    /// `allow`, `deny`, `reject`; empty for all.
    pub(crate) verdicts: Vec<String>,
    /// Names of drop reasons; empty for all.
    pub(crate) reasons: Vec<String>,
    /// Bytes of each packet.
    pub(crate) snaplen: usize,
    /// Packets a second at most; 0 for as many as there are.
    pub(crate) rate: u32,
    /// Packets after which it ends.
    pub(crate) count: Option<u64>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            verdicts: Vec::new(),
            reasons: Vec::new(),
            snaplen: portcullis::dataplane::capture::SNAPLEN,
            rate: RATE,
            count: None,
        }
    }
}

/// That a capture began.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// Addresses of the endpoints asked for, as of now.
    pub(crate) addresses: Vec<std::net::IpAddr>,
}

/// What comes after the first answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Item {
    /// A packet; its bytes follow the line.
    Packet(Packet),
    /// The end.
    End(Summary),
}

/// One packet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Packet {
    /// Seconds since 1970.
    pub(crate) seconds: u64,
    pub(crate) nanos: u32,
    pub(crate) interface: String,
    pub(crate) verdict: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) reason: Option<String>,
    /// The policy that decided, and where its rule stands.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) rule: Option<String>,
    /// `new`, `established` or `none`.
    pub(crate) state: String,
    /// Length of the whole frame.
    pub(crate) wire_len: usize,
    /// Bytes that follow.
    pub(crate) len: usize,
}

/// What became of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Packets sent to the client.
    pub(crate) captured: u64,
    /// Packets that fitted and were left out because of the rate.
    pub(crate) over_rate: u64,
    /// Packets that did not fit into a worker's ring.
    pub(crate) lost: u64,
    /// Packets that the client was too slow for.
    pub(crate) slow: u64,
}
