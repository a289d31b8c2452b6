//! Rules that come and go, in the `tuple` and `meta` engines, against a list in priority order;
//! and under threads that look up all the while.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis_classifier::tuple::{self, Match, Priority, RuleHandle};
use portcullis_classifier::{Header, Ipv4Prefix, PortRange, Rule, RuleSet, TupleV4, meta};
use proptest::prelude::*;

/// The obvious twin: all rules, in order.
#[derive(Default)]
struct Model {
    rules: BTreeMap<(Priority, RuleHandle), Rule>,
}

impl Model {
    fn lookup(&self, header: &Header) -> Option<Match> {
        let found = self.rules.iter().find(|(_, rule)| rule.matches(header));
        found.map(|((_, handle), rule)| Match { rule: *handle, action: rule.action })
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, Box<Rule>),
    Remove(prop::sample::Index),
    Settle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u64..5, common::rule(), any::<u32>()).prop_map(|(step, rule, action)| {
            Step::Insert(step << 31, Box::new(Rule { action, ..rule }))
        }),
        4 => any::<prop::sample::Index>().prop_map(Step::Remove),
        1 => Just(Step::Settle),
    ];
    prop::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn engines_follow_the_model(
        rules in prop::collection::vec(common::rule(), 0..20),
        steps in steps(),
        headers in prop::collection::vec(common::header(), 1..60),
    ) {
        let rules = RuleSet::new(rules).unwrap();
        let mut model = Model::default();
        for (id, rule) in rules.iter() {
            let handle = RuleHandle::new(id.index() as u64);
            model.rules.insert((Priority::of(id), handle), rule.clone());
        }
        let config = meta::Config::default().rebuild_after(5);
        let meta = meta::Builder::new().configure(config).build(&rules).unwrap();
        let table = tuple::Builder::new().build(&rules).unwrap();
        for step in steps {
            match step {
                Step::Insert(priority, rule) => {
                    let priority = Priority::new(priority);
                    let rule = *rule;
                    let handle = meta.insert(priority, rule.clone()).unwrap();
                    prop_assert_eq!(table.insert(priority, rule.clone()).unwrap(), handle);
                    model.rules.insert((priority, handle), rule);
                }
                Step::Remove(index) if !model.rules.is_empty() => {
                    let keys: Vec<_> = model.rules.keys().copied().collect();
                    let key = keys[index.index(keys.len())];
                    model.rules.remove(&key);
                    meta.remove(key.1).unwrap();
                    table.remove(key.1).unwrap();
                    prop_assert!(meta.remove(key.1).is_err(), "a handle is deleted once");
                }
                Step::Remove(_) => {}
                Step::Settle => meta.settle().unwrap(),
            }
            let expected: Vec<_> = headers.iter().map(|header| model.lookup(header)).collect();
            let mut found = vec![None; headers.len()];
            meta.lookup_batch(&headers, &mut meta::Scratch::default(), &mut found);
            prop_assert_eq!(&found, &expected, "meta");
            table.lookup_batch(&headers, &mut tuple::Scratch::default(), &mut found);
            prop_assert_eq!(&found, &expected, "tuple");
            let tuples: Vec<TupleV4> = headers.iter().filter_map(TupleV4::of).collect();
            let of_tuples = tuples.iter().map(|tuple| model.lookup(&tuple.header()));
            let of_tuples: Vec<_> = of_tuples.collect();
            let mut found = vec![None; tuples.len()];
            table.lookup_tuples(&tuples, &mut tuple::Scratch::default(), &mut found);
            prop_assert_eq!(&found, &of_tuples, "tuple, 5-tuples");
            meta.lookup_tuples(&tuples, &mut meta::Scratch::default(), &mut found);
            prop_assert_eq!(&found, &of_tuples, "meta, 5-tuples");
            prop_assert_eq!(meta.lookup(&headers[0]), expected[0]);
        }
        meta.settle().unwrap();
        meta.verify().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Compiled rules deleted in bursts: the headers of each fall to what it hid, before the rebuild
    /// that leaves it out has ended and after.
    #[test]
    fn deleted_rules_show_what_they_hid(
        rules in prop::collection::vec(common::rule(), 9..60),
        bursts in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 1..12), 1..4),
        headers in prop::collection::vec(common::header(), 1..60),
        waits in any::<bool>(),
    ) {
        let rules = RuleSet::new(rules).unwrap();
        let mut left: Vec<Option<&Rule>> = rules.rules().iter().map(Some).collect();
        let config = meta::Config::default();
        let config = if waits { config.deleted_touch_limit(0) } else { config };
        let meta = meta::Builder::new().configure(config).build(&rules).unwrap();
        for burst in bursts {
            for place in burst.into_iter().map(|index| index.index(rules.len())) {
                if left[place].take().is_some() {
                    meta.remove(RuleHandle::new(place as u64)).unwrap();
                }
            }
            let mut found = vec![None; headers.len()];
            meta.lookup_batch(&headers, &mut meta::Scratch::default(), &mut found);
            for (header, found) in headers.iter().zip(found) {
                let first = left.iter().position(|rule| rule.is_some_and(|rule| rule.matches(header)));
                let place = |found: Match| found.rule.as_u64();
                prop_assert_eq!(found.map(place), first.map(|place| place as u64), "{:?}", header);
                prop_assert_eq!(meta.lookup(header).map(place), first.map(|place| place as u64));
            }
        }
    }
}

