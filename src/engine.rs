//! Judging without interfaces: what a [`Firewall`](crate::Firewall) runs on, and what a program with
//! packet I/O of its own uses instead.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use portcullis_dataplane::clock::{Clock, Monotonic};
use portcullis_dataplane::pipeline::{self, Lane};
use portcullis_dataplane::verdict::RuleId;
use portcullis_dataplane::worker::{self, Worker};
use portcullis_identity_table::endpoint::ClusterState;
use portcullis_policy::explain::{Explanation, explain};
use portcullis_policy::model::PolicySet;
use portcullis_policy::prove::Proof;
use portcullis_policy::{self as policy, Flow, RuleInfo, Verdict};

use crate::Error;
use crate::control::Control;
use crate::endpoints::Endpoints;
use crate::event::{Bell, FlowEvent};
use crate::judge::Judge;
use crate::rules::Book;
use crate::sets::Sets;
use crate::totals::{Lanes, Totals};

/// Settings of an [`Engine`].
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// Connections, ARP, neighbour discovery and other non-IP frames, room for events.
    pub pipeline: pipeline::Config,
    /// Limits of compiled policies, and which programs are proved before they are published.
    pub policy: policy::Config,
    /// How long it is remembered who had which identity, so that records read late still carry the
    /// labels of their time. At most 65,536 changes are.
    pub retention: Duration,
    /// Where the time comes from. The machine's monotonic clock unless set.
    pub clock: Arc<dyn Clock>,
    /// Packets that policies deny are rejected: their senders are told, by a TCP reset or by ICMP
    /// "administratively prohibited", as often as
    /// [`reject_rate`](portcullis_dataplane::pipeline::Config::reject_rate) allows. Else they are
    /// dropped silently. Packets that are dropped for other reasons always are.
    pub reject_denied: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pipeline: pipeline::Config::default(),
            policy: policy::Config::default(),
            retention: Duration::from_secs(300),
            clock: Arc::new(Monotonic::new()),
            reject_denied: false,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("pipeline", &self.pipeline)
            .field("policy", &self.policy)
            .field("retention", &self.retention)
            .field("reject_denied", &self.reject_denied)
            .finish_non_exhaustive()
    }
}

/// Policies over a cluster, connections, and judges that decide packets and flows by them.
///
/// All methods may be called from any thread; changes wait for each other, judges never wait. Several
/// engines in one process know nothing of each other. Before the first [`Engine::apply`] every IP
/// packet is dropped.
///
/// ```
/// use portcullis::dataplane::pipeline::Input;
/// use portcullis::Engine;
/// use portcullis::identity_table::endpoint::{ClusterState, Endpoint};
/// use portcullis::policy::{Source, parse_policies};
///
/// let engine = Engine::new(Default::default())?;
/// let policies = parse_policies(&[Source::new("deny.yaml", "
/// apiVersion: networking.k8s.io/v1
/// kind: NetworkPolicy
/// metadata: {name: closed, namespace: shop}
/// spec: {podSelector: {matchLabels: {app: db}}}
/// ")])?.value;
/// engine.apply(ClusterState::default(), policies)?;
///
/// // Endpoints come and go without the policies being applied again.
/// engine.endpoints().upsert(Endpoint {
///     labels: [("app", "db")].into_iter().collect(),
///     addresses: vec!["10.0.0.2".parse()?],
///     ..Endpoint::new("shop", "db-0")
/// })?;
///
/// // A SYN from 10.0.0.1 to 10.0.0.2, port 5432.
/// let mut frame = Vec::new();
/// etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
///     .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
///     .tcp(40000, 5432, 0, 65535)
///     .syn()
///     .write(&mut frame, &[])?;
/// let mut judge = engine.judge();
/// let mut judgements = [Default::default()];
/// judge.packets(&[Input::new(&frame)], &mut judgements);
/// assert_eq!(judgements[0].verdict.as_str(), "deny");
/// assert_eq!(engine.rule(judgements[0].rule).unwrap().policy.name.to_string(), "NetworkPolicy/shop/closed");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Shared>);

