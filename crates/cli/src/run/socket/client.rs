//! One connection: what came, what is to go, and how long we wait for it.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use super::super::observed::Observed;
use super::capture::Capturing;
use super::flows::Following;
use super::http;
use crate::control::flows::Begun;
use crate::control::{Answer, LONGEST_REQUEST, Request};

/// Requests of one connection are served at least this far apart.
pub(super) const PACE: Duration = Duration::from_millis(5);

/// Longest time without progress while bytes of a request or an answer are missing.
const SLOW: Duration = Duration::from_secs(10);
/// Longest time without a request.
const IDLE: Duration = Duration::from_secs(60);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Control,
    Http,
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// It was closed in order, or broke.
    Done,
    TooLong,
    TooSlow,
    Idle,
}

/// Either sort of connection.
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A connection.
pub(super) struct Client {
    pub(super) kind: Kind,
    pub(super) stream: Stream,
    /// The kernel may have something to read or room to write.
    pub(super) ready: bool,
    pub(super) capture: Option<Capturing>,
    pub(super) following: Option<Following>,
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of `output` is sent.
    sent: usize,
    /// Nothing more comes.
    ended: bool,
    /// Close once everything is sent.
    closing: bool,
    /// When something last went right.
    progress: Instant,
    served: Option<Instant>,
}

impl Client {
    pub(super) fn new(kind: Kind, stream: Stream, now: Instant) -> Self {
        Self {
            kind,
            stream,
            ready: true,
            capture: None,
            following: None,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            ended: false,
            closing: false,
            progress: now,
            served: None,
        }
    }

    /// Whether more comes for it without its asking.
    pub(super) fn is_served(&self) -> bool {
        self.capture.is_some() || self.following.is_some()
    }

    /// Bytes that wait to be sent.
    pub(super) fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Appends to what is sent.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
        self.ready = true;
    }

    /// Appends a line of JSON.
    pub(super) fn send_json(&mut self, value: &impl serde::Serialize) {
        // Writing to a vector cannot fail, and our own types are all JSON.
        let _ = serde_json::to_writer(&mut self.output, value);
        self.send(b"\n");
    }

    /// Sends nothing after what waits, and closes then.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// Reads, serves a request, writes: as far as it goes without waiting.
    pub(super) fn advance(&mut self, now: Instant, observed: &Observed) -> Result<(), Gone> {
        if self.ready {
            self.ready = false;
            self.flush(now)?;
            self.read(now)?;
            self.request(now, observed)?;
            self.flush(now)?;
        }
        if self.unsent() == 0 && (self.closing || (self.ended && !self.ready && !self.is_served()))
        {
            return Err(Gone::Done);
        }
        self.overdue(now)
    }

    /// Whether it was waited for long enough.
    fn overdue(&self, now: Instant) -> Result<(), Gone> {
        let since = now.saturating_duration_since(self.progress);
        let within = !self.input.is_empty() || self.kind == Kind::Http;
        if since > SLOW && (self.unsent() > 0 || within) {
            return Err(Gone::TooSlow);
        }
        if since > IDLE && !self.is_served() { Err(Gone::Idle) } else { Ok(()) }
    }

    fn flush(&mut self, now: Instant) -> Result<(), Gone> {
        while self.unsent() > 0 {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => return Err(Gone::Done),
                Ok(count) => {
                    self.sent += count;
                    self.progress = now;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone::Done),
            }
        }
        self.output.clear();
        self.sent = 0;
        // An answer may have been long; a connection shall not hold on to that.
        self.output.shrink_to(64 * 1024);
        Ok(())
    }

    fn read(&mut self, now: Instant) -> Result<(), Gone> {
        while self.input.len() < LONGEST_REQUEST && !self.ended {
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    // Bytes of an unfinished request are no progress: only its end is.
                    if self.input.is_empty() {
                        self.progress = now;
                    }
                    self.input.extend_from_slice(&buffer[..count]);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone::Done),
            }
        }
        // There may be more in the kernel.
        self.ready = !self.ended;
        Ok(())
    }

    /// Serves one request, if a whole one is there and its time has come.
    fn request(&mut self, now: Instant, observed: &Observed) -> Result<(), Gone> {
        if self.unsent() > 0 || self.closing || self.input.is_empty() {
            return Ok(());
        }
        if self.served.is_some_and(|at| now.saturating_duration_since(at) < PACE) {
            self.ready = true;
            return Ok(());
        }
        let taken = match self.kind {
            Kind::Control => self.control(observed)?,
            Kind::Http => match http::answer(&self.input, observed) {
                Some(answer) => {
                    self.send(&answer);
                    self.close();
                    self.input.len()
                }
                None if self.input.len() >= LONGEST_REQUEST => return Err(Gone::TooLong),
                None => 0,
            },
        };
        if taken > 0 {
            self.input.drain(..taken);
            self.ready = true;
            (self.progress, self.served) = (now, Some(now));
        }
        Ok(())
    }

    /// Serves the line that `input` begins with; answers how long it was, 0 if it is not all there.
    fn control(&mut self, observed: &Observed) -> Result<usize, Gone> {
        let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
            return if self.input.len() >= LONGEST_REQUEST { Err(Gone::TooLong) } else { Ok(0) };
        };
        let request = Request::parse(&self.input[..end]);
        let answered = match request {
            Ok(Request::Status {}) => {
                self.send_json(&Answer::ok(observed.status()));
                Ok(())
            }
            Ok(Request::Top {}) => {
                self.send_json(&Answer::ok(observed.top()));
                Ok(())
            }
            Ok(Request::Explain { flow }) => observed.explain(&flow).map(|text| {
                self.send_json(&Answer::ok(text));
            }),
            Ok(Request::Flows {}) if !self.is_served() => {
                Following::begin(observed).map(|following| {
                    self.send_json(&Answer::ok(Begun {}));
                    self.following = Some(following);
                })
            }
            Ok(Request::Flows {}) => Err("this connection is in use: take another".to_owned()),
            Ok(Request::Capture(wanted)) if !self.is_served() => {
                Capturing::begin(observed, &wanted).map(|(capturing, begun)| {
                    self.send_json(&Answer::ok(begun));
                    self.capture = Some(capturing);
                })
            }
            Ok(Request::Capture(_)) => Err("a capture runs on this connection already".to_owned()),
            Ok(Request::End {}) => {
                match (&mut self.capture, &mut self.following) {
                    (Some(capture), _) => capture.end(),
                    (None, Some(following)) => following.end(),
                    (None, None) => self.close(),
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = answered {
            observed.clients(self.kind, |clients| clients.refused += 1);
            self.send_json(&Answer::error(error));
        }
        Ok(end + 1)
    }

    /// Whether the other side has closed its end.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Source for Stream {
    fn register(&mut self, r: &Registry, token: Token, interest: Interest) -> std::io::Result<()> {
        match self {
            Self::Unix(stream) => stream.register(r, token, interest),
            Self::Tcp(stream) => stream.register(r, token, interest),
        }
    }

    fn reregister(
        &mut self,
        r: &Registry,
        token: Token,
        interest: Interest,
    ) -> std::io::Result<()> {
        match self {
            Self::Unix(stream) => stream.reregister(r, token, interest),
            Self::Tcp(stream) => stream.reregister(r, token, interest),
        }
    }

    fn deregister(&mut self, r: &Registry) -> std::io::Result<()> {
        match self {
            Self::Unix(stream) => stream.deregister(r),
            Self::Tcp(stream) => stream.deregister(r),
        }
    }
}
