//! Status codes, in numbered blocks. A number is never given another meaning.

/// Success.
pub const PORTCULLIS_OK: i32 = 0;

/// A pointer that must not be NULL is NULL.
pub const PORTCULLIS_NULL: i32 = 1;
/// Not a handle, a handle of another type, or one that was freed.
pub const PORTCULLIS_BAD_HANDLE: i32 = 2;
/// An earlier call on this handle failed inside the library; free it.
pub const PORTCULLIS_POISONED: i32 = 3;
/// Another thread is in a call on this judge.
pub const PORTCULLIS_BUSY: i32 = 4;
/// A `struct_size` that no version of the library knows, or bytes set that this version does not
/// know.
pub const PORTCULLIS_BAD_SIZE: i32 = 5;
/// A number that means nothing: an enumeration, a flag, a count.
pub const PORTCULLIS_BAD_VALUE: i32 = 6;
/// Text that is not UTF-8.
pub const PORTCULLIS_BAD_UTF8: i32 = 7;
/// The buffer is too small; the size needed was written.
pub const PORTCULLIS_TOO_SMALL: i32 = 8;

/// Documents were refused; the error text has a line `file:line:col: error: ...` for each finding.
pub const PORTCULLIS_REFUSED: i32 = 100;
/// The cluster contradicts itself, or the policies are too large.
pub const PORTCULLIS_POLICY: i32 = 101;
/// An address or prefix that the address table does not take.
pub const PORTCULLIS_PREFIX: i32 = 102;
/// No policy declares a set of this name.
pub const PORTCULLIS_NO_SUCH_SET: i32 = 103;
/// The address table is full.
pub const PORTCULLIS_TABLE_FULL: i32 = 104;
/// The compiled policies are not what the documents say, and were not put in force: a mistake of this
/// library, please report it. The handle is as good as before.
pub const PORTCULLIS_PROOF: i32 = 105;

/// Nothing is in force in this zone.
pub const PORTCULLIS_NO_SUCH_ZONE: i32 = 106;
/// Not a file of connections, one of another version, or a damaged one; the error text says which.
pub const PORTCULLIS_BAD_FILE: i32 = 107;

/// The system refused memory, a thread or a descriptor.
pub const PORTCULLIS_SYSTEM: i32 = 200;
/// An interface cannot be used; the error text says why and what to do.
pub const PORTCULLIS_INTERFACE: i32 = 201;
/// This library was built without AF_XDP.
pub const PORTCULLIS_NO_XDP: i32 = 202;
/// No wire of the firewall has this name.
pub const PORTCULLIS_NO_SUCH_WIRE: i32 = 203;

/// A mistake inside the library. The handle is poisoned: everything on it fails from now on.
pub const PORTCULLIS_INTERNAL: i32 = 300;

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: i32,
    /// For people; empty if the status says it all.
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(status: i32, text: impl std::fmt::Display) -> Self {
        Self { status, text: text.to_string() }
    }
}

impl From<i32> for Failure {
    fn from(status: i32) -> Self {
        Self { status, text: String::new() }
    }
}

impl From<portcullis_core::Error> for Failure {
    fn from(error: portcullis_core::Error) -> Self {
        use portcullis_core::Error;
        let status = match &error {
            Error::Policy(_) => PORTCULLIS_POLICY,
            Error::Prefix(_) => PORTCULLIS_PREFIX,
            Error::Table(_) => PORTCULLIS_TABLE_FULL,
            Error::Proof(_) => PORTCULLIS_PROOF,
            Error::NoSuchSet { .. } => PORTCULLIS_NO_SUCH_SET,
            Error::System(..) => PORTCULLIS_SYSTEM,
            #[cfg(feature = "xdp")]
            Error::Port(_)
            | Error::Queues { .. }
            | Error::WireExists { .. }
            | Error::InterfaceInUse { .. } => PORTCULLIS_INTERFACE,
            #[cfg(feature = "xdp")]
            Error::NoSuchWire { .. } => PORTCULLIS_NO_SUCH_WIRE,
            #[cfg(feature = "xdp")]
            Error::Cpu { .. } => PORTCULLIS_BAD_VALUE,
            _ => PORTCULLIS_INTERNAL,
        };
        Self::new(status, error)
    }
}

impl From<portcullis_core::policy::LoadError> for Failure {
    fn from(error: portcullis_core::policy::LoadError) -> Self {
        Self::new(PORTCULLIS_REFUSED, error)
    }
}

/// What a status means, as static NUL-terminated text; unknown numbers have a text too.
///
/// Never fails; any thread; the caller must not free the text.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_status_text(status: i32) -> *const core::ffi::c_char {
    let text = match status {
        PORTCULLIS_OK => c"success",
        PORTCULLIS_NULL => c"a pointer that must not be NULL is NULL",
        PORTCULLIS_BAD_HANDLE => c"not a handle of this type, or one that was freed",
        PORTCULLIS_POISONED => c"an earlier call on this handle failed inside the library",
        PORTCULLIS_BUSY => c"another thread is in a call on this judge",
        PORTCULLIS_BAD_SIZE => c"struct_size is wrong, or unknown fields are set",
        PORTCULLIS_BAD_VALUE => c"a number that means nothing",
        PORTCULLIS_BAD_UTF8 => c"text that is not UTF-8",
        PORTCULLIS_TOO_SMALL => c"the buffer is too small",
        PORTCULLIS_REFUSED => c"documents were refused",
        PORTCULLIS_POLICY => c"the cluster contradicts itself, or the policies are too large",
        PORTCULLIS_PREFIX => c"an address or prefix that the table does not take",
        PORTCULLIS_NO_SUCH_SET => c"no policy declares a set of this name",
        PORTCULLIS_TABLE_FULL => c"the address table is full",
        PORTCULLIS_PROOF => c"the compiled policies failed their proof",
        PORTCULLIS_NO_SUCH_ZONE => c"nothing is in force in this zone",
        PORTCULLIS_BAD_FILE => c"not a file of connections that can be read",
        PORTCULLIS_SYSTEM => c"the system refused memory, a thread or a descriptor",
        PORTCULLIS_INTERFACE => c"an interface cannot be used",
        PORTCULLIS_NO_SUCH_WIRE => c"no wire has this name",
        PORTCULLIS_NO_XDP => c"the library was built without AF_XDP",
        PORTCULLIS_INTERNAL => c"a mistake inside the library",
        _ => c"unknown status",
    };
    text.as_ptr()
}
