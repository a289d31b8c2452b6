//! How long changes took.

use std::time::Duration;

/// What was measured, in words, and each time.
#[derive(Debug)]
pub(crate) struct Times(&'static str, Vec<Duration>);

impl Times {
    pub(crate) fn of(what: &'static str) -> Self {
        Self(what, Vec::new())
    }

    pub(crate) fn add(&mut self, took: Duration) {
        self.1.push(took);
    }

    pub(crate) fn forget(&mut self) {
        self.1.clear();
    }

    /// The time that this part of them (0 to 1) does not exceed.
    pub(crate) fn at(&mut self, part: f64) -> Duration {
        self.1.sort_unstable();
        let place = (self.1.len() as f64 * part).ceil() as usize;
        self.1.get(place.saturating_sub(1)).copied().unwrap_or_default()
    }

    pub(crate) fn print(&mut self) {
        let (median, p99, most) = (self.at(0.5), self.at(0.99), self.at(1.0));
        println!("{} x {}: median {median:?}, p99 {p99:?}, most {most:?}", self.1.len(), self.0);
    }
}

#[test]
fn the_last_percent_begins_where_it_is_said_to() {
    let mut times = Times::of("test");
    (1..=1000).rev().for_each(|n| times.add(Duration::from_micros(n)));
    let micros = |part, times: &mut Times| times.at(part).as_micros();
    assert_eq!([0.5, 0.99, 1.0].map(|part| micros(part, &mut times)), [500, 990, 1000]);
    assert_eq!(Times::of("nothing").at(0.99), Duration::ZERO);
}
