//! Rules and headers made of any bytes: all engines answer as linear search does, and the proof
//! holds. Then some of the rules are deleted, and others inserted, and it all has to hold at once.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_classifier::{
    ClassMatch, Header, IcmpMatch, Ipv4Prefix, Ipv6Prefix, PortRange, Rule, RuleSet, TcpFlagsMatch,
    VlanMatch, linear, meta, tree,
    tuple::{Priority, RuleHandle},
};

/// Bytes, and zeros when they run out.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// One of a few edges, mostly.
    fn word(&mut self) -> u16 {
        const EDGES: [u16; 7] = [0, 1, 80, 1023, 1024, 65534, 65535];
        let byte = self.byte();
        EDGES
            .get(usize::from(byte))
            .copied()
            .unwrap_or_else(|| u16::from_be_bytes([byte, self.byte()]))
    }

    fn v4(&mut self) -> u32 {
        u32::from(self.word()) << 16 | u32::from(self.word())
    }

    fn v6(&mut self) -> u128 {
        u128::from(self.v4()) << 96 | u128::from(self.v4())
    }

    fn rule(&mut self) -> Rule {
        let mut rule = Rule::any(0);
        let kind = self.byte();
        for side in 0..2u8 {
            if kind >> side & 1 == 0 {
                continue;
            }
            let (v4, v6, len) = (self.v4(), self.v6(), self.byte());
            let from = side == 0;
            if kind & 4 == 0 {
                let len = len % 33;
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                let prefix = Ipv4Prefix::new((v4 & mask).into(), len).expect("no host bits");
                rule = if from { rule.from_v4(prefix) } else { rule.to_v4(prefix) };
            } else {
                let len = len % 129;
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                let prefix = Ipv6Prefix::new((v6 & mask).into(), len).expect("no host bits");
                rule = if from { rule.from_v6(prefix) } else { rule.to_v6(prefix) };
            }
        }
        if kind & 8 != 0 {
            let (a, b) = (self.word(), self.word());
            rule = rule.destination_ports(PortRange::new(a.min(b), a.max(b)).expect("ordered"));
        }
        if kind & 16 != 0 {
            let (a, b) = (self.word(), self.word());
            rule = rule.source_ports(PortRange::new(a.min(b), a.max(b)).expect("ordered"));
        }
        if kind & 32 != 0 {
            rule = rule.protocol([0, 1, 6, 17, 58, 255][usize::from(self.byte() % 6)]);
        }
        if kind & 64 != 0 {
            match self.byte() % 4 {
                0 => rule.icmp = Some(IcmpMatch { icmp_type: self.byte() % 4, code: None }),
                1 => {
                    let (value, mask) = (self.word(), self.word());
                    rule.tcp_flags = TcpFlagsMatch::new(value & mask, mask).expect("masked");
                }
                2 => rule.vlan = VlanMatch::Id(self.word() & 4095),
                _ => rule.vlan = VlanMatch::Untagged,
            }
        }
        if kind & 128 != 0 {
            let (a, b) = (self.v4(), self.v4());
            rule.source_class = match self.byte() % 3 {
                0 => ClassMatch::Exact(a),
                1 => ClassMatch::range(a.min(b), a.max(b)).expect("ordered"),
                _ => ClassMatch::set([a, b]),
            };
        }
        rule
    }

    fn header(&mut self) -> Header {
        let kind = self.byte();
        let (ports, protocol) =
            ((self.word(), self.word()), [0, 1, 6, 17, 58, 255][usize::from(kind % 6)]);
        let header = if kind & 128 == 0 {
            Header::v4(self.v4(), self.v4(), protocol, ports.0, ports.1)
        } else {
            Header::v6(self.v6(), self.v6(), protocol, ports.0, ports.1)
        };
        Header {
            tcp_flags: self.word(),
            vlan: (kind & 64 != 0).then(|| self.word() & 4095),
            source_class: self.v4(),
            icmp_type: self.byte() % 4,
            ..header
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let rules = (0..bytes.byte() % 48).map(|_| bytes.rule()).collect();
    let rules = RuleSet::new(rules).expect("rules that a set takes");
    let oracle = linear::Builder::new().build(&rules).expect("no limit");
    let config = tree::Config::default().touch_limit(1 << 16);
    let tree = tree::Builder::new().configure(config).build(&rules).expect("few rules");
    tree.verify().expect("the proof holds");
    let meta = meta::Builder::new().build(&rules).expect("few rules");
    let headers: Vec<Header> = (0..64).map(|_| bytes.header()).collect();
    let mut found = vec![None; headers.len()];
    tree.lookup_batch(&headers, &mut tree::Scratch::default(), &mut found);
    for (header, found) in headers.iter().zip(found) {
        let expected = oracle.lookup(header);
        assert_eq!(found, expected, "{header:?}");
        assert_eq!(tree.lookup(header), expected, "{header:?}");
        let place = meta.lookup(header).map(|found| found.rule.as_u64());
        assert_eq!(place, expected.map(|id| id.as_u32().into()), "{header:?}");
    }

    let mut left: Vec<(Priority, RuleHandle, Rule)> = Vec::new();
    for (id, rule) in rules.iter() {
        let handle = RuleHandle::new(u64::from(id.as_u32()));
        match bytes.byte() % 4 {
            0 => meta.remove(handle).expect("a rule that is there"),
            1 => {
                let (other, before) = (bytes.rule(), Priority::new(u64::from(id.as_u32()) << 32));
                let inserted = meta.insert(before, other.clone()).expect("few rules");
                left.extend([(before, inserted, other), (Priority::of(id), handle, rule.clone())]);
            }
            _ => left.push((Priority::of(id), handle, rule.clone())),
        }
    }
    left.sort_by_key(|(priority, handle, _)| (*priority, *handle));
    let mut found = vec![None; headers.len()];
    meta.lookup_batch(&headers, &mut meta::Scratch::default(), &mut found);
    for (header, found) in headers.iter().zip(found) {
        let expected = left.iter().find(|(_, _, rule)| rule.matches(header));
        assert_eq!(found.map(|found| found.rule), expected.map(|(_, handle, _)| *handle));
    }
});
