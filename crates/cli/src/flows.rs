//! `portcullis flows`: flow records in another form.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;

use portcullis::flow::{Event, FlowRecord, Format, hubble};

use crate::control::Which;
use crate::output::{Outcome, Refused};
use crate::{documents, follow};

/// Flags of `portcullis flows`.
#[derive(clap::Args)]
#[command(
    after_help = "Reads what `portcullis run --flow-log` wrote, or what a running firewall records from now on.
Fields: docs/flow-records.md.

Examples:
  portcullis flows --format hubble flows.jsonl > hubble.jsonl
  portcullis flows --denied flows.jsonl
  portcullis flows --staged flows.jsonl.1 flows.jsonl
  portcullis run --config portcullis.yaml --flow-log - | portcullis flows -
  portcullis flows --follow --denied

Exit code: 0, or 2 if a line is no record of this version (FILE:LINE on stderr)."
)]
pub(crate) struct Args {
    /// Flow records (JSON lines), oldest file first; - for stdin
    #[arg(value_name = "FILE", required_unless_present = "follow")]
    files: Vec<PathBuf>,
    /// The records of a running firewall instead, until Ctrl-C
    #[arg(long, conflicts_with = "files")]
    follow: bool,
    #[command(flatten)]
    which: Which,
    /// Write them as json or hubble (as `hubble observe -o json` prints flows), not as text
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Only denials
    #[arg(long)]
    denied: bool,
    /// Only records that staged policies would change
    #[arg(long)]
    staged: bool,
    /// Name of the node in hubble's form
    #[arg(long, value_name = "NAME", default_value = "")]
    node: String,
}

/// Reads, chooses, writes.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    documents::one_stdin(&args.files)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if args.follow {
        let followed = follow::follow(&args.which, None, |record| {
            // Who watches wants each at once.
            Ok(show(&args, record, &mut out)? && written(out.flush())?)
        })?;
        eprintln!("{} records{}", followed.sent, followed.loss());
        return Ok(Outcome::Done);
    }
    for path in &args.files {
        let name = path.display().to_string();
        let result = if name == "-" {
            convert(&args, "stdin", std::io::stdin().lock(), &mut out)
        } else {
            let file = std::fs::File::open(path).map_err(|e| format!("error: {name}: {e}"))?;
            convert(&args, &name, BufReader::new(file), &mut out)
        };
        if !result? {
            break;
        }
    }
    Ok(Outcome::Done)
}

/// One file; `false` if nobody reads any more.
fn convert(
    args: &Args,
    name: &str,
    lines: impl BufRead,
    out: &mut impl Write,
) -> Result<bool, Refused> {
    for (number, line) in (1..).zip(lines.lines()) {
        let line = line.map_err(|e| format!("error: {name}:{number}: {e}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let record =
            FlowRecord::parse(&line).map_err(|e| format!("error: {name}:{number}: {e}"))?;
        if !show(args, &record, out)? {
            return Ok(false);
        }
    }
    written(out.flush())
}

/// One record, if it was asked for; `false` if nobody reads any more.
fn show(args: &Args, record: &FlowRecord, out: &mut impl Write) -> Result<bool, Refused> {
    if args.denied && record.event != Event::Deny || args.staged && record.staged.is_none() {
        return Ok(true);
    }
    let mut text = Vec::new();
    match args.format {
        None => text.extend_from_slice(sentence(record).as_bytes()),
        Some(Format::Hubble) => hubble::write(record, &args.node, &mut text),
        Some(_) => record.write(&mut text),
    }
    written(out.write_all(&text))
}

/// A reader that has seen enough (`| head`) is no error.
fn written(result: std::io::Result<()>) -> Result<bool, Refused> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// One line for people.
fn sentence(record: &FlowRecord) -> String {
    let name = |party: &portcullis::flow::Party, port: String| match port.as_str() {
        "0" => party.label(),
        _ => format!("{} {port}", party.label()),
    };
    let to = match &record.destination_ports {
        Some(ports) => format!("{}-{}", ports.low, ports.high),
        None => record.destination.port.to_string(),
    };
    let what = match record.event {
        Event::Start => "start ",
        Event::Update => "update",
        Event::Change => "change",
        Event::End => "end   ",
        Event::Deny => "deny  ",
        _ => "packet",
    };
    let mut text = format!(
        "{} {what} {} {} > {}",
        record.time.rfc3339(),
        protocol(record.protocol),
        name(&record.source, record.source.port.to_string()),
        name(&record.destination, to),
    );
    match record.event {
        Event::Deny => text += &format!(": {} packets", record.sent.packets),
        Event::End | Event::Update => {
            let (sent, received) = (record.sent, record.received);
            text += &format!(
                ": {} packets, {} bytes there; {}, {} back",
                sent.packets, sent.bytes, received.packets, received.bytes
            );
        }
        _ => {}
    }
    for part in [&record.reason, &record.close].into_iter().flatten() {
        text += &format!(", {part}");
    }
    text += &format!("; {}", record.policy);
    if let Some(rule) = &record.rule {
        text += &format!(" at {rule}");
    }
    if let Some(staged) = &record.staged {
        let verdict = format!("{:?}", staged.verdict).to_lowercase();
        text += &format!("; staged: {verdict} by {}", staged.policy);
    }
    text + "\n"
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        other => format!("protocol-{other}"),
    }
}
