//! `portcullis replay`: a capture through the production pipeline, on the capture's own clock.

mod annotate;
mod compare;
mod onto;
mod report;
pub(crate) mod source;

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use portcullis::dataplane::clock::{Time, Virtual};
use portcullis::dataplane::packet::{self, Tuple};
use portcullis::dataplane::pipeline::{Input, Judgement};
use portcullis::dataplane::verdict::Verdict;
use portcullis::identity_table::endpoint::ClusterState;
use portcullis::policy::model::PolicySet;
use portcullis::{Engine, EngineConfig, Judge};

use crate::documents;
use crate::output::{self, Outcome, Refused};
use annotate::Annotated;
use compare::Comparison;
use onto::{Onto, Speed};
use report::{Line, Summary};
use source::{Capture, Captured};

/// Flags of `portcullis replay`.
#[derive(clap::Args)]
#[command(after_help = "Time is the capture's: the same capture and documents give the same bytes,
on any machine. A JSON line a packet:
  {\"n\":1,\"time\":\"0.000000000\",\"verdict\":\"deny\",\"reason\":\"policy_denied\",
   \"policy\":\"NetworkPolicy/default/web\",\"source\":\"default/client\",\"destination\":\"default/web\",
   \"protocol\":6,\"source_port\":40000,\"destination_port\":80,\"state\":\"new\"}

Examples:
  portcullis replay --cluster c.yaml --policies p.yaml --pcap tuesday.pcap
  portcullis replay --cluster c.yaml --policies p.yaml --pcap t.pcapng --json | jq -r .policy | sort | uniq -c
  portcullis replay --cluster c.yaml --policies p.yaml --pcap t.pcap --out judged.pcapng
  portcullis replay --cluster c.yaml --policies p.yaml --compare next.yaml --pcap tuesday.pcap
  portcullis replay --cluster c.yaml --policies p.yaml --pcap t.pcap --onto eth1 --speed 10

Exit code: 0, or 2 if a document or the capture is refused (the reason is on stderr). With --compare
also 1: some packets are decided otherwise.")]
pub(crate) struct Args {
    /// Namespaces, pods, nodes (YAML or JSON; a file or a folder)
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// Policies (YAML or JSON; a file or a folder); may be given several times
    #[arg(long, value_name = "FILE_OR_FOLDER", required = true)]
    policies: Vec<PathBuf>,
    /// The capture: pcap or pcapng, Ethernet
    #[arg(long, value_name = "FILE")]
    pcap: PathBuf,
    /// Also write the packets as pcapng, with verdict, reason and policy in each packet's comment
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Other policies to judge the same packets by (a file or a folder; may be given several times):
    /// prints which flows they decide otherwise, and by which rules, instead of the summary
    #[arg(long, value_name = "FILE_OR_FOLDER", conflicts_with = "out")]
    compare: Vec<PathBuf>,
    /// Also send the packets that may pass out of this interface, when they are due (needs
    /// CAP_NET_RAW)
    #[arg(long, value_name = "INTERFACE", conflicts_with = "compare")]
    onto: Option<String>,
    /// How many times as fast as they were captured, or max; verdicts stay those of the capture's time
    #[arg(long, value_name = "TIMES", default_value = "1", requires = "onto")]
    speed: Speed,
    /// Print a JSON line a packet rather than a summary; with --compare, one object
    #[arg(long)]
    json: bool,
}

/// Judges every packet of the capture.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    let cluster = documents::cluster(&args.cluster)?;
    let names = Names::of(&cluster);
    let policies = documents::policies(&args.policies)?;
    let next = match &args.compare[..] {
        [] => None,
        paths => Some(documents::policies(paths)?),
    };
    let mut capture = Capture::open(&args.pcap)?;
    match next {
        None => {
            let side = Side::new(cluster, policies)?;
            summarise(&args, &mut capture, side, &names)
        }
        Some(next) => {
            let sides = [Side::new(cluster.clone(), policies)?, Side::new(cluster, next)?];
            compare(&args, &mut capture, sides, &names)
        }
    }
}

