//! `portcullis diff`: which flows a change of policies or cluster changes.

use std::path::PathBuf;

use portcullis::policy::diff::diff;
use portcullis::report;

use crate::documents;
use crate::output::{self, Outcome, Refused};

/// Flags of `portcullis diff`.
#[derive(clap::Args)]
#[command(
    after_help = "The answer is exact: a flow changes if and only if it is in one of the groups.

Examples:
  portcullis diff --cluster cluster.yaml --old policies/ --new policies-next/
  git show HEAD~1:policies.yaml | portcullis diff --cluster cluster.yaml --old - --new policies.yaml
  portcullis diff --cluster before.yaml --new-cluster after.yaml --old policies/ --new policies/

Exit code: 0 if no flow changes, 1 if some do, 2 if a document is refused."
)]
pub(crate) struct Args {
    /// Namespaces, pods, nodes (YAML or JSON; a file, a folder, or - for stdin)
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// Another cluster for the new side
    #[arg(long, value_name = "FILE")]
    new_cluster: Option<PathBuf>,
    /// Policies of the old side (a file, a folder, or - for stdin); may be given several times
    #[arg(long, value_name = "FILE_OR_FOLDER", required = true)]
    old: Vec<PathBuf>,
    /// Policies of the new side; may be given several times
    #[arg(long, value_name = "FILE_OR_FOLDER", required = true)]
    new: Vec<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Reads, compares, prints.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    let inputs = args.old.iter().chain(&args.new).chain([&args.cluster]).chain(&args.new_cluster);
    documents::one_stdin(inputs)?;
    let cluster = documents::cluster(&args.cluster)?;
    let new_cluster = match &args.new_cluster {
        Some(path) => documents::cluster(path)?,
        None => cluster.clone(),
    };
    let old = documents::policies(&args.old)?;
    let new = documents::policies(&args.new)?;
    let found = diff((&cluster, &old), (&new_cluster, &new)).map_err(|e| format!("error: {e}"))?;
    if args.json {
        output::json(&report::diff(&found))?;
    } else {
        output::text(&found.to_string())?;
    }
    Ok(if found.changes.is_empty() { Outcome::Done } else { Outcome::Findings })
}
