//! Flow records: what became of every connection and what was denied, as lines of JSON.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis_core::flow::{Config, ConfigError, PolicyKeep, Recorder, Subscription, hubble};

use crate::engine::{Managed, portcullis_engine};
use crate::handle::{self, Held, Object, Table, lock};
use crate::raw::{self, Growable};
use crate::status::{
    Failure, PORTCULLIS_BAD_SIZE, PORTCULLIS_BAD_VALUE, PORTCULLIS_POISONED, PORTCULLIS_TOO_SMALL,
};

/// Makes flow records of an engine's events: one when a connection starts, when another rule decides of
/// it, while it lasts and when it ends; denials are summed up. Calls on it may come from any threads,
/// and wait for each other.
pub struct portcullis_recorder {
    _opaque: [u8; 0],
}

/// Settings of a recorder. Set all of it to zero, then `struct_size` to `sizeof`; 0 is the default of
/// every field.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_recorder_config {
    /// `sizeof(portcullis_recorder_config)`.
    pub struct_size: usize,
    /// What is recorded, NUL-terminated: `none`, `denied`, `all`, or `1/N` for what is denied and one
    /// connection in N. NULL is `all`.
    pub keep: *const c_char,
    /// How often a connection that lasts is recorded again, in milliseconds, 1000 at least; 60000
    /// unless set, and never if it is the highest number.
    pub update_ms: u32,
    /// How long denials are summed up before they are recorded, in milliseconds; 1000 unless set.
    pub denied_ms: u32,
    /// Different denials that are kept apart within that time, about 600 bytes each; 4096 unless set.
    pub denied_kinds: u32,
    /// Records that wait at most, about 1 KiB each; 65536 unless set. What does not fit is counted.
    pub capacity: u32,
    /// `PORTCULLIS_FORM_...`.
    pub form: u32,
    /// Zero.
    pub reserved: u32,
    /// The name of this node in records of `PORTCULLIS_FORM_HUBBLE`, NUL-terminated; NULL is none.
    pub node: *const c_char,
    /// What is recorded of flows that some policies decided; the first that fits counts, and `keep` if
    /// none does.
    pub policies: *const portcullis_policy_keep,
    /// How many.
    pub policy_count: usize,
}

// SAFETY: `repr(C)`, the size first, integers and raw pointers only.
unsafe impl Growable for portcullis_recorder_config {
    const FIRST: usize = core::mem::offset_of!(Self, form);
}

/// Records have the fields that docs/flow-records.md tells of (the default).
pub const PORTCULLIS_FORM_OWN: u32 = 0;
/// Records are flows as Cilium's Hubble prints them (`hubble observe -o json`).
pub const PORTCULLIS_FORM_HUBBLE: u32 = 1;

/// What is recorded of flows that some policies decided. This one never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_policy_keep {
    /// The policies as `Kind/namespace/name`, each part a text or `*`; `default` is what no policy
    /// decided. NUL-terminated.
    pub policies: *const c_char,
    /// What is recorded, as `keep` of the settings.
    pub keep: *const c_char,
}

/// A recorder as a handle holds it.
pub(crate) struct Desk {
    seat: Mutex<Seat>,
    engine: Arc<Held<Managed>>,
}

struct Seat {
    recorder: Recorder,
    records: Subscription,
    /// A line that there was no room for.
    line: Vec<u8>,
    form: Form,
}

enum Form {
    Own,
    Hubble { node: String },
}

static RECORDERS: Table<Desk> = Table::new();

impl Object for Desk {
    type Opaque = portcullis_recorder;
    const KIND: usize = 0x59;
    fn table() -> &'static Table<Self> {
        &RECORDERS
    }
}

const CAPACITY: usize = 65_536;
const MOST_CAPACITY: usize = 1 << 24;

/// Makes a recorder of an engine. Each event goes to one reader only: use one recorder, and then
/// neither another nor `portcullis_engine_events`. Set `denied_burst` of the engine so that floods are
/// summed up before they get here.
///
/// `config`: NULL for all defaults. `out`: the recorder; free it with `portcullis_recorder_free`. Any
/// thread.
///
/// # Safety
/// `config` is NULL or begins with its size, its texts are NUL-terminated, `policies` has as many as it
/// says; `out` points to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_recorder_new(
    engine: *const portcullis_engine,
    config: *const portcullis_recorder_config,
    out: *mut *mut portcullis_recorder,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(out)?;
        // SAFETY: by this function's contract.
        let wanted = unsafe { raw::read_growable(config, portcullis_recorder_config::EMPTY) }?;
        // SAFETY: by this function's contract.
        let keep = unsafe { raw::optional_text(wanted.keep) }?;
        let capacity = match wanted.capacity as usize {
            0 => CAPACITY,
            capacity @ 1..=MOST_CAPACITY => capacity,
            _ => return Err(PORTCULLIS_BAD_VALUE.into()),
        };
        // SAFETY: by this function's contract.
        let form = unsafe { wanted.read_form() }?;
        // SAFETY: by this function's contract.
        let policies = unsafe { wanted.read_policies() }?;
        let recorder = Recorder::new(&held.object, wanted.read(keep, policies)?);
        let records = recorder.hub().subscribe(capacity);
        let engine = Managed::table().find(engine)?;
        let seat = Mutex::new(Seat { recorder, records, line: Vec::new(), form });
        let recorder = RECORDERS.insert(Desk { seat, engine })?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(out, recorder) };
        Ok(())
    })
}

