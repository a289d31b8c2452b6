//! A firewall as a handle holds it, where there is AF_XDP.

use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use portcullis_core::dataplane::connection::Rate;
use portcullis_core::dataplane::port::xdp::{
    BusyPoll, FailureMode, HugePages, LinkState, Mode, ModePolicy, Numa, ProgramVerdict,
};
use portcullis_core::dataplane::switch;
use portcullis_core::{Config, Engine, Firewall, PortChange, Topology};

use super::port::{
    PORTCULLIS_PORT_DOWN, PORTCULLIS_PORT_GONE, PORTCULLIS_PORT_UP, portcullis_port,
    portcullis_port_change, portcullis_program, portcullis_socket,
};
use super::wire::{Learning, Wanted};
use super::*;
use crate::handle::lock;
use crate::status::{
    Failure, PORTCULLIS_BAD_SIZE, PORTCULLIS_BAD_VALUE, PORTCULLIS_NULL, PORTCULLIS_SYSTEM,
};
use crate::types::{fixed, flag};

/// A firewall, and what its caller had no room for yet.
pub(super) struct Running {
    firewall: Firewall,
    /// Changes of interfaces, the last of each, in the order in which they were noticed.
    changes: Mutex<Vec<PortChange>>,
}

impl Running {
    pub(super) fn start(
        engine: &Engine,
        config: &portcullis_firewall_config,
        given: &Given<'_>,
    ) -> Result<Self, Failure> {
        let config = config.read(given)?;
        let _blocked = Blocked::new();
        let firewall = Firewall::attach(engine.clone(), config)?;
        Ok(Self { firewall, changes: Mutex::default() })
    }

    pub(super) fn add_wire(&self, wanted: &Wanted<'_>) -> Result<(), Failure> {
        let wire = match (wanted.b, &wanted.others[..]) {
            (None, _) => Topology::hairpin(wanted.a),
            (Some(b), []) => Topology::wire(wanted.a, b),
            (Some(b), others) => {
                let all: Vec<&str> =
                    [wanted.a, b].into_iter().chain(others.iter().copied()).collect();
                let switch = Topology::switch(wanted.name.unwrap_or_default(), &all);
                switch.learning(|config| wanted.learning.set(config))
            }
        };
        let wire = if wanted.small { wire.small() } else { wire };
        Ok(self.firewall.add_wire(match wanted.name {
            Some(name) => wire.named(name),
            None => wire,
        })?)
    }

    pub(super) fn remove_wire(&self, name: &str) -> Result<(), Failure> {
        Ok(self.firewall.remove_wire(name)?)
    }

    pub(super) fn wires(&self) -> String {
        self.firewall.wire_names().join("\n")
    }

    pub(super) fn replace_early_drop(&self, prefixes: &[ipnet::IpNet]) -> Result<(), Failure> {
        self.firewall.replace_early_drop(prefixes)?;
        Ok(())
    }

    pub(super) fn halt(&self) {
        self.firewall.stop();
    }

    pub(super) fn lesser_mode(&self) -> String {
        self.firewall.lesser_mode().unwrap_or_default()
    }

    pub(super) fn port(&self, index: usize) -> Option<portcullis_port> {
        let ports = self.firewall.ports();
        let port = ports.get(index)?;
        Some(portcullis_port {
            struct_size: 0,
            name: fixed(&port.name),
            mode: fixed(&port.mode.to_string()),
            queues: port.queues as u32,
            mtu: port.mtu,
            wire: fixed(&port.wire),
            memory: port.memory.bytes,
            huge_pages: port.memory.huge_pages.into(),
            reserved: 0,
        })
    }

    /// The interface of a name, as [`Running::port`] counts; one that is gone meanwhile has none.
    fn index(&self, name: &str) -> u32 {
        let at = self.firewall.ports().iter().position(|port| port.name == name);
        at.map_or(u32::MAX, |at| at as u32)
    }

