//! A worker: one thread that owns queues and runs each batch to completion.
//!
//! It receives a batch, judges it, hands what may pass to the other port of the wire and gives the
//! other frames back to the wire's pool. Nothing is copied, nothing is handed to another thread.
//!
//! # Many wires
//! A wire on which packets flow is awake: the worker looks at it in every round. One that was silent
//! for [`Config::idle_rounds`] is asleep: the kernel says when something arrives on it, and nothing
//! else is spent on it but a look every [`Config::tick`], which also tells the kernel that its worker
//! lives. When all are asleep, the worker sleeps.

mod forward;
mod priority;
mod sleep;
mod switch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::clock::{Clock, Monotonic, Time};
use crate::mirror::Mirror;
use crate::pipeline::{Engine, Lane};
use crate::topology::Wire;

use forward::Forwarder;
pub use priority::prioritise;
use sleep::Sleeper;

/// Settings of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Rounds without a packet after which a wire is left to sleep. More answers faster after short
    /// pauses and uses more CPU time.
    pub idle_rounds: u32,
    /// Longest sleep of a wire: how often ports are told that their worker lives (at least every 100 ms, see
    /// [`Port::receive`](crate::port::Port)).
    pub tick: Duration,
    /// How long one look through the whole connection table for expired ones takes. It is spread
    /// over all rounds, so that none takes long.
    pub sweep: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { idle_rounds: 64, tick: Duration::from_millis(100), sweep: Duration::from_secs(4) }
    }
}

/// Sweeps of the connection table are at least this far apart.
const SWEEP_STEP: Duration = Duration::from_millis(2);

/// Places of the connection table that are looked at between two rounds, at most: 8 us, and 130 us if all of
/// them end (`cargo bench --bench connection slice`). Whoever was away for long goes through what is due in so many pieces.
const SWEEP_SLICE: usize = 2048;

/// Longest sleep while frames are being transmitted: the kernel does not say when they are.
const TRANSMITTING: Duration = Duration::from_millis(1);

/// Rounds at the end, so that nothing is left that has come: at most, and after the last packet.
const LAST_ROUNDS: usize = 64;
const SILENT_ROUNDS: usize = 3;
/// Between them: longer than a packet takes through the kernel's receive path.
const LAST_PAUSE: Duration = Duration::from_micros(200);

/// One worker. Make it, take its [`Handle`], move it to a thread, [`Worker::run`].
pub struct Worker {
    config: Config,
    lane: Lane,
    /// Wires by slot, the number by which the sleeper speaks of them.
    wires: Vec<Option<Box<Forwarder>>>,
    /// Slots of the wires that are awake.
    awake: Vec<usize>,
    /// Room for the slots that the sleeper reports.
    readable: Vec<usize>,
    /// When all wires were last looked at.
    looked: Time,
    clock: Arc<dyn Clock>,
    sleeper: Sleeper,
    stop: Arc<AtomicBool>,
    commands: Receiver<Command>,
    handle: Handle,
    /// Until when the connection table was looked through.
    swept: Time,
    /// More of it is due.
    behind: bool,
}

/// The outside's hold on a worker: cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    stop: Arc<AtomicBool>,
    waker: Arc<mio::Waker>,
    commands: Sender<Command>,
    engine: Arc<Engine>,
}

#[derive(Debug)]
enum Command {
    Add(Box<Forwarder>),
    Remove(Box<str>, Sender<Option<Box<Forwarder>>>),
}

impl Worker {
    /// A worker without wires.
    ///
    /// # Errors
    /// No more file descriptors.
    pub fn new(config: Config, lane: Lane) -> std::io::Result<Self> {
        let sleeper = Sleeper::new()?;
        let stop = Arc::<AtomicBool>::default();
        let (sender, commands) = channel();
        let engine = Arc::clone(lane.engine());
        let (waker, commanded) = (sleeper.waker(), sender);
        let handle = Handle { stop: Arc::clone(&stop), waker, commands: commanded, engine };
        let clock = Arc::new(Monotonic::new());
        let (looked, swept) = (clock.now(), clock.now());
        let (wires, awake) = (Vec::new(), Vec::new());
        Ok(Self {
            config,
            lane,
            wires,
            awake,
            readable: Vec::new(),
            looked,
            clock,
            sleeper,
            stop,
            commands,
            handle,
            swept,
            behind: false,
        })
    }

