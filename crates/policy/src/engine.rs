//! The engine: a cluster and the policies over it, compiled, and kept so while both change.
//!
//! ```
//! use portcullis_identity_table::endpoint::{ClusterState, Endpoint};
//! use portcullis_policy::model::PolicySet;
//! use portcullis_policy::{Engine, Flow, Verdict};
//! let pod = |name: &str, address: &str| Endpoint {
//!     addresses: vec![address.parse().unwrap()],
//!     ..Endpoint::new("shop", name)
//! };
//! let mut engine = Engine::default();
//! let endpoints = vec![pod("web-0", "10.0.0.1")];
//! engine.apply(ClusterState { endpoints, ..ClusterState::default() }, PolicySet::default()).unwrap();
//!
//! // A pod like its sibling: one table entry, the same program.
//! let update = engine.upsert_endpoint(pod("web-1", "10.0.0.2")).unwrap();
//! assert_eq!((update.table.len(), update.program.is_none()), (1, true));
//!
//! let flow = Flow::new("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 6, (40000, 80));
//! let evaluation = engine.evaluate(&flow);
//! assert_eq!((evaluation.verdict, evaluation.policy), (Verdict::Allow, None));
//! ```

use std::sync::Arc;

use ipnet::IpNet;
use portcullis_identity_table::endpoint::{ClusterState, Endpoint, EndpointName, Namespace};
use portcullis_identity_table::registry::{self, Delta, Registry};
use portcullis_identity_table::{Generation, IdentityId};

use crate::compile::resolve::RuleInfo;
use crate::compile::sources::Sources;
use crate::compile::{CompileError, Compiler, Config, Prove};
use crate::flow::{Flow, Verdict};
use crate::model::{PolicyName, PolicySet};
use crate::program::{Decision, FlowKey, Program};
use crate::prove::{Mismatch, Proof, prove};

/// A cluster and the policies over it, compiled, and kept so while both change.
///
/// One thread changes it; what it hands out ([`Program`], [`Update`]) any number of threads may
/// read.
///
/// A change that fails hands out nothing, so whoever looks up goes on with the program and the table
/// of the change before. Refused policies are forgotten. A cluster that contradicts itself is
/// forgotten too; one for which the policies cannot be compiled is kept, and the next change that
/// succeeds hands out what this one would have.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    pub(crate) policies: PolicySet,
    namespaces: Vec<Namespace>,
    pub(crate) registry: Registry,
    pub(crate) sources: Sources,
    compiler: Compiler,
    /// The compiler stopped half-way and must start from nothing.
    broken: bool,
    /// Table updates of changes that failed since the last one that did not.
    carried: Vec<(IpNet, Option<IdentityId>)>,
    program: Arc<Program>,
    numbering: u64,
    /// How often policies were replaced.
    pub(crate) policy_changes: u64,
}

/// What a change asks of whoever holds the program and the address table.
#[derive(Clone, Debug, Default)]
#[must_use = "lookups answer as before until the program is published and the table is updated"]
pub struct Update {
    /// The program to publish, before the table is updated; `None`: the one before serves.
    pub program: Option<Arc<Program>>,
    /// Table updates, in order: insert or replace, or remove.
    pub table: Vec<(IpNet, Option<IdentityId>)>,
    /// The generation that the two make.
    pub generation: Generation,
}

/// Why a change was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The cluster contradicts itself; nothing was changed.
    #[error(transparent)]
    Cluster(#[from] registry::Error),
    /// The policies cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The program is not what the policies say: a defect of the compiler, please report it.
    #[error("the compiled program is wrong and was not taken: {0}")]
    Proof(#[from] Mismatch),
    /// The policies were replaced while what a set holds was; nothing of it is in force.
    #[error("the policies were replaced meanwhile: replace the set again")]
    Overtaken,
}

/// The answer for one flow, in words.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation<'a> {
    /// Whether the flow may pass.
    pub verdict: Verdict,
    /// The policy that decided; `None` if none did.
    pub policy: Option<&'a PolicyName>,
    /// The rule, or end of a tier, that decided.
    pub rule: Option<&'a RuleInfo>,
    /// The decision itself.
    pub decision: Decision,
}

