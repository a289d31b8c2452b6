//! The part of the settings that is about the machine: CPUs, memory, polling, pins.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use portcullis::dataplane::port::xdp::{BusyPoll, HugePages, Numa};
use portcullis::{Config, Firewall};
use serde::Deserialize;

/// Flags about the machine.
#[derive(Clone, clap::Args, Debug, Default)]
#[command(next_help_heading = "Machine")]
pub(super) struct Flags {
    /// CPUs for the workers, one each, such as 2,3 [default: the scheduler's choice]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Nice value of the workers, -20 to 19 [default: -20]
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true, value_parser = clap::value_parser!(i8).range(-20..=19))]
    nice: Option<i8>,
    /// Packet memory in huge pages: never, prefer or require (they must be reserved) [default: never]
    #[arg(long, value_name = "WHEN")]
    huge_pages: Option<String>,
    /// NUMA node of the packet memory: a number, or interfaces (theirs), or any [default: interfaces]
    #[arg(long, value_name = "NODE")]
    numa: Option<String>,
    /// Workers run the drivers' receive work themselves, for this many microseconds a call
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    busy_poll: Option<u32>,
    /// Keep the XDP programs in this folder of a BPF file system, so that they outlive the process
    #[arg(long, value_name = "FOLDER")]
    pins: Option<PathBuf>,
}

/// What the file says of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Machine {
    cpus: Vec<usize>,
    nice: Option<i8>,
    huge_pages: Option<String>,
    numa: Option<NodeName>,
    busy_poll: Option<Polling>,
    pins: Option<PathBuf>,
}

/// A number or a word.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum NodeName {
    Number(u32),
    Word(String),
}

/// How workers poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Polling {
    microseconds: u32,
    /// Packets a call.
    #[serde(default = "Polling::budget")]
    budget: u16,
}

impl Polling {
    fn budget() -> u16 {
        64
    }
}

impl Machine {
    /// Flags over file.
    pub(super) fn merge(self, flags: Flags) -> Self {
        let polling = |microseconds| Polling { microseconds, budget: Polling::budget() };
        Self {
            cpus: if flags.cpus.is_empty() { self.cpus } else { flags.cpus },
            nice: flags.nice.or(self.nice),
            huge_pages: flags.huge_pages.or(self.huge_pages),
            numa: flags.numa.map(NodeName::Word).or(self.numa),
            busy_poll: flags.busy_poll.map(polling).or(self.busy_poll),
            pins: flags.pins.or(self.pins),
        }
    }

    /// Makes paths mean the same wherever the command is started.
    pub(super) fn below(&mut self, folder: &Path) {
        if let Some(pins) = &mut self.pins {
            *pins = folder.join(&pins);
        }
    }

    /// Puts it into the firewall's settings.
    ///
    /// # Errors
    /// Words that mean nothing.
    pub(super) fn apply(&self, config: Config) -> Result<Config, String> {
        let huge_pages = match self.huge_pages.as_deref() {
            None | Some("never") => HugePages::Never,
            Some("prefer") => HugePages::Prefer,
            Some("require") => HugePages::Require,
            Some(other) => {
                return Err(format!(
                    "error: huge-pages {other:?}: expected never, prefer or require"
                ));
            }
        };
        let numa = self.numa.as_ref().map_or(Ok(Numa::default()), NodeName::numa)?;
        let busy_poll = match self.busy_poll {
            Some(Polling { microseconds: 0, .. } | Polling { budget: 0, .. }) => {
                return Err("error: busy-poll: microseconds and budget are at least 1".to_owned());
            }
            Some(Polling { microseconds, budget }) => Some(BusyPoll { microseconds, budget }),
            None => None,
        };
        let config = match self.nice {
            None => config,
            Some(nice @ -20..=19) => config.nice(nice),
            Some(other) => return Err(format!("error: nice {other}: expected -20 to 19")),
        };
        Ok(config.cpus(self.cpus.clone()).ports(|ports| {
            ports.huge_pages = huge_pages;
            ports.numa = numa;
            ports.busy_poll = busy_poll;
            ports.pins = self.pins.clone();
        }))
    }

    /// What came of it, for the line `machine:` and the status.
    pub(super) fn obtained(&self, firewall: &Firewall) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let cpus: Vec<String> = firewall
            .cpus()
            .map(|cpu| cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string()))
            .collect();
        let _ = write!(text, "workers on CPU {}", cpus.join(", "));
        // All have the same.
        let _ = write!(text, ", nice {}", firewall.nice().next().unwrap_or(0));
        let mut told = Vec::new();
        for port in firewall.ports() {
            let memory = port.memory.to_string();
            if !told.contains(&memory) {
                let _ = write!(text, "; packet memory {memory}");
                told.push(memory);
            }
        }
        let ports = firewall.ports();
        let refused = ports.iter().find_map(|p| p.memory.huge_pages_refused.as_ref());
        if let Some(why) = refused {
            let _ = write!(text, " (no huge pages: {why})");
        }
        match self.busy_poll {
            Some(Polling { microseconds, budget }) => {
                let _ = write!(text, "; busy polling {microseconds} us, {budget} packets");
            }
            None => text.push_str("; no busy polling"),
        }
        if let Some(pins) = &self.pins {
            let _ = write!(text, "; programs pinned at {}", pins.display());
        }
        text
    }
}

impl NodeName {
    fn numa(&self) -> Result<Numa, String> {
        match self {
            Self::Number(node) => Ok(Numa::Node(*node)),
            Self::Word(word) if word == "interfaces" => Ok(Numa::Interfaces),
            Self::Word(word) if word == "any" => Ok(Numa::Anywhere),
            Self::Word(word) => word.parse().map(Numa::Node).map_err(|_| {
                format!("error: numa {word:?}: expected a node's number, interfaces or any")
            }),
        }
    }
}
