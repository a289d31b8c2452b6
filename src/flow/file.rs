//! Files of records: rotated by size, and patient with disks that are full.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// When what is written is forced to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// Never: the kernel writes it within some 30 seconds, and a crash of the machine (not of the
    /// process) loses what it had not.
    Never,
    /// When a file is full or closed.
    #[default]
    Rotate,
    /// That, and so often: at most so much is lost when the machine crashes.
    Every(Duration),
}

/// How a file is written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileConfig {
    /// Bytes after which the next file begins; `None`: never. A line is never cut in two.
    pub max_bytes: Option<u64>,
    /// Full files that are kept beside the one written to: `NAME.1` is the newest.
    pub keep: u32,
    /// When it is forced to the disk.
    pub fsync: Fsync,
    /// How long after a failure it is tried again.
    pub retry: Duration,
}

impl Default for FileConfig {
    fn default() -> Self {
        Self {
            max_bytes: Some(64 << 20),
            keep: 4,
            fsync: Fsync::default(),
            retry: Duration::from_secs(1),
        }
    }
}

/// What takes lines. Called by one thread of its own; it may block.
pub trait Sink: Send {
    /// Takes a whole line, its end included.
    fn line(&mut self, line: &[u8]);

    /// Hands on what was taken so far.
    fn flush(&mut self);

    /// Lines that were handed on, lines that could not be, and bytes of the former.
    fn written(&self) -> (u64, u64, u64);

    /// Why nothing is handed on now.
    fn failing(&self) -> Option<String>;
}

/// Bytes that are written together.
const TOGETHER: usize = 1 << 16;

/// A file of lines.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    config: FileConfig,
    file: Option<File>,
    /// Bytes of the file that are whole lines.
    whole: u64,
    lines: Lines,
    written: u64,
    unwritten: u64,
    bytes: u64,
    rotations: u64,
    failure: Option<(String, Instant)>,
    synced: Instant,
    dirty: bool,
}

/// Lines that wait to be written.
#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    count: u64,
}

