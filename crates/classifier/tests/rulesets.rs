//! Whole rule sets: every engine equals linear search on uniform, skewed and adversarial headers, and
//! the proof holds.
//!
//! `PORTCULLIS_RULESETS` names a folder of ClassBench files (plain, .gz or .xz), all of which are
//! tried then: `PORTCULLIS_RULESETS=... cargo test -p portcullis-classifier --release --test rulesets`.

use std::path::Path;
use std::process::Command;

use portcullis_classifier::tuple::RuleHandle;
use portcullis_classifier::{
    AddressMatch, Ipv4Prefix, Ipv6Prefix, PortRange, Rule, RuleSet, classbench, linear, meta, tree,
    workload,
};

/// Proves a set, and compares answers for `count` headers of each kind.
fn check(name: &str, rules: &RuleSet, count: usize) {
    let tree = tree::Builder::new().build(rules).unwrap();
    tree.verify().unwrap();
    assert!(tree.worst_case_touches() <= 256);
    let meta = meta::Builder::new().build(rules).unwrap();
    assert_eq!(meta.choice().engine, meta::Engine::Tree, "{name}: {}", meta.choice().why);
    let oracle = linear::Builder::new().build(rules).unwrap();
    let traces = [
        workload::uniform(rules, count, 1),
        workload::zipf(rules, count, 2),
        workload::adversarial(&tree, count, 3),
    ];
    for headers in traces {
        let mut found = vec![None; headers.len()];
        tree.lookup_batch(&headers, &mut tree::Scratch::default(), &mut found);
        let mut also = vec![None; headers.len()];
        meta.lookup_batch(&headers, &mut meta::Scratch::default(), &mut also);
        for ((header, found), also) in headers.iter().zip(found).zip(also) {
            let expected = oracle.lookup(header);
            assert_eq!(found, expected, "{name}: {header:?}");
            assert_eq!(
                also.map(|found| found.rule.as_u64()),
                expected.map(|id| id.as_u32().into())
            );
        }
    }
}

/// Deletes every third rule, and compares answers at once, while the rebuild still runs.
fn check_deleted(name: &str, rules: &RuleSet, count: usize) {
    let meta = meta::Builder::new().build(rules).unwrap();
    let before = meta.worst_case_touches();
    let gone = |place: usize| place % 3 == 1;
    for place in (0..rules.len()).filter(|&place| gone(place)) {
        meta.remove(RuleHandle::new(place as u64)).unwrap();
    }
    let headers = workload::uniform(rules, count, 4);
    let mut found = vec![None; headers.len()];
    meta.lookup_batch(&headers, &mut meta::Scratch::default(), &mut found);
    let bound = meta.worst_case_touches();
    assert!(bound <= before + 4096, "{name}: {bound} lines");
    for (header, found) in headers.iter().zip(found) {
        let mut left = rules.iter().filter(|(id, _)| !gone(id.index()));
        let expected = left.find(|(_, rule)| rule.matches(header)).map(|(id, _)| id);
        let found = found.map(|found| found.rule.as_u64());
        assert_eq!(found, expected.map(|id| id.as_u32().into()), "{name}: {header:?}");
    }
    meta.settle().unwrap();
    assert_eq!(meta.verify(), Ok(meta::Proof::Regions), "{name}");
}

/// The same rules as those of an IPv6 site, whose prefix tells nothing apart.
fn check_ipv6(name: &str, rules: &RuleSet, count: usize) {
    let side = |side| match side {
        AddressMatch::V4(prefix) => {
            let bits = 0x2001_0db8 << 96 | u128::from(prefix.address().to_bits()) << 64;
            AddressMatch::V6(Ipv6Prefix::new(bits.into(), 32 + prefix.len()).unwrap())
        }
        other => other,
    };
    let rules = rules.rules().iter().map(|rule| Rule {
        source: side(rule.source),
        destination: side(rule.destination),
        ..rule.clone()
    });
    let rules = RuleSet::new(rules.collect()).unwrap();
    let tree = tree::Builder::new().build(&rules).unwrap();
    tree.verify().unwrap();
    let oracle = linear::Builder::new().build(&rules).unwrap();
    for header in workload::uniform(&rules, count, 5) {
        assert_eq!(tree.lookup(&header), oracle.lookup(&header), "{name}: {header:?}");
    }
}

