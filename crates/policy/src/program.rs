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
        // Leaves have their highest bit set.
        core::num::NonZeroU32::new(leaf.0).map(Self)
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

pub(crate) const NO_ROW: u32 = u32::MAX;
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
    fn decide_batch(&self, flows: &[FlowKey], out: &mut [Decision]) {
        let (grid, trees) = (&*self.grid, &*self.trees);
        // For each flow and direction that has a say: place of the palette and of the page number in
        // the grid's rows, and the column within the page; then the tree, then the leaf.
        let mut places = [Place::default(); 2 * BATCH];
        let mut count = 0;
        for (i, flow) in flows.iter().enumerate() {
            let (source, destination) = (self.record(flow.source), self.record(flow.destination));
            out[i] = exempt(flow, source, destination);
            if out[i].reason != Reason::Policy {
                continue;
            }
            let directions = [(source.egress, destination), (destination.ingress, source)];
            for (direction, (row, peer)) in directions.into_iter().enumerate() {
                let place = &mut places[count];
                if row != NO_ROW {
                    let row = RowId(row);
                    place.palette = grid.palette_of(row) as u32;
                    place.page = grid.page_of(row, peer.class) as u32;
                    place.column = peer.class % PAGE as u32;
                    place.flow = (2 * i + direction) as u32;
                    count += 1;
                }
            }
        }
        let places = &mut places[..count];
        for place in &mut *places {
            place.palette = grid.rows[place.palette as usize];
            place.page = grid.rows[place.page as usize];
        }
        for place in &mut *places {
            let index = place.page as usize * PAGE + place.column as usize;
            place.palette += u32::from(grid.pages[index]);
        }
        for place in &mut *places {
            place.tree = Ref(grid.palettes[place.palette as usize]);
        }
        for place in &mut *places {
            place.tree = trees.enter(place.tree, &flows[place.flow as usize / 2].header);
        }
        for place in &*places {
            let i = place.flow as usize / 2;
            let leaf = trees.descend(place.tree, &flows[i].header);
            let decision = &mut out[i];
            if leaf.is_deny() {
                decision.verdict = Verdict::Deny;
            }
            decision.log |= leaf.is_log();
            decision.staged |= leaf.is_staged();
            if place.flow % 2 == 0 {
                decision.egress = OutcomeId::new(leaf);
            } else {
                decision.ingress = OutcomeId::new(leaf);
            }
        }
    }

    fn record(&self, id: IdentityId) -> &Record {
        self.records.get(id.get() as usize).unwrap_or(&Record::ABSENT)
    }

    /// What one direction of a decision of this program says.
    pub fn outcome(&self, id: OutcomeId) -> &Outcome {
        self.trees.outcome(Ref(id.0.get()))
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

/// Where one direction of one flow of a batch has got to.
#[derive(Clone, Copy)]
struct Place {
    palette: u32,
    page: u32,
    column: u32,
    /// Twice the place of the flow in the batch, and one more for ingress.
    flow: u32,
    tree: Ref,
}

impl Default for Place {
    fn default() -> Self {
        Self { palette: 0, page: 0, column: 0, flow: 0, tree: Ref(0) }
    }
}

/// The decision if policies have no say; else an allowing one with reason `Policy`.
fn exempt(flow: &FlowKey, source: &Record, destination: &Record) -> Decision {
    if source.class == ABSENT || destination.class == ABSENT {
        return Decision::NOT_READY;
    }
    let is_pod = destination.ingress != NO_ROW;
    let same_pod = flow.same_address || (source.pod != 0 && source.pod == destination.pod);
    let own_node = (source.node < 0 && source.node == -destination.node)
        || flow.source == IdentityId::OWN_NODE;
    let reason = match (is_pod, same_pod, own_node) {
        (true, true, _) => Reason::SamePod,
        (true, _, true) => Reason::OwnNode,
        _ => Reason::Policy,
    };
    Decision { verdict: Verdict::Allow, reason, ..Decision::NOT_READY }
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
