//! Replacing a named set while the writer goes on changing the table.
//!
//! ```
//! use std::sync::Mutex;
//! use portcullis_identity_table::{IdentityId, Replacement, Writer};
//! let writer = Mutex::new(Writer::new());
//! let feed = Replacement::new("feed", [("192.0.2.0/24".parse()?, IdentityId::new(900))])?;
//! let members = std::thread::scope(|scope| {
//!     // This thread copies, builds and catches up; it locks the writer for microseconds at a time.
//!     let feed = scope.spawn(|| feed.run(|step| step(&mut writer.lock().unwrap())));
//!     // Meanwhile endpoints come and go.
//!     writer.lock().unwrap().insert("10.0.0.1".parse().unwrap(), IdentityId::new(300)).unwrap();
//!     feed.join().unwrap()
//! })?;
//! assert_eq!(members, 1);
//! let reader = writer.lock().unwrap().reader();
//! assert_eq!(reader.pin().lookup("192.0.2.7".parse()?).get(), 900);
//! assert_eq!(reader.pin().lookup("10.0.0.1".parse()?).get(), 300);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How
//! The writer notes each change from the beginning on. Its direct prefixes are copied in pieces of
//! some hundred; a new table is built from them and the sets, with nobody waiting; then the
//! notes are replayed on it, again and again until few are left, and the last few together with the
//! exchange of the tables, which is one store for readers. What a piece missed because it changed
//! meanwhile stands in the notes, and replaying a change twice does no harm.
//!
//! # Limitations
//! While it is built the new table exists beside the old one, and the notes take 40 bytes a change.
//! A [`Writer::load`], [`Writer::replace_set`] or [`Writer::remove_set`] meanwhile makes it begin
//! anew.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::time::{Duration, Instant};

use crate::bulk::packed;
use crate::content::{Content, Place, Row, Sets};
use crate::set::NamedSet;
use crate::table::{CatchUp, Replaced};
use crate::{IdentityId, Prefix, TableError, Writer};
use std::sync::Arc;

/// Rows copied with the writer held once: some 5 us. A longer wait would put waiting threads to
/// sleep, which costs ten times as much.
const PIECE: usize = if cfg!(test) { 3 } else { 256 };
/// The longest pause between two pieces, should waiting for the writer have taken long.
const LONGEST_REST: Duration = Duration::from_micros(20);
/// Rounds of catching up after which the rest is replayed at once, however long: a writer that
/// makes changes faster than they can be replayed must not keep the new set away for ever.
const ROUNDS: usize = 32;
/// How long to wait for readers of the old table, so that freeing it is not the writer's job: times
/// a millisecond.
const PATIENCE: usize = 100;

/// A named set that is to take the place of the one of that name; see the [module](self).
#[derive(Debug)]
pub struct Replacement {
    name: Box<str>,
    /// `None`: the set goes.
    set: Option<Arc<NamedSet>>,
}

/// The writer, for a moment at a time.
type Access<'a> = &'a mut dyn FnMut(&mut dyn FnMut(&mut Writer));

impl Replacement {
    /// Sorts and packs the members. Needs no writer; O(n log n).
    ///
    /// # Errors
    /// [`TableError::Conflict`] if `rows` give one prefix two identities.
    pub fn new<I>(name: &str, rows: I) -> Result<Self, TableError>
    where
        I: IntoIterator<Item = (Prefix, IdentityId)>,
    {
        let set = packed(rows.into_iter().collect())?;
        Ok(Self { name: name.into(), set: Some(set) })
    }

    /// The set goes with all its members, if there is one.
    pub fn removal(name: &str) -> Self {
        Self { name: name.into(), set: None }
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.set.as_ref().map_or(0, |set| set.len())
    }

    /// Whether the set will be empty or gone.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts the set in place, as [`Writer::replace_set`] does: atomically for readers, everything
    /// else left alone. Returns the number of its members.
    ///
    /// `with` calls what it is given once with the writer, locked as it may be; each such step takes
    /// some ten microseconds. Time and memory are those of building the table anew. One replacement
    /// a writer at a time: a second one waits for the first. Afterwards it waits up to 0.1 s for
    /// readers to leave the old table, and frees it.
    ///
    /// # Errors
    /// [`TableError::Full`]; nothing is changed then.
    ///
    /// # Panics
    /// If `with` does not call what it is given.
    pub fn run(
        self,
        mut with: impl FnMut(&mut dyn FnMut(&mut Writer)),
    ) -> Result<usize, TableError> {
        let with: Access<'_> = &mut with;
        loop {
            let (token, mut sets) = begin(with);
            let Some(direct) = copy(&token, &sets, with) else { continue };
            self.change(&mut sets);
            let content = Content::build(direct, sets)?;
            if let Some(replaced) = catch_up(&token, content, with)? {
                dispose(replaced, with);
                return Ok(self.len());
            }
        }
    }