    /// Uses another clock than the machine's: for tests. Sleeping still takes real time.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        (self.looked, self.swept) = (clock.now(), clock.now());
        self.clock = clock;
        self
    }

    /// The hold on this worker.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Its lane: counters, events, engine.
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Sends copies of packets to a port of this worker's own ([`Lane::mirror_to`]).
    pub fn mirror_to(&mut self, mirror: Mirror) -> Option<Mirror> {
        self.lane.mirror_to(mirror)
    }

    /// Adds a wire.
    ///
    /// # Errors
    /// A port's descriptor cannot be waited for: it is served every [`Config::tick`] only.
    pub fn add(&mut self, wire: Wire) -> std::io::Result<()> {
        let forwarder = Forwarder::new(wire, self.lane.engine().tap());
        self.take_on(Box::new(forwarder))
    }

    /// Takes microseconds: no other wire waits longer for it.
    fn take_on(&mut self, forwarder: Box<Forwarder>) -> std::io::Result<()> {
        let free = self.wires.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.wires.len());
        let registered = self.sleeper.register(&forwarder.wire, slot);
        if free.is_none() {
            self.wires.push(None);
        }
        // A port that cannot be waited for is still served every tick.
        self.wires[slot] = Some(forwarder);
        self.wake(slot);
        registered
    }

    /// Takes the wire with this name out, after its frames in transmission have come back or a
    /// short while has passed. `None` if there is none.
    pub fn remove(&mut self, name: &str) -> Option<Wire> {
        let mut wire = self.let_go(name)?.wire;
        wire.drain();
        Some(wire)
    }

    fn let_go(&mut self, name: &str) -> Option<Box<Forwarder>> {
        let is_it =
            |wire: &Option<Box<Forwarder>>| wire.as_ref().is_some_and(|w| &*w.wire.name == name);
        let slot = self.wires.iter().position(is_it)?;
        let forwarder = self.wires[slot].take()?;
        self.awake.retain(|awake| *awake != slot);
        self.sleeper.deregister(&forwarder.wire);
        Some(forwarder)
    }

    /// Its wires, when it is not to run any more.
    pub fn into_wires(self) -> Vec<Wire> {
        self.wires.into_iter().flatten().map(|forwarder| forwarder.wire).collect()
    }

    /// Receives, judges and forwards one batch from each port; answers how many frames came.
    /// [`Worker::run`] does it every [`Config::tick`], and with the wires that are awake all the
    /// time.
    pub fn round(&mut self) -> usize {
        let now = self.clock.now();
        let received = self.look_at_all(now);
        self.sweep(now);
        received
    }

    fn look_at_all(&mut self, now: Time) -> usize {
        let mut received = 0;
        for slot in 0..self.wires.len() {
            let Some(wire) = &mut self.wires[slot] else { continue };
            let count = wire.round(now, &mut self.lane);
            received += count;
            if count > 0 || wire.outstanding() {
                self.wake(slot);
            }
        }
        self.looked = now;
        received
    }

    /// As [`Worker::round`], with the wires that are awake. Leaves those to sleep that have been
    /// silent for long enough.
    fn look_at_awake(&mut self, now: Time) -> usize {
        let Self { wires, awake, lane, config, .. } = self;
        let mut received = 0;
        awake.retain(|slot| {
            let Some(wire) = wires.get_mut(*slot).and_then(Option::as_mut) else { return false };
            received += wire.round(now, lane);
            wire.awake = wire.idle < config.idle_rounds || wire.outstanding();
            wire.awake
        });
        received
    }

    fn wake(&mut self, slot: usize) {
        if let Some(wire) = self.wires.get_mut(slot).and_then(Option::as_mut) {
            wire.idle = 0;
            if !wire.awake {
                wire.awake = true;
                self.awake.push(slot);
            }
        }
    }

    /// Looks through as much of the connection table as is due, a slice at most: packets come first.
    fn sweep(&mut self, now: Time) {
        let whole = self.config.sweep.max(Duration::from_millis(1));
        let due = now.since(self.swept).min(whole);
        if due < SWEEP_STEP {
            return;
        }
        let size = self.lane.engine().sweep_size();
        let budget = (size as f64 * due.as_secs_f64() / whole.as_secs_f64()).ceil() as usize;
        let slice = budget.min(SWEEP_SLICE);
        self.lane.expire(now, slice);
        // What is left is due at once.
        let left = due.mul_f64((budget - slice) as f64 / budget.max(1) as f64);
        self.swept = Time::from_nanos(now.as_nanos().saturating_sub(left.as_nanos() as u64));
        self.behind = left >= SWEEP_STEP;
    }

    /// Works until [`Handle::stop`]. Errors of interfaces do not end it: a port that fails is tried
    /// again, packets for it are counted as dropped.
    ///
    /// Answers the worker, so that its wires and frames can be reused.
    pub fn run(mut self) -> Self {
        while !self.stop.load(Ordering::Acquire) {
            self.obey();
            let now = self.clock.now();
            let due = now.since(self.looked) >= self.config.tick;
            let received = if due { self.look_at_all(now) } else { self.look_at_awake(now) };
            if received > 0 {
                self.lane.counters().rounds.record(self.clock.now().since(now));
            }
            self.sweep(now);
            self.listen();
        }
        self.finish();
        self
    }

    /// Hands over to whoever takes packets when no worker does: asks for no more, serves what has come
    /// already, waits for what is being sent.
    fn finish(&mut self) {
        for wire in self.wires.iter_mut().flatten() {
            wire.wire.ports.iter_mut().for_each(|port| port.retire());
        }
        let mut silent = 0;
        for _ in 0..LAST_ROUNDS {
            let received = self.look_at_all(self.clock.now());
            silent = if received == 0 { silent + 1 } else { 0 };
            if silent == SILENT_ROUNDS {
                break;
            }
            // Those that were on their way to the ports when these retired.
            std::thread::sleep(LAST_PAUSE);
        }
        for wire in self.wires.iter_mut().flatten() {
            wire.wire.drain();
        }
    }

    /// Learns which wires have packets. Sleeps if none is awake, until one is, the handle calls or it
    /// is time to look around.
    fn listen(&mut self) {
        let idle_rounds = self.config.idle_rounds;
        let idle = |slot: &usize| {
            let wire = self.wires.get(*slot).and_then(Option::as_ref);
            wire.is_none_or(|wire| wire.idle >= idle_rounds)
        };
        let timeout = if self.behind {
            Duration::ZERO
        } else if self.awake.is_empty() {
            self.config.tick.saturating_sub(self.clock.now().since(self.looked))
        } else if self.awake.iter().all(idle) {
            TRANSMITTING
        } else if self.awake.len() < self.wires.len() {
            Duration::ZERO
        } else {
            return;
        };
        let mut readable = std::mem::take(&mut self.readable);
        let woken = self.sleeper.sleep(timeout, |slot| readable.push(slot));
        for slot in readable.drain(..) {
            self.wake(slot);
        }
        self.readable = readable;
        if !woken && timeout > TRANSMITTING {
            // Ports that cannot be waited for are served now, whatever the clock says.
            self.look_at_all(self.clock.now());
        }
    }

    /// Carries out what the handle asked for.
    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                // One that cannot be waited for is served all the same.
                Command::Add(forwarder) => drop(self.take_on(forwarder)),
                Command::Remove(name, answer) => drop(answer.send(self.let_go(&name))),
            }
        }
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("wires", &self.wires.iter().flatten().count())
            .finish_non_exhaustive()
    }
}

impl Handle {
    /// Asks the worker to end; wakes it.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Gives the running worker another wire, through which packets flow when this returns. What takes time is done here: the worker spends
    /// microseconds on it.
    pub fn add(&self, mut wire: Wire) {
        wire.prime();
        let forwarder = Box::new(Forwarder::new(wire, self.engine.tap()));
        // If the worker has ended, the wire is dropped with its queue.
        let _ = self.commands.send(Command::Add(forwarder));
        self.wake();
    }

    /// Takes a wire from the running worker and answers it; `None` if there is none of that name or
    /// the worker has ended. Blocks until the worker has let go of it and its frames in transmission
    /// have come back, or a short while has passed; the worker does not wait for them.
    pub fn remove(&self, name: &str) -> Option<Wire> {
        let (answer, wire) = channel();
        self.commands.send(Command::Remove(name.into(), answer)).ok()?;
        self.wake();
        let mut wire = wire.recv_timeout(Duration::from_secs(5)).ok()??.wire;
        wire.drain();
        Some(wire)
    }

    fn wake(&self) {
        // The worker wakes by itself at its next tick if this fails.
        let _ = self.waker.wake();
    }
}