/// Frees a recorder; what it summed up and was not read is gone (`portcullis_recorder_finish`). NULL is
/// fine; one that was freed already is `PORTCULLIS_BAD_HANDLE`. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_recorder_free(recorder: *mut portcullis_recorder) -> i32 {
    handle::free::<Desk>(recorder)
}

/// The text of the last call on this recorder that failed with one; see `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_recorder_error(
    recorder: *const portcullis_recorder,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    // SAFETY: by this function's contract.
    unsafe { handle::copy_error::<Desk>(recorder, buffer, size, needed) }
}

/// Reads what happened, records what is due, and hands over records: whole lines of JSON, each ended
/// by a newline, without a NUL. What the fields mean stands in docs/flow-records.md (`form`). Call it whenever
/// the descriptor of `portcullis_engine_event_fd` is readable, and some times a second besides.
///
/// `text`, `size`: where to; 64 KiB are a good start. `PORTCULLIS_TOO_SMALL` if not even the first
/// line fits.
/// `written`: bytes of text; 0 if there is no record. Call again until it is.
/// `lost`: events and records that there was no room for since the start; may be NULL.
///
/// # Safety
/// `text` has room for `size` bytes, `written` points to room for a number, and so does `lost` unless
/// it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_recorder_read(
    recorder: *const portcullis_recorder,
    text: *mut c_char,
    size: usize,
    written: *mut usize,
    lost: *mut u64,
) -> i32 {
    handle::with::<Desk>(recorder, |held| {
        raw::required(written)?;
        // SAFETY: by this function's contract.
        let mut room = unsafe { raw::slice_mut(text.cast::<u8>(), size) }?;
        let seat = &mut *held.object.seat()?;
        seat.recorder.poll();
        let mut total = 0;
        loop {
            if seat.line.is_empty() {
                let Some(record) = seat.records.next() else { break };
                match &seat.form {
                    Form::Own => record.write(&mut seat.line),
                    Form::Hubble { node } => hubble::write(&record, node, &mut seat.line),
                }
            }
            if seat.line.len() > room.len() {
                if total == 0 {
                    return Err(PORTCULLIS_TOO_SMALL.into());
                }
                break;
            }
            let (here, rest) = room.split_at_mut(seat.line.len());
            room = rest;
            for (room, byte) in here.iter_mut().zip(&seat.line) {
                room.write(*byte);
            }
            total += seat.line.len();
            seat.line.clear();
        }
        let recorded = seat.recorder.recorded().now();
        // SAFETY: by this function's contract.
        unsafe { raw::write(lost, recorded.lost_total() + seat.records.lost()) };
        // SAFETY: by this function's contract.
        unsafe { raw::write(written, total) };
        Ok(())
    })
}

/// What a recorder did since the start. All counts are exact: of each class of things that happened, those
/// read and those `lost` are how many there were; of those read some are `sampled_out` or `left_out`, and of
/// the others there are records. Set `struct_size` first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_recorded {
    /// `sizeof(portcullis_recorded)`.
    pub struct_size: usize,
    /// Connections whose start was read.
    pub started: u64,
    /// Connections whose end was read.
    pub ended: u64,
    /// Packets of which it was read that they were denied.
    pub denied_packets: u64,
    /// Other things read: connections that changed, packets that stand alone.
    pub others: u64,
    /// Things lost before they could be read: starts, denied packets, ends, changes, packets alone.
    pub lost: [u64; 5],
    /// Things (denials: packets) that are of no record because only a sample is recorded.
    pub sampled_out: u64,
    /// Things (denials: packets) that are of no record because `keep` leaves them out.
    pub left_out: u64,
    /// Records of starts, ends, changes and packets that stand alone: one each.
    pub records: u64,
    /// Records of connections that last.
    pub updates: u64,
    /// Records of denials, each of which sums up some.
    pub denied_records: u64,
    /// Denied packets in those.
    pub denied_recorded: u64,
    /// Denied packets that wait to be recorded.
    pub denied_waiting: u64,
    /// Records that there was no room for (`capacity`).
    pub records_lost: u64,
}

