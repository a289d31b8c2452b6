//! What comes over the border: pointers, lengths, text, growable structs.

use core::ffi::{CStr, c_char};

use crate::status::{
    Failure, PORTCULLIS_BAD_SIZE, PORTCULLIS_BAD_UTF8, PORTCULLIS_BAD_VALUE, PORTCULLIS_NULL,
    PORTCULLIS_TOO_SMALL,
};

/// A slice of the caller's memory; NULL is fine for an empty one.
///
/// # Safety
/// `start` is NULL or points to `count` values that nobody changes while the slice lives.
pub(crate) unsafe fn slice<'a, T>(start: *const T, count: usize) -> Result<&'a [T], Failure> {
    check(start, count)?;
    if count == 0 {
        return Ok(&[]);
    }
    // SAFETY: by this function's contract; NULL, alignment and size were checked.
    Ok(unsafe { core::slice::from_raw_parts(start, count) })
}

/// A slice of the caller's memory to write to, which may be uninitialised.
///
/// # Safety
/// `start` is NULL or points to room for `count` values that nobody else uses while the slice lives.
pub(crate) unsafe fn slice_mut<'a, T>(
    start: *mut T,
    count: usize,
) -> Result<&'a mut [core::mem::MaybeUninit<T>], Failure> {
    check(start, count)?;
    if count == 0 {
        return Ok(&mut []);
    }
    // SAFETY: by this function's contract; NULL, alignment and size were checked.
    Ok(unsafe { core::slice::from_raw_parts_mut(start.cast(), count) })
}

fn check<T>(start: *const T, count: usize) -> Result<(), Failure> {
    if count == 0 {
        return Ok(());
    }
    if start.is_null() {
        return Err(PORTCULLIS_NULL.into());
    }
    let fits = count.checked_mul(size_of::<T>()).is_some_and(|bytes| bytes <= isize::MAX as usize);
    if !fits || !start.is_aligned() {
        return Err(PORTCULLIS_BAD_VALUE.into());
    }
    Ok(())
}

/// Whether two of the caller's buffers share memory: what is written to one would change the other
/// while it is read.
pub(crate) fn apart<A, B>(a: &[A], b: &[B]) -> Result<(), Failure> {
    let (a, b) = (a.as_ptr_range(), b.as_ptr_range());
    let shared = a.start.addr().max(b.start.addr())..a.end.addr().min(b.end.addr());
    if shared.is_empty() { Ok(()) } else { Err(PORTCULLIS_BAD_VALUE.into()) }
}

/// NUL-terminated UTF-8 text.
///
/// # Safety
/// `text` is NULL or points to NUL-terminated text that nobody changes while the answer lives.
pub(crate) unsafe fn text<'a>(text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(PORTCULLIS_NULL.into());
    }
    // SAFETY: by this function's contract.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| PORTCULLIS_BAD_UTF8.into())
}

/// As [`text`], where NULL means none.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn optional_text<'a>(start: *const c_char) -> Result<Option<&'a str>, Failure> {
    if start.is_null() {
        return Ok(None);
    }
    // SAFETY: by this function's contract.
    unsafe { text(start) }.map(Some)
}

/// Writes an out-parameter; NULL means that the caller does not want it.
///
/// # Safety
/// `out` is NULL or points to room for a `T`.
pub(crate) unsafe fn write<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: by this function's contract; NULL was checked.
        unsafe { out.write_unaligned(value) };
    }
}

/// An out-parameter that must be there.
pub(crate) fn required<T>(out: *const T) -> Result<(), Failure> {
    check(out, 1)
}

/// Structs that grow at the end.
///
/// # Safety
/// The type is `repr(C)` and every pattern of bits is a value of it. If it is read or written by its
/// own size, its first field is a `usize` that holds that.
pub(crate) unsafe trait Growable: Copy {
    /// Bytes of the first version.
    const FIRST: usize;
}

/// The most bytes a growable struct may claim.
const MOST: usize = 4096;

/// Whether a growable struct may have this size.
pub(crate) fn check_size<T: Growable>(size: usize) -> Result<(), Failure> {
    if (T::FIRST..=MOST).contains(&size) { Ok(()) } else { Err(PORTCULLIS_BAD_SIZE.into()) }
}

/// Reads a growable struct that begins with its size; NULL means all defaults.
///
/// # Safety
/// `from` is NULL or points to a `usize`, and to as many bytes as it says, which nobody changes.
pub(crate) unsafe fn read_growable<T: Growable>(from: *const T, defaults: T) -> Result<T, Failure> {
    if from.is_null() {
        return Ok(defaults);
    }
    check(from, 1)?;
    // SAFETY: by this function's contract there is a size.
    let size = unsafe { from.cast::<usize>().read() };
    // SAFETY: by this function's contract there are that many bytes.
    unsafe { read_sized(from, size, defaults) }
}

/// Reads a growable struct of `size` bytes over `defaults`: fields that the caller does not know keep
/// their default, bytes that this library does not know must be zero.
///
/// # Safety
/// `from` is NULL or points to `size` bytes, which nobody changes.
pub(crate) unsafe fn read_sized<T: Growable>(
    from: *const T,
    size: usize,
    defaults: T,
) -> Result<T, Failure> {
    check_size::<T>(size)?;
    // SAFETY: by this function's contract.
    let bytes = unsafe { slice(from.cast::<u8>(), size) }?;
    let known = size.min(size_of::<T>());
    if bytes[known..].iter().any(|byte| *byte != 0) {
        return Err(PORTCULLIS_BAD_SIZE.into());
    }
    let mut value = defaults;
    // SAFETY: `known` bytes are in both, and every pattern of bits is a `T`.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut value).cast(), known) };
    Ok(value)
}

