//! The same question about many things, on a bounded number of threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Asks about each item, in order and on at most so many threads.
///
/// # Errors
/// That of the first item that has one, whichever thread finds it.
///
/// # Panics
/// If `ask` does.
pub(crate) fn in_parallel<T: Sync, R: Send, E: Send>(
    threads: usize,
    items: &[T],
    ask: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    // Some more parts than threads, since parts differ in size; fewer than items, since they are small.
    let size = items.len().div_ceil(threads.max(1) * 16).max(1);
    let parts: Vec<&[T]> = items.chunks(size).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let number = part.as_ptr().addr();
            let answers: Result<Vec<R>, E> = part.iter().map(&ask).collect();
            if answers.is_err() {
                // Parts before this one are already taken; those after it no longer matter.
                next.store(parts.len(), Ordering::Relaxed);
            }
            done.push((number, answers));
        }
        done
    };
    let mut done = if threads <= 1 || parts.len() <= 1 {
        work()
    } else {
        thread::scope(|scope| {
            // Under the library's name; where there are no more threads, fewer do the work.
            let other = |_| {
                let named = thread::Builder::new().name("portcullis".to_owned());
                named.spawn_scoped(scope, work).ok()
            };
            let others: Vec<_> = (1..threads.min(parts.len())).filter_map(other).collect();
            let mut done = work();
            for other in others {
                match other.join() {
                    Ok(answers) => done.extend(answers),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            done
        })
    };
    done.sort_by_key(|(number, _)| *number);
    let mut all = Vec::with_capacity(items.len());
    for (_, answers) in done {
        all.extend(answers?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_order_and_the_first_error_wins() {
        let items: Vec<u32> = (0..1000).collect();
        for threads in [0, 1, 3] {
            let doubled = in_parallel(threads, &items, |n| Ok::<_, u32>(2 * n)).unwrap();
            assert!(doubled.iter().enumerate().all(|(i, n)| *n == 2 * i as u32));
            let first =
                in_parallel(threads, &items, |n| if n % 300 == 299 { Err(*n) } else { Ok(()) });
            assert_eq!(first, Err(299));
            assert_eq!(in_parallel(threads, &[], |n: &u32| Err::<(), u32>(*n)), Ok(Vec::new()));
        }
    }
}
