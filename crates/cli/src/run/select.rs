//! The part of the settings file that is about single rules: rates, and what is mirrored.

use portcullis::dataplane::pipeline::{PacketRate, Unit};
use portcullis::dataplane::verdict::Verdict;
use portcullis::policy::model::Direction;
use portcullis::{Mirrored, Rates, RuleName};
use serde::Deserialize;

/// `rates:` of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct RateEntries {
    /// Of every identity.
    identity: Option<RateEntry>,
    rules: Vec<RuleRate>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RateEntry {
    packets_per_second: Option<u64>,
    bytes_per_second: Option<u64>,
    /// As much as in a second unless said.
    burst: Option<u64>,
}

/// A rate and whose it is. (`flatten` would let unknown fields through.)
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleRate {
    policy: String,
    direction: Option<DirectionName>,
    rule: Option<u32>,
    packets_per_second: Option<u64>,
    bytes_per_second: Option<u64>,
    burst: Option<u64>,
}

/// `mirror:` of the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct MirrorEntry {
    /// The interface.
    pub(super) to: String,
    #[serde(default)]
    verdicts: Vec<VerdictName>,
    #[serde(default)]
    rules: Vec<RuleEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleEntry {
    policy: String,
    direction: Option<DirectionName>,
    rule: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DirectionName {
    Ingress,
    Egress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum VerdictName {
    Allow,
    Deny,
    Reject,
}

impl RateEntries {
    /// What to ask of the engine.
    ///
    /// # Errors
    /// A rate that is none, or two.
    pub(super) fn rates(&self) -> Result<Rates, String> {
        let identity = self.identity.map(|entry| entry.rate("identity")).transpose()?;
        let mut rates = Rates { identity, ..Rates::default() };
        for entry in &self.rules {
            let RuleRate { packets_per_second, bytes_per_second, burst, .. } = *entry;
            let rate = RateEntry { packets_per_second, bytes_per_second, burst };
            let name = name(&entry.policy, entry.direction, entry.rule);
            rates.rules.push((name, rate.rate(&entry.policy)?));
        }
        Ok(rates)
    }
}

impl RateEntry {
    fn rate(&self, of: &str) -> Result<PacketRate, String> {
        let (unit, per_second) = match (self.packets_per_second, self.bytes_per_second) {
            (Some(packets), None) => (Unit::Packets, packets),
            (None, Some(bytes)) => (Unit::Bytes, bytes),
            _ => {
                return Err(format!(
                    "error: rates: {of}: give either packets-per-second or bytes-per-second"
                ));
            }
        };
        Ok(PacketRate { unit, per_second, burst: self.burst.unwrap_or(per_second) })
    }
}

impl MirrorEntry {
    /// What to ask of the engine.
    pub(super) fn mirrored(&self) -> Mirrored {
        let verdict = |name: &VerdictName| match name {
            VerdictName::Allow => Verdict::Allow,
            VerdictName::Deny => Verdict::Deny,
            VerdictName::Reject => Verdict::Reject,
        };
        let rule = |entry: &RuleEntry| name(&entry.policy, entry.direction, entry.rule);
        Mirrored {
            verdicts: self.verdicts.iter().map(verdict).collect(),
            rules: self.rules.iter().map(rule).collect(),
        }
    }
}

fn name(policy: &str, direction: Option<DirectionName>, index: Option<u32>) -> RuleName {
    let direction = direction.map(|direction| match direction {
        DirectionName::Ingress => Direction::Ingress,
        DirectionName::Egress => Direction::Egress,
    });
    RuleName { policy: policy.to_owned(), direction, index }
}

/// A rule for people.
pub(super) fn words(name: &RuleName) -> String {
    let direction = match name.direction {
        Some(Direction::Ingress) => " ingress",
        Some(Direction::Egress) => " egress",
        None => "",
    };
    let index = name.index.map_or(String::new(), |index| format!(" rule {index}"));
    format!("{}{direction}{index}", name.policy)
}