fn text(path: &Path) -> String {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => "zcat",
        Some("xz") => "xzcat",
        _ => "cat",
    };
    let output = Command::new(program).arg(path).output().unwrap();
    assert!(output.status.success(), "{program} {}", path.display());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn classbench_sets() {
    let Some(folder) = std::env::var_os("PORTCULLIS_RULESETS") else {
        eprintln!("skipped: PORTCULLIS_RULESETS names no folder of ClassBench files");
        return;
    };
    let mut tried = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = text(&path);
        if !text.starts_with('@') {
            continue;
        }
        let rules = classbench::parse(&name, &text).unwrap();
        let written = classbench::write(&rules).unwrap();
        assert_eq!(classbench::parse("written", &written).unwrap(), rules, "{name} reads back");
        let rules = RuleSet::new(rules).unwrap();
        check(&name, &rules, 3_000);
        check_deleted(&name, &rules, 1_000);
        check_ipv6(&name, &rules, 500);
        tried += 1;
    }
    assert!(tried > 0, "the folder holds ClassBench files");
}

/// Rules in the likeness of an access list: nested prefixes, common ports, a default.
#[test]
fn a_made_set() {
    let mut state = 1u64;
    let mut next = move |limit: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let mut rules: Vec<Rule> = (0..2_000)
        .map(|action| {
            let mut prefix = || {
                let len = [8u8, 16, 24, 28, 32, 32][next(6) as usize];
                let bits = (0x0a00_0000 | (next(40) << 16 | next(1 << 14)) as u32)
                    & u32::MAX << (32 - len);
                Ipv4Prefix::new(bits.into(), len).unwrap()
            };
            let (source, destination) = (prefix(), prefix());
            let rule = Rule::any(action).protocol([6, 17][next(2) as usize]);
            let rule = if next(4) > 0 { rule.from_v4(source) } else { rule };
            let rule = if next(4) > 0 { rule.to_v4(destination) } else { rule };
            let first = [0, 22, 80, 443, 1024][next(5) as usize];
            let last = if first == 0 || first == 1024 { 65535 } else { first };
            rule.destination_ports(PortRange::new(first, last).unwrap())
        })
        .collect();
    rules.push(Rule::any(9_999));
    let rules = RuleSet::new(rules).unwrap();
    check("made", &rules, 1_500);
    check_deleted("made", &rules, 1_500);
    check_ipv6("made", &rules, 1_000);
}

/// Rules that overlap in one place and differ by ranges alone cannot be told apart by bits: the
/// limits turn them into an error with a reason, or another engine takes them.
#[test]
fn hostile_sets_are_refused_or_taken_by_another_engine() {
    let nested: Vec<Rule> = (0..400u16)
        .map(|n| {
            let ports = PortRange::new(20_000 - n * 49, 20_001 + n * 101).unwrap();
            let others = PortRange::new(20_000 - (399 - n) * 49, 20_001 + (399 - n) * 101).unwrap();
            Rule::any(n.into()).destination_ports(ports).source_ports(others)
        })
        .collect();
    let rules = RuleSet::new(nested).unwrap();
    let config = tree::Config::default().size_limit(1 << 20);
    let error = tree::Builder::new().configure(config).build(&rules).unwrap_err().to_string();
    assert!(error.contains("overlap"), "{error}");
    let config = meta::Config::default().tree(config);
    match meta::Builder::new().configure(config).build(&rules) {
        Err(error) => assert!(error.to_string().contains("400 rules"), "{error}"),
        Ok(meta) => assert_ne!(meta.choice().engine, meta::Engine::Tree),
    }
}
