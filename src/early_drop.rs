//! Source prefixes that the kernel drops before any worker sees their packets.

use ipnet::IpNet;
use portcullis_dataplane::port::xdp::{self, EarlyDrop};

use crate::firewall::Attached;
use crate::{Error, Firewall};

pub use portcullis_dataplane::port::xdp::Replaced;

impl Firewall {
    /// Makes the kernel drop packets from exactly these prefixes, on all interfaces and in either
    /// direction, before any worker sees them: no policy, no record, only a count
    /// ([`Firewall::program_counters`], `early_dropped`). For floods and for feeds that no policy
    /// excepts; what policies are to see belongs into a set ([`Engine::sets`](crate::Engine::sets)).
    ///
    /// Needs room: set `early_drop_capacity` in [`Config::ports`](crate::Config::ports). Prefixes that
    /// stay are never missing meanwhile. A system call for each that is there or comes, however many
    /// interfaces there are. Wires that are added later drop them too. Any thread.
    ///
    /// # Errors
    /// [`Error::Port`]: they are more than the capacity (nothing is changed then), or a system call
    /// failed.
    pub fn replace_early_drop(&self, prefixes: &[IpNet]) -> Result<Replaced, Error> {
        let _changing = self.changing.lock();
        let mut replaced = Replaced::default();
        let mut done: Vec<EarlyDrop> = Vec::new();
        for set in self.wires.read().iter().flat_map(Attached::early_drops) {
            if !done.iter().any(|other| other.is(set)) {
                replaced = replace(set, prefixes)?;
                done.push(set.clone());
            }
        }
        *self.early_drop.lock() = prefixes.to_vec();
        Ok(replaced)
    }

    /// The same for a wire that comes: nothing to do if it shares the set of one that is there.
    pub(crate) fn drop_early(&self, wire: &Attached) -> Result<(), Error> {
        let wires = self.wires.read();
        let known =
            |set: &EarlyDrop| wires.iter().flat_map(Attached::early_drops).any(|s| s.is(set));
        for set in wire.early_drops().filter(|set| !known(set)) {
            replace(set, &self.early_drop.lock())?;
        }
        Ok(())
    }
}

fn replace(set: &EarlyDrop, prefixes: &[IpNet]) -> Result<Replaced, Error> {
    let prefixes = prefixes.iter().map(|net| (net.addr(), net.prefix_len()));
    Ok(set.replace(prefixes).map_err(xdp::Error::from)?)
}
