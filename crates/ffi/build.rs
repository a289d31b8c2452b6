//! Names the shared library, so that programs find the one they were linked against.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The number is the ABI version (`PORTCULLIS_ABI_VERSION`).
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libportcullis.so.1");
}
