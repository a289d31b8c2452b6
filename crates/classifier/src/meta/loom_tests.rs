//! All interleavings of a reader with the writer's own code: the base that is swapped, the delta table
//! that grows, its chains, the marks of what is deleted and the search behind them, and the state that
//! the reader pins.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p portcullis-classifier --release --lib loom`.

use super::{Builder, Meta};
use crate::header::Header;
use crate::rule::{Rule, RuleSet};
use crate::tuple::Priority;

/// Two rules for the same headers, and one for all others.
fn meta() -> Meta {
    let rules = vec![Rule::any(1).protocol(6), Rule::any(2).protocol(6), Rule::any(9)];
    Builder::new().build(&RuleSet::new(rules).unwrap()).unwrap()
}

fn header() -> Header {
    Header::v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 1, 2)
}

/// What two lookups find, one after the other.
fn reader(meta: &Meta) -> loom::thread::JoinHandle<[u32; 2]> {
    let meta = meta.clone();
    loom::thread::spawn(move || {
        [(); 2].map(|()| meta.lookup(&header()).expect("there is always a rule").action)
    })
}

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

fn delete(meta: &Meta, place: usize) {
    assert!(meta.shared.state.load().delete(place));
}

/// A reader beside the deletion of compiled rules, one after the other, finds the rule or what it hid,
/// and never the rule again.
#[test]
fn loom_what_a_deleted_rule_hid_is_found() {
    model(|| {
        let meta = meta();
        let reader = reader(&meta);
        delete(&meta, 0);
        delete(&meta, 1);
        let [first, second] = reader.join().unwrap();
        assert!([1, 2, 9].contains(&first) && first <= second, "{first} {second}");
        assert_eq!(meta.lookup(&header()).unwrap().action, 9, "deleted");
    });
}

/// A rule that replaces a compiled one: inserted before it, so that there is always one of the two.
#[test]
fn loom_a_successor_is_in_force_before_its_predecessor_goes() {
    model(|| {
        let meta = meta();
        let reader = reader(&meta);
        meta.insert(Priority::new(0), Rule::any(0).protocol(6)).unwrap();
        delete(&meta, 0);
        let order = |action| [1, 0].iter().position(|one| *one == action).expect("one of these");
        let [first, second] = reader.join().unwrap();
        assert!(order(first) <= order(second), "{first} {second}");
    });
}

/// An insert that makes the table grow is seen whole, and stays.
#[test]
fn loom_an_insert_is_whole() {
    model(|| {
        let meta = meta();
        let reader = reader(&meta);
        meta.insert(Priority::new(0), Rule::any(0).protocol(6)).unwrap();
        let [first, second] = reader.join().unwrap();
        assert!([0, 1].contains(&first) && first >= second, "{first} {second}");
    });
}

/// A replacement takes base, delta and marks together: an insert before it is gone after it.
#[test]
fn loom_a_replacement_is_whole() {
    model(|| {
        let meta = meta();
        let reader = reader(&meta);
        meta.insert(Priority::new(0), Rule::any(0).protocol(6)).unwrap();
        meta.replace(&RuleSet::new(vec![Rule::any(5)]).unwrap()).unwrap();
        let order = |action| [1, 0, 5].iter().position(|one| *one == action).expect("one of these");
        let [first, second] = reader.join().unwrap();
        assert!(order(first) <= order(second), "{first} {second}");
    });
}
