//! `portcullis bench lpm`: addresses through a longest-prefix-match table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use portcullis::identity_table::{IdentityId, Prefix, Writer, feed};
use serde::Serialize;

use super::time::{Timing, median_of_five};
use crate::output::{Outcome, Refused};

/// Most prefixes taken out and put back to time updates.
const UPDATES: usize = 100_000;
/// Changes whose visibility is timed.
const CHANGES: u32 = 20_000;
/// The first identity that such a change gives.
const FIRST: u32 = u32::MAX - CHANGES - 2;
/// Tells the watching thread to stop.
const STOP: u32 = u32::MAX - 1;

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
}

/// Percentiles.
#[derive(Serialize)]
struct Visible {
    p50: f64,
    p99: f64,
    max: f64,
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
    let report = Report {
        prefixes: prefixes.len(),
        addresses: addresses.order.len(),
        batch: args.batch,
        timing,
        build_seconds,
        bytes,
        updates_per_second: updates_per_second(&mut writer, &prefixes)?,
        visible_us: visible(&mut writer)?,
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

/// Adds and removes one host, and lets another thread say when it saw that. The time of the change
/// itself and of the two threads' telling each other are in it.
fn visible(writer: &mut Writer) -> Result<Visible, Refused> {
    let host = Prefix::host(IpAddr::from([198, 51, 100, 77]));
    let seen = AtomicU32::new(u32::MAX);
    let reader = writer.reader();
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
        let result = (0..CHANGES).map(|n| {
            let id = FIRST + n;
            let started = Instant::now();
            if n % 2 == 0 {
                writer.remove(&host)?;
            } else {
                writer.insert(host, IdentityId::new(id))?;
            }
            let before = FIRST..id;
            // After a removal whatever stood there before all this is seen again.
            let done = |now: u32| if n % 2 == 0 { !before.contains(&now) } else { now == id };
            while !done(seen.load(Ordering::Acquire)) {
                std::hint::spin_loop();
            }
            Ok(started.elapsed().as_secs_f64() * 1e6)
        });
        let result: Result<Vec<f64>, Refused> = result.collect();
        seen.store(STOP, Ordering::Release);
        result
    });
    let mut micros = micros?;
    micros.sort_by(f64::total_cmp);
    let at = |share: f64| micros[((micros.len() - 1) as f64 * share) as usize];
    Ok(Visible { p50: at(0.5), p99: at(0.99), max: at(1.0) })
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
