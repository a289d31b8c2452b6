//! `portcullis bench lpm`: addresses through a longest-prefix-match table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis::identity_table::{IdentityId, Prefix, Replacement, TableError, Writer, feed};
use serde::Serialize;

use super::time::{Timing, median_of_five};
use super::visible::{Schedule, Visible, visible};
use crate::output::{Outcome, Refused};

/// Most prefixes taken out and put back to time updates.
const UPDATES: usize = 100_000;
/// Changes whose visibility is timed.
const CHANGES: usize = 20_000;
/// How often a set is replaced.
const REPLACEMENTS: u32 = 5;
/// How often a host comes or goes meanwhile.
const EVERY: Duration = Duration::from_micros(100);

/// Flags of `portcullis bench lpm`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Prefixes, one a line, each with a number: `10.0.0.0/8 7`
    #[arg(long, value_name = "FILE")]
    prefixes: PathBuf,
    /// Addresses to look up, one a line
    #[arg(long, value_name = "FILE")]
    addresses: PathBuf,
    /// How many addresses are looked up at once, with one pin
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    /// Write, for each address, the number of its longest prefix, or -1
    #[arg(long, value_name = "FILE")]
    matches: Option<PathBuf>,
    /// Also replace a set of this many hosts five times, while a host comes or goes every 100 us
    #[arg(long, value_name = "MEMBERS", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    replace: Option<u32>,
}

#[derive(Serialize)]
struct Report {
    prefixes: usize,
    addresses: usize,
    batch: u32,
    #[serde(flatten)]
    timing: Timing,
    build_seconds: f64,
    bytes: usize,
    updates_per_second: f64,
    /// Microseconds from the call that adds or removes a prefix to another thread's seeing it.
    visible_us: Visible,
    #[serde(skip_serializing_if = "Option::is_none")]
    replacing: Option<Replacing>,
}

/// What replacing a set took, and what became of other changes meanwhile.
#[derive(Serialize)]
struct Replacing {
    members: u32,
    /// Wall-clock time of each replacement.
    seconds: Vec<f64>,
    /// As `visible_us` above, but from the time at which a change was due.
    visible_us: Visible,
}

/// Builds, looks up, updates, reports.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    let prefixes = prefixes(&args.prefixes)?;
    let mut addresses = Addresses::read(&args.addresses)?;
    let mut writer = Writer::new();
    let started = super::time::now();
    writer.load(prefixes.iter().copied())?;
    let build_seconds = super::time::now() - started;
    let reader = writer.reader();
    let batch = args.batch as usize;
    let timing = median_of_five(addresses.order.len(), || {
        for (addresses, ids) in addresses.v4.chunks(batch).zip(addresses.ids4.chunks_mut(batch)) {
            reader.pin().lookup_v4_batch(addresses, ids);
        }
        for (addresses, ids) in addresses.v6.chunks(batch).zip(addresses.ids6.chunks_mut(batch)) {
            reader.pin().lookup_v6_batch(addresses, ids);
        }
    });
    if let Some(path) = &args.matches {
        // One less than the identity: see `prefixes`.
        super::write_matches(path, addresses.found().map(|id| id.get().checked_sub(1)))?;
    }
    let bytes = writer.memory_usage();
    let updates_per_second = updates_per_second(&mut writer, &prefixes)?;
    let schedule = Schedule { every: None, more: &|n| n < CHANGES };
    let visible_us = visible(reader, &schedule, |host, id| match id {
        Some(id) => writer.insert(host, id).map(drop),
        None => writer.remove(&host).map(drop),
    })?;
    let replacing = args.replace.map(|members| replacing(writer, members)).transpose()?;
    let report = Report {
        prefixes: prefixes.len(),
        addresses: addresses.order.len(),
        batch: args.batch,
        timing,
        build_seconds,
        bytes,
        updates_per_second,
        visible_us,
        replacing,
    };
    crate::output::json(&report)?;
    Ok(Outcome::Done)
}

