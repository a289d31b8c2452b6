//! Replacing the regions while endpoints come and go.
//!
//! Regions of millions of prefixes take tenths of a second to build and to put into a table. All of
//! that happens beside the registry, which is needed three times for a moment:
//! ```
//! use portcullis_identity_table::region::{Regions, SourceId};
//! use portcullis_identity_table::registry::{NextRegions, Registry};
//! use portcullis_identity_table::{Prefix, Writer};
//! let mut registry = Registry::new();
//! registry.commit();
//!
//! let feed = Regions::build([("192.0.2.0/24".parse()?, SourceId(1))]); // aside
//! let mut next = NextRegions::new(&registry, feed);
//! registry.announce_regions(&mut next);
//! assert_eq!(registry.commit().identities.len(), 1); // to be known before the table gives it out
//! let hosts: Vec<_> = registry.hosts().map(|(address, _)| address).collect();
//!
//! let mut writer = Writer::new(); // aside
//! let rows = next.rows().map(|(net, id)| Ok((Prefix::try_from(net)?, id)));
//! writer.load(rows.collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?)?;
//! let moved = next.moved(&hosts);
//!
//! registry.exchange_regions(next, moved).expect("nobody else replaced them");
//! assert!(registry.commit().table.is_empty()); // else: hosts of the new table that changed
//! let id = writer.reader().pin().lookup("192.0.2.7".parse()?);
//! assert_eq!(id, registry.lookup("192.0.2.7".parse()?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Registry;
use super::reading::default_routes;
use crate::IdentityId;
use crate::identity::{Class, Owner};
use crate::region::Regions;

/// Regions that are to take the place of a registry's; see the [module](self).
#[derive(Debug)]
pub struct NextRegions {
    /// Those in force when this began.
    before: Arc<Regions>,
    pub(super) regions: Arc<Regions>,
    /// The covers that some prefix has.
    used: Vec<usize>,
    /// The identity of each cover, and to which registry they were announced.
    pub(super) identities: Vec<IdentityId>,
    announced_to: Option<Arc<()>>,
}

impl NextRegions {
    /// To take the place of those that `registry` has now. O(prefixes).
    pub fn new(registry: &Registry, regions: Regions) -> Self {
        Self::after(registry.regions(), regions)
    }

    /// To take the place of `before`, which the registry has now. O(prefixes).
    pub fn after(before: Arc<Regions>, regions: Regions) -> Self {
        let mut of_prefixes = vec![false; regions.covers().len()];
        for (_, cover) in regions.prefixes() {
            of_prefixes[cover] = true;
        }
        let used = (0..of_prefixes.len()).filter(|&cover| of_prefixes[cover]).collect();
        Self {
            before,
            regions: Arc::new(regions),
            used,
            identities: Vec::new(),
            announced_to: None,
        }
    }

    /// What a table of these regions holds, hosts apart; a prefix may stand twice, the later counts.
    /// To be called once announced: nothing before.
    pub fn rows(&self) -> impl Iterator<Item = (IpNet, IdentityId)> {
        let id = |cover: usize| self.identities.get(cover).copied();
        let regions =
            self.regions.prefixes().filter_map(move |(net, cover)| Some((net, id(cover)?)));
        default_routes().into_iter().chain(regions)
    }

    /// Those of the addresses that other sources cover than before, ascending. O(addresses x log
    /// prefixes).
    pub fn moved(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let moves = |address: &&IpAddr| {
            self.before.cover(**address)[..] != self.regions.cover(**address)[..]
        };
        let mut moved: Vec<IpAddr> = addresses.iter().filter(moves).copied().collect();
        moved.sort_unstable();
        moved
    }
}

impl Registry {
    /// The prefixes that loaded policies and sets name.
    pub fn regions(&self) -> Arc<Regions> {
        Arc::clone(&self.regions)
    }

    /// Gives the covers of regions to come their identities, beside those in force; the next
    /// [`Registry::commit`] lists what is new. To be followed by [`Registry::exchange_regions`] or
    /// [`Registry::abandon_regions`]. Once for each `next`. O(covers).
    pub fn announce_regions(&mut self, next: &mut NextRegions) {
        if next.announced_to.is_some() {
            return;
        }
        let mut identities = vec![IdentityId::UNKNOWN; next.regions.covers().len()];
        for &cover in &next.used {
            let class = Class { owner: Owner::World, cover: next.regions.covers()[cover].clone() };
            identities[cover] = self.acquire(class, None, None);
        }
        next.identities = identities;
        next.announced_to = Some(Arc::clone(&self.this));
    }

    /// Puts announced regions in force: what the registry answers from now on. `addresses` are those
    /// that [`NextRegions::moved`] found and those of hosts that changed since it was asked; others
    /// keep their identity. The next commit lists changes of hosts only: prefixes are in the
    /// table that was built of [`NextRegions::rows`]. Answers the regions of before, which take long to
    /// free. O(covers + addresses x log prefixes).
    ///
    /// # Errors
    /// Gives `next` back if other regions were put in force since it was made, or if it was not
    /// announced to this registry.
    pub fn exchange_regions(
        &mut self,
        next: NextRegions,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Arc<Regions>, NextRegions> {
        if !Arc::ptr_eq(&self.regions, &next.before) || !self.knows(&next) {
            return Err(next);
        }
        self.regions = next.regions;
        let old = std::mem::replace(&mut self.region_identities, next.identities);
        for address in addresses {
            let identity = self.claims.get(&address).and_then(|claim| claim.identity);
            let cover = identity.and_then(|id| self.interner.identity(id)).map(|i| &i.class.cover);
            if cover.is_some_and(|cover| cover[..] != self.regions.cover(address)[..]) {
                self.refresh(address);
            }
        }
        for id in old {
            self.release(id);
        }
        Ok(next.before)
    }

    /// Takes an announcement back. Nothing happens if there was none, or to another registry.
    pub fn abandon_regions(&mut self, next: NextRegions) {
        if self.knows(&next) {
            for id in next.identities {
                self.release(id);
            }
        }
    }

    fn knows(&self, next: &NextRegions) -> bool {
        next.announced_to.as_ref().is_some_and(|to| Arc::ptr_eq(to, &self.this))
    }
}
