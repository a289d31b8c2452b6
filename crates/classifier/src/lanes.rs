//! The form in which headers and rules meet: a few blocks of eight 16-bit lanes.
//!
//! A prefix of a 32-bit address is a range in its high half and a range in its low half; ports,
//! protocol, ICMP type and code, VLAN and an exact class are ranges of 16-bit numbers too. So nearly
//! every rule is a box of 16-bit ranges, and one 512-bit instruction compares a header with four
//! boxes of a block. What is no box (a mask over TCP flags, a set, a range of classes that crosses
//! a 16-bit edge) keeps the smallest box around it, and a [`Residual`] that is asked afterwards.
//!
//! | layout | blocks | lanes |
//! |---|---|---|
//! | IPv4, 5-tuple and ICMP | 1 | addresses, ports, protocol, ICMP |
//! | IPv4, all fields | 2 | and VLAN, flags, classes |
//! | IPv6, no classes | 3 | addresses, ports, protocol, ICMP, VLAN, flags |
//! | IPv6, all fields | 4 | and classes |

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::header::{Addresses, Header};
use crate::rule::{
    AddressMatch, ClassMatch, ICMP, ICMPV6, Ipv4Prefix, Ipv6Prefix, PortRange, ProtocolMatch,
    ProtocolSet, Rule, TCP, TcpFlagsMatch, VlanMatch,
};

/// Lanes in a block.
pub(crate) const WIDTH: usize = 8;

/// A header in lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub(crate) struct Key<const B: usize>(pub(crate) [[u16; WIDTH]; B]);

/// What a lane of an untagged header holds; a VLAN identifier is at most 4095.
const UNTAGGED: u16 = 0xffff;

/// No header has this in its protocol lane, so a box that asks for it matches nothing.
pub(crate) const NO_PROTOCOL: u16 = 0xffff;

/// Runs of protocols that a rule may be split into for the trees; more are left to a residual.
pub(crate) const SPLIT: usize = 4;
/// Keeps a rule in one piece.
pub(crate) const WHOLE: usize = 1;

/// Which lane, counted from 0 through all blocks, holds what. A field that the layout leaves out
/// has no place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// Lanes of the addresses, most significant first, source and destination.
    source: &'static [usize],
    destination: &'static [usize],
    destination_port: usize,
    source_port: usize,
    pub(crate) protocol: usize,
    icmp: usize,
    vlan: Option<usize>,
    flags: Option<usize>,
    /// The low half of the classes; the high half follows.
    source_class: Option<usize>,
    destination_class: Option<usize>,
}

impl Places {
    /// Lanes of the source and of the destination address.
    pub(crate) const fn address_lanes(self) -> (&'static [usize], &'static [usize]) {
        (self.source, self.destination)
    }

    /// Lanes of the other fields that rules often give exactly.
    pub(crate) const fn exact_lanes(self) -> [Option<usize>; 7] {
        [
            Some(self.destination_port),
            Some(self.source_port),
            Some(self.protocol),
            self.source_class,
            match self.source_class {
                Some(low) => Some(low + 1),
                None => None,
            },
            self.destination_class,
            match self.destination_class {
                Some(low) => Some(low + 1),
                None => None,
            },
        ]
    }
}

/// Where the fields are in a layout of `blocks` blocks.
///
/// Lanes that rules often ask about together lie together, because a tree node looks at four
/// neighbours at once.
pub(crate) const fn places(blocks: usize) -> Places {
    if blocks <= 2 {
        Places {
            source: &[1, 0],
            destination: &[3, 2],
            destination_port: 4,
            source_port: 5,
            protocol: 6,
            icmp: 7,
            vlan: if blocks == 2 { Some(8) } else { None },
            flags: if blocks == 2 { Some(9) } else { None },
            source_class: if blocks == 2 { Some(10) } else { None },
            destination_class: if blocks == 2 { Some(12) } else { None },
        }
    } else {
        Places {
            source: &[0, 2, 4, 6, 8, 10, 12, 14],
            destination: &[1, 3, 5, 7, 9, 11, 13, 15],
            destination_port: 16,
            source_port: 17,
            protocol: 18,
            icmp: 19,
            vlan: Some(20),
            flags: Some(21),
            source_class: if blocks == 4 { Some(24) } else { None },
            destination_class: if blocks == 4 { Some(26) } else { None },
        }
    }
}

impl<const B: usize> Key<B> {
    const PLACES: Places = places(B);

