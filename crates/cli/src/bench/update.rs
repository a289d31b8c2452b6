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
    /// The same for deleting rules of the file, which are compiled.
    compiled_deletes_per_second: f64,
    compiled_visible_us_p50: f64,
    compiled_visible_us_p99: f64,
    compiled_visible_us_max: f64,
    /// Lookups of the other thread while they go.
    compiled_lookups_mlps: f64,
    /// Cache lines that a lookup touches at most: of the rules as compiled, and with some deleted.
    worst_case_touches: usize,
    worst_case_touches_deleted: usize,
}

/// What deleting compiled rules took.
struct Deletions {
    per_second: f64,
    visible: Vec<f64>,
    lookups_mlps: f64,
    touches: usize,
    touches_deleted: usize,
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
    let first = meta.replace(rules)?;
    let replace_seconds = started.elapsed().as_secs_f64();
    let deletions = delete_compiled(rules, meta, first, looked_up)?;
    let compiled = |share: f64| percentile(&deletions.visible, share);
    Ok(Report {
        rules: rules.len(),
        updates: args.updates,
        updates_per_second: args.updates as f64 / seconds,
        visible_us_p50: percentile(&visible, 0.5),
        visible_us_p99: percentile(&visible, 0.99),
        visible_us_max: percentile(&visible, 1.0),
        lookups_mlps: busy,
        lookups_idle_mlps: idle,
        replace_seconds,
        compiled_deletes_per_second: deletions.per_second,
        compiled_visible_us_p50: compiled(0.5),
        compiled_visible_us_p99: compiled(0.99),
        compiled_visible_us_max: compiled(1.0),
        compiled_lookups_mlps: deletions.lookups_mlps,
        worst_case_touches: deletions.touches,
        worst_case_touches_deleted: deletions.touches_deleted,
    })
}

/// The value that `share` of the sorted values do not exceed.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// Deletes half of the rules, which are compiled and called `first` and on: some one by one, each
/// timed until a lookup finds it no more, and then the others as fast as it goes.
fn delete_compiled(
    rules: &RuleSet,
    meta: &meta::Meta,
    first: RuleHandle,
    looked_up: &AtomicU64,
) -> Result<Deletions, Refused> {
    let touches = meta.worst_case_touches();
    let mut touches_deleted = touches;
    let handle = |place: usize| RuleHandle::new(first.as_u64() + place as u64);
    let every_second: Vec<usize> = (0..rules.len()).step_by(2).collect();
    let (timed, others) = every_second.split_at(every_second.len().min(PROBES) / 2);
    let mut visible = Vec::with_capacity(timed.len());
    for &place in timed {
        let header: Header = header(&rules.rules()[place]).header();
        let started = Instant::now();
        meta.remove(handle(place))?;
        while meta.lookup(&header).map(|found| found.rule) == Some(handle(place)) {
            std::hint::spin_loop();
        }
        visible.push(started.elapsed().as_secs_f64() * 1e6);
        touches_deleted = touches_deleted.max(meta.worst_case_touches());
    }
    visible.sort_by(f64::total_cmp);
    let (mut failed, mut seconds) = (None, 0.0);
    let lookups_mlps = rate(looked_up, || {
        let started = Instant::now();
        failed = others.iter().find_map(|&place| meta.remove(handle(place)).err());
        seconds = started.elapsed().as_secs_f64();
    });
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(Deletions {
            per_second: others.len() as f64 / seconds,
            visible,
            lookups_mlps,
            touches,
            touches_deleted,
        }),
    }
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