/// What an engine, its judges and a firewall's workers share.
pub(crate) struct Shared {
    pub(crate) plane: Arc<pipeline::Engine>,
    pub(crate) clock: Arc<dyn Clock>,
    /// What the wall clock says at the beginning of `clock`.
    pub(crate) began: SystemTime,
    /// What is in force; changed under the lock, read by nobody on the packet path.
    pub(crate) control: Mutex<Control>,
    /// Held while the content of a set is replaced. Locked first.
    pub(crate) replacing: Mutex<()>,
    /// The same of other zones, by number. Never locked while `control` is.
    pub(crate) zones: Mutex<BTreeMap<u16, Control>>,
    /// Rules of all zones. Locked last.
    pub(crate) book: Arc<Mutex<Book>>,
    pub(crate) lanes: Mutex<Lanes>,
    pub(crate) bell: Bell,
    pub(crate) config: Config,
    /// Judges alive: they share the search for expired connections.
    pub(crate) judges: AtomicUsize,
}

/// What a change put in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Number of the set in force, from 1; changes of single endpoints do not count.
    pub generation: u64,
    /// Policies in it.
    pub policies: usize,
    /// Endpoints it knows.
    pub endpoints: usize,
    /// Identities they make, those of CIDRs included.
    pub identities: usize,
}

/// The answer for one flow, in words.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Whether the flow may pass.
    pub verdict: Verdict,
    /// The rule, or end of a tier, that decided; `None` if no policy did.
    pub rule: Option<Arc<RuleInfo>>,
    /// The decision itself.
    pub decision: policy::Decision,
}

