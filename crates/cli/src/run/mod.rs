//! `portcullis run`: a firewall on a wire, until SIGTERM.

mod config;
mod connections;
mod early_drop;
mod flows;
mod line;
mod metrics;
mod observed;
mod pipeline;
mod select;
mod sinks;
mod socket;
mod state;
mod system;
mod talkers;
mod wake;
mod wires;
mod zone;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::flow::{Format, Keep};
use portcullis::policy::{self, model::PolicySet};
use portcullis::{Applied, Firewall};

use crate::output::{Outcome, Refused};
use config::Settings;
use early_drop::EarlyDrop;
use flows::{FlowThread, Opened};
use line::StatusLine;
use observed::Observed;
pub(crate) use sinks::{Seen, Sinks};
use socket::Server;
use wake::{Wake, Wakes};
use wires::Keeper;
pub(crate) use wires::raise_descriptors;
use zone::ZoneEntry;

/// Flags of `portcullis run`.
#[derive(Clone, clap::Args)]
#[command(after_help = "Examples:
  portcullis run --wire eth1:eth2 --cluster cluster.yaml --policies policies/
  portcullis run --wire veth1:veth1p --wire veth2:veth2p --cluster cluster.yaml --policies policies/
  portcullis run --config portcullis.yaml

It prints `ready` with the mode of every port once packets flow. It reads the files again when they
change and on SIGHUP; a set that is refused is reported and the last good one stays in force. Wires that
the file of settings gains or loses are added and removed while the others carry packets; one whose
interface vanishes is added again when the interface is back. SIGTERM or Ctrl-C ends it. If it is killed, the XDP programs go with it: nothing joins the two interfaces then,
and what arrives at them goes to the host's own network stack.

Exit code: 0 after SIGTERM, 2 if it cannot run (the reason is on stderr).")]
pub(crate) struct Args {
    /// Interfaces to join, such as eth1:eth2; given several times, each has small rings (1 MiB)
    #[arg(long, value_name = "A:B", required_unless_present_any = ["config", "hairpin", "switch"])]
    wire: Vec<String>,
    /// An interface that packets leave where they came in; may be given several times
    #[arg(long, value_name = "INTERFACE")]
    hairpin: Vec<String>,
    /// Interfaces between which packets find their way by link-layer address; may be given several times
    #[arg(long, value_name = "A,B,C")]
    switch: Vec<String>,
    /// Namespaces, pods, nodes (YAML or JSON; a file or a folder)
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    cluster: Option<PathBuf>,
    /// Policies (YAML or JSON; a file or a folder); may be given several times
    #[arg(long, value_name = "FILE_OR_FOLDER", required_unless_present = "config")]
    policies: Vec<PathBuf>,
    /// Packets that no live process takes: closed (dropped) or open (to the host's stack)
    #[arg(long, value_name = "MODE")]
    fail: Option<String>,
    /// AF_XDP mode: require- or prefer- and zerocopy, copy or generic [default: prefer-zerocopy]
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// Worker threads; each serves its share of the queues [default: 1]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Append flow records as JSON lines; - for standard output (messages then go to stderr)
    #[arg(long, value_name = "FILE")]
    flow_log: Option<PathBuf>,
    /// How records are written: json, or hubble (as `hubble observe -o json` prints flows)
    #[arg(long, value_name = "FORMAT")]
    flow_format: Option<Format>,
    /// What is recorded: none, denied, all, or 1/N for one connection in N [default: all]
    #[arg(long, value_name = "WHAT")]
    flow_records: Option<Keep>,
    /// Policies to judge by too, without effect: records and status say where they would decide
    /// otherwise; may be given several times
    #[arg(long, value_name = "FILE_OR_FOLDER")]
    stage: Vec<PathBuf>,
    /// Where `portcullis status`, `top` and `capture` find it [default: /run/portcullis/NAME.sock]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Serve Prometheus metrics at http://ADDR/metrics, or at a unix socket if ADDR has a slash
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
    /// Drop packets from the prefixes in this file (one a line) in the kernel; read again when it changes
    #[arg(long, value_name = "FILE")]
    early_drop: Option<PathBuf>,
    /// Keep connections over a restart in this file: read at the start, written every 10 s and at the end
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Print a line of what passes every so many seconds; 0: never [default: 10 on a terminal, else 0]
    #[arg(long, value_name = "SECONDS")]
    status_line: Option<u32>,
    #[command(flatten)]
    machine: system::Flags,
    /// Read the settings from this YAML file; flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How long the control loop sleeps at most.
const TICK: Duration = Duration::from_millis(100);

/// Runs until told to stop.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    raise_descriptors();
    let settings = Settings::merge(args.clone())?;
    settings.state.check()?;
    let files = Files {
        cluster: settings.cluster.clone(),
        policies: settings.policies.clone(),
        zones: settings.zones.clone(),
        stage: settings.stage.clone(),
    };
    let began = Instant::now();
    let (cluster, policies) = files.read()?;
    let mut early_drop = settings.early_drop.as_deref().map(EarlyDrop::read).transpose()?;
    let watched =
        files.paths().into_iter().chain(settings.early_drop.clone()).chain(args.config.clone());
    let watched: Vec<PathBuf> = watched.collect();
    let wakes = Wakes::listen(&watched)?;
    let staged = files.read_staged()?;
    let opened = Opened::open(settings.flow_log.as_deref(), &settings.flows)?;
    let config = settings.firewall()?;
    let engine = config.make_engine()?;
    engine.apply(cluster, policies)?;
    for zone in &settings.zones {
        report_zone(zone, &zone.apply(&engine)?);
    }
    if let Some(staged) = staged {
        engine.stage(staged)?;
    }
    // All that judges is in force: connections can be.
    let restored = settings.state.restore(&engine, settings.fail);
    let firewall = Arc::new(Firewall::attach(engine, config)?);
    select_rules(&settings, &firewall)?;
    if let Some(early_drop) = &early_drop {
        early_drop.start(&firewall)?;
    }
    let machine = settings.machine.obtained(&firewall);
    let observed = Observed::new(Arc::clone(&firewall), settings.name(), settings.fail, &machine);
    observed.applied(Ok(&firewall.applied()), began.elapsed());
    let observed = Arc::new(observed);
    let flow_thread = FlowThread::start(&firewall, &observed, &settings.flows, opened)?;
    let server = Server::start(&settings.addresses, Arc::clone(&observed))?;
    let saver = settings.state.keep(firewall.engine(), restored)?;
    if let Some(saver) = &saver {
        observed.watch_state(saver.watch());
    }

