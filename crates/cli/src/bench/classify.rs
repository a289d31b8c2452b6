//! `portcullis bench classify`: a ClassBench trace through a compiled rule set.

use std::path::PathBuf;

use portcullis::classifier::{
    Rule, RuleId, RuleSet, TcpFlagsMatch, TupleV4, classbench, linear, tree,
};
use serde::Serialize;

use super::time::{Timing, median_of_five};
use crate::output::{Outcome, Refused};

/// Flags of `portcullis bench classify`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rules, in ClassBench text
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,
    /// Packets, a ClassBench trace
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// Which engine looks them up
    #[arg(long, value_enum, default_value_t = Engine::Tree)]
    engine: Engine,
    /// How many headers are looked up at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    /// Write, for each packet, the 0-based number of the first matching rule, or -1
    #[arg(long, value_name = "FILE")]
    matches: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Engine {
    Linear,
    Tree,
}

/// An engine, built.
enum Built {
    Linear(linear::Linear, linear::Scratch),
    Tree(Box<tree::Tree>, tree::Scratch),
}

impl Built {
    fn new(engine: Engine, rules: &RuleSet) -> Result<Self, portcullis::classifier::Error> {
        Ok(match engine {
            Engine::Linear => {
                Self::Linear(linear::Builder::new().build(rules)?, linear::Scratch::default())
            }
            Engine::Tree => {
                Self::Tree(Box::new(tree::Builder::new().build(rules)?), tree::Scratch::default())
            }
        })
    }

    fn lookup_batch(&mut self, tuples: &[TupleV4], found: &mut [Option<RuleId>]) {
        match self {
            Self::Linear(engine, scratch) => engine.lookup_tuples(tuples, scratch, found),
            Self::Tree(engine, scratch) => engine.lookup_tuples(tuples, scratch, found),
        }
    }

    fn memory_usage(&self) -> usize {
        match self {
            Self::Linear(engine, _) => engine.memory_usage(),
            Self::Tree(engine, _) => engine.memory_usage(),
        }
    }
}

#[derive(Serialize)]
struct Report {
    rules: usize,
    packets: usize,
    engine: Engine,
    batch: u32,
    #[serde(flatten)]
    timing: Timing,
    build_seconds: f64,
    bytes: usize,
}

/// Builds, looks up, reports.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    let rules = rules(&args)?;
    let name = args.trace.display().to_string();
    let headers = classbench::parse_trace(&name, &super::read(&args.trace)?)?;
    let tuples: Vec<TupleV4> = headers.iter().filter_map(TupleV4::of).collect();
    if tuples.is_empty() {
        return Err(Refused::from(format!("{name}: a trace needs at least one packet")));
    }
    let started = super::time::now();
    let mut engine = Built::new(args.engine, &rules)?;
    let build_seconds = super::time::now() - started;
    let mut found: Vec<Option<RuleId>> = vec![None; tuples.len()];
    let timing = median_of_five(tuples.len(), || {
        let size = args.batch as usize;
        for (tuples, found) in tuples.chunks(size).zip(found.chunks_mut(size)) {
            engine.lookup_batch(tuples, found);
        }
    });
    if let Some(path) = &args.matches {
        super::write_matches(path, found.iter().map(|id| id.map(|id| id.as_u32())))?;
    }
    let report = Report {
        rules: rules.len(),
        packets: tuples.len(),
        engine: args.engine,
        batch: args.batch,
        timing,
        build_seconds,
        bytes: engine.memory_usage(),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(Outcome::Done)
}

/// The rules as 5-tuples: a trace carries neither TCP flags nor ICMP types, so conditions on them
/// are left out, as is usual for ClassBench.
fn rules(args: &Args) -> Result<RuleSet, Refused> {
    let name = args.rules.display().to_string();
    let rules = classbench::parse(&name, &super::read(&args.rules)?)?;
    let rules = rules
        .into_iter()
        .map(|rule| Rule { tcp_flags: TcpFlagsMatch::ANY, icmp: None, ..rule })
        .collect();
    Ok(RuleSet::new(rules)?)
}