impl FileSink {
    /// Opens a file for appending. What is there stays, and counts towards its size; half a line at
    /// its end, which a crash left, is cut off.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, config: FileConfig) -> io::Result<Self> {
        let mut sink = Self {
            path: path.to_owned(),
            config,
            file: None,
            whole: 0,
            lines: Lines::default(),
            written: 0,
            unwritten: 0,
            bytes: 0,
            rotations: 0,
            failure: None,
            synced: Instant::now(),
            dirty: false,
        };
        sink.reopen()?;
        Ok(sink)
    }

    /// Files that were full.
    pub fn rotations(&self) -> u64 {
        self.rotations
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(&self.path)?;
        self.whole = whole_lines(&file)?;
        if file.metadata()?.len() > self.whole {
            file.set_len(self.whole)?;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Writes what waits; on failure what is not written stays uncounted in `lines`.
    fn write_out(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        while self.lines.count > 0 {
            // A file never outgrows its bound, but for a line that is longer.
            let next = self.whole + first_line(&self.lines.text) as u64;
            if self.whole > 0 && self.config.max_bytes.is_some_and(|max| next > max) {
                self.rotate()?;
            }
            let len = self.fitting();
            let Some(file) = &mut self.file else { return Ok(()) };
            let wrote = write_some(file, &self.lines.text[..len]);
            let (done, result) = match wrote {
                Ok(()) => (len, Ok(())),
                Err((done, error)) => (line_end(&self.lines.text[..done]), Err(error)),
            };
            let count = count_lines(&self.lines.text[..done]);
            self.lines.text.drain(..done);
            self.lines.count -= count;
            self.written += count;
            self.bytes += done as u64;
            self.whole += done as u64;
            self.dirty |= done > 0;
            if result.is_err() {
                // Half a line would spoil the next one.
                file.set_len(self.whole)?;
            }
            result?;
        }
        Ok(())
    }

    /// Bytes of waiting lines that still belong into this file: one line at least.
    fn fitting(&self) -> usize {
        let all = self.lines.text.len();
        let Some(max) = self.config.max_bytes else { return all };
        let room = usize::try_from(max.saturating_sub(self.whole)).unwrap_or(usize::MAX);
        if all <= room {
            return all;
        }
        match line_end(&self.lines.text[..room]) {
            0 => first_line(&self.lines.text),
            end => end,
        }
    }

    /// Renames the full file and begins another.
    fn rotate(&mut self) -> io::Result<()> {
        if self.config.fsync != Fsync::Never
            && let Some(file) = &self.file
        {
            file.sync_data()?;
        }
        let name = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.config.keep == 0 {
            std::fs::remove_file(&self.path)?;
        } else {
            for number in (1..self.config.keep).rev() {
                match std::fs::rename(name(number), name(number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            std::fs::rename(&self.path, name(1))?;
        }
        self.file = None;
        self.rotations += 1;
        self.dirty = false;
        self.reopen()
    }

    /// Forces to the disk what is due.
    fn sync(&mut self) -> io::Result<()> {
        let Fsync::Every(every) = self.config.fsync else { return Ok(()) };
        if self.dirty && self.synced.elapsed() >= every {
            self.synced = Instant::now();
            if let Some(file) = &self.file {
                file.sync_data()?;
            }
            self.dirty = false;
        }
        Ok(())
    }
}

impl Sink for FileSink {
    fn line(&mut self, line: &[u8]) {
        self.lines.text.extend_from_slice(line);
        self.lines.count += 1;
        if self.lines.text.len() >= TOGETHER {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let waits = self.failure.as_ref().is_some_and(|(_, at)| at.elapsed() < self.config.retry);
        if !waits {
            let result = self.write_out().and_then(|()| self.sync());
            if result.is_err() {
                // Whatever is wrong with it, it may be gone.
                self.file = None;
            }
            self.failure = result.err().map(|error| (error.to_string(), Instant::now()));
        }
        // Nothing piles up behind a disk that is full.
        self.unwritten += self.lines.count;
        self.lines = Lines::default();
    }

    fn written(&self) -> (u64, u64, u64) {
        (self.written, self.unwritten, self.bytes)
    }

    fn failing(&self) -> Option<String> {
        let why = self.failure.as_ref().map(|(why, _)| why);
        why.map(|why| format!("{}: {why}", self.path.display()))
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        self.flush();
        if self.config.fsync != Fsync::Never
            && let Some(file) = &self.file
        {
            // Nobody is left to hear of it.
            let _ = file.sync_data();
        }
    }
}

/// Writes all, or says how many bytes were taken before it failed.
fn write_some(file: &mut impl Write, text: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut done = 0;
    while done < text.len() {
        match file.write(&text[done..]) {
            Ok(0) => return Err((done, io::ErrorKind::WriteZero.into())),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((done, error)),
        }
    }
    Ok(())
}

/// Bytes up to and with the last end of a line.
fn line_end(text: &[u8]) -> usize {
    text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

/// Bytes of the first line.
fn first_line(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1)
}

fn count_lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Bytes of a file up to the end of its last line, as far as its last 64 KiB tell.
fn whole_lines(file: &File) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let len = file.metadata()?.len();
    let mut tail = vec![0; len.min(TOGETHER as u64) as usize];
    let start = len - tail.len() as u64;
    file.read_exact_at(&mut tail, start)?;
    Ok(match line_end(&tail) {
        // One line longer than any record: it is not ours to cut.
        0 if start > 0 => len,
        end => start + end as u64,
    })
}

/// Lines to a stream, such as standard output.
#[derive(Debug)]
pub struct StreamSink<W> {
    stream: W,
    lines: Lines,
    written: u64,
    unwritten: u64,
    bytes: u64,
    failure: Option<String>,
}

impl<W: Write + Send> StreamSink<W> {
    /// Writes lines to `stream`. After a failure (a pipe whose reader is gone) nothing is written any
    /// more: what is not a file cannot be taken up again in the middle of a line.
    pub fn new(stream: W) -> Self {
        let (lines, written, unwritten, bytes) = (Lines::default(), 0, 0, 0);
        Self { stream, lines, written, unwritten, bytes, failure: None }
    }
}

impl<W: Write + Send> Sink for StreamSink<W> {
    fn line(&mut self, line: &[u8]) {
        self.lines.text.extend_from_slice(line);
        self.lines.count += 1;
        if self.lines.text.len() >= TOGETHER {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let Lines { text, count } = std::mem::take(&mut self.lines);
        if self.failure.is_none() {
            let result = write_some(&mut self.stream, &text);
            let done = match &result {
                Ok(()) => text.len(),
                Err((done, _)) => line_end(&text[..*done]),
            };
            let written = count_lines(&text[..done]);
            self.written += written;
            self.unwritten += count - written;
            self.bytes += done as u64;
            let result = result.map_err(|(_, error)| error).and_then(|()| self.stream.flush());
            self.failure = result.err().map(|error| error.to_string());
        } else {
            self.unwritten += count;
        }
    }

    fn written(&self) -> (u64, u64, u64) {
        (self.written, self.unwritten, self.bytes)
    }

    fn failing(&self) -> Option<String> {
        self.failure.clone()
    }
}
