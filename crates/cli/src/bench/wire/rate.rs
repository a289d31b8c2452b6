//! Packets a second through a stand, what is lost, and what it costs.

use std::time::Duration;

use crate::lab::Path;
use crate::lab::traffic::{Generator, Load, Sent, Sink};
use crate::output::Refused;

use super::policy::CLIENTS;
use super::scenario::Stand;

/// How long packets on their way may take to arrive after the last was sent.
const SETTLE: Duration = Duration::from_millis(20);

/// Packets a second at which connections are opened.
const WARM_UP: u32 = 50_000;

/// Load on a stand, and the sink behind it.
pub(super) struct Meter<'a> {
    stand: &'a Stand,
    full: Generator,
    paced: Generator,
    warm_up: Generator,
    sink: Sink,
}

/// One measured run.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Run {
    pub(in super::super) sent: Sent,
    pub(in super::super) received: u64,
    /// CPU time of the generator's thread, in seconds. Where the kernel forwards, it does so there.
    pub(in super::super) generator_cpu: f64,
    /// CPU time of all other threads of this process: of the worker.
    pub(in super::super) worker_cpu: f64,
}

impl<'a> Meter<'a> {
    pub(super) fn new(stand: &'a Stand, rate: u32) -> Result<Self, Refused> {
        let interface = crate::lab::eth0(&stand.path.client)?;
        let load = Load {
            interface,
            interfaces: 1,
            turn: 1,
            link: [stand.next_hop(), Path::CLIENT_LINK],
            source: Path::CLIENT,
            sources: CLIENTS,
            destination: Path::SERVER,
            flows: stand.scenario.flows(),
            rate: None,
            stream: 0,
            streams: 1,
        };
        let full = Generator::new(&load)?;
        let paced = Generator::new(&Load { rate: Some(rate), ..load })?;
        let warm_up = Generator::new(&Load { rate: Some(WARM_UP), ..load })?;
        let mut sink = Sink::new()?;
        let interface = crate::lab::eth0(&stand.path.server)?;
        stand.path.server.run(|| sink.attach(interface))??;
        Ok(Self { stand, full, paced, warm_up, sink })
    }

    /// Sends each flow's first packets slowly enough for all of them to arrive.
    pub(super) fn warm_up(&self) -> Result<(), Refused> {
        let time = 1.5 * f64::from(self.stand.scenario.flows()) / f64::from(WARM_UP);
        self.run(&self.warm_up, Duration::from_secs_f64(time.max(0.05)))?;
        Ok(())
    }

    /// As much load as one core makes.
    pub(super) fn full(&self, time: Duration) -> Result<Run, Refused> {
        self.run(&self.full, time)
    }

    /// Load at the rate chosen.
    pub(super) fn paced(&self, time: Duration) -> Result<Run, Refused> {
        self.run(&self.paced, time)
    }

    /// Sends for so long and counts what arrives.
    fn run(&self, generator: &Generator, time: Duration) -> Result<Run, Refused> {
        let before = self.sink.received(0)?;
        let process = cpu(libc::CLOCK_PROCESS_CPUTIME_ID);
        let (sent, generator_cpu) = self.stand.path.client.run(|| {
            super::pin::generator();
            let begin = cpu(libc::CLOCK_THREAD_CPUTIME_ID);
            let sent = generator.send_for(time);
            (sent, cpu(libc::CLOCK_THREAD_CPUTIME_ID) - begin)
        })?;
        let worker_cpu = cpu(libc::CLOCK_PROCESS_CPUTIME_ID) - process - generator_cpu;
        std::thread::sleep(SETTLE);
        let received = self.sink.received(0)? - before;
        Ok(Run { sent: sent?, received, generator_cpu, worker_cpu: worker_cpu.max(0.0) })
    }
}

impl Run {
    pub(in super::super) fn pps_in(&self) -> f64 {
        self.sent.packets as f64 / self.sent.seconds
    }

    pub(in super::super) fn pps_out(&self) -> f64 {
        self.received as f64 / self.sent.seconds
    }

    pub(in super::super) fn lost(&self) -> u64 {
        self.sent.packets.saturating_sub(self.received)
    }
}

/// CPU time in seconds.
pub(in super::super) fn cpu(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the duration of the call.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(status, 0, "the CPU clocks exist on every Linux");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
