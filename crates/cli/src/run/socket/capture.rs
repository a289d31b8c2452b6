//! Captures for clients: what the data plane copied, written to whoever asked for it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant, UNIX_EPOCH};

use portcullis::CapturedPacket;
use portcullis::dataplane::capture::{Filter, SNAPLEN, Session, Verdicts};
use portcullis::dataplane::reason::Reason;
use portcullis::dataplane::verdict::Verdict;

use super::super::observed::Observed;
use super::client::Client;
use crate::control::capture::{Begun, Item, Packet, Summary, Wanted};

/// Bytes that wait for a client; a packet beyond is left out and counted.
const WAITING: usize = 4 << 20;

/// How often as many packets as the rate says are allowed, and addresses are looked up.
const STEP: Duration = Duration::from_millis(100);
const LOOK_UP: Duration = Duration::from_secs(1);

/// One client's capture.
pub(super) struct Capturing {
    session: Session,
    wanted: Wanted,
    filter: Filter,
    addresses: Vec<IpAddr>,
    allowed: Option<Instant>,
    looked_up: Instant,
    ending: bool,
    captured: u64,
    slow: u64,
}

impl Capturing {
    /// Begins it.
    ///
    /// # Errors
    /// What is wrong with the request, for the client to read.
    pub(super) fn begin(observed: &Observed, wanted: &Wanted) -> Result<(Self, Begun), String> {
        let verdicts = wanted.verdicts.iter().map(|v| verdict(v)).collect::<Result<Vec<_>, _>>()?;
        let reasons = wanted.reasons.iter().map(|r| reason(r)).collect::<Result<Vec<_>, _>>()?;
        if !(14..=SNAPLEN).contains(&wanted.snaplen) {
            return Err(format!("snap length {}: from 14 to {SNAPLEN}", wanted.snaplen));
        }
        let mut filter = Filter::default().reasons(&reasons).snap(wanted.snaplen);
        if !verdicts.is_empty() {
            filter = filter.verdicts(Verdicts::of(&verdicts));
        }
        let addresses = addresses(observed, &wanted.endpoints)?;
        let firewall = observed.firewall();
        let session = firewall
            .capture(with_addresses(&filter, wanted, &addresses))
            .ok_or("as many captures as are possible run already: end one")?;
        let begun = Begun { addresses: addresses.clone() };
        let capturing = Self {
            session,
            wanted: wanted.clone(),
            filter,
            addresses,
            allowed: None,
            looked_up: Instant::now(),
            ending: false,
            captured: 0,
            slow: 0,
        };
        Ok((capturing, begun))
    }

    /// Ends it at the next opportunity.
    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    fn summary(&self) -> Summary {
        Summary {
            captured: self.captured,
            over_rate: self.session.over_budget(),
            lost: self.session.lost(),
            slow: self.slow,
        }
    }

    fn wants_more(&self) -> bool {
        !self.ending && self.wanted.count.is_none_or(|count| self.captured < count)
    }

    /// Allows what the rate says, and follows endpoints that change their addresses.
    fn tick(&mut self, now: Instant, observed: &Observed) {
        if self.allowed.is_none_or(|at| now.saturating_duration_since(at) >= STEP) {
            let step = match self.wanted.rate {
                0 => u32::MAX,
                rate => (rate / 10).max(1),
            };
            self.session.allow(step);
            self.allowed = Some(now);
        }
        if now.saturating_duration_since(self.looked_up) >= LOOK_UP {
            self.looked_up = now;
            // An endpoint that is gone may come back: until then it has no addresses.
            let found = addresses(observed, &self.wanted.endpoints).unwrap_or_default();
            if found != self.addresses {
                self.session.set_filter(with_addresses(&self.filter, &self.wanted, &found));
                self.addresses = found;
            }
        }
    }
}

/// Takes what was copied and gives it to those clients that asked for it; ends captures that are
/// through.
pub(super) fn hand_out(observed: &Observed, clients: &mut [Option<Client>]) {
    if clients.iter().flatten().all(|client| client.capture.is_none()) {
        return;
    }
    observed.firewall().captured(|packet| {
        for client in clients.iter_mut().flatten() {
            let unsent = client.unsent();
            let Some(capture) = &mut client.capture else { continue };
            if !capture.session.asked(&packet.askers) || !capture.wants_more() {
                continue;
            }
            let length = packet.data.len().min(capture.wanted.snaplen);
            if unsent + length > WAITING {
                capture.slow += 1;
                continue;
            }
            capture.captured += 1;
            client.send_json(&Item::Packet(describe(packet, length)));
            client.send(&packet.data[..length]);
        }
    });
    let now = Instant::now();
    for client in clients.iter_mut().flatten() {
        let ended = client.ended();
        let Some(capture) = &mut client.capture else { continue };
        capture.tick(now, observed);
        if !capture.wants_more() || ended {
            let summary = capture.summary();
            client.capture = None;
            client.send_json(&Item::End(summary));
            client.close();
        }
    }
}

fn describe(packet: &CapturedPacket<'_>, len: usize) -> Packet {
    let since = packet.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let judgement = &packet.judgement;
    Packet {
        seconds: since.as_secs(),
        nanos: since.subsec_nanos(),
        interface: packet.interface.to_string(),
        verdict: judgement.verdict.as_str().to_owned(),
        reason: judgement.reason.map(|reason| reason.as_str().to_owned()),
        policy: packet.rule.as_ref().map(|rule| rule.policy.name.to_string()),
        rule: packet.rule.as_ref().map(|rule| rule.origin.to_string()),
        state: judgement.state.as_str().to_owned(),
        wire_len: packet.wire_len,
        len,
    }
}

fn with_addresses(filter: &Filter, wanted: &Wanted, addresses: &[IpAddr]) -> Filter {
    if wanted.endpoints.is_empty() {
        return filter.clone();
    }
    filter.clone().addresses(addresses.to_vec())
}

fn addresses(observed: &Observed, endpoints: &[String]) -> Result<Vec<IpAddr>, String> {
    let mut all = BTreeSet::new();
    for endpoint in endpoints {
        let (namespace, name) = endpoint.split_once('/').unwrap_or(("default", endpoint));
        let found = observed.firewall().addresses_of(namespace, name);
        all.extend(found.ok_or_else(|| format!("no endpoint {namespace}/{name}"))?);
    }
    Ok(all.into_iter().collect())
}

fn verdict(text: &str) -> Result<Verdict, String> {
    [Verdict::Allow, Verdict::Deny, Verdict::Reject]
        .into_iter()
        .find(|verdict| verdict.as_str() == text)
        .ok_or_else(|| format!("verdict {text:?}: expected allow, deny or reject"))
}

fn reason(text: &str) -> Result<Reason, String> {
    Reason::ALL.iter().copied().find(|reason| reason.as_str() == text).ok_or_else(|| {
        let known: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        format!("reason {text:?}: expected one of {}", known.join(", "))
    })
}
