//! Handles that were made, living or freed, and what an answer about one of them must be.

use core::ffi::CStr;
use std::ptr::{null_mut, without_provenance_mut};

use portcullis_abi::status::*;

use crate::input::Input;

/// A handle to call with, and whether it lived when it was picked.
pub(crate) type Picked<T> = (*mut T, bool);

/// The handles of one kind that were made, in that order.
pub(crate) struct Handles<T>(Vec<Picked<T>>);

impl<T> Handles<T> {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn full(&self) -> bool {
        self.0.len() > 6
    }

    pub(crate) fn add(&mut self, handle: *mut T) {
        self.0.push((handle, true));
    }

    /// One of the handles, living or not, or nonsense.
    pub(crate) fn pick(&self, input: &mut Input<'_>) -> Picked<T> {
        match input.byte() {
            0 => (null_mut(), false),
            1 => (without_provenance_mut(input.number() as usize), false),
            2 => (without_provenance_mut(1 << 63 | 0x151 | (input.number() as usize) << 32), false),
            n => {
                let at = usize::from(n) % self.0.len().max(1);
                self.0.get(at).copied().unwrap_or((null_mut(), false))
            }
        }
    }

    /// What every answer must be: known, no mistake of the library, and about the handle if that is
    /// wrong.
    pub(crate) fn check(&self, (handle, living): Picked<T>, status: i32) -> i32 {
        assert!(status != PORTCULLIS_INTERNAL && status != PORTCULLIS_POISONED, "{status}");
        // SAFETY: static text.
        let text = unsafe { CStr::from_ptr(portcullis_status_text(status)) };
        assert_ne!(text, c"unknown status", "{status}");
        if handle.is_null() {
            assert_eq!(status, PORTCULLIS_NULL);
        } else if !living && !self.0.contains(&(handle, true)) {
            assert_eq!(status, PORTCULLIS_BAD_HANDLE);
        } else {
            assert_ne!(status, PORTCULLIS_BAD_HANDLE);
        }
        status
    }

    pub(crate) fn free(&mut self, input: &mut Input<'_>, free: extern "C" fn(*mut T) -> i32) {
        let picked = self.pick(input);
        let status = free(picked.0);
        if !picked.0.is_null() {
            self.check(picked, status);
        }
        self.0.retain(|(handle, _)| *handle != picked.0);
        self.0.extend((status == 0 && picked.1).then_some((picked.0, false)));
    }

    /// Frees all: once for each that lives.
    pub(crate) fn end(self, free: extern "C" fn(*mut T) -> i32) {
        for (handle, living) in self.0 {
            assert_eq!(free(handle) == 0, living);
        }
    }
}
