//! The status for people.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use portcullis::dataplane::reason::Reason;

use crate::control::status::{Flows, Kept, Policy, Port, Staged, Status};
use crate::output;

/// Everything, in as many lines as it takes.
pub(super) fn whole(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, status);
    text
}

fn write(text: &mut String, status: &Status) -> std::fmt::Result {
    let Status { packets, connections, events, control, .. } = status;
    writeln!(
        text,
        "portcullis {} on {}, process {}, up {}, fail {}",
        status.version,
        status.name,
        status.pid,
        span(status.uptime_seconds),
        status.fail
    )?;
    policy(text, &status.policy)?;
    writeln!(text)?;
    for (n, port) in status.ports.iter().enumerate() {
        if n == 0 || status.ports[n - 1].wire != port.wire {
            writeln!(text, "wire {}", port.wire)?;
        }
        self::port(text, port)?;
    }
    if !status.machine.is_empty() {
        writeln!(text, "  {}", status.machine)?;
    }
    if let Some(why) = &status.lesser_mode {
        writeln!(text, "  {} {why}", output::yellow("lesser mode:"))?;
    }
    writeln!(text)?;
    for (name, count_, bytes_) in [
        ("received", packets.received, packets.received_bytes),
        ("forwarded", packets.forwarded, packets.forwarded_bytes),
        ("dropped", packets.dropped, packets.dropped_bytes),
    ] {
        writeln!(text, "{name:<11}{:>16} packets {:>12}", count(count_), bytes(bytes_))?;
    }
    for drop in &status.drops {
        let known = Reason::ALL.iter().find(|reason| reason.as_str() == drop.reason);
        let description = known.map_or("", |reason| reason.description());
        writeln!(text, "  {:>25} {}: {description}", count(drop.packets), drop.reason)?;
    }
    if packets.rejects_sent + packets.checksums_completed > 0 {
        writeln!(
            text,
            "           {:>16} answers to rejected packets, {} checksums completed",
            count(packets.rejects_sent),
            count(packets.checksums_completed)
        )?;
    }
    if packets.mirrored + packets.mirror_lost > 0 {
        writeln!(
            text,
            "           {:>16} copies to the mirror port, {} left out",
            count(packets.mirrored),
            count(packets.mirror_lost)
        )?;
    }
    writeln!(text)?;
    let full = 100.0 * connections.now as f64 / connections.capacity.max(1) as f64;
    writeln!(
        text,
        "connections {} of {} ({full:.1} %), {} half-open; {} opened, {} ended, {} evicted",
        count(connections.now as u64),
        count(connections.capacity as u64),
        count(connections.half_open as u64),
        count(connections.opened),
        count(connections.ended),
        count(connections.evicted)
    )?;
    writeln!(
        text,
        "events      {} waiting, {} lost; control socket: {} connected, {} sent away",
        count(events.waiting as u64),
        count(events.lost),
        control.now,
        control.too_many + control.too_long + control.too_slow + control.idle
    )?;
    if let Some(of) = &status.flows {
        flows(text, of)?;
    }
    if let Some(of) = &status.staged {
        staged(text, of)?;
    }
    match &status.state {
        Some(of) => state(text, of),
        None => Ok(()),
    }
}

fn state(text: &mut String, kept: &Kept) -> std::fmt::Result {
    write!(
        text,
        "state       {}: {} connections restored",
        kept.file,
        count(kept.restored.into())
    )?;
    if kept.saves > 0 {
        write!(
            text,
            "; {} saved {} in {:.1} ms",
            count(kept.saved.into()),
            ago(kept.saved_at),
            kept.save_seconds * 1000.0
        )?;
    }
    writeln!(text)?;
    match &kept.failed {
        Some(failed) => {
            let what = output::yellow("cannot be saved:");
            writeln!(text, "  {what} {} ({})", failed.error, ago(failed.at))
        }
        None => Ok(()),
    }
}

