//! `portcullis bench wire`: traffic from end to end through the firewall, and through what else
//! could stand there, in namespaces of its own.

mod bare;
mod nft;
pub(super) mod pin;
pub(super) mod policy;
pub(super) mod rate;
pub(super) mod report;
mod scenario;
mod sockets;

use std::time::Duration;

use clap::ValueEnum;

use crate::output::{Outcome, Refused};
use rate::{Meter, Run};
use report::{Measured, Report};
use scenario::{Scenario, Stand};

/// Flags of `portcullis bench wire`.
#[derive(clap::Args)]
#[command(
    after_help = "It builds network namespaces with veths in them and sends 60-byte UDP packets \
from one end to the other, nowhere else. Needs root. Scenarios take turns, so that what disturbs the \
machine disturbs all of them; every figure is the median of the rounds. Prints one JSON object."
)]
pub(crate) struct Args {
    /// What to measure; may be given several times [default: all]
    #[arg(long, value_enum, value_name = "NAME")]
    scenario: Vec<Scenario>,
    /// Seconds of full load in each round
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    seconds: f64,
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets a second of the part that looks for loss below full load
    #[arg(long, default_value_t = 100_000, value_name = "PPS", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: u32,
    /// One short round: to see that it works, not how fast
    #[arg(long)]
    quick: bool,
}

/// Echoes in each round.
const ECHOES: usize = 2000;

/// Measures and reports.
pub(crate) fn run(mut args: Args) -> Result<Outcome, Refused> {
    if !(0.01..=3600.0).contains(&args.seconds) {
        return Err("error: --seconds: from 0.01 to 3600".into());
    }
    if args.quick {
        (args.seconds, args.rounds) = (0.1, 1);
    }
    let mut wanted = args.scenario.clone();
    if wanted.is_empty() {
        wanted = Scenario::value_variants().to_vec();
    }
    wanted.dedup();
    let mut notes = Vec::new();
    if wanted.iter().any(|scenario| scenario.needs_nft()) && !nft::available() {
        notes.push("nft is missing (install nftables): its scenarios were left out".to_owned());
        wanted.retain(|scenario| !scenario.needs_nft());
    }
    let stands: Vec<Stand> =
        wanted.into_iter().map(Scenario::set_up).collect::<Result<_, Refused>>()?;
    let mut measured: Vec<Measured> = stands.iter().map(Measured::new).collect();
    rates(&args, &stands, &mut measured)?;
    sockets(&args, &stands, &mut measured)?;
    crate::output::json(&Report::new(&args, &measured, notes))?;
    Ok(Outcome::Done)
}

/// Full load, and a load that all should carry.
fn rates(args: &Args, stands: &[Stand], measured: &mut [Measured]) -> Result<(), Refused> {
    let meters: Vec<Meter<'_>> =
        stands.iter().map(|stand| Meter::new(stand, args.rate)).collect::<Result<_, Refused>>()?;
    for meter in &meters {
        meter.warm_up()?;
    }
    let time = Duration::from_secs_f64(args.seconds);
    for _ in 0..args.rounds {
        for (meter, measured) in meters.iter().zip(&mut *measured) {
            measured.full.push(meter.full(time)?);
            measured.paced.push(meter.paced(time / 2)?);
        }
    }
    for (stand, measured) in stands.iter().zip(measured) {
        measured.connections = stand.connections();
    }
    Ok(())
}

/// What applications see. The sinks are gone by now: they would slow the server's side.
fn sockets(args: &Args, stands: &[Stand], measured: &mut [Measured]) -> Result<(), Refused> {
    let echoes = if args.quick { ECHOES / 10 } else { ECHOES };
    for _ in 0..args.rounds {
        for (stand, measured) in stands.iter().zip(&mut *measured) {
            stand.with_sockets(true);
            let (times, lost) = sockets::echoes(&stand.path, echoes)?;
            measured.echoes.extend(times);
            measured.echoes_lost += lost;
            let tcp = sockets::tcp(&stand.path, Duration::from_secs_f64(args.seconds))?;
            measured.tcp.push(tcp);
            stand.with_sockets(false);
        }
    }
    Ok(())
}
