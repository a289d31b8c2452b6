//! Replacing what a set holds while endpoints come and go.
//!
//! A set of a million prefixes takes tenths of a second to sort, to nest and to put into an address
//! table. All of that happens beside the engine, which is needed three times for a moment:
//! ```
//! use portcullis_identity_table::endpoint::{ClusterState, Endpoint};
//! use portcullis_policy::{Engine, Flow, Source, Verdict, parse_policies};
//! let policies = parse_policies(&[Source::new("feed.yaml", "
//! {apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: feed, labels: {kind: feed}}}
//! ---
//! {apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: threats},
//!  spec: {types: [Ingress], ingress: [{action: Deny, source: {selector: 'kind == \"feed\"'}}, {action: Allow}]}}
//! ")])?.value;
//! let mut engine = Engine::default();
//! let web = Endpoint { addresses: vec!["10.0.0.1".parse()?], ..Endpoint::new("shop", "web") };
//! let _ = engine.apply(ClusterState { endpoints: vec![web], ..Default::default() }, policies)?;
//!
//! let draft = engine.draft_set("GlobalNetworkSet//feed", ["192.0.2.0/24".parse()?].into()).unwrap();
//! let mut change = draft.build(); // aside
//! let update = engine.announce_set(&mut change)?; // to be published
//! let hosts: Vec<_> = engine.registry().hosts().map(|(address, _)| address).collect();
//! // Aside: a table of change.regions().rows() and the hosts.
//! let moved = change.regions().moved(&hosts);
//! let done = engine.finish_set(change, moved)?; // to be published with that table
//!
//! let flow = Flow::new("192.0.2.7".parse()?, "10.0.0.1".parse()?, 6, (40000, 80));
//! assert_eq!(engine.evaluate(&flow).verdict, Verdict::Deny);
//! # drop((update, done));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_identity_table::region::Regions;
use portcullis_identity_table::registry::NextRegions;

use crate::compile::Prove;
use crate::compile::sources::Content;
use crate::engine::{Engine, EngineError, Update};

/// What a set is to hold, and what was in force when that began.
#[derive(Debug)]
pub struct SetDraft {
    set: usize,
    prefixes: Arc<[IpNet]>,
    content: Content,
    before: Arc<Regions>,
    policy_changes: u64,
}

/// What a set is to hold, nested with everything else that policies name.
#[derive(Debug)]
pub struct SetChange {
    set: usize,
    prefixes: Arc<[IpNet]>,
    next: NextRegions,
    policy_changes: u64,
}

/// What a finished change leaves: large things that are better freed where nobody waits.
#[derive(Debug)]
#[must_use]
pub struct SetDone {
    /// What is to be published, together with the new table. Its rows are hosts, not prefixes.
    pub update: Update,
    /// What the set held.
    pub prefixes: Arc<[IpNet]>,
    /// The regions that it made.
    pub regions: Arc<Regions>,
}

impl SetDraft {
    /// Nests the prefixes. Needs no engine; O(n log n) in all prefixes.
    pub fn build(self) -> SetChange {
        let next = NextRegions::after(self.before, self.content.regions());
        let Self { set, prefixes, policy_changes, .. } = self;
        SetChange { set, prefixes, next, policy_changes }
    }
}

impl SetChange {
    /// The regions to come.
    pub fn regions(&self) -> &NextRegions {
        &self.next
    }
}

impl Engine {
    /// Begins to replace what the set of this name holds; `None` if the policies name no such set.
    /// O(prefixes that policies name themselves + sets).
    pub fn draft_set(&self, name: &str, prefixes: Arc<[IpNet]>) -> Option<SetDraft> {
        let set = self.policies.sets.iter().position(|set| &*set.name == name)?;
        let mut content = self.sources.content(&self.policies);
        content.sets[set].0 = Arc::clone(&prefixes);
        let before = self.registry.regions();
        Some(SetDraft { set, prefixes, content, before, policy_changes: self.policy_changes })
    }

    /// Makes the identities that the change will give out known to the program, to be published before
    /// they are given out. To be followed by [`Engine::finish_set`] or [`Engine::abandon_set`], on
    /// errors too.
    ///
    /// # Errors
    /// [`EngineError::Overtaken`], [`EngineError::Compile`], [`EngineError::Proof`].
    pub fn announce_set(&mut self, change: &mut SetChange) -> Result<Update, EngineError> {
        self.expect_current(change)?;
        self.registry.announce_regions(&mut change.next);
        let delta = self.registry.commit();
        self.follow_change(delta, Prove::Policies)
    }

    /// Has the set hold what the change says. `addresses`: as for
    /// [`Registry::exchange_regions`](portcullis_identity_table::Registry::exchange_regions).
    ///
    /// # Errors
    /// [`EngineError::Overtaken`], [`EngineError::Compile`], [`EngineError::Proof`]; the set holds
    /// what it held.
    pub fn finish_set(
        &mut self,
        change: SetChange,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<SetDone, EngineError> {
        let current = self.expect_current(&change);
        let SetChange { set, prefixes, next, .. } = change;
        let exchanged = match current {
            Ok(()) => self.registry.exchange_regions(next, addresses),
            Err(_) => Err(next),
        };
        let regions = match exchanged {
            Ok(regions) => regions,
            Err(next) => {
                // What knows identities that nobody has may stay published.
                drop(self.abandon(next));
                return Err(EngineError::Overtaken);
            }
        };
        let prefixes = std::mem::replace(&mut self.policies.sets[set].prefixes, prefixes);
        let delta = self.registry.commit();
        match self.follow_change(delta, Prove::Policies) {
            Ok(update) => Ok(SetDone { update, prefixes, regions }),
            Err(error) => {
                self.policies.sets[set].prefixes = prefixes;
                self.registry.set_regions(self.sources.regions(&self.policies));
                // The next change compiles from nothing.
                Err(error)
            }
        }
    }

    /// Takes an announcement back.
    ///
    /// # Errors
    /// [`EngineError::Compile`], [`EngineError::Proof`].
    pub fn abandon_set(&mut self, change: SetChange) -> Result<Update, EngineError> {
        self.abandon(change.next)
    }

    fn abandon(&mut self, next: NextRegions) -> Result<Update, EngineError> {
        self.registry.abandon_regions(next);
        let delta = self.registry.commit();
        self.follow_change(delta, Prove::Policies)
    }

    fn expect_current(&self, change: &SetChange) -> Result<(), EngineError> {
        if change.policy_changes == self.policy_changes {
            Ok(())
        } else {
            Err(EngineError::Overtaken)
        }
    }
}
