//! Panics: mistakes inside the library. They are caught, told to whoever asks, and kept from the
//! program's standard error.
//!
//! The shared library has a standard library of its own, and so a panic hook of its own: setting it
//! touches nobody else's. Linked statically into another Rust program the two may be one: panics that
//! are not this library's go on to the hook that was there.

use core::ffi::c_char;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::{Mutex, Once};

use crate::handle::{self, lock};
use crate::raw;

/// The last panic of any thread.
static LAST: Mutex<String> = Mutex::new(String::new());

thread_local! {
    /// Calls of the library that this thread is in.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Runs a call; tells what a panic said.
pub(crate) fn catch<R>(call: impl FnOnce() -> R) -> Result<R, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(
            move |panic| {
                if is_ours() { keep(panic) } else { others(panic) }
            },
        ));
    });
    DEPTH.set(DEPTH.get() + 1);
    // Whatever the panic left half-done is never looked at again: the caller poisons it.
    let result = catch_unwind(AssertUnwindSafe(call));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|panic| {
        // Dropping what was thrown could throw again.
        std::mem::forget(panic);
        lock(&LAST).clone()
    })
}

/// Whether the panic is in a call of the library, or in a worker of a firewall.
fn is_ours() -> bool {
    DEPTH.try_with(Cell::get).is_ok_and(|depth| depth > 0)
        || std::thread::current().name() == Some("portcullis")
}

fn keep(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or(payload.downcast_ref::<String>().map(String::as_str));
    let payload = text.unwrap_or("no message");
    let text = match panic.location() {
        Some(at) => format!("{at}: {payload}"),
        None => payload.to_owned(),
    };
    *lock(&LAST) = text;
}

/// Where the last panic inside the library was and what it said, of whatever engine or worker thread:
/// for a report to the project. Empty if there was none. Nothing of it is printed.
///
/// `buffer`, `size`, `needed`: as in `portcullis_engine_error`. Any thread.
///
/// # Safety
/// `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_last_panic(
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::without(|| {
        let text = lock(&LAST).clone();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}
