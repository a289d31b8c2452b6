//! Handles: what C holds instead of pointers.
//!
//! A handle looks like a pointer and is a number: kind, place in a table, and how often the place was
//! used before. So a handle that was freed, is of another type or was never one is recognised without
//! touching memory, and an object that one thread frees lives until the calls of others on it return.
//! The highest bit is set, which no pointer of a program has: a garbage collector that meets a handle
//! does not take it for one of its own.
//! A look-up takes some 20 ns, which calls with batches do not notice.

use core::ffi::c_char;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::panic;
use crate::raw;
use crate::status::{
    Failure, PORTCULLIS_BAD_HANDLE, PORTCULLIS_INTERNAL, PORTCULLIS_NULL, PORTCULLIS_OK,
    PORTCULLIS_POISONED,
};

const _: () = assert!(usize::BITS == 64, "handles need 64 bits");

/// What a kind of object needs to be behind handles.
pub(crate) trait Object: Sized + Send + Sync + 'static {
    /// What C calls the type; never instantiated.
    type Opaque;
    /// In the lowest bits of its handles: different for each kind, odd so that no pointer looks so.
    const KIND: usize;
    fn table() -> &'static Table<Self>;
}

/// An object, and what went wrong with it last.
pub(crate) struct Held<T> {
    pub(crate) object: T,
    error: Mutex<String>,
    poisoned: AtomicBool,
}

/// All objects of one kind. Process-wide, and no more than a list of what exists: objects know
/// nothing of each other.
pub(crate) struct Table<T> {
    places: RwLock<Vec<Place<T>>>,
    free: Mutex<Vec<usize>>,
}

struct Place<T> {
    used: u32,
    held: Option<Arc<Held<T>>>,
}

const KIND_BITS: u32 = 8;
const PLACE_BITS: u32 = 24;
const NO_POINTER: usize = 1 << 63;
/// How often a place was used, as far as a handle has room for it.
const USED_MASK: u32 = u32::MAX >> 1;

impl<T: Object> Table<T> {
    pub(crate) const fn new() -> Self {
        Self { places: RwLock::new(Vec::new()), free: Mutex::new(Vec::new()) }
    }

    /// Makes a handle for an object.
    pub(crate) fn insert(&self, object: T) -> Result<*mut T::Opaque, Failure> {
        let held =
            Arc::new(Held { object, error: Mutex::default(), poisoned: AtomicBool::new(false) });
        let free = lock(&self.free).pop();
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let at = free.unwrap_or(places.len());
        if at >= 1 << PLACE_BITS {
            return Err(Failure::new(PORTCULLIS_INTERNAL, "error: more than 16 million handles"));
        }
        if at == places.len() {
            places.push(Place { used: 0, held: None });
        }
        let place = &mut places[at];
        place.used = place.used.wrapping_add(1) & USED_MASK;
        place.held = Some(held);
        let used = (place.used as usize) << (KIND_BITS + PLACE_BITS);
        let number = NO_POINTER | used | at << KIND_BITS | T::KIND;
        Ok(std::ptr::without_provenance_mut(number))
    }

    /// The object behind a handle.
    pub(crate) fn find(&self, handle: *const T::Opaque) -> Result<Arc<Held<T>>, i32> {
        let at = place_of::<T>(handle)?;
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let place = places.get(at).filter(|place| place.used as usize == used_of(handle));
        place.and_then(|place| place.held.clone()).ok_or(PORTCULLIS_BAD_HANDLE)
    }

    /// Takes the object from its handle, which means nothing from then on.
    pub(crate) fn remove(&self, handle: *const T::Opaque) -> Result<Arc<Held<T>>, i32> {
        let at = place_of::<T>(handle)?;
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let place = places.get_mut(at).filter(|place| place.used as usize == used_of(handle));
        let held = place.and_then(|place| place.held.take()).ok_or(PORTCULLIS_BAD_HANDLE)?;
        drop(places);
        lock(&self.free).push(at);
        Ok(held)
    }
}

fn place_of<T: Object>(handle: *const T::Opaque) -> Result<usize, i32> {
    let number = handle.addr();
    match number & ((1 << KIND_BITS) - 1) {
        0 if number == 0 => Err(PORTCULLIS_NULL),
        kind if kind == T::KIND && number & NO_POINTER != 0 => {
            Ok(number >> KIND_BITS & ((1 << PLACE_BITS) - 1))
        }
        _ => Err(PORTCULLIS_BAD_HANDLE),
    }
}

fn used_of<O>(handle: *const O) -> usize {
    (handle.addr() & !NO_POINTER) >> (KIND_BITS + PLACE_BITS)
}

impl<T> Held<T> {
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// The text of the last call that failed.
    pub(crate) fn error(&self) -> String {
        lock(&self.error).clone()
    }

    fn fail(&self, failure: Failure) -> i32 {
        let Failure { status, text } = failure;
        if !text.is_empty() {
            *lock(&self.error) = text;
        }
        status
    }
}

/// Runs `call` on the object of a handle: finds it, catches panics, keeps the error's text.
pub(crate) fn with<T: Object>(
    handle: *const T::Opaque,
    call: impl FnOnce(&Held<T>) -> Result<(), Failure>,
) -> i32 {
    let held = match T::table().find(handle) {
        Ok(held) => held,
        Err(status) => return status,
    };
    if held.is_poisoned() {
        return PORTCULLIS_POISONED;
    }
    match panic::catch(|| call(&held)) {
        Ok(Ok(())) => PORTCULLIS_OK,
        Ok(Err(failure)) => held.fail(failure),
        Err(text) => {
            held.poisoned.store(true, Ordering::Release);
            let text = format_args!("error: internal: {text}: please report this");
            held.fail(Failure::new(PORTCULLIS_INTERNAL, text))
        }
    }
}