// SAFETY: `repr(C)`, the size first, integers only.
unsafe impl Growable for portcullis_recorded {
    const FIRST: usize = size_of::<Self>();
}

/// What a recorder did since the start.
///
/// # Safety
/// `out` points to a struct whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_recorder_recorded(
    recorder: *const portcullis_recorder,
    out: *mut portcullis_recorded,
) -> i32 {
    handle::with::<Desk>(recorder, |held| {
        let seat = held.object.seat()?;
        let now = seat.recorder.recorded().now();
        let value = portcullis_recorded {
            struct_size: 0,
            started: now.started,
            ended: now.ended,
            denied_packets: now.denied_packets,
            others: now.others,
            lost: now.lost,
            sampled_out: now.sampled_out,
            left_out: now.left_out,
            records: now.records,
            updates: now.updates,
            denied_records: now.denied_records,
            denied_recorded: now.denied_recorded,
            denied_waiting: now.denied_waiting,
            records_lost: seat.records.lost(),
        };
        // SAFETY: by this function's contract.
        unsafe { raw::write_growable(out, value) }
    })
}

/// Records everything that is there, due or not, such as denials that are still summed up: at the end,
/// before the last reading.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_recorder_finish(recorder: *const portcullis_recorder) -> i32 {
    handle::with::<Desk>(recorder, |held| {
        held.object.seat()?.recorder.finish();
        Ok(())
    })
}

impl Desk {
    fn seat(&self) -> Result<std::sync::MutexGuard<'_, Seat>, Failure> {
        if self.engine.is_poisoned() {
            return Err(PORTCULLIS_POISONED.into());
        }
        Ok(lock(&self.seat))
    }
}

impl portcullis_recorder_config {
    const EMPTY: Self = Self {
        struct_size: size_of::<Self>(),
        keep: core::ptr::null(),
        update_ms: 0,
        denied_ms: 0,
        denied_kinds: 0,
        capacity: 0,
        form: 0,
        reserved: 0,
        node: core::ptr::null(),
        policies: core::ptr::null(),
        policy_count: 0,
    };

    /// # Safety
    /// `node` is NULL or NUL-terminated.
    unsafe fn read_form(&self) -> Result<Form, Failure> {
        // SAFETY: by this function's contract.
        let node = unsafe { raw::optional_text(self.node) }?;
        match (self.form, node) {
            _ if self.reserved != 0 => Err(PORTCULLIS_BAD_SIZE.into()),
            (PORTCULLIS_FORM_OWN, None) => Ok(Form::Own),
            (PORTCULLIS_FORM_OWN, Some(_)) => {
                let text = "error: node: only records of the form of Hubble have one";
                Err(Failure::new(PORTCULLIS_BAD_VALUE, text))
            }
            (PORTCULLIS_FORM_HUBBLE, node) => {
                Ok(Form::Hubble { node: node.unwrap_or_default().to_owned() })
            }
            (form, _) => {
                let text = format_args!("error: form {form}: 0 is this project's, 1 is Hubble's");
                Err(Failure::new(PORTCULLIS_BAD_VALUE, text))
            }
        }
    }

    /// # Safety
    /// `policies` is NULL or has as many as it says, whose texts are NUL-terminated.
    unsafe fn read_policies(&self) -> Result<Vec<PolicyKeep>, Failure> {
        let mut policies = Vec::new();
        // SAFETY: by this function's contract.
        for of in unsafe { raw::slice(self.policies, self.policy_count) }? {
            // SAFETY: by this function's contract.
            let pattern = unsafe { raw::text(of.policies) }?;
            // SAFETY: by this function's contract.
            let keep = unsafe { raw::text(of.keep) }?;
            let wrong = |error: ConfigError| {
                let text = format_args!("error: policies {}: {error}", policies.len());
                Failure::new(PORTCULLIS_BAD_VALUE, text)
            };
            let pattern = pattern.parse().map_err(wrong)?;
            let keep = keep.parse().map_err(wrong)?;
            policies.push(PolicyKeep { policies: pattern, keep });
        }
        Ok(policies)
    }

    fn read(&self, keep: Option<&str>, policies: Vec<PolicyKeep>) -> Result<Config, Failure> {
        let mut config = Config::default();
        config.policies = policies;
        let wrong =
            |error| Failure::new(PORTCULLIS_BAD_VALUE, format_args!("error: keep: {error}"));
        if let Some(keep) = keep {
            config.keep = keep.parse().map_err(wrong)?;
        }
        match self.update_ms {
            0 => {}
            u32::MAX => config.update = None,
            millis => config.update = Some(Duration::from_millis(millis.into())),
        }
        if self.denied_ms > 0 {
            config.denied = Duration::from_millis(self.denied_ms.into());
        }
        if self.denied_kinds > 0 {
            config.denied_kinds = self.denied_kinds as usize;
        }
        Ok(config)
    }
}
