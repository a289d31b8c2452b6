//! `portcullis reach`: who can reach a workload, what a workload can reach.

use std::path::PathBuf;

use portcullis::policy::ask::find_endpoint;
use portcullis::policy::reach::{Way, reach};
use portcullis::report;

use crate::documents;
use crate::output::{self, Outcome, Refused};

/// Flags of `portcullis reach`.
#[derive(clap::Args)]
#[command(after_help = "The answer is exact: what is in no line is denied.

Examples:
  portcullis reach --cluster cluster.yaml --policies policies/ --to shop/db
  portcullis reach --cluster cluster.yaml --policies policies/ --from shop/web --format dot | dot -Tsvg > web.svg

Exit code: 0, or 2 if a document is refused or there is no such pod.")]
#[command(group = clap::ArgGroup::new("way").required(true))]
pub(crate) struct Args {
    /// Namespaces, pods, nodes (YAML or JSON; a file, a folder, or - for stdin)
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// Policies (YAML or JSON; a file, a folder, or - for stdin); may be given several times
    #[arg(long, value_name = "FILE_OR_FOLDER", required = true)]
    policies: Vec<PathBuf>,
    /// Who can reach this pod
    #[arg(long, value_name = "NAMESPACE/POD", group = "way")]
    to: Option<String>,
    /// What this pod can reach
    #[arg(long, value_name = "NAMESPACE/POD", group = "way")]
    from: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The same as --format json
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A table
    Text,
    /// One JSON object
    Json,
    /// A graph for Graphviz
    Dot,
}

/// Reads, computes, prints.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    documents::one_stdin(args.policies.iter().chain([&args.cluster]))?;
    let cluster = documents::cluster(&args.cluster)?;
    let policies = documents::policies(&args.policies)?;
    let (name, way) = match (&args.to, &args.from) {
        (Some(name), _) => (name, Way::To),
        (None, Some(name)) => (name, Way::From),
        (None, None) => return Err("error: give --to or --from".into()),
    };
    let endpoint = find_endpoint(name, &cluster).map_err(|e| format!("error: {e}"))?;
    if endpoint.host_network {
        return Err(format!(
            "error: pod {name} shares its node's network: no policy applies to it, and it is \
             reached as its node is"
        )
        .into());
    }
    let found = reach(&cluster, &policies, endpoint, way).map_err(|e| format!("error: {e}"))?;
    match if args.json { Format::Json } else { args.format } {
        Format::Text => output::text(&found.to_string())?,
        Format::Dot => output::text(&found.dot())?,
        Format::Json => output::json(&report::reach(&found))?,
    }
    Ok(Outcome::Done)
}
