//! `portcullis bench soak`: full load for long with every sink on, and an account of every packet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::dataplane::reason::Reason;
use portcullis::{Config, Firewall, Totals};
use serde::Serialize;

use super::wire::{pin, policy};
use crate::control::capture::Wanted;
use crate::lab::traffic::{Generator, Load, STREAMS, Sink};
use crate::lab::{self, Neighbours, Path};
use crate::output::{self, Outcome, Refused};
use crate::run::{Seen, Sinks};

/// Flags of `portcullis bench soak`.
#[derive(clap::Args)]
#[command(
    after_help = "It builds network namespaces with veths in them and sends 60-byte UDP packets from \
one end to the other through a firewall with 10,000 rules, flow log, metrics that are read each second, \
live view and a capture. Every five seconds another 10,000 connections have their turn, and every \
tenth second begins with a flood that is denied. Needs root. Prints one JSON object.

Exit code: 0 if memory stayed constant and the account is exact, 1 if not."
)]
pub(crate) struct Args {
    /// How long
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    seconds: u32,
    /// Packets a second; as many as one core makes unless given
    #[arg(long, value_name = "PPS")]
    rate: Option<u32>,
}

/// Connections that are open at a time and how many seconds until others are: each set has been
/// silent for longer than its timeout (30 s) when its turn comes again.
const FLOWS: u32 = 10_000;
const TURN: u32 = 5;
const SECOND: Duration = Duration::from_secs(1);
/// How long a flood of denied packets takes, and every how many seconds there is one.
const FLOOD: Duration = Duration::from_millis(200);
const FLOODS: u32 = 10;

/// What is printed.
#[derive(Serialize)]
struct Report {
    seconds: f64,
    sent: u64,
    /// By the sink behind the firewall.
    arrived: u64,
    pps: f64,
    memory: Memory,
    packets: Packets,
    connections: Connections,
    seen: Seen,
    exact: bool,
}

/// Resident bytes of the process, generator and sinks included.
#[derive(Serialize)]
struct Memory {
    /// After the first tenth of the time, the most after that, at the end.
    early: u64,
    most: u64,
    late: u64,
    constant: bool,
}

/// received = forwarded + dropped by reason.
#[derive(Serialize)]
struct Packets {
    received: u64,
    forwarded: u64,
    dropped: u64,
    by_reason: Vec<(&'static str, u64)>,
    /// Packets that the kernel counted and the worker never saw: its ring was full.
    before_the_worker: u64,
    /// Packets that the XDP programs handed to sockets.
    to_sockets: u64,
    exact: bool,
}

/// opened = records of it + lost ones; the same for ended; opened - ended = in the table.
#[derive(Serialize)]
struct Connections {
    opened: u64,
    ended: u64,
    now: usize,
    lost_opened: u64,
    lost_ended: u64,
    lost_dropped: u64,
    /// Packets that the policy denied: as many as records say, and lost ones.
    denied: u64,
    exact: bool,
}

/// Loads, accounts, prints.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    let path = Path::build(Neighbours::EachOther, 1)?;
    for host in [&path.client, &path.middle, &path.server] {
        // Multicast that the hosts send by themselves is no connection, and would be in the log.
        host.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"))??;
    }
    let (cluster, policies) = (policy::cluster()?, policy::policies(10_000)?);
    let (fw0, fw1) = Path::MIDDLE;
    let firewall = path.middle.run(|| {
        pin::worker();
        let config = Config::wire(fw0, fw1);
        let burst = std::num::NonZeroU32::new(64);
        Firewall::start(
            config.pipeline(|pipeline| pipeline.denied_burst = burst),
            cluster,
            policies,
        )
    })??;
    let firewall = Arc::new(firewall);
    let sinks = Sinks::start(&firewall, Wanted::default())?;
    let mut sink = Sink::new()?;
    let interface = lab::eth0(&path.server)?;
    path.server.run(|| sink.attach(interface))??;

    let (sent, memory, seconds) = load(&args, &path)?;
    // What is on its way arrives, workers tell what they summed up, and what happened is written.
    std::thread::sleep(3 * SECOND);
    let mut seen = sinks.stop()?;
    let totals = settle(&firewall, &mut seen);
    let packets = Packets::of(&totals, &firewall)?;
    let connections = Connections::of(&totals, &seen);
    let arrived = (0..STREAMS).map(|stream| sink.received(stream)).sum::<Result<u64, _>>()?;
    let exact = packets.exact && connections.exact && seen.unwritten == 0 && seen.exact();
    let (good, pps) = (exact && memory.constant, arrived as f64 / seconds);
    output::json(&Report {
        seconds,
        sent,
        arrived,
        pps,
        memory,
        packets,
        connections,
        seen,
        exact,
    })?;
    Ok(if good { Outcome::Done } else { Outcome::Findings })
}

