//! A thread's own judge of packets and flows.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use portcullis_dataplane::clock::Time;
use portcullis_dataplane::pipeline::{BATCH, Input, Judgement, Lane, Snapshot, State, reject};
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::verdict::{self, Identify};
use portcullis_identity_table::IdentityId;
use portcullis_policy::Flow;

use crate::engine::Engine;
use crate::glue;

/// How long one look of all judges through the whole connection table for expired ones takes.
const SWEEP: Duration = Duration::from_secs(4);
/// Looks are at least this far apart.
const SWEEP_STEP: Duration = Duration::from_millis(2);

/// Judges packets and flows for one thread: make one for each ([`Engine::judge`]). `Send`, and all
/// judges of an engine share its connections and policies. Judging takes no lock and allocates
/// nothing, except once after a change.
#[derive(Debug)]
pub struct Judge {
    engine: Engine,
    lane: Lane,
    swept: Time,
    flows: FlowScratch,
    released: Vec<Box<[u8]>>,
    answers: Vec<(usize, Box<[u8]>)>,
}

/// A handle on the table in force, and room for one batch.
struct FlowScratch {
    handle: Option<(Arc<dyn verdict::Identities>, Box<dyn Identify>)>,
    flows: [verdict::Flow; BATCH],
    decisions: [verdict::Decision; BATCH],
    v4: Vec<u32>,
    v6: Vec<u128>,
    identities_v4: [IdentityId; 2 * BATCH],
    identities_v6: [IdentityId; 2 * BATCH],
}

impl Judge {
    pub(crate) fn new(engine: &Engine) -> Self {
        engine.0.judges.fetch_add(1, Ordering::Relaxed);
        let flows = FlowScratch {
            handle: None,
            flows: [verdict::Flow::default(); BATCH],
            decisions: [verdict::Decision::default(); BATCH],
            v4: Vec::with_capacity(2 * BATCH),
            v6: Vec::with_capacity(2 * BATCH),
            identities_v4: [IdentityId::UNKNOWN; 2 * BATCH],
            identities_v6: [IdentityId::UNKNOWN; 2 * BATCH],
        };
        let (lane, swept) = (engine.lane(), engine.0.clock.now());
        let (released, answers) = (Vec::new(), Vec::new());
        Self { engine: engine.clone(), lane, swept, flows, released, answers }
    }

    /// The engine it judges for.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Judges packets (Ethernet frames) in order, at the engine's time: `out[n]` is what becomes of
    /// `packets[n]`. Connections are tracked: an answer passes because its question did. Any number
    /// at a time; 32 or more make full use of the machine.
    ///
    /// Judges as many as both slices hold, and answers how many that were.
    pub fn packets(&mut self, packets: &[Input<'_>], out: &mut [Judgement]) -> usize {
        self.packets_at(self.engine.0.clock.now(), packets, out)
    }

    /// As [`Judge::packets`], at a time that the caller gives, which should not go back: for replays.
    /// Records carry the identities of the time that the engine's own clock
    /// ([`Config::clock`](crate::EngineConfig)) had, so set a
    /// [`Virtual`](crate::dataplane::clock::Virtual) clock there too.
    pub fn packets_at(&mut self, now: Time, packets: &[Input<'_>], out: &mut [Judgement]) -> usize {
        let mut count = 0;
        let counters = Arc::clone(self.lane.counters());
        self.released.clear();
        self.answers.clear();
        for (packets, out) in packets.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let judged = self.lane.judge(now, packets, out);
            let (mut bytes, mut passed, mut passed_bytes) = (0, 0, 0);
            for (n, (packet, judgement)) in packets.iter().zip(&out[..judged]).enumerate() {
                bytes += packet.wire_len as u64;
                match judgement.verdict {
                    verdict::Verdict::Allow => {
                        passed += 1;
                        passed_bytes += packet.wire_len as u64;
                    }
                    verdict::Verdict::Reject => {
                        let mut answer = [0; reject::LONGEST];
                        if let Some(len) = self.lane.answer(now, n, packet.data, &mut answer) {
                            counters.rejects_sent.add(1);
                            self.answers.push((count + n, answer[..len].into()));
                        }
                    }
                    verdict::Verdict::Deny => {}
                }
            }
            for frame in self.lane.released() {
                passed += 1;
                passed_bytes += frame.len() as u64;
                self.released.push(frame);
            }
            count += judged;
            counters.received.add(judged as u64);
            counters.received_bytes.add(bytes);
            counters.forwarded.add(passed);
            counters.forwarded_bytes.add(passed_bytes);
        }
        self.sweep(now);
        count
    }

    /// Fragments that were held ([`Reason::FragmentHeld`]) and pass now that the first of their packet
    /// came in the last call of [`Judge::packets`]: whole frames, to be sent after those of the call.
    /// What is not taken before the next call is dropped.
    pub fn released(&mut self) -> impl Iterator<Item = Box<[u8]>> + '_ {
        self.released.drain(..)
    }

