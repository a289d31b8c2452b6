//! Connections across a restart.

use std::io::{self, Read, Write};
use std::time::SystemTime;

use portcullis_dataplane::connection::{RestoreError, Restored, Windows};

use crate::Engine;

impl Engine {
    /// Writes all connections, for [`Engine::restore_connections`] of the next process; answers how
    /// many. 96 bytes each, in blocks of 64 KiB; O(connections). Packets go on meanwhile, and what
    /// they change is written as it was before or after: for a file that is exact, stop the workers
    /// first ([`Firewall::stop`](crate::Firewall::stop)).
    ///
    /// Who can write the file can add connections that the policy would have allowed. Keep it as
    /// private as the policies; replace it as a whole (a new file, synced, then renamed).
    ///
    /// # Errors
    /// Writing failed; what was written so far is refused when it is read.
    pub fn save_connections(&self, out: &mut impl Write) -> io::Result<u32> {
        self.0.plane.table().save(self.0.clock.now(), SystemTime::now(), out)
    }

    /// Takes connections that [`Engine::save_connections`] wrote into the table, beside those that
    /// are there; the age of the file counts as silence of each. Reads 96 bytes at a time: give it a
    /// buffer ([`std::io::BufReader`]). Any thread, also while packets flow, but packets that come
    /// before are those of unknown connections: best is an engine that restores between
    /// [`Engine::apply`] and [`Firewall::attach`](crate::Firewall::attach).
    ///
    /// What was allowed before is not allowed for that: the numbers of rules and identities mean
    /// nothing here, so each connection is judged by the policy in force at its next packet, in the
    /// direction in which it was opened, and forgotten if that denies it; until then limits count it as
    /// of no identity. With
    /// [`OnPolicyChange::Keep`](portcullis_dataplane::connection::OnPolicyChange) too; with `Cut` it is
    /// forgotten.
    ///
    /// # Errors
    /// The file is none, of another version, damaged, from the future, or holds more than twice the
    /// connections that the table does. Nothing was taken from it then.
    ///
    /// ```
    /// use portcullis::dataplane::connection::Windows;
    /// use portcullis::Engine;
    ///
    /// let before = Engine::new(Default::default())?;
    /// let mut file = Vec::new();
    /// before.save_connections(&mut file)?;
    /// let after = Engine::new(Default::default())?;
    /// let restored = after.restore_connections(Windows::Hold, &mut &file[..])?;
    /// assert_eq!((restored.restored, restored.left_out), (0, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn restore_connections(
        &self,
        windows: Windows,
        file: &mut impl Read,
    ) -> Result<Restored, RestoreError> {
        self.0.plane.table().restore(self.0.clock.now(), SystemTime::now(), windows, file)
    }
}
