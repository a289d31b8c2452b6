//! Connections across a restart.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_int;
use std::fs::File;
use std::io::BufReader;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;

use portcullis_core::dataplane::connection::{RestoreError, Windows};

use crate::engine::{Managed, portcullis_engine};
use crate::handle;
use crate::raw::{self, Growable};
use crate::status::{Failure, PORTCULLIS_BAD_FILE, PORTCULLIS_BAD_VALUE, PORTCULLIS_SYSTEM};

/// Windows of saved TCP connections hold: packets outside of them are dropped. Right where nothing passed
/// between saving and restoring, as with `PORTCULLIS_FAIL_CLOSED` (the default).
pub const PORTCULLIS_WINDOWS_HOLD: u8 = 0;
/// Packets passed unseen, as with `PORTCULLIS_FAIL_OPEN`: windows of connections that were open are not
/// checked any more.
pub const PORTCULLIS_WINDOWS_MOVED: u8 = 1;

/// What was read from a file of connections. Set `struct_size` first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_restored {
    /// `sizeof(portcullis_restored)`.
    pub struct_size: usize,
    /// Connections that are in the table now.
    pub restored: u32,
    /// Connections left out: the table is full or knows them already, or they were silent for days.
    pub left_out: u32,
    /// Milliseconds since they were saved, by the wall clock.
    pub age_ms: u64,
}

// SAFETY: `repr(C)`, the size first, integers only.
unsafe impl Growable for portcullis_restored {
    const FIRST: usize = size_of::<Self>();
}

/// Writes all connections, for `portcullis_engine_restore_connections` of the next process. 96 bytes each,
/// in blocks of 64 KiB; O(connections). Packets go on meanwhile, and what they change is written as it
/// was before or after: for a file that is exact call `portcullis_firewall_halt` first.
///
/// Who can write the file can add connections that the policy would have allowed: keep it as private as
/// the policies, and replace it as a whole (a new file, synced, then renamed).
///
/// `fd`: a descriptor to write to, blocking; it is the caller's, and not closed. Writing to a pipe that
/// nobody reads is a `SIGPIPE`, as ever. `saved`: how many; may be NULL. `PORTCULLIS_SYSTEM` if writing
/// failed: what was written so far is refused when it is read.
///
/// # Safety
/// `fd` is open until the call returns, `saved` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_save_connections(
    engine: *const portcullis_engine,
    fd: c_int,
    saved: *mut u32,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        // SAFETY: by this function's contract.
        let mut file = unsafe { file(fd) }?;
        let count = held.object.save_connections(&mut *file).map_err(|error| {
            Failure::new(
                PORTCULLIS_SYSTEM,
                format_args!("error: connections cannot be saved: {error}"),
            )
        })?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(saved, count) };
        Ok(())
    })
}

/// Takes saved connections into the table, beside those that are there; the age of the file counts as
/// silence of each. Best after the first apply and before a firewall is started: packets that come before
/// are those of unknown connections.
///
/// What was allowed before is not allowed for that: each connection is judged by the policy in force at
/// its next packet, in the direction in which it was opened (with `PORTCULLIS_KEEP` too;
/// `PORTCULLIS_CUT`: it is forgotten).
///
/// `fd`: a descriptor to read from, blocking; it is the caller's, and not closed. May read further than
/// the end of the connections. `windows`: `PORTCULLIS_WINDOWS_...`. `out`: may be NULL.
/// `PORTCULLIS_BAD_FILE` if the file is none, of another version, damaged, from the future or too large:
/// nothing is taken from it then, the error text says why, and to start without it is right.
///
/// # Safety
/// `fd` is open until the call returns, `out` is NULL or points to a struct whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_restore_connections(
    engine: *const portcullis_engine,
    fd: c_int,
    windows: u8,
    out: *mut portcullis_restored,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        if !out.is_null() {
            // SAFETY: by this function's contract.
            unsafe { raw::check_growable(out) }?;
        }
        let windows = match windows {
            PORTCULLIS_WINDOWS_HOLD => Windows::Hold,
            PORTCULLIS_WINDOWS_MOVED => Windows::Moved,
            other => {
                let text = format_args!("error: windows {other}: 0 is hold, 1 is moved");
                return Err(Failure::new(PORTCULLIS_BAD_VALUE, text));
            }
        };
        // SAFETY: by this function's contract.
        let file = unsafe { file(fd) }?;
        let done = held.object.restore_connections(windows, &mut BufReader::new(&*file));
        let done = done.map_err(|error| {
            let status = match error {
                RestoreError::Read(_) => PORTCULLIS_SYSTEM,
                _ => PORTCULLIS_BAD_FILE,
            };
            Failure::new(status, format_args!("error: {error}"))
        })?;
        if out.is_null() {
            return Ok(());
        }
        let value = portcullis_restored {
            struct_size: 0,
            restored: done.restored,
            left_out: done.left_out,
            age_ms: u64::try_from(done.age.as_millis()).unwrap_or(u64::MAX),
        };
        // SAFETY: by this function's contract.
        unsafe { raw::write_growable(out, value) }
    })
}

/// The caller's descriptor, which is not closed.
///
/// # Safety
/// It is open as long as the answer lives.
unsafe fn file(fd: c_int) -> Result<ManuallyDrop<File>, Failure> {
    if fd < 0 {
        let text = format_args!("error: descriptor {fd}: there is none");
        return Err(Failure::new(PORTCULLIS_BAD_VALUE, text));
    }
    // SAFETY: by this function's contract; it is never dropped.
    Ok(ManuallyDrop::new(unsafe { File::from_raw_fd(fd) }))
}
