//! A full fence in every running thread of the process, paid for by the one who asks.
//!
//! Readers pin far more often than the writer looks for what is free. With `membarrier(2)`
//! (Linux 4.14, "private expedited") the writer's call takes the place of a fence in each pin: when
//! it returns, every thread of the process has executed a full fence since it was made.

/// Whether the system has such a fence. Asked once a table; costs a system call.
pub(crate) fn available() -> bool {
    call(REGISTER) && everywhere()
}

/// Has every thread of the process execute a full fence; false if the system refused. Some
/// microseconds, and an interrupt for each processor that runs a thread of the process.
pub(crate) fn everywhere() -> bool {
    call(EXPEDITED)
}

const EXPEDITED: i32 = 1 << 3;
const REGISTER: i32 = 1 << 4;

/// `membarrier(command, 0, 0)`.
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(loom, miri))
))]
fn call(command: i32) -> bool {
    const MEMBARRIER: core::ffi::c_long = if cfg!(target_arch = "x86_64") { 324 } else { 283 };
    // Declared here as madvise is in `words`: std links it anyway.
    unsafe extern "C" {
        fn syscall(number: core::ffi::c_long, ...) -> core::ffi::c_long;
    }
    // SAFETY: the call takes three integers and touches no memory of ours.
    unsafe { syscall(MEMBARRIER, command, 0, 0) == 0 }
}

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(loom, miri))
)))]
fn call(_command: i32) -> bool {
    false
}