    /// The lanes of `header`, or `None` when it is of the other address family.
    #[inline]
    pub(crate) fn new(header: &Header) -> Option<Self> {
        let mut key = Self([[0; WIDTH]; B]);
        match header.addresses {
            Addresses::V4 { source, destination } if B <= 2 => {
                key.addresses_v4(source, destination)
            }
            Addresses::V6 { source, destination } if B > 2 => key.addresses_v6(source, destination),
            _ => return None,
        }
        let places = Self::PLACES;
        key.set(places.destination_port, header.destination_port);
        key.set(places.source_port, header.source_port);
        key.set(places.protocol, header.protocol.into());
        key.set(places.icmp, u16::from_be_bytes([header.icmp_type, header.icmp_code]));
        if let Some(place) = places.vlan {
            key.set(place, header.vlan.unwrap_or(UNTAGGED));
        }
        if let Some(place) = places.flags {
            key.set(place, header.tcp_flags);
        }
        for (place, class) in [
            (places.source_class, header.source_class),
            (places.destination_class, header.destination_class),
        ] {
            if let Some(place) = place {
                let [low, high] = halves(class);
                key.set(place, low);
                key.set(place + 1, high);
            }
        }
        Some(key)
    }

    /// Lane `place`.
    #[inline]
    pub(crate) fn lane(&self, place: usize) -> u16 {
        self.0.as_flattened()[place]
    }

    #[inline]
    fn set(&mut self, place: usize, value: u16) {
        self.0.as_flattened_mut()[place] = value;
    }

    #[inline]
    fn addresses_v4(&mut self, source: Ipv4Addr, destination: Ipv4Addr) {
        let (source, destination) = (source.to_bits(), destination.to_bits());
        let [low, high] = halves(source);
        self.set(Self::PLACES.source[0], high);
        self.set(Self::PLACES.source[1], low);
        let [low, high] = halves(destination);
        self.set(Self::PLACES.destination[0], high);
        self.set(Self::PLACES.destination[1], low);
    }

    #[inline]
    fn addresses_v6(&mut self, source: Ipv6Addr, destination: Ipv6Addr) {
        for (place, segment) in Self::PLACES.source.iter().zip(source.segments()) {
            self.set(*place, segment);
        }
        for (place, segment) in Self::PLACES.destination.iter().zip(destination.segments()) {
            self.set(*place, segment);
        }
    }

    fn class(&self, place: Option<usize>) -> u32 {
        place.map_or(0, |low| u32::from(self.lane(low)) | u32::from(self.lane(low + 1)) << 16)
    }

    /// A header with these lanes, for counter-examples.
    pub(crate) fn header(&self) -> Header {
        let places = Self::PLACES;
        let segment = |place: &usize| self.lane(*place);
        let addresses = if B <= 2 {
            let address = |places: &[usize]| {
                Ipv4Addr::from_bits(
                    u32::from(segment(&places[0])) << 16 | u32::from(segment(&places[1])),
                )
            };
            Addresses::V4 {
                source: address(places.source),
                destination: address(places.destination),
            }
        } else {
            let address = |places: &[usize]| {
                let bits = places
                    .iter()
                    .fold(0u128, |bits, place| bits << 16 | u128::from(segment(place)));
                Ipv6Addr::from_bits(bits)
            };
            Addresses::V6 {
                source: address(places.source),
                destination: address(places.destination),
            }
        };
        let [icmp_type, icmp_code] = self.lane(places.icmp).to_be_bytes();
        let [protocol, _] = self.lane(places.protocol).to_le_bytes();
        Header {
            source_class: self.class(places.source_class),
            destination_class: self.class(places.destination_class),
            tcp_flags: places.flags.map_or(0, |place| self.lane(place)),
            vlan: places.vlan.map(|place| self.lane(place)).filter(|&vlan| vlan <= 4095),
            icmp_type,
            icmp_code,
            ..Header::new(
                addresses,
                protocol,
                self.lane(places.source_port),
                self.lane(places.destination_port),
            )
        }
    }
}

impl Key<1> {
    /// The lanes of an IPv4 5-tuple.
    #[inline]
    pub(crate) fn v4(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        source_port: u16,
        destination_port: u16,
    ) -> Self {
        let ([a, b], [c, d]) = (halves(source.to_bits()), halves(destination.to_bits()));
        Self([[a, b, c, d, destination_port, source_port, protocol.into(), 0]])
    }

    /// The same in the layout of all fields.
    #[inline]
    pub(crate) fn widened(&self) -> Key<2> {
        Key([self.0[0], [UNTAGGED, 0, 0, 0, 0, 0, 0, 0]])
    }
}

