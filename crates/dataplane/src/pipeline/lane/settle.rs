//! From decisions to judgements: connections are opened, kept or cut, and what happened is told.

use super::Lane;
use crate::clock::Time;
use crate::connection::{Direction, Probe, Settled};
use crate::event::{Event, EventKind};
use crate::pipeline::case::{Case, Place, displaced, refusal};
use crate::pipeline::engine::Published;
use crate::pipeline::fragment::Fate;
use crate::pipeline::judgement::{Input, Judgement, State};
use crate::reason::Reason;

/// How often a packet is settled again because another worker changed its connection meanwhile.
const SETTLE_TRIES: usize = 4;

impl Lane {
    /// Applies decisions, packets of connections in their order.
    pub(super) fn settle(
        &mut self,
        now: Time,
        generation: u32,
        published: &Published,
        out: &mut [Judgement],
    ) {
        for n in 0..self.scratch.cases.len() {
            let case = self.scratch.cases[n];
            let judgement = match case.member {
                None => self.settle_alone(now, &case),
                Some((probe, opened)) => {
                    self.settle_member(now, generation, published, case, &probe, opened)
                }
            };
            out[usize::from(case.packet)] = judgement;
        }
    }

    /// Later fragments share the fate of the first.
    #[cold]
    pub(super) fn join_fragments(
        &mut self,
        now: Time,
        inputs: &[Input<'_>],
        out: &mut [Judgement],
    ) {
        let fragments = &self.engine.fragments;
        for n in self.scratch.fragments.iter().map(|n| usize::from(*n)) {
            let Some(headers) = &self.scratch.headers[n] else { continue };
            let Some(fragment) = &headers.fragment else { continue };
            let first = fragment.offset == 0;
            let fate = if first {
                let decision = out[n].reason.map_or(Ok(()), Err);
                fragments.first(now, headers, fragment, decision)
            } else {
                let Input { data, wire_len } = inputs[n];
                let whole = (data.len() == wire_len).then_some(data);
                fragments.later(now, headers, fragment, whole)
            };
            match fate {
                Fate::Pass(held) => {
                    self.released.extend(held);
                    out[n] = if first { out[n] } else { Judgement::PASS };
                }
                Fate::Held => out[n] = Judgement::drop(Reason::FragmentHeld),
                Fate::Dropped(reason, held) => {
                    self.counters.dropped(reason).add(held as u64);
                    if out[n].reason != Some(reason) {
                        out[n] = Judgement::drop(reason);
                    }
                }
            }
        }
    }

    /// Tells of a packet that was judged.
    #[inline]
    fn tell(&mut self, now: Time, case: &Case, kind: EventKind) {
        let event = case.event(now, kind);
        if case.staged.is_some() {
            self.count_staged(&event);
        }
        match (&mut self.folds, kind) {
            (Some(folds), EventKind::Dropped { reason }) => {
                folds.tell(event, reason, &self.events);
            }
            _ => self.events.push(event),
        }
    }

    #[cold]
    fn count_staged(&self, event: &Event) {
        let allowed = match event.kind {
            EventKind::Opened | EventKind::Passed => true,
            EventKind::Dropped { reason: Reason::PolicyDenied | Reason::PolicyRejected } => false,
            _ => return,
        };
        self.counters.staged.add(1);
        if event.staged.is_some() {
            let differs =
                if allowed { &self.counters.staged_denies } else { &self.counters.staged_allows };
            differs.add(1);
        }
    }

    fn settle_alone(&mut self, now: Time, case: &Case) -> Judgement {
        let judgement = match refusal(&case.decision) {
            None => Judgement::member(&case.grant(), State::None),
            Some(reason) => Judgement::refused(reason, case, State::None),
        };
        let kind = match judgement.reason {
            None => EventKind::Passed,
            Some(reason) => EventKind::Dropped { reason },
        };
        self.tell(now, case, kind);
        judgement
    }

    fn settle_member(
        &mut self,
        now: Time,
        generation: u32,
        published: &Published,
        mut case: Case,
        probe: &Probe,
        mut opened: Direction,
    ) -> Judgement {
        for _ in 0..SETTLE_TRIES {
            let decision = match refusal(&case.decision) {
                None => Ok(case.grant()),
                Some(reason) => Err(reason),
            };
            let mut ended = None;
            let connections = &self.engine.connections;
            let settled = connections.settle(now, generation, probe, opened, decision, &mut ended);
            if let Some(ended) = ended {
                let reason = match settled {
                    Settled::Dropped(reason) => Some(reason),
                    _ => None,
                };
                self.counters.ended.add(1);
                self.events.push(displaced(now, &ended, &probe.key, reason));
            }
            match settled {
                Settled::Member { grant } => {
                    self.counters.established.add(1);
                    return Judgement::member(&grant, State::Established);
                }
                Settled::Renewed { grant } => {
                    self.counters.established.add(1);
                    self.tell(now, &case, EventKind::Changed);
                    return Judgement::member(&grant, State::Established);
                }
                Settled::Opened { grant } => {
                    self.counters.opened.add(1);
                    self.tell(now, &case, EventKind::Opened);
                    return Judgement::member(&grant, State::New);
                }
                Settled::Dropped(reason) => {
                    self.tell(now, &case, EventKind::Dropped { reason });
                    return Judgement::refused(reason, &case, State::New);
                }
                Settled::Again { opened: actual } => {
                    opened = actual;
                    case = Case::member(case.packet.into(), probe, opened, &None);
                    let Some((_, identify)) = &self.identify else { break };
                    let zone = case.tuple.zone;
                    case.decide(Place::of(zone, &**identify, &self.zones, published));
                    if let (Some(snapshot), Some(identify), 0) =
                        (&published.staged, &self.staged, zone)
                    {
                        case.stage(Place::staged(&**identify, snapshot));
                    }
                }
            }
        }
        Judgement::refused(Reason::Contention, &case, State::New)
    }
}
