//! The text format of ClassBench (Taylor and Turner, 2007), in and out, and its traces.
//!
//! A rule is a line, the first line wins:
//!
//! ```text
//! @source/len destination/len low : high low : high protocol/mask [flags/mask]
//! ```
//!
//! Fields are separated by blanks. Addresses are IPv4 or IPv6; protocol, flags and masks are
//! hexadecimal with `0x`; a protocol may also be `tcp`, `udp`, `icmp`, `sctp` and so on. A protocol mask of
//! `0x00` means any. For ICMP the last field is type and code, one byte each. Blank lines and
//! lines that start with `#` are skipped.

mod parse;
mod token;
mod trace;
mod write;

pub use parse::parse;
pub use trace::parse_trace;
pub use write::{Inexpressible, write};

/// A line that was refused: `file:line:column: what is wrong`.
///
/// ```
/// use portcullis_classifier::classbench;
///
/// let line = "@10.0.0.0/8 0.0.0.0/0 0 : 65535 90 : 80 0x06/0xFF";
/// let error = classbench::parse("rules", line).unwrap_err().to_string();
/// assert!(error.starts_with("rules:1:"), "{error}");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: error: {message}")]
pub struct ParseError {
    /// The name given to the text.
    pub file: String,
    /// 1-based line.
    pub line: usize,
    /// 1-based column, in bytes.
    pub column: usize,
    /// What was expected and what was found.
    pub message: String,
}
