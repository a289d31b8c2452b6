//! The compiled program: identities and a header in, a verdict and who decided it out.
//!
//! A lookup loads the two identities' records, then for each direction a page number, a tree and a
//! few words of it. None of it grows with the number of rules or pods, but the tables do, and with
//! them the share of loads that miss the cache; batches overlap those.
//!
//! Made by [`crate::Engine`]; immutable, shared by reference between threads.

use std::sync::Arc;

use portcullis_identity_table::{Generation, IdentityId};

use crate::compile::grid::{Grid, PAGE, RowId};
use crate::compile::resolve::{RuleId, RuleInfo};
use crate::compile::trees::{Outcome, Ref, Trees};
use crate::flow::{Header, Verdict};

/// One question to a [`Program`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Identity of the source address.
    pub source: IdentityId,
    /// Identity of the destination address.
    pub destination: IdentityId,
    /// What is sent.
    pub header: Header,
    /// Whether source and destination address are the same.
    pub same_address: bool,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the flow may pass.
    pub verdict: Verdict,
    /// On what ground.
    pub reason: Reason,
    /// Whether a `Log` rule matched in either direction.
    pub log: bool,
    /// Whether staged policies would decide a direction otherwise, or by another rule.
    pub staged: bool,
    /// What egress at the source says, for [`Program::outcome`]; `None` if it has no say.
    pub egress: Option<OutcomeId>,
    /// What ingress at the destination says.
    pub ingress: Option<OutcomeId>,
}

/// On what ground a flow was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// By what policies say in each direction, which may be nothing.
    Policy,
    /// Allowed: the same pod is at both ends.
    SamePod,
    /// Allowed: the source is the node that the destination pod runs on.
    OwnNode,
    /// Denied: an identity is newer than the program.
    NotReady,
}

/// The number of an [`Outcome`] of one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct OutcomeId(pub(crate) core::num::NonZeroU32);

impl OutcomeId {
    fn new(leaf: Ref) -> Option<Self> {
        // The first outcome is that of `Ref::NO_SAY`.
        core::num::NonZeroU32::new(leaf.index() as u32).map(Self)
    }
}

/// What the program knows of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Rows of the two directions; [`NO_ROW`] if policies do not apply to it.
    pub(crate) ingress: u32,
    pub(crate) egress: u32,
    /// Its column; [`ABSENT`] if the program does not know the identity.
    pub(crate) class: u32,
    /// The node of a workload, or minus the node whose address it is; 0: none.
    pub(crate) node: i32,
    /// The pod, if it has identities of its own; else 0.
    pub(crate) pod: u32,
}

pub(crate) const NO_ROW: u32 = RowId::NONE.0;
pub(crate) const ABSENT: u32 = u32::MAX;

impl Record {
    pub(crate) const ABSENT: Self =
        Self { ingress: NO_ROW, egress: NO_ROW, class: ABSENT, node: 0, pod: 0 };
    /// An address that nothing loaded speaks of.
    pub(crate) const WORLD: Self = Self { class: 0, ..Self::ABSENT };
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) generation: Generation,
    pub(crate) numbering: u64,
    pub(crate) records: Vec<Record>,
    pub(crate) grid: Arc<Grid>,
    pub(crate) trees: Arc<Trees>,
    pub(crate) rules: Arc<Vec<RuleInfo>>,
}

/// Flows that are looked up side by side.
const BATCH: usize = 32;

impl Program {
    /// Decides each flow; answers go to the same place in `out`. No allocation, no lock.
    ///
    /// # Panics
    /// If `out` is shorter than `flows`.
    pub fn decide(&self, flows: &[FlowKey], out: &mut [Decision]) {
        for (flows, out) in flows.chunks(BATCH).zip(out[..flows.len()].chunks_mut(BATCH)) {
            self.decide_batch(flows, out);
        }
    }

    /// Decides one flow.
    pub fn decide_one(&self, flow: &FlowKey) -> Decision {
        let mut out = [Decision::NOT_READY];
        self.decide(std::slice::from_ref(flow), &mut out);
        out[0]
    }

