//! What goes into the pipeline and what comes out: a packet, and what becomes of it.

use portcullis_identity_table::IdentityId;

use super::case::Case;
use crate::connection::Grant;
use crate::reason::Reason;
use crate::verdict::{RuleId, Verdict};

/// A packet to judge.
#[derive(Clone, Copy, Debug, Default)]
pub struct Input<'a> {
    /// The frame from its Ethernet header on: all of it, or the first of its buffers.
    pub data: &'a [u8],
    /// Length of the whole frame in bytes.
    pub wire_len: usize,
}

impl<'a> Input<'a> {
    /// A frame in one buffer.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, wire_len: data.len() }
    }
}

/// What becomes of a packet, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// What to do.
    pub verdict: Verdict,
    /// Why the packet does not pass; `None` if it does.
    pub reason: Option<Reason>,
    /// The rule that decided: for a packet of a connection, the one that allowed that.
    pub rule: RuleId,
    /// Identity of who opened the connection.
    pub source: IdentityId,
    /// Identity of the other end.
    pub destination: IdentityId,
    /// What the packet was to the connection table.
    pub state: State,
}

/// What a packet was to the connection table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nothing: not IP, dropped before, or a packet that stands alone.
    #[default]
    None,
    /// It opened a connection, or tried to.
    New,
    /// It belongs to a known connection.
    Established,
}

impl State {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::New => "new",
            Self::Established => "established",
        }
    }
}

impl Judgement {
    pub(super) const PASS: Self = Self {
        verdict: Verdict::Allow,
        reason: None,
        rule: RuleId::NONE,
        source: IdentityId::UNKNOWN,
        destination: IdentityId::UNKNOWN,
        state: State::None,
    };

    pub(super) const fn drop(reason: Reason) -> Self {
        Self { verdict: Verdict::Deny, reason: Some(reason), ..Self::PASS }
    }

    pub(super) const fn member(grant: &Grant, state: State) -> Self {
        Self {
            rule: grant.rule,
            source: grant.source,
            destination: grant.destination,
            state,
            ..Self::PASS
        }
    }

    pub(super) fn refused(reason: Reason, case: &Case, state: State) -> Self {
        let verdict = match reason {
            Reason::PolicyRejected => Verdict::Reject,
            _ => Verdict::Deny,
        };
        Self {
            verdict,
            reason: Some(reason),
            rule: case.decision.rule,
            source: case.flow.source,
            destination: case.flow.destination,
            state,
        }
    }
}
