//! `portcullis bench classify`: a ClassBench trace through a compiled rule set.

use std::path::{Path, PathBuf};

use portcullis::classifier::tuple::Match;
use portcullis::classifier::{
    Error, Header, Rule, RuleId, RuleSet, TcpFlagsMatch, TupleV4, classbench, linear, meta, tree,
    tuple, workload,
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
    #[arg(long, value_name = "FILE", required_unless_present = "workload")]
    trace: Option<PathBuf>,
    /// Packets made from the rules instead of a trace
    #[arg(long, value_enum, conflicts_with = "trace")]
    workload: Option<Workload>,
    /// Which engine looks them up
    #[arg(long, value_enum, default_value_t = Engine::Tree)]
    engine: Engine,
    /// How many headers are looked up at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    /// Write, for each packet, the 0-based number of the first matching rule, or -1
    #[arg(long, value_name = "FILE")]
    matches: Option<PathBuf>,
    /// Compare every answer with linear search over all rules (on all processors; a minute for 100,000
    /// rules and as many packets)
    #[arg(long)]
    oracle: bool,
    /// Prove, by walking all regions, that the compiled form answers as the rules do
    #[arg(long)]
    verify: bool,
    /// What to do about TCP flags and ICMP types in the rules, which no trace carries
    #[arg(long, value_enum, default_value_t = Beyond::LeaveOut)]
    beyond_5_tuple: Beyond,
}

/// Conditions that a trace of 5-tuples cannot meet or miss.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Beyond {
    /// Look up the rules as 5-tuples, as is usual for ClassBench, and say how many that concerns
    LeaveOut,
    /// Take no rules that have them
    Refuse,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Engine {
    Linear,
    Tree,
    Tuple,
    Meta,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Workload {
    /// A rule at random, a header in it at random
    Uniform,
    /// Few flows make most of the packets
    Zipf,
    /// The slowest headers that someone who knows the rules finds
    Adversarial,
}

/// Packets of a made workload.
const MADE: usize = 100_000;

impl Workload {
    fn headers(self, rules: &RuleSet) -> Result<Vec<Header>, Error> {
        let seed = 42;
        Ok(match self {
            Self::Uniform => workload::uniform(rules, MADE, seed),
            Self::Zipf => workload::zipf(rules, MADE, seed),
            Self::Adversarial => {
                workload::adversarial(&tree::Builder::new().build(rules)?, MADE, seed)
            }
        })
    }
}

#[derive(Serialize)]
struct Report {
    rules: usize,
    packets: usize,
    engine: Engine,
    #[serde(skip_serializing_if = "Option::is_none")]
    choice: Option<String>,
    batch: u32,
    #[serde(flatten)]
    timing: Timing,
    build_seconds: f64,
    bytes: usize,
    /// Rules whose TCP flags or ICMP type were left out.
    conditions_left_out: usize,
    /// Whether each answer is that of linear search.
    #[serde(skip_serializing_if = "Option::is_none")]
    equals_linear: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify_seconds: Option<f64>,
    /// What the proof was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<&'static str>,
}

/// An engine, built, with its scratch and its answers.
enum Built {
    Linear(linear::Linear, linear::Scratch, Vec<Option<RuleId>>),
    Tree(Box<tree::Tree>, tree::Scratch, Vec<Option<RuleId>>),
    Tuple(Box<tuple::Tuple>, tuple::Scratch, Vec<Option<Match>>),
    Meta(meta::Meta, meta::Scratch, Vec<Option<Match>>),
}

impl Built {
    fn new(engine: Engine, rules: &RuleSet, packets: usize) -> Result<Self, Error> {
        let ids = vec![None; packets];
        Ok(match engine {
            Engine::Linear => {
                Self::Linear(linear::Builder::new().build(rules)?, linear::Scratch::default(), ids)
            }
            Engine::Tree => {
                let tree = tree::Builder::new().build(rules)?;
                Self::Tree(Box::new(tree), tree::Scratch::default(), ids)
            }
            Engine::Tuple => {
                let limit = tuple::Config::default().max_chain(usize::MAX);
                let tuple = tuple::Builder::new().configure(limit).build(rules)?;
                Self::Tuple(Box::new(tuple), tuple::Scratch::default(), vec![None; packets])
            }
            Engine::Meta => {
                let meta = meta::Builder::new().build(rules)?;
                Self::Meta(meta, meta::Scratch::default(), vec![None; packets])
            }
        })
    }

    /// Looks up all, `size` at a time.
    fn round(&mut self, tuples: &[TupleV4], size: usize) {
        match self {
            Self::Linear(engine, scratch, found) => {
                for (tuples, found) in tuples.chunks(size).zip(found.chunks_mut(size)) {
                    engine.lookup_tuples(tuples, scratch, found);
                }
            }
            Self::Tree(engine, scratch, found) => {
                for (tuples, found) in tuples.chunks(size).zip(found.chunks_mut(size)) {
                    engine.lookup_tuples(tuples, scratch, found);
                }
            }
            Self::Tuple(engine, scratch, found) => {
                for (tuples, found) in tuples.chunks(size).zip(found.chunks_mut(size)) {
                    engine.lookup_tuples(tuples, scratch, found);
                }
            }
            Self::Meta(engine, scratch, found) => {
                for (tuples, found) in tuples.chunks(size).zip(found.chunks_mut(size)) {
                    engine.lookup_tuples(tuples, scratch, found);
                }
            }
        }
    }

    /// The place of the rule that each packet matched. Handles of rules that were there from the
    /// start are places.
    fn places(&self) -> Vec<Option<u32>> {
        match self {
            Self::Linear(_, _, found) | Self::Tree(_, _, found) => {
                found.iter().map(|id| id.map(RuleId::as_u32)).collect()
            }
            Self::Tuple(_, _, found) | Self::Meta(_, _, found) => found
                .iter()
                .map(|found| found.and_then(|found| u32::try_from(found.rule.as_u64()).ok()))
                .collect(),
        }
    }

    fn memory_usage(&self) -> usize {
        match self {
            Self::Linear(engine, ..) => engine.memory_usage(),
            Self::Tree(engine, ..) => engine.memory_usage(),
            Self::Tuple(engine, ..) => engine.memory_usage(),
            Self::Meta(engine, ..) => engine.memory_usage(),
        }
    }

    /// Proves, and says what there was to prove.
    fn verify(&self) -> Result<&'static str, Refused> {
        let proof = match self {
            Self::Tree(engine, ..) => engine.verify().map(|()| meta::Proof::Regions)?,
            Self::Meta(engine, ..) => engine.verify()?,
            Self::Tuple(engine, ..) => match engine.verify() {
                Ok(()) => meta::Proof::Entries,
                Err(rule) => {
                    let rule =
                        rule.map_or("a rule".to_owned(), |rule| format!("rule {}", rule.as_u64()));
                    return Err(Refused::from(format!(
                        "the tables and the rules differ in {rule}"
                    )));
                }
            },
            Self::Linear(..) => meta::Proof::List,
        };
        Ok(match proof {
            meta::Proof::Regions => "all regions of the trees",
            meta::Proof::Entries => "all entries of the tables",
            _ => "nothing is compiled: the list itself is searched",
        })
    }
}

