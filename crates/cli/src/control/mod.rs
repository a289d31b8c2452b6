//! The control socket as both sides see it: what is asked, what is answered, and where it is.
//!
//! A line of JSON asks, a line of JSON answers: `{"v":1,"op":"status"}`, then `{"v":1,"ok":{...}}` or
//! `{"v":1,"error":"..."}`. A capture answers with more: see [`capture`]; so do
//! flow records: see [`flows`]. Whoever can open the socket
//! (mode 0600: its owner, and root) may ask everything.

pub(crate) mod capture;
mod client;
pub(crate) mod flows;
pub(crate) mod status;
pub(crate) mod top;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use client::Client;

use crate::output::Refused;

/// Version of what is said over the socket; both sides must have the same.
pub(crate) const VERSION: u64 = 1;

/// Where sockets are unless told otherwise.
pub(crate) const FOLDER: &str = "/run/portcullis";

/// Longest line that a server takes, in bytes.
pub(crate) const LONGEST_REQUEST: usize = 64 * 1024;

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// How the firewall is: [`status::Status`].
    Status {},
    /// What flows: [`top::Top`].
    Top {},
    /// Why a flow is decided as it is, in words.
    Explain {
        /// As `portcullis explain --flow` takes it.
        flow: String,
    },
    /// Copies of packets, until it is ended.
    Capture(capture::Wanted),
    /// Flow records from now on, until it is ended: see [`flows`].
    Flows {},
    /// The end of a capture, or of following.
    End {},
}

impl Request {
    /// The line to send, without its end.
    pub(crate) fn line(&self) -> Result<String, Refused> {
        let mut value = serde_json::to_value(self)?;
        value["v"] = VERSION.into();
        Ok(value.to_string())
    }

    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it, for the client to read.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, String> {
        let mut value: serde_json::Value =
            serde_json::from_slice(line).map_err(|e| format!("not a request: {e}"))?;
        let object = value.as_object_mut().ok_or("not a request: expected a JSON object")?;
        match object.remove("v").and_then(|version| version.as_u64()) {
            Some(VERSION) => {}
            Some(other) => {
                return Err(format!(
                    "version {other} is not spoken here, {VERSION} is: use the `portcullis` that runs"
                ));
            }
            None => return Err(format!("no version: a request begins {{\"v\":{VERSION},...")),
        }
        serde_json::from_value(value).map_err(|e| format!("not a request: {e}"))
    }
}

/// What a server answers.
#[derive(Serialize, Deserialize)]
pub(crate) struct Answer<T> {
    v: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl<T> Answer<T> {
    pub(crate) fn ok(ok: T) -> Self {
        Self { v: VERSION, ok: Some(ok), error: None }
    }

    /// What the server said, or why it did not.
    pub(crate) fn into_result(self) -> Result<T, Refused> {
        match (self.v, self.ok, self.error) {
            (VERSION, Some(ok), _) => Ok(ok),
            (VERSION, None, error) => {
                Err(format!("error: the firewall says: {}", error.unwrap_or_default()).into())
            }
            (other, ..) => Err(format!(
                "error: the firewall speaks version {other}, this command {VERSION}: use the same \
                 portcullis for both"
            )
            .into()),
        }
    }
}

impl Answer<()> {
    pub(crate) fn error(error: String) -> Self {
        Self { v: VERSION, ok: None, error: Some(error) }
    }
}

/// Which firewall a command is about.
#[derive(clap::Args)]
pub(crate) struct Which {
    /// The firewall's control socket [default: the one in /run/portcullis]
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
}

impl Which {
    /// Connects to it.
    ///
    /// # Errors
    /// No firewall runs, several do, or the socket does not let us in.
    pub(crate) fn connect(&self) -> Result<Client, Refused> {
        if let Some(path) = &self.control {
            return Client::connect(path);
        }
        let mut alive = Vec::new();
        let mut refused = None;
        for path in sockets(Path::new(FOLDER)) {
            match Client::connect(&path) {
                Ok(client) => alive.push((path, client)),
                Err(error) if error.message().contains("ermission") => refused = Some(error),
                // What a dead firewall left behind.
                Err(_) => {}
            }
        }
        if alive.len() > 1 {
            let paths: Vec<String> =
                alive.iter().map(|(path, _)| format!("  --control {}", path.display())).collect();
            return Err(format!(
                "error: several firewalls run here; choose one:\n{}",
                paths.join("\n")
            )
            .into());
        }
        match (alive.pop(), refused) {
            (Some((_, client)), _) => Ok(client),
            (None, Some(refused)) => Err(refused),
            (None, None) => Err(format!(
                "error: no firewall runs here: no live socket in {FOLDER}; start one with `portcullis \
                 run`, or name its socket with --control"
            )
            .into()),
        }
    }
}

/// The sockets in a folder, by name; none if it cannot be read.
fn sockets(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "sock"));
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_its_line_and_back() {
        let capture =
            capture::Wanted { reasons: vec!["policy_denied".into()], ..Default::default() };
        for request in [
            Request::Status {},
            Request::Explain { flow: "tcp a/b > c/d:1".into() },
            Request::Capture(capture),
            Request::Flows {},
            Request::End {},
        ] {
            let line = request.line().unwrap_or_else(|e| panic!("{}", e.message()));
            assert!(!line.contains('\n'));
            assert_eq!(Request::parse(line.as_bytes()), Ok(request));
        }
    }

    #[test]
    fn broken_requests_are_refused_whatever_they_are() {
        let whole = Request::Capture(capture::Wanted::default()).line();
        let whole = whole.unwrap_or_else(|e| panic!("{}", e.message())).into_bytes();
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        for _ in 0..20_000 {
            let mut line = whole.clone();
            for _ in 0..1 + random(4) {
                let at = random(line.len());
                match random(3) {
                    0 => line[at] = random(256) as u8,
                    1 => line.truncate(at + 1),
                    _ => line.insert(at, b"{}[],:\"0-e"[random(10)]),
                }
            }
            // Whatever it is: an answer, never a panic; and what is taken can be said again.
            if let Ok(request) = Request::parse(&line) {
                assert!(request.line().is_ok());
            }
        }
    }

    #[test]
    fn what_is_no_request_is_named() {
        let nested = "[".repeat(100_000);
        for (line, expected) in [
            ("", "not a request"),
            ("status", "not a request"),
            ("[]", "expected a JSON object"),
            ("{\"op\":\"status\"}", "no version"),
            ("{\"v\":2,\"op\":\"status\"}", "version 2"),
            ("{\"v\":-1,\"op\":\"status\"}", "no version"),
            ("{\"v\":1,\"op\":\"destroy\"}", "destroy"),
            ("{\"v\":1,\"op\":\"status\",\"more\":1}", "more"),
            ("{\"v\":1,\"op\":\"explain\"}", "flow"),
            ("{\"v\":1,\"op\":\"capture\",\"rate\":-5}", "-5"),
            ("\u{0}\u{ff}", "not a request"),
            (&nested, "recursion limit"),
        ] {
            let error = Request::parse(line.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{line:.40}: {error}");
        }
    }
}
