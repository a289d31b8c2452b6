//! Flow records of a running firewall: into a file or standard output, the live view, the counters.

mod settings;
mod staged;

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use portcullis::Firewall;
use portcullis::flow::{FileSink, FileWriter, Recorded, Recorder, StreamSink, Watch, Written};

use super::observed::Observed;
use crate::control::status;
use crate::output::Refused;
pub(super) use settings::Flows;
pub(super) use staged::StagedPairs;

/// How long the thread sleeps when nothing happens: what is due is written so late at most.
const TICK: u16 = 100;

/// The thread is woken so often at most: a wake costs a worker a system call.
const REST: Duration = Duration::from_millis(1);

/// Records that wait for the live view.
const VIEW: usize = 1 << 14;

/// Reads events and makes records of them, on a thread of its own.
pub(super) struct FlowThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    writer: Option<FileWriter>,
    recorded: Watch<Recorded>,
}

/// Where records go, opened before packets flow.
pub(super) enum Opened {
    /// Nowhere but into the live view.
    None,
    /// Into a file.
    File(FileSink),
    /// To standard output.
    Stream(StreamSink<std::fs::File>),
}

impl Opened {
    /// Opens `path`; `-` is standard output, and what else is printed goes to standard error then.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(path: Option<&Path>, flows: &Flows) -> Result<Self, Refused> {
        let Some(path) = path else { return Ok(Self::None) };
        if path == Path::new("-") {
            let records = std::io::stdout().as_fd().try_clone_to_owned()?;
            nix::unistd::dup2_stdout(std::io::stderr())?;
            return Ok(Self::Stream(StreamSink::new(records.into())));
        }
        let sink = FileSink::open(path, flows.file())
            .map_err(|e| format!("error: flow log {}: {e}", path.display()))?;
        Ok(Self::File(sink))
    }
}

impl FlowThread {
    /// Begins.
    ///
    /// # Errors
    /// No thread is to be had.
    pub(super) fn start(
        firewall: &Arc<Firewall>,
        observed: &Arc<Observed>,
        flows: &Flows,
        opened: Opened,
    ) -> Result<Self, Refused> {
        let mut recorder = Recorder::new(firewall.engine(), flows.recorder());
        let hub = recorder.hub();
        let node = nix::unistd::gethostname().unwrap_or_default();
        let node = node.to_string_lossy();
        let queue = || hub.subscribe(flows.queue());
        let writer = match opened {
            Opened::None => None,
            Opened::File(sink) => Some(FileWriter::spawn(queue(), sink, flows.format(), &node)?),
            Opened::Stream(sink) => Some(FileWriter::spawn(queue(), sink, flows.format(), &node)?),
        };
        let view = hub.subscribe_to_all(VIEW);
        let recorded = recorder.recorded();
        observed.watch_flows(
            hub.clone(),
            recorder.recorded(),
            writer.as_ref().map(FileWriter::watch),
        );
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, firewall) = (Arc::clone(&stop), Arc::clone(firewall));
        let observed = Arc::clone(observed);
        let thread = std::thread::Builder::new().name("flows".into()).spawn(move || {
            loop {
                let last = stopped.load(Ordering::Acquire);
                if last {
                    recorder.finish();
                } else {
                    let mut waiting = [PollFd::new(firewall.as_fd(), PollFlags::POLLIN)];
                    // Interrupted or not: it looks for itself.
                    let _ = poll(&mut waiting, PollTimeout::from(TICK));
                    recorder.poll();
                }
                while let Some(received) = view.next() {
                    observed.note(&received.record);
                }
                observed.missed(view.lost());
                if last {
                    return;
                }
                std::thread::sleep(REST);
            }
        })?;
        Ok(Self { stop, thread: Some(thread), writer, recorded })
    }

    /// Records and writes what is there, and ends.
    pub(super) fn finish(mut self) -> (Recorded, Option<Written>) {
        self.end();
        let written = self.writer.take().map(FileWriter::finish);
        (self.recorded.now(), written)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A thread that died has nothing more to tell.
            let _ = thread.join();
        }
    }
}

impl Drop for FlowThread {
    fn drop(&mut self) {
        self.end();
    }
}

/// What is printed at the end.
pub(super) fn summary(recorded: &Recorded, written: &Written) -> String {
    let made = recorded.records + recorded.updates + recorded.denied_records;
    let mut text = format!(
        "flow log: {made} records, {} written, {} not written, {} lost in the queue; {} events lost before they could be read",
        written.records,
        written.unwritten,
        written.lost,
        recorded.lost_total()
    );
    if let Some(why) = &written.failing {
        text += &format!("; {why}");
    }
    text
}

/// The same for the status.
pub(super) fn status(recorded: &Recorded, written: Option<&Written>) -> status::Flows {
    let lost = recorded.lost;
    status::Flows {
        records: recorded.records,
        updates: recorded.updates,
        denied_records: recorded.denied_records,
        denied_packets: recorded.denied_packets,
        sampled_out: recorded.sampled_out,
        left_out: recorded.left_out,
        lost_starts: lost[0],
        lost_denied_packets: lost[1],
        lost_ends: lost[2],
        lost_others: lost[3] + lost[4],
        unseen: 0,
        log: written.map(|written| status::FlowLog {
            written: written.records,
            bytes: written.bytes,
            unwritten: written.unwritten,
            lost: written.lost,
            failing: written.failing.clone(),
        }),
    }
}
