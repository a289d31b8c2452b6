//! `portcullis status`: how a running firewall is.

mod text;

use crate::control::status::Status;
use crate::control::{Request, Which};
use crate::output::{self, Outcome, Refused};

pub(crate) use text::{bytes, count};

/// Flags of `portcullis status`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  portcullis status
  portcullis status --json | jq .drops
  portcullis status --control /run/portcullis/eth1-eth2.sock

Exit code: 0 if the documents last given are in force, 1 if they were refused and older ones are, 2 if
no firewall answers.")]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    let mut client = args.which.connect()?;
    let status: Status = client.ask(&Request::Status {})?;
    if args.json {
        output::json(&status)?;
    } else {
        output::text(&text::whole(&status))?;
    }
    Ok(match status.policy.refused {
        Some(_) => Outcome::Findings,
        None => Outcome::Done,
    })
}
