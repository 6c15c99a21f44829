//! The grammar of Avro's binary encoding, written and read directly: no intermediate value, no
//! schema at hand. `records.rs` says which field follows which; `schemas/` says what that means.
//!
//! A writer always writes the newest edition of a record. A reader is told which edition wrote what
//! it reads: a field marked `since 2` is absent from what edition 1 wrote and takes its default.
//! Whatever the bytes say, a reader does not panic and allocates no more than they justify: a
//! length or count beyond what is left is refused before anything is reserved for it.

use crate::model::{EventTime, MeshId, NodeId, OBSERVED_BYTES_MAX, PolicyId, Time};

/// Longest text of a field without a limit of its own, bytes. A limit may be raised, never lowered:
/// events must be readable for ever.
pub(super) const TEXT_BYTES_MAX: usize = OBSERVED_BYTES_MAX;

/// What can be written to and read from Avro bytes.
pub(super) trait Avro: Sized {
    /// Appends the value.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads a value.
    fn read(from: &mut Reader<'_>) -> Result<Self, Fault>;
}

/// Another way to write and read a `T` than its own, named after `as` in a record's layout.
pub(super) trait Form<T> {
    /// Appends the value.
    fn write(value: &T, out: &mut Vec<u8>);

    /// Reads a value.
    fn read(from: &mut Reader<'_>) -> Result<T, Fault>;
}

/// The form of a field that names none: its type's own.
pub(super) struct Plain;

impl<T: Avro> Form<T> for Plain {
    fn write(value: &T, out: &mut Vec<u8>) {
        value.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<T, Fault> {
        T::read(from)
    }
}

/// What is wrong with bytes; where, the reader knows.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    /// They end within a value.
    End,
    /// A number of more than 64 bits, or than its type holds.
    Number,
    /// A length or count that is negative or beyond what is left.
    Length(i64),
    /// A text beyond its limit.
    TooLong {
        /// Its bytes.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// A text that is no UTF-8.
    Utf8,
    /// A boolean that is neither 0 nor 1.
    Boolean(u8),
    /// A branch or symbol that this edition does not have.
    Choice(i64),
    /// NaN, infinite, or outside the metric's range.
    Range(f64),
    /// A name that is empty or too long.
    Name(usize),
    /// A nested record that cannot be read.
    Nested(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::End => f.write_str("the bytes end here, expected more"),
            Fault::Number => f.write_str("a number that its type cannot hold"),
            Fault::Length(got) => write!(f, "a length of {got}, expected 0 to what is left"),
            Fault::TooLong { got, max } => write!(f, "{got} bytes of text, expected at most {max}"),
            Fault::Utf8 => f.write_str("a text that is not UTF-8"),
            Fault::Boolean(got) => write!(f, "a boolean {got}, expected 0 or 1"),
            Fault::Choice(got) => write!(f, "choice {got}, expected one that the schema has"),
            Fault::Range(got) => write!(f, "{got}, expected a finite number in its range"),
            Fault::Name(got) => write!(f, "a name of {got} bytes, expected 1 to 255"),
            Fault::Nested(inner) => f.write_str(inner),
        }
    }
}

/// Reads values from the front of bytes.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
    /// The edition that wrote these bytes.
    pub(super) edition: u8,
    /// The field being read, for the message of a fault.
    pub(super) field: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, of a record of `total` bytes that ends with them, as `edition` wrote them.
    pub(super) fn new(bytes: &'a [u8], total: usize, edition: u8) -> Self {
        Reader {
            rest: bytes,
            total,
            edition,
            field: "",
        }
    }

    /// How many bytes of the record have been read.
    pub(super) fn position(&self) -> usize {
        self.total - self.rest.len()
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// An int or long: zigzag, 7 bits a byte, least first.
    #[inline]
    pub(super) fn long(&mut self) -> Result<i64, Fault> {
        match *self.rest {
            [low, ref rest @ ..] if low < 0x80 => {
                self.rest = rest;
                Ok(unzigzag(u64::from(low)))
            }
            _ => self.long_of_several_bytes(),
        }
    }

    fn long_of_several_bytes(&mut self) -> Result<i64, Fault> {
        let mut value = 0;
        for (i, &byte) in self.rest.iter().take(10).enumerate() {
            // The tenth byte holds the 64th bit and nothing else.
            if i == 9 && byte > 1 {
                return Err(Fault::Number);
            }
            value |= u64::from(byte & 0x7F) << (7 * i);
            if byte < 0x80 {
                self.rest = &self.rest[i + 1..];
                return Ok(unzigzag(value));
            }
        }
        Err(if self.rest.len() < 10 {
            Fault::End
        } else {
            Fault::Number
        })
    }

    /// A double, whatever it is.
    #[inline]
    pub(super) fn double(&mut self) -> Result<f64, Fault> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// `N` bytes.
    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(Fault::End)?;
        self.rest = rest;
        Ok(*array)
    }

