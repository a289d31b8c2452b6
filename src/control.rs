//! What is in force, and how it changes: the compiled policies, the address table, and the order in
//! which the two reach the packet path.
//!
//! A change of everything builds a new table beside the old one and publishes table and program with
//! one pointer store. A change of one endpoint is cheaper: the program that knows the new identities
//! is published first, then the table is changed in place; meanwhile addresses that still have an
//! identity of before are judged as before. A change that fails is taken back. What a set holds is
//! replaced beside other changes: [`feed`].

pub(crate) mod feed;

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;
use portcullis_dataplane::clock::Time;
use portcullis_dataplane::event::{Event, EventKind};
use portcullis_dataplane::pipeline::{self, Snapshot};
use portcullis_dataplane::reason::Reason;
use portcullis_dataplane::verdict::{RuleId, Verdict};
use portcullis_identity_table::endpoint::{ClusterState, Endpoint, EndpointName};
use portcullis_identity_table::{Generation, IdentityId, Prefix, Registry, Writer};
use portcullis_policy::model::PolicySet;
use portcullis_policy::{self as policy, RuleInfo, Update};

use crate::Error;
use crate::control::feed::Beside;
use crate::engine::Config;
use crate::event::StagedVerdict;
use crate::glue;
use crate::glue::{Compiled, Judge, Table};
use crate::rules::{Book, Rules};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Control {
    /// Whose this is; `None`: zone 0's.
    zone: Option<NonZeroU16>,
    engine: policy::Engine,
    plane: Arc<pipeline::Engine>,
    table: Arc<Table>,
    writer: Writer,
    rules: Rules,
    /// What the packet path has; `None` before the first [`Control::apply`].
    published: Option<Compiled>,
    /// Snapshots that a batch may still use, oldest first.
    held: VecDeque<Weak<Judge>>,
    /// What was in force before and a worker may still hold: kept, so that freeing it, which takes
    /// milliseconds for large tables, is never a worker's job.
    retired: (Vec<Arc<Table>>, Vec<Arc<Judge>>),
    /// The last published.
    judge: Option<Arc<Judge>>,
    /// Table and engine went different ways: the next change must publish all of it.
    apart: bool,
    /// Contents of sets that were replaced at run time, by the name of the set.
    feeds: BTreeMap<Box<str>, Arc<[IpNet]>>,
    /// The table that is built beside this one, if one is.
    beside: Option<Beside>,
    /// Generations of identities, each with the time from which on it was in force.
    timeline: VecDeque<(Time, Generation)>,
    retention: Duration,
    /// What becomes of packets that policies deny.
    denied: Verdict,
    generation: u64,
    /// Policies that are judged beside those in force, over the same cluster.
    staged: Option<Box<Control>>,
    /// Why policies were staged and are no more.
    unstaged: Option<String>,
    /// Whether this is what is in force, or what is staged.
    stage: Stage,
    /// Whether there are policies of Calico's Staged kinds among them.
    stages: bool,
}

/// Where what a [`Control`] compiles goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It decides of packets.
    Live,
    /// It is asked, and counted.
    Staged,
}

/// Generations that are remembered whatever their age, and at most.
const TIMELINE: std::ops::RangeInclusive<usize> = 2..=65_536;

impl Control {
    /// Nothing in force: every IP packet is dropped.
    pub(crate) fn new(
        config: &Config,
        plane: Arc<pipeline::Engine>,
        zone: Option<NonZeroU16>,
        book: Arc<Mutex<Book>>,
    ) -> Self {
        let (table, writer) = Table::new();
        Self {
            zone,
            engine: policy::Engine::new(config.policy.clone()),
            plane,
            table,
            writer,
            rules: Rules::new(book),
            published: None,
            held: VecDeque::new(),
            retired: (Vec::new(), Vec::new()),
            judge: None,
            apart: false,
            feeds: BTreeMap::new(),
            beside: None,
            timeline: VecDeque::new(),
            retention: config.retention,
            denied: if config.reject_denied { Verdict::Reject } else { Verdict::Deny },
            generation: 0,
            staged: None,
            unstaged: None,
            stage: Stage::Live,
            stages: false,
        }
    }

    /// Replaces cluster and policies.
    pub(crate) fn apply(
        &mut self,
        now: Time,
        cluster: ClusterState,
        mut policies: PolicySet,
    ) -> Result<(), Error> {
        self.keep_feeds(&mut policies);
        let copy = self.staged.is_some().then(|| cluster.clone());
        self.replace(now, |engine| engine.apply(cluster, policies))?;
        if let Some(cluster) = copy {
            self.stage_follows(|staged| staged.set_cluster(now, cluster));
        }
        Ok(())
    }