fn summarise(
    args: &Args,
    capture: &mut Capture,
    mut side: Side,
    names: &Names,
) -> Result<Outcome, Refused> {
    let mut annotated = args.out.as_deref().map(Annotated::create).transpose()?;
    let mut onto = match &args.onto {
        Some(interface) => Some(Onto::open(interface, args.speed)?),
        None => None,
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut summary = Summary::default();
    let broken = for_each(capture, |n, since, packet| {
        let judgement = side.judge(since, packet);
        let policy = side.engine.rule(judgement.rule).map(|rule| rule.policy.name.to_string());
        let line = Line::new(n, since, &judgement, policy.as_deref(), tuple(packet), names);
        summary.count(&line, packet.wire_len);
        if let Some(annotated) = &mut annotated {
            annotated.write(packet, &line)?;
        }
        if args.json {
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")?;
        }
        match &mut onto {
            Some(onto) if judgement.verdict == Verdict::Allow => onto.send(since, packet),
            _ => Ok(()),
        }
    })?;
    if let Some(onto) = &onto {
        eprintln!("{}", onto.report());
    }
    if !args.json {
        summary.print(&mut out)?;
    }
    out.flush()?;
    if let Some(annotated) = annotated {
        annotated.finish()?;
    }
    broken.map_or(Ok(Outcome::Done), Err)
}

fn compare(
    args: &Args,
    capture: &mut Capture,
    [mut old, mut new]: [Side; 2],
    names: &Names,
) -> Result<Outcome, Refused> {
    let mut comparison = Comparison::default();
    let broken = for_each(capture, |n, since, packet| {
        let judged = [old.judge(since, packet), new.judge(since, packet)];
        let both = [(&old.engine, &judged[0]), (&new.engine, &judged[1])];
        comparison.packet(n, packet.wire_len, tuple(packet), names, both);
        Ok(())
    })?;
    if args.json {
        output::json(&comparison.as_json())?;
    } else {
        output::text(&comparison.to_string())?;
    }
    match broken {
        Some(error) => Err(error),
        None if comparison.differs() => Ok(Outcome::Findings),
        None => Ok(Outcome::Done),
    }
}

/// Calls `each` with the number, the nanoseconds since the first packet, and the packet; answers with
/// what is wrong with the capture where it breaks.
fn for_each(
    capture: &mut Capture,
    mut each: impl FnMut(u64, u64, &Captured) -> Result<(), Refused>,
) -> Result<Option<Refused>, Refused> {
    let mut began = None;
    for n in 1.. {
        match capture.next() {
            Ok(Some(packet)) => {
                let since = packet.time.saturating_sub(*began.get_or_insert(packet.time));
                each(n, since, &packet)?;
            }
            Ok(None) => break,
            Err(error) => return Ok(Some(error)),
        }
    }
    Ok(None)
}

/// The 5-tuple of a packet, if it is a sound IP packet.
fn tuple(packet: &Captured) -> Option<Tuple> {
    packet::parse(&packet.data, packet.wire_len).ok().as_ref().and_then(report::tuple)
}

/// An engine on the capture's clock.
struct Side {
    clock: Arc<Virtual>,
    engine: Engine,
    judge: Judge,
}

impl Side {
    fn new(cluster: ClusterState, policies: PolicySet) -> Result<Self, Refused> {
        let clock = Arc::new(Virtual::default());
        let mut config = EngineConfig::default();
        config.clock = clock.clone();
        let engine = Engine::new(config)?;
        engine.apply(cluster, policies)?;
        let judge = engine.judge();
        Ok(Self { clock, engine, judge })
    }

    fn judge(&mut self, since: u64, packet: &Captured) -> Judgement {
        // The clock never goes back, even where a capture's stamps do.
        self.clock.set(Time::from_nanos(since));
        let mut judgements = [Judgement::default()];
        let input = Input { data: &packet.data, wire_len: packet.wire_len };
        self.judge.packets(&[input], &mut judgements);
        let [judgement] = judgements;
        judgement
    }
}

/// Names of endpoints by address.
pub(super) struct Names(HashMap<IpAddr, String>);

impl Names {
    fn of(cluster: &ClusterState) -> Self {
        let pods = cluster.endpoints.iter().filter(|endpoint| !endpoint.host_network);
        let names = pods.flat_map(|endpoint| {
            let name = format!("{}/{}", endpoint.namespace, endpoint.name);
            endpoint.addresses.iter().map(move |address| (*address, name.clone()))
        });
        Self(names.collect())
    }

    /// The endpoint that owns an address, else the address.
    fn name(&self, address: IpAddr) -> String {
        self.0.get(&address).cloned().unwrap_or_else(|| address.to_string())
    }
}
