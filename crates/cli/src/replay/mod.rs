//! `portcullis replay`: a capture through the production pipeline, on the capture's own clock.

mod annotate;
mod report;
mod source;

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use portcullis::dataplane::clock::{Time, Virtual};
use portcullis::dataplane::packet;
use portcullis::dataplane::pipeline::{Input, Judgement};
use portcullis::identity_table::endpoint::ClusterState;
use portcullis::policy;
use portcullis::{Engine, EngineConfig};

use crate::output::{Outcome, Refused};
use annotate::Annotated;
use report::{Line, Summary};
use source::Capture;

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

Exit code: 0, or 2 if a document or the capture is refused (the reason is on stderr).")]
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
    /// Print a JSON line a packet rather than a summary
    #[arg(long)]
    json: bool,
}

/// Judges every packet of the capture.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    let cluster = policy::load_cluster(&args.cluster)?;
    let policies = policy::load_policies(&args.policies)?;
    for warning in cluster.warnings.iter().chain(&policies.warnings) {
        eprintln!("{warning}");
    }
    let names = Names::of(&cluster.value);
    let mut capture = Capture::open(&args.pcap)?;
    let mut annotated = args.out.as_deref().map(Annotated::create).transpose()?;

    let clock = Arc::new(Virtual::default());
    let mut config = EngineConfig::default();
    config.clock = clock.clone();
    let engine = Engine::new(config)?;
    engine.apply(cluster.value, policies.value)?;
    let mut judge = engine.judge();

    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut summary = Summary::default();
    let mut began = None;
    let mut broken = None;
    for n in 1.. {
        let packet = match capture.next() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            Err(error) => {
                broken = Some(error);
                break;
            }
        };
        let since = packet.time.saturating_sub(*began.get_or_insert(packet.time));
        // The clock never goes back, even where a capture's stamps do.
        clock.set(Time::from_nanos(since));
        let mut judgements = [Judgement::default()];
        let input = Input { data: &packet.data, wire_len: packet.wire_len };
        judge.packets(&[input], &mut judgements);
        let [judgement] = judgements;

        let policy = engine.rule(judgement.rule).map(|rule| rule.policy.name.to_string());
        let headers = packet::parse(&packet.data, packet.wire_len).ok();
        let tuple = headers.as_ref().and_then(report::tuple);
        let line = Line::new(n, since, &judgement, policy.as_deref(), tuple, &names);
        summary.count(&line, packet.wire_len);
        if let Some(annotated) = &mut annotated {
            annotated.write(&packet, &line)?;
        }
        if args.json {
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")?;
        }
    }
    if !args.json {
        summary.print(&mut out)?;
    }
    out.flush()?;
    if let Some(annotated) = annotated {
        annotated.finish()?;
    }
    match broken {
        Some(error) => Err(error),
        None => Ok(Outcome::Done),
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
