//! `include/portcullis.h` is what the source says, and a change of it is a change of the ABI version.
//!
//! `crates/ffi/header` writes it anew.

use std::path::{Path, PathBuf};

/// Fingerprint of the header's declarations for each ABI version, the present one last. A change that
/// an old caller cannot notice (a new function, a new constant) replaces the last line; any other
/// needs a line, and `PORTCULLIS_ABI_VERSION`, of its own.
const VERSIONS: &[(u32, u64)] = &[(1, 0x5dff_cf78_138a_3a57)];

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn committed() -> PathBuf {
    folder().join("include/portcullis.h")
}

fn generate() -> String {
    let config = cbindgen::Config::from_file(folder().join("cbindgen.toml")).unwrap();
    let builder = cbindgen::Builder::new().with_config(config);
    let builder = builder.with_src(folder().join("src/lib.rs"));
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    let header = String::from_utf8(header).unwrap();
    // How Rust's safety sections read in C.
    header.replace(" * # Safety\n", " * Undefined unless:\n")
}

/// The header without comments and blanks.
fn declarations(header: &str) -> String {
    let mut text = String::new();
    let mut rest = header;
    while let Some((code, comment)) = rest.split_once("/*") {
        text += code;
        rest = comment.split_once("*/").map_or("", |(_, rest)| rest);
    }
    text += rest;
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// FNV-1a: stable everywhere.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn the_committed_header_is_what_the_source_says() {
    let header = generate();
    if std::env::var_os("PORTCULLIS_WRITE_HEADER").is_some() {
        std::fs::write(committed(), &header).unwrap();
    }
    let committed = std::fs::read_to_string(committed()).unwrap_or_default();
    assert!(header == committed, "include/portcullis.h is out of date: run crates/ffi/header");
}

#[test]
fn a_change_of_the_header_is_a_change_of_the_version() {
    let found = fingerprint(&declarations(&generate()));
    let (version, known) = VERSIONS.last().unwrap();
    let source = std::fs::read_to_string(folder().join("src/lib.rs")).unwrap();
    assert!(
        source.contains(&format!("PORTCULLIS_ABI_VERSION: u32 = {version};")),
        "VERSIONS here and PORTCULLIS_ABI_VERSION in lib.rs differ"
    );
    assert_eq!(
        *known, found,
        "declarations changed: 0x{found:016x}; see VERSIONS in this file for what to do"
    );
}