    /// Passes over so many bytes.
    pub(super) fn skip(&mut self, count: usize) -> Result<(), Fault> {
        self.rest = self.rest.get(count..).ok_or(Fault::End)?;
        Ok(())
    }

    /// The bytes behind their length.
    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.long()?;
        let (bytes, rest) = usize::try_from(length)
            .ok()
            .and_then(|length| self.rest.split_at_checked(length))
            .ok_or(Fault::Length(length))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A text, borrowed.
    #[inline]
    pub(super) fn text(&mut self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Fault::Utf8)
    }

    /// A text of at most `max` bytes.
    pub(super) fn short_text(&mut self, max: usize) -> Result<&'a str, Fault> {
        let text = self.text()?;
        if text.len() > max {
            let got = text.len();
            return Err(Fault::TooLong { got, max });
        }
        Ok(text)
    }

    /// Whether the optional value that follows is there.
    #[inline]
    pub(super) fn some(&mut self) -> Result<bool, Fault> {
        match self.long()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Fault::Choice(other)),
        }
    }

    /// Calls `item` for every item of an array. We write one block; other writers may write several
    /// and give their lengths in bytes (a negative count), so both are read.
    #[inline]
    pub(super) fn items(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            // No item of ours is without bytes: a count beyond them is a lie.
            if count.unsigned_abs() > self.rest.len() as u64 {
                return Err(Fault::Length(count));
            }
            let end = if count < 0 {
                let length = self.long()?;
                let end = usize::try_from(length)
                    .ok()
                    .and_then(|length| self.rest.len().checked_sub(length));
                Some(end.ok_or(Fault::Length(length))?)
            } else {
                None
            };
            for _ in 0..count.unsigned_abs() {
                item(self)?;
            }
            if end.is_some_and(|end| end != self.rest.len()) {
                return Err(Fault::Length(count));
            }
        }
    }
}

/// Appends a number.
pub(super) fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends bytes behind their length.
pub(super) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// Appends a double; -0.0 becomes 0.0.
///
/// # Panics
/// When it is NaN or infinite: no value of ours may be, or equal facts would have unequal bytes.
pub(super) fn write_double(value: f64, out: &mut Vec<u8>) {
    assert!(
        value.is_finite(),
        "writing {value}: expected a finite number"
    );
    out.extend_from_slice(&(value + 0.0).to_le_bytes());
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

impl Avro for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        match from.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(Fault::Boolean(other)),
        }
    }
}

