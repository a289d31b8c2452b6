//! Boxes of header fields: what rules are made of, and what is left of them when earlier rules are
//! cut away.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::Error;
use crate::header::{Addresses, Header};
use crate::rule::{AddressMatch, ClassMatch, ICMP, ICMPV6, ProtocolMatch, Rule, TCP, VlanMatch};

/// Fields in a box: nine, and each TCP flag by itself, since masks over them are no ranges.
const FIELDS: usize = 9 + 16;
const SOURCE: usize = 0;
const DESTINATION: usize = 1;
const SOURCE_PORT: usize = 2;
const DESTINATION_PORT: usize = 3;
const PROTOCOL: usize = 4;
const ICMP_TYPE_CODE: usize = 5;
const VLAN: usize = 6;
const SOURCE_CLASS: usize = 7;
const DESTINATION_CLASS: usize = 8;
const FLAGS: usize = 9;

/// An untagged header, in the VLAN field.
const UNTAGGED: u128 = 4096;
/// A rule whose sets multiply to more boxes than this is not asked about.
const MOST_BOXES: usize = 4096;

/// A set of headers of one address family: a range of values for each field.
///
/// ```
/// use portcullis_classifier::query::Config;
/// use portcullis_classifier::{Rule, RuleId, RuleSet, tree};
///
/// let rules = RuleSet::new(vec![Rule::any(1).to_v4("10.0.0.0/8".parse().unwrap())]).unwrap();
/// let tree = tree::Builder::new().build(&rules).unwrap();
/// let regions = tree.reach(RuleId::new(0).unwrap(), &Config::default()).unwrap();
/// assert!(regions[0].contains(&regions[0].example()));
/// assert_eq!(regions[0].destinations().start().to_string(), "10.0.0.0");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRange {
    v6: bool,
    low: [u128; FIELDS],
    high: [u128; FIELDS],
}

impl HeaderRange {
    fn all(v6: bool) -> Self {
        let address = if v6 { u128::MAX } else { u32::MAX.into() };
        let mut high = [1; FIELDS];
        high[SOURCE] = address;
        high[DESTINATION] = address;
        high[SOURCE_PORT] = u16::MAX.into();
        high[DESTINATION_PORT] = u16::MAX.into();
        high[PROTOCOL] = u8::MAX.into();
        high[ICMP_TYPE_CODE] = u16::MAX.into();
        high[VLAN] = UNTAGGED;
        high[SOURCE_CLASS] = u32::MAX.into();
        high[DESTINATION_CLASS] = u32::MAX.into();
        Self { v6, low: [0; FIELDS], high }
    }

    /// Source addresses.
    #[must_use]
    pub fn sources(&self) -> RangeInclusive<IpAddr> {
        self.addresses(SOURCE)
    }

    /// Destination addresses.
    #[must_use]
    pub fn destinations(&self) -> RangeInclusive<IpAddr> {
        self.addresses(DESTINATION)
    }

    /// Whether `header` is in the set.
    #[must_use]
    pub fn contains(&self, header: &Header) -> bool {
        let (v6, source, destination) = match header.addresses {
            Addresses::V4 { source, destination } => {
                (false, source.to_bits().into(), destination.to_bits().into())
            }
            Addresses::V6 { source, destination } => {
                (true, source.to_bits(), destination.to_bits())
            }
        };
        let mut values = [0u128; FIELDS];
        values[SOURCE] = source;
        values[DESTINATION] = destination;
        values[SOURCE_PORT] = header.source_port.into();
        values[DESTINATION_PORT] = header.destination_port.into();
        values[PROTOCOL] = header.protocol.into();
        values[ICMP_TYPE_CODE] = u16::from_be_bytes([header.icmp_type, header.icmp_code]).into();
        values[VLAN] = header.vlan.map_or(UNTAGGED, u128::from);
        values[SOURCE_CLASS] = header.source_class.into();
        values[DESTINATION_CLASS] = header.destination_class.into();
        for (bit, value) in values[FLAGS..].iter_mut().enumerate() {
            *value = (header.tcp_flags >> bit & 1).into();
        }
        self.v6 == v6
            && (0..FIELDS)
                .all(|field| (self.low[field]..=self.high[field]).contains(&values[field]))
    }

