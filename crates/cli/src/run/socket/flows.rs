//! Flow records for clients that follow them.

use portcullis::flow::Subscription;

use super::super::observed::Observed;
use super::client::Client;
use crate::control::flows::{Last, Summary};

/// Bytes that wait for a client; further records wait in its queue.
const WAITING: usize = 1 << 20;
/// Records in a queue, each about 1 KiB: what a client may lag behind.
const QUEUE: usize = 1 << 14;

/// One client's subscription.
pub(super) struct Following {
    records: Subscription,
    sent: u64,
    ending: bool,
}

impl Following {
    /// Begins with the next record.
    ///
    /// # Errors
    /// The firewall makes no records yet.
    pub(super) fn begin(observed: &Observed) -> Result<Self, String> {
        let records = observed.follow(QUEUE).ok_or("no flow records are made yet: try again")?;
        Ok(Self { records, sent: 0, ending: false })
    }

    /// Ends when what there is by now is sent.
    pub(super) fn end(&mut self) {
        self.ending = true;
    }
}

/// Gives those who follow what has come.
pub(super) fn hand_out(clients: &mut [Option<Client>]) {
    let mut line = Vec::new();
    for client in clients.iter_mut().flatten() {
        let (mut unsent, ended) = (client.unsent(), client.ended());
        let Some(following) = &mut client.following else { continue };
        line.clear();
        while unsent + line.len() < WAITING
            && let Some(received) = following.records.next()
        {
            received.record.write(&mut line);
            following.sent += 1;
        }
        unsent += line.len();
        let through = ended || following.ending && unsent < WAITING;
        let summary = Summary { sent: following.sent, lost: following.records.lost() };
        if !line.is_empty() {
            client.send(&line);
        }
        if through {
            client.following = None;
            client.send_json(&Last { end: summary });
            client.close();
        }
    }
}
