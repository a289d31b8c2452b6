//! Policies are replaced, endpoints come and go and a threat feed changes while packets flow: none is
//! lost, none misjudged. Needs CAP_NET_ADMIN; says so and skips without.
//!
//! The short form is at a rate that a debug build on a busy machine keeps. The long form needs a machine
//! with nothing else to do and three CPUs, of which the worker has one to itself: it finds the greatest
//! rate at which nothing is lost while nothing is published, publishes so many policies at that rate with
//! 100 updates of endpoints each, counts, and holds the times against their limits (one to two minutes).
//! At that rate the worker has no time left; where judging all connections anew takes some, all begins
//! anew with a lower rate, which must be three quarters of the greatest, and lose nothing:
//! `PORTCULLIS_PUBLISH=1000 cargo test --release -p portcullis-cli --test publish -- --nocapture`
//! `PORTCULLIS_RATE` sets the rate of either form.
//!
//! Every packet is in exactly one place at the end: each step on the way has a counter of its own. The other
//! tests here do so where packets must be lost: too many of them, and no way out.

#[path = "../../src/lab/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)]
mod lab;

mod account;
mod bed;
mod changes;
mod documents;
mod feed;
mod times;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use account::Account;
use bed::Bed;
use changes::{Changes, Scale};
use documents::{EVEN, KEPT, NO_THREAT, ODD, PASSER, REFUSED, SOMETIMES_THREAT, THREAT};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use portcullis::Config;

/// One test at a time has the machine.
static ALONE: Mutex<()> = Mutex::new(());

/// Packets a second that a debug build passes on a machine with two busy CPUs.
const MODEST: u32 = 10_000;

/// Rates to try, in packets a second.
const RATES: [u32; 13] = [
    50_000, 100_000, 200_000, 400_000, 600_000, 800_000, 1_000_000, 1_200_000, 1_600_000,
    2_000_000, 2_400_000, 2_800_000, 3_200_000,
];

/// Entries of the rings of the long form. Whoever waits for the worker's CPU gets it for a tick of the
/// kernel now and then, 4 ms at 250 Hz, and what comes in meanwhile must fit.
const FULL_RATE_RING: u32 = 16_384;

/// What a release build may take for an apply of 10,000 rules, and for an update of an endpoint.
const LONGEST_APPLY: Duration = Duration::from_millis(100);
const LONGEST_UPDATE: Duration = Duration::from_micros(100);

/// The long form publishes its small sets in so many slices.
const SLICES: usize = 20;

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}: {value:?} is not a number")))
}

#[test]
fn nothing_is_lost_or_misjudged_while_policies_change() {
    let _alone = ALONE.lock();
    let swaps: Option<usize> = from_environment("PORTCULLIS_PUBLISH");
    let long_rings = |config: Config| {
        config.ports(|ports| (ports.rings.rx, ports.rings.fill) = (FULL_RATE_RING, FULL_RATE_RING))
    };
    // The worker of the long form has a CPU to itself.
    let cpu = swaps.and_then(|_| stay_off_one_cpu());
    let change = |config: Config| match (swaps, cpu) {
        (None, _) => config,
        (Some(_), cpu) => long_rings(config).cpus(cpu.into_iter().collect::<Vec<_>>()),
    };
    let Some(bed) = Bed::build(change) else { return };
    let rate = from_environment("PORTCULLIS_RATE");
    match swaps {
        None => short(&bed, rate.unwrap_or(MODEST)),
        Some(swaps) => {
            let most = rate.unwrap_or_else(|| full_rate(&bed));
            // A rate that was asked for is held.
            long(&bed, most, rate.unwrap_or(most / 4 * 3), swaps);
        }
    }
    bed.firewall.shutdown();
}

/// As much as the kernel makes, into small rings: packets are lost, and each is counted where it was.
#[test]
fn what_is_too_much_is_counted_to_the_packet() {
    let _alone = ALONE.lock();
    let small = |config: Config| {
        config.ports(|ports| {
            (ports.rings.rx, ports.rings.fill) = (64, 64);
            (ports.rings.tx, ports.rings.completion) = (64, 64);
        })
    };
    let Some(bed) = Bed::build(small) else { return };
    let (account, real) =
        bed.under_traffic(None, || std::thread::sleep(Duration::from_millis(600)));
    println!("{real:.0} packets a second: {account}");
    account.assert_adds_up();
    assert!(account.no_frame + account.ring_full > 0, "not too much: {account}");
    assert!(account.arrived[usize::from(KEPT)] > 0, "some pass all the same");
    for stream in [REFUSED, THREAT, ODD, PASSER] {
        assert_eq!(
            account.arrived[usize::from(stream)],
            0,
            "stream {stream}, refused by version 0"
        );
    }
    // And all is well again.
    let (account, _) =
        bed.under_traffic(Some(1_000), || std::thread::sleep(Duration::from_millis(300)));
    judge(&account);
    bed.firewall.shutdown();
}

/// The way out is closed for a while: what comes in meanwhile is lost, and counted.
#[test]
fn what_has_no_way_out_is_counted_to_the_packet() {
    let _alone = ALONE.lock();
    let Some(bed) = Bed::build(|config| config) else { return };
    let (account, _) = bed.under_traffic(Some(2 * MODEST), || {
        let pause = |millis| std::thread::sleep(Duration::from_millis(millis));
        pause(200);
        bed.way_out("down");
        // The TX ring holds a thousand back.
        pause(1_000);
        bed.way_out("up");
        pause(200);
    });
    println!("{account}");
    account.assert_adds_up();
    assert!(account.lost() > 0, "the way out was closed: {account}");
    assert_eq!(account.lost(), account.behind + account.dropped_otherwise(), "{account}");
    assert!(account.arrived[usize::from(KEPT)] > 0, "some pass before and after");
    bed.firewall.shutdown();
}

