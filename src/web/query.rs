//! What stands behind the `?`: the few words that reading routes know.

use axum::extract::Query;
use axum::http::Uri;

use crate::model::{MeshId, NodeId, Time, edit_distance, parse_rfc3339};

use super::answer::Refusal;

/// Which records are wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Asked {
    /// `mesh`; the empty one is asked for by an empty word.
    pub(super) mesh: Option<MeshId>,
    /// `node`.
    pub(super) node: Option<NodeId>,
    /// `type`.
    pub(super) kind: Option<String>,
    /// `partition`; 0 when it is not named.
    pub(super) partition: i32,
    /// `from`: a seq or an offset.
    pub(super) from: Option<i64>,
    /// `to`: an offset.
    pub(super) to: Option<i64>,
    /// `since`.
    pub(super) since: Option<Time>,
    /// `since_ttl=1`: from as long ago as a directive may live.
    pub(super) since_ttl: bool,
    /// `limit`.
    pub(super) limit: Option<usize>,
    /// `after`: a key in hex.
    pub(super) after: Vec<u8>,
}

impl Asked {
    /// Reads the words of a route that knows `known`.
    ///
    /// # Errors
    /// A word that it does not know, or a value that means nothing.
    pub(super) fn read(uri: &Uri, known: &[&str]) -> Result<Asked, Refusal> {
        let Query(pairs): Query<Vec<(String, String)>> = Query::try_from_uri(uri)
            .map_err(|error| Refusal::bad(format!("reading the query: {error}")))?;
        let mut asked = Asked::default();
        for (at, (word, value)) in pairs.iter().enumerate() {
            if !known.contains(&word.as_str()) {
                return Err(unknown(word, known));
            }
            if pairs[..at].iter().any(|(before, _)| before == word) {
                return Err(Refusal::bad(format!(
                    "{word}={value:?}: {word} is given twice, expected once; ask once for each"
                )));
            }
            asked.set(word, value)?;
        }
        Ok(asked)
    }

    fn set(&mut self, word: &str, value: &str) -> Result<(), Refusal> {
        let wrong = |expected: &str| {
            Refusal::bad(format!(
                "{word}={value:?}: expected {expected}, e.g. {word}=1"
            ))
        };
        let number = || value.parse::<i64>().ok().filter(|n| *n >= 0);
        match word {
            "mesh" => {
                let mesh = MeshId::parse(value);
                self.mesh = Some(mesh.ok_or_else(|| name_too_long(word, value))?);
            }
            "node" => {
                let node = NodeId::parse(value);
                self.node = Some(node.ok_or_else(|| name_too_long(word, value))?);
            }
            "type" => self.kind = Some(value.to_owned()),
            "partition" => {
                let partition = number().and_then(|n| i32::try_from(n).ok());
                self.partition = partition.ok_or_else(|| wrong("a whole number from 0"))?;
            }
            "from" => self.from = Some(number().ok_or_else(|| wrong("a whole number from 0"))?),
            "to" => self.to = Some(number().ok_or_else(|| wrong("a whole number from 0"))?),
            "since" => self.since = Some(moment(value)?),
            "since_ttl" => self.since_ttl = value == "1" || value == "true",
            "limit" => {
                let limit = number().filter(|n| *n > 0);
                let limit = limit.and_then(|n| usize::try_from(n).ok());
                self.limit = Some(limit.ok_or_else(|| wrong("a whole number from 1"))?);
            }
            "after" => self.after = hex(value).ok_or_else(|| wrong("bytes in hex"))?,
            _ => {}
        }
        Ok(())
    }

    /// How many are wanted at most.
    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT).min(LIMIT_MAX)
    }
}

fn unknown(word: &str, known: &[&str]) -> Refusal {
    let nearest = known.iter().min_by_key(|k| edit_distance(word, k));
    Refusal::bad(match nearest {
        None => format!("{word:?}: this route takes no words behind the ?"),
        Some(nearest) => format!(
            "{word:?}: this route knows {}; did you mean {nearest}?",
            known.join(", ")
        ),
    })
}

fn name_too_long(word: &str, value: &str) -> Refusal {
    Refusal::bad(format!(
        "{word} of {} bytes: expected a name of 1 to 255 bytes",
        value.len()
    ))
}

/// RFC 3339, or ms since 1970.
fn moment(value: &str) -> Result<Time, Refusal> {
    parse_rfc3339(value.as_bytes())
        .or_else(|| value.parse().ok())
        .map(Time)
        .ok_or_else(|| {
            Refusal::bad(format!(
                "since={value:?}: expected RFC 3339 in UTC such as 2026-01-01T00:05:00Z, or ms \
                 since 1970"
            ))
        })
}

/// Bytes written in hex.
fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()
        })
        .collect()
}

/// How many records are answered when nobody says.
const LIMIT: usize = 1000;

/// How many are answered at most.
const LIMIT_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &[
        "mesh",
        "node",
        "type",
        "from",
        "since",
        "since_ttl",
        "limit",
        "after",
    ];

    fn read(query: &str) -> Result<Asked, Refusal> {
        Asked::read(&format!("/v1/events?{query}").parse().unwrap(), KNOWN)
    }

    #[test]
    fn words_are_read() {
        let asked =
            read("mesh=a%2Fb&node=n+1&type=X&from=7&since=1970-01-01T00:00:01Z&limit=3").unwrap();
        assert_eq!(asked.mesh.as_ref().map(MeshId::as_str), Some("a/b"));
        assert_eq!(asked.node.as_ref().map(NodeId::as_str), Some("n 1"));
        assert_eq!(asked.kind.as_deref(), Some("X"));
        assert_eq!((asked.from, asked.since), (Some(7), Some(Time(1000))));
        assert_eq!(asked.limit(), 3);
        assert_eq!(read("").unwrap().limit(), LIMIT);
        assert_eq!(read("limit=99999999").unwrap().limit(), LIMIT_MAX);
        assert!(read("mesh=").unwrap().mesh.unwrap().is_none());
        assert_eq!(read("since=17").unwrap().since, Some(Time(17)));
        assert_eq!(read("after=00ff").unwrap().after, [0, 255]);
    }

    #[test]
    fn what_means_nothing_is_named() {
        for (query, words) in [
            ("mehs=a", "did you mean mesh?"),
            ("from=-1", "from=\"-1\": expected a whole number from 0"),
            ("from=x", "expected a whole number"),
            ("limit=0", "from 1"),
            ("since=noon", "RFC 3339"),
            ("node=", "1 to 255 bytes"),
            ("after=0", "hex"),
            ("after=zz", "hex"),
            ("mesh=a&mesh=b", "mesh is given twice"),
        ] {
            let refused = read(query).unwrap_err();
            assert!(refused.error.contains(words), "{query}: {}", refused.error);
        }
        let none = Asked::read(&"/x?a=1".parse().unwrap(), &[]).unwrap_err();
        assert!(none.error.contains("takes no words"), "{}", none.error);
    }
}
