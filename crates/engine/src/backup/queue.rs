//! A bounded queue between threads that can be stopped from either side.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The work was stopped: by an error elsewhere, or by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopped;

/// Locks, whatever happened to a thread that held the lock: what is behind our locks is never left half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    /// No more will be added.
    closed: bool,
    /// What is there will not be taken any more.
    stopped: bool,
}

/// Hands items from some threads to others, in order.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    length_max: usize,
}

impl<T> Queue<T> {
    pub(super) fn new(length_max: usize) -> Self {
        let state = State { items: VecDeque::new(), closed: false, stopped: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), length_max }
    }

    /// Adds an item once there is room.
    pub(super) fn push(&self, item: T) -> Result<(), Stopped> {
        let mut state = lock(&self.state);
        while state.items.len() >= self.length_max && !state.stopped {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped || state.closed {
            return Err(Stopped);
        }
        state.items.push_back(item);
        self.changed.notify_all();
        Ok(())
    }

    /// Takes the next item once there is one; `None` at the end.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            if let Some(item) = state.items.pop_front() {
                self.changed.notify_all();
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says that nothing more will be added.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }

    /// Ends everything at once.
    pub(super) fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped = true;
        state.items.clear();
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn everything_arrives_once_and_then_it_ends() {
        let queue = Arc::new(Queue::new(3));
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let queue = Arc::clone(&queue);
                std::thread::spawn(move || std::iter::from_fn(|| queue.pop()).collect::<Vec<u32>>())
            })
            .collect();
        for n in 0..1000 {
            queue.push(n).unwrap();
        }
        queue.close();
        let mut taken: Vec<u32> = takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect();
        taken.sort_unstable();
        assert_eq!(taken, (0..1000).collect::<Vec<_>>());
        assert_eq!(queue.push(1), Err(Stopped));
    }

    #[test]
    fn a_full_queue_lets_go_when_stopped() {
        let queue = Arc::new(Queue::new(1));
        queue.push(1).unwrap();
        let adder = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || queue.push(2))
        };
        queue.stop();
        assert_eq!(adder.join().unwrap(), Err(Stopped));
        assert_eq!(queue.pop(), None);
    }
}
