//! Keeping worker threads on CPUs.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::Error;

/// Keeps the calling thread on one CPU.
///
/// # Errors
/// [`Error::Cpu`]: there is none of this number, or it may not be used.
pub(crate) fn pin(cpu: usize) -> Result<(), Error> {
    let this = Pid::from_raw(0);
    let refused = |errno: Errno| Error::Cpu { cpu, allowed: allowed(), source: errno.into() };
    let mut one = CpuSet::new();
    one.set(cpu).and_then(|()| sched_setaffinity(this, &one)).map_err(refused)
}

/// The CPUs that the calling thread may use.
pub(crate) fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_on_its_cpu_and_others_are_free() {
        let all = allowed();
        let last = *all.last().unwrap();
        let there = std::thread::spawn(move || pin(last).map(|()| allowed())).join().unwrap();
        assert_eq!(there.unwrap(), [last]);
        assert_eq!(allowed(), all);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_an_error_that_says_which_are() {
        for cpu in [CpuSet::count() - 1, CpuSet::count(), usize::MAX] {
            let error = pin(cpu).unwrap_err().to_string();
            assert!(error.contains(&format!("CPU {cpu}")), "{error}");
            assert!(error.contains(&allowed()[0].to_string()), "{error}");
        }
    }
}
