//! Sets of rules as bits, and the classes of numbers that the same rules hold for.

use ahash::HashMap;

/// A bit for each rule.
pub(super) type Set = Vec<u64>;

/// Numbers from `first` to the next run have one class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) first: u32,
    pub(super) class: u16,
}

/// Numbers for distinct sets, in the order in which they come.
#[derive(Default)]
pub(super) struct Classes {
    pub(super) sets: Vec<Set>,
    known: HashMap<Set, u16>,
}

impl Classes {
    /// The class of a set; `None` when there are more than 65,536.
    pub(super) fn of(&mut self, set: Set) -> Option<u16> {
        if let Some(class) = self.known.get(&set) {
            return Some(*class);
        }
        let class = u16::try_from(self.sets.len()).ok()?;
        self.sets.push(set.clone());
        self.known.insert(set, class);
        Some(class)
    }
}

/// Runs of the numbers below `end` in which the same of the ranges hold, and what each class stands
/// for. Ranges include both ends.
pub(super) fn runs(ranges: &[(u16, u16)], end: u32) -> Option<(Vec<Run>, Vec<Set>)> {
    // Where the set changes: a number, and the rule that comes or goes there.
    let mut changes: Vec<(u32, usize)> = Vec::with_capacity(2 * ranges.len());
    for (rule, (low, high)) in ranges.iter().enumerate().filter(|(_, (low, high))| low <= high) {
        changes.extend([(u32::from(*low), rule), (u32::from(*high) + 1, rule)]);
    }
    changes.sort_unstable();
    let mut holds: Set = vec![0; ranges.len().div_ceil(64)];
    let mut classes = Classes::default();
    let mut runs = Vec::new();
    let mut rest = changes.into_iter().peekable();
    let mut number = 0;
    while number < end {
        while let Some((_, rule)) = rest.next_if(|change| change.0 == number) {
            holds[rule / 64] ^= 1 << (rule % 64);
        }
        runs.push(Run { first: number, class: classes.of(holds.clone())? });
        number = rest.peek().map_or(end, |change| change.0);
    }
    Some((runs, classes.sets))
}

/// The members of a set, ascending.
pub(super) fn members(set: &Set) -> impl Iterator<Item = u32> + '_ {
    (0u32..).zip(set).flat_map(|(at, word)| {
        let mut word = *word;
        std::iter::from_fn(move || {
            let bit = (word != 0).then(|| word.trailing_zeros())?;
            word &= word - 1;
            Some(at * 64 + bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_agree_with_asking_each_range() {
        let ranges = [(0, 65_535), (80, 80), (0, 1023), (1024, 65_535), (79, 81), (65_535, 65_535)];
        let (runs, sets) = runs(&ranges, 1 << 16).unwrap();
        for number in 0..=u16::MAX {
            let at = runs.partition_point(|run| run.first <= number.into()) - 1;
            let holds: Vec<u32> = members(&sets[usize::from(runs[at].class)]).collect();
            let slow = (0u32..).zip(ranges);
            let slow: Vec<u32> = slow
                .filter(|(_, (low, high))| (low..=high).contains(&&number))
                .map(|r| r.0)
                .collect();
            assert_eq!(holds, slow, "{number}");
        }
    }
}
