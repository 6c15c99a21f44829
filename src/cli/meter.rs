//! How far long work is, for the person at the terminal: silent for the first second.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::topology::replay::Done;

/// Tells on standard error how far it is.
pub(super) struct Meter {
    what: &'static str,
    begun: Instant,
    told: Option<Instant>,
    terminal: bool,
}

impl Meter {
    /// Of this work, which begins now.
    pub(super) fn new(what: &'static str) -> Self {
        Meter {
            what,
            begun: Instant::now(),
            told: None,
            terminal: io::stderr().is_terminal(),
        }
    }

    /// Tells, when it is time to.
    pub(super) fn tell(&mut self, done: Done) {
        let now = Instant::now();
        let last = self.told.unwrap_or(self.begun + FIRST - self.pause());
        if now.duration_since(self.begun) < FIRST || now.duration_since(last) < self.pause() {
            return;
        }
        self.told = Some(now);
        let words = words(self.what, done, now.duration_since(self.begun));
        // Whether or not someone listens.
        let _ = match self.terminal {
            true => write!(io::stderr(), "\r{words}\x1b[K"),
            false => writeln!(io::stderr(), "{words}"),
        };
    }

    fn pause(&self) -> Duration {
        match self.terminal {
            true => FIRST / 2,
            false => FIRST * 10,
        }
    }
}

impl Drop for Meter {
    /// Leaves no half line behind.
    fn drop(&mut self) {
        if self.terminal && self.told.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn words(what: &str, done: Done, passed: Duration) -> String {
    let Done { records, total } = done;
    let rate = (records as f64 / passed.as_secs_f64().max(0.001)) as u64;
    let percent = match total {
        0 => String::new(),
        total => format!(" ({} %)", (100 * records / total).min(100)),
    };
    format!("{what}: {records} of about {total} records{percent}, {rate} a second")
}

/// Work of less than this says nothing.
const FIRST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_much_of_what_and_how_fast() {
        let done = Done {
            records: 5000,
            total: 20_000,
        };
        assert_eq!(
            words("replay", done, Duration::from_secs(2)),
            "replay: 5000 of about 20000 records (25 %), 2500 a second"
        );
        let nothing = words("replay", Done::default(), Duration::ZERO);
        assert_eq!(nothing, "replay: 0 of about 0 records, 0 a second");
    }
}
