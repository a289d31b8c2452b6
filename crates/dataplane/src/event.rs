//! What the packet path tells the world, through bounded rings: it never waits, and what did not fit
//! is counted exactly.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use portcullis_identity_table::IdentityId;

use crate::clock::Time;
use crate::connection::Traffic;
use crate::packet::Tuple;
use crate::reason::Reason;
use crate::verdict::RuleId;

/// Something that happened to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub time: Time,
    /// What.
    pub kind: EventKind,
    /// The flow, in the direction in which it was opened; of a packet dropped alone, its own.
    pub tuple: Tuple,
    /// The rule that decided.
    pub rule: RuleId,
    /// Identity of the source, at that time.
    pub source: IdentityId,
    /// Identity of the destination, at that time.
    pub destination: IdentityId,
    /// A rule asked for the flow to be noted.
    pub log: bool,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A connection was allowed and opened; or a packet that stands alone was allowed.
    Opened,
    /// A packet was dropped.
    Dropped {
        /// Why.
        reason: Reason,
    },
    /// A connection ended: timed out, was replaced, or a new policy denies it.
    Ended {
        /// Why, if it was cut.
        reason: Option<Reason>,
        /// When it was opened.
        opened: Time,
        /// From the opener, and back.
        traffic: [Traffic; 2],
    },
}

/// A bounded queue of events from one worker.
#[derive(Debug)]
pub struct EventRing {
    queue: ArrayQueue<Event>,
    lost: AtomicU64,
}

impl EventRing {
    /// A ring for `capacity` events (at least one).
    pub fn new(capacity: usize) -> Self {
        Self { queue: ArrayQueue::new(capacity.max(1)), lost: AtomicU64::new(0) }
    }

    /// Appends an event; if the ring is full, counts it as lost.
    #[inline]
    pub fn push(&self, event: Event) {
        if self.queue.push(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The oldest event, if there is one.
    pub fn pop(&self) -> Option<Event> {
        self.queue.pop()
    }

    /// Events that did not fit since the ring was made: exact.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Number of events waiting.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether no event waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let ring = EventRing::new(2);
        let event = Event {
            time: Time::default(),
            kind: EventKind::Opened,
            tuple: Tuple::default(),
            rule: RuleId::NONE,
            source: IdentityId::UNKNOWN,
            destination: IdentityId::UNKNOWN,
            log: false,
        };
        for _ in 0..5 {
            ring.push(event);
        }
        assert_eq!((ring.len(), ring.lost()), (2, 3));
        assert_eq!(ring.pop(), Some(event));
    }
}
