//! One loaded instance of the XDP program, and which ports have what of its maps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

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
    queues: MapHandle,
    sockets: MapHandle,
    beats: Beats,
    early_drop: EarlyDrop,
    taken: Mutex<Taken>,
}

/// What of the maps is in use.
#[derive(Debug)]
struct Taken {
    interfaces: Vec<u32>,
    slots: Vec<bool>,
}

/// What stands for the queues that a port got after it was opened, and for the slot that they have:
/// `OTHER_QUEUES` of the program.
const OTHER_QUEUES: u32 = u32::MAX;

/// The slots of one port's queues. Its [`Heartbeat`](crate::Heartbeat)s hold them too: none of them
/// may speak for another port that got the same slots.
#[derive(Debug)]
pub(crate) struct Slots {
    instance: Arc<Instance>,
    first: u32,
    queues: u32,
}

impl Instance {
    /// Loads a program with room for ports that have `slots` queues together.
    pub(crate) fn load(
        variant: Variant,
        namespace: Option<Namespace>,
        slots: u32,
        early_drop: Option<EarlyDrop>,
    ) -> Result<Self, Error> {
        let Loaded { program, queues, sockets, beats, early_drop } =
            object::load(&variant, slots, early_drop)?;
        let beats = Beats::map(beats.as_fd(), slots)?;
        let taken = Taken { interfaces: Vec::new(), slots: vec![false; slots as usize] };
        let taken = Mutex::new(taken);
        Ok(Self { variant, namespace, program, queues, sockets, beats, early_drop, taken })
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
                self.beats.reset(slot);
                self.forget_socket(slot)?;
                self.write_queue(interface.index(), slot - first, slot)
            })
            .and_then(|()| self.write_queue(interface.index(), OTHER_QUEUES, OTHER_QUEUES));
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

    /// `struct queue` of the program, with all counts at zero. The kernel takes memory for it from a
    /// reserve that it fills behind the caller's back.
    fn write_queue(&self, interface: u32, queue: u32, slot: u32) -> io::Result<()> {
        const TRIES: u32 = 20;
        let mut value = vec![0; self.queues.value_size() as usize];
        for (to, from) in value.iter_mut().zip(slot.to_ne_bytes()) {
            *to = from;
        }
        let mut tries = 0;
        loop {
            let key = queue_key(interface, queue);
            let Err(error) = self.queues.update(&key, &value, MapFlags::NO_EXIST) else {
                return Ok(());
            };
            let error = sys::os_error(&error);
            tries += 1;
            if error.raw_os_error() != Some(libc::ENOMEM) || tries == TRIES {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(1));
        }
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

    /// Declares that no two CPUs run the program for one queue at once, so that they need not count
    /// with atomic additions.
    pub(crate) fn set_exclusive(&self) {
        for slot in self.first..self.first + self.queues {
            self.instance.beats.set_exclusive(slot);
        }
    }

    /// What was counted on all queues of `interface`. A system call for each, and one more.
    pub(crate) fn counters(&self, interface: u32) -> Result<Counters, Error> {
        let mut counters = Counters::default();
        for queue in self.each_queue() {
            let key = queue_key(interface, queue);
            let value = self.instance.queues.lookup(&key, MapFlags::ANY).map_err(|error| {
                Error::system("reading the program's counters", sys::os_error(&error))
            })?;
            // `struct queue` of the program: where its slot is, then the counts.
            counters.add(value.unwrap_or_default().get(8..).unwrap_or_default());
        }
        Ok(counters)
    }

    fn each_queue(&self) -> impl Iterator<Item = u32> {
        (0..self.queues).chain([OTHER_QUEUES])
    }

    /// Ends the steering of packets of `interface`. The slots stay taken.
    pub(crate) fn leave(&self, interface: u32) {
        // These cannot fail for a reason that matters: at worst there is nothing to take out.
        for queue in self.each_queue() {
            let _ = self.instance.queues.delete(&queue_key(interface, queue));
        }
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
        if self.interfaces.contains(&interface) {
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

/// `struct queue_key` of the program.
fn queue_key(interface: u32, queue: u32) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&interface.to_ne_bytes());
    key[4..].copy_from_slice(&queue.to_ne_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_in_runs_and_given_back() {
        let mut taken = Taken { interfaces: Vec::new(), slots: vec![false; 8] };
        assert_eq!(taken.take(7, 3), Some(0));
        assert_eq!(taken.take(7, 1), None, "an interface is a port once");
        assert_eq!(taken.take(8, 6), None, "five are left");
        assert_eq!(taken.take(8, 3), Some(3));
        assert_eq!(taken.take(9, 2), Some(6));
        assert_eq!(taken.take(10, 0), None, "each port takes one at least");
        taken.interfaces.retain(|interface| *interface != 8);
        assert_eq!(taken.take(10, 1), None, "its slots are not free yet");
        taken.release(3, 3);
        assert_eq!(taken.take(10, 4), None);
        assert_eq!(taken.take(10, 3), Some(3));
    }
}