    /// Frames to send back to the senders of packets of the last call that were rejected, each with
    /// the number of the packet. What is not taken before the next call is dropped.
    pub fn answers(&mut self) -> impl Iterator<Item = (usize, Box<[u8]>)> + '_ {
        self.answers.drain(..)
    }

    /// Decides flows by the policy alone: no connections, no records, no counting. `out[n]` is the
    /// answer for `flows[n]`. A flow whose addresses are of different families is denied.
    ///
    /// Decides as many as both slices hold, and answers how many that were.
    pub fn flows(&mut self, flows: &[Flow], out: &mut [Judgement]) -> usize {
        let snapshot = self.engine.0.plane.snapshot();
        for (flows, out) in flows.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            match &snapshot {
                Some(snapshot) => self.flows.decide(snapshot, flows, out),
                None => out.iter_mut().zip(flows).for_each(|(out, _)| *out = NO_POLICY),
            }
        }
        flows.len().min(out.len())
    }

    /// Looks through as much of the connection table as is this judge's due.
    fn sweep(&mut self, now: Time) {
        let due = now.since(self.swept);
        if due < SWEEP_STEP {
            return;
        }
        self.swept = now;
        let share = (due.as_secs_f64() / SWEEP.as_secs_f64()).min(1.0);
        let judges = self.engine.0.judges.load(Ordering::Relaxed).max(1);
        let size = self.engine.0.plane.sweep_size() as f64;
        self.lane.expire(now, (size * share / judges as f64).ceil() as usize);
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.lane.finish();
        self.engine.0.judges.fetch_sub(1, Ordering::Relaxed);
        self.engine.0.lanes.lock().retire(&self.lane);
    }
}

impl FlowScratch {
    fn decide(&mut self, snapshot: &Snapshot, flows: &[Flow], out: &mut [Judgement]) {
        let known =
            self.handle.as_ref().is_some_and(|(table, _)| Arc::ptr_eq(table, &snapshot.identities));
        if !known {
            self.handle = Some((snapshot.identities.clone(), snapshot.identities.handle()));
        }
        let Some((_, identify)) = &self.handle else { return };
        self.v4.clear();
        self.v6.clear();
        for (flow, asked) in flows.iter().zip(&mut self.flows) {
            *asked = glue::of_policy(flow);
            match (flow.source, flow.destination) {
                (IpAddr::V4(a), IpAddr::V4(b)) => self.v4.extend([a.to_bits(), b.to_bits()]),
                (IpAddr::V6(a), IpAddr::V6(b)) => self.v6.extend([a.to_bits(), b.to_bits()]),
                _ => {}
            }
        }
        identify.identify_v4(&self.v4, &mut self.identities_v4[..self.v4.len()]);
        identify.identify_v6(&self.v6, &mut self.identities_v6[..self.v6.len()]);
        let mut v4 = self.identities_v4.chunks_exact(2);
        let mut v6 = self.identities_v6.chunks_exact(2);
        for (flow, asked) in flows.iter().zip(&mut self.flows) {
            let pair = match (flow.source, flow.destination) {
                (IpAddr::V4(_), IpAddr::V4(_)) => v4.next(),
                (IpAddr::V6(_), IpAddr::V6(_)) => v6.next(),
                _ => None,
            };
            if let Some([source, destination]) = pair {
                (asked.source, asked.destination) = (*source, *destination);
            }
        }
        let decisions = &mut self.decisions[..flows.len()];
        snapshot.policy.decide(&self.flows[..flows.len()], decisions);
        for (((flow, asked), decision), out) in
            flows.iter().zip(&self.flows).zip(decisions).zip(out)
        {
            if flow.source.is_ipv4() != flow.destination.is_ipv4() {
                *out = refused(Reason::IpVersion);
                continue;
            }
            *out = Judgement {
                verdict: decision.verdict,
                reason: match decision.verdict {
                    verdict::Verdict::Allow => None,
                    verdict::Verdict::Deny => Some(Reason::PolicyDenied),
                    verdict::Verdict::Reject => Some(Reason::PolicyRejected),
                },
                rule: decision.rule,
                source: asked.source,
                destination: asked.destination,
                ..Judgement::default()
            };
        }
    }
}

impl std::fmt::Debug for FlowScratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowScratch").finish_non_exhaustive()
    }
}

/// Nothing is in force yet.
const NO_POLICY: Judgement = refused(Reason::NoPolicy);

const fn refused(reason: Reason) -> Judgement {
    Judgement {
        verdict: verdict::Verdict::Deny,
        reason: Some(reason),
        rule: verdict::RuleId::NONE,
        source: IdentityId::UNKNOWN,
        destination: IdentityId::UNKNOWN,
        state: State::None,
    }
}
