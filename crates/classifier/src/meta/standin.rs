//! Deleting a rule that was compiled. The compiled form need not hold what the rule hides, so the
//! later rules that it may hide are put into the delta table before it is marked: whoever sees the
//! mark finds them there. No lookup ever has to search the list.

use std::sync::Arc;

use super::base::{Base, Deleted, Named};
use crate::Error;
use crate::tuple::{self, Filling, Generation, RuleHandle};

/// Rules at most that stand in for one that is deleted.
const MOST: usize = 1024;

/// Puts what the rule at `place` may hide into `filling` and `delta`; or into new tables, which the
/// caller has to publish before it marks the rule, also after an error.
///
/// # Errors
/// When they are too many. What the tables hold is what they held before.
pub(super) fn insert(
    base: &Base,
    deleted: &Deleted,
    place: usize,
    delta: &Generation,
    filling: &mut Filling,
    config: &tuple::Config,
) -> (Option<Generation>, Result<(), Error>) {
    let missing = base.hidden_by(place, deleted).filter(|named| !filling.holds(named.handle));
    let missing: Vec<Named> = missing.take(MOST + 1).collect();
    if missing.len() > MOST || filling.len() + missing.len() > config.max_rules_limit() {
        return (None, Err(Error::DeltaFull { limit: MOST }));
    }
    let mut grown = None;
    if filling.room(delta) < missing.len() {
        match filling.grown_by(missing.len(), config) {
            Ok((generation, new)) => {
                *filling = new;
                grown = Some(generation);
            }
            Err(error) => return (None, Err(error)),
        }
    }
    let delta = grown.as_ref().unwrap_or(delta);
    let mut done: Vec<RuleHandle> = Vec::with_capacity(missing.len());
    for Named { priority, handle, rule } in missing {
        if let Err(error) = filling.insert(delta, handle, priority, Arc::new(rule)) {
            for handle in done {
                filling.remove(delta, handle);
            }
            return (grown, Err(error));
        }
        done.push(handle);
    }
    (grown, Ok(()))
}
