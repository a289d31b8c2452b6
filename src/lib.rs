//! An embeddable data plane for container firewalls: packets come off NIC queues through AF_XDP,
//! their addresses become workload identities, a compiled policy decides, connections are tracked,
//! and what may pass leaves by the other port. This facade knows all the crates below and joins them;
//! it must hold no packet logic and no policy semantics of its own.
//!
//! Two ways in:
//! - [`Firewall`] (feature `xdp`, Linux): give it interfaces, a cluster and policies, and it runs.
//! - [`Engine`]: the same judgement without interfaces, for simulators, tests and agents with their
//!   own packet I/O.
//!
//! ```
//! use portcullis::policy::{Flow, Source, Verdict, parse_cluster, parse_policies};
//! use portcullis::Engine;
//!
//! let cluster = parse_cluster(&[Source::new("cluster.yaml", r#"
//! {apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, status: {podIP: 10.0.0.1}}
//! ---
//! {apiVersion: v1, kind: Pod, metadata: {name: db, labels: {app: db}}, status: {podIP: 10.0.0.2}}
//! "#)])?.value;
//! let policies = parse_policies(&[Source::new("policies.yaml", r#"
//! apiVersion: networking.k8s.io/v1
//! kind: NetworkPolicy
//! metadata: {name: web-to-db}
//! spec:
//!   podSelector: {matchLabels: {app: db}}
//!   ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
//! "#)])?.value;
//!
//! let engine = Engine::new(Default::default())?;
//! engine.apply(cluster, policies)?;
//! let tcp = 6;
//! let allowed = Flow::new("10.0.0.1".parse()?, "10.0.0.2".parse()?, tcp, (40000, 5432));
//! let denied = Flow::new("10.0.0.1".parse()?, "10.0.0.2".parse()?, tcp, (40000, 22));
//! assert_eq!(engine.evaluate(&allowed).verdict, Verdict::Allow);
//! let evaluation = engine.evaluate(&denied);
//! assert_eq!(evaluation.verdict, Verdict::Deny);
//! assert_eq!(evaluation.rule.unwrap().policy.name.to_string(), "NetworkPolicy/default/web-to-db");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

//!
//! # Features
//! | feature | default | adds |
//! |---|---|---|
//! | `xdp` | yes | [`Firewall`], AF_XDP ports and the XDP program's loader: Linux, and to build it a C compiler, clang, m4, libelf and zlib headers |
//!
//! Without it nothing is compiled by another compiler than Rust's, and everything else is the same.
//! Minimum supported Rust version: 1.95, with which all tests run. What a release may change: `docs/semver.md`.
//!
//! # Threads and event loops
//! [`Engine`] and [`Firewall`] are `Send` and `Sync` and take `&self`: changes wait for each other,
//! packets wait for nobody. A [`Judge`] is `Send`; make one for each thread. There is no global state
//! and no async runtime: [`Engine`] and [`Firewall`] are [`AsFd`](std::os::fd::AsFd), readable when
//! events wait, for whatever loop a program has.

#[cfg(feature = "xdp")]
mod affinity;
mod connections;
mod control;
#[cfg(feature = "xdp")]
mod early_drop;
mod endpoints;
mod engine;
mod error;
mod event;
#[cfg(feature = "xdp")]
mod firewall;
pub mod flow;
mod glue;
mod judge;
#[cfg(feature = "xdp")]
mod mirror_port;
mod observe;
pub mod report;
mod rules;
mod select;
mod sets;
mod totals;
mod zone;

#[cfg(feature = "xdp")]
pub use early_drop::Replaced;
pub use endpoints::Endpoints;
pub use engine::{Applied, Config as EngineConfig, Engine, Evaluation};
pub use error::Error;
pub use event::{FlowEvent, FlowKind, Party, StagedVerdict};
#[cfg(feature = "xdp")]
pub use firewall::{Config, Firewall, PortChange, PortInfo, Topology};
pub use judge::Judge;
pub use observe::{CapturedPacket, LiveConnection, RoundTimes, RuleSums, RuleTotals};
pub use select::{Mirrored, Rates, RuleName};
pub use sets::Sets;
pub use totals::Totals;
pub use zone::Zone;

pub use portcullis_classifier as classifier;
pub use portcullis_dataplane as dataplane;
pub use portcullis_identity_table as identity_table;
pub use portcullis_policy as policy;

/// The README's example is compiled and run like every other.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
