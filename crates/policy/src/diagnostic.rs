//! What is wrong with a set of documents, and where: errors refuse the set, warnings do not.

use std::fmt;

use crate::model::Origin;

/// How much a [`Diagnostic`] weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The set is refused.
    Error,
    /// The set is loaded, but probably does not mean what its author thinks.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One finding; prints as `file:line:col: error: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where. Line and column are 0 if the finding is about a whole file.
    pub origin: Origin,
    /// How much it weighs.
    pub severity: Severity,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, severity, message } = self;
        if origin.line == 0 {
            write!(f, "{}: {severity}: {message}", origin.file)
        } else {
            write!(f, "{origin}: {severity}: {message}")
        }
    }
}

/// Why a set of documents was refused: never empty, by file and line, at most
/// [`LoadError::LIMIT`] of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The errors.
    pub errors: Vec<Diagnostic>,
    /// How many more there were.
    pub omitted: usize,
}

impl LoadError {
    /// The most errors that are kept: a broken generator repeats itself.
    pub const LIMIT: usize = 100;
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        if self.omitted > 0 {
            write!(f, "\n... and {} more errors", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

/// Collects findings while documents are read.
#[derive(Debug, Default)]
pub(crate) struct Report {
    errors: Vec<Diagnostic>,
    omitted: usize,
    warnings: Vec<Diagnostic>,
    omitted_warnings: usize,
}

/// The most warnings that are kept.
const MOST_WARNINGS: usize = 1000;

impl Report {
    pub(crate) fn error(&mut self, origin: Origin, message: impl Into<String>) {
        if self.errors.len() < LoadError::LIMIT {
            self.errors.push(Diagnostic {
                origin,
                severity: Severity::Error,
                message: message.into(),
            });
        } else {
            self.omitted += 1;
        }
    }

    pub(crate) fn warn(&mut self, origin: Origin, message: impl Into<String>) {
        if self.warnings.len() < MOST_WARNINGS {
            let message = message.into();
            self.warnings.push(Diagnostic { origin, severity: Severity::Warning, message });
        } else {
            self.omitted_warnings += 1;
        }
    }

    /// `value` and the warnings if nothing was wrong.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<(T, Vec<Diagnostic>), LoadError> {
        // Documents are not always read in the order in which they stand.
        self.errors.sort_by(|a, b| a.origin.cmp(&b.origin));
        self.warnings.sort_by(|a, b| a.origin.cmp(&b.origin));
        if let (true, Some(last)) = (self.omitted_warnings > 0, self.warnings.last_mut()) {
            last.message += &format!(" (and {} more warnings)", self.omitted_warnings);
        }
        if self.errors.is_empty() {
            Ok((value, self.warnings))
        } else {
            Err(LoadError { errors: self.errors, omitted: self.omitted })
        }
    }
}
