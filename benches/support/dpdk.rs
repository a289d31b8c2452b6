//! Compiles a C file of `benches/peers` against DPDK, loads it and starts DPDK on one CPU.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::process::Command;

/// A loaded library; stays loaded until the program ends.
pub(crate) struct Library {
    handle: *mut c_void,
    name: &'static str,
}

impl Library {
    /// Compiles `benches/peers/{name}.c`, loads it and calls its `start(cpu, megabytes)`; or says what
    /// is missing.
    pub(crate) fn start(name: &'static str, cpu: &str, megabytes: &str) -> Result<Self, String> {
        let path = compile(name)?;
        let file = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
        // SAFETY: the library was just made from a file of this tree, and stays loaded.
        let handle = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW) };
        let _ = std::fs::remove_file(&path);
        if handle.is_null() {
            // SAFETY: no other thread of this program uses dlopen.
            let why = unsafe { libc::dlerror() };
            // SAFETY: dlerror gives a string after a failed dlopen.
            let why = unsafe { CStr::from_ptr(why) };
            return Err(format!("{}: {}", path.display(), why.to_string_lossy()));
        }
        let library = Self { handle, name };
        type Start = unsafe extern "C" fn(*const c_char, *const c_char) -> c_int;
        // SAFETY: every file of benches/peers declares it so.
        let start: Start = unsafe { library.function(c"start") };
        let text = |text: &str| CString::new(text).map_err(|e| e.to_string());
        let (cpu, memory) = (text(cpu)?, text(megabytes)?);
        // SAFETY: two C strings, read before it returns.
        if unsafe { start(cpu.as_ptr(), memory.as_ptr()) } != 0 {
            return Err(format!("DPDK does not start: it wants {megabytes} MB and the CPU"));
        }
        Ok(library)
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` is the type that the C file declares: an `unsafe extern "C" fn`.
    pub(crate) unsafe fn function<F: Copy>(&self, name: &CStr) -> F {
        assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
        // SAFETY: the handle is open and the name is a C string.
        let symbol = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        assert!(!symbol.is_null(), "{name:?} is in {}.c", self.name);
        // SAFETY: both are of the size of a pointer; the caller vouches for the type.
        unsafe { std::mem::transmute_copy(&symbol) }
    }
}

fn compile(name: &str) -> Result<PathBuf, String> {
    let flags = |what| {
        let output = Command::new("pkg-config").args([what, "libdpdk"]).output();
        let output = output.ok().filter(|output| output.status.success());
        let output = output.ok_or("needs libdpdk-dev and pkg-config")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok::<Vec<String>, String>(text.split_whitespace().map(str::to_owned).collect())
    };
    let source = format!("{}/benches/peers/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let library = std::env::temp_dir().join(format!("{name}-{}.so", std::process::id()));
    let status = Command::new("cc")
        .args(["-O3", "-march=native", "-shared", "-fPIC", "-Wno-deprecated-declarations"])
        .args(flags("--cflags")?)
        .arg(&source)
        .arg("-o")
        .arg(&library)
        .args(flags("--libs")?)
        .status();
    match status {
        Ok(status) if status.success() => Ok(library),
        _ => Err(format!("needs a C compiler that takes {source}")),
    }
}

/// CPU time of this thread, in seconds.
pub(crate) fn seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the duration of the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(status, 0, "the thread CPU clock exists on every Linux");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
