//! What the commands about policies share: reading documents.

use std::path::{Path, PathBuf};

use portcullis::identity_table::ClusterState;
use portcullis::policy;
use portcullis::policy::model::PolicySet;

use crate::output::Refused;

/// Reads a cluster; its warnings go to stderr.
pub(crate) fn cluster(path: &Path) -> Result<ClusterState, Refused> {
    let loaded = policy::load_cluster(path)?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    Ok(loaded.value)
}

/// Reads one set of policies from files and folders; its warnings go to stderr.
pub(crate) fn policies(paths: &[PathBuf]) -> Result<PolicySet, Refused> {
    let loaded = policy::load_policies(paths)?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    Ok(loaded.value)
}

/// Refuses `-` for more than one input.
pub(crate) fn one_stdin<'p>(inputs: impl IntoIterator<Item = &'p PathBuf>) -> Result<(), Refused> {
    if inputs.into_iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err("error: `-` (stdin) can stand for one input only".into());
    }
    Ok(())
}
