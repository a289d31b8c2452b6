//! Loaded programs that ports share.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::instance::Instance;
use crate::namespace::Namespace;
use crate::object::{self, Variant};
use crate::{Error, FailureMode, Interface, Program, Settings};

/// The programs that the ports of a firewall share. Clones are the same set. Ports that were loaded
/// from different sets have nothing in common.
///
/// Ports with the same [`Settings`] in the same network namespace share one loaded program, each with
/// its own sockets, heartbeats and counters, because the kernel waits for all CPUs, 10 to 30 ms, when
/// it gets another of its first 48 programs to run, and when one goes, but not when another
/// interface gets one that it runs already. The early-drop set is one for all ports that have the
/// same capacity for it.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    instances: Arc<Mutex<Vec<Weak<Instance>>>>,
}

/// Queues that a program has room for. What takes memory before a port comes, whatever the number of
/// CPUs, is 0.1 KiB for each: 0.4 MiB. A port takes 0.5 KiB when it comes, and as much for each of its
/// queues.
const SLOTS: u32 = 4096;

impl Programs {
    /// The program for `interface`, with a slot for each of its receive queues. Until the first
    /// heartbeat the failure mode holds. A few milliseconds if it has to be loaded, else about 0.1.
    ///
    /// # Errors
    /// [`Error::NotPermitted`], [`Error::OldKernel`] or, with what the verifier said,
    /// [`Error::Load`].
    pub fn load(&self, interface: &Interface, settings: &Settings) -> Result<Program, Error> {
        let variant = Variant::new(interface, settings);
        let bypass = self.bypass(&variant, settings)?;
        // Without /proc there is no telling, and nothing is shared.
        let namespace = Namespace::current().ok();
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        instances.retain(|instance| instance.strong_count() > 0);
        let mut early_drop = None;
        for instance in instances.iter().filter_map(Weak::upgrade) {
            let set = instance.early_drop();
            if set.capacity() > 0 && set.capacity() == variant.early_drop_capacity {
                early_drop = Some(set.clone());
            }
            if !instance.is(&variant, namespace.as_ref()) {
                continue;
            }
            if let Some(slots) = instance.join(interface)? {
                return Ok(Program::new(interface, slots, bypass));
            }
        }
        let slots = SLOTS.max(interface.rx_queues());
        let instance = Arc::new(Instance::load(variant, namespace, slots, early_drop)?);
        let slots = instance
            .join(interface)?
            .ok_or(Error::NoSuchQueue { queue: interface.rx_queues(), queues: slots })?;
        instances.push(Arc::downgrade(&instance));
        Ok(Program::new(interface, slots, bypass))
    }

    /// What stands behind the XDP program of a wire that has no bridge beneath: one for each port,
    /// since it is small and the kernel waits for nobody then.
    fn bypass(&self, variant: &Variant, settings: &Settings) -> Result<Option<OwnedFd>, Error> {
        match (settings.failure, settings.bypass_to) {
            (FailureMode::Open, Some(to)) => object::load_bypass(variant, to).map(Some),
            _ => Ok(None),
        }
    }
}
