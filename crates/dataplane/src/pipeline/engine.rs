//! What the workers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwapOption;

use super::fragment::{self, Fragments};
use crate::capture::Tap;
use crate::connection::{self, Table};
use crate::verdict::{Identities, Policy};

/// Settings of a data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The connection table.
    pub connections: connection::Config,
    /// Packets in pieces.
    pub fragments: fragment::Config,
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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections: connection::Config::default(),
            fragments: fragment::Config::default(),
            pass_arp: true,
            pass_neighbour_discovery: true,
            pass_non_ip: false,
            complete_checksums: true,
            reject_rate: connection::Rate { per_second: 1000, burst: 200 },
            event_capacity: 8192,
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

/// A snapshot with the number under which it was published.
pub(super) struct Published {
    pub(super) snapshot: Snapshot,
    pub(super) number: u32,
}

impl Published {
    /// The generation of connections judged now.
    #[inline]
    pub(super) fn generation(&self) -> u32 {
        // In-place changes of identities count as generations too. Both parts only grow, and the
        // published number jumps far enough for sums of different snapshots not to meet soon.
        self.number.wrapping_mul(0x9e37_79b1).wrapping_add(self.snapshot.identities.generation())
    }
}

/// What all workers of a data plane share.
pub struct Engine {
    pub(super) config: Config,
    pub(super) connections: Table,
    pub(super) fragments: Fragments,
    pub(super) published: ArcSwapOption<Published>,
    numbers: AtomicU32,
    tap: Arc<Tap>,
}

impl Engine {
    /// An engine without a policy: it drops every IP packet until [`Engine::publish`].
    ///
    /// # Errors
    /// The connection table does not fit into the address space.
    pub fn new(config: Config) -> std::io::Result<Self> {
        Ok(Self {
            config,
            connections: Table::new(config.connections)?,
            fragments: Fragments::new(config.fragments),
            published: ArcSwapOption::empty(),
            numbers: AtomicU32::new(0),
            tap: Arc::default(),
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
        let number = self.numbers.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.published.store(Some(Arc::new(Published { snapshot, number })));
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