/// A box of lane ranges, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneBox<const B: usize> {
    pub(crate) low: [[u16; WIDTH]; B],
    pub(crate) high: [[u16; WIDTH]; B],
}

impl<const B: usize> LaneBox<B> {
    /// Whether `key` lies in the box.
    #[inline]
    pub(crate) fn contains(&self, key: &Key<B>) -> bool {
        let (low, high) = (self.low.as_flattened(), self.high.as_flattened());
        let bounds = low.iter().zip(high);
        // Without short-circuit, so that the compiler compares the lanes side by side.
        key.0
            .as_flattened()
            .iter()
            .zip(bounds)
            .fold(true, |inside, (lane, (low, high))| inside & (low <= lane) & (lane <= high))
    }

    const ALL: Self = Self { low: [[0; WIDTH]; B], high: [[u16::MAX; WIDTH]; B] };

    fn set(&mut self, place: usize, low: u16, high: u16) {
        self.low.as_flattened_mut()[place] = low;
        self.high.as_flattened_mut()[place] = high;
    }

    fn set_ports(&mut self, place: usize, ports: PortRange) {
        self.set(place, ports.first(), ports.last());
    }

    fn set_v4(&mut self, places: &[usize], prefix: Ipv4Prefix) {
        let ([low0, high0], [low1, high1]) = (halves(prefix.first()), halves(prefix.last()));
        self.set(places[0], high0, high1);
        self.set(places[1], low0, low1);
    }

    fn set_v6(&mut self, places: &[usize], prefix: Ipv6Prefix) {
        let first = Ipv6Addr::from_bits(prefix.first()).segments();
        let last = Ipv6Addr::from_bits(prefix.last()).segments();
        for ((place, low), high) in places.iter().zip(first).zip(last) {
            self.set(*place, low, high);
        }
    }

    /// The classes from `first` to `last`; whether the box says it exactly.
    fn set_class(&mut self, low_place: usize, first: u32, last: u32) -> bool {
        let ([low0, high0], [low1, high1]) = (halves(first), halves(last));
        self.set(low_place + 1, high0, high1);
        if high0 == high1 {
            self.set(low_place, low0, low1);
            return true;
        }
        low0 == 0 && low1 == u16::MAX
    }
}

/// What a rule asks beyond its box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Residual {
    /// The rule's place.
    pub(crate) id: u32,
    protocols: Option<ProtocolSet>,
    flags: TcpFlagsMatch,
    source_class: ClassMatch,
    destination_class: ClassMatch,
}

impl Residual {
    /// Whether `key`, which lies in the rule's box, meets the rest of the rule.
    pub(crate) fn matches<const B: usize>(&self, key: &Key<B>) -> bool {
        let places = places(B);
        let [protocol, _] = key.lane(places.protocol).to_le_bytes();
        let flags = places.flags.map_or(0, |place| key.lane(place));
        self.protocols.is_none_or(|set| set.contains(protocol))
            && self.flags.matches(flags)
            && self.source_class.matches(key.class(places.source_class))
            && self.destination_class.matches(key.class(places.destination_class))
    }
}

/// A rule, or a part of one, in lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry<const B: usize> {
    pub(crate) bounds: LaneBox<B>,
    /// The rule's place.
    pub(crate) id: u32,
    pub(crate) residual: Option<Box<Residual>>,
}

/// How many blocks a rule needs in the layouts of IPv4 and of IPv6; `None` where it matches no
/// header of the family.
pub(crate) fn blocks(rule: &Rule) -> (Option<usize>, Option<usize>) {
    let v4 = !matches!(rule.source, AddressMatch::V6(_))
        && !matches!(rule.destination, AddressMatch::V6(_));
    let v6 = !matches!(rule.source, AddressMatch::V4(_))
        && !matches!(rule.destination, AddressMatch::V4(_));
    let classes = rule.source_class != ClassMatch::Any || rule.destination_class != ClassMatch::Any;
    let more = classes || rule.vlan != VlanMatch::Any || rule.tcp_flags != TcpFlagsMatch::ANY;
    (v4.then_some(if more { 2 } else { 1 }), v6.then_some(if classes { 4 } else { 3 }))
}

