//! The `portcullis` command. One file a subcommand; what they share in looks is in `output`.

mod bench;
mod capture;
mod check;
mod control;
mod demo;
mod diff;
mod doctor;
mod documents;
mod eval;
mod evidence;
mod explain;
mod flows;
mod follow;
mod lab;
mod output;
mod reach;
mod recommend;
mod replay;
mod run;
mod status;
mod top;
mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A data plane for container firewalls: try it, check policies, see why a packet was denied.
#[derive(Parser)]
#[command(name = "portcullis", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Two policies, four hosts, real connections: watch it work (needs root)
    Demo(demo::Args),
    /// Say what this host can do (kernel, driver, modes, capabilities) and what to change
    Doctor(doctor::Args),
    /// Decide flows from a file: verdict and deciding policy for each
    Eval(eval::Args),
    /// Judge a capture file, on the capture's own clock
    Replay(replay::Args),
    /// Run a firewall on a wire between two interfaces, until SIGTERM
    Run(Box<run::Args>),
    /// Say how a running firewall is: what is in force, what it dropped and why
    Status(status::Args),
    /// Watch a running firewall: rates, who talks to whom, what is denied and by which policy
    Top(top::Args),
    /// Copy packets of a running firewall into a pcapng file, with what was decided about each
    Capture(capture::Args),
    /// Read flow records: as text, chosen, or as Hubble's JSON
    Flows(flows::Args),
    /// Say why a flow is allowed or denied, and where that is written
    Explain(explain::Args),
    /// Find probable mistakes in policies, and prove that they compile to what they say
    Check(check::Args),
    /// Show exactly which flows a change of policies or cluster changes
    Diff(diff::Args),
    /// Show who can reach a pod, or what a pod can reach
    Reach(reach::Args),
    /// Write least-privilege policies for the flows that were seen
    Recommend(recommend::Args),
    /// Time the parts of portcullis on this machine
    Bench(bench::Args),
    /// Print versions of the command and of its formats
    Version(version::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => demo::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Run(args) => run::run(*args),
        Command::Status(args) => status::run(args),
        Command::Top(args) => top::run(args),
        Command::Capture(args) => capture::run(args),
        Command::Flows(args) => flows::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Check(args) => check::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Reach(args) => reach::run(args),
        Command::Recommend(args) => recommend::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Version(args) => version::run(args),
    };
    output::exit_code(result)
}
