//! One loaded instance of the XDP program, and which ports have what of its maps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, iter};

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::heartbeat::Beats;
use crate::namespace::Namespace;
use crate::object::{self, Loaded, Variant};
use crate::sys;
use crate::{Counters, EarlyDrop, Error, Interface};

/// A loaded program with its maps.
#[derive(Debug)]
pub(crate) struct Instance {
    variant: Variant,
    /// Interface indices mean something in one network namespace only.
    namespace: Option<Namespace>,
    program: OwnedFd,
    ports: MapHandle,
    sockets: MapHandle,
    beats: Beats,
    early_drop: EarlyDrop,
    taken: Mutex<Taken>,
}

/// What of the maps is in use.
#[derive(Debug)]
struct Taken {
    interfaces: Vec<u32>,
    most_interfaces: usize,
    slots: Vec<bool>,
}

/// The slots of one port's queues. Its [`Heartbeat`](crate::Heartbeat)s hold them too: none of them
/// may speak for another port that got the same slots.
#[derive(Debug)]
pub(crate) struct Slots {
    instance: Arc<Instance>,
    first: u32,
    queues: u32,
}

impl Instance {
    /// Loads a program with room for `ports` ports that have `slots` queues together.
    pub(crate) fn load(
        variant: Variant,
        namespace: Option<Namespace>,
        ports: u32,
        slots: u32,
        early_drop: Option<EarlyDrop>,
    ) -> Result<Self, Error> {
        let Loaded { program, ports: map, sockets, beats, early_drop } =
            object::load(&variant, ports, slots, early_drop)?;
        let beats = Beats::map(beats.as_fd(), slots)?;
        let taken = Taken {
            interfaces: Vec::new(),
            most_interfaces: ports as usize,
            slots: vec![false; slots as usize],
        };
        let taken = Mutex::new(taken);
        Ok(Self { variant, namespace, program, ports: map, sockets, beats, early_drop, taken })
    }

    /// Whether it is what a port with these settings, in this namespace, would load.
    pub(crate) fn is(&self, variant: &Variant, namespace: Option<&Namespace>) -> bool {
        self.variant == *variant && namespace.is_some() && self.namespace.as_ref() == namespace
    }

    /// Makes `interface` one of its ports; `None` if there is no room, or if it is one already.
    pub(crate) fn join(self: &Arc<Self>, interface: &Interface) -> Result<Option<Slots>, Error> {
        let queues = interface.rx_queues();
        let Some(first) = self.taken().take(interface.index(), queues) else { return Ok(None) };
        // From here on, dropping it gives the slots back.
        let slots = Slots { instance: Arc::clone(self), first, queues };
        let written = (first..first + queues)
            .try_for_each(|slot| {
                self.beats.stop(slot);
                self.forget_socket(slot)
            })
            .and_then(|()| self.write_port(interface.index(), first, queues));
        if let Err(source) = written {
            slots.leave(interface.index());
            return Err(Error::system("making room for a port in the XDP program's maps", source));
        }
        Ok(Some(slots))
    }

    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    pub(crate) fn beats(&self) -> &Beats {
        &self.beats
    }

    pub(crate) fn early_drop(&self) -> &EarlyDrop {
        &self.early_drop
    }

    pub(crate) fn set_socket(&self, slot: u32, socket: RawFd) -> io::Result<()> {
        self.sockets
            .update(&slot.to_ne_bytes(), &socket.to_ne_bytes(), MapFlags::ANY)
            .map_err(|error| sys::os_error(&error))
    }

    pub(crate) fn counters(&self, interface: u32) -> Result<Counters, Error> {
        let values =
            self.ports.lookup_percpu(&interface.to_ne_bytes(), MapFlags::ANY).map_err(|error| {
                Error::system("reading the program's counters", sys::os_error(&error))
            })?;
        let mut counters = Counters::default();
        for value in values.iter().flatten() {
            // `struct port` of the program: where its slots are, then the counts.
            counters.add(value.get(8..).unwrap_or_default());
        }
        Ok(counters)
    }

    /// `struct port` of the program, with all counts at zero, on every CPU.
    fn write_port(&self, interface: u32, first: u32, queues: u32) -> io::Result<()> {
        let mut value = vec![0; self.ports.value_size() as usize];
        for (to, from) in
            value.iter_mut().zip(first.to_ne_bytes().into_iter().chain(queues.to_ne_bytes()))
        {
            *to = from;
        }
        let write = || {
            let values: Vec<_> = iter::repeat_n(value, libbpf_rs::num_possible_cpus()?).collect();
            self.ports.update_percpu(&interface.to_ne_bytes(), &values, MapFlags::NO_EXIST)
        };
        write().map_err(|error| sys::os_error(&error))
    }

    fn forget_socket(&self, slot: u32) -> io::Result<()> {
        match self.sockets.delete(&slot.to_ne_bytes()) {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => {
                Err(sys::os_error(&error))
            }
            _ => Ok(()),
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Whoever held it last left it whole: it does nothing that panics half-way.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    pub(crate) fn instance(&self) -> &Instance {
        &self.instance
    }

    pub(crate) fn queues(&self) -> u32 {
        self.queues
    }

    /// The slot of `queue`.
    pub(crate) fn of(&self, queue: u32) -> Result<u32, Error> {
        if queue >= self.queues {
            return Err(Error::NoSuchQueue { queue, queues: self.queues });
        }
        Ok(self.first + queue)
    }

    /// Ends the steering of packets of `interface`. The slots stay taken.
    pub(crate) fn leave(&self, interface: u32) {
        // These cannot fail for a reason that matters: at worst there is nothing to take out.
        let _ = self.instance.ports.delete(&interface.to_ne_bytes());
        for slot in self.first..self.first + self.queues {
            let _ = self.instance.forget_socket(slot);
        }
        self.instance.taken().interfaces.retain(|taken| *taken != interface);
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.instance.taken().release(self.first, self.queues);
    }
}

impl Taken {
    /// Takes an interface and a run of slots for its queues; answers the first of them.
    fn take(&mut self, interface: u32, queues: u32) -> Option<u32> {
        if self.interfaces.len() >= self.most_interfaces || self.interfaces.contains(&interface) {
            return None;
        }
        let queues = queues.max(1) as usize;
        let first = self.slots.windows(queues).position(|run| run.iter().all(|taken| !taken))?;
        self.slots[first..first + queues].fill(true);
        self.interfaces.push(interface);
        u32::try_from(first).ok()
    }

    fn release(&mut self, first: u32, queues: u32) {
        let (first, queues) = (first as usize, queues.max(1) as usize);
        if let Some(run) = self.slots.get_mut(first..first + queues) {
            run.fill(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_in_runs_and_given_back() {
        let mut taken = Taken { interfaces: Vec::new(), most_interfaces: 3, slots: vec![false; 8] };
        assert_eq!(taken.take(7, 3), Some(0));
        assert_eq!(taken.take(7, 1), None, "an interface is a port once");
        assert_eq!(taken.take(8, 6), None, "five are left");
        assert_eq!(taken.take(8, 3), Some(3));
        assert_eq!(taken.take(9, 2), Some(6));
        assert_eq!(taken.take(10, 0), None, "three ports are all");
        taken.interfaces.retain(|interface| *interface != 8);
        assert_eq!(taken.take(10, 1), None, "its slots are not free yet");
        taken.release(3, 3);
        assert_eq!(taken.take(10, 4), None);
        assert_eq!(taken.take(10, 3), Some(3));
    }
}
