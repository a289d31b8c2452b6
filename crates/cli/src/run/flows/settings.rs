//! The part of the settings file that is about flow records.

use std::num::NonZeroU32;
use std::time::Duration;

use portcullis::flow::{self, FileConfig, Format, Fsync, Keep, PolicyKeep, PolicyPattern};
use serde::{Deserialize, Deserializer};

/// What the file says of flow records.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(in crate::run) struct Flows {
    #[serde(deserialize_with = "text")]
    format: Option<Format>,
    #[serde(deserialize_with = "text")]
    records: Option<Keep>,
    policies: Vec<Entry>,
    update_seconds: Option<u32>,
    denied_seconds: Option<NonZeroU32>,
    denied_kinds: Option<u32>,
    denied_burst: Option<NonZeroU32>,
    queue: Option<u32>,
    file: File,
}

/// What is recorded of flows that some policies decided.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    #[serde(deserialize_with = "text")]
    policies: Option<PolicyPattern>,
    #[serde(deserialize_with = "text")]
    records: Option<Keep>,
}

/// How the file is written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    max_bytes: Option<u64>,
    keep: Option<u32>,
    fsync: Option<Sync>,
    fsync_seconds: Option<NonZeroU32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Sync {
    Never,
    Rotate,
}

/// Denials of a kind that each worker tells one by one in a second, before it sums them up.
const BURST: NonZeroU32 = NonZeroU32::new(64).expect("64 is not 0");

/// Records that wait to be written.
const QUEUE: u32 = 1 << 16;

impl Flows {
    /// Flags over what the file says.
    pub(in crate::run) fn merge(self, format: Option<Format>, records: Option<Keep>) -> Self {
        Self { format: format.or(self.format), records: records.or(self.records), ..self }
    }

    /// As often rotated as is sensible: for soaks.
    pub(in crate::run) fn rotated_often() -> Self {
        let file = File { max_bytes: Some(4 << 20), keep: Some(2), ..File::default() };
        Self { file, ..Self::default() }
    }

    /// Denials that each worker tells one by one.
    pub(in crate::run) fn burst(&self) -> NonZeroU32 {
        self.denied_burst.unwrap_or(BURST)
    }

    pub(super) fn format(&self) -> Format {
        self.format.unwrap_or_default()
    }

    pub(super) fn queue(&self) -> usize {
        self.queue.unwrap_or(QUEUE) as usize
    }

    pub(super) fn recorder(&self) -> flow::Config {
        let mut config = flow::Config::default();
        config.keep = self.records.unwrap_or_default();
        config.policies = self.policies.iter().filter_map(Entry::choice).collect();
        if let Some(seconds) = self.update_seconds {
            config.update = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        }
        if let Some(seconds) = self.denied_seconds {
            config.denied = Duration::from_secs(seconds.get().into());
        }
        if let Some(kinds) = self.denied_kinds {
            config.denied_kinds = kinds as usize;
        }
        config
    }

    pub(super) fn file(&self) -> FileConfig {
        let mut config = FileConfig::default();
        if let Some(bytes) = self.file.max_bytes {
            config.max_bytes = (bytes > 0).then_some(bytes);
        }
        config.keep = self.file.keep.unwrap_or(config.keep);
        config.fsync = match (self.file.fsync_seconds, self.file.fsync) {
            (Some(seconds), _) => Fsync::Every(Duration::from_secs(seconds.get().into())),
            (None, Some(Sync::Never)) => Fsync::Never,
            (None, _) => Fsync::Rotate,
        };
        config
    }
}

impl Entry {
    fn choice(&self) -> Option<PolicyKeep> {
        let (policies, keep) = (self.policies.clone()?, self.records?);
        Some(PolicyKeep { policies, keep })
    }
}

/// Something that is read from text.
fn text<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_can_be_said_and_what_is_wrong_is_named() {
        let flows: Flows = yaml_serde::from_str(
            "{format: hubble, records: 1/10, update-seconds: 0, denied-seconds: 7, denied-kinds: 9,\
              denied-burst: 3, queue: 5,\
              policies: [{policies: NetworkPolicy/shop/*, records: denied}],\
              file: {max-bytes: 0, keep: 2, fsync-seconds: 3}}",
        )
        .unwrap();
        let config = flows.recorder();
        assert_eq!(config.keep, Keep::Sampled(NonZeroU32::new(10).unwrap()));
        assert_eq!((config.update, config.denied), (None, Duration::from_secs(7)));
        assert_eq!((config.denied_kinds, config.policies.len()), (9, 1));
        assert_eq!((flows.burst().get(), flows.queue()), (3, 5));
        let file = flows.file();
        assert_eq!((file.max_bytes, file.keep), (None, 2));
        assert_eq!(file.fsync, Fsync::Every(Duration::from_secs(3)));
        for (text, expected) in [
            ("{records: some}", "1/N"),
            ("{records: 1/0}", "1/N"),
            ("{policies: [{policies: x, records: all}]}", "Kind/namespace/name"),
            ("{policies: [{records: all}]}", "policies"),
            ("{file: {fsync-seconds: 0}}", "nonzero"),
            ("{file: {fsync: sometimes}}", "sometimes"),
            ("{format: xml}", "json or hubble"),
            ("{recrods: all}", "recrods"),
        ] {
            let error = yaml_serde::from_str::<Flows>(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