/// Keeps this thread, and those that it starts, off the last of its CPUs, and answers that one. `None` if
/// there are fewer than three.
fn stay_off_one_cpu() -> Option<usize> {
    let this = Pid::from_raw(0);
    let mut all = sched_getaffinity(this).unwrap();
    let mine: Vec<usize> = (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu).unwrap()).collect();
    let last = *mine.last().filter(|_| mine.len() > 2)?;
    all.unset(last).unwrap();
    sched_setaffinity(this, &all).unwrap();
    Some(last)
}

fn short(bed: &Bed, rate: u32) {
    let mut changes = Changes::new(bed);
    let linger = Duration::from_millis(5);
    let small = Scale { updates: 100, rules: 0, prefixes: 1_000, linger };
    let large = Scale { rules: 1_000, ..small };
    let (account, _) = bed.under_traffic(Some(rate), || {
        (0..100).for_each(|_| changes.next(small));
        (0..5).for_each(|_| changes.next(large));
    });
    println!("{account}");
    changes.print();
    judge(&account);
    assert_versions_mattered(&account);
}

/// The greatest of [`RATES`] up to which nothing is lost while nothing is published.
fn full_rate(bed: &Bed) -> u32 {
    let mut full = None;
    for rate in RATES {
        if !holds(bed, rate, Duration::from_secs(4)) {
            break;
        }
        full = Some(rate);
    }
    full.expect("a rate at which nothing is lost")
}

/// Whether nothing is lost at this rate for so long while nothing is published.
fn holds(bed: &Bed, rate: u32, time: Duration) -> bool {
    let (account, real) = bed.under_traffic(Some(rate), || std::thread::sleep(time));
    account.assert_adds_up();
    println!("nothing published, {rate} packets a second ({real:.0}): {account}");
    account.lost() == 0
}

/// Publishes in slices, each after as long without: a rate at which the wire loses packets while
/// nothing is published is not its full rate, and all begins anew with the next lower one. So it does
/// where packets are lost while policies are published, down to the rate `least`.
fn long(bed: &Bed, mut rate: u32, least: u32, swaps: usize) {
    let lower = |rate| RATES.iter().rev().copied().find(|lower| *lower < rate);
    let linger = Duration::from_millis(2);
    let small = Scale { updates: 100, rules: 0, prefixes: 10_000, linger };
    let large = Scale { rules: 10_000, ..small };
    let mut changes = Changes::new(bed);
    'rate: loop {
        for (what, scale, versions, slices) in [
            ("small sets", small, swaps.div_ceil(SLICES), SLICES),
            ("sets of 10,000 rules", large, 10, swaps.div_ceil(200)),
        ] {
            changes.forget_times();
            let mut sum = Account::default();
            let mut seconds = 0.0;
            for _ in 0..slices {
                let begin = Instant::now();
                let publish = || (0..versions).for_each(|_| changes.next(scale));
                let (account, real) = bed.under_traffic(Some(rate), publish);
                let took = begin.elapsed();
                if !holds(bed, rate, took) {
                    rate = lower(rate).expect("a lower rate");
                    println!("not the full rate: from the beginning with {rate}");
                    continue 'rate;
                }
                println!(
                    "{versions} {what} published, {rate} packets a second ({real:.0}): {account}"
                );
                if account.lost() > 0
                    && let Some(lower) = lower(rate).filter(|lower| *lower >= least)
                {
                    rate = lower;
                    println!("no time left to publish: from the beginning with {rate}");
                    continue 'rate;
                }
                judge(&account);
                seconds += account.sent as f64 / real;
                sum.add(&account);
            }
            println!(
                "** {} {what} at {rate} packets a second ({:.0} in the mean): {sum}",
                versions * slices,
                sum.sent as f64 / seconds
            );
            changes.print();
            assert_versions_mattered(&sum);
            if cfg!(not(debug_assertions)) {
                assert!(changes.apply.at(0.99) <= LONGEST_APPLY, "an apply");
                assert!(changes.visible.at(0.99) <= LONGEST_UPDATE, "an update");
            }
        }
        return;
    }
}

/// Nothing lost, nothing misjudged, everything accounted for.
fn judge(account: &Account) {
    account.assert_adds_up();
    assert_eq!(account.lost(), 0, "lost: {account}");
    for stream in [KEPT, NO_THREAT] {
        let (arrived, sent) = (account.arrived[usize::from(stream)], account.sent_of(stream));
        assert_eq!(arrived, sent, "stream {stream}, allowed by every version");
    }
    for stream in [REFUSED, THREAT] {
        let arrived = account.arrived[usize::from(stream)];
        assert_eq!(arrived, 0, "stream {stream}, refused by every version");
    }
}

/// The versions differed: some packets of a stream passed and some did not.
fn assert_versions_mattered(account: &Account) {
    for stream in [EVEN, ODD, SOMETIMES_THREAT, PASSER] {
        let (arrived, sent) = (account.arrived[usize::from(stream)], account.sent_of(stream));
        assert!((1..sent).contains(&arrived), "stream {stream}: {arrived} of {sent}");
    }
}