fn host_rule(host: u32, action: u32) -> Rule {
    let prefix = Ipv4Prefix::host((0x0a00_0000 + host).into());
    Rule::any(action).to_v4(prefix).protocol(17)
}

/// While a writer inserts and deletes, and rebuilds run, readers see for each host either its rule
/// or none, and always the rule that stays.
#[test]
fn readers_see_whole_updates() {
    let hosts = 400u32;
    let stays = Rule::any(7).protocol(6).destination_ports(PortRange::exact(1));
    let rules = (0..hosts).map(|host| host_rule(host, host)).chain([stays]).collect();
    let meta = meta::Builder::new().build(&RuleSet::new(rules).unwrap()).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (meta, done) = (meta.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                let headers: Vec<Header> = (0..hosts)
                    .map(|host| Header::v4([1, 2, 3, 4], 0x0a00_0000 + host, 17, 1, 1))
                    .chain([Header::v4([1, 2, 3, 4], [5, 6, 7, 8], 6, 9, 1)])
                    .collect();
                let mut found = vec![None; headers.len()];
                let mut scratch = meta::Scratch::default();
                let mut rounds = 0u32;
                while !done.load(Ordering::Relaxed) || rounds == 0 {
                    meta.lookup_batch(&headers, &mut scratch, &mut found);
                    for (host, found) in (0..hosts).zip(&found) {
                        assert!(
                            found.is_none_or(|found| found.action % hosts == host),
                            "{found:?}"
                        );
                    }
                    assert_eq!(found[hosts as usize].map(|found| found.action), Some(7));
                    rounds += 1;
                }
                rounds
            })
        })
        .collect();
    let mut handles: Vec<RuleHandle> =
        (0..hosts).map(|host| RuleHandle::new(host.into())).collect();
    let probe = |host: u32| Header::v4([1, 2, 3, 4], 0x0a00_0000 + host, 17, 1, 1);
    for round in 1..=8u32 {
        for host in 0..hosts {
            meta.remove(handles[host as usize]).unwrap();
            assert_eq!(meta.lookup(&probe(host)), None, "deleted at once");
            let action = host + round * hosts;
            let priority = Priority::new(u64::from(host) << 32);
            handles[host as usize] = meta.insert(priority, host_rule(host, action)).unwrap();
            assert_eq!(meta.lookup(&probe(host)).unwrap().action, action, "inserted at once");
        }
    }
    meta.settle().unwrap();
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
    meta.verify().unwrap();
    for host in 0..hosts {
        assert_eq!(meta.lookup(&probe(host)).unwrap().action, host + 8 * hosts);
    }
}

/// Rules of which the first hides all others, and headers for each of the others.
fn hidden(count: u32) -> (RuleSet, Vec<Header>) {
    let rules = std::iter::once(Rule::any(u32::MAX).protocol(17));
    let rules = rules.chain((0..count).map(|host| host_rule(host, host))).collect();
    let header = |host| Header::v4([1, 2, 3, 4], 0x0a00_0000 + host, 17, 1, 1);
    (RuleSet::new(rules).unwrap(), (0..count).map(header).collect())
}

