//! What the workers share.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;

use super::fragment::{self, Fragments};
use super::rate::{Buckets, RateLimits};
use crate::capture::Tap;
use crate::connection::snapshot::UNJUDGED;
use crate::connection::{self, Table};
use crate::mirror;
use crate::packet::Tunnels;
use crate::verdict::{Identities, Policy};

/// Settings of a data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The connection table.
    pub connections: connection::Config,
    /// Packets in pieces.
    pub fragments: fragment::Config,
    /// Tunnels whose packets are judged by what they carry; none unless opened.
    pub tunnels: Tunnels,
    /// ARP passes.
    pub pass_arp: bool,
    /// IPv6 neighbour discovery passes.
    pub pass_neighbour_discovery: bool,
    /// Frames that are neither IP nor ARP pass.
    pub pass_non_ip: bool,
    /// Checksums that a veth left unfinished are completed before forwarding.
    pub complete_checksums: bool,
    /// Answers to senders of rejected packets, of each worker: more would make the firewall a tool
    /// of whoever sends with forged addresses.
    pub reject_rate: connection::Rate,
    /// Events that fit into each worker's ring.
    pub event_capacity: usize,
    /// Dropped packets a second that are told one by one, of each worker and of the same identities,
    /// reason, rule and protocol; those beyond are told together
    /// ([`crate::event::EventKind::Folded`]), so that a flood costs a few events a second. `None`:
    /// all are told one by one.
    pub denied_burst: Option<NonZeroU32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections: connection::Config::default(),
            fragments: fragment::Config::default(),
            tunnels: Tunnels::default(),
            pass_arp: true,
            pass_neighbour_discovery: true,
            pass_non_ip: false,
            complete_checksums: true,
            reject_rate: connection::Rate { per_second: 1000, burst: 200 },
            event_capacity: 8192,
            denied_burst: None,
        }
    }
}

/// Identities and policy that belong together: a packet is judged by one snapshot, never by parts of
/// two.
#[derive(Clone)]
pub struct Snapshot {
    /// Addresses to identities.
    pub identities: Arc<dyn Identities>,
    /// What identities may do.
    pub policy: Arc<dyn Policy>,
}

/// What a zone has of its own, by the zone's number.
type Zones = Arc<[(u16, Snapshot)]>;

/// Snapshots of all zones, with the number under which they were published.
pub(super) struct Published {
    /// Zone 0: packets outside of tunnels, and of tunnels without a zone of their own.
    pub(super) snapshot: Snapshot,
    /// The other zones, by number.
    pub(super) zones: Zones,
    /// What zone 0 is judged by too, without effect.
    pub(super) staged: Option<Snapshot>,
    pub(super) number: u32,
}

impl Published {
    /// The generation of connections judged now.
    #[inline]
    pub(super) fn generation(&self) -> u32 {
        // In-place changes of identities count as generations too. All parts only grow, and the
        // published number jumps far enough for sums of different snapshots not to meet soon.
        let of_zones = self.zones.iter().map(|(_, zone)| zone.identities.generation());
        let sum = of_zones.fold(
            self.number
                .wrapping_mul(0x9e37_79b1)
                .wrapping_add(self.snapshot.identities.generation()),
            u32::wrapping_add,
        );
        // Restored connections have a generation that none is published under, so that each is judged.
        if sum == UNJUDGED { sum.wrapping_sub(1) } else { sum }
    }
}

/// What all workers of a data plane share.
pub struct Engine {
    pub(super) config: Config,
    pub(super) connections: Table,
    pub(super) fragments: Fragments,
    pub(super) published: ArcSwapOption<Published>,
    /// What was published last: the control plane's, who publishes under this lock.
    control: Mutex<Control>,
    pub(super) rates: ArcSwapOption<Buckets>,
    pub(super) mirrored: ArcSwapOption<mirror::Filter>,
    tap: Arc<Tap>,
}

