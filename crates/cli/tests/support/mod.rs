//! A client, a server, and `portcullis run` on the wire between them.

#[allow(dead_code)] // each test uses its own part
pub(crate) mod pins;
#[allow(dead_code)] // each test uses its own part
pub(crate) mod tap;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Echo, Host, Namespace};

pub(crate) const CLUSTER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
status: {phase: Running, podIPs: [{ip: 10.78.0.1}, {ip: 'fd78::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
status: {phase: Running, podIPs: [{ip: 10.78.0.2}, {ip: 'fd78::2'}]}
";

pub(crate) const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-client}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 5432}]
";

/// Whether namespaces can be made here; says `skipped` if not.
pub(crate) fn privileged() -> bool {
    match Namespace::new() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN ({error})");
            false
        }
    }
}

/// Two hosts, and the firewall's namespace between them.
pub(crate) struct Wire {
    client: Host,
    _server: Host,
    firewall: Namespace,
    folder: PathBuf,
    _services: [Echo; 2],
}

impl Wire {
    /// Builds it, with echo services on 5432 and 8080 and both documents written.
    pub(crate) fn build() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("portcullis-run-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (client, server) = (Host::new().unwrap(), Host::new().unwrap());
        let firewall = Namespace::new().unwrap();
        client.namespace().join("eth0", &firewall, "fw0", 2).unwrap();
        server.namespace().join("eth0", &firewall, "fw1", 2).unwrap();
        for (host, v4, v6) in [(&client, "10.78.0.1", "fd78::1"), (&server, "10.78.0.2", "fd78::2")]
        {
            host.add_address(v4.parse().unwrap()).unwrap();
            host.add_address(v6.parse().unwrap()).unwrap();
        }
        let services = [server.echo(5432).unwrap(), server.echo(8080).unwrap()];
        let wire = Self { client, _server: server, firewall, folder, _services: services };
        std::fs::write(wire.folder.join("cluster.yaml"), CLUSTER).unwrap();
        wire.write_policies(POLICIES);
        wire
    }

    /// The client's namespace and the server's.
    #[allow(dead_code)] // each test uses its own part
    pub(crate) fn ends(&self) -> [&Namespace; 2] {
        [self.client.namespace(), self._server.namespace()]
    }

    /// The namespace in which the command runs.
    #[allow(dead_code)] // each test uses its own part
    pub(crate) fn middle(&self) -> &Namespace {
        &self.firewall
    }

    /// Paths of the cluster and policies files.
    pub(crate) fn files(&self) -> (String, String) {
        (self.file("cluster.yaml"), self.file("policies.yaml"))
    }

    /// Path of a file in the wire's own folder.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// Replaces the policies file as an editor does.
    pub(crate) fn write_policies(&self, text: &str) {
        let new = self.folder.join(".policies.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.folder.join("policies.yaml")).unwrap();
    }

    /// Starts the command on the wire.
    pub(crate) fn run(&self, more: &[&str]) -> Running {
        let (cluster, policies) = self.files();
        let mut arguments =
            vec!["--wire", "fw0:fw1", "--cluster", &cluster, "--policies", &policies];
        arguments.extend(more);
        Running::follow(self.spawn(&arguments))
    }

    /// Runs the command expecting it to refuse: its exit code and what it said.
    pub(crate) fn refused(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.spawn(arguments).wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    /// Runs the command as the user nobody, from a copy that nobody may execute.
    pub(crate) fn refused_to_nobody(&self) -> (Option<i32>, String) {
        const NOBODY: u32 = 65534;
        let binary = self.folder.join("portcullis");
        std::fs::copy(env!("CARGO_BIN_EXE_portcullis"), &binary).unwrap();
        let (cluster, policies) = self.files();
        let arguments = ["--wire", "fw0:fw1", "--cluster", &cluster, "--policies", &policies];
        let mut command = Command::new(binary);
        command.uid(NOBODY).gid(NOBODY);
        let output = self.spawn_as(command, &arguments).wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        self.spawn_as(Command::new(env!("CARGO_BIN_EXE_portcullis")), arguments)
    }

    fn spawn_as(&self, mut command: Command, arguments: &[&str]) -> Child {
        self.firewall
            .run(|| {
                command
                    .arg("run")
                    .args(arguments)
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
            })
            .unwrap()
            .unwrap()
    }

    /// A connection to the server.
    #[allow(dead_code)] // each test uses its own part
    pub(crate) fn connect(&self, server: SocketAddr, patience: Duration) -> TcpStream {
        self.client.connect(server, patience).unwrap().unwrap()
    }

    /// Whether a connection to the server is made and echoes.
    pub(crate) fn reaches(&self, server: SocketAddr, patience: Duration) -> bool {
        let Ok(mut stream) = self.client.connect(server, patience).unwrap() else { return false };
        let mut answer = [0; 4];
        stream.set_read_timeout(Some(patience)).unwrap();
        stream.write_all(b"ping").is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && &answer == b"ping"
    }

    /// Sends `count` bytes and compares what comes back; answers how many came back right.
    pub(crate) fn bulk(&self, server: SocketAddr, count: usize) -> Result<usize, String> {
        let mut stream = self
            .client
            .connect(server, Duration::from_secs(2))
            .unwrap()
            .map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let byte = |n: usize| (n * 31 + n / 251) as u8;
        let mut writer = stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            let data: Vec<u8> = (0..count).map(byte).collect();
            writer.write_all(&data).map_err(|e| e.to_string())
        });
        let mut buffer = vec![0; 64 * 1024];
        let mut seen = 0;
        while seen < count {
            match stream.read(&mut buffer) {
                Ok(0) => return Err(format!("closed after {seen} bytes")),
                Ok(read) => {
                    if let Some(at) = (0..read).find(|&n| buffer[n] != byte(seen + n)) {
                        return Err(format!("byte {} differs", seen + at));
                    }
                    seen += read;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("after {seen} bytes: {error}")),
            }
        }
        sender.join().unwrap()?;
        Ok(seen)
    }

