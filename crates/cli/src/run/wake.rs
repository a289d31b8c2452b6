//! What wakes a running firewall's control loop: signals and changed files.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::output::Refused;

/// Editors and volume mounts change a file in several steps: wait until they are through.
const SETTLE: Duration = Duration::from_millis(50);

/// Why the control loop woke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP, or a watched file changed.
    Reload,
    /// Nothing happened for the time given.
    Tick,
}

/// Signals and file changes as one stream.
pub(super) struct Wakes {
    wakes: Receiver<Wake>,
    /// Watching ends when this is dropped.
    _watcher: RecommendedWatcher,
}

impl Wakes {
    /// Starts listening for SIGTERM, SIGINT and SIGHUP and for changes of these files or folders.
    ///
    /// The folder of a file is watched rather than the file, so that a file replaced by renaming (as
    /// editors and Kubernetes' ConfigMap volumes do) is seen.
    ///
    /// # Errors
    /// A path that cannot be watched, or a signal handler that cannot be installed.
    pub(super) fn listen(paths: &[PathBuf]) -> Result<Self, Refused> {
        let (sender, wakes) = channel();
        signals(sender.clone())?;
        let watcher = watch(paths, sender)?;
        Ok(Self { wakes, _watcher: watcher })
    }

    /// Waits for something to happen, `patience` at most. Changes in quick succession are one.
    pub(super) fn next(&self, patience: Duration) -> Wake {
        match self.wakes.recv_timeout(patience) {
            Ok(Wake::Reload) => self.settle(),
            Ok(wake) => wake,
            Err(RecvTimeoutError::Timeout) => Wake::Tick,
            // Both senders gone: no signal could reach us any more.
            Err(RecvTimeoutError::Disconnected) => Wake::Stop,
        }
    }

    fn settle(&self) -> Wake {
        let latest = Instant::now() + Duration::from_secs(2);
        while Instant::now() < latest {
            match self.wakes.recv_timeout(SETTLE) {
                Ok(Wake::Stop) => return Wake::Stop,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Wake::Reload
    }
}

fn signals(sender: Sender<Wake>) -> Result<(), Refused> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|e| format!("error: cannot listen for signals: {e}"))?;
    thread::spawn(move || {
        for signal in signals.forever() {
            let wake = if signal == SIGHUP { Wake::Reload } else { Wake::Stop };
            if sender.send(wake).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn watch(paths: &[PathBuf], sender: Sender<Wake>) -> Result<RecommendedWatcher, Refused> {
    let names: BTreeSet<OsString> = paths
        .iter()
        .filter(|p| !p.is_dir())
        .filter_map(|p| p.file_name().map(OsString::from))
        .collect();
    let folders: BTreeSet<PathBuf> = paths.iter().map(|p| folder(p)).collect();
    let whole: Vec<PathBuf> = paths.iter().filter(|p| p.is_dir()).cloned().collect();
    let matters = move |path: &PathBuf| {
        whole.iter().any(|folder| path.starts_with(folder))
            // `..data` is the link that a ConfigMap volume swaps.
            || path.file_name().is_some_and(|n| names.contains(n) || n == "..data")
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let wake = match event {
            Ok(event) => {
                !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(&matters)
            }
            // Events were lost: the files may have changed.
            Err(_) => true,
        };
        if wake {
            // The loop is gone only when the process ends.
            let _ = sender.send(Wake::Reload);
        }
    })
    .map_err(|e| format!("error: cannot watch files: {e}"))?;
    for folder in folders {
        watcher
            .watch(&folder, RecursiveMode::NonRecursive)
            .map_err(|e| format!("error: cannot watch {}: {e}", folder.display()))?;
    }
    Ok(watcher)
}

/// The folder whose entries tell of changes to `path`.
fn folder(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.to_owned();
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_replaced_by_renaming_wakes_the_loop() {
        let folder = std::env::temp_dir().join(format!("portcullis-wake-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("policies.yaml");
        std::fs::write(&file, "a").unwrap();
        let wakes = Wakes::listen(std::slice::from_ref(&file)).unwrap();
        std::fs::write(folder.join("other"), "x").unwrap();
        assert_eq!(wakes.next(Duration::from_millis(200)), Wake::Tick);
        std::fs::write(folder.join("new"), "b").unwrap();
        std::fs::rename(folder.join("new"), &file).unwrap();
        assert_eq!(wakes.next(Duration::from_secs(5)), Wake::Reload);
        assert_eq!(wakes.next(Duration::from_millis(200)), Wake::Tick);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
