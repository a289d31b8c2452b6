//! `portcullis doctor`: what this host can do, and what to change.

mod host;
mod interface;

use serde::Serialize;

use crate::output::{self, Outcome, Refused};

/// Flags of `portcullis doctor`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  portcullis doctor
  portcullis doctor --interface eth1 --interface eth2
  portcullis doctor --json

Exit code: 0 if a firewall can run here, 1 if something has to change first.")]
pub(crate) struct Args {
    /// Look at these interfaces only (default: all but loopback)
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Works, but slower or with a limit.
    Note,
    /// A firewall cannot run before this is changed.
    Fail,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    level: Level,
    what: String,
    found: String,
    /// What to do about it; empty when all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

impl Finding {
    fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), found: found.into(), remedy: String::new() }
    }

    fn note(what: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Note, what: what.into(), found: found.into(), remedy: remedy.into() }
    }

    fn fail(what: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Fail, what: what.into(), found: found.into(), remedy: remedy.into() }
    }
}

/// Looks and reports.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    let names =
        if args.interfaces.is_empty() { interface::names()? } else { args.interfaces.clone() };
    let mut findings = host::findings();
    findings.extend(names.iter().flat_map(|name| interface::findings(name)));
    let able = findings.iter().all(|f| f.level != Level::Fail);
    if args.json {
        output::json(&serde_json::json!({ "able": able, "findings": findings }))?;
    } else {
        print(&findings, able);
    }
    Ok(if able { Outcome::Done } else { Outcome::Findings })
}

fn print(findings: &[Finding], able: bool) {
    let width = findings.iter().map(|f| f.what.len()).max().unwrap_or(0);
    for finding in findings {
        let mark = match finding.level {
            Level::Ok => output::green("ok  "),
            Level::Note => output::yellow("note"),
            Level::Fail => output::red("FAIL"),
        };
        println!("{mark}  {:width$}  {}", finding.what, finding.found);
        if !finding.remedy.is_empty() {
            println!("      {:width$}  -> {}", "", finding.remedy);
        }
    }
    println!();
    println!(
        "{}",
        if able { "A firewall can run here." } else { "A firewall cannot run here yet: see FAIL." }
    );
}
