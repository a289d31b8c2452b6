//! ClassBench traces to headers.

use std::net::Ipv4Addr;

use super::ParseError;
use super::token::{Line, lines};
use crate::header::Header;

/// Reads a trace: a line a packet, `source destination source-port destination-port protocol`, all
/// decimal and separated by blanks; what follows on a line is skipped. Addresses are IPv4.
///
/// # Errors
/// The first line that is not a packet, with its place and what was expected there.
///
/// ```
/// use portcullis_classifier::classbench;
///
/// let headers = classbench::parse_trace("t", "167772161\t1\t40000\t80\t6\t0\n").unwrap();
/// assert_eq!(headers[0].addresses.source().to_string(), "10.0.0.1");
/// assert!(classbench::parse_trace("t", "1 2 3 65536 6").is_err());
/// ```
pub fn parse_trace(file: &str, text: &str) -> Result<Vec<Header>, ParseError> {
    lines(file, text).map(|mut line| header(&mut line)).collect()
}

fn header(line: &mut Line<'_>) -> Result<Header, ParseError> {
    let source: u32 = number(line, "a source address as a number below 2^32")?;
    let destination: u32 = number(line, "a destination address as a number below 2^32")?;
    let source_port = number(line, "a source port, 0 to 65535")?;
    let destination_port = number(line, "a destination port, 0 to 65535")?;
    let protocol = number(line, "a protocol number, 0 to 255")?;
    let (source, destination) = (Ipv4Addr::from_bits(source), Ipv4Addr::from_bits(destination));
    Ok(Header::v4(source, destination, protocol, source_port, destination_port))
}

fn number<T: std::str::FromStr>(line: &mut Line<'_>, expected: &str) -> Result<T, ParseError> {
    let word = line.word(expected)?;
    let plain = word.text.bytes().all(|b| b.is_ascii_digit());
    word.text
        .parse()
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| line.error(word, format!("expected {expected}, found `{}`", word.text)))
}
