//! One sample, an array of them, or a line each: how a body is taken apart.
//!
//! 1. A body that begins with `[` is an array: its elements, counted from 1.
//! 2. Else every line that is not blank is one; blank lines count.
//! 3. A first line that is no JSON by itself may begin one object over several lines: if the whole
//!    body is one JSON value, that is the one.

use std::io::BufRead as _;

use serde_json::value::RawValue;

/// The pieces of a body, each with its number from 1.
pub(super) enum Pieces<'a> {
    /// An array's elements.
    Elements(std::iter::Enumerate<std::vec::IntoIter<&'a RawValue>>),
    /// Lines.
    Lines(Lines<'a>),
    /// One value.
    One(Option<&'a [u8]>),
}

/// A body that begins like an array and is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoArray(pub(super) String);

impl<'a> Pieces<'a> {
    /// Takes a body apart.
    ///
    /// # Errors
    /// It begins with `[` and is no array.
    pub(super) fn of(body: &'a [u8]) -> Result<Self, NoArray> {
        let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
        let start = body.trim_ascii_start();
        if start.starts_with(b"[") {
            let elements: Vec<&RawValue> =
                serde_json::from_slice(start).map_err(|error| NoArray(error.to_string()))?;
            return Ok(Pieces::Elements(elements.into_iter().enumerate()));
        }
        let first = Lines::new(start).next().map_or(start, |(_, line)| line);
        let several = first.len() < start.trim_ascii_end().len();
        if several && !is_json(first) && is_json(start) {
            return Ok(Pieces::One(Some(start)));
        }
        Ok(Pieces::Lines(Lines::new(body)))
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = (usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Pieces::Elements(elements) => {
                let (index, element) = elements.next()?;
                Some((index + 1, element.get().as_bytes()))
            }
            Pieces::Lines(lines) => lines.next(),
            Pieces::One(one) => one.take().map(|one| (1, one)),
        }
    }
}

/// The lines of a text that are not blank, each with its number from 1.
pub(super) struct Lines<'a> {
    rest: &'a [u8],
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Lines { rest, number: 0 }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let all = self.rest;
            let length = self.rest.skip_until(b'\n').unwrap_or(all.len());
            self.number += 1;
            let line = all[..length].trim_ascii();
            if !line.is_empty() {
                return Some((self.number, line));
            }
        }
        None
    }
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: &[(usize, &str)]) {
        let pieces: Vec<(usize, String)> = Pieces::of(body.as_bytes())
            .unwrap_or_else(|e| panic!("{body:?}: {e:?}"))
            .map(|(number, piece)| (number, String::from_utf8(piece.to_vec()).unwrap()))
            .collect();
        let pieces: Vec<(usize, &str)> = pieces.iter().map(|(n, p)| (*n, p.as_str())).collect();
        assert_eq!(pieces, expected, "{body:?}");
    }

    #[test]
    fn lines_count_blank_ones_and_lose_their_ends() {
        check("", &[]);
        check(" \n\r\n", &[]);
        check("{}", &[(1, "{}")]);
        check("{}\n", &[(1, "{}")]);
        check(
            "{\"a\":1}\r\n\n {} \nx",
            &[(1, "{\"a\":1}"), (3, "{}"), (4, "x")],
        );
        check("\u{feff}{}\n{}", &[(1, "{}"), (2, "{}")]);
    }

    #[test]
    fn an_array_gives_its_elements() {
        check("[]", &[]);
        check(" [ {\"a\": [1]} ,\n 2]", &[(1, "{\"a\": [1]}"), (2, "2")]);
        for broken in ["[", "[{}", "[{}]]", "[{}] {}", "[x]"] {
            assert!(Pieces::of(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn one_object_may_span_lines() {
        let pretty = "{\n  \"a\": 1\n}";
        check(pretty, &[(1, pretty)]);
        check(
            "{\n\"a\": 1\n}\n{}",
            &[(1, "{"), (2, "\"a\": 1"), (3, "}"), (4, "{}")],
        );
        check("\n\n{}", &[(3, "{}")]);
        check("garbage\n{}", &[(1, "garbage"), (2, "{}")]);
    }
}
