//! Dividing the rules among a few trees by what they leave open: a rule that does not care about
//! the bits that a tree looks at would be copied into many of its leaves.

use super::cut::Fixed;
use crate::lanes::{WIDTH, places};

/// An address of which a rule gives fewer bits than this counts as open. Of IPv6 addresses, those bits
/// do not count that are the same in all rules: a site's prefix tells nothing apart.
const SPECIFIC_BITS: u32 = 12;

/// The rules of a tree.
pub(super) struct Subset {
    pub(super) rules: Vec<u32>,
    /// Whether they leave both addresses open.
    pub(super) open: bool,
}

/// The rules of each tree, by their places in `fixed`.
///
/// Three trees: rules that give one address (and perhaps the other), rules that give only the
/// other, and rules that give neither. The first address is the one that more rules give alone.
pub(super) fn divide<const B: usize>(fixed: &[Fixed<B>]) -> Vec<Subset> {
    let mut subsets: Vec<Vec<u32>> = vec![Vec::new(); 4];
    let same = if B > 2 { common(fixed) } else { [[0; WIDTH]; B] };
    for (place, fixed) in (0u32..).zip(fixed) {
        subsets[shape(fixed, &same)].push(place);
    }
    let [both, destination, source, neither] =
        <[Vec<u32>; 4]>::try_from(subsets).unwrap_or_default();
    let (mut most, rest) = if destination.len() >= source.len() {
        (destination, source)
    } else {
        (source, destination)
    };
    most.extend(both);
    most.sort_unstable();
    let subset = |rules, open| Subset { rules, open };
    let mut subsets = vec![subset(most, false), subset(rest, false), subset(neither, true)];
    subsets.retain(|subset| !subset.rules.is_empty());
    subsets
}

/// The bits of the addresses that have the same value in all rules that give the address at all.
fn common<const B: usize>(fixed: &[Fixed<B>]) -> [[u16; WIDTH]; B] {
    let (source, destination) = const { places(B) }.address_lanes();
    let mut same = [[0; WIDTH]; B];
    for address in [source, destination] {
        let gives =
            |fixed: &&Fixed<B>| address.iter().any(|&lane| fixed.care.as_flattened()[lane] != 0);
        let Some(first) = fixed.iter().find(gives) else { continue };
        for &lane in address {
            let value = first.value.as_flattened()[lane];
            same.as_flattened_mut()[lane] =
                fixed.iter().filter(gives).fold(u16::MAX, |same, fixed| {
                    same & fixed.care.as_flattened()[lane]
                        & !(fixed.value.as_flattened()[lane] ^ value)
                });
        }
    }
    same
}

/// 0: gives both addresses, 1: destination only, 2: source only, 3: neither. Bits of `same` do not
/// count.
fn shape<const B: usize>(fixed: &Fixed<B>, same: &[[u16; WIDTH]; B]) -> usize {
    let (source, destination) = const { places(B) }.address_lanes();
    let open = |lanes: &[usize]| {
        let given = |&lane: &usize| {
            (fixed.care.as_flattened()[lane] & !same.as_flattened()[lane]).count_ones()
        };
        lanes.iter().map(given).sum::<u32>() < SPECIFIC_BITS
    };
    usize::from(open(source)) | usize::from(open(destination)) << 1
}
