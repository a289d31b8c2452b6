//! A small network on one machine: hosts in network namespaces of their own, joined by veth pairs
//! and a bridge. `demo` and `bench wire` run on it.
//!
//! The namespaces are anonymous: they live as long as somebody holds them open, so nothing is left
//! behind however the process ends, SIGKILL included.

mod host;
pub(crate) mod interface;
mod namespace;
mod path;
pub(crate) mod traffic;

pub(crate) use host::{Echo, Host};
pub(crate) use namespace::{Namespace, NotPossible};
pub(crate) use path::{Neighbours, Path, eth0};
