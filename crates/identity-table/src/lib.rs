//! Who an address is: endpoints with labels are grouped into identities, selectors pick identities,
//! and a longest-prefix-match table maps any address to its identity in a few nanoseconds. It knows
//! addresses, labels and selectors. It must never know packets, rules, policy documents or the
//! kernel: pure Rust, no C, no build script, no I/O.
//!
//! # The model
//! * An **endpoint** is a workload: namespace, name, labels, service account, named ports, node, any
//!   number of addresses.
//! * A **region** is a stretch of addresses that the same loaded prefixes and sets cover.
//! * An **identity** is the class of all addresses that nothing loaded can tell apart. A hundred
//!   replicas are one identity; a feed of a million prefixes is one too.
//! * The [`Registry`] groups endpoints and regions into identities, and says what the table must
//!   change. It remembers who had which address when, for logs ([`generation::History`]).
//! * The **table** answers: one [`Writer`], a [`Reader`] for each thread that looks up.
//! * A [`Selector`] says of labels whether they match; an index finds those of thousands that do.
//!
//! ```
//! use portcullis_identity_table::endpoint::Endpoint;
//! use portcullis_identity_table::identity::Owner;
//! use portcullis_identity_table::selector::calico;
//! use portcullis_identity_table::{IdentityId, Prefix, Registry, Writer};
//!
//! let pod = |name: &str, address: &str| Endpoint {
//!     labels: [("app", "web")].into_iter().collect(),
//!     addresses: vec![address.parse().unwrap()],
//!     ..Endpoint::new("shop", name)
//! };
//! let (mut registry, mut writer) = (Registry::new(), Writer::new());
//! registry.upsert_endpoint(pod("web-0", "10.0.0.1"))?;
//! registry.upsert_endpoint(pod("web-1", "10.0.0.2"))?;
//!
//! // What changed, as one generation: the table follows.
//! for (prefix, id) in registry.commit().table {
//!     match id {
//!         Some(id) => writer.insert(Prefix::try_from(prefix)?, id)?,
//!         None => writer.remove(&Prefix::try_from(prefix)?)?,
//!     };
//! }
//! let reader = writer.reader();
//! let id = reader.pin().lookup("10.0.0.1".parse()?);
//! assert_eq!(reader.pin().lookup("10.0.0.2".parse()?), id);
//! assert_eq!(reader.pin().lookup("192.0.2.9".parse()?), IdentityId::WORLD_V4);
//!
//! // Selectors are asked of an identity, not of each pod or packet.
//! let Owner::Workload(workload) = &registry.identity(id).unwrap().class.owner else { panic!() };
//! assert!(calico::parse("app in {'web', 'api'} && !has(canary)")?.matches(&workload.labels));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A feed is replaced as a whole, beside endpoints that come and go: [`replacement`].

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
