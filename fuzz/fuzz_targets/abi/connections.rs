//! Connections saved by one engine, and restored by another: whole, or damaged.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use portcullis_abi::connections::*;

use crate::Session;

/// One for the process, without a name.
fn file() -> &'static File {
    static FILE: OnceLock<File> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("portcullis-abi-{}", std::process::id()));
        let options = File::options().read(true).write(true).create(true).truncate(true).clone();
        let file = options.open(&path).expect("a file");
        std::fs::remove_file(&path).expect("its name");
        file
    })
}

impl Session<'_> {
    pub(crate) fn restart(&mut self) {
        let (before, after) = (self.engine(), self.engine());
        let mut file = file();
        file.set_len(0).expect("empty");
        file.rewind().expect("its beginning");
        let mut saved = 0;
        // SAFETY: the descriptor is open, and there is room.
        let status =
            unsafe { portcullis_engine_save_connections(before.0, file.as_raw_fd(), &mut saved) };
        let whole = self.engines.check(before, status) == 0;
        let damage = self.input.bytes(60);
        if !damage.is_empty() {
            let at = self.input.number() % 1000;
            file.write_all_at(damage, at).expect("written");
            file.flush().expect("there");
        }
        file.rewind().expect("its beginning");
        let windows = self.input.byte() % 3;
        let mut out = portcullis_restored {
            struct_size: size_of::<portcullis_restored>(),
            restored: 0,
            left_out: 0,
            age_ms: 0,
        };
        // SAFETY: the descriptor is open, and there is room.
        let status = unsafe {
            portcullis_engine_restore_connections(after.0, file.as_raw_fd(), windows, &mut out)
        };
        if self.engines.check(after, status) == 0 && whole && damage.is_empty() {
            assert_eq!(out.restored + out.left_out, saved);
        }
    }
}
