//! Every interleaving of a few threads at a small table, tried by loom:
//! `RUSTFLAGS="--cfg loom" cargo test --release -p portcullis-dataplane --lib loom`.

use loom::sync::Arc;
use loom::thread;

use super::free::Free;
use super::part::{Inserted, Part, Spot};
use crate::connection::state::{Connection, Grant, Protocol, Traffic};
use crate::connection::{Direction, Key, KeyV4};
use crate::packet::Version;
use crate::verdict::RuleId;

fn spot(part: &Part<KeyV4>) -> Spot {
    part.view().spot(1)
}

/// Interleavings with at most this many preemptions: nearly all mistakes need no more (Musuvathi,
/// Qadeer 2007), and all of them would take days.
fn model(test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 20_000;
    builder.check(test);
}

fn part(capacity: usize) -> Arc<Part<KeyV4>> {
    Arc::new(Part::new(capacity).unwrap())
}

fn key(number: u16) -> KeyV4 {
    KeyV4::new(&Key {
        a: 1,
        b: 2,
        a_port: number,
        b_port: 443,
        zone: 0,
        protocol: 17,
        version: Version::V4,
    })
}

/// A connection all of whose fields tell whose it is.
fn connection(number: u16) -> Connection {
    let number = u32::from(number);
    Connection {
        protocol: Protocol::Datagram { answered: number % 2 == 1 },
        opened: if number % 2 == 1 { Direction::BToA } else { Direction::AToB },
        generation: number,
        grant: Grant { rule: RuleId::new(number), ..Grant::default() },
        created: number,
        seen: number,
        traffic: [Traffic { packets: number.into(), bytes: number.into() }; 2],
    }
}

fn insert(part: &Part<KeyV4>, number: u16) -> Inserted {
    part.insert(&key(number), spot(part), &connection(number))
}

/// What a look-up finds is whole, and belongs to the key that was asked for.
fn look(part: &Part<KeyV4>, number: u16) -> bool {
    let Some((_, locked)) = part.find(&key(number), spot(part)) else { return false };
    assert_eq!(locked.read(), connection(number));
    true
}

fn remove(part: &Part<KeyV4>, number: u16) -> bool {
    let Some((index, locked)) = part.find(&key(number), spot(part)) else { return false };
    drop(locked);
    match part.remove(&key(number), spot(part), index, |_| true) {
        Some(removed) => {
            assert_eq!(removed, connection(number));
            true
        }
        None => false,
    }
}

#[test]
fn loom_a_connection_appears_whole() {
    model(|| {
        let part = part(2);
        let other = {
            let part = part.clone();
            thread::spawn(move || insert(&part, 1))
        };
        look(&part, 1);
        assert!(matches!(other.join().unwrap(), Inserted::Done));
        assert!(look(&part, 1));
    });
}

#[test]
fn loom_one_of_two_opens() {
    model(|| {
        let part = part(2);
        let other = {
            let part = part.clone();
            thread::spawn(move || matches!(insert(&part, 1), Inserted::Done))
        };
        let here = matches!(insert(&part, 1), Inserted::Done);
        assert!(here != other.join().unwrap(), "both or neither opened it");
        assert!(look(&part, 1));
        // The loser's slot is free again.
        assert!(matches!(insert(&part, 2), Inserted::Done));
        assert!(look(&part, 2));
    });
}

#[test]
fn loom_many_are_inserted_beside_one_that_comes_and_goes() {
    model(|| {
        let part = part(3);
        let other = {
            let part = part.clone();
            thread::spawn(move || {
                assert!(matches!(insert(&part, 3), Inserted::Done));
                assert!(remove(&part, 3));
            })
        };
        let mut slots = [0; 2];
        assert_eq!(part.reserve(&mut slots), 2);
        for (n, slot) in [1, 2].into_iter().zip(slots) {
            part.fill(slot, &key(n), &connection(n));
        }
        for (n, slot) in [1, 2].into_iter().zip(slots) {
            assert!(matches!(part.publish_or_free(&key(n), spot(&part), slot), Inserted::Done));
        }
        assert!(look(&part, 1) && look(&part, 2));
        other.join().unwrap();
        assert!(look(&part, 1) && look(&part, 2) && !look(&part, 3));
        assert!(matches!(insert(&part, 4), Inserted::Done), "the slot that came back");
        assert!(matches!(insert(&part, 5), Inserted::Full));
    });
}

#[test]
fn loom_one_of_two_removes() {
    model(|| {
        let part = part(1);
        insert(&part, 1);
        let other = {
            let part = part.clone();
            thread::spawn(move || remove(&part, 1))
        };
        let here = remove(&part, 1);
        assert!(here != other.join().unwrap(), "both or neither removed it");
        assert!(!look(&part, 1));
        assert!(matches!(insert(&part, 2), Inserted::Done), "one slot, given back once");
        assert!(matches!(insert(&part, 3), Inserted::Full));
    });
}

#[test]
fn loom_a_slot_that_goes_to_another_is_not_mistaken() {
    model(|| {
        let part = part(1);
        insert(&part, 1);
        let other = {
            let part = part.clone();
            thread::spawn(move || {
                assert!(remove(&part, 1));
                assert!(matches!(insert(&part, 2), Inserted::Done));
            })
        };
        look(&part, 1);
        look(&part, 2);
        other.join().unwrap();
        assert!(!look(&part, 1) && look(&part, 2));
    });
}

#[test]
fn loom_packets_of_both_directions_are_all_counted() {
    model(|| {
        let part = part(1);
        insert(&part, 2);
        let count = |part: &Part<KeyV4>| {
            let (_, mut locked) = part.find(&key(2), spot(part)).unwrap();
            let mut connection = locked.read();
            connection.traffic[0].packets += 1;
            locked.write(&connection);
        };
        let other = {
            let part = part.clone();
            thread::spawn(move || count(&part))
        };
        count(&part);
        other.join().unwrap();
        let (_, locked) = part.find(&key(2), spot(&part)).unwrap();
        assert_eq!(locked.read().traffic[0].packets, 4);
    });
}

/// Three words of slots, all taken.
fn none_left() -> Arc<Free> {
    let free = Free::new(128).unwrap();
    assert_eq!(free.take_many(0, &mut [0; 128]).0, 128);
    Arc::new(free)
}

#[test]
fn loom_one_of_two_gets_the_last_slot() {
    model(|| {
        let free = none_left();
        free.give(128);
        let other = {
            let free = free.clone();
            thread::spawn(move || free.take(0, |_| ()))
        };
        let here = free.take_many(0, &mut [0; 2]).0 == 1;
        assert!(here != (other.join().unwrap() == Some(128)), "both or neither got it");
    });
}

#[test]
fn loom_a_slot_that_comes_back_is_found() {
    model(|| {
        let free = none_left();
        let other = {
            let free = free.clone();
            // Makes the second word full while another slot of it comes back.
            thread::spawn(move || usize::from(free.take(0, |_| ()).is_some()))
        };
        free.give(64);
        free.give(65);
        let taken = other.join().unwrap();
        assert_eq!(taken + free.take_many(0, &mut [0; 3]).0, 2, "none is hidden or there twice");
    });
}