/// Classes that may change at once before compiling from nothing is cheaper.
const MANY_CLASSES: usize = 128;

impl Default for Engine {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl Engine {
    /// An empty cluster without policies.
    pub fn new(config: Config) -> Self {
        let registry = Registry::new();
        let policies = PolicySet::default();
        let sources = Sources::default();
        let mut compiler = Compiler::new(config.clone(), &registry, []);
        // Where nothing is there is nothing to exceed a limit; if there were, the first change would
        // compile from nothing.
        let broken = compiler.set_policies(&policies, &sources, &registry).is_err();
        let program = Arc::new(compiler.program(Generation::default(), 0));
        let namespaces = Vec::new();
        Self {
            config,
            policies,
            namespaces,
            registry,
            sources,
            compiler,
            broken,
            carried: Vec::new(),
            program,
            numbering: 0,
            policy_changes: 0,
        }
    }

    /// Replaces the cluster and the policies.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn apply(
        &mut self,
        cluster: ClusterState,
        policies: PolicySet,
    ) -> Result<Update, EngineError> {
        self.replace_cluster(cluster)?;
        self.replace_policies(policies)
    }

    /// Replaces the cluster. O(cluster), and compiles what changed.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn set_cluster(&mut self, cluster: ClusterState) -> Result<Update, EngineError> {
        self.replace_cluster(cluster)?;
        let delta = self.registry.commit();
        self.follow(delta)
    }

    /// Replaces the policies. Compiles what changed.
    ///
    /// # Errors
    /// [`EngineError::Compile`], [`EngineError::Proof`].
    pub fn set_policies(&mut self, policies: PolicySet) -> Result<Update, EngineError> {
        self.replace_policies(policies)
    }

    /// Adds or replaces an endpoint. An endpoint like one that is there compiles nothing.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn upsert_endpoint(&mut self, endpoint: Endpoint) -> Result<Update, EngineError> {
        self.registry.upsert_endpoint(endpoint)?;
        let delta = self.registry.commit();
        self.follow(delta)
    }

    /// Takes an endpoint out.
    ///
    /// # Errors
    /// [`EngineError::Compile`], [`EngineError::Proof`].
    pub fn remove_endpoint(&mut self, name: &EndpointName) -> Result<Update, EngineError> {
        self.registry.remove_endpoint(name);
        let delta = self.registry.commit();
        self.follow(delta)
    }

    /// Says that nobody reads programs or tables older than `oldest` any more.
    pub fn reclaim(&mut self, oldest: Generation) {
        self.registry.reclaim(oldest);
    }

    /// The program of the last change.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Addresses, identities and their history.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The policies that the program enforces.
    pub fn policies(&self) -> &PolicySet {
        &self.policies
    }

    /// The question that a flow is to the program. O(log prefixes).
    pub fn key(&self, flow: &Flow) -> FlowKey {
        FlowKey {
            source: self.registry.lookup(flow.source),
            destination: self.registry.lookup(flow.destination),
            header: flow.header,
            same_address: flow.source == flow.destination,
        }
    }

    /// Decides a flow.
    pub fn evaluate(&self, flow: &Flow) -> Evaluation<'_> {
        let decision = self.program.decide_one(&self.key(flow));
        let rule = self.program.deciding_rule(&decision).map(|(_, info)| info);
        let policy = rule.map(|info| &info.policy.name);
        Evaluation { verdict: decision.verdict, policy, rule, decision }
    }

    /// Bytes on the heap that compiling holds beside the program.
    pub fn memory_usage(&self) -> usize {
        self.compiler.memory_usage()
    }

    /// Checks exhaustively that the program says what the policies say. O(pairs of classes), see
    /// [`crate::prove`].
    ///
    /// # Errors
    /// [`Mismatch`]: where the two differ. A program that fails must not be published.
    pub fn prove(&self) -> Result<Proof, Mismatch> {
        prove(&self.program, &self.compiler, &self.registry)
    }

    #[cfg(test)]
    pub(crate) fn prove_program(&self, program: &Program) -> Result<Proof, Mismatch> {
        prove(program, &self.compiler, &self.registry)
    }

    #[cfg(test)]
    pub(crate) fn prove_slowly(&self, program: &Program) -> Result<(), Mismatch> {
        crate::prove::slowly(program, &self.compiler, &self.registry)
    }

    #[cfg(test)]
    pub(crate) fn compiler_mut(&mut self) -> &mut Compiler {
        &mut self.compiler
    }

    fn replace_cluster(&mut self, mut cluster: ClusterState) -> Result<(), EngineError> {
        let mut namespaces = cluster.namespaces.clone();
        cluster.namespaces.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        namespaces.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.registry.replace_cluster(cluster)?;
        if self.namespaces != namespaces {
            // Expressions may depend on a namespace by name.
            self.namespaces = namespaces;
            self.broken = true;
        }
        Ok(())
    }

    fn replace_policies(&mut self, policies: PolicySet) -> Result<Update, EngineError> {
        self.policy_changes += 1;
        if self.sources.update(&self.policies, &policies) {
            self.registry.set_regions(self.sources.regions(&policies));
        }
        let old = std::mem::replace(&mut self.policies, policies);
        let delta = self.registry.commit();
        let prove = self.config.prove >= Prove::Policies;
        let compiled = self.recompile(&delta, true).and_then(|()| self.publish(delta, prove));
        if compiled.is_err() {
            let refused = std::mem::replace(&mut self.policies, old);
            if self.sources.update(&refused, &self.policies) {
                self.registry.set_regions(self.sources.regions(&self.policies));
            }
        }
        compiled
    }

    /// Compiles what a change of the cluster asks for.
    fn follow(&mut self, delta: Delta) -> Result<Update, EngineError> {
        self.follow_change(delta, Prove::Everything)
    }

    /// Compiles what a change asks for, and proves it if changes of its kind are.
    pub(crate) fn follow_change(
        &mut self,
        delta: Delta,
        kind: Prove,
    ) -> Result<Update, EngineError> {
        if delta.is_table_only() && !self.broken {
            let Delta { table, generation, .. } = delta;
            return Ok(Update { program: None, table, generation });
        }
        self.recompile(&delta, false)?;
        self.publish(delta, self.config.prove >= kind)
    }

    /// Compiles; on failure the compiler is left broken, and the table updates are carried over.
    fn recompile(&mut self, delta: &Delta, policies_changed: bool) -> Result<(), EngineError> {
        let anew = self.broken
            || delta.classes.len() > MANY_CLASSES
            || self.compiler.is_stale(policies_changed);
        self.broken = true;
        let mut compile = || {
            if anew {
                self.numbering += 1;
                let namespaces = self.namespaces.iter().cloned();
                self.compiler = Compiler::new(self.config.clone(), &self.registry, namespaces);
            } else {
                self.compiler.follow(delta, &self.registry)?;
            }
            if anew || policies_changed {
                self.compiler.set_policies(&self.policies, &self.sources, &self.registry)?;
            }
            Ok::<_, CompileError>(())
        };
        if let Err(error) = compile() {
            self.carried.extend_from_slice(&delta.table);
            return Err(error.into());
        }
        self.broken = false;
        Ok(())
    }

    /// Hands out what was compiled.
    fn publish(&mut self, delta: Delta, proved: bool) -> Result<Update, EngineError> {
        let Delta { table, generation, .. } = delta;
        let program = self.compiler.program(generation, self.numbering);
        self.carried.extend(table);
        if proved && let Err(mismatch) = prove(&program, &self.compiler, &self.registry) {
            self.broken = true;
            return Err(mismatch.into());
        }
        self.program = Arc::new(program);
        let table = std::mem::take(&mut self.carried);
        Ok(Update { program: Some(self.program.clone()), table, generation })
    }
}