/// Deleting a rule that hides others, few or many, is in force when the call returns; also where it
/// waits for the rebuild, because lookups may not go on behind a deleted rule.
#[test]
fn a_deleted_rule_shows_what_it_hid() {
    let waiting = meta::Config::default().deleted_touch_limit(0);
    for (count, config) in
        [(200, meta::Config::default()), (1500, meta::Config::default()), (200, waiting)]
    {
        let (rules, headers) = hidden(count);
        let meta = meta::Builder::new().configure(config).build(&rules).unwrap();
        let found = |meta: &meta::Meta| -> Vec<Option<u32>> {
            let mut found = vec![None; headers.len()];
            meta.lookup_batch(&headers, &mut meta::Scratch::default(), &mut found);
            found.into_iter().map(|found| found.map(|found| found.action)).collect()
        };
        assert!(found(&meta).iter().all(|action| *action == Some(u32::MAX)));
        meta.remove(RuleHandle::new(0)).unwrap();
        assert!(meta.remove(RuleHandle::new(0)).is_err(), "deleted once");
        let expected: Vec<Option<u32>> = (0..count).map(Some).collect();
        assert_eq!(found(&meta), expected, "{count} rules");
        // Some of those that may stand in for it go as well, right away.
        for host in (0..count).step_by(7) {
            meta.remove(RuleHandle::new(u64::from(host) + 1)).unwrap();
        }
        let expected: Vec<Option<u32>> =
            (0..count).map(|host| (host % 7 != 0).then_some(host)).collect();
        assert_eq!(found(&meta), expected, "{count} rules, less some");
        meta.settle().unwrap();
        assert_eq!(found(&meta), expected, "{count} rules, compiled anew");
    }
}

/// While compiled rules are deleted one after the other, readers find for each header the rule or
/// the one that it hid, never none, and never the old one again.
#[test]
fn readers_always_find_what_stands_in() {
    let hosts = 300u32;
    let rules = (0..hosts).map(|host| host_rule(host, host));
    let rules = rules.chain((0..hosts).map(|host| host_rule(host, hosts + host))).collect();
    let meta = meta::Builder::new().build(&RuleSet::new(rules).unwrap()).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (meta, done) = (meta.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                let header = |host| Header::v4([1, 2, 3, 4], 0x0a00_0000 + host, 17, 1, 1);
                let headers: Vec<Header> = (0..hosts).map(header).collect();
                let mut found = vec![None; headers.len()];
                let mut before = vec![0; headers.len()];
                let mut rounds = 0u32;
                while !done.load(Ordering::Relaxed) || rounds == 0 {
                    meta.lookup_batch(&headers, &mut meta::Scratch::default(), &mut found);
                    for ((host, found), before) in (0..hosts).zip(&found).zip(&mut before) {
                        let action = found.expect("one of two rules").action;
                        assert!(action % hosts == host && action >= *before, "{action} {before}");
                        *before = action;
                    }
                    rounds += 1;
                }
                before
            })
        })
        .collect();
    for host in 0..hosts {
        meta.remove(RuleHandle::new(host.into())).unwrap();
        if host % 50 == 0 {
            meta.settle().unwrap();
        }
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    meta.settle().unwrap();
    assert_eq!(meta.verify().unwrap(), meta::Proof::Regions);
}

#[test]
fn a_failed_replacement_leaves_the_old_rules() {
    let config = meta::Config::default()
        .linear_limit(10)
        .tuple(tuple::Config::default().max_rules(10))
        .tree(portcullis_classifier::tree::Config::default().size_limit(1000));
    let meta = meta::Builder::new()
        .configure(config)
        .build(&RuleSet::new(vec![Rule::any(3)]).unwrap())
        .unwrap();
    let many = (0..100).map(|host| host_rule(host, host)).collect();
    let error = meta.replace(&RuleSet::new(many).unwrap()).unwrap_err().to_string();
    assert!(error.contains("1000 bytes"), "says why: {error}");
    let header = Header::v4([1, 2, 3, 4], [10, 0, 0, 1], 17, 1, 1);
    assert_eq!(meta.lookup(&header).unwrap().action, 3);
    let other = RuleSet::new(vec![Rule::any(4)]).unwrap();
    let first = meta.replace(&other).unwrap();
    assert_eq!(meta.lookup(&header).unwrap(), Match { rule: first, action: 4 });
}
