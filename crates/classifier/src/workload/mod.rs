//! Headers to measure with: uniform over the rules, skewed as real traffic is, and adversarial,
//! made by someone who knows the rules and looks for what is slowest. All deterministic by seed.

mod adversarial;
mod random;

pub use adversarial::adversarial;

use crate::header::{Addresses, Header};
use crate::rule::{AddressMatch, ClassMatch, PortRange, Rule, RuleSet, VlanMatch};
use random::Random;

/// `count` headers: for each, a rule at random and a header at random among those that the rule
/// matches by itself. Empty when there are no rules.
///
/// ```
/// use portcullis_classifier::{Rule, RuleSet, workload};
///
/// let rules = RuleSet::new(vec![Rule::any(0).to_v4("10.0.0.0/8".parse().unwrap())]).unwrap();
/// let headers = workload::uniform(&rules, 100, 1);
/// assert!(headers.iter().all(|header| rules.rules()[0].matches(header)));
/// ```
#[must_use]
pub fn uniform(rules: &RuleSet, count: usize, seed: u64) -> Vec<Header> {
    let mut random = Random::new(seed);
    if rules.is_empty() {
        return Vec::new();
    }
    let one = |_| header(&rules.rules()[random.below(rules.len())], &mut random);
    (0..count).map(one).collect()
}

/// `count` headers of 16 flows a rule (at most 65,536), the flow of rank `r` with a frequency in
/// proportion to `r` to the power of -1.1 (Zipf).
///
/// ```
/// use portcullis_classifier::{Rule, RuleSet, workload};
///
/// let rules = RuleSet::new(vec![Rule::any(0)]).unwrap();
/// assert_eq!(workload::zipf(&rules, 100, 1).len(), 100);
/// ```
#[must_use]
pub fn zipf(rules: &RuleSet, count: usize, seed: u64) -> Vec<Header> {
    let flows = uniform(rules, (rules.len() * 16).min(65_536), seed);
    if flows.is_empty() {
        return flows;
    }
    let mut sum = 0.0;
    let weights = (1..=flows.len()).map(|rank| {
        sum += (rank as f64).powf(-1.1);
        sum
    });
    let weights: Vec<f64> = weights.collect();
    let mut random = Random::new(!seed);
    let one = |_| {
        let at = random.fraction() * sum;
        flows[weights.partition_point(|weight| *weight < at).min(flows.len() - 1)]
    };
    (0..count).map(one).collect()
}

/// A header at random among those that `rule` matches. Rules for any address get IPv4 ones.
fn header(rule: &Rule, random: &mut Random) -> Header {
    let v6 = matches!(rule.source, AddressMatch::V6(_))
        || matches!(rule.destination, AddressMatch::V6(_));
    let range = |side: AddressMatch| match side {
        AddressMatch::V4(prefix) => (prefix.first().into(), prefix.last().into()),
        AddressMatch::V6(prefix) => (prefix.first(), prefix.last()),
        AddressMatch::Any if v6 => (0, u128::MAX),
        AddressMatch::Any => (0, u32::MAX.into()),
    };
    let mut within = |(first, last): (u128, u128)| random.within(first, last);
    let (source, destination) = (within(range(rule.source)), within(range(rule.destination)));
    let addresses = addresses(v6, source, destination);
    let protocols: Vec<u8> =
        (0..=u8::MAX).filter(|&number| rule.protocol.matches(number)).collect();
    // Any protocol: mostly TCP and UDP, as in traffic.
    let usual = [6, 6, 6, 6, 6, 6, 17, 17, 17, 1];
    let protocols = if protocols.len() == 256 { &usual[..] } else { &protocols[..] };
    let mut port = |ports: PortRange| {
        let port = random.within(ports.first().into(), ports.last().into());
        u16::try_from(port).unwrap_or(u16::MAX)
    };
    let (source_port, destination_port) = (port(rule.source_ports), port(rule.destination_ports));
    let protocol = if protocols.is_empty() { 0 } else { protocols[random.below(protocols.len())] };
    let free = random.next().to_le_bytes();
    let flags = u16::from_le_bytes([free[0], free[1] & 1]);
    Header {
        source_class: class(&rule.source_class, random),
        destination_class: class(&rule.destination_class, random),
        tcp_flags: flags & !rule.tcp_flags.mask() | rule.tcp_flags.value(),
        vlan: match rule.vlan {
            VlanMatch::Id(id) => Some(id),
            VlanMatch::Any | VlanMatch::Untagged => None,
        },
        icmp_type: rule.icmp.map_or(free[2], |icmp| icmp.icmp_type),
        icmp_code: rule.icmp.and_then(|icmp| icmp.code).unwrap_or(free[3]),
        ..Header::new(addresses, protocol, source_port, destination_port)
    }
}

fn addresses(v6: bool, source: u128, destination: u128) -> Addresses {
    let v4 = |bits: u128| u32::try_from(bits).unwrap_or(u32::MAX).into();
    if v6 {
        Addresses::V6 { source: source.into(), destination: destination.into() }
    } else {
        Addresses::V4 { source: v4(source), destination: v4(destination) }
    }
}

fn class(class: &ClassMatch, random: &mut Random) -> u32 {
    let (first, last) = match class {
        ClassMatch::Any => (0, u32::MAX),
        ClassMatch::Exact(one) => (*one, *one),
        ClassMatch::Range(first, last) => (*first, *last),
        ClassMatch::Set(set) if set.is_empty() => (0, 0),
        ClassMatch::Set(set) => return set[random.below(set.len())],
    };
    u32::try_from(random.within(first.into(), last.into())).unwrap_or(last)
}
