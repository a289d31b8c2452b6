//! How long a change of the address table takes until another thread sees it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use portcullis::identity_table::{IdentityId, Prefix, Reader, TableError};
use serde::Serialize;

use crate::output::Refused;

/// Identities that changes give, in turn: high, so that no table of a bench has them.
const IDS: std::ops::Range<u32> = u32::MAX - 40_002..u32::MAX - 2;
/// Changes for which there is room from the start.
const ROOM: usize = 1 << 20;
/// Tells the watching thread to stop.
const STOP: u32 = u32::MAX - 1;

/// Percentiles, in microseconds.
#[derive(Serialize)]
pub(super) struct Visible {
    pub(super) changes: usize,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// When changes are made, and how many.
pub(super) struct Schedule<'a> {
    /// From the beginning of one change to that of the next; nothing: as fast as they are seen. A
    /// change that waits for the one before counts from the time at which it was due.
    pub(super) every: Option<Duration>,
    /// Whether to go on, given the number of changes made.
    pub(super) more: &'a dyn Fn(usize) -> bool,
}

/// Adds and removes one host by `change`, and lets another thread say when it saw that. The time of
/// the change itself and of the two threads' telling each other are in it.
pub(super) fn visible(
    reader: Reader,
    schedule: &Schedule<'_>,
    mut change: impl FnMut(Prefix, Option<IdentityId>) -> Result<(), TableError>,
) -> Result<Visible, Refused> {
    let host = Prefix::host(IpAddr::from([198, 51, 100, 77]));
    let seen = AtomicU32::new(u32::MAX);
    let micros = std::thread::scope(|scope| {
        let seen = &seen;
        scope.spawn(move || {
            while seen.load(Ordering::Acquire) != STOP {
                let id = reader.pin().lookup(host.address()).get();
                let _stopped = seen.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                    (now != STOP).then_some(id)
                });
            }
        });
        // Written once before, so that the clock does not meet the kernel's handing out of memory.
        let (mut micros, mut result) = (vec![f64::NAN; ROOM], Ok(()));
        micros.clear();
        let started = Instant::now();
        while (schedule.more)(micros.len()) {
            let n = micros.len();
            let id = (n % 2 == 1).then(|| IDS.start + (n % IDS.len()) as u32);
            let due = schedule.every.map(|every| started + every * n as u32);
            while due.is_some_and(|due| Instant::now() < due) {
                std::hint::spin_loop();
            }
            let due = due.unwrap_or_else(Instant::now);
            if let Err(error) = change(host, id.map(IdentityId::new)) {
                result = Err(error);
                break;
            }
            // After a removal whatever stood there before all this is seen again.
            let done = |now: u32| id.map_or(!IDS.contains(&now), |id| now == id);
            while !done(seen.load(Ordering::Acquire)) {
                std::hint::spin_loop();
            }
            micros.push(due.elapsed().as_secs_f64() * 1e6);
        }
        seen.store(STOP, Ordering::Release);
        result.map(|()| micros)
    });
    let mut micros: Vec<f64> =
        micros.map_err(|error: TableError| Refused::from(error.to_string()))?;
    micros.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let last = micros.len().saturating_sub(1);
        micros.get((last as f64 * share) as usize).copied().unwrap_or_default()
    };
    Ok(Visible { changes: micros.len(), p50: at(0.5), p99: at(0.99), max: at(1.0) })
}
