//! Sockets to listen on: made so that nobody else gets in, and taken over from the dead only.

use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};

use super::client::{Kind, Stream};
use crate::control::FOLDER;
use crate::output::Refused;

/// Sockets of firewalls of the same name that are tried in the usual folder.
const NAMESAKES: usize = 64;

/// A listening socket.
pub(super) enum Listener {
    Unix(UnixListener, Kind),
    Tcp(TcpListener),
}

impl Listener {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Unix(_, kind) => *kind,
            Self::Tcp(_) => Kind::Http,
        }
    }

    pub(super) fn accept(&self) -> std::io::Result<Stream> {
        match self {
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept()?.0)),
            Self::Tcp(listener) => Ok(Stream::Tcp(listener.accept()?.0)),
        }
    }
}

impl Source for Listener {
    fn register(&mut self, r: &Registry, token: Token, interest: Interest) -> std::io::Result<()> {
        match self {
            Self::Unix(listener, _) => listener.register(r, token, interest),
            Self::Tcp(listener) => listener.register(r, token, interest),
        }
    }

    fn reregister(
        &mut self,
        r: &Registry,
        token: Token,
        interest: Interest,
    ) -> std::io::Result<()> {
        match self {
            Self::Unix(listener, _) => listener.reregister(r, token, interest),
            Self::Tcp(listener) => listener.reregister(r, token, interest),
        }
    }

    fn deregister(&mut self, r: &Registry) -> std::io::Result<()> {
        match self {
            Self::Unix(listener, _) => listener.deregister(r),
            Self::Tcp(listener) => listener.deregister(r),
        }
    }
}

/// The control socket in the usual folder: named after the firewall, with a number if another live
/// firewall has that name.
pub(super) fn usual(name: &str) -> Result<(PathBuf, Listener), Refused> {
    let folder = Path::new(FOLDER);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|e| format!("error: {FOLDER}: {e}"))?;
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = name.chars().map(safe).take(60).collect();
    let mut last = None;
    for n in 1..=NAMESAKES {
        let number = if n == 1 { String::new() } else { format!("-{n}") };
        let path = folder.join(format!("{name}{number}.sock"));
        match unix(&path, Kind::Control) {
            Ok(listener) => return Ok((path, listener)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| "error: no name".into()))
}

/// Where metrics are served: `address:port`, or the path of a unix socket.
pub(super) fn metrics(address: &str) -> Result<Listener, Refused> {
    if address.contains('/') {
        return unix(Path::new(address.trim_start_matches("unix:")), Kind::Http);
    }
    let refused = |e: &dyn std::fmt::Display| {
        format!(
            "error: --metrics {address}: {e}: expected an address and a port that is free, such as \
             127.0.0.1:9095, or the path of a unix socket"
        )
    };
    let addresses: Vec<SocketAddr> = address.to_socket_addrs().map_err(|e| refused(&e))?.collect();
    let first = addresses.first().ok_or_else(|| refused(&"no address"))?;
    Ok(Listener::Tcp(TcpListener::bind(*first).map_err(|e| refused(&e))?))
}

/// A unix socket that its owner alone may open.
pub(super) fn unix(path: &Path, kind: Kind) -> Result<Listener, Refused> {
    let refused = |what: &str| Refused::from(format!("error: {}: {what}", path.display()));
    take_over(path).map_err(|what| refused(&what))?;
    let listener = private(path).map_err(|e| {
        let hint = match e.kind() {
            ErrorKind::NotFound => ": the folder does not exist",
            ErrorKind::PermissionDenied => ": run as root (sudo), or choose another folder",
            _ => "",
        };
        refused(&format!("cannot listen: {e}{hint}"))
    })?;
    Ok(Listener::Unix(listener, kind))
}

/// Removes what a dead firewall left.
fn take_over(path: &Path) -> Result<(), String> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        // Binding says what is wrong, if anything is.
        Err(_) => return Ok(()),
    };
    if !metadata.file_type().is_socket() {
        return Err("exists and is no socket: remove it, or choose another path".to_owned());
    }
    match UnixStream::connect(path) {
        Ok(_) => Err("another running firewall listens there".to_owned()),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|e| format!("left by a dead firewall, and: {e}"))
        }
        Err(e) => Err(format!("a socket of somebody else: {e}")),
    }
}

/// Binds, takes the permissions of others away, and only then listens: nobody can connect before.
fn private(path: &Path) -> std::io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let permissions = std::fs::Permissions::from_mode(0o600);
    let listening = std::fs::set_permissions(path, permissions)
        .and_then(|()| listen(&fd, Backlog::new(64)?).map_err(Error::from));
    if let Err(error) = listening {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(UnixListener::from_std(std::os::unix::net::UnixListener::from(fd)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("portcullis-listen-{}-{name}", std::process::id()))
    }

    fn error(path: &Path) -> String {
        match unix(path, Kind::Control) {
            Ok(_) => panic!("{} was taken", path.display()),
            Err(error) => error.message().to_owned(),
        }
    }

    #[test]
    fn the_dead_are_succeeded_and_the_living_respected() {
        let path = path("taken");
        let listener = unix(&path, Kind::Control).unwrap_or_else(|e| panic!("{}", e.message()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(error(&path).contains("another running firewall"));
        drop(listener);
        assert!(path.exists(), "a socket outlives its process");
        drop(unix(&path, Kind::Control).unwrap_or_else(|e| panic!("{}", e.message())));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_place_for_a_socket_is_named() {
        let file = path("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(error(&file).contains("is no socket"));
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
        std::fs::remove_file(&file).unwrap();
        assert!(error(&path("no/such/folder")).contains("folder does not exist"));
        assert!(error(&path(&"x".repeat(200))).contains("cannot listen"));
        for address in ["nonsense", "127.0.0.1", "127.0.0.1:70000", ""] {
            assert!(metrics(address).is_err(), "{address}");
        }
    }
}