    /// A header of the set: the lowest value of each field.
    #[must_use]
    pub fn example(&self) -> Header {
        let low = |field: usize| u64::try_from(self.low[field]).unwrap_or(u64::MAX);
        let port = |field| u16::try_from(low(field)).unwrap_or(u16::MAX);
        let class = |field| u32::try_from(low(field)).unwrap_or(u32::MAX);
        let addresses = if self.v6 {
            let address = |field: usize| Ipv6Addr::from_bits(self.low[field]);
            Addresses::V6 { source: address(SOURCE), destination: address(DESTINATION) }
        } else {
            let address = |field| Ipv4Addr::from_bits(class(field));
            Addresses::V4 { source: address(SOURCE), destination: address(DESTINATION) }
        };
        let [icmp_type, icmp_code] = port(ICMP_TYPE_CODE).to_be_bytes();
        let protocol = u8::try_from(low(PROTOCOL)).unwrap_or(u8::MAX);
        Header {
            source_class: class(SOURCE_CLASS),
            destination_class: class(DESTINATION_CLASS),
            tcp_flags: (0..16).fold(0, |flags, bit| flags | port(FLAGS + bit) << bit),
            vlan: Some(port(VLAN)).filter(|&vlan| vlan <= 4095),
            icmp_type,
            icmp_code,
            ..Header::new(addresses, protocol, port(SOURCE_PORT), port(DESTINATION_PORT))
        }
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        self.v6 == other.v6
            && (0..FIELDS).all(|f| self.low[f] <= other.high[f] && other.low[f] <= self.high[f])
    }

    fn covers(&self, other: &Self) -> bool {
        self.v6 == other.v6
            && (0..FIELDS).all(|f| self.low[f] <= other.low[f] && other.high[f] <= self.high[f])
    }

    pub(super) fn intersection(&self, other: &Self) -> Option<Self> {
        self.meets(other).then(|| {
            let mut both = self.clone();
            for field in 0..FIELDS {
                both.low[field] = both.low[field].max(other.low[field]);
                both.high[field] = both.high[field].min(other.high[field]);
            }
            both
        })
    }

    fn addresses(&self, field: usize) -> RangeInclusive<IpAddr> {
        let address = |bits: u128| match u32::try_from(bits) {
            Ok(bits) if !self.v6 => IpAddr::V4(Ipv4Addr::from_bits(bits)),
            _ => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        };
        address(self.low[field])..=address(self.high[field])
    }
}

impl fmt::Display for HeaderRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = Self::all(self.v6);
        let (from, to) = (self.sources(), self.destinations());
        write!(f, "{}-{} > {}-{}", from.start(), from.end(), to.start(), to.end())?;
        let names = [
            (SOURCE_PORT, "source port"),
            (DESTINATION_PORT, "destination port"),
            (PROTOCOL, "protocol"),
            (ICMP_TYPE_CODE, "ICMP type and code"),
            (VLAN, "VLAN"),
            (SOURCE_CLASS, "source class"),
            (DESTINATION_CLASS, "destination class"),
        ];
        for (field, name) in names {
            let (low, high) = (self.low[field], self.high[field]);
            if (low, high) == (all.low[field], all.high[field]) {
                continue;
            }
            if field == VLAN && low == UNTAGGED {
                write!(f, ", untagged")?;
            } else if low == high {
                write!(f, ", {name} {low}")?;
            } else {
                write!(f, ", {name} {low}-{high}")?;
            }
        }
        for bit in 0..16 {
            if self.low[FLAGS + bit] == self.high[FLAGS + bit] {
                write!(f, ", TCP flag {:#x} {}", 1 << bit, self.low[FLAGS + bit])?;
            }
        }
        Ok(())
    }
}