    pub(super) fn sockets(&self) -> Result<Vec<portcullis_socket>, Failure> {
        let found = self.firewall.socket_statistics().map_err(cannot("ask a socket"))?;
        let mut sockets = Vec::with_capacity(found.len());
        for (name, queue, numbers) in &found {
            sockets.push(portcullis_socket {
                port: self.index(name),
                queue: *queue,
                rx_dropped: numbers.rx_dropped,
                rx_ring_full: numbers.rx_ring_full,
                rx_fill_ring_empty: numbers.rx_fill_ring_empty_descs,
                tx_ring_empty: numbers.tx_ring_empty_descs,
                rx_invalid_descriptors: numbers.rx_invalid_descs,
                tx_invalid_descriptors: numbers.tx_invalid_descs,
            });
        }
        sockets.sort_by_key(|socket| (socket.port, socket.queue));
        Ok(sockets)
    }

    pub(super) fn programs(&self) -> Result<Vec<portcullis_program>, Failure> {
        let found = self.firewall.program_counters()?;
        let mut programs = Vec::with_capacity(found.len());
        for (name, counters) in &found {
            let of = |verdict| counters.total(verdict).packets;
            programs.push(portcullis_program {
                port: self.index(name),
                reserved: 0,
                to_socket: of(ProgramVerdict::ToSocket),
                miss_dropped: of(ProgramVerdict::MissDropped),
                miss_passed: of(ProgramVerdict::MissPassed),
                stale_dropped: of(ProgramVerdict::StaleDropped),
                stale_passed: of(ProgramVerdict::StalePassed),
                early_dropped: of(ProgramVerdict::EarlyDropped),
            });
        }
        programs.sort_by_key(|program| program.port);
        Ok(programs)
    }

    /// Hands over changes until `take` wants no more; the rest waits for the next call.
    pub(super) fn port_changes(
        &self,
        most: usize,
        mut take: impl FnMut(portcullis_port_change),
    ) -> Result<(), Failure> {
        let mut waiting = lock(&self.changes);
        for change in self.firewall.port_changes().map_err(cannot("ask for an interface"))? {
            // What nobody asked for in time is no news any more.
            waiting.retain(|older| older.name != change.name);
            waiting.push(change);
        }
        let now = most.min(waiting.len());
        for change in waiting.drain(..now) {
            let state = match change.state {
                LinkState::Up => PORTCULLIS_PORT_UP,
                LinkState::Down => PORTCULLIS_PORT_DOWN,
                LinkState::Gone => PORTCULLIS_PORT_GONE,
            };
            let (name, wire) = (fixed(&change.name), fixed(&change.wire));
            take(portcullis_port_change { name, port: self.index(&change.name), state, wire });
        }
        Ok(())
    }
}

impl Learning {
    fn set(&self, config: &mut switch::Config) {
        if self.age_ms > 0 {
            config.age = Duration::from_millis(self.age_ms.into());
        }
        if self.addresses > 0 {
            config.addresses_per_port = self.addresses;
        }
        if let Some((per_second, burst)) = self.floods {
            config.floods = Rate { per_second, burst };
        }
    }
}

fn cannot(what: &'static str) -> impl FnOnce(std::io::Error) -> Failure {
    move |error| Failure::new(PORTCULLIS_SYSTEM, format_args!("error: cannot {what}: {error}"))
}