    /// Judges by these policies too, without effect on packets.
    pub(crate) fn stage(
        &mut self,
        now: Time,
        config: &Config,
        mut policies: PolicySet,
    ) -> Result<(), Error> {
        self.keep_feeds(&mut policies);
        let mut staged = Self::new(config, Arc::clone(&self.plane), self.zone, self.rules.book());
        staged.stage = Stage::Staged;
        staged.apply(now, self.registry().cluster(), policies)?;
        self.staged = Some(Box::new(staged));
        self.unstaged = None;
        Ok(())
    }

    /// Ends that; `false` if nothing was staged.
    pub(crate) fn unstage(&mut self) -> bool {
        self.unstaged = None;
        let was = self.staged.take().is_some();
        if was {
            self.plane.stage(None);
        }
        was
    }

    /// What is staged.
    pub(crate) fn staged(&self) -> Option<&Self> {
        self.staged.as_deref()
    }

    /// Why what was staged is no more, if it could not follow a change of the cluster.
    pub(crate) fn unstaged(&self) -> Option<&str> {
        self.unstaged.as_deref()
    }

    /// Has the staged policies follow a change of the cluster. If they cannot, they are staged no
    /// more: what is in force must not depend on them.
    fn stage_follows(&mut self, change: impl FnOnce(&mut Self) -> Result<(), Error>) {
        let Some(staged) = &mut self.staged else { return };
        if let Err(error) = change(staged) {
            self.end_staged(&error);
        }
    }

    /// Ends what was staged, because it cannot follow.
    pub(crate) fn end_staged(&mut self, why: &Error) {
        self.unstage();
        self.unstaged = Some(why.to_string());
    }

    /// The staged rule of this number.
    pub(crate) fn staged_rule(&self, number: RuleId) -> Option<Arc<RuleInfo>> {
        self.rule(number)
    }

    /// What staged policies say of an event that the packet path did not ask them about: those beside
    /// the ones in force of a connection that is open or ended, and Calico's Staged kinds.
    pub(crate) fn staged_otherwise(&self, event: &Event) -> Option<StagedVerdict> {
        let (denied, asked) = match event.kind {
            EventKind::Dropped { reason } | EventKind::Folded { reason, .. } => {
                let by_policy = matches!(reason, Reason::PolicyDenied | Reason::PolicyRejected);
                (by_policy.then_some(true)?, true)
            }
            EventKind::Ended { .. } => (false, false),
            _ => (false, true),
        };
        if event.tuple.zone != 0 {
            return None;
        }
        let verdict = match &self.staged {
            Some(_) if asked => return None,
            Some(staged) => {
                let found = staged.engine.evaluate(&glue::to_policy(event));
                let rule = found.rule.cloned().map(Arc::new);
                StagedVerdict { allowed: found.verdict == policy::Verdict::Allow, rule }
            }
            None if !self.stages => return None,
            None => self.calico_staged(event)?,
        };
        (verdict.allowed == denied).then_some(verdict)
    }

    /// What policies of Calico's Staged kinds would make of a flow.
    fn calico_staged(&self, event: &Event) -> Option<StagedVerdict> {
        let found = self.engine.evaluate(&glue::to_policy(event)).decision;
        if !found.staged {
            return None;
        }
        let program = self.engine.program();
        let sides = [found.ingress, found.egress].into_iter().flatten();
        let staged: Vec<_> = sides.map(|id| program.outcome(id).staged).collect();
        let deny = staged.iter().find(|(verdict, _)| *verdict == policy::Verdict::Deny);
        let (verdict, rule) = deny.or(staged.first())?;
        let rule = program.rule(*rule).cloned().map(Arc::new);
        Some(StagedVerdict { allowed: *verdict == policy::Verdict::Allow, rule })
    }

    /// Gives sets that were replaced at run time the content that they keep.
    pub(crate) fn keep_feeds(&self, policies: &mut PolicySet) {
        for set in &mut policies.sets {
            if let Some(prefixes) = self.feeds.get(&set.name) {
                set.prefixes = Arc::clone(prefixes);
            }
        }
    }

    /// Replaces the policies.
    pub(crate) fn set_policies(&mut self, now: Time, mut policies: PolicySet) -> Result<(), Error> {
        self.keep_feeds(&mut policies);
        self.replace(now, |engine| engine.set_policies(policies))
    }

    /// Replaces the cluster.
    pub(crate) fn set_cluster(&mut self, now: Time, cluster: ClusterState) -> Result<(), Error> {
        let copy = self.staged.is_some().then(|| cluster.clone());
        self.replace(now, |engine| engine.set_cluster(cluster))?;
        if let Some(cluster) = copy {
            self.stage_follows(|staged| staged.set_cluster(now, cluster));
        }
        Ok(())
    }

