//! From when on: a moment, or a span before the end of what is recorded.

use crate::model::{Span, Time};
use crate::runtime::{LogError, Source};
use crate::sim::scenario::span;
use crate::topology::what_if::last_time;

use super::records::moment;

/// As it was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// So long before the last reading.
    Ago(Span),
    /// This moment.
    At(Time),
}

impl Since {
    /// Reads `7d` or `2026-01-01T00:05:00Z`.
    pub(super) fn read(text: &str) -> Result<Since, String> {
        let ago = span(text).map(Since::Ago);
        ago.or_else(|_| moment(text).map(Since::At)).map_err(|_| {
            "expected a span such as 12h or 7d, or RFC 3339 in UTC such as 2026-01-01T00:05:00Z"
                .to_owned()
        })
    }

    /// The moment in a log; `None` when nothing is recorded there.
    pub(super) fn in_log(self, source: &mut dyn Source) -> Result<Option<Time>, LogError> {
        let last = last_time(source)?;
        Ok(last.map(|last| match self {
            Since::Ago(ago) => last + ago.times(-1),
            Since::At(time) => time,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_or_a_moment_is_read() {
        assert_eq!(Since::read("7d"), Ok(Since::Ago(Span::seconds(7 * 86_400))));
        let moment = Since::read("1970-01-01T00:00:01Z");
        assert_eq!(moment, Ok(Since::At(Time(1000))));
        assert!(Since::read("yesterday").unwrap_err().contains("7d"));
    }
}
