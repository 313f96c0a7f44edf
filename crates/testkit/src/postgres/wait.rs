//! Waiting for a state instead of for a time.

use std::time::{Duration, Instant};

use super::error::{Error, Result};

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(10);

/// Looks again and again until `look` returns a value, or fails, or the deadline has passed.
///
/// `what` completes "waited in vain for …".
///
/// # Errors
/// [`Error::Deadline`] when the time is over; the first error of `look`.
pub fn wait_until<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        if started.elapsed() >= deadline {
            return Err(Error::Deadline { what: what.to_owned(), waited: deadline, log: String::new() });
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_look_decides_and_an_error_ends_the_wait() {
        let mut looks = 0;
        let found = wait_until(Duration::from_mins(1), "three looks", || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
        let missed: Result<()> = wait_until(Duration::ZERO, "nothing", || Ok(None));
        assert!(matches!(missed, Err(Error::Deadline { .. })));
        let failed: Result<()> =
            wait_until(Duration::from_mins(1), "nothing", || Err(Error::WrongState { running: false }));
        assert!(matches!(failed, Err(Error::WrongState { running: false })));
    }
}
