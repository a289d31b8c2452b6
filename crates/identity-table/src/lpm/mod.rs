//! The longest-prefix-match structure.

pub(crate) mod alloc;
pub(crate) mod barrier;
pub(crate) mod bucket;
pub(crate) mod build;
pub(crate) mod entry;
pub(crate) mod fan;
pub(crate) mod jump;
pub(crate) mod own;
pub(crate) mod reclaim;
pub(crate) mod remove;
pub(crate) mod scan;
pub(crate) mod trie;
pub(crate) mod walk4;
pub(crate) mod walk6;
pub(crate) mod words;
