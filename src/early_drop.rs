//! Source prefixes that the kernel drops before any worker sees their packets.

use ipnet::IpNet;

use crate::{Error, Firewall};

pub use portcullis_dataplane::port::xdp::Replaced;

impl Firewall {
    /// Makes the kernel drop packets from exactly these prefixes, on all interfaces and in either
    /// direction, before any worker sees them: no policy, no record, only a count
    /// ([`Firewall::program_counters`], `early_dropped`). For floods and for feeds that no policy
    /// excepts; what policies are to see belongs into a set ([`Engine::sets`](crate::Engine::sets)).
    ///
    /// Needs room: set `early_drop_capacity` in [`Config::ports`](crate::Config::ports). Prefixes that
    /// stay are never missing meanwhile. A system call for each that is there or comes, on each
    /// interface. Wires that are added later drop them too. Any
    /// thread.
    ///
    /// # Errors
    /// [`Error::Port`]: they are more than the capacity (nothing is changed then), or a system call
    /// failed.
    pub fn replace_early_drop(&self, prefixes: &[IpNet]) -> Result<Replaced, Error> {
        let _changing = self.changing.lock();
        let mut last = Replaced::default();
        for wire in self.wires.read().iter() {
            last = wire.replace_early_drop(prefixes)?;
        }
        *self.early_drop.lock() = prefixes.to_vec();
        Ok(last)
    }
}