    /// The same step for the whole batch, then the next, so that the loads of a step overlap.
    ///
    /// Arrays hold egress of the first flow, its ingress, egress of the second flow, and so on.
    fn decide_batch(&self, flows: &[FlowKey], out: &mut [Decision]) {
        const LANES: usize = 2 * BATCH;
        let (grid, trees) = (&*self.grid, &*self.trees);
        let lanes = 2 * flows.len();
        let mut reasons = [Reason::Policy; BATCH];
        let mut rows = [RowId::NONE; LANES];
        let mut columns = [0; LANES];
        for (i, flow) in flows.iter().enumerate() {
            let (source, destination) = (self.record(flow.source), self.record(flow.destination));
            let reason = reason(flow, source, destination);
            if reason == Reason::Policy {
                (rows[2 * i], columns[2 * i]) = (RowId(source.egress), destination.class);
                (rows[2 * i + 1], columns[2 * i + 1]) = (RowId(destination.ingress), source.class);
            }
            reasons[i] = reason;
        }
        let mut palettes = [0; LANES];
        let mut pages = [0; LANES];
        for lane in 0..lanes {
            palettes[lane] = grid.rows[grid.palette_of(rows[lane])];
            pages[lane] = grid.rows[grid.page_of(rows[lane], columns[lane])];
        }
        for lane in 0..lanes {
            let column = columns[lane] as usize % PAGE;
            palettes[lane] += u32::from(grid.pages[pages[lane] as usize * PAGE + column]);
        }
        let mut at = [Ref::NO_SAY; LANES];
        for lane in 0..lanes {
            at[lane] = Ref(grid.palettes[palettes[lane] as usize]);
        }
        for lane in 0..lanes {
            at[lane] = trees.enter(at[lane], &flows[lane / 2].header);
        }
        for (i, (flow, out)) in flows.iter().zip(out).enumerate() {
            let egress = trees.descend(at[2 * i], &flow.header);
            let ingress = trees.descend(at[2 * i + 1], &flow.header);
            let reason = reasons[i];
            let deny = egress.is_deny() | ingress.is_deny() | (reason == Reason::NotReady);
            *out = Decision {
                verdict: if deny { Verdict::Deny } else { Verdict::Allow },
                reason,
                log: egress.is_log() | ingress.is_log(),
                staged: egress.is_staged() | ingress.is_staged(),
                egress: OutcomeId::new(egress),
                ingress: OutcomeId::new(ingress),
            };
        }
    }

    fn record(&self, id: IdentityId) -> &Record {
        self.records.get(id.get() as usize).unwrap_or(&Record::ABSENT)
    }

    /// What one direction of a decision of this program says.
    pub fn outcome(&self, id: OutcomeId) -> &Outcome {
        &self.trees.outcomes[id.0.get() as usize]
    }

    /// What stands behind a rule number of this program.
    pub fn rule(&self, id: RuleId) -> Option<&RuleInfo> {
        if id == RuleId::NONE { None } else { self.rules.get(id.0 as usize) }
    }

    /// One more than the highest rule number: the size of a table of counters.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// The rule to name for a decision: for a deny, of a denying direction; for an allow, one that
    /// allowed, ingress preferred; `None` if no policy decided.
    pub fn deciding_rule(&self, decision: &Decision) -> Option<(RuleId, &RuleInfo)> {
        [decision.ingress, decision.egress]
            .into_iter()
            .flatten()
            .map(|id| self.outcome(id))
            .filter(|outcome| outcome.verdict == decision.verdict)
            .find_map(|outcome| Some((outcome.rule, self.rule(outcome.rule)?)))
    }

    /// Rule numbers mean the same in programs of one engine with equal numberings.
    pub fn numbering(&self) -> u64 {
        self.numbering
    }

    /// The generation of identities that the program knows.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Bytes on the heap that lookups may touch.
    pub fn memory_usage(&self) -> usize {
        size_of_val(&self.records[..]) + self.grid.memory_usage() + self.trees.memory_usage()
    }
}

/// On what ground a flow is decided.
fn reason(flow: &FlowKey, source: &Record, destination: &Record) -> Reason {
    if source.class == ABSENT || destination.class == ABSENT {
        return Reason::NotReady;
    }
    if destination.ingress == NO_ROW {
        return Reason::Policy;
    }
    if flow.same_address | (source.pod != 0 && source.pod == destination.pod) {
        return Reason::SamePod;
    }
    let own_node = source.node < 0 && source.node == -destination.node;
    if own_node | (flow.source == IdentityId::OWN_NODE) {
        return Reason::OwnNode;
    }
    Reason::Policy
}

impl Decision {
    /// Denied because an identity is newer than the program; also what to fill a buffer with.
    pub const NOT_READY: Self = Self {
        verdict: Verdict::Deny,
        reason: Reason::NotReady,
        log: false,
        staged: false,
        egress: None,
        ingress: None,
    };
}
