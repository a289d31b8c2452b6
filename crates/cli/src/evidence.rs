//! Flows out of what was seen: a packet of a capture, a line of a flow log.

use std::path::Path;

use portcullis::dataplane::connection::{Direction, Key, Probe, Role};
use portcullis::dataplane::packet::{self, Headers, Packet, Transport, Tuple, protocol};
use portcullis::flow::FlowRecord;
use portcullis::policy::Flow;

use crate::output::Refused;
use crate::replay::source::{Capture, Captured};

/// The flow that packet `number` (from 1) of a capture belongs to, in the direction of the first
/// packet of its connection that the capture holds.
///
/// # Errors
/// The capture cannot be read so far, or the packet is no IP packet that a policy judges.
pub(crate) fn of_packet(path: &Path, number: u64) -> Result<Flow, Refused> {
    let refuse = |what: &str| format!("error: {}: packet {number}: {what}", path.display());
    // Twice through the file: what is asked for tells which packets before it matter.
    let wanted = packets(path)?.nth(number.saturating_sub(1) as usize);
    let wanted = wanted.transpose()?.ok_or_else(|| refuse("there are fewer"))?;
    let headers = ip(&wanted).map_err(|what| refuse(&what))?;
    let member = match Probe::of(&wanted.data, &headers) {
        Ok(Role::Member(probe)) => probe,
        Ok(Role::Alone) => return Ok(flow(&headers.tuple, icmp(&headers))),
        Err(reason) => return Err(refuse(reason.description()).into()),
    };
    let mut opened = (member.direction, headers);
    for packet in packets(path)?.take(number.saturating_sub(1) as usize) {
        let packet = packet?;
        let Ok(headers) = ip(&packet) else { continue };
        if let Ok(Role::Member(probe)) = Probe::of(&packet.data, &headers)
            && probe.key == member.key
        {
            opened = (probe.direction, headers);
            break;
        }
    }
    Ok(of_connection(&member.key, opened.0, &opened.1))
}

fn packets(path: &Path) -> Result<impl Iterator<Item = Result<Captured, Refused>>, Refused> {
    let mut capture = Capture::open(path)?;
    Ok(std::iter::from_fn(move || capture.next().transpose()))
}

fn ip(packet: &Captured) -> Result<Headers, String> {
    match packet::parse(&packet.data, packet.wire_len) {
        Ok(Packet::Ip(headers)) if headers.fragment.is_some_and(|piece| piece.offset > 0) => {
            Err("a later fragment, which has no ports".to_owned())
        }
        Ok(Packet::Ip(headers)) => Ok(headers),
        Ok(Packet::Arp) => Err("ARP, which no policy judges".to_owned()),
        Ok(Packet::Other(kind)) => Err(format!("EtherType {kind:#06x}, which no policy judges")),
        Err(reason) => Err(reason.description().to_owned()),
    }
}

/// The flow of a connection that was opened in this direction, by a packet with these headers.
fn of_connection(key: &Key, opened: Direction, first: &Headers) -> Flow {
    let tuple = key.tuple(opened);
    if !matches!(tuple.protocol, protocol::ICMP | protocol::ICMPV6) {
        return flow(&tuple, None);
    }
    // A query is known by its request, whose type stands where others have a port.
    let code = icmp(first).map_or(0, |(_, code)| code);
    flow(&key.tuple(Direction::AToB), Some((key.b_port as u8, code)))
}

fn icmp(headers: &Headers) -> Option<(u8, u8)> {
    match headers.transport {
        Transport::Icmp { kind, code, .. } => Some((kind, code)),
        _ => None,
    }
}

fn flow(tuple: &Tuple, icmp: Option<(u8, u8)>) -> Flow {
    let ports = match icmp {
        Some((kind, code)) => (kind.into(), code.into()),
        None => (tuple.source_port, tuple.destination_port),
    };
    Flow::new(tuple.source_ip(), tuple.destination_ip(), tuple.protocol, ports)
}

/// The flow of a flow log's record: a JSON object, or `FILE:LINE`.
///
/// # Errors
/// No such line, or it is no record of a flow.
pub(crate) fn of_record(record: &str) -> Result<Flow, Refused> {
    let (line, name) = if record.trim_start().starts_with('{') {
        (record.to_owned(), "the record".to_owned())
    } else {
        (line_of_file(record)?, record.to_owned())
    };
    let record = FlowRecord::parse(&line).map_err(|e| format!("error: {name}: {e}"))?;
    let (source, destination) = (&record.source, &record.destination);
    if source.address.is_ipv4() != destination.address.is_ipv4() {
        return Err(format!("error: {name}: addresses of two families").into());
    }
    let ports = match record.icmp {
        Some(icmp) => (icmp.kind.into(), icmp.code.into()),
        None => (source.port, destination.port),
    };
    Ok(Flow::new(source.address, destination.address, record.protocol, ports))
}

fn line_of_file(place: &str) -> Result<String, Refused> {
    use std::io::BufRead;
    let wrong = || format!("error: {place:?}: a JSON record or FILE:LINE is needed");
    let (path, number) = place.rsplit_once(':').ok_or_else(wrong)?;
    let number: usize = number.parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
    let file = std::fs::File::open(path).map_err(|e| format!("error: {path}: {e}"))?;
    let line = std::io::BufReader::new(file).lines().nth(number - 1);
    let line = line.ok_or_else(|| format!("error: {path}: fewer than {number} lines"))?;
    Ok(line.map_err(|e| format!("error: {path}: {e}"))?)
}