impl portcullis_firewall_config {
    fn read(&self, given: &Given<'_>) -> Result<Config, Failure> {
        let mode = match self.mode {
            PORTCULLIS_MODE_PREFER_ZEROCOPY => ModePolicy::Prefer(Mode::ZeroCopy),
            PORTCULLIS_MODE_REQUIRE_ZEROCOPY => ModePolicy::Require(Mode::ZeroCopy),
            PORTCULLIS_MODE_PREFER_COPY => ModePolicy::Prefer(Mode::Copy),
            PORTCULLIS_MODE_REQUIRE_COPY => ModePolicy::Require(Mode::Copy),
            PORTCULLIS_MODE_GENERIC => ModePolicy::Require(Mode::Generic),
            _ => return Err(PORTCULLIS_BAD_VALUE.into()),
        };
        let failure = match self.fail {
            PORTCULLIS_FAIL_CLOSED => FailureMode::Closed,
            PORTCULLIS_FAIL_OPEN => FailureMode::Open,
            _ => return Err(PORTCULLIS_BAD_VALUE.into()),
        };
        let huge_pages = match self.huge_pages {
            0 => HugePages::Never,
            PORTCULLIS_HUGE_PAGES_PREFER => HugePages::Prefer,
            PORTCULLIS_HUGE_PAGES_REQUIRE => HugePages::Require,
            _ => return Err(PORTCULLIS_BAD_VALUE.into()),
        };
        let promiscuous = !flag(self.not_promiscuous)?;
        let budget = match self.busy_poll_budget {
            0 => 64,
            budget => u16::try_from(budget).map_err(|_| PORTCULLIS_BAD_VALUE)?,
        };
        let set = |value: u32| (value > 0).then_some(value);
        let millis = |value: u32| set(value).map(|value| Duration::from_millis(value.into()));
        if self.tick_ms > 100 {
            let text = "error: tick_ms: at most 100, or ports take their worker for stalled";
            return Err(Failure::new(PORTCULLIS_BAD_VALUE, text));
        }
        let nice = match self.nice {
            0 => -20,
            PORTCULLIS_NICE_ORDINARY => 0,
            nice @ -20..=19 => nice as i8,
            _ => return Err(PORTCULLIS_BAD_VALUE.into()),
        };
        if self.reserved != 0 {
            return Err(PORTCULLIS_BAD_SIZE.into());
        }
        let workers = (self.workers as usize).max(1);
        let config = match (given.a, given.b) {
            (None, None) => Config::idle(),
            (None, Some(_)) => return Err(PORTCULLIS_NULL.into()),
            (Some(a), None) => Config::idle().with(Topology::hairpin(a)),
            (Some(a), Some(b)) => Config::wire(a, b),
        };
        let cpus: Vec<usize> = given.cpus.iter().map(|cpu| *cpu as usize).collect();
        let config = config.workers(workers).cpus(cpus).nice(nice).mode(mode).failure(failure);
        let config = match given.mirror {
            Some(interface) => config.mirror_to(interface),
            None => config,
        };
        let config = config.ports(|ports| {
            ports.huge_pages = huge_pages;
            ports.promiscuous = promiscuous;
            ports.pins = given.pins.map(Into::into);
            ports.early_drop_capacity = self.early_drop_capacity;
            let rings = &mut ports.rings;
            rings.rx = set(self.rx_ring).unwrap_or(rings.rx);
            rings.tx = set(self.tx_ring).unwrap_or(rings.tx);
            rings.fill = set(self.fill_ring).unwrap_or(rings.fill);
            rings.completion = set(self.completion_ring).unwrap_or(rings.completion);
            ports.chunk_size = set(self.chunk_size);
            ports.frames_per_queue = set(self.frames_per_queue);
            ports.busy_poll =
                set(self.busy_poll_us).map(|microseconds| BusyPoll { microseconds, budget });
            ports.stale_after = millis(self.stale_after_ms).unwrap_or(ports.stale_after);
            ports.busy_wait = millis(self.busy_wait_ms).unwrap_or(ports.busy_wait);
            ports.numa = match self.numa {
                0 => Numa::Interfaces,
                u32::MAX => Numa::Anywhere,
                node => Numa::Node(node - 1),
            };
        });
        Ok(config.worker(|worker| {
            worker.idle_rounds = set(self.idle_rounds).unwrap_or(worker.idle_rounds);
            worker.tick = millis(self.tick_ms).unwrap_or(worker.tick);
            worker.sweep = millis(self.sweep_ms).unwrap_or(worker.sweep);
        }))
    }
}

/// Signals are blocked in this thread, and in those that it starts, while this lives; but for those
/// that tell a thread of its own mistake.
struct Blocked(Option<SigSet>);

impl Blocked {
    fn new() -> Self {
        use nix::sys::signal::Signal::*;
        let mut signals = SigSet::all();
        for mistake in [SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS] {
            signals.remove(mistake);
        }
        Self(signals.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok())
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            // It was a mask before; there is nobody to tell if it is none now.
            let _ = before.thread_set_mask();
        }
    }
}
