//! `portcullis eval`: verdicts for flows read from a file.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use portcullis::policy::flow::{Header, protocol};
use portcullis::policy::model::IpVersion;
use portcullis::policy::on_demand::with_evaluator;
use portcullis::policy::{self, Engine, Flow, Verdict};
use serde::{Deserialize, Serialize};

use crate::output::{Outcome, Refused};

/// Flags of `portcullis eval`.
#[derive(clap::Args)]
#[command(after_help = "A flow is the first packet of a new connection, one JSON object a line:
  {\"id\":1,\"src_ip\":\"10.0.0.1\",\"src_port\":40000,\"dst_ip\":\"10.0.0.2\",\"dst_port\":80,\"protocol\":\"TCP\"}
Protocols: TCP, UDP, SCTP, ICMP, ICMPv6; ICMP adds icmp_type and icmp_code. The answer, a line each:
  {\"id\":1,\"verdict\":\"allow\",\"policy\":\"NetworkPolicy/default/web\"}

Examples:
  portcullis eval --cluster cluster.yaml --policies policies/ --flows flows.jsonl
  kubectl get netpol -A -o yaml | portcullis eval --cluster c.yaml --policies - --flows f.jsonl

Exit code: 0, or 2 if a document or a flow is refused (the reason is on stderr).")]
pub(crate) struct Args {
    /// Namespaces, pods, nodes (YAML or JSON; a file, a folder, or - for stdin)
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// Policies (YAML or JSON; a file, a folder, or - for stdin); may be given several times
    #[arg(long, value_name = "FILE_OR_FOLDER", required = true)]
    policies: Vec<PathBuf>,
    /// Flows, one JSON object a line (- for stdin)
    #[arg(long, value_name = "FILE")]
    flows: PathBuf,
    /// Compile the policies first and ask the program, as packets do; large sets take longer
    #[arg(long)]
    compiled: bool,
}

/// A flow as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    id: serde_json::Value,
    src_ip: IpAddr,
    #[serde(default)]
    src_port: u16,
    dst_ip: IpAddr,
    #[serde(default)]
    dst_port: u16,
    protocol: Protocol,
    icmp_type: Option<u8>,
    icmp_code: Option<u8>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Protocol {
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "SCTP")]
    Sctp,
    #[serde(rename = "ICMP")]
    Icmp,
    #[serde(rename = "ICMPv6")]
    IcmpV6,
}

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a serde_json::Value,
    verdict: &'static str,
    policy: &'a str,
}

/// Reads, decides, prints.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    one_stdin(&args)?;
    let cluster = policy::load_cluster(&args.cluster)?;
    let policies = policy::load_policies(&args.policies)?;
    for warning in cluster.warnings.iter().chain(&policies.warnings) {
        eprintln!("{warning}");
    }
    let (cluster, policies) = (cluster.value, policies.value);
    if !args.compiled {
        return with_evaluator(&cluster, &policies, |evaluator| {
            answer(&args, |flow| {
                let (verdict, policy) = evaluator.decide(flow);
                (verdict, policy.map(ToString::to_string))
            })
        })
        .map_err(|e| format!("error: {e}"))?;
    }
    let mut engine = Engine::default();
    // Nobody reads the program but this thread: there is nothing to publish.
    let _ = engine.apply(cluster, policies).map_err(|e| format!("error: {e}"))?;
    answer(&args, |flow| {
        let evaluation = engine.evaluate(flow);
        (evaluation.verdict, evaluation.policy.map(ToString::to_string))
    })
}

/// Reads the flows and prints what is decided about each.
fn answer(
    args: &Args,
    mut decide: impl FnMut(&Flow) -> (Verdict, Option<String>),
) -> Result<Outcome, Refused> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut lines = BufReader::with_capacity(1 << 16, open(&args.flows)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = lines.read_until(b'\n', &mut line);
        if read.map_err(|e| format!("error: {}: {e}", args.flows.display()))? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let (id, flow) = question(&line).map_err(|(column, reason)| {
            format!("{}:{number}:{column}: error: {reason}", args.flows.display())
        })?;
        let (verdict, policy) = decide(&flow);
        let answer = Answer {
            id: &id,
            verdict: verdict.as_str(),
            policy: policy.as_deref().unwrap_or("default"),
        };
        serde_json::to_writer(&mut out, &answer)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(Outcome::Done)
}

