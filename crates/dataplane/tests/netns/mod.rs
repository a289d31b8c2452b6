//! Three network namespaces in a row, for tests that need the kernel: a client and a server, and
//! between them the place where packets are moved. Everything vanishes with the value.
//!
//! ```text
//! client (c0, 10.9.0.1, fd09::1) - fw0 [forwarder] fw1 - (s0, 10.9.0.2, fd09::2) server
//! ```

pub(crate) mod raw;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The namespaces of one test.
#[derive(Debug)]
pub(crate) struct Net {
    prefix: String,
}

/// One of the three places.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    Client,
    Forwarder,
    Server,
}

impl Net {
    /// Makes the namespaces and links; `None`, said aloud, without the privileges.
    pub(crate) fn new(queues: u32, mtu: u32) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let net = Self { prefix: format!("pcx-{}-{n}", std::process::id()) };
        for place in [Place::Client, Place::Forwarder, Place::Server] {
            if !ip(&["netns", "add", &net.name(place)]).status.success() {
                eprintln!("skipped: needs CAP_NET_ADMIN and iproute2");
                return None;
            }
        }
        let (queues, mtu) = (queues.to_string(), mtu.to_string());
        for (end, host, port) in [(Place::Client, "c0", "fw0"), (Place::Server, "s0", "fw1")] {
            let (end, middle) = (net.name(end), net.name(Place::Forwarder));
            let link = [
                &["-n", &end, "link", "add", host, "numrxqueues", &queues, "numtxqueues", &queues]
                    [..],
                &["mtu", &mtu, "type", "veth", "peer", "name", port, "netns", &middle],
                &["numrxqueues", &queues, "numtxqueues", &queues, "mtu", &mtu],
            ]
            .concat();
            must(&link);
            must(&["-n", &end, "link", "set", host, "up"]);
            must(&["-n", &end, "link", "set", "lo", "up"]);
            must(&["-n", &middle, "link", "set", port, "up"]);
            let number = if host == "c0" { 1 } else { 2 };
            must(&["-n", &end, "addr", "add", &format!("10.9.0.{number}/24"), "dev", host]);
            let address = format!("fd09::{number}/64");
            must(&["-n", &end, "addr", "add", &address, "dev", host, "nodad"]);
        }
        Some(net)
    }

    pub(crate) fn name(&self, place: Place) -> String {
        let letter = match place {
            Place::Client => 'c',
            Place::Forwarder => 'f',
            Place::Server => 's',
        };
        format!("{}-{letter}", self.prefix)
    }

    /// Runs `ip` in a place; it must succeed.
    pub(crate) fn ip(&self, place: Place, args: &[&str]) -> String {
        must(&[&["-n", &self.name(place)], args].concat())
    }

    /// Puts a kernel bridge beneath the two ports.
    pub(crate) fn bridge(&self) {
        self.ip(Place::Forwarder, &["link", "add", "br0", "type", "bridge"]);
        self.ip(Place::Forwarder, &["link", "set", "br0", "up"]);
        for port in ["fw0", "fw1"] {
            self.ip(Place::Forwarder, &["link", "set", port, "master", "br0"]);
        }
    }

    /// Runs `work` on a thread of its own in a place.
    pub(crate) fn within<T: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let path = format!("/var/run/netns/{}", self.name(place));
        thread::spawn(move || {
            let namespace = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            // SAFETY: the descriptor is open; only this thread changes its namespace.
            let answer = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(answer, 0, "setns: {}", std::io::Error::last_os_error());
            work()
        })
    }

    /// Starts the bare forwarder between fw0 and fw1 and waits until it says `ready`.
    pub(crate) fn forward(&self, args: &[&str]) -> Forwarder {
        self.forward_with("", args)
    }

    /// As [`Net::forward`], with a variable set in its environment.
    pub(crate) fn forward_with(&self, variable: &str, args: &[&str]) -> Forwarder {
        let mut forwarder = self.start(variable, &[&["fw0", "fw1"], args].concat());
        let ready = forwarder.until("ready");
        assert!(ready, "the forwarder did not start: {:?}", forwarder.finish());
        forwarder
    }

    /// Runs the forwarder, which must refuse; answers what it says on standard error.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let output = self.start("", args).finish();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn start(&self, variable: &str, args: &[&str]) -> Forwarder {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name(Place::Forwarder)])
            .arg(example("forward"))
            .args(args)
            .envs((!variable.is_empty()).then_some((variable, "1")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip is installed");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Forwarder { child: Some(child), lines, said: Vec::new() }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for place in [Place::Client, Place::Forwarder, Place::Server] {
            ip(&["netns", "del", &self.name(place)]);
        }
    }
}

/// A running forwarder; killed with the value.
#[derive(Debug)]
pub(crate) struct Forwarder {
    child: Option<Child>,
    lines: Receiver<String>,
    pub(crate) said: Vec<String>,
}

impl Forwarder {
    /// Waits for a line; `false` if the output ends or too much time passes before.
    fn until(&mut self, wanted: &str) -> bool {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.said.push(line);
            if self.said.last().is_some_and(|line| line == wanted) {
                return true;
            }
        }
        false
    }

    /// The line about one interface's mode.
    pub(crate) fn mode(&self, interface: &str) -> &str {
        let about = |line: &&String| line.starts_with(&format!("{interface}: "));
        self.said.iter().find(about).map_or("", String::as_str)
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = self.child.as_ref().unwrap().id() as i32;
        // SAFETY: a signal to a process that this value started and has not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Ends its standard input and waits for it: its last words and status.
    pub(crate) fn finish(mut self) -> Output {
        let mut child = self.child.take().unwrap();
        drop(child.stdin.take());
        let mut output = child.wait_with_output().unwrap();
        let rest: Vec<_> = self.said.drain(..).chain(self.lines.iter()).collect();
        output.stdout = rest.join("\n").into_bytes();
        output
    }

    /// Kills it without any chance to clean up.
    pub(crate) fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Repeats `probe` until it answers true; `false` if it does not within `patience`.
pub(crate) fn eventually(patience: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if probe() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

/// The path of an example of this package: cargo builds examples before tests.
fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples");
    path.push(name);
    assert!(path.exists(), "{}: build it with `cargo build --examples`", path.display());
    path
}

fn ip(args: &[&str]) -> Output {
    Command::new("ip").args(args).output().unwrap_or_else(|error| panic!("ip: {error}"))
}

fn must(args: &[&str]) -> String {
    let output = ip(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {stderr}", args.join(" "));
    String::from_utf8(output.stdout).unwrap()
}