/// Reads an array of growable structs, each `size` bytes.
///
/// # Safety
/// `from` is NULL or points to `size` times `count` bytes, which nobody changes.
pub(crate) unsafe fn read_array<T: Growable>(
    from: *const T,
    size: usize,
    count: usize,
    defaults: T,
) -> Result<Vec<T>, Failure> {
    check_size::<T>(size)?;
    let bytes = size.checked_mul(count).ok_or(PORTCULLIS_BAD_VALUE)?;
    // SAFETY: by this function's contract.
    let bytes = unsafe { slice(from.cast::<u8>(), bytes) }?;
    let each = bytes.chunks_exact(size);
    // SAFETY: each chunk has `size` bytes.
    each.map(|chunk| unsafe { read_sized(chunk.as_ptr().cast(), size, defaults) }).collect()
}

/// Whether [`write_growable`] would succeed.
///
/// # Safety
/// As there.
pub(crate) unsafe fn check_growable<T: Growable>(out: *const T) -> Result<(), Failure> {
    check(out, 1)?;
    // SAFETY: by this function's contract there is a size.
    check_size::<T>(unsafe { out.cast::<usize>().read() })
}

/// Writes as much of a growable struct as the caller, who set its size field, has room for.
///
/// # Safety
/// `out` is NULL or points to a `usize`, and to room for as many bytes as it says.
pub(crate) unsafe fn write_growable<T: Growable>(out: *mut T, value: T) -> Result<(), Failure> {
    check(out, 1)?;
    // SAFETY: by this function's contract there is a size.
    let size = unsafe { out.cast::<usize>().read() };
    // SAFETY: by this function's contract there is that much room.
    unsafe { write_sized(out.cast(), size, value) }?;
    // SAFETY: there is room for a size, and it is what it was.
    unsafe { out.cast::<usize>().write(size) };
    Ok(())
}

/// Writes a growable struct into `size` bytes; what this library does not know becomes zero.
///
/// # Safety
/// `out` is NULL or has room for `size` bytes.
pub(crate) unsafe fn write_sized<T: Growable>(
    out: *mut u8,
    size: usize,
    value: T,
) -> Result<(), Failure> {
    check_size::<T>(size)?;
    // SAFETY: by this function's contract.
    let room = unsafe { slice_mut(out, size) }?;
    room.fill(core::mem::MaybeUninit::new(0));
    let known = size.min(size_of::<T>());
    // SAFETY: `known` bytes are in both.
    unsafe { core::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), out, known) };
    Ok(())
}

/// Copies text, NUL-terminated, into the caller's buffer, and writes the bytes needed, the NUL
/// included. A buffer of size 0 may be NULL: that is how to ask for the size.
///
/// # Safety
/// `buffer` is NULL or has room for `size` bytes; `needed` is NULL or points to room for a number.
pub(crate) unsafe fn copy_text(
    text: &str,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> Result<(), Failure> {
    // A NUL inside would hide what follows.
    let clean = text.replace('\0', " ");
    // SAFETY: by this function's contract.
    unsafe { write(needed, clean.len() + 1) };
    if size == 0 && !needed.is_null() {
        return Ok(());
    }
    // SAFETY: by this function's contract.
    let room = unsafe { slice_mut(buffer, size) }?;
    if room.len() <= clean.len() {
        return Err(PORTCULLIS_TOO_SMALL.into());
    }
    for (room, byte) in room.iter_mut().zip(clean.bytes().chain([0])) {
        room.write(byte as c_char);
    }
    Ok(())
}

/// Room for growable structs in the caller's memory, each of the size that the caller knows.
pub(crate) struct Rooms<'a, T> {
    rest: &'a mut [core::mem::MaybeUninit<u8>],
    size: usize,
    of: core::marker::PhantomData<T>,
}

impl<T: Growable> Rooms<'_, T> {
    /// Room for `capacity` structs of `size` bytes.
    ///
    /// # Safety
    /// `start` is NULL or points to so much room that nobody else uses while this lives.
    pub(crate) unsafe fn new(start: *mut T, size: usize, capacity: usize) -> Result<Self, Failure> {
        check_size::<T>(size)?;
        let bytes = size.checked_mul(capacity).ok_or(PORTCULLIS_BAD_VALUE)?;
        // SAFETY: by this function's contract.
        let rest = unsafe { slice_mut(start.cast::<u8>(), bytes) }?;
        Ok(Self { rest, size, of: core::marker::PhantomData })
    }

    /// Whether there is room for one more.
    pub(crate) fn has_room(&self) -> bool {
        !self.rest.is_empty()
    }

    /// All that is left.
    pub(crate) fn rest(&self) -> &[core::mem::MaybeUninit<u8>] {
        self.rest
    }

    /// Writes the next one; what there is no room for is left out.
    pub(crate) fn put(&mut self, value: T) {
        let rest = core::mem::take(&mut self.rest);
        let Some((here, rest)) = rest.split_at_mut_checked(self.size) else { return };
        self.rest = rest;
        // SAFETY: the room is of that size, which was checked, so that nothing can go wrong.
        let _ = unsafe { write_sized(here.as_mut_ptr().cast(), self.size, value) };
    }
}
