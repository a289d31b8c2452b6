//! The one door to atomics of what this crate publishes by itself, so that loom can stand behind
//! it (`RUSTFLAGS="--cfg loom" cargo test -p portcullis-classifier --release --lib loom`).

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A pointer that one thread changes while others follow it.
#[cfg(not(loom))]
pub(crate) type Published<T> = arc_swap::ArcSwap<T>;
#[cfg(loom)]
pub(crate) use specified::Published;

/// What arc-swap promises, in terms that loom knows: each load sees one of the values stored, whole,
/// and keeps it alive. That arc-swap keeps the promise is for its own tests to show.
#[cfg(loom)]
mod specified {
    use std::sync::{Arc, PoisonError};

    #[derive(Debug)]
    pub(crate) struct Published<T>(loom::sync::Mutex<Arc<T>>);

    impl<T> Published<T> {
        pub(crate) fn from_pointee(value: T) -> Self {
            Self(loom::sync::Mutex::new(Arc::new(value)))
        }

        pub(crate) fn load_full(&self) -> Arc<T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }

        pub(crate) fn load(&self) -> Arc<T> {
            self.load_full()
        }

        pub(crate) fn swap(&self, value: Arc<T>) -> Arc<T> {
            let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, value)
        }

        pub(crate) fn store(&self, value: Arc<T>) {
            drop(self.swap(value));
        }
    }
}