    /// Replaces all endpoints.
    pub(crate) fn set_endpoints(
        &mut self,
        now: Time,
        endpoints: Vec<Endpoint>,
    ) -> Result<(), Error> {
        let cluster = ClusterState { endpoints, ..self.engine.registry().cluster() };
        self.set_cluster(now, cluster)
    }

    /// Lets the documents say again what a set holds, from the next [`Control::apply`] on.
    pub(crate) fn forget_feed(&mut self, name: &str) -> bool {
        self.feeds.remove(name).is_some()
    }

    /// The sets and how many prefixes each has.
    pub(crate) fn sets(&self) -> impl Iterator<Item = (&str, usize)> {
        self.engine.policies().sets.iter().map(|set| (&*set.name, set.prefixes.len()))
    }

    /// Adds or replaces one endpoint.
    pub(crate) fn upsert(&mut self, now: Time, endpoint: Endpoint) -> Result<(), Error> {
        let name = endpoint.key();
        for &address in &endpoint.addresses {
            Prefix::new(address, if address.is_ipv4() { 32 } else { 128 })?;
        }
        let copy = self.staged.is_some().then(|| endpoint.clone());
        self.change(now, &name, |engine| engine.upsert_endpoint(endpoint))?;
        if let Some(endpoint) = copy {
            self.stage_follows(|staged| staged.upsert(now, endpoint));
        }
        Ok(())
    }

    /// Takes one endpoint out; tells whether it was there.
    pub(crate) fn remove(&mut self, now: Time, name: &EndpointName) -> Result<bool, Error> {
        if self.registry().endpoint(name).is_none() {
            return Ok(false);
        }
        self.change(now, name, |engine| engine.remove_endpoint(name))?;
        self.stage_follows(|staged| staged.remove(now, name).map(drop));
        Ok(true)
    }

    /// The policy engine: what is in force, in words.
    pub(crate) fn engine(&self) -> &policy::Engine {
        &self.engine
    }

    /// Addresses, identities and their history.
    pub(crate) fn registry(&self) -> &Registry {
        self.engine.registry()
    }

    /// The rule of this number, if one decided.
    pub(crate) fn rule(&self, number: RuleId) -> Option<Arc<RuleInfo>> {
        self.rules.info(number)
    }

