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
    /// interface. Any thread, but one at a time.
    ///
    /// # Errors
    /// [`Error::Port`]: they are more than the capacity (nothing is changed then), or a system call
    /// failed.
    pub fn replace_early_drop(&self, prefixes: &[IpNet]) -> Result<Replaced, Error> {
        let mut last = Replaced::default();
        for port in self.ports() {
            if let Some(set) = self.guard().early_drop(&port.name) {
                let prefixes = prefixes.iter().map(|net| (net.addr(), net.prefix_len()));
                last =
                    set.replace(prefixes).map_err(portcullis_dataplane::port::xdp::Error::from)?;
            }
        }
        Ok(last)
    }
}
