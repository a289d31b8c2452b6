//! A folder in which BPF programs outlive their process.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A BPF file system of a test's own.
pub(crate) struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// Mounts it; says `skipped` where that is not possible.
    pub(crate) fn mount() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("portcullis-pins-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&folder).status();
        let pins = Self { folder };
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("skipped: needs to mount a BPF file system");
            return None;
        }
        Some(pins)
    }

    /// Its path.
    pub(crate) fn folder(&self) -> &str {
        self.folder.to_str().unwrap()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for pin in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(pin.path());
        }
        let _ = Command::new("umount").arg(&self.folder).status();
        let _ = std::fs::remove_dir(&self.folder);
    }
}