    /// Makes the change that this stands for.
    pub(crate) fn change(&self, sets: &mut Sets) {
        match &self.set {
            Some(set) => sets.insert(self.name.clone(), Arc::clone(set)),
            None => sets.remove(&self.name),
        };
    }
}

/// Asks the writer to note changes from now on; waits for its turn. Returns the sets of this moment.
fn begin(with: Access<'_>) -> (Arc<()>, Sets) {
    loop {
        let token = Arc::new(());
        if let Some(sets) = ask(with, |writer| writer.follow(&token)) {
            return (token, sets);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The direct rows, each as it was at some moment since the beginning; `None` if the table was built
/// anew by somebody else.
fn copy(token: &Arc<()>, sets: &Sets, with: Access<'_>) -> Option<Vec<Row>> {
    let mut overriding = BTreeSet::new();
    loop {
        let after = overriding.last().copied();
        let piece = ask(with, |writer| writer.overriding_after(token, after, PIECE))?;
        if piece.is_empty() {
            break;
        }
        overriding.extend(piece);
    }
    let members = |set| NamedSet::iter(set).map(|(prefix, _)| prefix).peekable();
    let mut sets: Vec<_> = sets.values().map(|set| members(set)).collect();
    let (mut direct, mut piece) = (Vec::new(), Vec::new());
    let mut place = Some(Place::default());
    while let Some(from) = place {
        let rest = Rest::begin();
        place = ask(with, |writer| writer.scan(token, from, PIECE, &mut piece))?;
        let direct_one =
            |(prefix, _): &Row| !any_has(&mut sets, prefix) || overriding.contains(prefix);
        direct.extend(piece.drain(..).filter(direct_one));
        rest.pause();
    }
    Some(direct)
}

/// Leaves the writer to others for about as long as it was held: a lock need not be fair, and those
/// who wait for it would starve if it were taken again at once.
struct Rest(Instant);

impl Rest {
    fn begin() -> Self {
        Self(Instant::now())
    }

    fn pause(&self) {
        let held = self.0.elapsed().min(LONGEST_REST);
        std::thread::yield_now();
        while self.0.elapsed() < 2 * held {
            std::hint::spin_loop();
        }
    }
}

/// Whether one of these ascending lists has `prefix`; the prefixes asked for ascend too.
fn any_has<I: Iterator<Item = Prefix>>(lists: &mut [Peekable<I>], prefix: &Prefix) -> bool {
    let mut found = false;
    for list in lists {
        while list.next_if(|member| member < prefix).is_some() {}
        found |= list.peek() == Some(prefix);
    }
    found
}

/// Replays what was noted and puts the new content in place; `None` if somebody else did.
fn catch_up(
    token: &Arc<()>,
    content: Content,
    with: Access<'_>,
) -> Result<Option<Replaced>, TableError> {
    let mut content = Some(content);
    for round in 0.. {
        let step = ask(with, |writer| writer.catch_up(token, &mut content, round >= ROUNDS))?;
        match (step, &mut content) {
            (CatchUp::Done(replaced), _) => return Ok(Some(*replaced)),
            (CatchUp::Replay(changes), Some(content)) => content.replay(&changes)?,
            (CatchUp::Overtaken, _) | (CatchUp::Replay(_), None) => return Ok(None),
        }
    }
    Ok(None)
}

/// Frees the old table once no reader is left in it, here and not where the writer is held.
fn dispose(replaced: Replaced, with: Access<'_>) {
    let mut replaced = Some(replaced);
    for _ in 0..PATIENCE {
        if ask(with, |writer| replaced.as_ref().is_none_or(|old| writer.is_free(old))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    ask(with, |writer| replaced.take().map(|old| writer.keep(old)));
}

/// One step with the writer held.
fn ask<T>(with: Access<'_>, mut step: impl FnMut(&mut Writer) -> T) -> T {
    let mut answer = None;
    with(&mut |writer| {
        if answer.is_none() {
            answer = Some(step(writer));
        }
    });
    answer.expect("the closure must call what it is given")
}
