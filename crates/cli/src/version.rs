//! `portcullis version`: what is installed.

use crate::output::{Outcome, Refused};

/// Flags of `portcullis version`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Prints the version.
pub(crate) fn run(_args: Args) -> Result<Outcome, Refused> {
    println!("portcullis {}", env!("CARGO_PKG_VERSION"));
    Ok(Outcome::Done)
}
