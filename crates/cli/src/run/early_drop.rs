//! The file of prefixes that the kernel drops at once: read at the start and whenever it changes.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use portcullis::Firewall;

use crate::output::Refused;

/// Room for prefixes of each address family; unused room costs nothing.
pub(super) const CAPACITY: u32 = 1 << 20;

/// A file of prefixes, and what it held when it was read last.
pub(super) struct EarlyDrop {
    path: PathBuf,
    prefixes: Vec<IpNet>,
}

impl EarlyDrop {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or a line of it is no prefix.
    pub(super) fn read(path: &Path) -> Result<Self, Refused> {
        Ok(Self { path: path.to_owned(), prefixes: prefixes(path)? })
    }

    /// Puts what was read in force.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn start(&self, firewall: &Firewall) -> Result<(), Refused> {
        let replaced = firewall.replace_early_drop(&self.prefixes)?;
        println!("early drop: {} prefixes", replaced.prefixes);
        Ok(())
    }

    /// Reads the file again, if it changed; whatever is wrong with it, what is in force stays.
    pub(super) fn reload(&mut self, firewall: &Firewall) {
        match prefixes(&self.path) {
            Ok(prefixes) if prefixes == self.prefixes => {}
            Ok(prefixes) => match firewall.replace_early_drop(&prefixes) {
                Ok(replaced) => {
                    self.prefixes = prefixes;
                    println!(
                        "early drop: {} prefixes, {} new, {} gone",
                        replaced.prefixes, replaced.added, replaced.removed
                    );
                }
                Err(error) => eprintln!("{error}"),
            },
            Err(error) => {
                eprintln!("{}", error.message());
                eprintln!("note: {} early-drop prefixes stay in force", self.prefixes.len());
            }
        }
    }
}

fn prefixes(path: &Path) -> Result<Vec<IpNet>, Refused> {
    let text =
        std::fs::read_to_string(path).map_err(|e| format!("error: {}: {e}", path.display()))?;
    let prefixes = parse(&text)
        .map_err(|(line, what)| format!("{}:{line}:1: error: {what}", path.display()))?;
    let v4 = prefixes.iter().filter(|net| net.addr().is_ipv4()).count();
    if v4.max(prefixes.len() - v4) > CAPACITY as usize {
        return Err(format!(
            "error: {}: more than {CAPACITY} prefixes of one address family",
            path.display()
        )
        .into());
    }
    Ok(prefixes)
}

/// A prefix or an address a line; `#` begins a comment. Errors: the line, and what is wrong with it.
fn parse(text: &str) -> Result<Vec<IpNet>, (usize, String)> {
    let mut prefixes = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.split_once('#').map_or(line, |(before, _)| before).trim();
        if line.is_empty() {
            continue;
        }
        let net = line.parse::<IpNet>().or_else(|_| line.parse::<IpAddr>().map(IpNet::from));
        let net =
            net.map_err(|_| (n + 1, format!("{line:?} is no prefix such as 192.0.2.0/24")))?;
        prefixes.push(net.trunc());
    }
    Ok(prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_addresses_and_comments() {
        let text = "# feed\n192.0.2.77/24\n\n2001:db8::/32 # a note\r\n198.51.100.7\n::1\n";
        let read: Vec<String> = parse(text).unwrap().iter().map(IpNet::to_string).collect();
        assert_eq!(read, ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32", "::1/128"]);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_prefix_is_named_with_its_line() {
        for bad in ["300.0.0.1", "10.0.0.0/33", "10.0.0.0/8 10.1.0.0/16", "example.org", "/8"] {
            let (line, what) = parse(&format!("10.0.0.0/8\n{bad}\n")).unwrap_err();
            assert_eq!(line, 2);
            assert!(what.contains(bad), "{what}");
        }
    }
}
