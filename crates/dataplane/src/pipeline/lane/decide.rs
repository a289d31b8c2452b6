//! From packets to decisions: headers, known connections, and for the rest identities and policy.

use super::Lane;
use crate::clock::Time;
use crate::connection::{Probe, Role, Tracked};
use crate::packet::{Headers, Kind, Version};
use crate::pipeline::case::{Case, Place};
use crate::pipeline::engine::Published;
use crate::pipeline::judgement::{Input, Judgement, State};
use crate::reason::Reason;

impl Lane {
    /// Reads headers; settles what needs no connection and no policy.
    pub(super) fn parse(&mut self, inputs: &[Input<'_>], out: &mut [Judgement]) {
        let scratch = &mut *self.scratch;
        scratch.probes.clear();
        scratch.probe_of.clear();
        scratch.cases.clear();
        scratch.fragments.clear();
        let config = &self.engine.config;
        let headers = &mut scratch.headers[..inputs.len()];
        for ((input, out), headers) in inputs.iter().zip(&mut *out).zip(&mut *headers) {
            // Read where they stay: a copy would have to wait for the stores that made them.
            let read = headers.insert(Headers::default());
            let kind = config.tunnels.parse_into(input.data, input.wire_len, read);
            if kind != Ok(Kind::Ip) {
                *headers = None;
                *out = match kind {
                    Err(reason) => Judgement::drop(reason),
                    Ok(Kind::Arp) if config.pass_arp => Judgement::PASS,
                    Ok(Kind::Other(_)) if config.pass_non_ip => Judgement::PASS,
                    Ok(_) => Judgement::drop(Reason::NonIp),
                };
            }
        }
        // Another round, for the same reason: by now the stores are done.
        for (n, ((input, out), headers)) in inputs.iter().zip(out).zip(headers).enumerate() {
            let Some(headers) = headers else { continue };
            if config.pass_neighbour_discovery && headers.is_neighbour_discovery() {
                *out = Judgement::PASS;
                continue;
            }
            if let Some(fragment) = headers.fragment {
                scratch.fragments.push(n as u8);
                if fragment.offset > 0 {
                    *out = Judgement::drop(Reason::NoPolicy);
                    continue;
                }
            }
            match Probe::of(input.data, headers) {
                Ok(Role::Member(probe)) => {
                    scratch.probes.push(probe);
                    scratch.probe_of.push(n as u8);
                }
                Ok(Role::Alone) => scratch.cases.push(Case::alone(n, headers)),
                Err(reason) => *out = Judgement::drop(reason),
            }
        }
    }

    /// Takes packets of known connections into account; what is left becomes cases.
    pub(super) fn track(&mut self, now: Time, generation: u32, out: &mut [Judgement]) {
        let scratch = &mut *self.scratch;
        let count = scratch.probes.len();
        let tracked = &mut scratch.tracked[..count];
        self.engine.connections.track(now, generation, &scratch.probes, tracked);
        let mut established = 0;
        for ((probe, n), tracked) in scratch.probes.iter().zip(&scratch.probe_of).zip(tracked) {
            let n = usize::from(*n);
            match tracked {
                Tracked::Member { grant } => {
                    established += 1;
                    out[n] = Judgement::member(grant, State::Established);
                }
                Tracked::Invalid(reason) => out[n] = Judgement::drop(*reason),
                Tracked::Judge { opened } => {
                    scratch.cases.push(Case::member(n, probe, *opened, &scratch.headers[n]));
                }
            }
        }
        self.counters.established.add(established);
    }

    /// Takes handles on the identities of a new snapshot: the one allocation, once a change.
    pub(super) fn follow(&mut self, published: &Published) {
        if self.identify.as_ref().is_none_or(|(number, _)| *number != published.number) {
            self.identify = Some((published.number, published.snapshot.identities.handle()));
            let zones = published.zones.iter();
            self.zones = zones.map(|(zone, of)| (*zone, of.identities.handle())).collect();
            self.staged = published.staged.as_ref().map(|staged| staged.identities.handle());
        }
    }

    /// Asks for identities and verdicts of all cases together.
    pub(super) fn decide(&mut self, published: &Published) {
        let Some((_, identify)) = &self.identify else { return };
        let scratch = &mut *self.scratch;
        scratch.v4.clear();
        scratch.v6.clear();
        scratch.flows.clear();
        for case in &scratch.cases {
            match case.tuple.version {
                Version::V4 => {
                    scratch.v4.push(case.tuple.source as u32);
                    scratch.v4.push(case.tuple.destination as u32);
                }
                Version::V6 => {
                    scratch.v6.push(case.tuple.source);
                    scratch.v6.push(case.tuple.destination);
                }
            }
        }
        let (v4, v6) = (scratch.v4.len(), scratch.v6.len());
        if v4 > 0 {
            identify.identify_v4(&scratch.v4, &mut scratch.identities_v4[..v4]);
        }
        if v6 > 0 {
            identify.identify_v6(&scratch.v6, &mut scratch.identities_v6[..v6]);
        }
        let mut pairs_v4 = scratch.identities_v4[..v4].chunks_exact(2);
        let mut pairs_v6 = scratch.identities_v6[..v6].chunks_exact(2);
        for case in &mut scratch.cases {
            let pair = match case.tuple.version {
                Version::V4 => pairs_v4.next(),
                Version::V6 => pairs_v6.next(),
            };
            if let Some([source, destination]) = pair {
                case.flow.source = *source;
                case.flow.destination = *destination;
            }
            scratch.flows.push(case.flow);
        }
        let decisions = &mut scratch.decisions[..scratch.flows.len()];
        published.snapshot.policy.decide(&scratch.flows, decisions);
        for (case, decision) in scratch.cases.iter_mut().zip(decisions) {
            case.decision = *decision;
            if case.tuple.zone != 0 {
                case.decide(Place::of(case.tuple.zone, &**identify, &self.zones, published));
            }
        }
        if let (Some(snapshot), Some(identify)) = (&published.staged, &self.staged) {
            let cases = self.scratch.cases.iter_mut().filter(|case| case.tuple.zone == 0);
            cases.for_each(|case| case.stage(Place::staged(&**identify, snapshot)));
        }
    }

    /// Without a policy nothing passes that would need one.
    #[cold]
    pub(super) fn refuse_all(&mut self, out: &mut [Judgement]) {
        let cases = self.scratch.cases.iter().map(|case| case.packet);
        for n in self.scratch.probe_of.iter().copied().chain(cases) {
            out[usize::from(n)] = Judgement::drop(Reason::NoPolicy);
        }
        self.scratch.cases.clear();
    }
}
