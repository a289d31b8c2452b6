//! Connections kept over a restart, in a file: read before packets flow, written every few seconds and
//! when no more packets come.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use portcullis::Engine;
use portcullis::dataplane::connection::Windows;
use portcullis::dataplane::port::xdp::FailureMode;
use serde::Deserialize;

use crate::control::status::{Kept, Refusal};
use crate::output::Refused;

/// What the settings say of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct State {
    pub(super) file: Option<PathBuf>,
    /// Seconds between two savings; 0: only at the end.
    every_seconds: u32,
}

impl Default for State {
    fn default() -> Self {
        Self { file: None, every_seconds: 10 }
    }
}

impl State {
    /// Flag over file.
    pub(super) fn merge(self, file: Option<PathBuf>) -> Self {
        Self { file: file.or(self.file), ..self }
    }

    /// Makes the path mean the same wherever the command is started.
    pub(super) fn below(&mut self, folder: &Path) {
        if let Some(file) = &mut self.file {
            *file = folder.join(&file);
        }
    }

    /// Refuses a file that could never be written.
    ///
    /// # Errors
    /// Its folder is not there, or it names a folder.
    pub(super) fn check(&self) -> Result<(), Refused> {
        let Some(file) = &self.file else { return Ok(()) };
        let named = file.file_name().is_some() && !file.is_dir();
        if named && folder(file).is_dir() {
            return Ok(());
        }
        Err(format!(
            "error: state file {}: it is a folder, or its folder is not there; name a file in a folder \
             that only root can write",
            file.display()
        )
        .into())
    }

    /// Takes the connections of the file into the engine, which nothing flows through yet, and says
    /// what came of it. Whatever is wrong with the file: then there are none, and connections from
    /// before are refused as any unknown ones. Answers how many there are.
    pub(super) fn restore(&self, engine: &Engine, failure: FailureMode) -> u32 {
        let Some(file) = &self.file else { return 0 };
        let shown = file.display();
        // Failure mode open lets packets pass that nobody sees while this is away.
        let windows = match failure {
            FailureMode::Open => Windows::Moved,
            FailureMode::Closed => Windows::Hold,
        };
        let opened = match open(file) {
            Ok(Some(opened)) => opened,
            Ok(None) => {
                println!("state: {shown} is not there yet: no connections restored");
                return 0;
            }
            Err(why) => return refuse(file, &why),
        };
        match engine.restore_connections(windows, &mut BufReader::new(opened)) {
            Ok(done) => {
                println!(
                    "state: {} connections restored from {shown}, saved {:.1} s ago; {} left out",
                    done.restored,
                    done.age.as_secs_f64(),
                    done.left_out
                );
                done.restored
            }
            Err(error) => refuse(file, &error.to_string()),
        }
    }

    /// Begins to save, after so many connections were restored.
    ///
    /// # Errors
    /// No thread is to be had.
    pub(super) fn keep(&self, engine: &Engine, restored: u32) -> Result<Option<Saver>, Refused> {
        let Some(file) = self.file.clone() else { return Ok(None) };
        let every =
            (self.every_seconds > 0).then(|| Duration::from_secs(self.every_seconds.into()));
        Ok(Some(Saver::start(engine.clone(), file, restored, every)?))
    }
}

fn refuse(file: &Path, why: &str) -> u32 {
    eprintln!("error: state file {}: {why}", file.display());
    eprintln!("note: no connections restored; those from before are refused until they open anew");
    0
}

/// The file and what became of it, for who saves and who reports.
#[derive(Clone)]
pub(super) struct Keeping {
    engine: Engine,
    path: Arc<Path>,
    kept: Arc<Mutex<Kept>>,
}

