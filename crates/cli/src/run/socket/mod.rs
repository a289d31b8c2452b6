//! What a running firewall answers: the control socket, and metrics over HTTP. One thread serves
//! both, off the packet path; whatever clients do, it takes a bounded amount of memory and time.
//!
//! - At most [`MOST_CLIENTS`] connections to each listener; one more is sent away.
//! - A request is a line of at most [`LONGEST_REQUEST`](crate::control::LONGEST_REQUEST) bytes; the
//!   next one is not looked at before the answer to the one before was read, nor within
//!   [`PACE`](client::PACE).
//! - Whoever does not read, does not finish a line or asks nothing for long is disconnected. All of
//!   them are counted ([`Clients`](crate::control::status::Clients)).

mod capture;
mod client;
mod flows;
mod http;
mod listen;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};

use super::observed::Observed;
use crate::output::Refused;
pub(super) use client::Kind;
use client::{Client, Gone, Stream};
use listen::Listener;

/// Connections at a time, to each listener.
pub(super) const MOST_CLIENTS: usize = 16;

const WAKER: Token = Token(0);
/// Listeners have the tokens from here, clients those from [`CLIENTS`].
const LISTENERS: usize = 1;
const CLIENTS: usize = 16;

/// How often time is looked at while somebody is connected, and while somebody captures or follows.
const TICK: Duration = Duration::from_millis(250);
const CAPTURE_TICK: Duration = Duration::from_millis(10);

/// The server; ends when dropped.
pub(super) struct Server {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    /// The control socket, to be removed at the end.
    path: Option<PathBuf>,
}

/// Where to listen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Addresses {
    /// The control socket; `None` for the usual place.
    pub(super) control: Option<PathBuf>,
    /// An address with port, or the path of a unix socket, for metrics.
    pub(super) metrics: Option<String>,
}

impl Server {
    /// Binds the sockets and begins to serve.
    ///
    /// # Errors
    /// A socket that was asked for cannot be had.
    pub(super) fn start(addresses: &Addresses, observed: Arc<Observed>) -> Result<Self, Refused> {
        let mut listeners = Vec::new();
        let path = match &addresses.control {
            Some(path) => {
                listeners.push(listen::unix(path, Kind::Control)?);
                Some(path.clone())
            }
            None => match listen::usual(observed.name()) {
                Ok((path, listener)) => {
                    listeners.push(listener);
                    Some(path)
                }
                Err(error) => {
                    eprintln!(
                        "note: no control socket ({}): choose a place with --control",
                        error.message().trim_start_matches("error: ")
                    );
                    None
                }
            },
        };
        if let Some(address) = &addresses.metrics {
            listeners.push(listen::metrics(address)?);
        }
        let served = Served::new(listeners, observed)
            .map_err(|e| format!("error: cannot wait for clients: {e}"))?;
        let (stop, waker) = (Arc::clone(&served.stop), Arc::clone(&served.waker));
        let thread = std::thread::Builder::new()
            .name("portcullis-ctl".into())
            .spawn(move || served.run())
            .map_err(|e| format!("error: cannot start the control thread: {e}"))?;
        Ok(Self { stop, waker, thread: Some(thread), path })
    }

    /// Where the control socket is.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The thread looks at the flag at its next tick otherwise.
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(path) = &self.path {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What the thread owns.
struct Served {
    poll: Poll,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    listeners: Vec<Listener>,
    clients: Vec<Option<Client>>,
    observed: Arc<Observed>,
}

impl Served {
    fn new(mut listeners: Vec<Listener>, observed: Arc<Observed>) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        for (n, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener, Token(LISTENERS + n), Interest::READABLE)?;
        }
        let clients = (0..2 * MOST_CLIENTS).map(|_| None).collect();
        Ok(Self { poll, stop: Arc::default(), waker, listeners, clients, observed })
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(64);
        while !self.stop.load(Ordering::Acquire) {
            // Interrupted by a signal, or nothing to be done about it: clients are looked at anyway.
            let _ = self.poll.poll(&mut events, self.patience());
            for event in &events {
                match event.token().0 {
                    token if token >= CLIENTS => {
                        if let Some(Some(client)) = self.clients.get_mut(token - CLIENTS) {
                            client.ready = true;
                        }
                    }
                    token if token >= LISTENERS => self.accept(token - LISTENERS),
                    _ => {}
                }
            }
            capture::hand_out(&self.observed, &mut self.clients);
            flows::hand_out(&mut self.clients);
            self.serve();
        }
    }

    /// How long nothing need be looked at.
    fn patience(&self) -> Option<Duration> {
        let mut clients = self.clients.iter().flatten().peekable();
        clients.peek()?;
        let of = |client: &Client| match (client.is_served(), client.ready) {
            (true, _) => CAPTURE_TICK,
            (false, true) => client::PACE,
            (false, false) => TICK,
        };
        clients.map(of).min()
    }

    fn accept(&mut self, n: usize) {
        let Some(listener) = self.listeners.get(n) else { return };
        let kind = listener.kind();
        loop {
            let stream = match listener.accept() {
                Ok(stream) => stream,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                // Nobody more; or no descriptors left, which the next client will try again.
                Err(_) => return,
            };
            let connected = self.clients.iter().flatten().filter(|c| c.kind == kind).count();
            let free = self.clients.iter().position(Option::is_none);
            let (Some(free), true) = (free, connected < MOST_CLIENTS) else {
                self.observed.clients(kind, |clients| clients.too_many += 1);
                continue;
            };
            let mut stream: Stream = stream;
            let interest = Interest::READABLE | Interest::WRITABLE;
            if self.poll.registry().register(&mut stream, Token(CLIENTS + free), interest).is_ok() {
                self.clients[free] = Some(Client::new(kind, stream, Instant::now()));
                self.observed.clients(kind, |clients| {
                    clients.accepted += 1;
                    clients.now += 1;
                });
            }
        }
    }

    /// Gives every client its turn, and sends away who misbehaved.
    fn serve(&mut self) {
        let now = Instant::now();
        for place in &mut self.clients {
            let Some(client) = place else { continue };
            let Err(gone) = client.advance(now, &self.observed) else { continue };
            self.observed.clients(client.kind, |clients| {
                clients.now -= 1;
                match gone {
                    Gone::Done => {}
                    Gone::TooLong => clients.too_long += 1,
                    Gone::TooSlow => clients.too_slow += 1,
                    Gone::Idle => clients.idle += 1,
                }
            });
            // What cannot be deregistered is closed all the same.
            let _ = self.poll.registry().deregister(&mut client.stream);
            *place = None;
        }
    }
}
