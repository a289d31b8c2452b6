//! Who tries to reach whom, and what the two policies say about it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::lab::{Host, NotPossible};

/// How long an attempt may stay unanswered: a denied SYN is dropped, so nothing answers it. Long
/// enough for one repetition by the sender's stack, which comes after a second.
const PATIENCE: Duration = Duration::from_millis(1300);

/// A host of the demo: its workload's name and its addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Party<'a> {
    pub(super) name: &'static str,
    pub(super) host: &'a Host,
    pub(super) v4: IpAddr,
    pub(super) v6: IpAddr,
}

impl<'a> Party<'a> {
    /// The host with the addresses `10.77.0.N` and `fd77::N`, where `N` is written with the digits
    /// of `last` in hexadecimal.
    pub(super) fn new(name: &'static str, host: &'a Host, last: u16) -> Self {
        let digits = (last / 16 * 10 + last % 16) as u8;
        let v4 = IpAddr::from([10, 77, 0, digits]);
        let v6 = IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, last]);
        Self { name, host, v4, v6 }
    }
}

/// One connection to try, and the outcome that the policies ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'a> {
    pub(super) from: Party<'a>,
    pub(super) to: Party<'a>,
    pub(super) port: u16,
    /// Address to connect to, of the party's two.
    pub(super) address: IpAddr,
    /// Whether the policies allow it.
    pub(super) allowed: bool,
}

/// What was seen on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether the connection was made and carried data both ways.
    pub(super) reached: bool,
}

/// Both families of one pair and port.
pub(super) fn pair<'a>(
    from: Party<'a>,
    to: Party<'a>,
    port: u16,
    allowed: bool,
) -> [Attempt<'a>; 2] {
    [to.v4, to.v6].map(|address| Attempt { from, to, port, address, allowed })
}

impl Attempt<'_> {
    /// Connects, sends a line and waits for its echo.
    ///
    /// # Errors
    /// [`NotPossible`] if the host's namespace cannot be entered; a connection that fails is a
    /// result, not an error.
    pub(super) fn run(&self) -> Result<Seen, NotPossible> {
        let target = SocketAddr::new(self.address, self.port);
        let stream = self.from.host.connect(target, PATIENCE)?;
        let Ok(mut stream) = stream else { return Ok(Seen { reached: false }) };
        Ok(Seen { reached: echoes(&mut stream) })
    }
}

/// Whether a kilobyte comes back as it was sent.
pub(super) fn echoes(stream: &mut TcpStream) -> bool {
    let message = [0x5a; 1024];
    let mut answer = [0; 1024];
    stream.set_read_timeout(Some(PATIENCE)).is_ok()
        && stream.write_all(&message).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == message
}
