//! Choosing the bits by which a table divides its rules.
//!
//! Greedy: of all bits, take the one that leaves the least work behind, then the next, given the
//! first. Work is the sum of the squares of the parts' sizes: a rule that does not care about a bit
//! lands in both halves and so counts against it.

use super::config::Tuning;
use crate::lanes::{LaneBox, WIDTH};

/// Rules looked at when there are more; choosing by a sample is much cheaper and hardly worse.
const SAMPLE: usize = 1024;

/// Which bits of a lane range are the same in all its numbers, and what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fixed<const B: usize> {
    pub(super) care: [[u16; WIDTH]; B],
    pub(super) value: [[u16; WIDTH]; B],
}

impl<const B: usize> Fixed<B> {
    pub(super) fn new(bounds: &LaneBox<B>) -> Self {
        let mut fixed = Self { care: [[0; WIDTH]; B], value: [[0; WIDTH]; B] };
        for block in 0..B {
            for lane in 0..WIDTH {
                let (low, high) = (bounds.low[block][lane], bounds.high[block][lane]);
                let differs = u32::from(low ^ high);
                let free = (1u32 << (32 - differs.leading_zeros())) - 1;
                let care = !(free as u16);
                fixed.care[block][lane] = care;
                fixed.value[block][lane] = low & care;
            }
        }
        fixed
    }
}

/// A table's index: the bits `mask` of the window of four lanes at lane `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) offset: usize,
    pub(super) mask: u64,
}

/// The bits that divide `rules` best, or `None` when no bit divides them at all.
pub(super) fn choose<const B: usize>(
    rules: &[u32],
    fixed: &[Fixed<B>],
    tuning: &Tuning,
) -> Option<Cut> {
    let step = rules.len().div_ceil(SAMPLE).max(1);
    let mut order: Vec<u32> = rules.iter().copied().step_by(step).collect();
    let most_bits = most_bits(rules.len(), tuning);
    let goal = tuning.leaf_rules.div_ceil(step);

    let mut candidates = dividing_bits(&order, fixed);
    let mut parts = vec![order.len()];
    let mut chosen: Vec<usize> = Vec::new();
    let mut work = square(order.len());
    let mut spare = Vec::new();
    while chosen.len() < most_bits && parts.iter().any(|&len| len > goal) {
        retain_reachable(&mut candidates, &chosen);
        let Some((bit, left)) = best_bit(&order, &parts, fixed, &candidates, goal) else { break };
        if !chosen.is_empty() && left as f64 > work as f64 * tuning.least_gain {
            break;
        }
        work = left;
        divide(&mut order, &mut parts, &mut spare, fixed, bit);
        candidates.retain(|&other| other != bit);
        chosen.push(bit);
        if order.len() > 16 * SAMPLE {
            break;
        }
    }
    let first = *chosen.iter().min()? / 16;
    let offset = first.min(B * WIDTH - 4);
    let mask = chosen.iter().fold(0, |mask, bit| mask | 1 << (bit - offset * 16));
    Some(Cut { offset, mask })
}

/// As many bits as make a table of about `space` entries a leaf's worth of rules.
fn most_bits(rules: usize, tuning: &Tuning) -> usize {
    let entries = (rules as f64 * tuning.space).max(2.0);
    (entries.log2().round() as usize).clamp(1, tuning.most_bits)
}

fn square(len: usize) -> u64 {
    (len * len) as u64
}

/// Bits in which two of the rules differ.
fn dividing_bits<const B: usize>(rules: &[u32], fixed: &[Fixed<B>]) -> Vec<usize> {
    let mut ones = [[0u16; WIDTH]; B];
    let mut zeros = [[0u16; WIDTH]; B];
    for &rule in rules {
        let Fixed { care, value } = &fixed[rule as usize];
        for block in 0..B {
            for lane in 0..WIDTH {
                ones[block][lane] |= value[block][lane];
                zeros[block][lane] |= care[block][lane] & !value[block][lane];
            }
        }
    }
    let (ones, zeros) = (ones.as_flattened(), zeros.as_flattened());
    (0..B * WIDTH * 16)
        .filter(|bit| (ones[bit / 16] & zeros[bit / 16]) >> (bit % 16) & 1 == 1)
        .collect()
}

/// Keeps the bits that fit in one window with those chosen.
fn retain_reachable(candidates: &mut Vec<usize>, chosen: &[usize]) {
    let (Some(low), Some(high)) = (chosen.iter().min(), chosen.iter().max()) else { return };
    let (low, high) = (low / 16, high / 16);
    candidates.retain(|bit| high.max(bit / 16) - low.min(bit / 16) < 4);
}

/// The bit that leaves the least work, and that work.
fn best_bit<const B: usize>(
    order: &[u32],
    parts: &[usize],
    fixed: &[Fixed<B>],
    candidates: &[usize],
    goal: usize,
) -> Option<(usize, u64)> {
    let mut work = vec![0u64; candidates.len()];
    let mut ones = vec![0u32; candidates.len()];
    let mut cares = vec![0u32; candidates.len()];
    let mut at = 0;
    for &len in parts {
        let part = &order[at..at + len];
        at += len;
        if len <= goal {
            work.iter_mut().for_each(|work| *work += square(len));
            continue;
        }
        ones.fill(0);
        cares.fill(0);
        for &rule in part {
            let Fixed { care, value } = &fixed[rule as usize];
            let (care, value) = (care.as_flattened(), value.as_flattened());
            for ((bit, ones), cares) in candidates.iter().zip(&mut ones).zip(&mut cares) {
                *cares += u32::from(care[bit / 16] >> (bit % 16) & 1);
                *ones += u32::from(value[bit / 16] >> (bit % 16) & 1);
            }
        }
        for ((work, ones), cares) in work.iter_mut().zip(&ones).zip(&cares) {
            let (ones, zeros) = (*ones as usize, (*cares - *ones) as usize);
            *work += square(len - ones) + square(len - zeros);
        }
    }
    let (index, least) = work.iter().enumerate().min_by_key(|(_, work)| **work)?;
    Some((candidates[index], *least))
}

/// Divides every part by `bit`.
fn divide<const B: usize>(
    order: &mut Vec<u32>,
    parts: &mut Vec<usize>,
    spare: &mut Vec<u32>,
    fixed: &[Fixed<B>],
    bit: usize,
) {
    let (lane, bit) = (bit / 16, bit % 16);
    let mut divided = Vec::with_capacity(parts.len() * 2);
    spare.clear();
    let mut at = 0;
    for &len in parts.iter() {
        let part = &order[at..at + len];
        at += len;
        for side in [0, 1] {
            let before = spare.len();
            spare.extend(part.iter().copied().filter(|&rule| {
                let Fixed { care, value } = &fixed[rule as usize];
                let (care, value) = (care.as_flattened()[lane], value.as_flattened()[lane]);
                care >> bit & 1 == 0 || value >> bit & 1 == side
            }));
            if spare.len() > before {
                divided.push(spare.len() - before);
            }
        }
    }
    std::mem::swap(order, spare);
    *parts = divided;
}
