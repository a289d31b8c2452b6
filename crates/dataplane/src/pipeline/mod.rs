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
mod judgement;
mod lane;
mod rate;
pub mod reject;

pub use case::end_of;
pub use engine::{Config, Engine, Snapshot};
pub use judgement::{Input, Judgement, State};
pub use lane::{BATCH, Lane};
pub use rate::{PacketRate, RateLimits, Unit};
