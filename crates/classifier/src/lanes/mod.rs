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

mod entry;

pub(crate) use entry::{Entry, LaneBox, Residual, SPLIT, WHOLE, blocks, entries};

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::header::{Addresses, Header};

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

/// The low and the high 16 bits.
#[inline]
fn halves(value: u32) -> [u16; 2] {
    let [a, b, c, d] = value.to_le_bytes();
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
}
