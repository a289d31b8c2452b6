//! Which network namespace a thread is in.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

/// A network namespace. It stays alive as long as this does, so nobody else gets its number.
#[derive(Debug)]
pub(crate) struct Namespace {
    _file: File,
    device: u64,
    inode: u64,
}

impl Namespace {
    /// That of the calling thread.
    pub(crate) fn current() -> io::Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")?;
        let metadata = file.metadata()?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), _file: file })
    }
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}
