//! `portcullis capture`: packets of a running firewall as pcapng, with what was decided about each.

mod file;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portcullis::dataplane::capture::SNAPLEN;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::control::capture::{Begun, Item, RATE, Summary, Wanted};
use crate::control::{Client, Request, Which};
use crate::output::{Outcome, Refused};
use file::Files;

/// Flags of `portcullis capture`.
#[derive(clap::Args)]
#[command(after_help = "Each packet's comment says what was decided:
  verdict=deny reason=policy_denied policy=NetworkPolicy/shop/db rule=policies.yaml:12:3 state=new

Examples:
  portcullis capture --endpoint shop/db --verdict deny --count 100 --out denied.pcapng
  portcullis capture --reason tcp_out_of_window --reason tcp_state --out odd.pcapng
  portcullis capture --snaplen 128 --ring 10 --size 64M --out last.pcapng   # the last 640 MB
  portcullis capture --out - | tshark -r -

Ctrl-C ends it; the file is whole then. Workers copy packets into a ring of 4 MiB each: what does not
fit, and what is beyond the rate, is counted in the summary. Packets carry the time of their batch.

Exit code: 0, or 2 if it cannot capture (the reason is on stderr).")]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// Only packets from or to this endpoint, also when its addresses change; may be given several times
    #[arg(long, value_name = "NAMESPACE/NAME")]
    endpoint: Vec<String>,
    /// Only packets with this verdict: allow, deny or reject; may be given several times
    #[arg(long, value_name = "VERDICT")]
    verdict: Vec<String>,
    /// Only packets dropped for this reason (see `portcullis status`); may be given several times
    #[arg(long, value_name = "REASON")]
    reason: Vec<String>,
    /// End after so many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Bytes of each packet
    #[arg(long, value_name = "BYTES", default_value_t = SNAPLEN)]
    snaplen: usize,
    /// Packets a second at most; 0 for as many as there are
    #[arg(long, value_name = "PPS", default_value_t = RATE)]
    rate: u32,
    /// Where to; - for stdout
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Keep the last N files: FILE with .1, .2 and so on before its extension
    #[arg(long, value_name = "N", requires = "size", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    ring: Option<u32>,
    /// Begin the next file of the ring at this size: bytes, or with K, M or G
    #[arg(long, value_name = "SIZE", requires = "ring", value_parser = size)]
    size: Option<u64>,
}

/// How often it looks whether it shall end.
const TICK: Duration = Duration::from_millis(100);

/// Captures until told to end.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    if args.seconds.is_some_and(|seconds| !(0.0..=1e9).contains(&seconds)) {
        return Err("error: --seconds: from 0 to 1,000,000,000".into());
    }
    let wanted = Wanted {
        endpoints: args.endpoint,
        verdicts: args.verdict,
        reasons: args.reason,
        snaplen: args.snaplen,
        rate: args.rate,
        count: args.count,
    };
    if args.out == Path::new("-") && std::io::stdout().is_terminal() {
        return Err("error: --out -: a terminal shows no pcapng: pipe it, or name a file".into());
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| format!("error: cannot listen for signals: {e}"))?;
    }
    let mut client = args.which.connect()?;
    // The file is not touched before the firewall has agreed.
    let begun: Begun = client.ask(&Request::Capture(wanted.clone()))?;
    let mut files = Files::create(&args.out, args.ring.zip(args.size), wanted.snaplen)?;
    let addresses: Vec<String> = begun.addresses.iter().map(ToString::to_string).collect();
    match addresses.is_empty() {
        true => eprintln!("capturing; Ctrl-C ends it"),
        false => eprintln!("capturing packets of {}; Ctrl-C ends it", addresses.join(", ")),
    }
    let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let received = receive(&mut client, &mut files, &stop, end);
    // Whatever happened: what came is in the file.
    let written = files.finish();
    let summary = received?;
    let bytes = written?;
    eprintln!(
        "{} packets in {} ({}); left out: {} beyond the rate, {} lost in full rings, {} because this \
         command was too slow",
        summary.captured,
        args.out.display(),
        crate::status::bytes(bytes),
        summary.over_rate,
        summary.lost,
        summary.slow
    );
    Ok(Outcome::Done)
}

/// Writes what comes until the firewall says that it was all.
fn receive(
    client: &mut Client,
    files: &mut Files,
    stop: &AtomicBool,
    end: Option<Instant>,
) -> Result<Summary, Refused> {
    let mut asked = false;
    let mut data = Vec::new();
    loop {
        let over = stop.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end);
        if over && !asked {
            client.send(&Request::End {})?;
            asked = true;
        }
        if !client.wait(TICK)? {
            files.flush()?;
            continue;
        }
        let line = client.line()?.ok_or("error: the firewall ended")?;
        match serde_json::from_str(&line) {
            Ok(Item::Packet(packet)) => {
                if packet.len > SNAPLEN {
                    return Err(format!("error: a packet of {} bytes", packet.len).into());
                }
                data.resize(packet.len, 0);
                client.bytes(&mut data)?;
                files.write(&packet, &data)?;
            }
            Ok(Item::End(summary)) => return Ok(summary),
            Err(error) => return Err(format!("error: unexpected answer: {error}").into()),
        }
    }
}

/// `64M` and the like.
fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number, or one with K, M or G")?;
    let size = number.checked_mul(unit).ok_or("too large")?;
    if size < 64 << 10 { Err("at least 64K".to_owned()) } else { Ok(size) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("65536"), Ok(65_536));
        assert_eq!([size("64K"), size("2m")], [Ok(65_536), Ok(2 << 20)]);
        for wrong in ["", "K", "1", "-1M", "1T", "99999999999G", "5.5M", "é"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