/// Builds, looks up, reports.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    let (rules, conditions_left_out) = five_tuples(&args.rules, args.beyond_5_tuple)?;
    let (name, headers) = match (&args.trace, args.workload) {
        (Some(trace), _) => {
            let name = trace.display().to_string();
            let headers = classbench::parse_trace(&name, &super::read(trace)?)?;
            (name, headers)
        }
        (None, Some(workload)) => (args.rules.display().to_string(), workload.headers(&rules)?),
        (None, None) => return Err(Refused::from("give --trace or --workload")),
    };
    let tuples: Option<Vec<TupleV4>> = headers.iter().map(TupleV4::of).collect();
    let tuples = tuples.ok_or_else(|| {
        Refused::from(format!("{name}: packets of IPv6, but this bench looks up IPv4 5-tuples"))
    })?;
    if tuples.is_empty() {
        return Err(Refused::from(format!(
            "{name}: nothing to look up: a trace needs at least one packet"
        )));
    }
    let started = super::time::now();
    let mut built = Built::new(args.engine, &rules, tuples.len())?;
    let build_seconds = super::time::now() - started;
    let timing = median_of_five(tuples.len(), || built.round(&tuples, args.batch as usize));
    if let Some(path) = &args.matches {
        super::write_matches(path, built.places().into_iter())?;
    }
    let mut equals_linear = None;
    if args.oracle {
        super::oracle::compare(&rules, &tuples, &built.places())?;
        equals_linear = Some(true);
    }
    let (mut verify_seconds, mut proof) = (None, None);
    if args.verify {
        let started = super::time::now();
        proof = Some(built.verify()?);
        verify_seconds = Some(super::time::now() - started);
    }
    let choice = match &built {
        Built::Meta(meta, ..) => Some(meta.choice().why),
        _ => None,
    };
    let report = Report {
        rules: rules.len(),
        packets: tuples.len(),
        engine: args.engine,
        choice,
        batch: args.batch,
        timing,
        build_seconds,
        bytes: built.memory_usage(),
        conditions_left_out,
        equals_linear,
        verify_seconds,
        proof,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(Outcome::Done)
}

/// The rules as 5-tuples, and how many had conditions beyond these: a trace carries neither TCP flags
/// nor ICMP types. Says so on standard error.
pub(super) fn five_tuples(path: &Path, beyond: Beyond) -> Result<(RuleSet, usize), Refused> {
    let name = path.display().to_string();
    let rules = classbench::parse(&name, &super::read(path)?)?;
    let more = |rule: &Rule| rule.tcp_flags != TcpFlagsMatch::ANY || rule.icmp.is_some();
    let left_out = rules.iter().filter(|rule| more(rule)).count();
    if let (Beyond::Refuse, Some(first)) = (beyond, rules.iter().position(more)) {
        return Err(Refused::from(format!(
            "{name}: rule {first} and {} more ask for TCP flags or ICMP types, which a trace does not \
             carry; without `--beyond-5-tuple refuse` they are looked up as 5-tuples",
            left_out - 1
        )));
    }
    if left_out > 0 {
        eprintln!(
            "{name}: {left_out} of {} rules ask for TCP flags or ICMP types, which a trace does not \
             carry: they are looked up as 5-tuples",
            rules.len()
        );
    }
    let rules = rules
        .into_iter()
        .map(|rule| Rule { tcp_flags: TcpFlagsMatch::ANY, icmp: None, ..rule })
        .collect();
    let rules = RuleSet::new(rules).map_err(|error| Refused::from(format!("{name}: {error}")))?;
    Ok((rules, left_out))
}
