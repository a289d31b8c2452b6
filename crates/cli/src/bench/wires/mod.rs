//! `portcullis bench wires`: a full node's wires against one wire, at the same total load, in
//! namespaces of its own.

mod memory;
mod node;

use std::time::{Duration, Instant};

use serde::Serialize;

use super::wire::rate::{Run, cpu};
use super::wire::report::{Figure, percentile};
use crate::output::{self, Outcome, Refused};
use memory::Memory;
use node::Node;

/// Flags of `portcullis bench wires`.
#[derive(clap::Args)]
#[command(
    after_help = "It builds network namespaces with veths in them: a firewall with one wire, and one \
with many, each with one worker. 60-byte UDP packets of the same flows go through both in turn; on the \
many, every packet takes another wire than the one before, or every 32nd. Needs root. Prints one JSON \
object."
)]
pub(crate) struct Args {
    /// Wires
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(2..=1000))]
    wires: u32,
    /// Seconds of full load in each round
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    seconds: f64,
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets a second of a load that is the same for the one wire and for the many
    #[arg(long, default_value_t = 800_000, value_name = "PPS", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    load: u32,
    /// Threads that generate
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    generators: u32,
    /// Packets a second while wires come and go
    #[arg(long, default_value_t = 100_000, value_name = "PPS", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: u32,
    /// Wires that come and go under that load
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=250))]
    changes: u32,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    wires: u32,
    rounds: u32,
    seconds: f64,
    modes: Vec<String>,
    /// The same load for both, on the many with every packet on another wire than the one before.
    same_load: Pair,
    /// As much as the generator makes. For the many it has more work with each packet.
    full_load: Pair,
    /// The same with 32 packets for a wire before the next has its turn.
    full_load_in_bursts: Pair,
    /// Milliseconds to add a wire, without traffic.
    add_ms: Times,
    /// Of these, the first 24 wires alone, which once took longer: see docs/performance/wire.md.
    add_first_ms: Times,
    /// Milliseconds to remove one, without traffic.
    remove_ms: Times,
    /// How much a wire takes, in KiB.
    memory_kib_a_wire: Memory,
    /// Cores in use when nothing is sent, with one question a second after all interfaces.
    idle_cores: f64,
    changes_under_load: Changes,
}

#[derive(Serialize)]
struct Pair {
    one: Load,
    many: Load,
    /// Packets a second of the many over those of the one, round by round.
    ratio: Figure,
}

#[derive(Serialize)]
struct Load {
    pps_in: f64,
    pps_out: Figure,
    lost: f64,
    /// CPU time a forwarded packet, of the worker.
    cpu_ns: Figure,
}

#[derive(Serialize)]
struct Times {
    p50: f64,
    p99: f64,
    max: f64,
}

#[derive(Serialize)]
struct Changes {
    pps_in: f64,
    sent: u64,
    lost: u64,
    added: usize,
    add_ms: Times,
    remove_ms: Times,
}

/// Packets for one wire before the next has its turn.
const BURST: u32 = 32;

/// Measures and reports.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    if !(0.01..=60.0).contains(&args.seconds) {
        return Err("error: --seconds: from 0.01 to 60".into());
    }
    crate::run::raise_descriptors();
    let time = Duration::from_secs_f64(args.seconds);
    let mut one = Node::build(1, 0)?;
    let mut many = Node::build(args.wires, args.changes)?;
    one.start()?;
    one.add(0)?;
    many.start()?;
    let before = Memory::now()?;
    let mut added = Vec::new();
    for wire in 0..args.wires {
        added.push(many.add(wire)?);
    }
    let memory = Memory::now()?.since(&before, args.wires);
    let mut removed = Vec::new();
    for wire in args.wires..args.wires + args.changes {
        many.add(wire)?;
        removed.push(many.remove(wire)?);
    }
    one.watch()?;
    many.watch()?;

    let idle_cores = idle(&many)?;
    let loads = |node: &Node, turn, rate: Option<u32>| {
        let each = rate.map(|rate| rate / args.generators);
        (0..args.generators).map(|_| node.load(turn, each)).collect::<Result<Vec<_>, _>>()
    };
    let loads = [
        (&one, loads(&one, 1, Some(args.load))?),
        (&many, loads(&many, 1, Some(args.load))?),
        (&one, loads(&one, 1, None)?),
        (&many, loads(&many, 1, None)?),
        (&many, loads(&many, BURST, None)?),
    ];
    let mut runs: [Vec<Run>; 5] = Default::default();
    for round in 0..=args.rounds {
        for ((node, loads), runs) in loads.iter().zip(&mut runs) {
            let run = node.run(loads, time)?;
            // The first is for warming up.
            if round > 0 {
                runs.push(run);
            }
        }
    }
    let report = Report {
        wires: args.wires,
        rounds: args.rounds,
        seconds: args.seconds,
        modes: many.modes(),
        same_load: Pair::of(&runs[0], &runs[1]),
        full_load: Pair::of(&runs[2], &runs[3]),
        full_load_in_bursts: Pair::of(&runs[2], &runs[4]),
        add_first_ms: Times::of(added.iter().copied().take(24).collect()),
        add_ms: Times::of(added),
        remove_ms: Times::of(removed),
        memory_kib_a_wire: memory,
        idle_cores,
        changes_under_load: changes(&args, &many)?,
    };
    output::json(&report)?;
    Ok(Outcome::Done)
}

/// Cores that all wires take together while nothing is sent.
fn idle(node: &Node) -> Result<f64, Refused> {
    // What the set-up left behind settles.
    std::thread::sleep(Duration::from_secs(1));
    let (begin, before) = (Instant::now(), cpu(libc::CLOCK_PROCESS_CPUTIME_ID));
    for _ in 0..3 {
        node.ask()?;
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok((cpu(libc::CLOCK_PROCESS_CPUTIME_ID) - before) / begin.elapsed().as_secs_f64())
}

/// Adds and removes wires while all others carry packets.
fn changes(args: &Args, node: &Node) -> Result<Changes, Refused> {
    let load = node.load(1, Some(args.rate))?;
    let (run, added, removed) = node.run_while(&load, || {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for wire in args.wires..args.wires + args.changes {
            added.push(node.add(wire)?);
        }
        for wire in args.wires..args.wires + args.changes {
            removed.push(node.remove(wire)?);
        }
        Ok((added, removed))
    })?;
    Ok(Changes {
        pps_in: run.pps_in(),
        sent: run.sent.packets,
        lost: run.lost(),
        added: added.len(),
        add_ms: Times::of(added),
        remove_ms: Times::of(removed),
    })
}

impl Pair {
    fn of(one: &[Run], many: &[Run]) -> Self {
        let ratios =
            many.iter().zip(one).map(|(many, one)| many.pps_out() / one.pps_out().max(1.0));
        Self { one: Load::of(one), many: Load::of(many), ratio: Figure::of(ratios) }
    }
}

impl Load {
    fn of(runs: &[Run]) -> Self {
        Self {
            lost: Figure::of(runs.iter().map(|run| run.lost() as f64)).median,
            pps_in: Figure::of(runs.iter().map(Run::pps_in)).median,
            pps_out: Figure::of(runs.iter().map(Run::pps_out)),
            cpu_ns: Figure::of(
                runs.iter().map(|run| run.worker_cpu * 1e9 / run.received.max(1) as f64),
            ),
        }
    }
}

impl Times {
    fn of(times: Vec<Duration>) -> Self {
        let mut ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let (p50, p99) = (percentile(&ms, 0.5), percentile(&ms, 0.99));
        Self { p50, p99, max: ms.last().copied().unwrap_or_default() }
    }
}
