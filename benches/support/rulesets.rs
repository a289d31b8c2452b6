//! Rule sets for the benches: ClassBench files if there are any, or made here in their likeness.
//!
//! `PORTCULLIS_RULESETS` names a folder of ClassBench files, plain or as .gz or .xz. Without it the
//! sets are made from a fixed seed: pools of nested prefixes, the usual ports, and for each kind the
//! share of rules that leave addresses or ports open.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis::classifier::{
    Ipv4Prefix, PortRange, ProtocolMatch, Rule, RuleSet, TcpFlagsMatch, classbench,
};

/// A named rule set of IPv4 5-tuples.
pub(crate) struct Named {
    /// `acl1_10k` and so on.
    pub(crate) name: String,
    /// Its rules.
    pub(crate) rules: RuleSet,
}

/// The sets of a size: `1k`, `10k` or `100k`.
pub(crate) fn of_size(size: &str) -> Vec<Named> {
    let names = ["acl1", "fw1", "ipc1"].map(|kind| format!("{kind}_{size}"));
    let folder = std::env::var_os("PORTCULLIS_RULESETS").map(PathBuf::from);
    let count = match size {
        "1k" => 1_000,
        "10k" => 10_000,
        _ => 100_000,
    };
    let one = |name: String| {
        let rules = folder.as_deref().and_then(|folder| read(folder, &name));
        let rules =
            rules.unwrap_or_else(|| made(&name[..name.find(['1', '_']).unwrap_or(0)], count));
        Named { name, rules }
    };
    names.into_iter().map(one).collect()
}

/// Flags and ICMP types are left out: the peers take 5-tuples.
fn read(folder: &Path, name: &str) -> Option<RuleSet> {
    let unpack = |program: &str, extension: &str| {
        let path = folder.join(format!("{name}{extension}"));
        let output = path.exists().then(|| Command::new(program).arg(&path).output().ok())??;
        String::from_utf8(output.stdout).ok()
    };
    let text =
        unpack("cat", "").or_else(|| unpack("zcat", ".gz")).or_else(|| unpack("xzcat", ".xz"))?;
    let rules = classbench::parse(name, &text).expect("ClassBench text");
    let rules = rules
        .into_iter()
        .map(|rule| Rule { tcp_flags: TcpFlagsMatch::ANY, icmp: None, ..rule })
        .collect();
    Some(RuleSet::new(rules).expect("rules that a set takes"))
}

/// Per mille of rules with an open source, an open destination, an exact destination port, a range
/// of them, an exact source port.
fn shares(kind: &str) -> [u64; 5] {
    match kind {
        "fw" => [600, 220, 620, 60, 120],
        "ipc" => [110, 90, 370, 80, 150],
        _ => [5, 25, 600, 110, 0],
    }
}

fn made(kind: &str, count: usize) -> RuleSet {
    let mut state = count as u64 + kind.len() as u64;
    let mut next = move |limit: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ word >> 31) % limit
    };
    let [open_source, open_destination, exact, range, source_exact] = shares(kind);
    let sites: Vec<u32> = (0..(count as u64 / 40).max(8)).map(|_| next(1 << 32) as u32).collect();
    let mut rules = Vec::with_capacity(count);
    while rules.len() + 1 < count {
        let mut rule = Rule::any(0);
        let mut prefix = || {
            let site = sites[next(sites.len() as u64) as usize] & 0xffff_f000;
            let len = [16, 20, 24, 24, 27, 28, 29, 30, 32, 32, 32, 32][next(12) as usize];
            let bits = (site | next(1 << 12) as u32) & u32::MAX << (32 - len);
            Ipv4Prefix::new(bits.into(), len as u8).expect("no host bits")
        };
        let (source, destination) = (prefix(), prefix());
        if next(1000) >= open_source {
            rule = rule.from_v4(source);
        }
        if next(1000) >= open_destination {
            rule = rule.to_v4(destination);
        }
        let port =
            |at: u64| [80, 443, 53, 22, 25, 110, 123, 161, 1521, 3306, 5432, 8080][at as usize];
        match next(1000) {
            roll if roll < exact / 2 => {
                rule = rule.destination_ports(PortRange::exact(port(next(12))))
            }
            roll if roll < exact => {
                rule = rule.destination_ports(PortRange::exact(next(1 << 16) as u16));
            }
            roll if roll < exact + range => {
                let ends = [(1024, 65535), (0, 1023), (6000, 6063), (137, 139)][next(4) as usize];
                rule = rule.destination_ports(PortRange::new(ends.0, ends.1).expect("ordered"));
            }
            _ => {}
        }
        if next(1000) < source_exact {
            rule = rule.source_ports(PortRange::exact(port(next(12))));
        }
        rule.protocol = match next(10) {
            0 => ProtocolMatch::Any,
            1 => ProtocolMatch::Exact(1),
            2..5 => ProtocolMatch::Exact(17),
            _ => ProtocolMatch::Exact(6),
        };
        rules.push(rule);
    }
    // The more specific first, as people write them; a default at the end.
    rules.sort_by_key(|rule| {
        let open = |side: &portcullis::classifier::AddressMatch| match side {
            portcullis::classifier::AddressMatch::V4(prefix) => 32 - u32::from(prefix.len()),
            _ => 32,
        };
        (open(&rule.source) + open(&rule.destination)) / 16
    });
    rules.push(Rule::any(1).to_v4(Ipv4Prefix::ALL));
    RuleSet::new(rules).expect("rules that a set takes")
}
