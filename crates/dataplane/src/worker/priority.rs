//! A worker's place among the machine's other threads.
//!
//! A receive ring of 4,096 packets holds what comes in 3 ms at a million packets a second. The
//! scheduler lets a thread wait longer than that: one that wakes, as a worker does after each pause of
//! its traffic, waits for the slice of whoever has the CPU, 3 to 4 ms at a tick of 250 Hz. A nice value
//! below that of others makes waits rare, and slices shorter than theirs let the worker take the CPU
//! when it wakes. Not SCHED_FIFO: the kernel stops a real-time thread for 50 ms of each second in
//! which it does nothing but work (sched_rt_runtime_us).

use std::io;

/// The least slice that the kernel grants, in nanoseconds (sched(7), `sched_runtime`; honoured for
/// ordinary threads since Linux 6.12, ignored before).
const SLICE: u64 = 100_000;

/// Gives the calling thread this nice value (-20 to 19) and short slices; answers the nice value that
/// it has from then on. Two or three system calls.
///
/// Without CAP_SYS_NICE the nice value stays if it would become lower, and slices are shortened all the
/// same. A thread that is not under the scheduler's ordinary policy (SCHED_FIFO, SCHED_DEADLINE, …) is
/// left as it is: whoever gave it that knows better.
///
/// # Errors
/// The kernel refuses even that.
pub fn prioritise(nice: i8) -> io::Result<i8> {
    let mut now = attributes()?;
    if now.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(now.sched_nice as i8);
    }
    now.sched_flags = 0;
    now.sched_runtime = SLICE;
    let had = now.sched_nice;
    now.sched_nice = nice.clamp(-20, 19).into();
    match set(&now) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            now.sched_nice = had;
            set(&now)?;
        }
        result => result?,
    }
    Ok(attributes()?.sched_nice as i8)
}

const SIZE: u32 = size_of::<libc::sched_attr>() as u32;

/// Of the calling thread.
fn attributes() -> io::Result<libc::sched_attr> {
    // SAFETY: plain numbers, for which all zeroes is valid.
    let mut found: libc::sched_attr = unsafe { std::mem::zeroed() };
    let to = std::ptr::from_mut(&mut found);
    // SAFETY: the kernel writes at most `SIZE` bytes to where a value of that size lies.
    let answer = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, to, SIZE, 0) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(found) }
}

fn set(wanted: &libc::sched_attr) -> io::Result<()> {
    let mut wanted = libc::sched_attr { size: SIZE, ..*wanted };
    let from = std::ptr::from_mut(&mut wanted);
    // SAFETY: the kernel reads `size` bytes, and after a refusal may write that field.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, from, 0) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs on a thread of its own: others keep what they have.
    fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn a_thread_may_always_stand_back() {
        let (answer, found) = aside(|| (prioritise(19).unwrap(), attributes().unwrap()));
        assert_eq!((answer, found.sched_nice), (19, 19));
        assert_ne!(attributes().unwrap().sched_nice, 19, "only the thread that asked");
    }

    #[test]
    fn what_is_answered_is_what_the_kernel_has() {
        let (answer, found, before) = aside(|| {
            let before = attributes().unwrap().sched_nice;
            (prioritise(-10).unwrap(), attributes().unwrap(), before)
        });
        assert_eq!(i32::from(answer), found.sched_nice);
        // With the capability or without.
        assert!(answer == -10 || i32::from(answer) == before, "{answer}");
    }

    #[test]
    fn another_policy_is_left_alone() {
        let policy = aside(|| {
            let batch = libc::sched_attr {
                sched_policy: libc::SCHED_BATCH as u32,
                sched_runtime: 0,
                ..attributes().unwrap()
            };
            set(&batch).unwrap();
            prioritise(19).unwrap();
            let found = attributes().unwrap();
            (found.sched_policy, found.sched_nice)
        });
        assert_eq!(policy.0, libc::SCHED_BATCH as u32);
        assert_ne!(policy.1, 19);
    }
}
