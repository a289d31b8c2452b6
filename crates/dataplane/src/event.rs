//! What the packet path tells the world, through bounded rings: it never waits, and what did not fit
//! is counted exactly.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

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
pub struct EventRing {
    queue: ArrayQueue<Event>,
    /// By kind: opened, dropped, ended.
    lost: [AtomicU64; 3],
    /// A reader sleeps until the next event.
    awaited: AtomicBool,
    wake: OnceLock<Wake>,
}

/// Wakes a reader that waits for events.
pub type Wake = Box<dyn Fn() + Send + Sync>;

impl EventRing {
    /// A ring for `capacity` events (at least one).
    pub fn new(capacity: usize) -> Self {
        Self {
            queue: ArrayQueue::new(capacity.max(1)),
            lost: Default::default(),
            awaited: AtomicBool::new(false),
            wake: OnceLock::new(),
        }
    }

    /// Sets what wakes a reader after [`EventRing::wait`]; the first call counts. It is called by the
    /// packet path, at most once for each `wait`, and must not block.
    pub fn wake_by(&self, wake: Wake) {
        // A second reader of one ring would be a mistake, but no dangerous one.
        let _ = self.wake.set(wake);
    }

    /// Announces that the reader will sleep: the next event wakes it. `false` if events wait already,
    /// so that there is nothing to sleep for.
    pub fn wait(&self) -> bool {
        self.awaited.store(true, Ordering::Relaxed);
        // Either this sees the event of a concurrent push, or that push sees the flag.
        fence(Ordering::SeqCst);
        self.queue.is_empty()
    }

    /// Appends an event; if the ring is full, counts it as lost.
    #[inline]
    pub fn push(&self, event: Event) {
        if self.queue.push(event).is_err() {
            let kind = match event.kind {
                EventKind::Opened => 0,
                EventKind::Dropped { .. } => 1,
                EventKind::Ended { .. } => 2,
            };
            self.lost[kind].fetch_add(1, Ordering::Relaxed);
        }
        if self.wake.get().is_some() {
            self.wake_reader();
        }
    }

    fn wake_reader(&self) {
        fence(Ordering::SeqCst);
        if self.awaited.load(Ordering::Relaxed)
            && self.awaited.swap(false, Ordering::Relaxed)
            && let Some(wake) = self.wake.get()
        {
            wake();
        }
    }

    /// The oldest event, if there is one.
    pub fn pop(&self) -> Option<Event> {
        self.queue.pop()
    }

    /// Events that did not fit since the ring was made: exact.
    pub fn lost(&self) -> u64 {
        self.lost_by_kind().iter().sum()
    }

    /// The same by kind: opened, dropped, ended.
    pub fn lost_by_kind(&self) -> [u64; 3] {
        std::array::from_fn(|kind| self.lost[kind].load(Ordering::Relaxed))
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

impl std::fmt::Debug for EventRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventRing").field("len", &self.len()).field("lost", &self.lost()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;

    const EVENT: Event = Event {
        time: Time::from_nanos(0),
        kind: EventKind::Opened,
        tuple: Tuple {
            source: 0,
            destination: 0,
            source_port: 0,
            destination_port: 0,
            zone: 0,
            protocol: 0,
            version: crate::packet::Version::V4,
        },
        rule: RuleId::NONE,
        source: IdentityId::UNKNOWN,
        destination: IdentityId::UNKNOWN,
        log: false,
    };

    #[test]
    fn what_does_not_fit_is_counted() {
        let ring = EventRing::new(2);
        for _ in 0..5 {
            ring.push(EVENT);
        }
        assert_eq!((ring.len(), ring.lost()), (2, 3));
        assert_eq!(ring.pop(), Some(EVENT));
    }

    #[test]
    fn a_reader_is_woken_once_for_each_wait() {
        let ring = EventRing::new(8);
        let (wake, woken) = channel();
        ring.wake_by(Box::new(move || wake.send(()).unwrap()));
        ring.push(EVENT);
        assert!(woken.try_recv().is_err(), "nobody waits");
        assert!(!ring.wait(), "an event is there already");
        ring.pop();
        assert!(ring.wait());
        ring.push(EVENT);
        ring.push(EVENT);
        assert_eq!((woken.try_recv(), woken.try_recv().is_err()), (Ok(()), true));
    }

    #[test]
    fn no_wake_is_missed() {
        let ring = Arc::new(EventRing::new(64));
        let (wake, woken) = channel();
        ring.wake_by(Box::new(move || {
            // The test is over if nobody listens.
            let _ = wake.send(());
        }));
        let writer = Arc::clone(&ring);
        let count = if cfg!(miri) { 100 } else { 20_000 };
        let thread = std::thread::spawn(move || {
            for n in 0..count {
                writer.push(EVENT);
                if n % 7 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut seen = 0;
        while seen + ring.lost() < count {
            while ring.pop().is_some() {
                seen += 1;
            }
            if seen + ring.lost() < count && ring.wait() {
                // A missed wake would hang here; the bound makes it a failure instead.
                woken.recv_timeout(std::time::Duration::from_secs(10)).expect("a wake");
            }
        }
        thread.join().unwrap();
    }
}