/// Only one of the inputs can come from stdin.
fn one_stdin(args: &Args) -> Result<(), Refused> {
    let inputs = args.policies.iter().chain([&args.cluster, &args.flows]);
    if inputs.filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err("error: `-` (stdin) can stand for one input only".into());
    }
    Ok(())
}

fn open(path: &Path) -> Result<Box<dyn Read>, Refused> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin()));
    }
    let file = std::fs::File::open(path).map_err(|e| format!("error: {}: {e}", path.display()))?;
    Ok(Box::new(file))
}

/// One line's flow, or the column and what is wrong there.
fn question(line: &[u8]) -> Result<(serde_json::Value, Flow), (usize, String)> {
    let question: Question =
        serde_json::from_slice(line).map_err(|e| (e.column().max(1), reason(&e)))?;
    let ip_version = match (question.src_ip, question.dst_ip) {
        (IpAddr::V4(_), IpAddr::V4(_)) => IpVersion::V4,
        (IpAddr::V6(_), IpAddr::V6(_)) => IpVersion::V6,
        _ => return Err((1, "src_ip and dst_ip are of different address families".into())),
    };
    let (number, icmp) = match question.protocol {
        Protocol::Tcp => (protocol::TCP, None),
        Protocol::Udp => (protocol::UDP, None),
        Protocol::Sctp => (protocol::SCTP, None),
        Protocol::Icmp => (protocol::ICMP, Some(IpVersion::V4)),
        Protocol::IcmpV6 => (protocol::ICMPV6, Some(IpVersion::V6)),
    };
    let (source_port, destination_port) = match icmp {
        None if question.icmp_type.is_some() || question.icmp_code.is_some() => {
            return Err((1, "icmp_type and icmp_code are for ICMP and ICMPv6 only".into()));
        }
        None => (question.src_port, question.dst_port),
        Some(version) if version != ip_version => {
            return Err((1, "ICMP goes with IPv4, ICMPv6 with IPv6".into()));
        }
        Some(_) => match question.icmp_type {
            Some(kind) => (kind.into(), question.icmp_code.unwrap_or(0).into()),
            None => return Err((1, "no icmp_type: an ICMP flow needs one".into())),
        },
    };
    let header = Header { ip_version, protocol: number, source_port, destination_port };
    Ok((question.id, Flow { source: question.src_ip, destination: question.dst_ip, header }))
}

/// serde_json's words without its own position, which counts lines of its input.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_read() {
        let line = br#"{"id":"a","src_ip":"fd00::1","dst_ip":"fd00::2","protocol":"ICMPv6","icmp_type":128,"icmp_code":0,"src_port":0,"dst_port":0}"#;
        let (id, flow) = question(line).unwrap();
        assert_eq!(id, "a");
        assert_eq!(flow.header.icmp(), Some((128, 0)));
        assert_eq!(flow.header.ip_version, IpVersion::V6);
    }

    #[test]
    fn what_is_wrong_has_a_place_and_a_reason() {
        let flow = |rest: &str| format!(r#"{{"id":1,"src_ip":"10.0.0.1",{rest}}}"#);
        for (rest, expected) in [
            (r#""dst_ip":"10.0.0.2""#, "missing field `protocol`"),
            (r#""dst_ip":"10.0.0.2","protocol":"tcp""#, "unknown variant `tcp`"),
            (r#""dst_ip":"10.0.0.256","protocol":"TCP""#, "invalid IP address"),
            (r#""dst_ip":"10.0.0.2","protocol":"TCP","dst_port":65536"#, "65536"),
            (r#""dst_ip":"10.0.0.2","protocol":"TCP","port":1"#, "unknown field `port`"),
            (r#""dst_ip":"::1","protocol":"TCP""#, "different address families"),
            (r#""dst_ip":"10.0.0.2","protocol":"ICMPv6","icmp_type":1"#, "ICMP goes with IPv4"),
            (r#""dst_ip":"10.0.0.2","protocol":"ICMP""#, "no icmp_type"),
            (r#""dst_ip":"10.0.0.2","protocol":"TCP","icmp_type":1"#, "only"),
        ] {
            let (column, reason) = question(flow(rest).as_bytes()).unwrap_err();
            assert!(column >= 1 && reason.contains(expected), "{rest}: {column}: {reason}");
        }
        assert!(question(b"\xff").is_err());
    }
}
