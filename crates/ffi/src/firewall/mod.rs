//! Firewalls: an engine on wires between interfaces.

#![allow(non_camel_case_types, reason = "the names are C's")]

pub mod port;
pub mod wire;

#[cfg(feature = "xdp")]
mod running;
#[cfg(not(feature = "xdp"))]
mod without;

use core::ffi::c_char;

use crate::engine::{Managed, portcullis_engine};
use crate::handle::{self, Object, Table};
use crate::raw::{self, Growable};

#[cfg(feature = "xdp")]
use running::Running;
#[cfg(not(feature = "xdp"))]
use without::Running;

/// A running firewall. Calls on it may come from any threads.
pub struct portcullis_firewall {
    _opaque: [u8; 0],
}

static FIREWALLS: Table<Running> = Table::new();

impl Object for Running {
    type Opaque = portcullis_firewall;
    const KIND: usize = 0x55;
    fn table() -> &'static Table<Self> {
        &FIREWALLS
    }
}

/// Zero-copy if both interfaces have it, else the next lesser mode (the default).
pub const PORTCULLIS_MODE_PREFER_ZEROCOPY: u8 = 0;
/// Zero-copy or an error.
pub const PORTCULLIS_MODE_REQUIRE_ZEROCOPY: u8 = 1;
/// Copy mode with the program in the driver, else generic.
pub const PORTCULLIS_MODE_PREFER_COPY: u8 = 2;
/// Copy mode with the program in the driver, or an error.
pub const PORTCULLIS_MODE_REQUIRE_COPY: u8 = 3;
/// Generic mode, which every driver has.
pub const PORTCULLIS_MODE_GENERIC: u8 = 4;

/// Packets that no live worker takes are dropped (the default).
pub const PORTCULLIS_FAIL_CLOSED: u8 = 0;
/// Packets that no live worker takes go to the host's network stack.
pub const PORTCULLIS_FAIL_OPEN: u8 = 1;

/// Huge pages if there are enough.
pub const PORTCULLIS_HUGE_PAGES_PREFER: u8 = 1;
/// Huge pages or an error.
pub const PORTCULLIS_HUGE_PAGES_REQUIRE: u8 = 2;

/// Settings of a firewall. Set all of it to zero, then `struct_size` to `sizeof`; 0 is the default of
/// every field.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_firewall_config {
    /// `sizeof(portcullis_firewall_config)`.
    pub struct_size: usize,
    /// One end of the first wire: the name of an interface in the calling thread's network namespace.
    /// NULL: no wire yet; see `portcullis_firewall_add_wire`.
    pub a: *const c_char,
    /// The other end; NULL: what comes in at `a` leaves there.
    pub b: *const c_char,
    /// Worker threads; 0 is one. They share out the queues of all wires.
    pub workers: u32,
    /// `PORTCULLIS_MODE_...`.
    pub mode: u8,
    /// `PORTCULLIS_FAIL_...`.
    pub fail: u8,
    /// 0 or `PORTCULLIS_HUGE_PAGES_...`: packet memory in huge pages, which must be reserved
    /// (`vm.nr_hugepages`).
    pub huge_pages: u8,
    /// 1: packets for other link-layer addresses than the interface's own are not received.
    pub not_promiscuous: u8,
    /// A folder of a BPF file system where the programs are pinned, so that `fail` holds also when
    /// the process is gone, and until a successor takes over. NULL: a process that ends leaves
    /// nothing behind.
    pub pins: *const c_char,
    /// Entries of each queue's ring of received packets: a power of two, 16 to 32768; 4096 unless
    /// set.
    pub rx_ring: u32,
    /// The same, of packets to be sent; 1024 unless set.
    pub tx_ring: u32,
    /// The same, of empty frames; 4096 unless set.
    pub fill_ring: u32,
    /// The same, of frames that were sent; 1024 unless set.
    pub completion_ring: u32,
    /// Bytes of a frame: 2048 or 4096; unless set what holds a packet of the largest MTU.
    pub chunk_size: u32,
    /// Frames for each queue, at least 64; unless set as many as its fill and TX rings hold.
    pub frames_per_queue: u32,
    /// Busy polling: how long a call may look for packets, in microseconds; 0 leaves receiving to
    /// interrupts. Linux 5.11.
    pub busy_poll_us: u32,
    /// Busy polling: packets a call may receive, at most 64 without CAP_NET_ADMIN; 64 unless set.
    pub busy_poll_budget: u32,
    /// Milliseconds without a heartbeat after which a worker counts as stalled, and `fail` decides.
    pub stale_after_ms: u32,
    /// Rounds without a packet after which a worker sleeps: more answers faster after short pauses,
    /// and uses more CPU time.
    pub idle_rounds: u32,
    /// Longest sleep of a worker, in milliseconds: at most 100.
    pub tick_ms: u32,
    /// Milliseconds that one look through the whole connection table for expired ones takes.
    pub sweep_ms: u32,
    /// Prefixes that there is room for in the set of `portcullis_firewall_replace_early_drop`.
    pub early_drop_capacity: u32,
    /// CPUs for the workers: the first worker stays on the first, and so on, beginning again where
    /// there are more workers.
    pub cpus: *const u32,
    /// How many; 0: workers go where the scheduler puts them.
    pub cpu_count: usize,
    /// The interface that copies of packets leave by, which needs a queue for each worker; which packets
    /// those are says `portcullis_engine_mirror`. It is only sent to: what arrives there still goes to the
    /// host's stack. Packets longer than it takes are left out. NULL: none.
    pub mirror: *const c_char,
    /// The NUMA node of packet memory, from 1 on for node 0, 2 for node 1 and so on; 0: that of the
    /// interfaces; the highest number: wherever it comes to lie.
    pub numa: u32,
    /// Milliseconds to wait for queues and interfaces that a predecessor is just letting go of; 2 s
    /// unless set.
    pub busy_wait_ms: u32,
    /// Nice value of the workers' threads, from -20 to 19. 0: -20, so that no packet waits for other work
    /// of the machine; `PORTCULLIS_NICE_ORDINARY`: 0. Where CAP_SYS_NICE is missing they keep that of
    /// the calling thread.
    pub nice: i32,
    /// Zero.
    pub reserved: u32,
}

