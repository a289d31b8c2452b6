//! Packets of a capture out of an interface, at the capture's pace or a multiple of it.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::source::Captured;
use crate::lab::interface;
use crate::output::Refused;

/// How fast, as a multiple of the capture's pace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Speed {
    Times(f64),
    Max,
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.parse::<f64>() {
            Ok(times) if times.is_finite() && times > 0.0 => Ok(Self::Times(times)),
            _ => Err("expected a number above 0, or max".to_owned()),
        }
    }
}

impl Speed {
    /// When a packet is due, counted from the first.
    fn due(self, since: u64) -> Duration {
        match self {
            Self::Max => Duration::ZERO,
            Self::Times(times) => {
                Duration::try_from_secs_f64(since as f64 / 1e9 / times).unwrap_or(Duration::MAX)
            }
        }
    }
}

/// How often a full queue is tried again, and how long to wait between.
const TRIES: u32 = 1000;
const PAUSE: Duration = Duration::from_micros(100);
/// Sleeping is this inexact; the rest is waited for awake.
const SLACK: Duration = Duration::from_micros(200);

/// An interface that packets leave by.
pub(super) struct Onto {
    socket: OwnedFd,
    name: String,
    speed: Speed,
    began: Option<Instant>,
    sent: u64,
    bytes: u64,
    /// Packets of which the capture has only the beginning.
    cut: u64,
    /// Packets longer than the interface takes.
    long: u64,
}

impl Onto {
    /// Opens the interface `name` of this network namespace. Needs CAP_NET_RAW.
    pub(super) fn open(name: &str, speed: Speed) -> Result<Self, Refused> {
        let socket = socket(name).map_err(|e| format!("error: --onto {name}: {e}"))?;
        let name = name.to_owned();
        Ok(Self { socket, name, speed, began: None, sent: 0, bytes: 0, cut: 0, long: 0 })
    }

    /// Waits until the packet of `since` nanoseconds after the first is due, and sends it.
    pub(super) fn send(&mut self, since: u64, packet: &Captured) -> Result<(), Refused> {
        let began = *self.began.get_or_insert_with(Instant::now);
        let due = self.speed.due(since);
        loop {
            let left = due.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            if left > SLACK {
                std::thread::sleep(left - SLACK);
            }
        }
        if packet.data.len() < packet.wire_len {
            self.cut += 1;
            return Ok(());
        }
        for _ in 0..TRIES {
            let sent = send(&self.socket, &packet.data);
            match sent.as_ref().map_err(io::Error::raw_os_error) {
                Ok(()) => {
                    self.sent += 1;
                    self.bytes += packet.data.len() as u64;
                    return Ok(());
                }
                Err(Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR)) => std::thread::sleep(PAUSE),
                Err(Some(libc::EMSGSIZE)) => {
                    self.long += 1;
                    return Ok(());
                }
                Err(_) => return sent.map_err(|e| format!("error: {}: {e}", self.name).into()),
            }
        }
        Err(format!("error: {}: its queue stays full", self.name).into())
    }

    /// What was sent, and what was not and why.
    pub(super) fn report(&self) -> String {
        let took = self.began.map_or(0.0, |began| began.elapsed().as_secs_f64());
        let Self { name, sent, bytes, .. } = self;
        let mut text = format!("sent {sent} packets ({bytes} bytes) out of {name} in {took:.3} s");
        if self.cut > 0 {
            text += &format!("; {} not, cut short in the capture", self.cut);
        }
        if self.long > 0 {
            text += &format!("; {} not, longer than the interface takes", self.long);
        }
        text
    }
}

/// A packet socket that sends out of an interface and receives nothing.
fn socket(name: &str) -> io::Result<OwnedFd> {
    let index = interface::index(name)?;
    // SAFETY: plain numbers go in, a descriptor or an error comes out.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: sockaddr_ll is plain data for which all zeroes is valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let len = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is a sockaddr_ll of that length and lives through the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(&address).cast(), len) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn send(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    // SAFETY: the frame is readable for its length throughout the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_multiples_of_the_captures_pace() {
        let due = |speed: &str| speed.parse::<Speed>().map(|speed| speed.due(3_000_000_000));
        assert_eq!(due("1"), Ok(Duration::from_secs(3)));
        assert_eq!(due("2.5"), Ok(Duration::from_millis(1200)));
        assert_eq!(due("max"), Ok(Duration::ZERO));
        for wrong in ["0", "-1", "NaN", "inf", "fast", ""] {
            assert!(due(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Speed::Times(f64::MIN_POSITIVE).due(u64::MAX), Duration::MAX);
    }
}
