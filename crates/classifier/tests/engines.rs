//! Every engine, with every instruction set, one by one and in batches, against linear search.

mod common;

use std::time::Duration;

use portcullis_classifier::{Header, Instructions, Rule, RuleId, RuleSet, TupleV4, linear, tree};
use proptest::prelude::*;

fn check(rules: Vec<Rule>, headers: &[Header]) -> Result<(), TestCaseError> {
    let rules = RuleSet::new(rules).unwrap();
    let oracle = linear::Builder::new().build(&rules).unwrap();
    let expected: Vec<Option<RuleId>> =
        headers.iter().map(|header| oracle.lookup(header)).collect();
    for instructions in Instructions::available() {
        // No limit that a slow or overloaded machine would meet.
        let config = tree::Config::default()
            .instructions(instructions)
            .touch_limit(1 << 16)
            .time_limit(Duration::from_secs(3600));
        let tree = tree::Builder::new().configure(config).build(&rules).unwrap();
        prop_assert_eq!(tree.instructions(), instructions);
        tree.verify().map_err(|mismatch| TestCaseError::fail(mismatch.to_string()))?;
        let mut found = vec![None; headers.len()];
        tree.lookup_batch(headers, &mut tree::Scratch::default(), &mut found);
        prop_assert_eq!(&found, &expected, "{:?} in a batch", instructions);
        for (header, expected) in headers.iter().zip(&expected) {
            prop_assert!(tree.touches(header) <= tree.worst_case_touches());
            prop_assert_eq!(tree.lookup(header), *expected, "{:?} {:?}", instructions, header);
        }
        let tuples: Vec<TupleV4> = headers.iter().filter_map(TupleV4::of).collect();
        let mut found = vec![None; tuples.len()];
        tree.lookup_tuples(&tuples, &mut tree::Scratch::default(), &mut found);
        for (tuple, found) in tuples.iter().zip(found) {
            prop_assert_eq!(
                found,
                oracle.lookup(&tuple.header()),
                "{:?} {:?}",
                instructions,
                tuple
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn plain_rules(
        rules in prop::collection::vec(common::plain_rule(), 0..60),
        headers in prop::collection::vec(common::header(), 1..150),
    ) {
        check(rules, &headers)?;
    }

    #[test]
    fn all_conditions(
        rules in prop::collection::vec(common::rule(), 0..60),
        headers in prop::collection::vec(common::header(), 1..150),
    ) {
        check(rules, &headers)?;
    }
}
