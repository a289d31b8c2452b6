//! The space of packet headers between two ends, cut into regions on which no rule changes its mind.
//!
//! Regions are exact: every header lies in one region, and any header of a region stands for all of
//! it. Three axes: protocol, source port (or ICMP type), destination port (or ICMP code).

use std::collections::BTreeSet;
use std::fmt;

use portcullis_identity_table::endpoint::NamedPort;

use crate::flow::{Header, NamedPorts, protocol};
use crate::model::{Icmp, IpVersion, PortMatch, PortSpec, ProtocolMatch, Rule, Traffic};
use crate::words;

/// A set of headers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region {
    /// The protocols.
    pub protocols: Protocols,
    /// Source ports, or ICMP types, both included.
    pub source: (u16, u16),
    /// Destination ports, or ICMP codes, both included.
    pub destination: (u16, u16),
}

/// A protocol, or all that no rule names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocols {
    /// This one (IANA number).
    Is(u8),
    /// Every protocol but those told apart here.
    Others {
        /// One of them.
        example: u8,
        /// Those that have regions of their own.
        except: Box<[u8]>,
    },
}

impl Protocols {
    /// One of them.
    pub fn example(&self) -> u8 {
        match self {
            Self::Is(number) => *number,
            Self::Others { example, .. } => *example,
        }
    }

    fn contains(&self, protocol: u8) -> bool {
        match self {
            Self::Is(number) => *number == protocol,
            Self::Others { except, .. } => !except.contains(&protocol),
        }
    }
}

impl Region {
    /// One header of the region, a likely one where there is a choice.
    pub fn example(&self, ip_version: IpVersion) -> Header {
        let protocol = self.protocols.example();
        let source_port = if protocol::has_ports(protocol) && within(40000, self.source) {
            40000
        } else {
            self.source.0
        };
        // Port 0 is on no wire.
        let destination_port = match self.destination {
            (0, last) if protocol::has_ports(protocol) && last > 0 => 1,
            (first, _) => first,
        };
        Header { ip_version, protocol, source_port, destination_port }
    }

    /// Whether the header lies in the region.
    pub fn contains(&self, header: &Header) -> bool {
        self.protocols.contains(header.protocol)
            && within(header.source_port, self.source)
            && within(header.destination_port, self.destination)
    }
}

fn within(port: u16, (first, last): (u16, u16)) -> bool {
    (first..=last).contains(&port)
}

/// Protocols that always have regions of their own.
const ALWAYS: [u8; 5] =
    [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::ICMP, protocol::ICMPV6];

/// The largest value on an axis of this protocol.
fn last_value(number: u8) -> u16 {
    if protocol::has_ports(number) {
        u16::MAX
    } else if protocol::is_icmp(number) {
        255
    } else {
        0
    }
}

/// Cuts the space by what the rules say; named ports are looked up at their ends.
pub(crate) fn regions<'r>(
    rules: impl IntoIterator<Item = &'r Rule>,
    names: [&[NamedPort]; 2],
) -> Vec<Region> {
    let traffic: Vec<&Traffic> = rules.into_iter().flat_map(|rule| &rule.traffic).collect();
    let mut numbers: BTreeSet<u8> = ALWAYS.into();
    for traffic in &traffic {
        if let ProtocolMatch::Is(number) | ProtocolMatch::Not(number) = traffic.protocol {
            numbers.insert(number);
        }
    }
    let other = (0..=u8::MAX).rev().find(|number| !numbers.contains(number));
    let mut regions = Vec::new();
    for &number in &numbers {
        let mut source = BTreeSet::from([0]);
        let mut destination = BTreeSet::from([0]);
        for traffic in traffic.iter().filter(|t| t.protocol.matches(number)) {
            if protocol::has_ports(number) {
                cut_ports(&traffic.source_ports, number, names[0], &mut source);
                cut_ports(&traffic.destination_ports, number, names[1], &mut destination);
            } else if protocol::is_icmp(number) {
                for icmp in traffic.icmp.iter().chain(&traffic.not_icmp) {
                    cut_icmp(*icmp, &mut source, &mut destination);
                }
            }
        }
        let last = last_value(number);
        for source in intervals(&source, last) {
            for destination in intervals(&destination, last) {
                regions.push(Region { protocols: Protocols::Is(number), source, destination });
            }
        }
    }
    if let Some(example) = other {
        let except = numbers.into_iter().collect();
        let protocols = Protocols::Others { example, except };
        regions.push(Region { protocols, source: (0, 0), destination: (0, 0) });
    }
    regions
}

fn cut_ports(ports: &PortMatch, number: u8, names: &[NamedPort], cuts: &mut BTreeSet<u16>) {
    let mut cut = |first: u16, last: u16| {
        cuts.insert(first);
        cuts.extend(last.checked_add(1));
    };
    for spec in ports.any_of.iter().chain(&ports.none_of) {
        match spec {
            PortSpec::Range(first, last) => cut(*first, *last),
            PortSpec::Named(name) => {
                for port in names.iter().filter(|p| p.name == *name && p.protocol == number) {
                    cut(port.port, port.port);
                }
            }
        }
    }
}

