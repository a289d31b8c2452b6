//! `portcullis check`: probable mistakes in policies, and the proof that they compile to what they
//! say.

use std::path::PathBuf;

use portcullis::identity_table::ClusterState;
use portcullis::policy::lint::{Code, Finding, Level, lint};
use portcullis::policy::model::PolicySet;
use portcullis::policy::{self, Engine};
use serde_json::{Value, json};

use crate::documents;
use crate::output::{self, Outcome, Refused};

/// Flags of `portcullis check`.
#[derive(clap::Args)]
#[command(
    after_help = "With a cluster, every finding about it is exact: it holds for every address, protocol and port.

Examples:
  portcullis check --policies policies/
  portcullis check --policies policies/ --cluster cluster.yaml --format sarif > portcullis.sarif

Exit code: 0 if nothing of the level of --fail-on or above was found, 1 if something was, 2 if a
document is refused."
)]
pub(crate) struct Args {
    /// Policies (YAML or JSON; a file, a folder, or - for stdin); may be given several times
    #[arg(long, value_name = "FILE_OR_FOLDER", required = true)]
    policies: Vec<PathBuf>,
    /// Namespaces, pods, nodes: without them, only what shows in the policies alone is found
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// How to print findings
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The same as --format json
    #[arg(long)]
    json: bool,
    /// The least level that makes the exit code 1
    #[arg(long, value_enum, default_value_t = FailOn::Warning)]
    fail_on: FailOn,
    /// Leave out findings of this name, such as api-server-cut; may be given several times
    #[arg(long, value_name = "NAME", value_parser = code)]
    allow: Vec<Code>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A line a finding
    Text,
    /// One JSON object
    Json,
    /// SARIF 2.1.0, for code hosts
    Sarif,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    Note,
    Warning,
    Error,
}

impl FailOn {
    fn level(self) -> Level {
        match self {
            Self::Note => Level::Note,
            Self::Warning => Level::Warning,
            Self::Error => Level::Error,
        }
    }
}

fn code(name: &str) -> Result<Code, String> {
    Code::ALL.into_iter().find(|code| code.as_str() == name).ok_or_else(|| {
        let names: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        format!("there are {}", names.join(", "))
    })
}

/// Reads, checks, prints.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    documents::one_stdin(args.policies.iter().chain(&args.cluster))?;
    let loaded = policy::load_policies(&args.policies)?;
    let mut findings: Vec<Finding> = loaded.warnings.iter().map(Finding::from).collect();
    let cluster = match &args.cluster {
        None => None,
        Some(path) => {
            let cluster = policy::load_cluster(path)?;
            findings.extend(cluster.warnings.iter().map(Finding::from));
            Some(cluster.value)
        }
    };
    let policies = loaded.value;
    findings.extend(lint(&policies, cluster.as_ref()).map_err(|e| format!("error: {e}"))?);
    let proved_for = if cluster.is_some() { "cluster" } else { "stand-in" };
    let cluster = cluster.unwrap_or_else(|| policy::stand_in(&policies));
    let pods = cluster.endpoints.len();
    let proof = prove(cluster, policies)?;
    let proved = proof.as_ref().map(|proof| {
        json!({
            "over": proved_for, "pods": pods,
            "identities": proof.identities, "pairs": proof.pairs,
            "cases": proof.cases, "regions": proof.regions,
        })
    });
    if let Err(message) = &proof {
        let message = message.clone();
        findings.push(Finding { level: Level::Error, code: Code::Proof, origin: None, message });
    }
    findings.retain(|finding| !args.allow.contains(&finding.code));

    match if args.json { Format::Json } else { args.format } {
        Format::Text => {
            let stand_in = args.cluster.is_none().then_some(pods);
            print_text(&findings, proof.ok(), stand_in)?;
        }
        Format::Json => output::json(&json!({
            "findings": findings.iter().map(portcullis::report::finding).collect::<Vec<_>>(),
            "proof": proved.ok(),
        }))?,
        Format::Sarif => output::json(&sarif(&findings))?,
    }
    let fails = findings.iter().any(|finding| finding.level >= args.fail_on.level());
    Ok(if fails { Outcome::Findings } else { Outcome::Done })
}