/// Sends for as long as asked; answers what was sent, the memory meanwhile and how long it took.
fn load(args: &Args, path: &Path) -> Result<(u64, Memory, f64), Refused> {
    let load = Load {
        interface: lab::eth0(&path.client)?,
        interfaces: 1,
        turn: 1,
        link: [Path::SERVER_LINK, Path::CLIENT_LINK],
        source: Path::CLIENT,
        sources: policy::CLIENTS,
        destination: Path::SERVER,
        flows: FLOWS,
        rate: args.rate,
        stream: 0,
        streams: 1,
    };
    // The last one is to a port that no policy allows.
    let streams = (0..=STREAMS).map(|stream| Generator::new(&Load { stream, ..load }));
    let generators: Vec<Generator> = streams.collect::<Result<_, _>>()?;
    let began = Instant::now();
    let mut samples = Vec::with_capacity(args.seconds as usize);
    let mut sent = 0;
    for second in 0..args.seconds {
        let stream = (second / TURN % u32::from(STREAMS)) as usize;
        let flood = second % FLOODS == FLOODS - 1;
        let allowed = if flood { SECOND - FLOOD } else { SECOND };
        sent += path.client.run(|| {
            pin::generator();
            let denied = match flood {
                true => generators[usize::from(STREAMS)].send_for(FLOOD)?.packets,
                false => 0,
            };
            Ok::<u64, std::io::Error>(denied + generators[stream].send_for(allowed)?.packets)
        })??;
        samples.push(resident()?);
    }
    Ok((sent, Memory::of(&samples), began.elapsed().as_secs_f64()))
}

/// Connections go on ending after the sinks: reads what they leave behind until nothing moves, and
/// answers the numbers that go with that.
fn settle(firewall: &Firewall, seen: &mut Seen) -> Totals {
    loop {
        let before = firewall.totals();
        std::thread::sleep(Duration::from_millis(5));
        let mut read = 0;
        firewall.events(|event| {
            read += 1;
            seen.note(&event);
        });
        let after = firewall.totals();
        let still = (before.opened, before.ended) == (after.opened, after.ended);
        if read == 0 && after.events_waiting == 0 && still {
            return after;
        }
    }
}

impl Memory {
    /// Constant: after the first tenth, in which tables and rings are touched for the first time, it
    /// grows by less than a fiftieth and 4 MiB.
    fn of(samples: &[u64]) -> Self {
        let settled = &samples[samples.len() / 10..];
        let early = settled.first().copied().unwrap_or_default();
        let most = settled.iter().copied().max().unwrap_or_default();
        let late = settled.last().copied().unwrap_or_default();
        Self { early, most, late, constant: late <= early + early / 50 + (4 << 20) }
    }
}

impl Packets {
    fn of(totals: &Totals, firewall: &Firewall) -> Result<Self, Refused> {
        use portcullis::dataplane::port::xdp::ProgramVerdict;
        let statistics = firewall.socket_statistics()?;
        let missed = statistics.iter().map(|(_, _, of)| of.rx_ring_full + of.rx_dropped).sum();
        let programs = firewall.program_counters()?;
        let to_sockets =
            programs.iter().map(|(_, of)| of.total(ProgramVerdict::ToSocket).packets).sum();
        let by_reason: Vec<(&str, u64)> =
            totals.drops.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        let dropped: u64 = by_reason.iter().map(|(_, count)| count).sum();
        let within = totals.received == totals.forwarded + dropped && dropped == totals.dropped;
        Ok(Self {
            received: totals.received,
            forwarded: totals.forwarded,
            dropped,
            by_reason,
            before_the_worker: missed,
            to_sockets,
            exact: within && to_sockets == totals.received + missed,
        })
    }
}

impl Connections {
    fn of(totals: &Totals, seen: &Seen) -> Self {
        let [lost_opened, lost_dropped, lost_ended, ..] = totals.events_lost_by_kind;
        let by_policy = totals.drops.iter().find(|(reason, _)| *reason == Reason::PolicyDenied);
        let denied = by_policy.map_or(0, |(_, packets)| *packets);
        let exact = totals.opened == seen.opened + lost_opened
            && totals.ended == seen.ended + lost_ended
            && totals.opened - totals.ended == totals.connections as u64
            && denied == seen.dropped + lost_dropped;
        let (opened, ended, now) = (totals.opened, totals.ended, totals.connections);
        Self { opened, ended, now, lost_opened, lost_ended, lost_dropped, denied, exact }
    }
}

/// Resident bytes of this process.
fn resident() -> Result<u64, Refused> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.ok_or("error: /proc/self/status has no VmRSS")? * 1024)
}