/// The prefixes, with their numbers plus one as identities, so that number 0 is not taken for the
/// unknown identity.
fn prefixes(path: &Path) -> Result<Vec<(Prefix, IdentityId)>, Refused> {
    let name = path.display().to_string();
    let rows = feed::parse(&name, &super::read(path)?, IdentityId::UNKNOWN)?;
    let shift = |(prefix, id): (Prefix, IdentityId)| match id.get().checked_add(1) {
        Some(id) => Ok((prefix, IdentityId::new(id))),
        None => Err(Refused::from(format!(
            "{name}: error: {prefix}: the largest number is {}",
            u32::MAX - 1
        ))),
    };
    rows.into_iter().map(shift).collect()
}

/// Takes prefixes from all over the table out and puts them back, one at a time.
fn updates_per_second(
    writer: &mut Writer,
    prefixes: &[(Prefix, IdentityId)],
) -> Result<f64, Refused> {
    let step = prefixes.len().div_ceil(UPDATES).max(1);
    let chosen = || prefixes.iter().step_by(step);
    let started = super::time::now();
    for (prefix, _) in chosen() {
        writer.remove(prefix)?;
    }
    for (prefix, id) in chosen() {
        writer.insert(*prefix, *id)?;
    }
    let seconds = super::time::now() - started;
    Ok(if seconds > 0.0 { 2.0 * chosen().count() as f64 / seconds } else { 0.0 })
}

/// Replaces a set of scattered hosts again and again, while hosts come and go.
fn replacing(writer: Writer, members: u32) -> Result<Replacing, Refused> {
    let reader = writer.reader();
    let (writer, left) = (Mutex::new(writer), AtomicU32::new(REPLACEMENTS));
    let lock = || writer.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        let (left, lock) = (&left, &lock);
        let thread = scope.spawn(move || {
            let replace = |n| {
                // An odd factor: every member is another address.
                let member = |i: u32| Prefix::host(IpAddr::V4(i.wrapping_mul(0x9e37_79b1).into()));
                let rows = (0..members).map(|i| (member(i), IdentityId::new(n)));
                let started = Instant::now();
                Replacement::new("feed", rows)?.run(|step| step(&mut lock()))?;
                Ok(started.elapsed().as_secs_f64())
            };
            let seconds: Result<Vec<f64>, TableError> = (1..=REPLACEMENTS)
                .map(|n| {
                    let seconds = replace(n);
                    left.fetch_sub(1, Ordering::Relaxed);
                    seconds
                })
                .collect();
            left.store(0, Ordering::Relaxed);
            seconds
        });
        let schedule = Schedule { every: Some(EVERY), more: &|_| left.load(Ordering::Relaxed) > 0 };
        let visible_us = visible(reader, &schedule, |host, id| match id {
            Some(id) => lock().insert(host, id).map(drop),
            None => lock().remove(&host).map(drop),
        });
        let seconds = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Replacing { members, seconds, visible_us: visible_us? })
    })
}

/// Addresses by family, as the batch lookups want them, and where their answers go.
#[derive(Default)]
struct Addresses {
    v4: Vec<u32>,
    v6: Vec<u128>,
    ids4: Vec<IdentityId>,
    ids6: Vec<IdentityId>,
    /// For each line with an address: whether it is of IPv6.
    order: Vec<bool>,
}

impl Addresses {
    fn read(path: &Path) -> Result<Self, Refused> {
        let mut addresses = Self::default();
        for (number, line) in (1..).zip(super::read(path)?.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.parse() {
                Ok(IpAddr::V4(address)) => addresses.v4.push(Ipv4Addr::into(address)),
                Ok(IpAddr::V6(address)) => addresses.v6.push(Ipv6Addr::into(address)),
                Err(_) => {
                    let file = path.display();
                    return Err(Refused::from(format!(
                        "{file}:{number}:1: error: `{line}` is not an address"
                    )));
                }
            }
            addresses.order.push(line.contains(':'));
        }
        if addresses.order.is_empty() {
            return Err(Refused::from(format!("{}: error: no address to look up", path.display())));
        }
        addresses.ids4 = vec![IdentityId::UNKNOWN; addresses.v4.len()];
        addresses.ids6 = vec![IdentityId::UNKNOWN; addresses.v6.len()];
        Ok(addresses)
    }

    /// The answers in the order of the file.
    fn found(&self) -> impl Iterator<Item = IdentityId> {
        let (mut v4, mut v6) = (self.ids4.iter(), self.ids6.iter());
        let next = move |is_v6: &bool| if *is_v6 { v6.next() } else { v4.next() };
        self.order.iter().filter_map(next).copied()
    }
}