    let ports: Vec<String> = firewall.ports().iter().map(wires::describe).collect();
    if let Some(why) = firewall.lesser_mode() {
        eprintln!("note: {} was not to be had: {why}", settings.mode);
    }
    println!("ready: {}; fail {}", ports.join(", "), settings.fail);
    println!("machine: {machine}");
    report(&firewall.applied());
    if let Ok(Some(policies)) = firewall.staged() {
        println!("staged: {policies} policies are judged beside, without effect");
    }
    if let Some(path) = server.path() {
        println!("control socket: {}", path.display());
    }

    let keeper = Keeper::start(Arc::clone(&firewall), settings.wires.clone())?;

    let mut line = StatusLine::new(settings.status_line, &firewall);
    loop {
        line.tick(&firewall);
        match wakes.next(TICK) {
            Wake::Stop => break,
            Wake::Reload => {
                rewire(&args, &settings, &keeper);
                reload(&files, &firewall, &observed);
                if let Some(early_drop) = &mut early_drop {
                    early_drop.reload(&firewall);
                }
            }
            Wake::Tick => {}
        }
    }
    drop(keeper);
    // First the workers, so that the records are complete.
    firewall.stop();
    if let Some(saver) = saver {
        saver.finish();
    }
    let (recorded, written) = flow_thread.finish();
    let totals = firewall.totals();
    let staged = firewall.staged();
    drop(server);
    drop(observed);
    drop(firewall);
    println!(
        "stopped: {} packets in, {} forwarded, {} dropped",
        totals.received, totals.forwarded, totals.dropped
    );
    for (reason, count) in &totals.drops {
        println!("  {count:>10} {}", reason.as_str());
    }
    if let Ok(Some(_)) = staged {
        println!(
            "staged: {} new connections and denied packets judged; {} would be allowed, {} would be denied",
            totals.staged, totals.staged_allows, totals.staged_denies
        );
    }
    if let Some(written) = &written {
        println!("{}", flows::summary(&recorded, written));
    }
    Ok(Outcome::Done)
}