    /// Changes since the start that replaced everything.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The generations of identities that something that happened at `time` may have met, the most
    /// likely first. A batch reads the clock before it reads the table, so that it may meet one later.
    pub(crate) fn generations_at(&self, time: Time) -> impl Iterator<Item = Generation> + '_ {
        let next = self.timeline.partition_point(|(since, _)| *since <= time);
        let at = |n: Option<usize>| self.timeline.get(n?).map(|(_, generation)| *generation);
        [at(next.checked_sub(1)), at(Some(next)), at(next.checked_sub(2))].into_iter().flatten()
    }

    /// Changes the engine as a whole, and publishes table and program together; or changes nothing.
    fn replace(
        &mut self,
        now: Time,
        change: impl FnOnce(&mut policy::Engine) -> Result<Update, policy::EngineError>,
    ) -> Result<(), Error> {
        let before = (self.registry().cluster(), self.engine.policies().clone());
        match change(&mut self.engine) {
            // The new table is made from the registry; the steps to it from the old one are of no
            // use.
            Ok(_) => {}
            Err(error @ policy::EngineError::Cluster(_)) => return Err(error.into()),
            Err(error) => return Err(self.take_back(before, error.into())),
        }
        match self.publish_all(now) {
            Ok(()) => {
                self.generation += 1;
                self.stages = stages(self.engine.policies());
                Ok(())
            }
            Err(error) => Err(self.take_back(before, error)),
        }
    }

    /// Changes the engine by one endpoint, and table and program one after the other; or changes
    /// nothing.
    fn change(
        &mut self,
        now: Time,
        name: &EndpointName,
        change: impl FnOnce(&mut policy::Engine) -> Result<Update, policy::EngineError>,
    ) -> Result<(), Error> {
        let before = self.registry().endpoint(name).cloned();
        let result = match change(&mut self.engine) {
            Ok(update) if self.published.is_some() && !self.apart => {
                self.publish_change(now, &update)
            }
            Ok(_) => self.publish_all(now),
            Err(error @ policy::EngineError::Cluster(_)) => return Err(error.into()),
            Err(error) => Err(error.into()),
        };
        result.map_err(|error| {
            self.beside = None;
            // What was there compiled before, so that it does again.
            let undone = match before {
                Some(endpoint) => self.engine.upsert_endpoint((*endpoint).clone()),
                None => self.engine.remove_endpoint(name),
            };
            drop(undone);
            self.apart = true;
            if let Error::Table(_) = error {
                // The table had no room in the middle of the change; a new one has room for what
                // was there. If not even that: addresses have their old identity or the new one.
                drop(self.publish_all(now));
            }
            error
        })
    }

    /// Restores the engine after a change that failed; the packet path never saw it.
    fn take_back(&mut self, before: (ClusterState, PolicySet), error: Error) -> Error {
        // It compiled before, so that it does again; should it not, what is published stays in force
        // and the next change compiles from nothing.
        let (cluster, policies) = before;
        drop(self.engine.apply(cluster, policies));
        self.apart = true;
        self.beside = None;
        error
    }

    /// Publishes the program, then changes the table in place.
    fn publish_change(&mut self, now: Time, update: &Update) -> Result<(), Error> {
        let row = |(net, id): &(IpNet, Option<IdentityId>)| Ok((Prefix::try_from(*net)?, *id));
        let rows: Vec<_> = update.table.iter().map(row).collect::<Result<_, Error>>()?;
        if let Some(program) = &update.program {
            let current = self.compiled(program);
            let previous = self.published.replace(current.clone());
            let judge = Arc::new(Judge::new(current, previous));
            if let Some(before) = self.held.back().and_then(Weak::upgrade) {
                before.followed_by(&judge);
            }
            self.publish(judge);
        }
        self.note(now, update.generation);
        if let Some(beside) = &mut self.beside {
            beside.changed.extend(update.table.iter().map(|(net, _)| net.addr()));
        }
        for (prefix, id) in rows {
            match id {
                Some(id) => self.writer.insert(prefix, id)?,
                None => self.writer.remove(&prefix)?,
            };
        }
        self.table.changed();
        Ok(())
    }

    /// Builds a table and publishes it together with the program.
    fn publish_all(&mut self, now: Time) -> Result<(), Error> {
        let (table, mut writer) = Table::new();
        let rows = self.engine.registry().table();
        let rows: Result<Vec<_>, Error> =
            rows.map(|(net, id)| Ok((Prefix::try_from(net)?, id))).collect();
        writer.load(rows?)?;
        self.publish_with(now, (table, writer));
        Ok(())
    }

    /// Publishes the program together with a table that holds what the registry says. Answers what
    /// wrote the table of before.
    fn publish_with(&mut self, now: Time, (table, writer): (Arc<Table>, Writer)) -> Writer {
        let program = Arc::clone(self.engine.program());
        let current = self.compiled(&program);
        self.published = Some(current.clone());
        self.retired.0.push(std::mem::replace(&mut self.table, table));
        let writer = std::mem::replace(&mut self.writer, writer);
        self.publish(Arc::new(Judge::new(current, None)));
        self.apart = false;
        self.beside = None;
        let generation = self.registry().generation();
        self.note(now, generation);
        writer
    }

    fn compiled(&mut self, program: &Arc<policy::Program>) -> Compiled {
        let numbers = self.rules.follow(program);
        Compiled { program: Arc::clone(program), numbers, denied: self.denied }
    }

    fn publish(&mut self, judge: Arc<Judge>) {
        self.held.push_back(Arc::downgrade(&judge));
        self.retired.1.extend(self.judge.replace(judge.clone()));
        let snapshot = Snapshot { identities: self.table.clone(), policy: judge };
        match (self.stage, self.zone) {
            (Stage::Live, None) => self.plane.publish(snapshot),
            (Stage::Live, Some(zone)) => self.plane.publish_zone(zone, Some(snapshot)),
            (Stage::Staged, _) => self.plane.stage(Some(snapshot)),
        }
    }

    /// Remembers since when a generation is in force, and forgets what nobody needs any more.
    fn note(&mut self, now: Time, generation: Generation) {
        self.timeline.push_back((now, generation));
        while self.timeline.len() > *TIMELINE.start()
            && (self.timeline.len() > *TIMELINE.end()
                || now.since(self.timeline[1].0) > self.retention)
        {
            self.timeline.pop_front();
        }
        let (tables, judges) = &mut self.retired;
        // Oldest first: a judge holds those that follow it over the same table.
        judges.retain(|judge| Arc::strong_count(judge) > 1);
        tables.retain(|table| Arc::strong_count(table) > 1 || table.in_use());
        while self.held.front().is_some_and(|judge| judge.strong_count() == 0) {
            self.held.pop_front();
        }
        // What a lookup may still meet, and what a record may still be about.
        let remembered = self.timeline.front().map(|(_, generation)| *generation);
        let met = self.held.front().and_then(Weak::upgrade).map(|judge| judge.oldest());
        if let Some(oldest) = met.into_iter().chain(remembered).min() {
            self.engine.reclaim(oldest);
        }
    }
}

/// Whether a set has policies that are not enforced.
fn stages(policies: &PolicySet) -> bool {
    let mut all = policies.tiers.iter().flat_map(|tier| &tier.policies);
    all.any(|policy| policy.enforcement == policy::model::Enforcement::Staged)
}
