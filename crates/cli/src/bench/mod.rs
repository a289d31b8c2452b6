//! `portcullis bench`: timings that print one JSON object each.

mod classify;
mod flows;
mod lpm;
mod oracle;
mod soak;
mod time;
mod update;
mod visible;
mod wire;
mod wires;

use std::io::Write;
use std::path::Path;

use clap::Subcommand;

use crate::output::{Outcome, Refused};

/// Flags of `portcullis bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Time lookups of a trace in a ClassBench rule set
    Classify(classify::Args),
    /// Time inserts and deletes of rules while another thread looks up
    Update(update::Args),
    /// Time the connection table
    Flows(flows::Args),
    /// Time longest-prefix-match lookups of addresses
    Lpm(lpm::Args),
    /// Run a wire at full load with everything that watches it, and account for every packet (needs root)
    Soak(soak::Args),
    /// Measure packets through a wire, and through what else could stand there (needs root)
    Wire(wire::Args),
    /// Measure many wires of one firewall against one of the same total load (needs root)
    Wires(wires::Args),
}

/// Runs the timing asked for.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    match args.what {
        What::Classify(args) => classify::run(args),
        What::Update(args) => update::run(args),
        What::Flows(args) => flows::run(args),
        What::Lpm(args) => lpm::run(args),
        What::Soak(args) => soak::run(args),
        What::Wire(args) => wire::run(args),
        What::Wires(args) => wires::run(args),
    }
}

/// Reads a file of text.
fn read(path: &Path) -> Result<String, Refused> {
    std::fs::read_to_string(path)
        .map_err(|error| Refused::from(format!("{}: error: {error}", path.display())))
}

/// Writes what was found, a number or -1 a line.
fn write_matches(path: &Path, found: impl Iterator<Item = Option<u32>>) -> Result<(), Refused> {
    let write = || -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for found in found {
            match found {
                Some(found) => writeln!(file, "{found}")?,
                None => writeln!(file, "-1")?,
            }
        }
        file.flush()
    };
    write().map_err(|error| Refused::from(format!("{}: error: {error}", path.display())))
}