impl Engine {
    /// An engine with nothing in force.
    ///
    /// # Errors
    /// [`Error::System`]: no memory for the connection table, or no more file descriptors.
    pub fn new(config: Config) -> Result<Self, Error> {
        let plane = pipeline::Engine::new(config.pipeline.clone())
            .map_err(|e| Error::System("cannot make the connection table", e))?;
        let plane = Arc::new(plane);
        let bell = Bell::new().map_err(|e| Error::System("cannot make an eventfd", e))?;
        let book = Arc::new(Mutex::new(Book::new(Arc::clone(&plane))));
        let control = Control::new(&config, Arc::clone(&plane), None, Arc::clone(&book));
        let control = Mutex::new(control);
        let now = Duration::from_nanos(config.clock.now().as_nanos());
        let began = SystemTime::now().checked_sub(now).unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Self(Arc::new(Shared {
            plane,
            clock: Arc::clone(&config.clock),
            config,
            began,
            control,
            replacing: Mutex::default(),
            zones: Mutex::default(),
            book,
            lanes: Mutex::default(),
            bell,
            judges: AtomicUsize::new(0),
        })))
    }

    /// Replaces cluster and policies: compiled aside, then put in force with one pointer store, so
    /// that a packet is judged by the old set or the new, never by a mix. Live connections are
    /// judged again at their next packet. Sets that [`Engine::sets`] replaced keep their content.
    ///
    /// # Errors
    /// [`Error`]; everything stays as it was, for later changes too.
    pub fn apply(&self, cluster: ClusterState, policies: PolicySet) -> Result<Applied, Error> {
        self.change(|control, now| control.apply(now, cluster, policies))
    }

    /// Replaces the policies and leaves the cluster, endpoints that came and went included. All else is
    /// as in [`Engine::apply`].
    ///
    /// # Errors
    /// [`Error`]; everything stays as it was.
    pub fn set_policies(&self, policies: PolicySet) -> Result<Applied, Error> {
        self.change(|control, now| control.set_policies(now, policies))
    }

    /// Replaces the cluster and leaves the policies.
    ///
    /// # Errors
    /// [`Error`]; everything stays as it was.
    pub fn set_cluster(&self, cluster: ClusterState) -> Result<Applied, Error> {
        self.change(|control, now| control.set_cluster(now, cluster))
    }

    /// Judges by these policies too, from now on, over the same cluster and without any effect on
    /// packets: every new connection and every packet denied by the policies in force. Where the two
    /// differ, [`FlowEvent::staged`] and [`Totals`] say so. Replaces what was staged before. The
    /// staged policies follow every change of the cluster; if one is too much for them (a limit of
    /// [`Config::policy`]), they end and [`Engine::staged`] says why.
    ///
    /// Costs another program and another address table, and a second lookup for packets that need the
    /// policy; nothing for packets of known connections, which are all judged again once. Without
    /// staged policies there is one branch a batch.
    ///
    /// # Errors
    /// [`Error`]; what was staged before, if anything, goes on.
    pub fn stage(&self, policies: PolicySet) -> Result<(), Error> {
        let mut control = self.0.control.lock();
        control.stage(self.0.clock.now(), &self.0.config, policies)
    }

    /// Ends [`Engine::stage`]; `false` if nothing was staged.
    pub fn unstage(&self) -> bool {
        self.0.control.lock().unstage()
    }

    /// How many policies are staged; `None` if nothing is.
    ///
    /// # Errors
    /// Why what was staged came to an end by itself.
    pub fn staged(&self) -> Result<Option<usize>, String> {
        let control = self.0.control.lock();
        if let Some(why) = control.unstaged() {
            return Err(why.to_owned());
        }
        let policies = control.staged().map(|staged| staged.engine().policies());
        Ok(policies.map(|set| set.tiers.iter().map(|tier| tier.policies.len()).sum()))
    }

    /// What is in force.
    pub fn applied(&self) -> Applied {
        Applied::of(&self.0.control.lock())
    }

    /// Adding, replacing and removing endpoints.
    pub fn endpoints(&self) -> Endpoints<'_> {
        Endpoints(self)
    }

    /// Replacing the content of CIDR sets.
    pub fn sets(&self) -> Sets<'_> {
        Sets(self)
    }

    /// A judge for one thread: make one for each.
    pub fn judge(&self) -> Judge {
        Judge::new(self)
    }

    /// Decides one flow, in words. Takes the lock of changes: for people and tests; programs that
    /// decide many use [`Judge::flows`].
    pub fn evaluate(&self, flow: &Flow) -> Evaluation {
        Evaluation::of(&self.0.control.lock(), flow)
    }

    /// Why a flow is decided as it is: tiers walked, rules passed by, near misses. Works on a copy of
    /// what is in force, so that changes wait for the copying only. O(cluster + policies).
    pub fn explain(&self, flow: &Flow) -> Explanation {
        let (cluster, policies) = self.in_force();
        explain(&cluster, &policies, flow)
    }

    /// Exactly which flows would be decided otherwise if these were applied, with an example each.
    /// Sets that [`Engine::sets`] replaced keep their content, as they would then.
    ///
    /// # Errors
    /// [`Error::Policy`] if the cluster contradicts itself.
    pub fn diff(
        &self,
        cluster: &ClusterState,
        policies: &PolicySet,
    ) -> Result<policy::diff::Diff, Error> {
        let (old_cluster, old_policies) = self.in_force();
        let mut policies = policies.clone();
        self.0.control.lock().keep_feeds(&mut policies);
        policy::diff((&old_cluster, &old_policies), (cluster, &policies))
            .map_err(|e| Error::Policy(e.into()))
    }

    /// Proves that the program in force says what the policies say, exhaustively.
    ///
    /// # Errors
    /// [`Error::Proof`]: where the two differ; that is a bug in this project.
    pub fn prove(&self) -> Result<Proof, Error> {
        Ok(self.0.control.lock().engine().prove().map_err(Box::new)?)
    }

    /// A copy of the cluster and the policies in force. O(both).
    pub fn in_force(&self) -> (ClusterState, PolicySet) {
        let control = self.0.control.lock();
        (control.registry().cluster(), control.engine().policies().clone())
    }

    /// The rule behind a number, also when its policy is gone; `None` if no rule decided.
    pub fn rule(&self, number: RuleId) -> Option<Arc<RuleInfo>> {
        self.0.control.lock().rule(number)
    }

    /// Hands over what was recorded since the last call: connections opened and ended, packets
    /// dropped. What did not fit into the rings meanwhile is counted in [`Totals::events_lost`].
    ///
    /// Any number of threads may read; each event goes to one of them.
    pub fn events(&self, take: impl FnMut(FlowEvent)) {
        self.events_up_to(usize::MAX, take);
    }

    /// As [`Engine::events`], but stops after `most`; answers how many there were.
    pub fn events_up_to(&self, most: usize, take: impl FnMut(FlowEvent)) -> usize {
        self.0.events(most, take)
    }

    /// A descriptor that becomes readable when events wait: for poll, epoll and the like. Reading
    /// the events ([`Engine::events`]) makes it unreadable again.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.fd()
    }

    /// What was counted since the start, over all judges and workers.
    pub fn totals(&self) -> Totals {
        Totals::of(&self.0)
    }

    /// A worker for wires between ports of one's own: anything that is a
    /// [`Port`](portcullis_dataplane::port::Port). Add wires, move it to a thread,
    /// [`Worker::run`]. It judges, counts and tells like those of a firewall, and on the engine's
    /// clock.
    ///
    /// # Errors
    /// [`Error::System`]: no more file descriptors.
    pub fn worker(&self, config: worker::Config) -> Result<Worker, Error> {
        let worker = Worker::new(config, self.lane())
            .map_err(|e| Error::System("cannot make a worker", e))?;
        // One clock for workers and changes: records are named by the time they carry.
        Ok(worker.with_clock(Arc::clone(&self.0.clock)))
    }

    /// A lane for a worker, counted and read like all others.
    pub(crate) fn lane(&self) -> Lane {
        let lane = Lane::new(Arc::clone(&self.0.plane));
        self.0.bell.hang_on(lane.events());
        self.0.lanes.lock().add(&lane);
        lane
    }

    pub(crate) fn change(
        &self,
        change: impl FnOnce(&mut Control, portcullis_dataplane::clock::Time) -> Result<(), Error>,
    ) -> Result<Applied, Error> {
        let mut control = self.0.control.lock();
        // Under the lock, so that the times of changes ascend.
        change(&mut control, self.0.clock.now())?;
        Ok(Applied::of(&control))
    }
}

/// Readable when events wait; see [`Engine::event_fd`].
impl AsFd for Engine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event_fd()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("applied", &self.applied()).finish_non_exhaustive()
    }
}

impl Shared {
    /// What is to be in force in a zone: nothing yet.
    pub(crate) fn new_zone(&self, zone: NonZeroU16) -> Control {
        let (plane, book) = (Arc::clone(&self.plane), Arc::clone(&self.book));
        Control::new(&self.config, plane, Some(zone), book)
    }
}

impl Evaluation {
    pub(crate) fn of(control: &Control, flow: &Flow) -> Self {
        let evaluation = control.engine().evaluate(flow);
        Self {
            verdict: evaluation.verdict,
            rule: evaluation.rule.cloned().map(Arc::new),
            decision: evaluation.decision,
        }
    }
}

impl Applied {
    pub(crate) fn of(control: &Control) -> Self {
        let policies = control.engine().policies();
        let registry = control.registry();
        Self {
            generation: control.generation(),
            policies: policies.tiers.iter().map(|tier| tier.policies.len()).sum(),
            endpoints: registry.endpoints().count(),
            identities: registry.identities().count(),
        }
    }
}
