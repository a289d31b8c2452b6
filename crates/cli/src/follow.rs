//! Flow records of a running firewall, as they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portcullis::flow::FlowRecord;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::control::flows::{Begun, END, Last, Summary};
use crate::control::{Request, Which};
use crate::output::Refused;

/// How often it looks whether it shall end.
const TICK: Duration = Duration::from_millis(100);

/// Hands each record to `each` until that says `false`, Ctrl-C is pressed or `time` is over; then what
/// came, and what was lost.
///
/// # Errors
/// No firewall runs, it ends, or it is of another version.
pub(crate) fn follow(
    which: &Which,
    time: Option<Duration>,
    mut each: impl FnMut(&FlowRecord) -> Result<bool, Refused>,
) -> Result<Summary, Refused> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| format!("error: cannot listen for signals: {e}"))?;
    }
    let mut client = which.connect()?;
    let _begun: Begun = client.ask(&Request::Flows {})?;
    eprintln!("following; Ctrl-C ends it");
    let until = time.map(|time| Instant::now() + time);
    let mut ending = false;
    loop {
        let over = stop.load(Ordering::Relaxed) || until.is_some_and(|at| Instant::now() >= at);
        if over && !ending {
            client.send(&Request::End {})?;
            ending = true;
        }
        if !client.wait(TICK)? {
            continue;
        }
        let Some(line) = client.line()? else {
            return Err("error: the firewall has ended".into());
        };
        if line.starts_with(END) {
            let last: Last = serde_json::from_str(&line)
                .map_err(|e| format!("error: unexpected answer: {e}"))?;
            return Ok(last.end);
        }
        let record = FlowRecord::parse(line.trim_end())
            .map_err(|e| format!("error: the firewall's record: {e}"))?;
        if !each(&record)? {
            stop.store(true, Ordering::Relaxed);
        }
    }
}
