//! Where documents come from: files, folders, standard input, or text held in memory.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostic::Report;
use crate::model::Origin;

/// The largest file that is read, in bytes. A larger one is refused before it is read.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// The most files that a folder may hold.
pub const MAX_FILES: usize = 100_000;

/// One text with documents in it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name that errors carry.
    pub name: Arc<str>,
    /// The documents: YAML or JSON, UTF-8, several separated by `---`.
    pub text: Vec<u8>,
}

impl Source {
    /// Text held in memory; `name` stands in errors where a file name would.
    pub fn new(name: &str, text: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

/// Reads what `path` names: a file, standard input (`-`), or a folder, whose `*.yaml`, `*.yml` and
/// `*.json` files are read in the order of their names, sub-folders included.
pub(crate) fn read(path: &Path, report: &mut Report) -> Vec<Source> {
    if path.as_os_str() == "-" {
        return read_stream(std::io::stdin().lock(), "<stdin>", report).into_iter().collect();
    }
    let files = match fs::metadata(path) {
        Ok(found) if found.is_dir() => list(path, report),
        Ok(_) => vec![path.to_owned()],
        Err(error) => {
            report.error(whole(&path.to_string_lossy()), format!("cannot read: {error}"));
            return Vec::new();
        }
    };
    files.iter().filter_map(|file| read_file(file, report)).collect()
}

/// The document files under `folder`, sorted. An empty folder is an empty set: that is how the last
/// policy is taken away.
fn list(folder: &Path, report: &mut Report) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                report.error(whole(&folder.to_string_lossy()), format!("cannot list: {error}"));
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            // A Kubernetes volume shows each file again through hidden folders (`..data`).
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if path.is_dir() {
                // Deeper than that is a link that leads back up.
                if depth < 16 {
                    folders.push((path, depth + 1));
                }
            } else if matches!(
                path.extension().and_then(|e| e.to_str()),
                Some("yaml" | "yml" | "json")
            ) {
                files.push(path);
            }
            if files.len() > MAX_FILES {
                report.error(
                    whole(&folder.to_string_lossy()),
                    format!("more than {MAX_FILES} files: is this the right folder?"),
                );
                return Vec::new();
            }
        }
    }
    files.sort();
    files
}

fn read_file(path: &Path, report: &mut Report) -> Option<Source> {
    let name = path.to_string_lossy();
    match fs::File::open(path) {
        Ok(file) => read_stream(file, &name, report),
        Err(error) => {
            report.error(whole(&name), format!("cannot read: {error}"));
            None
        }
    }
}

fn read_stream(stream: impl Read, name: &str, report: &mut Report) -> Option<Source> {
    let mut text = Vec::new();
    if let Err(error) = stream.take(MAX_FILE_BYTES + 1).read_to_end(&mut text) {
        report.error(whole(name), format!("cannot read: {error}"));
        return None;
    }
    Some(Source { name: name.into(), text })
}

/// The origin of a finding about a file as a whole.
fn whole(name: &str) -> Origin {
    Origin { file: name.into(), line: 0, column: 0 }
}