    /// Sends datagrams to a port of the server that echoes them, one every `pause`, until told to stop.
    #[allow(dead_code)] // each test uses its own part
    pub(crate) fn udp_stream(&self, port: u16, pause: Duration) -> UdpStream {
        let (v4, any) = ("10.78.0.2", "0.0.0.0:0");
        let bind = |namespace: &Namespace, address: &str| {
            let socket = namespace.run(|| UdpSocket::bind(address)).unwrap().unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            socket
        };
        let server = bind(self._server.namespace(), &format!("{v4}:{port}"));
        let client = bind(self.client.namespace(), any);
        client.connect((v4, port)).unwrap();
        let stop = Arc::<AtomicBool>::default();
        let done = Arc::clone(&stop);
        let echo = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !done.load(Ordering::Relaxed) {
                if let Ok((len, from)) = server.recv_from(&mut buffer) {
                    let _ = server.send_to(&buffer[..len], from);
                }
            }
        });
        let (done, sender) = (Arc::clone(&stop), client.try_clone().unwrap());
        let send = std::thread::spawn(move || {
            let mut sent = 0u64;
            while !done.load(Ordering::Relaxed) {
                // A way that is closed just now is a loss, which the missing echo counts.
                let _ = sender.send(&sent.to_be_bytes());
                sent += 1;
                std::thread::sleep(pause);
            }
            sent
        });
        let done = Arc::clone(&stop);
        let receive = std::thread::spawn(move || {
            let (mut buffer, mut seen) = ([0; 64], std::collections::BTreeSet::new());
            loop {
                match client.recv(&mut buffer) {
                    Ok(8) => drop(seen.insert(buffer[..8].to_owned())),
                    _ if done.load(Ordering::Relaxed) => return seen.len() as u64,
                    _ => {}
                }
            }
        });
        UdpStream { stop, echo, send, receive }
    }

    /// Whether an XDP program is attached to either port.
    pub(crate) fn has_program(&self) -> bool {
        let output = self.firewall.run(|| Command::new("ip").args(["link", "show"]).output());
        let text = String::from_utf8(output.unwrap().unwrap().stdout).unwrap();
        text.contains("xdp")
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Datagrams on their way there and back.
pub(crate) struct UdpStream {
    stop: Arc<AtomicBool>,
    echo: JoinHandle<()>,
    send: JoinHandle<u64>,
    receive: JoinHandle<u64>,
}

impl UdpStream {
    /// Stops; answers how many were sent and how many of them had no echo.
    #[allow(dead_code)] // each test uses its own part
    pub(crate) fn finish(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.send.join().unwrap();
        let echoed = self.receive.join().unwrap();
        self.echo.join().unwrap();
        (sent, sent - echoed)
    }
}

/// The command, running.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// Reads what a child says.
    pub(crate) fn follow(mut child: Child) -> Self {
        let (lines, received) = channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let lines = lines.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = lines.send(line);
                }
            });
        }
        Self { child, lines: received }
    }

    /// Waits for a line that contains `text` and answers it. Patience counts from the last line, and
    /// ends twice, so that a machine that stood still for a while does not end it.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let mut seen = String::new();
        let until = Instant::now() + Duration::from_secs(300);
        for seconds in [15, 5] {
            while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(seconds)) {
                if line.contains(text) {
                    return line;
                }
                seen.push_str(&(line + "\n"));
                assert!(Instant::now() < until, "no line with {text:?}; it said:\n{seen}");
            }
        }
        panic!("no line with {text:?}; it said:\n{seen}");
    }

    /// Waits for a line with each of `texts` and answers these. They come in any order: standard output
    /// and error go ways of their own.
    #[allow(dead_code)] // not every test needs it
    pub(crate) fn wait_for_all<const N: usize>(&mut self, texts: [&str; N]) -> [String; N] {
        let mut found = [const { String::new() }; N];
        let until = Instant::now() + Duration::from_secs(60);
        while found.iter().any(String::is_empty) {
            let Ok(line) = self.lines.recv_timeout(until - Instant::now().min(until)) else {
                panic!("not all lines with {texts:?}, only {found:?}");
            };
            for (text, found) in texts.iter().zip(&mut found) {
                if found.is_empty() && line.contains(text) {
                    found.clone_from(&line);
                }
            }
        }
        found
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Ends it with SIGTERM; its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits for its end; its exit code, `None` if a signal ended it.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Its process number.
    #[allow(dead_code)] // each test uses its own part
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
