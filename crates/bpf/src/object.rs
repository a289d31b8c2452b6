//! The object file: opening it, setting what is fixed, loading one of its programs.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Once;
use std::time::Duration;

use libbpf_rs::{MapCore, MapHandle, Object, ObjectBuilder, OpenObject, PrintLevel};

use crate::sys;
use crate::{EarlyDrop, Error, FailureMode, Interface, Settings};

/// The compiled programs.
static OBJECT: &[u8] = include_bytes!("portcullis.bpf.o");

/// Above this MTU packets may come in several buffers. Drivers put the limit of one buffer between
/// 3,000 and 3,520 bytes.
const SINGLE_BUFFER_MTU: u32 = 3000;

/// What is fixed in a loaded program: ports that agree in it can share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variant {
    several_buffers: bool,
    failure: FailureMode,
    stale_after: Duration,
    pub(crate) early_drop_capacity: u32,
}

impl Variant {
    pub(crate) fn new(interface: &Interface, settings: &Settings) -> Self {
        Self {
            several_buffers: interface.mtu() > SINGLE_BUFFER_MTU,
            failure: settings.failure,
            stale_after: settings.stale_after.max(Duration::from_millis(10)),
            early_drop_capacity: settings.early_drop_capacity,
        }
    }

    fn entry(&self) -> &'static str {
        if self.several_buffers { "portcullis_frags" } else { "portcullis" }
    }

    /// The program's settings in their order, the bypass's among them.
    fn rodata(&self, bypass_to: u32) -> Vec<u8> {
        let open = u32::from(self.failure == FailureMode::Open);
        let stale = i64::try_from(self.stale_after.as_nanos()).unwrap_or(i64::MAX);
        let mut value = Vec::with_capacity(24);
        value.extend(open.to_ne_bytes());
        value.extend(u32::from(self.early_drop_capacity > 0).to_ne_bytes());
        value.extend(stale.to_ne_bytes());
        value.extend(bypass_to.to_ne_bytes());
        value
    }
}

/// A loaded XDP program and its maps.
pub(crate) struct Loaded {
    pub(crate) program: OwnedFd,
    pub(crate) queues: MapHandle,
    pub(crate) sockets: MapHandle,
    pub(crate) beats: MapHandle,
    pub(crate) early_drop: EarlyDrop,
}

/// Loads the XDP program with room for ports that have `slots` queues together, and with the
/// early-drop set given, or one of its own.
pub(crate) fn load(
    variant: &Variant,
    slots: u32,
    early_drop: Option<EarlyDrop>,
) -> Result<Loaded, Error> {
    let mut object = open()?;
    let configure = |object: &mut OpenObject| {
        for mut map in object.maps_mut() {
            match map.name().to_str() {
                // One more for each port, which has one queue at least.
                Some("queues") => map.set_max_entries(slots.saturating_mul(2))?,
                Some("sockets" | "beats") => map.set_max_entries(slots)?,
                Some(name @ ("early_drop_ipv4" | "early_drop_ipv6")) => {
                    let given = early_drop.as_ref().map(EarlyDrop::maps);
                    match given.and_then(|maps| maps.into_iter().find(|(of, _)| *of == name)) {
                        Some((_, fd)) => map.reuse_fd(fd)?,
                        None => map.set_max_entries(variant.early_drop_capacity.max(1))?,
                    }
                }
                Some(name) if name.ends_with(RODATA) => {
                    map.set_initial_value(&variant.rodata(0))?;
                }
                _ => {}
            }
        }
        Ok(())
    };
    configure(&mut object).map_err(failed)?;
    let entry = variant.entry();
    let object = load_only(object, entry)?;
    let map = |name: &str| {
        let map = object.maps().find(|map| map.name() == name).ok_or_else(missing)?;
        MapHandle::try_from(&map).map_err(failed)
    };
    Ok(Loaded {
        program: program(&object, entry)?,
        queues: map("queues")?,
        sockets: map("sockets")?,
        beats: map("beats")?,
        early_drop: match early_drop {
            Some(given) => given,
            None => {
                let maps = [map("early_drop_ipv4")?, map("early_drop_ipv6")?];
                EarlyDrop::new(maps, variant.early_drop_capacity)
            }
        },
    })
}

/// Loads the program that sends what the XDP program passed out of the interface `to`.
pub(crate) fn load_bypass(variant: &Variant, to: u32) -> Result<OwnedFd, Error> {
    const BYPASS: &str = "portcullis_bypass";
    let mut object = open()?;
    let configure = |object: &mut OpenObject| {
        for mut map in object.maps_mut() {
            let settings = map.name().to_str().is_some_and(|name| name.ends_with(RODATA));
            map.set_autocreate(settings)?;
            if settings {
                map.set_initial_value(&variant.rodata(to))?;
            }
        }
        Ok(())
    };
    configure(&mut object).map_err(failed)?;
    program(&load_only(object, BYPASS)?, BYPASS)
}

/// End of the name of the map that holds the settings.
const RODATA: &str = ".rodata";

fn open() -> Result<OpenObject, Error> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        libbpf_rs::set_print(Some((PrintLevel::Warn, keep_log)));
    });
    take_log();
    ObjectBuilder::default().open_memory(OBJECT).map_err(failed)
}

fn load_only(mut object: OpenObject, chosen: &str) -> Result<Object, Error> {
    for mut program in object.progs_mut() {
        let chosen = program.name() == OsStr::new(chosen);
        program.set_autoload(chosen);
    }
    take_log();
    object.load().map_err(failed)
}

fn program(object: &Object, name: &str) -> Result<OwnedFd, Error> {
    let program = object.progs().find(|program| program.name() == name).ok_or_else(missing)?;
    program.as_fd().try_clone_to_owned().map_err(load_error)
}

fn missing() -> Error {
    load_error(io::ErrorKind::NotFound.into())
}

fn failed(error: libbpf_rs::Error) -> Error {
    load_error(sys::os_error(&error))
}

fn load_error(source: io::Error) -> Error {
    let log = take_log();
    match source.raw_os_error() {
        // The verifier's word for a program that it does not like; without CAP_PERFMON it dislikes
        // arithmetic on pointers.
        Some(libc::EACCES) if !log.is_empty() && !log.contains("pointer") => {
            Error::Load { log, source }
        }
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => {
            Error::system("loading the XDP program", source)
        }
        _ => Error::Load { log, source },
    }
}

thread_local! {
    /// What libbpf said during the call in progress on this thread.
    static LOG: RefCell<String> = const { RefCell::new(String::new()) };
}

fn keep_log(_: PrintLevel, message: String) {
    const LOG_LIMIT: usize = 4096;
    LOG.with_borrow_mut(|log| {
        if log.len() < LOG_LIMIT {
            log.push_str(&message);
        }
    });
}

fn take_log() -> String {
    LOG.take().trim_end().to_owned()
}