/// [`portcullis_firewall_config::nice`]: a nice value of 0, that of ordinary threads.
pub const PORTCULLIS_NICE_ORDINARY: i32 = 20;

// SAFETY: `repr(C)`, the size first, integers and raw pointers only.
unsafe impl Growable for portcullis_firewall_config {
    const FIRST: usize = core::mem::offset_of!(Self, huge_pages);
}

/// What the pointers of the settings say.
#[cfg_attr(not(feature = "xdp"), allow(dead_code, reason = "nobody asks"))]
struct Given<'a> {
    a: Option<&'a str>,
    b: Option<&'a str>,
    pins: Option<&'a str>,
    mirror: Option<&'a str>,
    cpus: &'a [u32],
}

impl portcullis_firewall_config {
    const EMPTY: Self = Self {
        struct_size: size_of::<Self>(),
        a: core::ptr::null(),
        b: core::ptr::null(),
        workers: 0,
        mode: 0,
        fail: 0,
        huge_pages: 0,
        not_promiscuous: 0,
        pins: core::ptr::null(),
        rx_ring: 0,
        tx_ring: 0,
        fill_ring: 0,
        completion_ring: 0,
        chunk_size: 0,
        frames_per_queue: 0,
        busy_poll_us: 0,
        busy_poll_budget: 0,
        stale_after_ms: 0,
        idle_rounds: 0,
        tick_ms: 0,
        sweep_ms: 0,
        early_drop_capacity: 0,
        cpus: core::ptr::null(),
        cpu_count: 0,
        mirror: core::ptr::null(),
        numa: 0,
        busy_wait_ms: 0,
        nice: 0,
        reserved: 0,
    };
}

/// Starts workers and opens the interfaces, if settings name some, in the calling thread's network
/// namespace; forwards by what is in force on `engine`. Packets flow when this returns. If it fails nothing stays attached, and the
/// engine's error text says why.
///
/// `out`: the firewall; stop and free it with `portcullis_firewall_stop`. Starts threads named
/// `portcullis` that block every signal which can be blocked with sense, so that the program's
/// handlers never run on them.
///
/// # Safety
/// `config` begins with its size, its texts are NUL-terminated; `out` points to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_start(
    engine: *const portcullis_engine,
    config: *const portcullis_firewall_config,
    out: *mut *mut portcullis_firewall,
) -> i32 {
    handle::with::<Managed>(engine, |held| {
        raw::required(out)?;
        raw::required(config)?;
        // SAFETY: by this function's contract.
        let config = unsafe { raw::read_growable(config, portcullis_firewall_config::EMPTY) }?;
        // SAFETY: by this function's contract.
        let a = unsafe { raw::optional_text(config.a) }?;
        // SAFETY: by this function's contract.
        let b = unsafe { raw::optional_text(config.b) }?;
        // SAFETY: by this function's contract.
        let pins = unsafe { raw::optional_text(config.pins) }?;
        // SAFETY: by this function's contract.
        let mirror = unsafe { raw::optional_text(config.mirror) }?;
        // SAFETY: by this function's contract.
        let cpus = unsafe { raw::slice(config.cpus, config.cpu_count) }?;
        let firewall = Running::start(&held.object, &config, &Given { a, b, pins, mirror, cpus })?;
        let firewall = FIREWALLS.insert(firewall)?;
        // SAFETY: by this function's contract.
        unsafe { raw::write(out, firewall) };
        Ok(())
    })
}

/// Stops the workers and waits until they have told everything, denials that they sum up included: what
/// is read from the engine afterwards, and the connections that are saved, are complete. From then on no
/// packet passes; `portcullis_firewall_stop` takes the programs off. Any thread; halting again is fine.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_firewall_halt(firewall: *const portcullis_firewall) -> i32 {
    handle::with::<Running>(firewall, |held| {
        held.object.halt();
        Ok(())
    })
}

/// Stops the workers, lets frames in transmission leave, takes the programs off the interfaces and
/// frees the firewall. NULL is fine; a firewall that was stopped already is `PORTCULLIS_BAD_HANDLE`.
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_firewall_stop(firewall: *mut portcullis_firewall) -> i32 {
    handle::free::<Running>(firewall)
}

/// The text of the last call on this firewall that failed with one; see `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_error(
    firewall: *const portcullis_firewall,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    // SAFETY: by this function's contract.
    unsafe { handle::copy_error::<Running>(firewall, buffer, size, needed) }
}

/// Why the preferred mode was not to be had; empty if it was. Buffer and sizes as in
/// `portcullis_engine_error`.
///
/// # Safety
/// `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_firewall_lesser_mode(
    firewall: *const portcullis_firewall,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    handle::with::<Running>(firewall, |held| {
        let text = held.object.lesser_mode();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}
