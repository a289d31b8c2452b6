//! Queries against what linear search says of many headers.

mod common;

use portcullis_classifier::{Rule, RuleSet, query, tree};
use proptest::prelude::*;

fn build(rules: Vec<Rule>) -> tree::Tree {
    let config = tree::Config::default().touch_limit(1 << 16);
    tree::Builder::new().configure(config).build(&RuleSet::new(rules).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn reach_and_shadowed_agree_with_lookups(
        rules in prop::collection::vec(common::rule(), 0..16),
        headers in prop::collection::vec(common::header(), 1..100),
    ) {
        let tree = build(rules);
        let config = query::Config::default();
        let shadowed = tree.shadowed(&config).unwrap();
        for (id, _) in tree.rules().iter() {
            let regions = tree.reach(id, &config).unwrap();
            prop_assert_eq!(regions.is_empty(), shadowed.contains(&id));
            for region in &regions {
                prop_assert!(region.contains(&region.example()));
                prop_assert_eq!(tree.lookup(&region.example()), Some(id), "{}", region);
            }
            for header in &headers {
                let inside = regions.iter().filter(|region| region.contains(header)).count();
                prop_assert_eq!(inside, usize::from(tree.lookup(header) == Some(id)), "{:?}", header);
            }
        }
    }

    #[test]
    fn diff_agrees_with_lookups(
        rules in prop::collection::vec((common::rule(), 0u32..3), 0..10),
        changes in prop::collection::vec((common::rule(), 0u32..3, any::<prop::sample::Index>()), 0..4),
        headers in prop::collection::vec(common::header(), 1..100),
    ) {
        let old: Vec<Rule> = rules.into_iter().map(|(rule, action)| Rule { action, ..rule }).collect();
        let mut new = old.clone();
        for (rule, action, index) in changes {
            let place = index.index(new.len() + 1);
            if action == 2 && place < new.len() {
                new.remove(place);
            } else {
                new.insert(place, Rule { action, ..rule });
            }
        }
        let (old, new) = (build(old), build(new));
        let action = |tree: &tree::Tree, id| tree.rules().rule(id).unwrap().action;
        let differences = old.diff(&new, &query::Config::default()).unwrap();
        for difference in &differences {
            let (here, there) = (difference.here, difference.there);
            prop_assert_eq!(old.lookup(&difference.example), here);
            prop_assert_eq!(new.lookup(&difference.example), there);
            prop_assert_ne!(here.map(|id| action(&old, id)), there.map(|id| action(&new, id)));
        }
        for header in &headers {
            let (here, there) = (old.lookup(header), new.lookup(header));
            let differ = here.map(|id| action(&old, id)) != there.map(|id| action(&new, id));
            let inside = differences.iter().filter(|d| d.region.contains(header)).count();
            prop_assert_eq!(inside, usize::from(differ), "{:?}", header);
        }
    }
}
