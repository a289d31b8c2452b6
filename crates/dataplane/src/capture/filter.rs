//! Which packets a capture wants.

use std::net::IpAddr;

use super::{SNAPLEN, either};
use crate::pipeline::Judgement;
use crate::reason::Reason;
use crate::verdict::Verdict;

/// Which packets to copy, and how much of each. All conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    verdicts: Verdicts,
    /// Bits of the wanted reasons; 0 for any, none included.
    reasons: u64,
    /// Sorted; `None` for any.
    addresses: Option<Box<[IpAddr]>>,
    snaplen: usize,
}

/// A set of verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdicts(u8);

const _: () = assert!(Reason::ALL.len() <= 64, "reasons are bits of a word");

impl Default for Filter {
    /// All of every packet.
    fn default() -> Self {
        Self { verdicts: Verdicts::ALL, reasons: 0, addresses: None, snaplen: SNAPLEN }
    }
}

impl Filter {
    /// Only packets with one of these verdicts.
    pub fn verdicts(mut self, verdicts: Verdicts) -> Self {
        self.verdicts = verdicts;
        self
    }

    /// Only packets dropped for one of these reasons. None: whatever the reason.
    pub fn reasons(mut self, reasons: &[Reason]) -> Self {
        self.reasons = reasons.iter().fold(0, |bits, reason| bits | 1 << *reason as u8);
        self
    }

    /// Only IP packets from or to one of these addresses. An empty list wants nothing.
    pub fn addresses(mut self, mut addresses: Vec<IpAddr>) -> Self {
        addresses.sort_unstable();
        addresses.dedup();
        self.addresses = Some(addresses.into());
        self
    }

    /// At most so many bytes of each packet, from the Ethernet header on, and [`SNAPLEN`] at most.
    pub fn snap(mut self, length: usize) -> Self {
        self.snaplen = length.min(SNAPLEN);
        self
    }

    /// Bytes of each packet that are copied at most.
    pub fn snaplen(&self) -> usize {
        self.snaplen
    }

    /// Whether a packet is wanted; `ends` are its addresses, if it is IP.
    #[inline]
    pub fn wants(&self, judgement: &Judgement, ends: Option<&[IpAddr; 2]>) -> bool {
        let reason = judgement.reason.map_or(0, |reason| 1u64 << reason as u8);
        self.verdicts.has(judgement.verdict)
            && (self.reasons == 0 || self.reasons & reason != 0)
            && self
                .addresses
                .as_ref()
                .is_none_or(|addresses| ends.is_some_and(|ends| either(addresses, ends)))
    }
}

impl Verdicts {
    /// Every verdict.
    pub const ALL: Self = Self(u8::MAX);

    /// These.
    pub fn of(verdicts: &[Verdict]) -> Self {
        Self(verdicts.iter().fold(0, |bits, verdict| bits | 1 << *verdict as u8))
    }

    /// Whether `verdict` is among them.
    #[inline]
    pub fn has(self, verdict: Verdict) -> bool {
        self.0 >> verdict as u8 & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_counts() {
        let [a, b, c]: [IpAddr; 3] =
            ["10.0.0.1", "10.0.0.2", "fd00::3"].map(|text| text.parse().unwrap());
        let denied = Judgement { reason: Some(Reason::PolicyDenied), ..Judgement::default() };
        let passed = Judgement { verdict: Verdict::Allow, ..Judgement::default() };
        let all = Filter::default();
        assert!(all.wants(&denied, None) && all.wants(&passed, Some(&[a, b])));
        let deny = Filter::default().verdicts(Verdicts::of(&[Verdict::Deny]));
        assert!(deny.wants(&denied, None) && !deny.wants(&passed, None));
        let full = deny.clone().reasons(&[Reason::TableFull]);
        assert!(!full.wants(&denied, None), "another reason");
        let both = deny.reasons(&[Reason::TableFull, Reason::PolicyDenied]);
        assert!(both.wants(&denied, None));
        let of_c = Filter::default().addresses(vec![c, a]);
        assert!(of_c.wants(&denied, Some(&[b, c])) && of_c.wants(&denied, Some(&[a, b])));
        assert!(!of_c.wants(&denied, Some(&[b, b])) && !of_c.wants(&denied, None));
        assert!(!Filter::default().addresses(Vec::new()).wants(&denied, Some(&[a, b])));
        assert_eq!(Filter::default().snap(1 << 20).snaplen(), SNAPLEN);
    }
}