/// Exactly the headers that `rule` matches by itself, as boxes.
pub(super) fn boxes(index: usize, rule: &Rule) -> Result<Vec<HeaderRange>, Error> {
    let mut boxes = Vec::new();
    for v6 in [false, true] {
        let mut one = HeaderRange::all(v6);
        let side = |side: AddressMatch| match side {
            AddressMatch::Any => Some(None),
            AddressMatch::V4(prefix) if !v6 => {
                Some(Some((u128::from(prefix.first()), u128::from(prefix.last()))))
            }
            AddressMatch::V6(prefix) if v6 => Some(Some((prefix.first(), prefix.last()))),
            _ => None,
        };
        let (Some(source), Some(destination)) = (side(rule.source), side(rule.destination)) else {
            continue;
        };
        for (field, range) in [(SOURCE, source), (DESTINATION, destination)] {
            if let Some((low, high)) = range {
                (one.low[field], one.high[field]) = (low, high);
            }
        }
        let ports = [(SOURCE_PORT, rule.source_ports), (DESTINATION_PORT, rule.destination_ports)];
        for (field, ports) in ports {
            (one.low[field], one.high[field]) = (ports.first().into(), ports.last().into());
        }
        if let Some(icmp) = rule.icmp {
            let (low, high) = icmp.code.map_or((0, u8::MAX), |code| (code, code));
            let value = |code| u128::from(u16::from_be_bytes([icmp.icmp_type, code]));
            (one.low[ICMP_TYPE_CODE], one.high[ICMP_TYPE_CODE]) = (value(low), value(high));
        }
        match rule.vlan {
            VlanMatch::Any => {}
            VlanMatch::Untagged => one.low[VLAN] = UNTAGGED,
            VlanMatch::Id(id) => (one.low[VLAN], one.high[VLAN]) = (id.into(), id.into()),
        }
        for bit in 0..16 {
            if rule.tcp_flags.mask() >> bit & 1 == 1 {
                let value = u128::from(rule.tcp_flags.value() >> bit & 1);
                (one.low[FLAGS + bit], one.high[FLAGS + bit]) = (value, value);
            }
        }
        let sources = class_runs(&rule.source_class);
        let destinations = class_runs(&rule.destination_class);
        let protocols = protocol_runs(rule);
        if sources.len() * destinations.len() * protocols.len() > MOST_BOXES {
            return Err(Error::TooManyRegions { rule: index, limit: MOST_BOXES });
        }
        for source in &sources {
            for destination in &destinations {
                for protocol in &protocols {
                    let mut one = one.clone();
                    (one.low[SOURCE_CLASS], one.high[SOURCE_CLASS]) = *source;
                    (one.low[DESTINATION_CLASS], one.high[DESTINATION_CLASS]) = *destination;
                    (one.low[PROTOCOL], one.high[PROTOCOL]) = *protocol;
                    boxes.push(one);
                }
            }
        }
    }
    Ok(boxes)
}

fn class_runs(class: &ClassMatch) -> Vec<(u128, u128)> {
    match class {
        ClassMatch::Any => vec![(0, u32::MAX.into())],
        ClassMatch::Exact(one) => vec![((*one).into(), (*one).into())],
        ClassMatch::Range(first, last) => vec![((*first).into(), (*last).into())],
        ClassMatch::Set(set) => runs(set.iter().map(|&class| class.into())),
    }
}

fn protocol_runs(rule: &Rule) -> Vec<(u128, u128)> {
    let flags = rule.tcp_flags.mask() != 0;
    if rule.protocol == ProtocolMatch::Any && !flags && rule.icmp.is_none() {
        return vec![(0, 255)];
    }
    let members = (0..=u8::MAX).filter(|&protocol| {
        rule.protocol.matches(protocol)
            && (!flags || protocol == TCP)
            && (rule.icmp.is_none() || matches!(protocol, ICMP | ICMPV6))
    });
    runs(members.map(u128::from))
}

fn runs(members: impl Iterator<Item = u128>) -> Vec<(u128, u128)> {
    let mut runs: Vec<(u128, u128)> = Vec::new();
    for member in members {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == member => *last = member,
            _ => runs.push((member, member)),
        }
    }
    runs
}

/// Calls `piece` for disjoint boxes that make up `whole` without `holes`, until it answers
/// `false`. `work` counts the cuts that are still allowed; `None` when they ran out.
pub(super) fn subtract(
    whole: HeaderRange,
    holes: &[&HeaderRange],
    work: &mut usize,
    piece: &mut impl FnMut(HeaderRange) -> bool,
) -> Option<bool> {
    let holes: Vec<&HeaderRange> =
        holes.iter().copied().filter(|hole| hole.meets(&whole)).collect();
    if holes.iter().any(|hole| hole.covers(&whole)) {
        return Some(true);
    }
    let Some((hole, rest)) = holes.split_first() else { return Some(piece(whole)) };
    *work = work.checked_sub(1)?;
    let mut left = whole;
    for field in 0..FIELDS {
        if left.low[field] < hole.low[field] {
            let mut below = left.clone();
            below.high[field] = hole.low[field] - 1;
            left.low[field] = hole.low[field];
            if !subtract(below, rest, work, piece)? {
                return Some(false);
            }
        }
        if left.high[field] > hole.high[field] {
            let mut above = left.clone();
            above.low[field] = hole.high[field] + 1;
            left.high[field] = hole.high[field];
            if !subtract(above, rest, work, piece)? {
                return Some(false);
            }
        }
    }
    Some(true)
}