/// Reads the settings again; only wires can change while packets flow.
fn rewire(args: &Args, began_with: &Settings, keeper: &Keeper) {
    if args.config.is_none() {
        return;
    }
    match Settings::merge(args.clone()) {
        Ok(settings) => {
            if !settings.same_but_wires(began_with) {
                eprintln!(
                    "note: settings other than wires have changed: they count from the next start"
                );
            }
            keeper.want(settings.wires);
        }
        Err(error) => {
            eprintln!("{}", error.message());
            eprintln!("note: the wires stay as they are");
        }
    }
}

/// Reads the files again; whatever is wrong with them, the set in force stays.
fn reload(files: &Files, firewall: &Firewall, observed: &Observed) {
    let began = Instant::now();
    let applied =
        files.read().and_then(|(cluster, policies)| Ok(firewall.apply(cluster, policies)?));
    observed.applied(applied.as_ref(), began.elapsed());
    match applied {
        Ok(applied) => report(&applied),
        Err(error) => {
            eprintln!("{}", error.message());
            eprintln!("note: generation {} stays in force", firewall.applied().generation);
        }
    }
    for zone in &files.zones {
        match zone.apply(firewall) {
            Ok(applied) => report_zone(zone, &applied),
            Err(error) => {
                eprintln!("{}", error.message());
                eprintln!("note: what zone {} has stays in force", zone.number);
            }
        }
    }
    restage(files, firewall, observed);
}

/// Rates and mirror; says which names mean no rule.
fn select_rules(settings: &Settings, firewall: &Firewall) -> Result<(), Refused> {
    firewall.limit_rates(settings.packets.rates.rates()?);
    firewall.mirror(settings.packets.mirror.as_ref().map(select::MirrorEntry::mirrored));
    for name in firewall.unknown_rules() {
        eprintln!("note: no rule loaded is {}", select::words(&name));
    }
    Ok(())
}

fn report_zone(zone: &ZoneEntry, applied: &Applied) {
    println!(
        "zone {}: applied generation {}: {} policies, {} endpoints",
        zone.number, applied.generation, applied.policies, applied.endpoints
    );
}

/// Reads the staged policies again; whatever is wrong with them, those staged before stay.
fn restage(files: &Files, firewall: &Firewall, observed: &Observed) {
    let staged = files.read_staged().and_then(|staged| match staged {
        Some(staged) => {
            firewall.stage(staged)?;
            Ok(true)
        }
        None => Ok(false),
    });
    match staged {
        Ok(true) => observed.staged_anew(),
        Ok(false) => {}
        Err(error) => {
            eprintln!("{}", error.message());
            eprintln!("note: the policies staged before stay staged");
        }
    }
}

fn report(applied: &Applied) {
    println!(
        "applied generation {}: {} policies, {} endpoints, {} identities",
        applied.generation, applied.policies, applied.endpoints, applied.identities
    );
}

/// The documents, as named by the user.
struct Files {
    cluster: PathBuf,
    policies: Vec<PathBuf>,
    zones: Vec<ZoneEntry>,
    stage: Vec<PathBuf>,
}

impl Files {
    fn paths(&self) -> Vec<PathBuf> {
        let of_zones = self.zones.iter().flat_map(ZoneEntry::paths);
        self.policies
            .iter()
            .chain(&self.stage)
            .chain([&self.cluster])
            .chain(of_zones)
            .cloned()
            .collect()
    }

    /// Policies to judge beside; `None` if there are to be none.
    fn read_staged(&self) -> Result<Option<PolicySet>, Refused> {
        if self.stage.is_empty() {
            return Ok(None);
        }
        let policies = policy::load_policies(&self.stage)?;
        for warning in &policies.warnings {
            eprintln!("{warning}");
        }
        Ok(Some(policies.value))
    }

    fn read(
        &self,
    ) -> Result<(portcullis::identity_table::endpoint::ClusterState, PolicySet), Refused> {
        let cluster = policy::load_cluster(&self.cluster)?;
        let policies = policy::load_policies(&self.policies)?;
        for warning in cluster.warnings.iter().chain(&policies.warnings) {
            eprintln!("{warning}");
        }
        Ok((cluster.value, policies.value))
    }
}
