//! A threat feed of a million CIDRs, replaced while flows are judged and endpoints come and go.
//!
//! ```text
//! cargo run --release --example threat-feed [-- CIDRS]
//! ```

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::Engine;
use portcullis::dataplane::verdict::Verdict;
use portcullis::identity_table::endpoint::Endpoint;
use portcullis::policy::{Flow, Source, parse_cluster, parse_policies};

const FEED: &str = "GlobalNetworkSet//feed";

const POLICIES: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: feed, labels: {list: threats}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: no-threats}
spec:
  order: 10
  selector: all()
  types: [Ingress]
  ingress:
    - {action: Deny, source: {selector: list == 'threats'}}
    - {action: Allow}
";

const CLUSTER: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, status: {podIP: 10.0.0.1}}
";

fn main() -> Result<(), Box<dyn Error>> {
    let count: u32 = std::env::args().nth(1).map_or(Ok(1_000_000), |arg| arg.parse())?;
    if count == 0 || count > 8_000_000 {
        return Err("from 1 to 8000000 CIDRs".into());
    }
    let cluster = parse_cluster(&[Source::new("cluster.yaml", CLUSTER)])?.value;
    let policies = parse_policies(&[Source::new("policies.yaml", POLICIES)])?.value;
    let engine = Engine::new(Default::default())?;
    engine.apply(cluster, policies)?;

    let (stop, judged) = (AtomicBool::new(false), AtomicU64::new(0));
    let (changes, longest) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        // Stops the judge also when a replacement fails.
        let _stopper = Stopper(&stop);
        scope.spawn(|| judge(&engine, &stop, &judged));
        scope.spawn(|| come_and_go(&engine, &stop, &changes, &longest));
        for edition in 0..4 {
            let feed = feed(edition, count);
            let (before, started) = (judged.load(Ordering::Relaxed), Instant::now());
            changes.store(0, Ordering::Relaxed);
            longest.store(0, Ordering::Relaxed);
            engine.sets().replace(FEED, feed)?;
            let took = started.elapsed();
            let meanwhile = judged.load(Ordering::Relaxed) - before;
            println!(
                "edition {edition}: {count} CIDRs in force after {:.0} ms; meanwhile {:.1} million \
                 flows judged, {} endpoints changed, none longer than {} us",
                took.as_secs_f64() * 1e3,
                meanwhile as f64 / 1e6,
                changes.load(Ordering::Relaxed),
                longest.load(Ordering::Relaxed),
            );
            check(&engine, edition, count)?;
        }
        Ok(())
    })?;
    let resident = std::fs::read_to_string("/proc/self/status")?;
    let resident = resident.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    println!("{} in the set; {resident}", engine.sets().list()[0].1);
    Ok(())
}

struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The `n`-th CIDR of an edition: a /28, odd ones in one edition and even ones in the next.
fn cidr(edition: u32, n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x2000_0000 + ((2 * n + edition % 2) << 4))
}

fn feed(edition: u32, count: u32) -> Vec<ipnet::IpNet> {
    (0..count).map(|n| ipnet::Ipv4Net::new_assert(cidr(edition, n), 28).into()).collect()
}

fn flow(source: Ipv4Addr) -> Flow {
    let destination = IpAddr::from([10, 0, 0, 1]);
    Flow::new(source.into(), destination, 6, (40_000, 443))
}

/// Judges flows from all over the feed until told to stop.
fn judge(engine: &Engine, stop: &AtomicBool, judged: &AtomicU64) {
    let mut judge = engine.judge();
    let mut out = [Default::default(); 64];
    let mut n = 0u32;
    while !stop.load(Ordering::Relaxed) {
        let flows: [Flow; 64] = std::array::from_fn(|k| {
            flow(Ipv4Addr::from_bits(
                0x2000_0000 + (n + k as u32).wrapping_mul(2_654_435_761) % (1 << 25),
            ))
        });
        judge.flows(&flows, &mut out);
        n = n.wrapping_add(64);
        judged.fetch_add(64, Ordering::Relaxed);
    }
}

/// Has an endpoint come and go every half millisecond until told to stop. Each change is in force
/// when its call returns.
fn come_and_go(engine: &Engine, stop: &AtomicBool, changes: &AtomicU64, longest: &AtomicU64) {
    let addresses = vec![IpAddr::from([10, 0, 0, 2])];
    let pod = Endpoint { addresses, ..Endpoint::new("shop", "batch-job") };
    for n in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (pod, started) = (pod.clone(), Instant::now());
        let changed = match n % 2 {
            0 => engine.endpoints().upsert(pod),
            _ => engine.endpoints().remove("shop", "batch-job").map(drop),
        };
        if let Err(error) = changed {
            eprintln!("an endpoint could not be changed: {error}");
        }
        longest.fetch_max(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        changes.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// What is in the edition is denied, what was in the one before passes.
fn check(engine: &Engine, edition: u32, count: u32) -> Result<(), Box<dyn Error>> {
    let mut judge = engine.judge();
    let started = Instant::now();
    for n in (0..count).step_by((count as usize / 10_000).max(1)) {
        let flows = [flow(cidr(edition, n)), flow(cidr(edition + 1, n))];
        let mut out = [Default::default(); 2];
        judge.flows(&flows, &mut out);
        let verdicts = out.map(|judgement| judgement.verdict);
        if verdicts != [Verdict::Deny, Verdict::Allow] {
            return Err(format!("CIDR {n} of edition {edition}: {verdicts:?}").into());
        }
        if started.elapsed() > Duration::from_secs(60) {
            return Err("checking takes too long".into());
        }
    }
    Ok(())
}
