//! The slowest headers that can be found by someone who knows the rules.

use super::random::Random;
use super::{header, uniform};
use crate::header::{Addresses, Header};
use crate::tree::Tree;

/// Rounds of mixing after the first sample.
const ROUNDS: usize = 6;

/// `count` headers that touch as much memory in `tree` as could be found. Starts from headers of
/// all rules, then mixes fields of the slowest with each other and with fresh ones, round by round,
/// and keeps what is slower. The result holds many different headers, so that caches do not help.
///
/// ```
/// use portcullis_classifier::{Rule, RuleSet, tree, workload};
///
/// let rules = RuleSet::new(vec![Rule::any(0).protocol(6), Rule::any(1)]).unwrap();
/// let tree = tree::Builder::new().build(&rules).unwrap();
/// assert_eq!(workload::adversarial(&tree, 100, 1).len(), 100);
/// ```
#[must_use]
pub fn adversarial(tree: &Tree, count: usize, seed: u64) -> Vec<Header> {
    let rules = tree.rules();
    if rules.is_empty() || count == 0 {
        return Vec::new();
    }
    let mut random = Random::new(seed);
    let pool = (count / 4).clamp(64, 1 << 15);
    let mut slowest: Vec<(usize, Header)> = uniform(rules, pool * 4, seed)
        .into_iter()
        .map(|header| (tree.touches(&header), header))
        .collect();
    keep(&mut slowest, pool);
    for _ in 0..ROUNDS {
        for _ in 0..pool * 2 {
            let first = slowest[random.below(pool.min(slowest.len()))].1;
            let other = if random.next().is_multiple_of(2) {
                slowest[random.below(pool.min(slowest.len()))].1
            } else {
                header(&rules.rules()[random.below(rules.len())], &mut random)
            };
            let mixed = mix(first, other, random.next());
            slowest.push((tree.touches(&mixed), mixed));
        }
        keep(&mut slowest, pool);
    }
    // The slowest eighth, many times over but never twice in a row.
    slowest.truncate((pool / 8).max(1));
    (0..count).map(|_| slowest[random.below(slowest.len())].1).collect()
}

fn keep(slowest: &mut Vec<(usize, Header)>, count: usize) {
    slowest.sort_by_key(|(touches, _)| std::cmp::Reverse(*touches));
    slowest.truncate(count);
}

/// A header with each field from one of two.
fn mix(first: Header, other: Header, choice: u64) -> Header {
    let other_s = |bit: u32| choice >> bit & 1 == 1;
    let addresses = match (first.addresses, other.addresses) {
        (Addresses::V4 { source, .. }, Addresses::V4 { destination, .. }) if other_s(0) => {
            Addresses::V4 { source, destination }
        }
        (Addresses::V6 { source, .. }, Addresses::V6 { destination, .. }) if other_s(0) => {
            Addresses::V6 { source, destination }
        }
        (addresses, _) => addresses,
    };
    Header {
        addresses,
        source_port: if other_s(1) { other.source_port } else { first.source_port },
        destination_port: if other_s(2) { other.destination_port } else { first.destination_port },
        protocol: if other_s(3) { other.protocol } else { first.protocol },
        source_class: if other_s(4) { other.source_class } else { first.source_class },
        destination_class: if other_s(5) {
            other.destination_class
        } else {
            first.destination_class
        },
        tcp_flags: if other_s(6) { other.tcp_flags } else { first.tcp_flags },
        vlan: if other_s(7) { other.vlan } else { first.vlan },
        ..first
    }
}
