//! Anonymous network namespaces and the links between them.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// Why the network could not be built; says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotPossible {
    /// The kernel refused a namespace.
    #[error(
        "error: cannot create a network namespace: {0}: run as root (sudo), with CAP_SYS_ADMIN and CAP_NET_ADMIN"
    )]
    Namespace(std::io::Error),
    /// The `ip` command is missing.
    #[error("error: cannot run `ip`: {0}: install the package iproute2")]
    NoIp(std::io::Error),
    /// The `ip` command refused.
    #[error("error: `ip {command}` failed: {reason}")]
    Ip {
        /// Its arguments.
        command: String,
        /// What it printed.
        reason: String,
    },
    /// A socket or a setting was refused.
    #[error("error: {0}: {1}")]
    Io(String, std::io::Error),
}

/// A network namespace without a name, kept alive by an open descriptor.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: File,
}

impl Namespace {
    /// Creates an empty namespace with its loopback interface up.
    ///
    /// # Errors
    /// [`NotPossible`] without the privileges.
    pub(crate) fn new() -> Result<Self, NotPossible> {
        let file = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        })
        .map_err(NotPossible::Namespace)?;
        let namespace = Self { file };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs `work` on a thread inside the namespace. Sockets it opens stay in the namespace.
    ///
    /// # Errors
    /// [`NotPossible`] if the namespace cannot be entered.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NotPossible> {
        in_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
        .map_err(NotPossible::Namespace)
    }

    /// Runs `ip` inside the namespace with these blank-separated arguments.
    ///
    /// # Errors
    /// [`NotPossible`] with what `ip` printed.
    pub(crate) fn ip(&self, arguments: &str) -> Result<(), NotPossible> {
        let output = self
            .run(|| Command::new("ip").args(arguments.split_whitespace()).output())?
            .map_err(NotPossible::NoIp)?;
        if output.status.success() {
            return Ok(());
        }
        Err(NotPossible::Ip {
            command: arguments.to_owned(),
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Runs many commands of `ip`, one a line, by one process.
    ///
    /// # Errors
    /// [`NotPossible`] with what `ip` printed.
    pub(crate) fn ip_batch(&self, commands: &str) -> Result<(), NotPossible> {
        let run = || -> std::io::Result<std::process::Output> {
            let mut ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            // Without its end `ip` would wait for more. If it ends early, it says why.
            let written = ip.stdin.take().map(|mut to| to.write_all(commands.as_bytes()));
            let output = ip.wait_with_output()?;
            if output.status.success() {
                written.unwrap_or(Ok(()))?
            }
            Ok(output)
        };
        let output = self.run(run)?.map_err(NotPossible::NoIp)?;
        if output.status.success() {
            return Ok(());
        }
        Err(NotPossible::Ip {
            command: "-batch -".to_owned(),
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Joins this namespace's new interface `name` with the other's new interface `peer` by a veth
    /// pair with `queues` queues each way; both ends are up.
    ///
    /// # Errors
    /// [`NotPossible`], for example if a name is taken.
    pub(crate) fn join(
        &self,
        name: &str,
        other: &Namespace,
        peer: &str,
        queues: u32,
    ) -> Result<(), NotPossible> {
        let q = format!("numrxqueues {queues} numtxqueues {queues}");
        let path = other.path();
        self.ip(&format!("link add {name} {q} type veth peer name {peer} netns {path} {q}"))?;
        self.ip(&format!("link set {name} up"))?;
        other.ip(&format!("link set {peer} up"))
    }

    /// A path that names the namespace as long as this process lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

/// Runs `work` on a thread of its own, so that the caller's namespace never changes.
fn in_thread<T: Send>(work: impl FnOnce() -> std::io::Result<T> + Send) -> std::io::Result<T> {
    thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|_| Err(std::io::Error::other("thread died")))
    })
}
