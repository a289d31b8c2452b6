//! All interleavings of a reader with the writer's own code: the base that is swapped, the delta table
//! that grows, its chains, the marks of what is deleted, and the state that the reader pins.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p portcullis-classifier --release --lib loom`.

use super::{Builder, Meta, writer};
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

fn hide(meta: &Meta, place: usize) {
    let mut writer = meta.shared.writer.lock().unwrap();
    assert!(writer::hide(&meta.shared, &mut writer, place));
}

/// Deleting a compiled rule when the delta table is empty: it has to grow, and a state is published,
/// before the rule is marked. Then its stand-in is deleted too.
#[test]
fn loom_a_deleted_rule_has_a_stand_in() {
    model(|| {
        let meta = meta();
        let reader = reader(&meta);
        hide(&meta, 0);
        let [first, second] = reader.join().unwrap();
        assert!([1, 2].contains(&first) && first <= second, "{first} {second}");
        assert_eq!(meta.lookup(&header()).unwrap().action, 2, "deleted");
    });
}

/// The same when the table has room, so that reader and writer share all of the state.
#[test]
fn loom_a_stand_in_comes_before_the_mark() {
    model(|| {
        let meta = meta();
        // One that another header matches, so that there is a table.
        meta.insert(Priority::new(0), Rule::any(7).protocol(17)).unwrap();
        let reader = reader(&meta);
        hide(&meta, 0);
        let [first, second] = reader.join().unwrap();
        assert!([1, 2].contains(&first) && first <= second, "{first} {second}");
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
