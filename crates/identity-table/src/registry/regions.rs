//! What changes when the loaded prefixes change.

use std::net::IpAddr;

use ipnet::IpNet;

use super::reading::world;
use super::{NextRegions, Registry};
use crate::IdentityId;
use crate::region::Regions;

impl Registry {
    /// Replaces the prefixes that loaded policies and sets name. O(prefixes + addresses); addresses
    /// whose cover stays keep their identities. [`NextRegions`] does it beside other changes.
    pub fn set_regions(&mut self, regions: Regions) {
        let mut next = NextRegions::new(self, regions);
        self.announce_regions(&mut next);
        let hosts: Vec<IpAddr> = self.claims.keys().copied().collect();
        let moved = next.moved(&hosts);
        let old = std::mem::replace(&mut self.regions, next.regions);
        let old_identities = std::mem::replace(&mut self.region_identities, next.identities);
        self.diff_regions(&old, &old_identities);
        for address in moved {
            self.refresh(address);
        }
        for id in old_identities {
            self.release(id);
        }
    }

    /// Notes what the table must change to go from the old regions to the present ones.
    fn diff_regions(&mut self, old: &Regions, old_identities: &[IdentityId]) {
        let mut before = old.prefixes().map(|(p, c)| (p, old_identities[c])).peekable();
        let mut after =
            self.regions.prefixes().map(|(p, c)| (p, self.region_identities[c])).peekable();
        let default = |prefix: IpNet| {
            (prefix.prefix_len() == 0).then(|| world(prefix.addr(), IdentityId::UNKNOWN))
        };
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((a, _)), Some((b, _))) => order_of(a).cmp(&order_of(b)),
            };
            let gone = if order.is_le() { before.next() } else { None };
            let come = if order.is_ge() { after.next() } else { None };
            let hidden = |prefix: &IpNet| {
                prefix.prefix_len() == prefix.max_prefix_len()
                    && self.claims.get(&prefix.addr()).is_some_and(|c| c.identity.is_some())
            };
            match (gone, come) {
                (Some((prefix, _)), _) | (_, Some((prefix, _))) if hidden(&prefix) => {}
                (Some((_, a)), Some((_, b))) if a == b => {}
                (_, Some((prefix, id))) => self.pending.table.push((prefix, Some(id))),
                (Some((prefix, _)), None) => self.pending.table.push((prefix, default(prefix))),
                (None, None) => return,
            }
        }
    }
}

/// The order in which [`Regions::prefixes`] lists them.
fn order_of(prefix: &IpNet) -> (bool, IpAddr, u8) {
    (prefix.addr().is_ipv6(), prefix.addr(), prefix.prefix_len())
}
