//! What a wire takes.

use serde::Serialize;

use crate::output::Refused;

/// Memory in KiB: of this process, and of the machine as a whole, which includes what the kernel
/// keeps for sockets and programs, and whatever else the machine does meanwhile.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Memory {
    resident: f64,
    machine: f64,
}

impl Memory {
    /// As it is.
    ///
    /// # Errors
    /// There is no /proc.
    pub(super) fn now() -> Result<Self, Refused> {
        let available = field("/proc/meminfo", "MemAvailable:")?;
        Ok(Self { resident: field("/proc/self/status", "VmRSS:")?, machine: -available })
    }

    /// What each of `wires` took since.
    pub(super) fn since(&self, before: &Self, wires: u32) -> Self {
        let each = |now: f64, before: f64| (now - before) / f64::from(wires);
        Self {
            resident: each(self.resident, before.resident),
            machine: each(self.machine, before.machine),
        }
    }
}

fn field(path: &str, name: &str) -> Result<f64, Refused> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    Ok(kib.ok_or_else(|| format!("error: {path} has no {name}"))?)
}
