//! What holds a program on an interface: a link, which ends with the process unless it is pinned.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::sys;
use crate::{Error, Interface};

/// A program's hold on an interface. Dropping it detaches the program, unless it is pinned.
#[derive(Debug)]
pub(crate) struct Link {
    _fd: OwnedFd,
    pin: Option<PathBuf>,
    /// A predecessor had made it.
    inherited: bool,
}

impl Link {
    /// Takes over the link that a predecessor pinned, or makes one with `attach` and pins it.
    pub(crate) fn obtain(
        program: BorrowedFd<'_>,
        interface: &Interface,
        kind: &str,
        pins: Option<&Path>,
        attach: impl FnOnce() -> Result<OwnedFd, Error>,
    ) -> Result<Self, Error> {
        let Some(folder) = pins else {
            return Ok(Self { _fd: attach()?, pin: None, inherited: false });
        };
        // Interface names may repeat over network namespaces and time, indices alone say little to
        // a reader: both.
        let pin = folder.join(format!("{}-{}-{kind}", interface.name(), interface.index()));
        let failed = |source| Error::Pin { path: pin.clone(), source };
        match sys::pinned_link(&pin) {
            Ok(fd) => match sys::replace_program(fd.as_fd(), program) {
                Ok(()) => return Ok(Self { _fd: fd, pin: Some(pin), inherited: true }),
                // Its interface is gone, and another got its name and index: of no use to anyone.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                    fs::remove_file(&pin).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let fd = attach()?;
        sys::pin(fd.as_fd(), &pin).map_err(failed)?;
        Ok(Self { _fd: fd, pin: Some(pin), inherited: false })
    }

    /// As [`Link::remove`], unless a predecessor had made it.
    pub(crate) fn undo(self) {
        if !self.inherited {
            self.remove();
        }
    }

    /// Detaches the program, pinned or not.
    pub(crate) fn remove(self) {
        if let Some(pin) = &self.pin {
            // Somebody else may have removed it: that is what is wanted.
            let _ = fs::remove_file(pin);
        }
    }
}
