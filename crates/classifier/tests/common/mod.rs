//! Hostile rules and headers: few distinct values, so that rules nest, repeat, overlap and shadow
//! each other, and headers sit on their edges.

#![allow(dead_code)]

use std::net::{Ipv4Addr, Ipv6Addr};

use portcullis_classifier::{
    AddressMatch, ClassMatch, Header, IcmpMatch, Ipv4Prefix, Ipv6Prefix, PortRange, ProtocolMatch,
    Rule, TcpFlagsMatch, VlanMatch,
};
use proptest::prelude::*;

const PORTS: [u16; 8] = [0, 1, 79, 80, 81, 1023, 1024, 65535];
const PROTOCOLS: [u8; 6] = [0, 1, 6, 17, 58, 255];
const CLASSES: [u32; 6] = [0, 1, 0xffff, 0x1_0000, 0x1_0001, u32::MAX];

fn v4() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        Just(u32::MAX),
        (0u32..4, 0u32..4).prop_map(|(a, b)| 0x0a00_0000 | a << 16 | b),
        any::<u32>(),
    ]
}

fn v6() -> impl Strategy<Value = u128> {
    prop_oneof![
        Just(0),
        Just(u128::MAX),
        (0u128..3, 0u128..3).prop_map(|(a, b)| 0x2001_0db8 << 96 | a << 64 | b),
        any::<u128>(),
    ]
}

fn prefix_v4() -> impl Strategy<Value = AddressMatch> {
    (v4(), prop_oneof![Just(0u8), Just(32), Just(31), Just(1), 0u8..=32]).prop_map(|(bits, len)| {
        let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
        AddressMatch::V4(Ipv4Prefix::new(Ipv4Addr::from_bits(bits & mask), len).unwrap())
    })
}

fn prefix_v6() -> impl Strategy<Value = AddressMatch> {
    (v6(), prop_oneof![Just(0u8), Just(128), Just(64), Just(1), 0u8..=128]).prop_map(
        |(bits, len)| {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            AddressMatch::V6(Ipv6Prefix::new(Ipv6Addr::from_bits(bits & mask), len).unwrap())
        },
    )
}

fn addresses() -> impl Strategy<Value = (AddressMatch, AddressMatch)> {
    let any = || Just(AddressMatch::Any);
    prop_oneof![
        4 => (prop_oneof![3 => prefix_v4(), 1 => any()], prop_oneof![3 => prefix_v4(), 1 => any()]),
        2 => (prop_oneof![3 => prefix_v6(), 1 => any()], prop_oneof![3 => prefix_v6(), 1 => any()]),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![4 => prop::sample::select(&PORTS[..]), 1 => any::<u16>()]
}

fn ports() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        Just(PortRange::ANY),
        (port(), port()).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap()),
    ]
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![8 => prop::sample::select(&PROTOCOLS[..]), 1 => any::<u8>()]
}

fn protocols() -> impl Strategy<Value = ProtocolMatch> {
    prop_oneof![
        4 => Just(ProtocolMatch::Any),
        4 => protocol().prop_map(ProtocolMatch::Exact),
        1 => prop::collection::vec(protocol(), 0..12)
            .prop_map(|set| ProtocolMatch::Set(set.into_iter().collect())),
    ]
}

fn class() -> impl Strategy<Value = u32> {
    prop::sample::select(&CLASSES[..])
}

fn classes() -> impl Strategy<Value = ClassMatch> {
    prop_oneof![
        5 => Just(ClassMatch::Any),
        1 => class().prop_map(ClassMatch::Exact),
        1 => (class(), class()).prop_map(|(a, b)| ClassMatch::range(a.min(b), a.max(b)).unwrap()),
        1 => prop::collection::vec(class(), 0..4).prop_map(ClassMatch::set),
    ]
}

/// A rule of 5-tuple and ICMP only, which the short layouts take.
pub(crate) fn plain_rule() -> impl Strategy<Value = Rule> {
    let icmp = prop::option::weighted(0.1, (0u8..3, prop::option::of(0u8..2)));
    (addresses(), ports(), ports(), protocols(), icmp).prop_map(
        |((source, destination), source_ports, destination_ports, protocol, icmp)| Rule {
            source,
            destination,
            source_ports,
            destination_ports,
            protocol,
            icmp: icmp.map(|(icmp_type, code)| IcmpMatch { icmp_type, code }),
            ..Rule::any(0)
        },
    )
}

/// A rule with any condition.
pub(crate) fn rule() -> impl Strategy<Value = Rule> {
    let flags = prop_oneof![
        4 => Just(TcpFlagsMatch::ANY),
        1 => (any::<u16>(), prop::sample::select(&[0x02u16, 0x12, 0x1000, 0xffff][..]))
            .prop_map(|(value, mask)| TcpFlagsMatch::new(value & mask, mask).unwrap()),
    ];
    let vlan = prop_oneof![
        4 => Just(VlanMatch::Any),
        1 => Just(VlanMatch::Untagged),
        1 => prop::sample::select(&[0u16, 7, 4095][..]).prop_map(VlanMatch::Id),
    ];
    (plain_rule(), flags, vlan, classes(), classes()).prop_map(
        |(rule, tcp_flags, vlan, source_class, destination_class)| Rule {
            tcp_flags,
            vlan,
            source_class,
            destination_class,
            ..rule
        },
    )
}

/// A header that sits where rules have their edges.
pub(crate) fn header() -> impl Strategy<Value = Header> {
    let addresses = prop_oneof![
        2 => (v4(), v4()).prop_map(|(a, b)| Header::v4(a, b, 0, 0, 0)),
        1 => (v6(), v6()).prop_map(|(a, b)| Header::v6(a, b, 0, 0, 0)),
    ];
    let flags = prop_oneof![Just(0u16), Just(0x02), Just(0x12), any::<u16>()];
    let vlan = prop::option::of(prop::sample::select(&[0u16, 7, 4095][..]));
    (addresses, protocol(), port(), port(), flags, vlan, class(), class(), 0u8..3, 0u8..3).prop_map(
        |(
            header,
            protocol,
            source_port,
            destination_port,
            tcp_flags,
            vlan,
            from,
            to,
            kind,
            code,
        )| {
            Header {
                source_class: from,
                destination_class: to,
                tcp_flags,
                vlan,
                icmp_type: kind,
                icmp_code: code,
                ..Header::new(header.addresses, protocol, source_port, destination_port)
            }
        },
    )
}
