//! Engines: made, freed, and what they answer when something went wrong.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;
use std::sync::{Arc, Mutex};

use portcullis_core::Engine;
use portcullis_core::dataplane::clock::{Time, Virtual};
use portcullis_core::policy::Diagnostic;

use crate::capture::Desk;
use crate::config::portcullis_engine_config;
use crate::handle::{self, Object, Table};
use crate::raw;
use crate::status::{Failure, PORTCULLIS_BAD_VALUE};

/// Policies over a cluster, and connections. Calls on one engine may come from any threads at once;
/// several engines know nothing of each other. Before something is applied every IP packet is dropped.
pub struct portcullis_engine {
    _opaque: [u8; 0],
}

static ENGINES: Table<Managed> = Table::new();

/// An engine, and what its documents gave reason to say.
pub(crate) struct Managed {
    pub(crate) engine: Engine,
    /// Findings of the last documents that were applied, a line each.
    pub(crate) warnings: Mutex<String>,
    pub(crate) desk: Desk,
    /// The clock, if it is the caller's.
    clock: Option<Arc<Virtual>>,
}

impl std::ops::Deref for Managed {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Object for Managed {
    type Opaque = portcullis_engine;
    const KIND: usize = 0x51;
    fn table() -> &'static Table<Self> {
        &ENGINES
    }
}

/// Makes an engine with nothing in force.
///
/// `config`: NULL for all defaults. `out`: the engine; free it with `portcullis_engine_free`. Any
/// thread.
///
/// # Safety
/// `config` is NULL or begins with its size, and `tunnels` has as many as it says; `out` points to room
/// for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_new(
    config: *const portcullis_engine_config,
    out: *mut *mut portcullis_engine,
) -> i32 {
    handle::without(|| {
        raw::required(out)?;
        // SAFETY: by this function's contract.
        let config = unsafe { raw::read_growable(config, portcullis_engine_config::DEFAULT) }?;
        // SAFETY: by this function's contract.
        let (config, clock) = unsafe { config.read() }?;
        let engine = ENGINES.insert(Managed {
            engine: Engine::new(config)?,
            warnings: Mutex::default(),
            desk: Desk::default(),
            clock,
        })?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(out, engine) };
        Ok(())
    })
}

/// Frees an engine. Its judges and firewalls keep what they need until they are freed too. NULL is
/// fine; an engine that was freed already is `PORTCULLIS_BAD_HANDLE`. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_engine_free(engine: *mut portcullis_engine) -> i32 {
    handle::free::<Managed>(engine)
}

/// Moves the clock of an engine that was made with `virtual_clock` on, to so many nanoseconds after its
/// beginning; an earlier time than it shows is ignored. `PORTCULLIS_BAD_VALUE` for other engines.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_engine_set_time(
    engine: *const portcullis_engine,
    nanoseconds: u64,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        let clock = held.object.clock.as_ref().ok_or_else(|| {
            let text =
                "error: the engine follows the machine's clock: make it with `virtual_clock`";
            Failure::new(PORTCULLIS_BAD_VALUE, text)
        })?;
        clock.set(Time::from_nanos(nanoseconds));
        Ok(())
    })
}

/// The text of the last call on this engine that failed with one, NUL-terminated UTF-8. Works on a
/// poisoned engine too.
///
/// `buffer`, `size`: where to; a size of 0 asks for `needed` only. `needed`: bytes needed, the NUL
/// included; may be NULL. `PORTCULLIS_TOO_SMALL` if the text does not fit: nothing is written to the
/// buffer then.
///
/// # Safety
/// `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_engine_error(
    engine: *const portcullis_engine,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    // SAFETY: by this function's contract.
    unsafe { handle::copy_error::<Managed>(engine, buffer, size, needed) }
}

impl Managed {
    pub(crate) fn warn<'a>(&self, warnings: impl IntoIterator<Item = &'a Vec<Diagnostic>>) {
        let lines = warnings.into_iter().flatten().map(ToString::to_string);
        *handle::lock(&self.warnings) = lines.collect::<Vec<_>>().join("\n");
    }
}