impl Avro for i64 {
    fn write(&self, out: &mut Vec<u8>) {
        write_long(*self, out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        from.long()
    }
}

impl Avro for i32 {
    fn write(&self, out: &mut Vec<u8>) {
        write_long(i64::from(*self), out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        from.long()?.try_into().map_err(|_| Fault::Number)
    }
}

impl Avro for u32 {
    fn write(&self, out: &mut Vec<u8>) {
        write_long(i64::from(*self), out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        from.long()?.try_into().map_err(|_| Fault::Number)
    }
}

impl Avro for f64 {
    fn write(&self, out: &mut Vec<u8>) {
        write_double(*self, out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        let value = from.double()?;
        if !value.is_finite() {
            return Err(Fault::Range(value));
        }
        Ok(value + 0.0)
    }
}

impl Avro for String {
    fn write(&self, out: &mut Vec<u8>) {
        write_bytes(self.as_bytes(), out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        from.short_text(TEXT_BYTES_MAX).map(str::to_owned)
    }
}

impl<const N: usize> Avro for [u8; N] {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        from.array()
    }
}

impl<T: Avro> Avro for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        write_long(i64::from(self.is_some()), out);
        if let Some(value) = self {
            value.write(out);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        Ok(if from.some()? {
            Some(T::read(from)?)
        } else {
            None
        })
    }
}

impl<T: Avro> Avro for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            write_long(self.len() as i64, out);
            self.iter().for_each(|item| item.write(out));
        }
        write_long(0, out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        let mut items = Vec::new();
        from.items(|from| {
            items.push(T::read(from)?);
            Ok(())
        })?;
        Ok(items)
    }
}

impl Avro for MeshId {
    fn write(&self, out: &mut Vec<u8>) {
        write_bytes(self.as_str().as_bytes(), out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        let text = from.text()?;
        MeshId::parse(text).ok_or(Fault::Name(text.len()))
    }
}

impl Avro for NodeId {
    fn write(&self, out: &mut Vec<u8>) {
        write_bytes(self.as_str().as_bytes(), out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        let text = from.text()?;
        NodeId::parse(text).ok_or(Fault::Name(text.len()))
    }
}

macro_rules! newtype {
    ($($name:ident),+) => {$(
        impl Avro for $name {
            fn write(&self, out: &mut Vec<u8>) {
                self.0.write(out);
            }

            fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
                Avro::read(from).map($name)
            }
        }
    )+};
}
newtype!(Time, EventTime, PolicyId);

/// The fields of a record in the order of its schema: `field`, `field as Form`, `field since 2`.
/// A field that the model has and the list does not have does not compile.
macro_rules! record {
    ($name:ident {
        $($field:ident $(as $form:ident)? $(since $edition:literal)?),+ $(,)?
    }) => {
        impl $crate::wire::avro::Avro for $name {
            fn write(&self, out: &mut Vec<u8>) {
                let $name { $($field),+ } = self;
                $($crate::wire::avro::write_field!($field, out $(, $form)?);)+
            }

            fn read(
                from: &mut $crate::wire::avro::Reader<'_>,
            ) -> Result<Self, $crate::wire::avro::Fault> {
                Ok($name {
                    $($field: $crate::wire::avro::read_field!(
                        $field, from $(, as $form)? $(, since $edition)?
                    ),)+
                })
            }
        }
    };
}

/// The branches of a union with their numbers, each with its fields as in [`record!`].
macro_rules! union {
    ($name:ident {
        $($index:literal $branch:ident {
            $($field:ident $(as $form:ident)? $(since $edition:literal)?),+ $(,)?
        }),+ $(,)?
    }) => {
        impl $crate::wire::avro::Avro for $name {
            fn write(&self, out: &mut Vec<u8>) {
                match self {
                    $($name::$branch { $($field),+ } => {
                        $crate::wire::avro::write_long($index, out);
                        $($crate::wire::avro::write_field!($field, out $(, $form)?);)+
                    })+
                }
            }

            fn read(
                from: &mut $crate::wire::avro::Reader<'_>,
            ) -> Result<Self, $crate::wire::avro::Fault> {
                match from.long()? {
                    $($index => Ok($name::$branch {
                        $($field: $crate::wire::avro::read_field!(
                            $field, from $(, as $form)? $(, since $edition)?
                        ),)+
                    }),)+
                    other => Err($crate::wire::avro::Fault::Choice(other)),
                }
            }
        }
    };
}

/// The symbols of an enum with their numbers.
macro_rules! symbols {
    ($name:ident { $($index:literal $symbol:ident),+ $(,)? }) => {
        impl $crate::wire::avro::Avro for $name {
            fn write(&self, out: &mut Vec<u8>) {
                $crate::wire::avro::write_long(
                    match self {
                        $($name::$symbol => $index,)+
                    },
                    out,
                );
            }

            fn read(
                from: &mut $crate::wire::avro::Reader<'_>,
            ) -> Result<Self, $crate::wire::avro::Fault> {
                match from.long()? {
                    $($index => Ok($name::$symbol),)+
                    other => Err($crate::wire::avro::Fault::Choice(other)),
                }
            }
        }
    };
}

/// Writes one field of a layout.
macro_rules! write_field {
    ($field:ident, $out:ident) => {
        $crate::wire::avro::write_field!($field, $out, Plain)
    };
    ($field:ident, $out:ident, Plain) => {
        <$crate::wire::avro::Plain as $crate::wire::avro::Form<_>>::write($field, $out)
    };
    ($field:ident, $out:ident, $form:ident) => {
        <$form as $crate::wire::avro::Form<_>>::write($field, $out)
    };
}

/// Reads one field of a layout.
macro_rules! read_field {
    ($field:ident, $from:ident $(, as $form:ident)?, since $edition:literal) => {
        if $from.edition < $edition {
            Default::default()
        } else {
            $crate::wire::avro::read_field!($field, $from $(, as $form)?)
        }
    };
    ($field:ident, $from:ident) => {{
        $from.field = stringify!($field);
        <$crate::wire::avro::Plain as $crate::wire::avro::Form<_>>::read($from)?
    }};
    ($field:ident, $from:ident, as $form:ident) => {{
        $from.field = stringify!($field);
        <$form as $crate::wire::avro::Form<_>>::read($from)?
    }};
}

pub(super) use {read_field, record, symbols, union, write_field};

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Avro>(bytes: &[u8], edition: u8) -> Result<T, Fault> {
        T::read(&mut Reader::new(bytes, bytes.len(), edition))
    }