impl Keeping {
    /// How it stands.
    pub(super) fn now(&self) -> Kept {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves once, and says what is wrong unless it was wrong the last time already.
    fn save(&self) -> io::Result<u32> {
        let began = Instant::now();
        let saved = save(&self.engine, &self.path);
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = at.as_secs_f64();
        let mut kept = self.lock();
        match &saved {
            Ok(count) => {
                (kept.saved, kept.saved_at, kept.failed) = (*count, at, None);
                kept.save_seconds = began.elapsed().as_secs_f64();
                kept.saves += 1;
            }
            Err(error) => {
                let error = error.to_string();
                if kept.failed.as_ref().is_none_or(|failed| failed.error != error) {
                    eprintln!(
                        "error: state file {}: cannot be saved: {error}",
                        self.path.display()
                    );
                }
                kept.failed = Some(Refusal { at, error });
                kept.failures += 1;
            }
        }
        saved
    }
}

/// Saves connections, on a thread of its own.
pub(super) struct Saver {
    keeping: Keeping,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Saver {
    fn start(
        engine: Engine,
        file: PathBuf,
        restored: u32,
        every: Option<Duration>,
    ) -> io::Result<Self> {
        let shown = file.display().to_string();
        let kept = Arc::new(Mutex::new(Kept { file: shown, restored, ..Kept::default() }));
        let keeping = Keeping { engine, path: file.into(), kept };
        let (stop, stopped) = channel();
        let of_thread = keeping.clone();
        let thread = every.map(|every| {
            let work = move || {
                while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                    // It has said and noted what is wrong.
                    let _ = of_thread.save();
                }
            };
            std::thread::Builder::new().name("state".into()).spawn(work)
        });
        Ok(Self { keeping, stop: Some(stop), thread: thread.transpose()? })
    }

    /// How it stands, for others.
    pub(super) fn watch(&self) -> Keeping {
        self.keeping.clone()
    }

    /// Saves a last time: after the workers have stopped, so that nothing is missing.
    pub(super) fn finish(mut self) {
        self.end();
        if let Ok(count) = self.keeping.save() {
            println!("state: {count} connections saved to {}", self.keeping.path.display());
        }
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that died has nothing more to save.
            let _ = thread.join();
        }
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.end();
    }
}

/// Opens the file if nobody but its owner can have written it: who can adds connections. `None`: there
/// is none.
fn open(path: &Path) -> Result<Option<File>, String> {
    // A pipe must not make it wait, nor a link lead elsewhere.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let found = file.metadata().map_err(|e| e.to_string())?;
    if !found.is_file() {
        return Err("not a file".to_owned());
    }
    let ours = [0, nix::unistd::geteuid().as_raw()].contains(&found.uid());
    if !ours || found.mode() & 0o022 != 0 {
        return Err("others can write it, and so add connections: chmod 600".to_owned());
    }
    Ok(Some(file))
}

/// Replaces the file: its readers find the old one or the new one, also after a loss of power.
fn save(engine: &Engine, path: &Path) -> io::Result<u32> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let saved = engine.save_connections(&mut file).and_then(|count| {
        file.flush()?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder(path))?.sync_all()?;
        Ok(count)
    });
    saved.inspect_err(|_| drop(fs::remove_file(&new)))
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A folder of a test's own.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("portcullis-state-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let mut names: Vec<String> =
                entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_reader_finds_a_whole_file_whenever_it_looks() {
        let folder = Folder::new("whole");
        let path = folder.0.join("connections");
        let engine = Engine::new(Default::default()).unwrap();
        save(&engine, &path).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..200 {
                    save(&engine, &path).unwrap();
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                let file = open(&path).unwrap().expect("it is there");
                engine.restore_connections(Windows::Hold, &mut BufReader::new(file)).unwrap();
            }
        });
        assert_eq!(folder.names(), ["connections"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn links_are_replaced_and_not_followed_and_leftovers_are_in_nobodys_way() {
        let folder = Folder::new("links");
        let (path, other) = (folder.0.join("connections"), folder.0.join("other"));
        fs::write(&other, "precious").unwrap();
        symlink(&other, &path).unwrap();
        symlink(&other, folder.0.join(".connections.new")).unwrap();
        let engine = Engine::new(Default::default()).unwrap();
        assert!(open(&path).is_err());
        save(&engine, &path).unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"precious");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(folder.names(), ["connections", "other"]);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_file() {
        let folder = Folder::new("full");
        let engine = Engine::new(Default::default()).unwrap();
        // A folder in the place of the new file: it can be neither removed nor written.
        let path = folder.0.join("connections");
        save(&engine, &path).unwrap();
        fs::create_dir_all(folder.0.join(".connections.new/x")).unwrap();
        assert!(save(&engine, &path).is_err());
        assert!(open(&path).unwrap().is_some());
    }
}
