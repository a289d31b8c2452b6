//! How every subcommand ends and how it speaks: one place for errors, exit codes, JSON and colour.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;

/// How a subcommand ended, when nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit code 0.
    Done,
    /// The answer is "there is something": exit code 1.
    Findings,
}

/// Something the user has to mend: printed as one line, exit code 2.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl<E: Display> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Refused {
    /// What to tell the user.
    pub(crate) fn message(&self) -> &str {
        &self.0
    }
}

/// Prints what went wrong, if anything, and answers the exit code.
pub(crate) fn exit_code(result: Result<Outcome, Refused>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        Err(Refused(message)) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

/// Prints one JSON value on a line of its own.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Refused> {
    text(&(serde_json::to_string(value)? + "\n"))
}

/// Prints text. A reader that has seen enough (`| head`) is no error.
pub(crate) fn text(text: &str) -> Result<(), Refused> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// `text` in green, on a terminal.
pub(crate) fn green(text: &str) -> String {
    coloured("32", text)
}

/// `text` in yellow, on a terminal.
pub(crate) fn yellow(text: &str) -> String {
    coloured("33", text)
}

/// `text` in red, on a terminal.
pub(crate) fn red(text: &str) -> String {
    coloured("31", text)
}

fn coloured(code: &str, text: &str) -> String {
    let wanted = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if wanted { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}