/// Runs a call that has no handle yet.
pub(crate) fn without(call: impl FnOnce() -> Result<(), Failure>) -> i32 {
    match panic::catch(call) {
        Ok(Ok(())) => PORTCULLIS_OK,
        Ok(Err(failure)) => failure.status,
        Err(_) => PORTCULLIS_INTERNAL,
    }
}

/// Frees the object of a handle; NULL is nothing to free.
pub(crate) fn free<T: Object>(handle: *const T::Opaque) -> i32 {
    without(|| match T::table().remove(handle) {
        Ok(held) => {
            drop(held);
            Ok(())
        }
        Err(PORTCULLIS_NULL) => Ok(()),
        Err(status) => Err(status.into()),
    })
}

/// Copies the text of the last call on a handle that failed with one, also of a poisoned one.
///
/// # Safety
/// As [`raw::copy_text`].
pub(crate) unsafe fn copy_error<T: Object>(
    handle: *const T::Opaque,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> i32 {
    without(|| {
        let text = T::table().find(handle)?.error();
        // SAFETY: by this function's contract.
        unsafe { raw::copy_text(&text, buffer, size, needed) }
    })
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(u32);
    struct OpaqueThing;
    static THINGS: Table<Thing> = Table::new();
    impl Object for Thing {
        type Opaque = OpaqueThing;
        const KIND: usize = 0xf1;
        fn table() -> &'static Table<Self> {
            &THINGS
        }
    }

    #[test]
    fn a_handle_is_known_until_freed_and_never_again() {
        let one = THINGS.insert(Thing(1)).unwrap();
        let two = THINGS.insert(Thing(2)).unwrap();
        assert_eq!(THINGS.find(one).map(|held| held.object.0), Ok(1));
        assert_eq!(free::<Thing>(one), PORTCULLIS_OK);
        assert_eq!(free::<Thing>(one), PORTCULLIS_BAD_HANDLE);
        let three = THINGS.insert(Thing(3)).unwrap();
        assert_ne!(one, three, "the place is used again, the handle is not");
        assert_eq!(THINGS.find(one).map(|held| held.object.0), Err(PORTCULLIS_BAD_HANDLE));
        assert_eq!(THINGS.find(two).map(|held| held.object.0), Ok(2));
        assert_eq!(free::<Thing>(std::ptr::null()), PORTCULLIS_OK);
        let other = std::ptr::without_provenance(two.addr() ^ 0x10);
        assert_eq!(THINGS.find(other).map(|held| held.object.0), Err(PORTCULLIS_BAD_HANDLE));
    }

    #[test]
    fn panics_of_others_reach_the_hook_that_was_there() {
        // In a process of its own: hooks and standard error are the whole process's.
        if std::env::var_os("PORTCULLIS_TEST_PANIC").is_some() {
            let one = THINGS.insert(Thing(1)).unwrap();
            assert_eq!(with::<Thing>(one, |_| panic!("kept")), PORTCULLIS_INTERNAL);
            let worker = std::thread::Builder::new().name("portcullis".into());
            assert!(worker.spawn(|| panic!("a worker's")).unwrap().join().is_err());
            let mut text = [0; 256];
            // SAFETY: there is room.
            let status = unsafe {
                panic::portcullis_last_panic(text.as_mut_ptr(), text.len(), std::ptr::null_mut())
            };
            assert_eq!(status, PORTCULLIS_OK);
            let text: Vec<u8> = text.iter().map(|byte| *byte as u8).collect();
            assert!(String::from_utf8_lossy(&text).contains("a worker's"));
            assert!(std::thread::spawn(|| panic!("printed")).join().is_err());
            return;
        }
        let name = "handle::tests::panics_of_others_reach_the_hook_that_was_there";
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture"]).env("PORTCULLIS_TEST_PANIC", "1");
        let output = command.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{printed}");
        assert!(printed.contains("printed"), "{printed}");
        assert!(!printed.contains("kept") && !printed.contains("a worker's"), "{printed}");
    }

    #[test]
    fn a_panic_poisons_its_handle_alone() {
        let one = THINGS.insert(Thing(1)).unwrap();
        let two = THINGS.insert(Thing(2)).unwrap();
        assert_eq!(with::<Thing>(one, |_| panic!("on purpose")), PORTCULLIS_INTERNAL);
        assert_eq!(with::<Thing>(one, |_| Ok(())), PORTCULLIS_POISONED);
        let text = THINGS.find(one).unwrap().error();
        assert!(text.contains("on purpose") && text.contains("handle.rs:"), "{text}");
        assert_eq!(with::<Thing>(two, |_| Ok(())), PORTCULLIS_OK);
        assert_eq!(free::<Thing>(one), PORTCULLIS_OK);
    }

    #[test]
    fn a_panic_is_not_printed() {
        // In a process of its own: the harness has a hook too.
        if std::env::var_os("PORTCULLIS_PANIC").is_some() {
            let thing = THINGS.insert(Thing(1)).unwrap();
            let status = with::<Thing>(thing, |_| panic!("on purpose"));
            // As a worker of a firewall would.
            let worker = std::thread::Builder::new().name("portcullis".into());
            let worker = worker.spawn(|| panic!("in a worker")).unwrap().join();
            let well = status == PORTCULLIS_INTERNAL && worker.is_err();
            std::process::exit(if well { 7 } else { 1 });
        }
        let name = "handle::tests::a_panic_is_not_printed";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let again = again.args(["--exact", name, "--nocapture"]).env("PORTCULLIS_PANIC", "1");
        let output = again.output().unwrap();
        assert_eq!(output.status.code(), Some(7));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
