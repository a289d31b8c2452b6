//! Hosts with addresses, real TCP listeners and real connections.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Namespace, NotPossible};

/// A host: a namespace with one interface, `eth0`.
#[derive(Debug)]
pub(crate) struct Host {
    namespace: Namespace,
}

impl Host {
    /// A host in a new namespace, not yet connected.
    ///
    /// # Errors
    /// [`NotPossible`] without the privileges.
    pub(crate) fn new() -> Result<Self, NotPossible> {
        Ok(Self { namespace: Namespace::new()? })
    }

    /// The namespace it lives in.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Gives `eth0` an address (`/24` or `/64`), usable at once.
    ///
    /// # Errors
    /// [`NotPossible`], for example if it has the address already.
    pub(crate) fn add_address(&self, address: IpAddr) -> Result<(), NotPossible> {
        self.namespace.ip(&format!(
            "addr add {} dev eth0 {}",
            with_length(address),
            no_dad(address)
        ))
    }

    /// Takes an address away from `eth0`.
    ///
    /// # Errors
    /// [`NotPossible`] if it does not have it.
    pub(crate) fn remove_address(&self, address: IpAddr) -> Result<(), NotPossible> {
        self.namespace.ip(&format!("addr del {} dev eth0", with_length(address)))
    }

    /// Starts an echo server on the port, on every address of either family.
    ///
    /// # Errors
    /// [`NotPossible`] if the port is taken.
    pub(crate) fn echo(&self, port: u16) -> Result<Echo, NotPossible> {
        let listener = self
            .namespace
            .run(|| TcpListener::bind(SocketAddr::from(([0u16; 8], port))))?
            .map_err(|e| NotPossible::Io(format!("listen on port {port}"), e))?;
        Ok(Echo::serve(listener))
    }

    /// Opens a TCP connection from this host.
    ///
    /// # Errors
    /// Whatever the kernel answers, `TimedOut` if nothing answers.
    pub(crate) fn connect(
        &self,
        to: SocketAddr,
        patience: Duration,
    ) -> Result<std::io::Result<TcpStream>, NotPossible> {
        self.namespace.run(|| TcpStream::connect_timeout(&to, patience))
    }
}

/// An echo server; stops when dropped.
#[derive(Debug)]
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn serve(listener: TcpListener) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || accept(&listener, &stopped));
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The accept loop looks at the flag every few milliseconds; how it ended is of no use.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, stop: &AtomicBool) {
    // A failed switch to non-blocking would make the loop deaf to `stop`: then serve nobody.
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                std::thread::spawn(move || echo(stream));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Sends back what comes until the peer closes or is silent for ten seconds.
fn echo(mut stream: TcpStream) {
    let mut buffer = [0u8; 16 * 1024];
    if stream.set_nonblocking(false).is_err()
        || stream.set_nodelay(true).is_err()
        || stream.set_read_timeout(Some(Duration::from_secs(10))).is_err()
    {
        return;
    }
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

fn with_length(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 })
}

/// Duplicate address detection would keep an IPv6 address from use for a second.
fn no_dad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "nodad" } else { "" }
}
