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
use crate::verdict::{RuleId, Verdict};

/// Something that happened to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub time: Time,
    /// What.
    pub kind: EventKind,
    /// The flow, in the direction in which it was opened; of a packet dropped alone, its own. Ports
    /// are 0 where the protocol has none.
    pub tuple: Tuple,
    /// ICMP or ICMPv6 type and code; 0 for other protocols, and the code also at the end of a query.
    pub icmp: [u8; 2],
    /// Bytes of the IP packet that this is about; 0 if it is about no single one.
    pub bytes: u32,
    /// TCP flags, as in the header: of the packet, or at the end of a connection all that were seen.
    pub tcp_flags: u8,
    /// The rule that decided.
    pub rule: RuleId,
    /// Identity of the source, at that time.
    pub source: IdentityId,
    /// Identity of the destination, at that time.
    pub destination: IdentityId,
    /// A rule asked for the flow to be noted.
    pub log: bool,
    /// What the staged policy says, if there is one and it says otherwise.
    pub staged: Option<Staged>,
}

/// What a staged policy would have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    /// Its verdict.
    pub verdict: Verdict,
    /// Its rule, in its own numbers.
    pub rule: RuleId,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A connection was allowed and opened.
    Opened,
    /// A packet that stands alone and opens nothing was allowed.
    Passed,
    /// A connection was judged anew, and is now allowed by another rule, or is another identity's.
    Changed,
    /// A packet was dropped.
    Dropped {
        /// Why.
        reason: Reason,
    },
    /// Further packets of the same identities were dropped for the same reason by the same rule: see
    /// [`crate::pipeline::Config::denied_burst`]. Tuple and bytes of the event are those of the last.
    Folded {
        /// Why.
        reason: Reason,
        /// How many: one at least.
        packets: u64,
        /// Bytes of their IP packets.
        bytes: u64,
        /// When the first was dropped.
        since: Time,
        /// Lowest and highest source port.
        source_ports: [u16; 2],
        /// Lowest and highest destination port.
        destination_ports: [u16; 2],
    },
    /// A connection ended: timed out, was replaced, or a new policy denies it.
    Ended {
        /// Why, if it was cut.
        reason: Option<Reason>,
        /// How.
        close: Close,
        /// When it was opened.
        opened: Time,
        /// When a packet of it passed last.
        seen: Time,
        /// From the opener, and back.
        traffic: [Traffic; 2],
    },
}

impl EventKind {
    /// Which of the numbers in [`EventRing::lost_by_kind`] counts it.
    const fn class(&self) -> usize {
        match self {
            Self::Opened => 0,
            Self::Dropped { .. } | Self::Folded { .. } => 1,
            Self::Ended { .. } => 2,
            Self::Changed => 3,
            Self::Passed => 4,
        }
    }

    /// How many things it tells of.
    const fn count(&self) -> u64 {
        match self {
            Self::Folded { packets, .. } => *packets,
            _ => 1,
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Close {
    /// TCP: both ends had said FIN.
    Fin,
    /// TCP: reset.
    Reset,
    /// It was silent for too long.
    Timeout,
    /// It had to make room.
    Evicted,
    /// Another connection between the same ends took its place.
    Replaced,
    /// The policy in force denies it.
    Policy,
}

impl Close {
    /// Every cause.
    pub const ALL: [Self; 6] =
        [Self::Fin, Self::Reset, Self::Timeout, Self::Evicted, Self::Replaced, Self::Policy];

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Evicted => "evicted",
            Self::Replaced => "replaced",
            Self::Policy => "policy",
        }
    }
}

/// A bounded queue of events from one worker.
pub struct EventRing {
    queue: ArrayQueue<Event>,
    /// By kind: opened, dropped, ended, changed, passed.
    lost: [AtomicU64; 5],
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
        if !self.offer(event) {
            self.lost[event.kind.class()].fetch_add(event.kind.count(), Ordering::Relaxed);
        }
    }

    /// Appends an event; `false` if the ring is full, and nothing is counted then.
    #[inline]
    pub fn offer(&self, event: Event) -> bool {
        let taken = self.queue.push(event).is_ok();
        if self.wake.get().is_some() {
            self.wake_reader();
        }
        taken
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

    /// The same by kind: opened, dropped (packets), ended, changed, passed.
    pub fn lost_by_kind(&self) -> [u64; 5] {
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
        icmp: [0; 2],
        bytes: 0,
        tcp_flags: 0,
        staged: None,
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
