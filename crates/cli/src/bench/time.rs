//! The clock of all timings: CPU time of the calling thread, median of five rounds after a warm-up.

use serde::Serialize;

/// What a round took, for the JSON report.
#[derive(Serialize)]
pub(crate) struct Timing {
    /// Million operations a second, median.
    mlps: f64,
    /// Nanoseconds an operation, median.
    ns: f64,
    /// Nanoseconds an operation in the fastest and the slowest round.
    ns_spread: [f64; 2],
}

/// Runs `round`, which does `operations` operations, once to warm up and five times on the clock.
pub(crate) fn median_of_five(operations: usize, mut round: impl FnMut()) -> Timing {
    round();
    let mut ns: Vec<f64> = (0..5)
        .map(|_| {
            let started = now();
            round();
            (now() - started) * 1e9 / operations.max(1) as f64
        })
        .collect();
    ns.sort_by(f64::total_cmp);
    Timing { mlps: 1e3 / ns[2], ns: ns[2], ns_spread: [ns[0], ns[4]] }
}

/// CPU time of this thread, in seconds.
pub(crate) fn now() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the duration of the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(status, 0, "the thread CPU clock exists on every Linux");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
