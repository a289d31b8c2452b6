//! Prefix tables and traces for the benches: made from a fixed seed, the same everywhere.

use portcullis::identity_table::{IdentityId, Prefix};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A table to look up in.
pub(crate) struct Table {
    /// For the report.
    pub(crate) name: &'static str,
    /// Prefixes, each once; hot ones first.
    pub(crate) rows: Vec<(Prefix, IdentityId)>,
    /// How many groups of 256 DPDK's tables need.
    pub(crate) groups: u32,
}

/// Addresses to look up.
pub(crate) enum Trace {
    /// In host byte order.
    V4(Vec<u32>),
    /// In host byte order.
    V6(Vec<u128>),
}

/// The columns of a table as C wants them.
pub(crate) struct Columns {
    /// 4 bytes in host order, or 16 in network order, each; aligned for both.
    pub(crate) addresses: Vec<u32>,
    /// Prefix lengths.
    pub(crate) lens: Vec<u8>,
    /// Identities.
    pub(crate) values: Vec<u32>,
}

impl Table {
    /// All tables.
    pub(crate) fn all() -> Vec<Self> {
        vec![pods4(), internet4(), pods6(), internet6()]
    }

    /// Whether the table is of IPv6.
    pub(crate) fn is_v6(&self) -> bool {
        self.rows[0].0.is_v6()
    }

    /// Addresses inside the prefixes: each prefix as likely, or the first the most (Zipf, 1.1).
    pub(crate) fn trace(&self, queries: usize, skewed: bool) -> Trace {
        let mut random = Random(7);
        let mut sum = 0.0;
        let weights: Vec<f64> = (1..=self.rows.len())
            .map(|rank| {
                sum += (rank as f64).powf(-1.1);
                sum
            })
            .collect();
        let mut address = || {
            let row = if skewed {
                let at = random.unit() * sum;
                weights.partition_point(|weight| *weight < at).min(self.rows.len() - 1)
            } else {
                random.below(self.rows.len() as u64) as usize
            };
            random.inside(&self.rows[row].0)
        };
        let all: Vec<IpAddr> = (0..queries).map(|_| address()).collect();
        if self.is_v6() {
            let number = |a: &IpAddr| if let IpAddr::V6(a) = a { u128::from(*a) } else { 0 };
            Trace::V6(all.iter().map(number).collect())
        } else {
            let number = |a: &IpAddr| if let IpAddr::V4(a) = a { u32::from(*a) } else { 0 };
            Trace::V4(all.iter().map(number).collect())
        }
    }

    /// The columns of the table, the shorter prefixes first: rte_fib6 runs out of groups otherwise.
    pub(crate) fn columns(&self) -> Columns {
        let mut columns = Columns { addresses: vec![], lens: vec![], values: vec![] };
        let mut rows = self.rows.clone();
        rows.sort_by_key(|(prefix, _)| prefix.len());
        for (prefix, id) in &rows {
            match prefix.address() {
                IpAddr::V4(address) => columns.addresses.push(address.into()),
                IpAddr::V6(address) => {
                    let words = address.octets();
                    let words =
                        words.chunks(4).map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
                    columns.addresses.extend(words);
                }
            }
            columns.lens.push(prefix.len());
            columns.values.push(id.get());
        }
        columns
    }
}

impl Trace {
    /// The addresses as C wants them: see [`Columns::addresses`].
    pub(crate) fn bytes(&self) -> Vec<u32> {
        match self {
            Self::V4(addresses) => addresses.clone(),
            Self::V6(addresses) => addresses
                .iter()
                .flat_map(|a| {
                    let b = a.to_be_bytes();
                    [0, 4, 8, 12].map(|i| u32::from_ne_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]))
                })
                .collect(),
        }
    }
}

/// 100,000 pods in 3,640 /24s, 27 in each, and 10,000 CIDRs of /16 to /28.
pub(crate) fn pods4() -> Table {
    let mut random = Random(1);
    let mut rows = Vec::new();
    for i in 0..100_000_u32 {
        let quarter = (random.below(4) as u32) << 22;
        let address = 0x0a00_0000 | (i / 110) << 8 | (i % 110 + 1) | quarter;
        rows.push((Prefix::host(Ipv4Addr::from(address).into()), i % 4000 + 1));
    }
    for i in 0..10_000_u32 {
        let address = Ipv4Addr::from(random.next() as u32);
        let len = 16 + random.below(13) as u8;
        rows.push((prefix(address.into(), len), i % 2000 + 5000));
    }
    table("pods4", rows, 1 << 15)
}

