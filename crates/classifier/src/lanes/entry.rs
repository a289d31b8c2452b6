//! Rules in lanes: a box, and what the box does not say.

use std::net::Ipv6Addr;

use super::{Key, UNTAGGED, WIDTH, halves, places};
use crate::rule::{
    AddressMatch, ClassMatch, ICMP, ICMPV6, Ipv4Prefix, Ipv6Prefix, PortRange, ProtocolMatch,
    ProtocolSet, Rule, TCP, TcpFlagsMatch, VlanMatch,
};

/// Runs of protocols that a rule may be split into for the trees; more are left to a residual.
pub(crate) const SPLIT: usize = 4;
/// Keeps a rule in one piece.
pub(crate) const WHOLE: usize = 1;

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

    /// Whether a key can lie in both.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let ends = |bounds: &Self| (bounds.low, bounds.high);
        let ((low, high), (other_low, other_high)) = (ends(self), ends(other));
        let above = low.as_flattened().iter().zip(other_high.as_flattened());
        let below = other_low.as_flattened().iter().zip(high.as_flattened());
        above.chain(below).all(|(low, high)| low <= high)
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
