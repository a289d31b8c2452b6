//! Linear search over all rules, for every packet: the judge of what an engine answered. Slow, so it
//! takes all processors.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use portcullis::classifier::{RuleId, RuleSet, TupleV4, linear};

use crate::output::Refused;

/// Packets that a thread takes at once.
const CHUNK: usize = 256;

/// Compares all answers.
///
/// # Errors
/// The first packet, in their order, for which linear search says something else.
pub(super) fn compare(
    rules: &RuleSet,
    tuples: &[TupleV4],
    found: &[Option<u32>],
) -> Result<(), Refused> {
    let linear = linear::Builder::new().build(rules)?;
    let next = AtomicUsize::new(0);
    let worker = || {
        let (mut scratch, mut expected) = (linear::Scratch::default(), [None; CHUNK]);
        loop {
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            let rest = tuples.get(first..).filter(|rest| !rest.is_empty())?;
            let tuples = &rest[..rest.len().min(CHUNK)];
            let expected = &mut expected[..tuples.len()];
            linear.lookup_tuples(tuples, &mut scratch, expected);
            let expected = expected.iter().map(|id| id.map(RuleId::as_u32));
            let mut pairs = expected.zip(&found[first..]).enumerate();
            if let Some((at, (expected, found))) =
                pairs.find(|(_, (expected, found))| expected != *found)
            {
                return Some((first + at, expected, *found));
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let first = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let results = workers.into_iter().map(|worker| worker.join().expect("lookups never panic"));
        results.flatten().min()
    });
    let Some((packet, expected, found)) = first else { return Ok(()) };
    let rule = |rule: Option<u32>| rule.map_or("no rule".to_owned(), |rule| format!("rule {rule}"));
    Err(Refused::from(format!(
        "packet {packet}: linear search finds {}, the engine {}",
        rule(expected),
        rule(found)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis::classifier::Rule;

    #[test]
    fn names_the_first_that_differs() {
        let rules =
            RuleSet::new(vec![Rule::any(0).protocol(6), Rule::any(1).protocol(17)]).unwrap();
        let protocols = [6, 17, 1];
        let tuples: Vec<TupleV4> = (0..3000)
            .map(|n| TupleV4::new([10, 0, 0, 1], [10, 0, 0, 2], protocols[n % 3], 1, 2))
            .collect();
        let mut found: Vec<Option<u32>> =
            (0..3000).map(|n| [Some(0), Some(1), None][n % 3]).collect();
        assert!(compare(&rules, &tuples, &found).is_ok());
        found[2999] = Some(1);
        found[1001] = Some(0);
        let refused = compare(&rules, &tuples, &found).err().unwrap();
        assert_eq!(
            refused.message(),
            "packet 1001: linear search finds no rule, the engine rule 0"
        );
    }
}
