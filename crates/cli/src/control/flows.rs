//! How flow records are followed: a line of answer, then a line for each record from now on
//! (docs/flow-records.md), until the client asks for the end; that comes as a last line.

use serde::{Deserialize, Serialize};

/// That records follow.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Begun {}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) end: Summary,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Records sent to the client.
    pub(crate) sent: u64,
    /// Records that it was too slow for.
    pub(crate) lost: u64,
}

impl Summary {
    /// What to say of the loss; nothing if there was none.
    pub(crate) fn loss(&self) -> String {
        match self.lost {
            0 => String::new(),
            lost => format!("; {lost} lost, because this command was too slow"),
        }
    }
}

/// How every last line begins, and no record.
pub(crate) const END: &str = "{\"end\":";