#[derive(Default)]
struct Control {
    number: u32,
    snapshot: Option<Snapshot>,
    zones: BTreeMap<u16, Snapshot>,
    staged: Option<Snapshot>,
}

impl Engine {
    /// An engine without a policy: it drops every IP packet until [`Engine::publish`].
    ///
    /// # Errors
    /// The connection table does not fit into the address space.
    pub fn new(config: Config) -> std::io::Result<Self> {
        Ok(Self {
            connections: Table::new(config.connections)?,
            fragments: Fragments::new(config.fragments),
            published: ArcSwapOption::empty(),
            control: Mutex::default(),
            rates: ArcSwapOption::empty(),
            mirrored: ArcSwapOption::empty(),
            tap: Arc::default(),
            config,
        })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Puts a snapshot in force with one pointer store: batches begun before see the old one,
    /// batches begun after see the new one. The old one is freed when the last batch that uses it
    /// ends. Connections live on or are judged again, as configured.
    pub fn publish(&self, snapshot: Snapshot) {
        self.change(|control| control.snapshot = Some(snapshot));
    }

    /// Like [`Self::publish`] for a zone of its own, as [`Config::tunnels`] maps tunnels to zones:
    /// its addresses mean nothing in other zones, nor theirs in it. `None` takes the zone's policy
    /// away. Packets of a zone without a policy are denied, and so is everything until zone 0 has one.
    ///
    /// A change of one zone has the connections of all judged again.
    pub fn publish_zone(&self, zone: NonZeroU16, snapshot: Option<Snapshot>) {
        self.change(|control| {
            match snapshot {
                Some(snapshot) => control.zones.insert(zone.get(), snapshot),
                None => control.zones.remove(&zone.get()),
            };
        });
    }

    /// Judges every new connection and every packet that the policy denies by this snapshot too, from
    /// now on and without effect on packets: [`crate::event::Event::staged`] and the counters tell
    /// where it says otherwise. Zone 0 only. `None` ends that, and it costs one branch a batch then.
    pub fn stage(&self, snapshot: Option<Snapshot>) {
        self.change(|control| control.staged = snapshot);
    }

    fn change(&self, change: impl FnOnce(&mut Control)) {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut control);
        control.number = control.number.wrapping_add(1);
        let zones = control.zones.iter().map(|(zone, snapshot)| (*zone, snapshot.clone()));
        let (zones, number) = (zones.collect(), control.number);
        let staged = control.staged.clone();
        if let Some(snapshot) = control.snapshot.clone() {
            self.published.store(Some(Arc::new(Published { snapshot, zones, staged, number })));
        }
    }

    /// Limits how many packets pass, from now on and with full buckets; packets beyond are dropped
    /// ([`crate::reason::Reason::RateLimit`]). [`RateLimits::default`] limits nothing.
    ///
    /// Rules and identities are those that [`super::Judgement`] names; the pieces of a packet after its
    /// first are never limited. A bucket costs each of its packets two divisions and an atomic exchange.
    pub fn limit_rates(&self, limits: RateLimits) {
        self.rates.store(Buckets::new(limits).map(Arc::new));
    }

    /// Which packets are copied to workers' mirror ports ([`super::Lane::mirror_to`]) from now on;
    /// `None`: none.
    pub fn mirror(&self, filter: Option<mirror::Filter>) {
        self.mirrored.store(filter.map(|filter| Arc::new(filter.sorted())));
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.published.load().as_ref().map(|published| published.snapshot.clone())
    }

    /// Number of connections.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Places of the connection table that a complete round of [`super::Lane::expire`] looks at.
    pub fn sweep_size(&self) -> usize {
        self.connections.sweep_size()
    }

    /// Where packets that its workers judge can be watched.
    pub fn tap(&self) -> &Arc<Tap> {
        &self.tap
    }

    /// The connection table.
    pub fn table(&self) -> &Table {
        &self.connections
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("config", &self.config).finish_non_exhaustive()
    }
}
