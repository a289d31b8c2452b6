//! How every subcommand ends and how it speaks: one place for errors and exit codes.

use std::fmt::Display;
use std::process::ExitCode;

/// How a subcommand ended, when nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit code 0.
    Done,
}

/// Something the user has to mend: printed as one line, exit code 2.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl<E: Display> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Prints what went wrong, if anything, and answers the exit code.
pub(crate) fn exit_code(result: Result<Outcome, Refused>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Err(Refused(message)) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}
