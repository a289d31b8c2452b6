//! The asking side of the control socket.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Answer, Request};
use crate::output::Refused;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest line of an answer, in bytes.
const LONGEST_ANSWER: u64 = 64 << 20;

/// A connection to a running firewall.
pub(crate) struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Nobody listens, or we may not.
    pub(crate) fn connect(path: &Path) -> Result<Self, Refused> {
        let stream = UnixStream::connect(path).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::NotFound => {
                    "no firewall runs with this socket; start one with `portcullis run`"
                }
                ErrorKind::ConnectionRefused => "the firewall that made this socket is gone",
                ErrorKind::PermissionDenied => {
                    "the socket belongs to another user; run as root (sudo)"
                }
                _ => "is it the control socket of a firewall?",
            };
            format!("error: {}: {error}: {hint}", path.display())
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The firewall refused, is gone, or says what is not understood.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Refused> {
        self.send(request)?;
        let line = self.line()?.ok_or_else(|| format!("error: {}: closed", self.path.display()))?;
        let answer: Answer<T> = serde_json::from_str(&line)
            .map_err(|e| format!("error: {}: unexpected answer: {e}", self.path.display()))?;
        answer.into_result()
    }

    /// Sends a request.
    pub(crate) fn send(&mut self, request: &Request) -> Result<(), Refused> {
        let line = request.line()? + "\n";
        self.stream.get_mut().write_all(line.as_bytes()).map_err(|e| self.failed(&e))
    }

    /// The next line; `None` at the end.
    pub(crate) fn line(&mut self) -> Result<Option<String>, Refused> {
        let mut line = String::new();
        loop {
            let mut bounded = (&mut self.stream).take(LONGEST_ANSWER);
            match bounded.read_line(&mut line) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(line)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(&e)),
            }
        }
    }

    /// The next `buffer.len()` bytes.
    pub(crate) fn bytes(&mut self, buffer: &mut [u8]) -> Result<(), Refused> {
        self.stream.read_exact(buffer).map_err(|e| self.failed(&e))
    }

    /// Whether something came within `patience`; the end counts.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<bool, Refused> {
        if !self.stream.buffer().is_empty() {
            return Ok(true);
        }
        self.stream.get_ref().set_read_timeout(Some(patience))?;
        let waited = self.stream.fill_buf().map(|_| true);
        self.stream.get_ref().set_read_timeout(Some(PATIENCE))?;
        match waited {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Ok(false)
            }
            Err(e) => Err(self.failed(&e)),
            Ok(came) => Ok(came),
        }
    }

    fn failed(&self, error: &std::io::Error) -> Refused {
        let path = self.path.display();
        match error.kind() {
            ErrorKind::WouldBlock => {
                format!("error: {path}: no answer within {} s", PATIENCE.as_secs()).into()
            }
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => {
                format!("error: {path}: the firewall closed the connection: it ended, or has too many clients").into()
            }
            _ => format!("error: {path}: {error}").into(),
        }
    }
}
