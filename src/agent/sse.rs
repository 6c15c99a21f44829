//! Server-sent events (WHATWG HTML, 9.2): from bytes, however they are cut, to events.

use std::collections::VecDeque;

/// Longest line and longest data of an event, bytes.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// Its id, or that of the last event that had one; empty before the first.
    pub id: String,
    /// What kind it is; empty: not said.
    pub event: String,
    /// Its data; several lines are joined by line feeds.
    pub data: String,
}

/// A line or an event is longer than this many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge(pub(super) usize);

/// What was read of the event under way.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed right after it ends no other line.
    after_return: bool,
    /// Something was read: a byte order mark is one only before it.
    begun: bool,
    has_data: bool,
    event: SseEvent,
}

impl Parser {
    /// Reads on; whole events are put behind `out`.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        out: &mut VecDeque<SseEvent>,
    ) -> Result<(), TooLarge> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_return) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|&b| b == b'\n' || b == b'\r');
            let piece = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + piece.len() > EVENT_BYTES_MAX {
                return Err(TooLarge(EVENT_BYTES_MAX));
            }
            self.line.extend_from_slice(piece);
            let Some(end) = end else { break };
            self.after_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            out.extend(self.end_line()?);
        }
        Ok(())
    }

    /// Takes the line that is complete; an empty one ends an event.
    fn end_line(&mut self) -> Result<Option<SseEvent>, TooLarge> {
        let bytes = std::mem::take(&mut self.line);
        let mut line = bytes.as_slice();
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        if line.is_empty() {
            return Ok(self.end_event());
        }
        let text = String::from_utf8_lossy(line);
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.event.data.len() + value.len() >= EVENT_BYTES_MAX {
                    return Err(TooLarge(EVENT_BYTES_MAX));
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "id" if !value.contains('\0') => self.event.id = value.to_owned(),
            "event" => self.event.event = value.to_owned(),
            // A comment (it keeps the connection alive), or a field that is not for us.
            _ => {}
        }
        Ok(None)
    }

    fn end_event(&mut self) -> Option<SseEvent> {
        let id = self.event.id.clone();
        let event = std::mem::replace(
            &mut self.event,
            SseEvent {
                id,
                ..SseEvent::default()
            },
        );
        std::mem::take(&mut self.has_data).then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, event: &str, data: &str) -> SseEvent {
        SseEvent {
            id: id.to_owned(),
            event: event.to_owned(),
            data: data.to_owned(),
        }
    }

    /// However the bytes are cut, these events come out.
    fn check(bytes: &[u8], expected: &[SseEvent]) {
        for size in [1, 2, 3, 7, bytes.len().max(1)] {
            let mut parser = Parser::default();
            let mut out = VecDeque::new();
            for chunk in bytes.chunks(size) {
                parser.feed(chunk, &mut out).unwrap();
            }
            assert_eq!(out, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn events_come_out_however_they_were_cut() {
        check(b"", &[]);
        check(b"id: 7\ndata: {}\n\n", &[event("7", "", "{}")]);
        check(
            b"data:a\r\n\r\ndata: b\r\rdata:  c\n\n",
            &[event("", "", "a"), event("", "", "b"), event("", "", " c")],
        );
        check(
            "id:1\nevent: x\ndata: é\ndata\ndata: z\n\n".as_bytes(),
            &[event("1", "x", "é\n\nz")],
        );
        check("\u{feff}data: a\n\n".as_bytes(), &[event("", "", "a")]);
    }

    #[test]
    fn comments_and_unknown_fields_are_no_events() {
        check(b": keep\n\n:\n\nretry: 5\n\nwhat: x\n\n", &[]);
        check(b"id: 3\n\n: x\ndata: a\n\n", &[event("3", "", "a")]);
    }

    #[test]
    fn an_id_lasts_and_one_with_a_null_does_not_count() {
        check(
            b"id: 3\ndata: a\n\nid: 4\0\ndata: b\n\n",
            &[event("3", "", "a"), event("3", "", "b")],
        );
    }

    #[test]
    fn what_did_not_end_is_no_event() {
        check(b"data: a\n\ndata: b\n", &[event("", "", "a")]);
    }

    #[test]
    fn a_line_or_an_event_without_end_is_too_large() {
        let large = Err(TooLarge(EVENT_BYTES_MAX));
        let mut out = VecDeque::new();
        let line = vec![b'x'; EVENT_BYTES_MAX];
        let mut parser = Parser::default();
        assert_eq!(parser.feed(&line, &mut out), Ok(()));
        assert_eq!(parser.feed(b"x", &mut out), large);
        let mut parser = Parser::default();
        let line = [b"data:", vec![b'x'; EVENT_BYTES_MAX / 2].as_slice(), b"\n"].concat();
        assert_eq!(parser.feed(&line, &mut out), Ok(()));
        assert_eq!(parser.feed(&line, &mut out), large);
        assert_eq!(out, []);
    }
}
