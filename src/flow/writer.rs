//! A thread that takes records from a subscription to a sink.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::file::Sink;
use super::hub::{Received, Subscription, Watch};
use super::hubble;

/// How records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// As [`super::FlowRecord`] is: a JSON object a line.
    #[default]
    Json,
    /// As `hubble observe -o json` prints flows.
    Hubble,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "hubble" => Ok(Self::Hubble),
            _ => Err(format!("format {text:?}: expected json or hubble")),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Hubble => "hubble",
        })
    }
}

/// What became of records on their way into a sink: written + unwritten + lost is how many were made
/// since the subscription began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// Records in the sink.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Records that the sink did not take: a disk that is full, a reader that is gone.
    pub unwritten: u64,
    /// Records that did not fit into the queue before it.
    pub lost: u64,
    /// Why the sink takes nothing now.
    pub failing: Option<String>,
}

/// Records on their way into a sink, by a thread of their own.
#[derive(Debug)]
pub struct FileWriter {
    stop: Arc<AtomicBool>,
    written: Watch<Written>,
    thread: Option<JoinHandle<()>>,
}

/// How often a file is written to, however few records there are.
const FLUSH: Duration = Duration::from_millis(100);

/// How long the end waits for a sink that hangs.
const PATIENCE: Duration = Duration::from_secs(5);

impl FileWriter {
    /// Begins to write. `node` is the name of this machine, where the format has one.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn spawn(
        records: Subscription,
        sink: impl Sink + 'static,
        format: Format,
        node: &str,
    ) -> std::io::Result<Self> {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Watch::<Written>::default());
        let worker = Worker {
            records,
            sink,
            format,
            node: node.to_owned(),
            stop: Arc::clone(&stop),
            written: written.clone(),
        };
        let thread = std::thread::Builder::new().name("flow records".into());
        let thread = thread.spawn(move || worker.run())?;
        Ok(Self { stop, written, thread: Some(thread) })
    }

    /// What became of records so far.
    pub fn written(&self) -> Written {
        self.written.now()
    }

    /// The same, to be read elsewhere.
    pub fn watch(&self) -> Watch<Written> {
        self.written.clone()
    }

    /// Writes what waits and ends; a sink that hangs is given up after five seconds.
    pub fn finish(mut self) -> Written {
        self.end();
        self.written()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        let until = Instant::now() + PATIENCE;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if thread.is_finished() {
            // If it died, what it wrote until then is counted.
            let _ = thread.join();
        }
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        self.end();
    }
}

struct Worker<S> {
    records: Subscription,
    sink: S,
    format: Format,
    node: String,
    stop: Arc<AtomicBool>,
    written: Watch<Written>,
}

impl<S: Sink> Worker<S> {
    fn run(mut self) {
        let mut line = Vec::new();
        loop {
            let last = self.stop.load(Ordering::Acquire);
            let until = Instant::now() + FLUSH;
            let mut next = if last { self.records.next() } else { self.records.wait(FLUSH) };
            while let Some(received) = next {
                line.clear();
                self.render(&received, &mut line);
                self.sink.line(&line);
                let goes_on = last || Instant::now() < until;
                next = if goes_on { self.records.next() } else { None };
            }
            self.sink.flush();
            self.report();
            if last {
                return;
            }
        }
    }

    fn render(&self, received: &Received, line: &mut Vec<u8>) {
        match self.format {
            Format::Json => {
                let (_, unwritten, _) = self.sink.written();
                let lost = received.lost + unwritten;
                if lost == 0 {
                    received.record.write(line);
                } else {
                    let record = super::FlowRecord {
                        lost: received.record.lost + lost,
                        ..(*received.record).clone()
                    };
                    record.write(line);
                }
            }
            Format::Hubble => hubble::write(&received.record, &self.node, line),
        }
    }

    fn report(&self) {
        let (records, unwritten, bytes) = self.sink.written();
        let (lost, failing) = (self.records.lost(), self.sink.failing());
        *self.written.lock() = Written { records, bytes, unwritten, lost, failing };
    }
}
