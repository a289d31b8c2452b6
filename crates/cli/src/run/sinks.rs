//! Everything that can watch a firewall, at once: for measuring what watching costs and for soaks.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portcullis::dataplane::port::xdp::FailureMode;
use portcullis::flow::{Recorded, Written};
use portcullis::{Firewall, FlowEvent, FlowKind};

use super::TICK;
use super::flows::{FlowThread, Flows, Opened};
use super::observed::Observed;
use super::socket::{Addresses, Server};
use crate::control::capture::{Begun, Item, Summary, Wanted};
use crate::control::top::Top;
use crate::control::{Client, Request};
use crate::output::Refused;

/// How often metrics and the live view are asked for: oftener than anybody does.
const ASK: Duration = Duration::from_secs(1);

/// Flow log, metrics that are read, a live view and a capture, until stopped.
pub(crate) struct Sinks {
    stop: Arc<AtomicBool>,
    log: Option<FlowThread>,
    asking: Option<JoinHandle<Result<(), Refused>>>,
    capturing: Option<JoinHandle<Result<Summary, Refused>>>,
    server: Option<Server>,
    folder: PathBuf,
}

/// What became of it all.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Seen {
    /// Records: connections opened, packets dropped, connections ended.
    pub(crate) opened: u64,
    pub(crate) dropped: u64,
    pub(crate) ended: u64,
    /// Records made: of starts, ends and changes, of what lasts, of denials summed up.
    pub(crate) records: u64,
    pub(crate) updates: u64,
    pub(crate) denied_records: u64,
    /// Records in the flow log, with those in files that rotation removed since.
    pub(crate) written: u64,
    /// Records that the file did not take, and that the queue before it did not.
    pub(crate) unwritten: u64,
    pub(crate) lost_in_queue: u64,
    /// Bytes written to the flow log, and files that are there now.
    pub(crate) log_bytes: u64,
    pub(crate) log_files: usize,
    /// Of the capture.
    pub(crate) captured: u64,
    pub(crate) beyond_the_rate: u64,
    pub(crate) lost_in_capture: u64,
}

impl Seen {
    fn of(recorded: &Recorded, written: &Written) -> Self {
        Self {
            opened: recorded.started,
            dropped: recorded.denied_packets,
            ended: recorded.ended,
            records: recorded.records,
            updates: recorded.updates,
            denied_records: recorded.denied_records,
            written: written.records,
            unwritten: written.unwritten,
            lost_in_queue: written.lost,
            log_bytes: written.bytes,
            ..Self::default()
        }
    }

    /// Whether every record is in the log or counted as lost.
    pub(crate) fn exact(&self) -> bool {
        let made = self.records + self.updates + self.denied_records;
        made == self.written + self.unwritten + self.lost_in_queue
    }

    /// Counts one more record.
    pub(crate) fn note(&mut self, event: &FlowEvent) {
        match event.kind {
            FlowKind::Opened => self.opened += 1,
            FlowKind::Dropped => self.dropped += event.packets,
            FlowKind::Changed | FlowKind::Passed => {}
            _ => self.ended += 1,
        }
    }
}

impl Sinks {
    /// Starts them, with their files in a new folder.
    ///
    /// # Errors
    /// Files or sockets that cannot be made.
    pub(crate) fn start(firewall: &Arc<Firewall>, capture: Wanted) -> Result<Self, Refused> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("portcullis-sinks-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder)?;
        let (control, metrics) = (folder.join("control.sock"), folder.join("metrics.sock"));
        let observed =
            Arc::new(Observed::new(Arc::clone(firewall), "bench", FailureMode::Closed, ""));
        let addresses = Addresses {
            control: Some(control.clone()),
            metrics: Some(metrics.display().to_string()),
        };
        let server = Server::start(&addresses, Arc::clone(&observed))?;
        let stop = Arc::new(AtomicBool::new(false));
        let flows = Flows::rotated_often();
        let opened = Opened::open(Some(&folder.join("flows.jsonl")), &flows)?;
        let log = FlowThread::start(firewall, &observed, &flows, opened)?;
        let mut sinks = Self {
            stop: Arc::clone(&stop),
            log: Some(log),
            asking: None,
            capturing: None,
            server: Some(server),
            folder,
        };
        let mut capturing = Client::connect(&control)?;
        let _: Begun = capturing.ask(&Request::Capture(capture))?;
        let stopped = Arc::clone(&stop);
        sinks.capturing = Some(std::thread::spawn(move || receive(&mut capturing, &stopped)));
        sinks.asking = Some(std::thread::spawn(move || ask(&control, &metrics, &stop)));
        Ok(sinks)
    }

    /// Ends them.
    ///
    /// # Errors
    /// What went wrong in one of them.
    pub(crate) fn stop(mut self) -> Result<Seen, Refused> {
        self.stop.store(true, Ordering::Release);
        let captured = join(self.capturing.take())??;
        join(self.asking.take())??;
        let log = self.log.take().ok_or("error: a sink was ended twice")?;
        let (recorded, written) = log.finish();
        let log_files = std::fs::read_dir(&self.folder)?
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"flows.jsonl"))
            .count();
        Ok(Seen {
            log_files,
            captured: captured.captured,
            beyond_the_rate: captured.over_rate,
            lost_in_capture: captured.lost + captured.slow,
            ..Seen::of(&recorded, &written.unwrap_or_default())
        })
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        drop(join(self.capturing.take()));
        drop(join(self.asking.take()));
        drop(self.log.take());
        drop(self.server.take());
        // What is left is in a folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn join<T>(thread: Option<JoinHandle<T>>) -> Result<T, Refused> {
    let thread = thread.ok_or("error: a sink was ended twice")?;
    thread.join().map_err(|_| "error: a sink's thread died".into())
}

/// As `portcullis top` and a Prometheus server do it.
fn ask(control: &Path, metrics: &Path, stop: &AtomicBool) -> Result<(), Refused> {
    let mut client = Client::connect(control)?;
    while !stop.load(Ordering::Acquire) {
        let _: Top = client.ask(&Request::Top {})?;
        let mut stream = UnixStream::connect(metrics)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        if !text.ends_with("# EOF\n") {
            return Err(format!("error: metrics are not whole: {text:.200}").into());
        }
        pause(stop);
    }
    Ok(())
}

/// As `portcullis capture` does it, without a file.
fn receive(client: &mut Client, stop: &AtomicBool) -> Result<Summary, Refused> {
    let (mut asked, mut data) = (false, Vec::new());
    loop {
        if stop.load(Ordering::Acquire) && !asked {
            client.send(&Request::End {})?;
            asked = true;
        }
        if !client.wait(TICK)? {
            continue;
        }
        let line = client.line()?.ok_or("error: the firewall ended")?;
        match serde_json::from_str(&line)? {
            Item::Packet(packet) => {
                data.resize(packet.len, 0);
                client.bytes(&mut data)?;
            }
            Item::End(summary) => return Ok(summary),
        }
    }
}

fn pause(stop: &AtomicBool) {
    let end = Instant::now() + ASK;
    while Instant::now() < end && !stop.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(50));
    }
}