/// Compiles the policies and proves the program; what cannot be compiled is refused.
fn prove(
    cluster: ClusterState,
    policies: PolicySet,
) -> Result<Result<policy::Proof, String>, Refused> {
    let mut engine = Engine::default();
    let _ = engine.apply(cluster, policies).map_err(|e| format!("error: {e}"))?;
    Ok(engine.prove().map_err(|mismatch| mismatch.to_string()))
}

/// Findings, their count, and what was proved; `stand_in` is how many pods were made up, if no cluster
/// was given.
fn print_text(
    findings: &[Finding],
    proof: Option<policy::Proof>,
    stand_in: Option<usize>,
) -> Result<(), Refused> {
    let mut text = String::new();
    for finding in findings {
        let word = finding.level.as_str();
        let coloured = match finding.level {
            Level::Note => word.to_owned(),
            Level::Warning => output::yellow(word),
            Level::Error => output::red(word),
        };
        text += &finding.to_string().replacen(word, &coloured, 1);
        text.push('\n');
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    text += &format!(
        "{} errors, {} warnings, {} notes\n",
        count(Level::Error),
        count(Level::Warning),
        count(Level::Note)
    );
    if let Some(proof) = proof {
        text += &format!(
            "{}: the compiled program says what the policies say, for every pair of {} identities \
             ({} cases, {} regions of headers)\n",
            output::green("proved"),
            proof.identities,
            proof.cases,
            proof.regions
        );
        if let Some(pods) = stand_in {
            text += &format!(
                "no --cluster was given: that is proved for a made-up cluster with somebody for each \
                 selector (pods: {pods}); give --cluster for findings and a proof about your own\n"
            );
        }
    }
    output::text(&text)
}

/// Findings as SARIF 2.1.0 (OASIS).
fn sarif(findings: &[Finding]) -> Value {
    let rules: Vec<Value> = Code::ALL
        .iter()
        .map(|code| json!({"id": code.as_str(), "shortDescription": {"text": code.describe()}}))
        .collect();
    let results: Vec<Value> = findings
        .iter()
        .map(|finding| {
            let locations: Vec<Value> = finding
                .origin
                .iter()
                .map(|origin| {
                    json!({"physicalLocation": {
                        "artifactLocation": {"uri": uri(&origin.file)},
                        "region": {
                            "startLine": origin.line.max(1),
                            "startColumn": origin.column.max(1),
                        },
                    }})
                })
                .collect();
            let index = Code::ALL.iter().position(|code| *code == finding.code);
            json!({
                "ruleId": finding.code.as_str(),
                "ruleIndex": index,
                "partialFingerprints": {"portcullis/v1": fingerprint(finding)},
                "level": finding.level.as_str(),
                "message": {"text": finding.message},
                "locations": locations,
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "portcullis",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "results": results,
        }],
    })
}

/// A file name as a relative or absolute URI reference (RFC 3986).
fn uri(file: &str) -> String {
    let mut uri = String::with_capacity(file.len());
    for byte in file.bytes() {
        match byte {
            b'\\' => uri.push('/'),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(byte.into());
            }
            _ => uri += &format!("%{byte:02X}"),
        }
    }
    uri
}

/// The same for a finding that has only moved within its file: what it says, without positions.
fn fingerprint(finding: &Finding) -> String {
    let file = finding.origin.as_ref().map_or("", |origin| &origin.file);
    let words = finding.message.split(' ').map(|word| word.split(':').next().unwrap_or(word));
    // FNV-1a: stable from one version to the next, unlike the hashes of the library.
    let bytes = [finding.code.as_str(), file].into_iter().chain(words).flat_map(str::bytes);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
