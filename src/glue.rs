//! Where a compiled policy meets the packet path: the one place that knows both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use portcullis_dataplane::packet::Version;
use portcullis_dataplane::pipeline::{BATCH, Snapshot};
use portcullis_dataplane::verdict::{self, Identify};
use portcullis_identity_table::endpoint::ClusterState;
use portcullis_identity_table::{IdentityId, Prefix, Reader, Writer};
use portcullis_policy::flow::{Header, protocol};
use portcullis_policy::model::{IpVersion, PolicySet};
use portcullis_policy::program::{Decision, FlowKey, Program};
use portcullis_policy::{Engine, Verdict};

use crate::Error;
use crate::rules::Rules;

/// Everything in force: the compiled policies, the address table, and the names of rules.
#[derive(Debug)]
pub(crate) struct World {
    engine: Engine,
    table: Arc<Table>,
    writer: Writer,
    rules: Rules,
    generation: u64,
}

/// One address table, shared by the workers.
#[derive(Debug)]
struct Table {
    /// The handle from which workers' own are cloned.
    reader: Mutex<Reader>,
    /// Changes of the table since it was made.
    changes: AtomicU32,
}

impl World {
    /// Compiles.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) fn new(cluster: ClusterState, policies: PolicySet) -> Result<Self, Error> {
        let (table, writer) = Table::new();
        let mut world = Self {
            engine: Engine::default(),
            table,
            writer,
            rules: Rules::default(),
            generation: 0,
        };
        world.replace(cluster, policies)?;
        Ok(world)
    }

    /// Compiles another cluster and policies, with a table of their own: packets are judged by the
    /// old table and program or by the new ones.
    ///
    /// # Errors
    /// [`Error`]; the last [`World::snapshot`] stays what it was.
    pub(crate) fn replace(
        &mut self,
        cluster: ClusterState,
        policies: PolicySet,
    ) -> Result<(), Error> {
        // The whole table is built anew below, so the steps from the old one are of no use.
        let _ = self.engine.apply(cluster, policies)?;
        let (table, mut writer) = Table::new();
        let rows = self.engine.registry().table();
        let rows: Result<Vec<_>, Error> =
            rows.map(|(net, id)| Ok((Prefix::try_from(net)?, id))).collect();
        writer.load(rows?)?;
        self.rules.follow(self.engine.program());
        (self.table, self.writer) = (table, writer);
        self.generation += 1;
        Ok(())
    }

    /// What the workers need.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let program = Arc::clone(self.engine.program());
        let numbers = self.rules.numbers();
        Snapshot { identities: self.table.clone(), policy: Arc::new(Judge { program, numbers }) }
    }

    /// Generation, policies, endpoints and identities in force.
    pub(crate) fn size(&self) -> (u64, usize, usize, usize) {
        let policies = self.engine.policies().tiers.iter().map(|tier| tier.policies.len()).sum();
        let registry = self.engine.registry();
        (self.generation, policies, registry.endpoints().count(), registry.identities().count())
    }

    /// The policy of a rule, as `Kind/namespace/name`; `default` if no rule decided.
    pub(crate) fn policy(&self, rule: verdict::RuleId) -> String {
        self.rules.info(rule).map_or("default".to_owned(), |info| info.policy.name.to_string())
    }
}

impl Table {
    fn new() -> (Arc<Self>, Writer) {
        let writer = Writer::new();
        let reader = Mutex::new(writer.reader());
        (Arc::new(Self { reader, changes: AtomicU32::new(0) }), writer)
    }
}

impl verdict::Identities for Table {
    fn handle(&self) -> Box<dyn Identify> {
        Box::new(Handle(self.reader.lock().clone()))
    }

    fn generation(&self) -> u32 {
        self.changes.load(Ordering::Acquire)
    }
}

/// One worker's way into the table.
struct Handle(Reader);

impl Identify for Handle {
    fn identify_v4(&self, addresses: &[u32], out: &mut [IdentityId]) {
        self.0.pin().lookup_v4_batch(addresses, out);
    }

    fn identify_v6(&self, addresses: &[u128], out: &mut [IdentityId]) {
        self.0.pin().lookup_v6_batch(addresses, out);
    }
}

/// A program, with numbers for its rules that outlive it.
struct Judge {
    program: Arc<Program>,
    numbers: Arc<[verdict::RuleId]>,
}

impl verdict::Policy for Judge {
    fn decide(&self, flows: &[verdict::Flow], out: &mut [verdict::Decision]) {
        for (flows, out) in flows.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let mut keys = [NO_KEY; BATCH];
            let mut decisions = [Decision::NOT_READY; BATCH];
            for (key, flow) in keys.iter_mut().zip(flows) {
                *key = question(flow);
            }
            self.program.decide(&keys[..flows.len()], &mut decisions);
            for (out, decision) in out.iter_mut().zip(&decisions[..flows.len()]) {
                *out = self.answer(decision);
            }
        }
    }
}

impl Judge {
    fn answer(&self, decision: &Decision) -> verdict::Decision {
        let rule = self.program.deciding_rule(decision);
        let number = rule.and_then(|(id, _)| self.numbers.get(id.0 as usize));
        verdict::Decision {
            verdict: match decision.verdict {
                Verdict::Allow => verdict::Verdict::Allow,
                Verdict::Deny => verdict::Verdict::Deny,
            },
            rule: number.copied().unwrap_or(verdict::RuleId::NONE),
            log: decision.log,
        }
    }
}

const NO_KEY: FlowKey = FlowKey {
    source: IdentityId::UNKNOWN,
    destination: IdentityId::UNKNOWN,
    header: Header { ip_version: IpVersion::V4, protocol: 0, source_port: 0, destination_port: 0 },
    same_address: false,
};

/// A flow of the packet path as the program asks for it.
fn question(flow: &verdict::Flow) -> FlowKey {
    let (source_port, destination_port) = if protocol::is_icmp(flow.protocol) {
        (flow.icmp_kind.into(), flow.icmp_code.into())
    } else {
        (flow.source_port, flow.destination_port)
    };
    FlowKey {
        source: flow.source,
        destination: flow.destination,
        header: Header {
            ip_version: match flow.version {
                Version::V4 => IpVersion::V4,
                Version::V6 => IpVersion::V6,
            },
            protocol: flow.protocol,
            source_port,
            destination_port,
        },
        same_address: flow.same_address,
    }
}