/// 900,000 prefixes with the lengths of the public IPv4 table, 60 % of them /24.
pub(crate) fn internet4() -> Table {
    const LENS: [(u8, u32); 12] = [
        (8, 2),
        (12, 30),
        (14, 130),
        (16, 1430),
        (17, 880),
        (18, 1460),
        (19, 2700),
        (20, 4650),
        (21, 5550),
        (22, 11_500),
        (23, 10_700),
        (24, 60_600),
    ];
    let mut random = Random(2);
    let rows = (0..900_000).map(|_| {
        let address = 0x0100_0000 + random.below(222 << 24) as u32;
        (prefix(Ipv4Addr::from(address).into(), random.pick(&LENS)), 1 + random.below(250) as u32)
    });
    table("internet4", rows.collect(), 1 << 10)
}

/// 100,000 pods in /122 blocks of one /64 and 10,000 other /64s.
pub(crate) fn pods6() -> Table {
    let mut random = Random(3);
    let mut block = 0;
    let mut rows = Vec::new();
    for i in 0..100_000_u32 {
        if i % 63 == 0 {
            block = u128::from(random.next() & !63) | 0xfd10 << 112;
        }
        let address = Ipv6Addr::from(block | u128::from(i % 63 + 1));
        rows.push((Prefix::host(address.into()), i % 4000 + 1));
        if i % 63 == 62 {
            rows.push((prefix(Ipv6Addr::from(block).into(), 122), 9001));
        }
    }
    rows.push((prefix(Ipv6Addr::from(0xfd10 << 112).into(), 64), 9000));
    for i in 0..10_000_u32 {
        let address = Ipv6Addr::from(0x2000 << 112 | u128::from(random.next()) << 64 >> 4);
        rows.push((prefix(address.into(), 64), i % 2000 + 5000));
    }
    table("pods6", rows, 900_000)
}

/// 200,000 prefixes with the lengths of the public IPv6 table, half of them /48.
pub(crate) fn internet6() -> Table {
    const LENS: [(u8, u32); 12] = [
        (48, 46),
        (32, 13),
        (44, 10),
        (40, 8),
        (36, 4),
        (29, 3),
        (46, 3),
        (45, 2),
        (47, 3),
        (33, 3),
        (42, 3),
        (56, 2),
    ];
    let mut random = Random(4);
    let rows = (0..200_000).map(|_| {
        let origin = u128::from(random.below(24_000));
        let high = 0x2000 << 112
            | (origin % 12) << 116
            | (origin.wrapping_mul(0x9e3779) % (1 << 20)) << 96;
        let address = Ipv6Addr::from(high | u128::from(random.next()) << 32);
        (prefix(address.into(), random.pick(&LENS)), 1 + random.below(250) as u32)
    });
    table("internet6", rows.collect(), 400_000)
}

fn prefix(address: IpAddr, len: u8) -> Prefix {
    Prefix::truncated(address, len).expect("a length of the family")
}

/// Each prefix once, in the order of its first appearance.
fn table(name: &'static str, rows: Vec<(Prefix, u32)>, groups: u32) -> Table {
    let mut seen = BTreeMap::new();
    let rows = rows.into_iter().filter(|(prefix, _)| seen.insert(*prefix, ()).is_none());
    Table { name, rows: rows.map(|(prefix, id)| (prefix, IdentityId::new(id))).collect(), groups }
}

/// xorshift64: small and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn pick(&mut self, weighted: &[(u8, u32)]) -> u8 {
        let sum = weighted.iter().map(|(_, weight)| weight).sum::<u32>();
        let mut at = self.below(sum.into()) as u32;
        for (value, weight) in weighted {
            if at < *weight {
                return *value;
            }
            at -= weight;
        }
        weighted[0].0
    }

    fn inside(&mut self, prefix: &Prefix) -> IpAddr {
        let random = u128::from(self.next()) << 64 | u128::from(self.next());
        match prefix.address() {
            IpAddr::V4(address) => {
                let host = (random as u32).checked_shr(prefix.len().into()).unwrap_or(0);
                Ipv4Addr::from(u32::from(address) | host).into()
            }
            IpAddr::V6(address) => {
                let host = random.checked_shr(prefix.len().into()).unwrap_or(0);
                Ipv6Addr::from(u128::from(address) | host).into()
            }
        }
    }
}
