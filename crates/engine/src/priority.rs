//! Giving way to others on the processor.

use std::fmt;
use std::str::FromStr;

/// How nice to be to other processes: 0 (not at all) to 19 (runs when nobody else wants to). Anybody may become nicer, and
/// only root may go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Niceness(u8);

impl Niceness {
    /// A niceness of 0 to 19; `None` for another number.
    #[must_use]
    pub fn new(niceness: u8) -> Option<Self> {
        (niceness <= 19).then_some(Self(niceness))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }

    /// Gives this thread, and all threads that it starts from now on, this priority on the processor (`setpriority(2)`,
    /// which on Linux is a thread's own). A thread that is nicer already stays so. Reading and sending are slowed by it
    /// only as far as they need the processor.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn apply(self) -> std::io::Result<()> {
        let wanted = i32::from(self.0);
        let now = rustix::process::getpriority_process(None)?;
        if now < wanted {
            rustix::process::setpriority_process(None, wanted)?;
        }
        Ok(())
    }
}

impl fmt::Display for Niceness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Niceness {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| "a niceness is 0 to 19".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_inherit_it_and_others_do_not_get_it() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let before = priority();
        let niceness: Niceness = "7".parse().unwrap();
        let inherited = std::thread::spawn(move || {
            niceness.apply().unwrap();
            // Never back to less.
            Niceness::new(0).unwrap().apply().unwrap();
            std::thread::spawn(priority).join().unwrap()
        });
        assert_eq!(inherited.join().unwrap(), before.max(7));
        assert_eq!(priority(), before);
    }

    #[test]
    fn other_numbers_are_refused() {
        for text in ["20", "-1", "", "x", "256"] {
            assert!(text.parse::<Niceness>().is_err(), "{text}");
        }
        assert_eq!("19".parse::<Niceness>().unwrap().to_string(), "19");
    }
}