fn flows(text: &mut String, flows: &Flows) -> std::fmt::Result {
    writeln!(
        text,
        "flows       {} records of connections, {} of denials ({} packets); {} left out, {} lost",
        count(flows.records + flows.updates),
        count(flows.denied_records),
        count(flows.denied_packets),
        count(flows.sampled_out + flows.left_out),
        count(flows.lost_starts + flows.lost_denied_packets + flows.lost_ends + flows.lost_others)
    )?;
    let Some(log) = &flows.log else { return Ok(()) };
    writeln!(
        text,
        "flow log    {} written ({}), {} not written, {} lost in its queue",
        count(log.written),
        bytes(log.bytes),
        count(log.unwritten),
        count(log.lost)
    )?;
    match &log.failing {
        Some(why) => writeln!(text, "  {} {why}", output::red("not writable:")),
        None => Ok(()),
    }
}

fn staged(text: &mut String, staged: &Staged) -> std::fmt::Result {
    if let Some(why) = &staged.ended {
        return writeln!(text, "staged      {} {why}", output::red("ended:"));
    }
    writeln!(
        text,
        "staged      {} policies; of {} new connections and denied packets {} would be allowed and {} denied",
        staged.policies,
        count(staged.judged),
        count(staged.would_allow),
        count(staged.would_deny)
    )?;
    for pair in &staged.pairs {
        writeln!(
            text,
            "  {:>9} {} > {} {}: {}, would be {} by {}{}",
            count(pair.flows),
            pair.source,
            pair.destination,
            pair.service,
            pair.verdict,
            pair.staged,
            pair.policy,
            pair.rule.as_ref().map_or(String::new(), |rule| format!(" at {rule}"))
        )?;
    }
    if staged.others > 0 {
        writeln!(text, "  {:>9} of further pairs", count(staged.others))?;
    }
    Ok(())
}

fn policy(text: &mut String, policy: &Policy) -> std::fmt::Result {
    writeln!(
        text,
        "generation {}: {} policies, {} endpoints, {} identities; applied {} in {:.1} ms",
        policy.generation,
        policy.policies,
        policy.endpoints,
        policy.identities,
        ago(policy.applied_at),
        policy.apply_seconds * 1e3
    )?;
    if let Some(refusal) = &policy.refused {
        writeln!(
            text,
            "{} the last good set stays in force; refused {}:",
            output::red("refused:"),
            ago(refusal.at)
        )?;
        for line in refusal.error.lines() {
            writeln!(text, "  {line}")?;
        }
    }
    Ok(())
}

fn port(text: &mut String, port: &Port) -> std::fmt::Result {
    writeln!(text, "{}: {}, MTU {}, {} queues", port.name, port.mode, port.mtu, port.queues.len())?;
    for queue in &port.queues {
        let seen: Vec<String> = queue
            .statistics()
            .iter()
            .map(|(name, value)| format!("{name} {}", count(*value)))
            .collect();
        writeln!(text, "  queue {}: {}", queue.queue, seen.join(", "))?;
    }
    let seen = port.program.iter().filter(|steered| steered.packets > 0);
    let seen: Vec<String> =
        seen.map(|steered| format!("{} {}", steered.verdict, count(steered.packets))).collect();
    if !seen.is_empty() {
        writeln!(text, "  XDP program: {}", seen.join(", "))?;
    }
    Ok(())
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && n % 3 == first {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in units of 1024.
pub(crate) fn bytes(number: u64) -> String {
    let mut value = number as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{number} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// How long ago a time in seconds since 1970 was.
fn ago(at: f64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    format!("{} ago", span(now - at))
}

/// Seconds, in the two units that matter.
fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{minutes} min {} s", whole % 60),
        3600..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let counts = [0, 12, 999, 1000, 123_456, 1_234_567].map(count);
        assert_eq!(counts, ["0", "12", "999", "1,000", "123,456", "1,234,567"]);
        let sizes = [0, 1023, 1024, 1_572_864, 5 << 40].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 TiB"]);
        let spans = [-3.0, 59.9, 61.0, 3661.0, 90_000.0].map(span);
        assert_eq!(spans, ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }
}
