//! Without AF_XDP no firewall can be started, so that every handle is a wrong one.

use portcullis_core::Engine;

use super::port::{portcullis_port, portcullis_port_change, portcullis_program, portcullis_socket};
use super::wire::Wanted;
use super::{Given, portcullis_firewall_config};
use crate::status::{Failure, PORTCULLIS_NO_XDP};

/// There is none.
pub(super) enum Running {}

impl Running {
    pub(super) fn start(
        _: &Engine,
        _: &portcullis_firewall_config,
        _: &Given<'_>,
    ) -> Result<Self, Failure> {
        Err(PORTCULLIS_NO_XDP.into())
    }

    pub(super) fn halt(&self) {
        match *self {}
    }

    pub(super) fn lesser_mode(&self) -> String {
        match *self {}
    }

    pub(super) fn port(&self, _: usize) -> Option<portcullis_port> {
        match *self {}
    }

    pub(super) fn sockets(&self) -> Result<Vec<portcullis_socket>, Failure> {
        match *self {}
    }

    pub(super) fn programs(&self) -> Result<Vec<portcullis_program>, Failure> {
        match *self {}
    }

    pub(super) fn port_changes(
        &self,
        _: usize,
        _: impl FnMut(portcullis_port_change),
    ) -> Result<(), Failure> {
        match *self {}
    }

    pub(super) fn add_wire(&self, _: &Wanted<'_>) -> Result<(), Failure> {
        match *self {}
    }

    pub(super) fn remove_wire(&self, _: &str) -> Result<(), Failure> {
        match *self {}
    }

    pub(super) fn wires(&self) -> String {
        match *self {}
    }

    pub(super) fn replace_early_drop(&self, _: &[ipnet::IpNet]) -> Result<(), Failure> {
        match *self {}
    }
}
