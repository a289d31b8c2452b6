//! ClassBench text to rules.

use super::ParseError;
use super::token::{Line, Word, lines};
use crate::rule::{
    AddressMatch, ICMP, ICMPV6, IcmpMatch, PortRange, ProtocolMatch, ProtocolSet, Rule,
    TcpFlagsMatch,
};

/// Reads rules, in the order of the lines; each rule's action is its 0-based place. `file` is what
/// errors call the text.
///
/// # Errors
/// The first line that is not a rule, with its place and what was expected there.
///
/// ```
/// use portcullis_classifier::classbench;
///
/// let text = "@10.0.0.0/8\t0.0.0.0/0\t0 : 65535\t80 : 80\t0x06/0xFF\n";
/// assert_eq!(classbench::parse("acl", text).unwrap().len(), 1);
///
/// let swapped = "@10.0.0.0/8\t0.0.0.0/0\t0 : 65535\t81 : 80\t0x06/0xFF\n";
/// let error = classbench::parse("acl", swapped).unwrap_err();
/// assert_eq!((error.line, error.column), (1, 33));
/// ```
pub fn parse(file: &str, text: &str) -> Result<Vec<Rule>, ParseError> {
    let mut rules = Vec::new();
    for mut line in lines(file, text) {
        let action = u32::try_from(rules.len()).map_err(|_| {
            line.error(line.here(), "more rules than a rule id can name".to_owned())
        })?;
        rules.push(rule(&mut line, action)?);
    }
    Ok(rules)
}

fn rule(line: &mut Line<'_>, action: u32) -> Result<Rule, ParseError> {
    if !line.take('@') {
        return Err(line.error(line.here(), "expected `@` at the start of a rule".to_owned()));
    }
    let (source, _) = prefix(line, "a source prefix such as 10.0.0.0/8")?;
    let (destination, word) = prefix(line, "a destination prefix such as 10.0.0.0/8")?;
    if matches!(source, AddressMatch::V4(_)) != matches!(destination, AddressMatch::V4(_)) {
        let message = "expected a destination prefix of the source's address family";
        return Err(line.error(word, format!("{message}, found `{}`", word.text)));
    }
    let source_ports = ports(line, "a source port, 0 to 65535")?;
    let destination_ports = ports(line, "a destination port, 0 to 65535")?;
    let protocol = protocol(line)?;
    let mut rule = Rule {
        source,
        destination,
        source_ports,
        destination_ports,
        protocol,
        ..Rule::any(action)
    };
    if let Some(word) = line.next_word() {
        flags(line, word, &mut rule)?;
    }
    line.end()?;
    Ok(rule)
}

fn prefix<'a>(line: &mut Line<'a>, expected: &str) -> Result<(AddressMatch, Word<'a>), ParseError> {
    let word = line.word(expected)?;
    if word.text == "any" {
        return Err(line.error(word, format!("expected {expected}, found `any`")));
    }
    let prefix = word.text.parse();
    let prefix = prefix.map_err(|error: crate::Error| line.error(word, error.to_string()))?;
    Ok((prefix, word))
}

fn ports(line: &mut Line<'_>, expected: &str) -> Result<PortRange, ParseError> {
    let word = line.digits(expected)?;
    let first = decimal(line, word, expected)?;
    if !line.take(':') {
        return Err(line.error(line.here(), "expected `:` between two ports".to_owned()));
    }
    let last = line.digits(expected)?;
    let last = decimal(line, last, expected)?;
    PortRange::new(first, last).map_err(|error| line.error(word, error.to_string()))
}

fn decimal(line: &Line<'_>, word: Word<'_>, expected: &str) -> Result<u16, ParseError> {
    let plain = word.text.bytes().all(|b| b.is_ascii_digit());
    word.text
        .parse()
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| line.error(word, format!("expected {expected}, found `{}`", word.text)))
}

fn hexadecimal(line: &Line<'_>, word: Word<'_>, width: usize) -> Result<u16, ParseError> {
    word.text
        .strip_prefix("0x")
        .or_else(|| word.text.strip_prefix("0X"))
        .filter(|digits| (1..=width).contains(&digits.len()))
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .and_then(|digits| u16::from_str_radix(digits, 16).ok())
        .ok_or_else(|| {
            let message =
                format!("expected 0x and one to {width} hexadecimal digits, found `{}`", word.text);
            line.error(word, message)
        })
}

fn protocol(line: &mut Line<'_>) -> Result<ProtocolMatch, ParseError> {
    let expected = "a protocol such as 0x06/0xFF or tcp";
    let word = line.word(expected)?;
    if let Some((_, number)) = NAMES.iter().find(|(name, _)| *name == word.text) {
        return Ok(ProtocolMatch::Exact(*number));
    }
    let Some((value_word, mask)) = word.split('/') else {
        return Err(line.error(word, format!("expected {expected}, found `{}`", word.text)));
    };
    let value = hexadecimal(line, value_word, 2)?;
    let mask = hexadecimal(line, mask, 2)?;
    Ok(match mask {
        0 => ProtocolMatch::Any,
        _ if value & !mask != 0 => {
            let message = format!("protocol {value:#04x} has bits outside its mask {mask:#04x}");
            return Err(line.error(value_word, message));
        }
        0xff => ProtocolMatch::Exact(value.to_le_bytes()[0]),
        _ => {
            let members = (0..=u8::MAX).filter(|&number| u16::from(number) & mask == value);
            ProtocolMatch::Set(members.collect::<ProtocolSet>())
        }
    })
}

/// Names that may stand in place of a number and its mask (IANA's protocol registry).
const NAMES: [(&str, u8); 9] = [
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("sctp", 132),
    ("udplite", 136),
];

fn flags(line: &Line<'_>, word: Word<'_>, rule: &mut Rule) -> Result<(), ParseError> {
    let Some((value_word, mask)) = word.split('/') else {
        let message = format!("expected flags such as 0x0002/0x0012, found `{}`", word.text);
        return Err(line.error(word, message));
    };
    let value = hexadecimal(line, value_word, 4)?;
    let mask = hexadecimal(line, mask, 4)?;
    let icmp = matches!(rule.protocol, ProtocolMatch::Exact(ICMP | ICMPV6));
    let condition = TcpFlagsMatch::new(value, mask)
        .map_err(|error| line.error(value_word, error.to_string()))?;
    match mask {
        0 => {}
        0xff00 | 0xffff if icmp => {
            let [icmp_type, code] = value.to_be_bytes();
            rule.icmp = Some(IcmpMatch { icmp_type, code: (mask == 0xffff).then_some(code) });
        }
        _ if icmp => {
            let message = "expected mask 0xff00 (type) or 0xffff (type and code) for ICMP";
            return Err(line.error(word, message.to_owned()));
        }
        _ => rule.tcp_flags = condition,
    }
    Ok(())
}
