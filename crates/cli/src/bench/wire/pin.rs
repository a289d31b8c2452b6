//! Generator and worker each on a CPU of its own, so that neither waits for the other.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Pins the calling thread to the last CPU that it may use: for the generator.
pub(in super::super) fn generator() {
    pin(0);
}

/// Pins the calling thread, one of several generators, to a CPU that is neither the worker's nor
/// another generator's, where there are enough.
pub(in super::super) fn generators(number: usize) {
    pin(if number == 0 { 0 } else { number + 1 });
}

/// Pins the calling thread, and those that it starts, to the last CPU but one.
pub(in super::super) fn worker() {
    pin(1);
}

fn pin(from_last: usize) {
    let this = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(this) else { return };
    let mut cpus = (0..CpuSet::count()).rev().filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let Some(cpu) = cpus.nth(from_last) else { return };
    let mut one = CpuSet::new();
    // Without it, figures are less steady but as true.
    let _ = one.set(cpu).and_then(|()| sched_setaffinity(this, &one));
}
