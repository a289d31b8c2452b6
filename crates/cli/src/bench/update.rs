//! `portcullis bench update`: rules inserted and deleted one by one while another thread looks up.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::classifier::tuple::{Priority, RuleHandle};
use portcullis::classifier::{AddressMatch, Header, RuleSet, TupleV4, meta};
use serde::Serialize;

use crate::output::{Outcome, Refused};

/// Flags of `portcullis bench update`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rules, in ClassBench text
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,
    /// Inserts and deletes together
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    updates: u64,
    /// Rules that are in besides those of the file, at any time
    #[arg(long, value_name = "N", default_value_t = 32)]
    window: usize,
}

#[derive(Serialize)]
struct Report {
    rules: usize,
    updates: u64,
    updates_per_second: f64,
    /// From the call of an insert or delete to its effect in a lookup.
    visible_us_p50: f64,
    visible_us_p99: f64,
    visible_us_max: f64,
    /// Lookups of the other thread meanwhile, and before.
    lookups_mlps: f64,
    lookups_idle_mlps: f64,
    replace_seconds: f64,
}

/// Headers looked up at once by the reader.
const BATCH: usize = 64;
/// Updates whose visibility is timed.
const PROBES: usize = 2_000;

/// Inserts, deletes, looks up, reports.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    let (rules, _) = super::classify::five_tuples(&args.rules, super::classify::Beyond::LeaveOut)?;
    if rules.is_empty() {
        let name = args.rules.display();
        return Err(Refused::from(format!("{name}: an update bench needs at least one rule")));
    }
    let meta = meta::Builder::new().build(&rules)?;
    let headers: Vec<TupleV4> = rules.rules().iter().map(header).collect();
    let (done, looked_up) = (AtomicBool::new(false), AtomicU64::new(0));
    let report = std::thread::scope(|scope| {
        scope.spawn(|| read(&meta, &headers, &done, &looked_up));
        let report = write(&args, &rules, &meta, &looked_up);
        done.store(true, Ordering::Relaxed);
        report
    })?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(Outcome::Done)
}

/// Looks up until told to stop.
fn read(meta: &meta::Meta, headers: &[TupleV4], done: &AtomicBool, looked_up: &AtomicU64) {
    let mut scratch = meta::Scratch::default();
    let mut found = vec![None; BATCH];
    for headers in headers.chunks(BATCH).cycle() {
        if done.load(Ordering::Relaxed) {
            return;
        }
        meta.lookup_tuples(headers, &mut scratch, &mut found[..headers.len()]);
        looked_up.fetch_add(headers.len() as u64, Ordering::Relaxed);
    }
}

fn write(
    args: &Args,
    rules: &RuleSet,
    meta: &meta::Meta,
    looked_up: &AtomicU64,
) -> Result<Report, Refused> {
    let idle = rate(looked_up, || std::thread::sleep(Duration::from_millis(200)));

    let mut waiting: std::collections::VecDeque<RuleHandle> = std::collections::VecDeque::new();
    let mut failed = None;
    let mut inserted = 0;
    let mut seconds = 0.0;
    let busy = rate(looked_up, || {
        let started = Instant::now();
        for update in 0..args.updates {
            let result = if waiting.len() > args.window || update % 2 == 1 {
                waiting.pop_front().map_or(Ok(()), |oldest| meta.remove(oldest))
            } else {
                let rule = &rules.rules()[inserted % rules.len()];
                inserted += 1;
                meta.insert(Priority::new(inserted as u64), rule.clone())
                    .map(|handle| waiting.push_back(handle))
            };
            if let Err(error) = result {
                failed = Some(error);
                return;
            }
        }
        seconds = started.elapsed().as_secs_f64();
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    for handle in waiting {
        meta.remove(handle)?;
    }

    let mut visible = Vec::with_capacity(PROBES);
    for probe in 0..PROBES {
        visible.push(visible_after(rules, meta, probe)?);
    }
    visible.sort_by(f64::total_cmp);

    let started = Instant::now();
    meta.replace(rules)?;
    Ok(Report {
        rules: rules.len(),
        updates: args.updates,
        updates_per_second: args.updates as f64 / seconds,
        visible_us_p50: visible[PROBES / 2],
        visible_us_p99: visible[PROBES * 99 / 100],
        visible_us_max: visible[PROBES - 1],
        lookups_mlps: busy,
        lookups_idle_mlps: idle,
        replace_seconds: started.elapsed().as_secs_f64(),
    })
}

/// Million lookups a second while `work` runs.
fn rate(looked_up: &AtomicU64, work: impl FnOnce()) -> f64 {
    let (before, started) = (looked_up.load(Ordering::Relaxed), Instant::now());
    work();
    let lookups = looked_up.load(Ordering::Relaxed) - before;
    lookups as f64 / started.elapsed().as_secs_f64() / 1e6
}

/// Microseconds from the call of an insert to the lookup that finds the rule.
fn visible_after(rules: &RuleSet, meta: &meta::Meta, probe: usize) -> Result<f64, Refused> {
    let rule = &rules.rules()[probe % rules.len()];
    let header: Header = header(rule).header();
    let started = Instant::now();
    let handle = meta.insert(Priority::new(0), rule.clone())?;
    while meta.lookup(&header).map(|found| found.rule) != Some(handle) {
        std::hint::spin_loop();
    }
    let waited = started.elapsed().as_secs_f64() * 1e6;
    meta.remove(handle)?;
    Ok(waited)
}

/// The lowest header that a rule of IPv4 5-tuples matches.
fn header(rule: &portcullis::classifier::Rule) -> TupleV4 {
    let address = |side| match side {
        AddressMatch::V4(prefix) => prefix.address(),
        _ => std::net::Ipv4Addr::UNSPECIFIED,
    };
    let protocol = (0..=u8::MAX).find(|&number| rule.protocol.matches(number)).unwrap_or(0);
    let (from, to) = (rule.source_ports.first(), rule.destination_ports.first());
    TupleV4::new(address(rule.source), address(rule.destination), protocol, from, to)
}