/// The entries of rule number `id`: none when it can match no header of the layout's family, and
/// several, up to `most_runs`, when its protocols are not one run of numbers.
pub(crate) fn entries<const B: usize>(
    id: u32,
    rule: &Rule,
    most_runs: usize,
    into: &mut Vec<Entry<B>>,
) {
    let places = const { places(B) };
    let mut bounds = LaneBox::<B>::ALL;
    for (lanes, side) in [(places.source, rule.source), (places.destination, rule.destination)] {
        match side {
            AddressMatch::Any => {}
            AddressMatch::V4(prefix) if B <= 2 => bounds.set_v4(lanes, prefix),
            AddressMatch::V6(prefix) if B > 2 => bounds.set_v6(lanes, prefix),
            _ => return,
        }
    }
    bounds.set_ports(places.destination_port, rule.destination_ports);
    bounds.set_ports(places.source_port, rule.source_ports);
    if let Some(icmp) = rule.icmp {
        let (low, high) = icmp.code.map_or((0, u8::MAX), |code| (code, code));
        let [low, high] = [low, high].map(|code| u16::from_be_bytes([icmp.icmp_type, code]));
        bounds.set(places.icmp, low, high);
    }
    if let Some(place) = places.vlan {
        match rule.vlan {
            VlanMatch::Any => {}
            VlanMatch::Untagged => bounds.set(place, UNTAGGED, UNTAGGED),
            VlanMatch::Id(id) => bounds.set(place, id, id),
        }
    }
    let mut residual = Residual {
        id,
        protocols: None,
        flags: TcpFlagsMatch::ANY,
        source_class: ClassMatch::Any,
        destination_class: ClassMatch::Any,
    };
    if let Some(place) = places.flags
        && rule.tcp_flags != TcpFlagsMatch::ANY
    {
        let (value, mask) = (rule.tcp_flags.value(), rule.tcp_flags.mask());
        bounds.set(place, value, value | !mask);
        residual.flags = rule.tcp_flags;
    }
    for (place, class, left) in [
        (places.source_class, &rule.source_class, &mut residual.source_class),
        (places.destination_class, &rule.destination_class, &mut residual.destination_class),
    ] {
        let Some(place) = place else { continue };
        let (first, last) = match class {
            ClassMatch::Any => continue,
            ClassMatch::Exact(one) => (*one, *one),
            ClassMatch::Range(first, last) => (*first, *last),
            ClassMatch::Set(set) => match (set.first(), set.last()) {
                (Some(first), Some(last)) => (*first, *last),
                _ => return,
            },
        };
        let exact = bounds.set_class(place, first, last);
        let members = match class {
            ClassMatch::Set(set) => set.len() as u64,
            _ => u64::from(last - first) + 1,
        };
        if !exact || members != u64::from(last - first) + 1 {
            *left = class.clone();
        }
    }

    let protocols = protocols(rule);
    let mut runs = runs(&protocols);
    if runs.len() > most_runs {
        residual.protocols = Some(protocols);
        runs = vec![(runs[0].0, runs[runs.len() - 1].1)];
    }
    let plain = residual.protocols.is_none()
        && residual.flags == TcpFlagsMatch::ANY
        && residual.source_class == ClassMatch::Any
        && residual.destination_class == ClassMatch::Any;
    for (first, last) in runs {
        let mut bounds = bounds;
        // A rule for all protocols may as well take the whole lane: it shadows more.
        let last = if (first, last) == (0, 255) { u16::MAX - 1 } else { last };
        bounds.set(places.protocol, first, last);
        into.push(Entry { bounds, id, residual: (!plain).then(|| Box::new(residual.clone())) });
    }
}

/// The protocols that a rule can match, with what its flags and ICMP conditions imply.
fn protocols(rule: &Rule) -> ProtocolSet {
    let implied: Option<&[u8]> = match (rule.tcp_flags != TcpFlagsMatch::ANY, rule.icmp.is_some()) {
        (false, false) => None,
        (true, false) => Some(&[TCP]),
        (false, true) => Some(&[ICMP, ICMPV6]),
        (true, true) => Some(&[]),
    };
    match (implied, rule.protocol) {
        (Some(implied), asked) => {
            implied.iter().copied().filter(|protocol| asked.matches(*protocol)).collect()
        }
        (None, ProtocolMatch::Any) => ProtocolSet::ALL,
        (None, ProtocolMatch::Exact(one)) => [one].into_iter().collect(),
        (None, ProtocolMatch::Set(set)) => set,
    }
}

/// Runs of consecutive members, ascending.
fn runs(set: &ProtocolSet) -> Vec<(u16, u16)> {
    if *set == ProtocolSet::ALL {
        return vec![(0, 255)];
    }
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for member in set.iter().map(u16::from) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == member => *last = member,
            _ => runs.push((member, member)),
        }
    }
    runs
}

/// The low and the high 16 bits.
#[inline]
fn halves(value: u32) -> [u16; 2] {
    let [a, b, c, d] = value.to_le_bytes();
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
}
