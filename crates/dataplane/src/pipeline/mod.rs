//! From received packets to verdicts: parse, connections, identities, policy, record.
//!
//! An [`Engine`] is what all workers share: settings, the connection table and the snapshot of
//! identities and policy in force. A [`Lane`] is what one worker owns: scratch memory, counters, a
//! ring of events. [`Lane::judge`] needs neither ports nor a clock, so a replay or an embedding
//! program can hand in packets from anywhere.

mod case;
mod engine;
mod fold;
pub mod fragment;
mod lane;
mod rate;
pub mod reject;

pub use case::end_of;
pub use engine::{Config, Engine, Snapshot};
pub use lane::{BATCH, Input, Judgement, Lane, State};
pub use rate::{PacketRate, RateLimits, Unit};
