//! Who an address is: endpoints with labels are grouped into identities, selectors pick identities,
//! and a longest-prefix-match table maps any address to its identity in a few nanoseconds. It knows
//! addresses, labels and selectors. It must never know packets, rules, policy documents or the
//! kernel: pure Rust, no C, no build script, no I/O.

mod bulk;
mod content;
pub mod endpoint;
pub mod feed;
pub mod generation;
pub mod id;
pub mod identity;
pub mod labels;
mod lpm;
pub mod prefix;
pub mod reference;
pub mod region;
pub mod registry;
pub mod replacement;
pub mod selector;
mod set;
mod sync;
pub mod table;

pub use endpoint::ClusterState;
pub use feed::{FeedError, FeedReason};
pub use generation::Generation;
pub use id::IdentityId;
pub use labels::Labels;
pub use prefix::{Prefix, PrefixError};
pub use registry::Registry;
pub use replacement::Replacement;
pub use selector::Selector;
pub use table::{Guard, Reader, TableError, Writer};
