//! Progress bars on stderr, with rate and time left; only where a terminal shows them.

use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use walden_engine::{Progress, Unit};

const BYTES: &str = "{msg:<22} [{bar:30}] {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
const BYTES_OPEN: &str = "{msg:<22} {spinner} {bytes}  {bytes_per_sec}  {elapsed}";
const COUNT: &str = "{msg:<22} [{bar:30}] {human_pos}/{human_len}  {eta} left";
const COUNT_OPEN: &str = "{msg:<22} {spinner} {human_pos}  {elapsed}";
/// How often a bar moves although nothing was done, in milliseconds.
const TICK_MILLISECONDS: u64 = 200;

/// One bar at a time, for the phase under way, with the phase's name.
#[derive(Debug, Default)]
pub(crate) struct Bars {
    bar: Mutex<Option<(ProgressBar, String)>>,
}

impl Bars {
    fn with<T>(&self, act: impl FnOnce(&mut Option<(ProgressBar, String)>) -> T) -> T {
        act(&mut self.bar.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Progress for Bars {
    fn begin(&self, phase: &str, unit: Unit, total: u64) {
        let template = match (unit, total) {
            (Unit::Bytes, 0) => BYTES_OPEN,
            (Unit::Bytes, _) => BYTES,
            (Unit::Count, 0) => COUNT_OPEN,
            (Unit::Count, _) => COUNT,
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = if total == 0 { ProgressBar::new_spinner() } else { ProgressBar::new(total) };
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(phase.to_owned());
        bar.enable_steady_tick(std::time::Duration::from_millis(TICK_MILLISECONDS));
        if let Some((before, _)) = self.with(|slot| slot.replace((bar, phase.to_owned()))) {
            before.finish_and_clear();
        }
    }

    fn advance(&self, amount: u64) {
        self.with(|slot| {
            if let Some((bar, _)) = slot {
                bar.inc(amount);
            }
        });
    }

    fn note(&self, note: Option<&str>) {
        self.with(|slot| {
            if let Some((bar, phase)) = slot {
                bar.set_message(note.unwrap_or(phase).to_owned());
            }
        });
    }

    fn end(&self) {
        if let Some((bar, _)) = self.with(Option::take) {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_one() {
        for template in [BYTES, BYTES_OPEN, COUNT, COUNT_OPEN] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