fn cut_icmp(icmp: Icmp, kinds: &mut BTreeSet<u16>, codes: &mut BTreeSet<u16>) {
    for (value, cuts) in [(icmp.kind, kinds), (icmp.code, codes)] {
        if let Some(value) = value.map(u16::from) {
            cuts.insert(value);
            cuts.insert(value + 1);
        }
    }
}

fn intervals(starts: &BTreeSet<u16>, last: u16) -> Vec<(u16, u16)> {
    let starts: Vec<u16> = starts.iter().copied().filter(|start| *start <= last).collect();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([last]);
    starts.iter().copied().zip(ends).collect()
}

/// Joins neighbours with equal values: first along destination ports, then along source ports.
pub(crate) fn merge<V: PartialEq>(mut cells: Vec<(Region, V)>) -> Vec<(Region, V)> {
    let key = |region: &Region| (region.protocols.clone(), region.source, region.destination);
    cells.sort_by_key(|(region, _)| key(region));
    let joined = join(cells, |a, b| {
        (a.protocols == b.protocols
            && a.source == b.source
            && a.destination.1.checked_add(1) == Some(b.destination.0))
        .then(|| Region { destination: (a.destination.0, b.destination.1), ..a.clone() })
    });
    let mut cells = joined;
    cells.sort_by_key(|(r, _)| (r.protocols.clone(), r.destination, r.source));
    join(cells, |a, b| {
        (a.protocols == b.protocols
            && a.destination == b.destination
            && a.source.1.checked_add(1) == Some(b.source.0))
        .then(|| Region { source: (a.source.0, b.source.1), ..a.clone() })
    })
}

fn join<V: PartialEq>(
    cells: Vec<(Region, V)>,
    touch: impl Fn(&Region, &Region) -> Option<Region>,
) -> Vec<(Region, V)> {
    let mut joined: Vec<(Region, V)> = Vec::with_capacity(cells.len());
    for (region, value) in cells {
        if let Some((last, last_value)) = joined.last_mut()
            && *last_value == value
            && let Some(both) = touch(last, &region)
        {
            *last = both;
            continue;
        }
        joined.push((region, value));
    }
    joined
}

/// Regions as one phrase: `all traffic`, or `TCP 80, 443; UDP 53; ICMP`.
pub fn phrase(regions: &[Region]) -> String {
    let whole = |region: &Region| {
        let all = (0, last_value(region.protocols.example()));
        region.source == all && region.destination == all
    };
    let has =
        |wanted: &u8| regions.iter().any(|r| r.protocols == Protocols::Is(*wanted) && whole(r));
    let others = regions.iter().find_map(|region| match &region.protocols {
        Protocols::Others { except, .. } => Some(except),
        Protocols::Is(_) => None,
    });
    if others.is_some_and(|except| except.iter().all(has)) && regions.iter().all(whole) {
        return "all traffic".to_owned();
    }
    let mut words: Vec<String> = Vec::new();
    let mut last: Option<&Region> = None;
    for region in regions {
        let port = words::range(region.destination.0, region.destination.1);
        let simple = |r: &Region| {
            matches!(r.protocols, Protocols::Is(n) if protocol::has_ports(n))
                && r.source == (0, u16::MAX)
                && r.destination != (0, u16::MAX)
        };
        match (last, words.last_mut()) {
            (Some(before), Some(word))
                if before.protocols == region.protocols && simple(before) && simple(region) =>
            {
                *word += &format!(", {port}");
            }
            _ => words.push(region.to_string()),
        }
        last = Some(region);
    }
    words.join("; ")
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = match self.protocols {
            Protocols::Others { .. } => return f.write_str("other protocols"),
            Protocols::Is(number) => number,
        };
        f.write_str(&words::protocol_name(number))?;
        let all = (0, last_value(number));
        if protocol::is_icmp(number) {
            if self.source != all {
                write!(f, " type {}", words::range(self.source.0, self.source.1))?;
            }
            if self.destination != all {
                write!(f, " code {}", words::range(self.destination.0, self.destination.1))?;
            }
            return Ok(());
        }
        if self.destination != all {
            write!(f, " {}", words::range(self.destination.0, self.destination.1))?;
        }
        if self.source != all {
            write!(f, " from port {}", words::range(self.source.0, self.source.1))?;
        }
        Ok(())
    }
}

/// The named ports of an end without address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports<'a>(pub(crate) &'a [NamedPort]);

impl NamedPorts for Ports<'_> {
    fn is(&self, name: &str, protocol: u8, port: u16) -> bool {
        self.0.iter().any(|p| *p.name == *name && p.protocol == protocol && p.port == port)
    }
}
