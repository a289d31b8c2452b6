//! A client and a server with something in between: a namespace with two interfaces that are wired,
//! bridged, routed or forgotten there.
//!
//! ```text
//! client eth0 ── fw0 (middle) fw1 ── eth0 server
//! ```

use std::io;
use std::net::Ipv4Addr;

use super::{Namespace, NotPossible};

/// The two hosts and the middle.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) client: Namespace,
    pub(crate) middle: Namespace,
    pub(crate) server: Namespace,
}

/// How the hosts reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Neighbours {
    /// Directly: the middle is transparent.
    EachOther,
    /// Through the middle, which routes.
    Router,
}

impl Path {
    /// The client's address; those of other clients follow.
    pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    /// The server's address.
    pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
    /// Link-layer addresses of the two hosts and of the middle's two interfaces.
    pub(crate) const CLIENT_LINK: [u8; 6] = [2, 0, 0, 0, 0, 1];
    pub(crate) const SERVER_LINK: [u8; 6] = [2, 0, 0, 0, 0, 2];
    pub(crate) const MIDDLE_LINKS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0xa], [2, 0, 0, 0, 0, 0xb]];
    /// The middle's interfaces.
    pub(crate) const MIDDLE: (&str, &str) = ("fw0", "fw1");

    /// Builds it with `queues` queues on every interface; all addresses are known to everybody, so
    /// that nothing is asked or learned while something is measured.
    ///
    /// # Errors
    /// [`NotPossible`] without the privileges or without `ip`.
    pub(crate) fn build(neighbours: Neighbours, queues: u32) -> Result<Self, NotPossible> {
        let path = Self {
            client: Namespace::new()?,
            middle: Namespace::new()?,
            server: Namespace::new()?,
        };
        let Self { client, middle, server } = &path;
        let (fw0, fw1) = Self::MIDDLE;
        client.join("eth0", middle, fw0, queues)?;
        server.join("eth0", middle, fw1, queues)?;
        let [link0, link1] = Self::MIDDLE_LINKS;
        middle.ip(&format!("link set {fw0} address {}", text(link0)))?;
        middle.ip(&format!("link set {fw1} address {}", text(link1)))?;
        let (to_server, to_client) = match neighbours {
            Neighbours::EachOther => (Self::SERVER_LINK, Self::CLIENT_LINK),
            Neighbours::Router => (link0, link1),
        };
        for (host, own, link, other, next) in [
            (client, Self::CLIENT, Self::CLIENT_LINK, Self::SERVER, to_server),
            (server, Self::SERVER, Self::SERVER_LINK, Self::CLIENT, to_client),
        ] {
            host.ip(&format!("link set eth0 address {}", text(link)))?;
            host.ip(&format!("addr add {own}/16 dev eth0"))?;
            host.ip(&format!(
                "neigh replace {other} lladdr {} dev eth0 nud permanent",
                text(next)
            ))?;
        }
        if neighbours == Neighbours::Router {
            path.route()?;
        }
        Ok(path)
    }

    fn route(&self) -> Result<(), NotPossible> {
        let ends = [
            (Self::MIDDLE.0, Self::CLIENT, Self::CLIENT_LINK),
            (Self::MIDDLE.1, Self::SERVER, Self::SERVER_LINK),
        ];
        for (interface, host, link) in ends {
            self.middle.ip(&format!("route add {host}/32 dev {interface}"))?;
            self.middle.ip(&format!(
                "neigh replace {host} lladdr {} dev {interface} nud permanent",
                text(link)
            ))?;
        }
        self.middle
            .run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?
            .map_err(|e| NotPossible::Io("cannot make a namespace route".to_owned(), e))
    }

    /// Joins the middle's interfaces by a kernel bridge.
    ///
    /// # Errors
    /// [`NotPossible`], for example in a kernel without bridges.
    pub(crate) fn bridge(&self) -> Result<(), NotPossible> {
        self.middle.ip("link add br0 type bridge stp_state 0 mcast_snooping 0")?;
        self.middle.ip(&format!("link set {} master br0", Self::MIDDLE.0))?;
        self.middle.ip(&format!("link set {} master br0", Self::MIDDLE.1))?;
        self.middle.ip("link set br0 up")
    }

    /// Makes the middle take packets that a [`Generator`](super::traffic::Generator) of the client
    /// sends, where no XDP program does.
    ///
    /// # Errors
    /// [`NotPossible`] in a kernel without GRO on veths.
    pub(crate) fn take_redirected(&self) -> Result<(), NotPossible> {
        self.middle
            .run(|| super::interface::set_gro(Self::MIDDLE.0))?
            .map_err(|e| NotPossible::Io("cannot switch GRO on".to_owned(), e))
    }
}

/// Index of `eth0` in a namespace.
///
/// # Errors
/// [`NotPossible`] if there is none.
pub(crate) fn eth0(namespace: &Namespace) -> Result<u32, NotPossible> {
    namespace
        .run(|| super::interface::index("eth0"))?
        .map_err(|e: io::Error| NotPossible::Io("cannot find eth0".to_owned(), e))
}

fn text(link: [u8; 6]) -> String {
    link.map(|byte| format!("{byte:02x}")).join(":")
}
