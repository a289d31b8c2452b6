//! The one door to atomics of what this crate publishes by itself, so that loom can stand behind
//! it (`RUSTFLAGS="--cfg loom" cargo test -p portcullis-classifier --release --lib loom`).

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