    #[test]
    fn numbers_are_zigzag_in_sevens() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (-1, &[0x01]),
            (63, &[0x7E]),
            (-64, &[0x7F]),
            (64, &[0x80, 0x01]),
            (1042, &[0xA4, 0x10]),
            (
                i64::MAX,
                &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
            ),
            (
                i64::MIN,
                &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
            ),
        ] {
            let mut out = Vec::new();
            write_long(value, &mut out);
            assert_eq!((&*out, read::<i64>(bytes, 1)), (bytes, Ok(value)));
        }
    }

    #[test]
    fn bytes_that_lie_are_refused_by_what_is_wrong() {
        let huge = [0xFE, 0xFF, 0xFF, 0xFF, 0x0F];
        assert_eq!(read::<i64>(&[0x80], 1), Err(Fault::End));
        assert_eq!(read::<i64>(&[0xFF; 11], 1), Err(Fault::Number));
        assert_eq!(
            read::<i32>(&[0x80, 0x80, 0x80, 0x80, 0x10], 1),
            Err(Fault::Number)
        );
        assert_eq!(read::<u32>(&[0x01], 1), Err(Fault::Number));
        assert_eq!(read::<String>(&[0x01], 1), Err(Fault::Length(-1)));
        assert_eq!(read::<String>(&huge, 1), Err(Fault::Length(2_147_483_647)));
        assert_eq!(read::<String>(&[0x02, 0xFF], 1), Err(Fault::Utf8));
        assert_eq!(
            read::<Vec<bool>>(&huge, 1),
            Err(Fault::Length(2_147_483_647))
        );
        assert_eq!(
            read::<Vec<bool>>(&[0x02, 0x02, 0x00], 1),
            Err(Fault::Boolean(2))
        );
        assert_eq!(read::<Option<bool>>(&[0x04], 1), Err(Fault::Choice(2)));
        assert_eq!(read::<NodeId>(&[0x00], 1), Err(Fault::Name(0)));
        let infinite = f64::INFINITY.to_le_bytes();
        assert_eq!(read::<f64>(&infinite, 1), Err(Fault::Range(f64::INFINITY)));
        let mut long = Vec::new();
        write_bytes(&[b'a'; TEXT_BYTES_MAX + 1], &mut long);
        let (got, max) = (TEXT_BYTES_MAX + 1, TEXT_BYTES_MAX);
        assert_eq!(read::<String>(&long, 1), Err(Fault::TooLong { got, max }));
    }

    #[test]
    fn an_array_may_come_in_blocks_that_tell_their_length() {
        let plain = [0x04, 0x02, 0x04, 0x00];
        let blocks = [0x01, 0x02, 0x02, 0x02, 0x04, 0x00];
        assert_eq!(read::<Vec<i64>>(&plain, 1), Ok(vec![1, 2]));
        assert_eq!(read::<Vec<i64>>(&blocks, 1), Ok(vec![1, 2]));
        let wrong_length = [0x01, 0x04, 0x02, 0x02, 0x04, 0x00];
        assert_eq!(read::<Vec<i64>>(&wrong_length, 1), Err(Fault::Length(-1)));
        let least = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
        assert_eq!(read::<Vec<i64>>(&least, 1), Err(Fault::Length(i64::MIN)));
    }

    #[test]
    fn minus_zero_is_written_as_zero() {
        let mut out = Vec::new();
        (-0.0f64).write(&mut out);
        assert_eq!(out, [0; 8]);
    }

    /// A record as its second edition has it: the first had no `observed`.
    #[derive(Debug, PartialEq)]
    struct Grown {
        seq: i64,
        observed: Option<String>,
    }
    record!(Grown { seq, observed since 2 });

    #[test]
    fn what_an_older_edition_wrote_is_read_with_the_default() {
        let new = Grown {
            seq: 7,
            observed: Some("ok".to_owned()),
        };
        let mut bytes = Vec::new();
        new.write(&mut bytes);
        assert_eq!(read::<Grown>(&bytes, 2), Ok(new));
        let old = Grown {
            seq: 7,
            observed: None,
        };
        assert_eq!(read::<Grown>(&[14], 1), Ok(old));
        assert_eq!(read::<Grown>(&[14], 2), Err(Fault::End));
    }
}
