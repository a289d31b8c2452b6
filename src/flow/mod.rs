//! Flow records: what became of every connection, and what was denied, in a form to keep.
//!
//! A [`Recorder`] reads the events of an [`Engine`](crate::Engine) and makes records of them: one when
//! a connection starts, when another rule decides of it, while it lasts, and when it ends; denials are
//! summed up by who, whom and why, in a table of fixed size. Records go to any number of
//! [`Subscription`]s, each a bounded queue that counts what it had no room for; [`FileWriter`] takes
//! them from there into files. Nothing here is on the packet path, and packets wait for none of it.
//!
//! `docs/flow-records.md` says what each field means.
//!
//! ```
//! use portcullis::dataplane::pipeline::Input;
//! use portcullis::flow::{Event, Recorder};
//! use portcullis::Engine;
//!
//! let engine = Engine::new(Default::default())?;
//! engine.apply(Default::default(), Default::default())?;
//! let mut recorder = Recorder::new(&engine, Default::default());
//! let records = recorder.hub().subscribe(1024);
//!
//! let mut frame = Vec::new();
//! etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
//!     .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
//!     .udp(40000, 53)
//!     .write(&mut frame, &[])?;
//! engine.judge().packets(&[Input::new(&frame)], &mut [Default::default()]);
//!
//! recorder.poll();
//! let record = records.next().unwrap();
//! assert_eq!((record.event, record.destination.port), (Event::Start, 53));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod choice;
mod config;
mod denied;
mod file;
mod hub;
pub mod hubble;
mod record;
mod recorder;
mod time;
mod writer;

pub use choice::{Keep, PolicyKeep, PolicyPattern};
pub use config::{Config, ConfigError};
pub use file::{FileConfig, FileSink, Fsync, Sink, StreamSink};
pub use hub::{Hub, Received, Subscription, Watch};
pub use record::{
    Action, Event, Flags, FlowRecord, Icmp, ParseError, Party, Spread, StagedRecord, Sum, VERSION,
    Way,
};
pub use recorder::{Recorded, Recorder};
pub use time::Timestamp;
pub use writer::{FileWriter, Format, Written};
