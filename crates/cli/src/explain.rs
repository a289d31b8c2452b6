//! `portcullis explain`: why a flow is allowed or denied.

use std::path::PathBuf;

use portcullis::policy::Verdict;
use portcullis::policy::ask::parse_flow;
use portcullis::policy::explain::{Explanation, explain};
use portcullis::report;

use crate::documents;
use crate::evidence;
use crate::output::{self, Outcome, Refused};

/// Flags of `portcullis explain`.
#[derive(clap::Args)]
#[command(
    after_help = "A flow is 'PROTOCOL SOURCE > DESTINATION': addresses or namespace/pod, ports after a colon.
  tcp 10.0.0.1:40000 > 10.0.0.2:80
  tcp shop/web > shop/db:5432
  udp [fd00::1] > [fd00::2]:53
  icmp shop/web > 8.8.8.8 type 8 code 0

Example:
  portcullis explain --cluster cluster.yaml --policies policies/ --flow 'tcp shop/web > shop/db:5432'
  portcullis explain --cluster cluster.yaml --policies policies/ --record flows.jsonl:17
  portcullis explain --cluster cluster.yaml --policies policies/ --pcap tuesday.pcap --packet 4711

Exit code: 0 for an answer, whichever; 2 if a document or the flow is refused."
)]
pub(crate) struct Args {
    /// Namespaces, pods, nodes (YAML or JSON; a file, a folder, or - for stdin)
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// Policies (YAML or JSON; a file, a folder, or - for stdin); may be given several times
    #[arg(long, value_name = "FILE_OR_FOLDER", required = true)]
    policies: Vec<PathBuf>,
    /// The flow; may be given several times
    #[arg(long, value_name = "FLOW", required_unless_present_any = ["record", "pcap"])]
    flow: Vec<String>,
    /// The flow of a flow log's record: the JSON line itself, or FILE:LINE
    #[arg(long, value_name = "RECORD")]
    record: Vec<String>,
    /// The flow of a packet of this capture (pcap or pcapng), as its connection was opened
    #[arg(long, value_name = "FILE", requires = "packet")]
    pcap: Option<PathBuf>,
    /// Number of the packet, from 1; may be given several times
    #[arg(long, value_name = "N", requires = "pcap", value_parser = clap::value_parser!(u64).range(1..))]
    packet: Vec<u64>,
    /// One JSON object a flow instead of text
    #[arg(long)]
    json: bool,
}

/// Reads, explains, prints.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    documents::one_stdin(args.policies.iter().chain([&args.cluster]))?;
    let cluster = documents::cluster(&args.cluster)?;
    let policies = documents::policies(&args.policies)?;
    let asked = args
        .flow
        .iter()
        .map(|text| parse_flow(text, &cluster).map_err(|e| Refused::from(format!("error: {e}"))));
    let recorded = args.record.iter().map(|record| evidence::of_record(record));
    let captured = args
        .pcap
        .iter()
        .flat_map(|path| args.packet.iter().map(move |number| evidence::of_packet(path, *number)));
    let flows = asked.chain(recorded).chain(captured).collect::<Result<Vec<_>, _>>()?;
    for (index, flow) in flows.iter().enumerate() {
        let explanation = explain(&cluster, &policies, flow);
        if args.json {
            output::json(&report::explanation(&explanation))?;
        } else {
            let gap = if index > 0 { "\n" } else { "" };
            output::text(&(gap.to_owned() + &as_text(&explanation)))?;
        }
    }
    Ok(Outcome::Done)
}

/// The text, its first word coloured by the verdict.
fn as_text(explanation: &Explanation) -> String {
    let text = explanation.to_string();
    let (word, rest) = text.split_once(':').unwrap_or((&text, ""));
    let word = match explanation.verdict {
        Verdict::Allow => output::green(word),
        Verdict::Deny => output::red(word),
    };
    format!("{word}:{rest}")
}
