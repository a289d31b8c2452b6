//! A worker: one thread that owns queues and runs each batch to completion.
//!
//! It receives a batch, judges it, hands what may pass to the other port of the wire and gives the
//! other frames back to its pool. Nothing is copied, nothing is handed to another thread. When
//! nothing arrives it polls for a short while, then sleeps until a port has packets.

mod forward;
mod sleep;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::clock::{Clock, Monotonic, Time};
use crate::frame::FramePool;
use crate::pipeline::Lane;
use crate::topology::Wire;

use forward::Forwarder;
use sleep::Sleeper;

/// Settings of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Rounds without a packet after which the worker sleeps. More answers faster after short
    /// pauses and uses more CPU time.
    pub idle_rounds: u32,
    /// Longest sleep: how often ports are told that their worker lives (at least every 100 ms, see
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

/// One worker. Make it, take its [`Handle`], move it to a thread, [`Worker::run`].
pub struct Worker {
    config: Config,
    lane: Lane,
    pool: FramePool,
    wires: Vec<Forwarder>,
    clock: Arc<dyn Clock>,
    sleeper: Sleeper,
    stop: Arc<AtomicBool>,
    commands: Receiver<Command>,
    handle: Handle,
    swept: Time,
}

/// The outside's hold on a worker: cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    stop: Arc<AtomicBool>,
    waker: Arc<mio::Waker>,
    commands: Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Add(Wire),
    Remove(Box<str>, Sender<Option<Wire>>),
}

impl Worker {
    /// A worker without wires. All ports it is given must use the UMEM of `pool`, whose frames it
    /// receives into.
    ///
    /// # Errors
    /// No more file descriptors.
    pub fn new(config: Config, lane: Lane, pool: FramePool) -> std::io::Result<Self> {
        let sleeper = Sleeper::new()?;
        let stop = Arc::<AtomicBool>::default();
        let (sender, commands) = channel();
        let handle = Handle { stop: Arc::clone(&stop), waker: sleeper.waker(), commands: sender };
        let clock = Arc::new(Monotonic::new());
        let (wires, swept) = (Vec::new(), clock.now());
        Ok(Self { config, lane, pool, wires, clock, sleeper, stop, commands, handle, swept })
    }

    /// Uses another clock than the machine's: for tests. Sleeping still takes real time.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.swept = clock.now();
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

    /// Adds a wire.
    ///
    /// # Errors
    /// A port's descriptor cannot be waited for.
    pub fn add(&mut self, wire: Wire) -> std::io::Result<()> {
        let forwarder = Forwarder::new(wire);
        self.sleeper.register(&forwarder.wire)?;
        self.wires.push(forwarder);
        Ok(())
    }

    /// Takes the wire with this name out, after its frames in transmission have come back or a
    /// short while has passed. `None` if there is none.
    pub fn remove(&mut self, name: &str) -> Option<Wire> {
        let at = self.wires.iter().position(|forwarder| &*forwarder.wire.name == name)?;
        let mut forwarder = self.wires.swap_remove(at);
        self.sleeper.deregister(&forwarder.wire);
        forwarder.drain(&mut self.pool);
        Some(forwarder.wire)
    }

    /// Receives, judges and forwards one batch from each port; answers how many frames came.
    /// [`Worker::run`] is a loop around this.
    pub fn round(&mut self) -> usize {
        let now = self.clock.now();
        let mut received = 0;
        for wire in &mut self.wires {
            received += wire.round(now, &mut self.lane, &mut self.pool);
        }
        self.sweep(now);
        received
    }

    /// Looks through as much of the connection table as is due.
    fn sweep(&mut self, now: Time) {
        let due = now.since(self.swept);
        if due < SWEEP_STEP {
            return;
        }
        let share = due.as_secs_f64() / self.config.sweep.as_secs_f64().max(0.001);
        let size = self.lane.engine().sweep_size();
        let budget = (size as f64 * share.min(1.0)).ceil() as usize;
        self.lane.expire(now, budget);
        self.swept = now;
    }

    /// Works until [`Handle::stop`]. Errors of interfaces do not end it: a port that fails is tried
    /// again, packets for it are counted as dropped.
    ///
    /// Answers the worker, so that its wires and frames can be reused.
    pub fn run(mut self) -> Self {
        let mut idle = 0;
        while !self.stop.load(Ordering::Acquire) {
            self.obey();
            if self.round() > 0 {
                idle = 0;
                continue;
            }
            idle += 1;
            if idle < self.config.idle_rounds {
                std::hint::spin_loop();
                continue;
            }
            self.sleep();
        }
        for wire in &mut self.wires {
            wire.drain(&mut self.pool);
        }
        self
    }

    /// Sleeps until a port has packets, the handle calls, or it is time to look around.
    fn sleep(&mut self) {
        let outstanding = self.wires.iter().any(Forwarder::outstanding);
        let timeout = if outstanding { Duration::from_millis(1) } else { self.config.tick };
        self.sleeper.sleep(timeout);
    }

    /// Carries out what the handle asked for.
    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                // A port that cannot be waited for is still served every tick.
                Command::Add(wire) => drop(self.add(wire)),
                Command::Remove(name, answer) => drop(answer.send(self.remove(&name))),
            }
        }
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("wires", &self.wires.len()).finish_non_exhaustive()
    }
}

impl Handle {
    /// Asks the worker to end; wakes it.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Gives the running worker another wire.
    pub fn add(&self, wire: Wire) {
        // If the worker has ended, the wire is dropped with its queue.
        let _ = self.commands.send(Command::Add(wire));
        self.wake();
    }

    /// Takes a wire from the running worker and answers it; `None` if there is none of that name or
    /// the worker has ended. Blocks until the worker has let go of it.
    pub fn remove(&self, name: &str) -> Option<Wire> {
        let (answer, wire) = channel();
        self.commands.send(Command::Remove(name.into(), answer)).ok()?;
        self.wake();
        wire.recv_timeout(Duration::from_secs(5)).ok()?
    }

    fn wake(&self) {
        // The worker wakes by itself at its next tick if this fails.
        let _ = self.waker.wake();
    }
}
