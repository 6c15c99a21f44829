//! Numbers of a row without those that are not there: rows are written and read far more often than
//! anything else, and most nodes lack some of the eight metrics.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

/// Eight numbers: a mask of those that are not 0, then these.
pub mod eight {
    use super::{Bytes, Deserializer, Serializer, read_bytes};

    /// A number of fixed or small size, 0 by default.
    pub trait Number: Copy + Default + PartialEq {
        /// Appends it.
        fn put(self, out: &mut Bytes);
        /// Takes it off the front.
        fn take(from: &mut &[u8]) -> Option<Self>;
        /// Whether its bits are those of 0.
        fn is_zero(self) -> bool;
    }

    impl Number for f64 {
        fn put(self, out: &mut Bytes) {
            out.extend(&self.to_bits().to_le_bytes());
        }

        fn take(from: &mut &[u8]) -> Option<Self> {
            let (bytes, rest) = from.split_first_chunk::<8>()?;
            *from = rest;
            Some(f64::from_bits(u64::from_le_bytes(*bytes)))
        }

        fn is_zero(self) -> bool {
            self.to_bits() == 0
        }
    }

    impl Number for u32 {
        fn put(mut self, out: &mut Bytes) {
            while self >= 0x80 {
                out.extend(&[self as u8 | 0x80]);
                self >>= 7;
            }
            out.extend(&[self as u8]);
        }

        fn take(from: &mut &[u8]) -> Option<Self> {
            let mut value = 0;
            for shift in (0..32).step_by(7) {
                let (&byte, rest) = from.split_first()?;
                *from = rest;
                value |= u32::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    return Some(value);
                }
            }
            None
        }

        fn is_zero(self) -> bool {
            self == 0
        }
    }

    /// Writes them.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer, N: Number>(numbers: &[N; 8], to: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Bytes::new();
        bytes.extend(&[0]);
        for (i, number) in numbers.iter().enumerate() {
            if !number.is_zero() {
                bytes.bytes[0] |= 1 << i;
                number.put(&mut bytes);
            }
        }
        to.serialize_bytes(bytes.as_slice())
    }

    /// Reads them.
    ///
    /// # Errors
    /// The deserializer's, or the bytes are damaged.
    pub fn deserialize<'de, D: Deserializer<'de>, N: Number>(from: D) -> Result<[N; 8], D::Error> {
        read_bytes(from, "eight numbers", |bytes| {
            let (&mask, mut rest) = bytes.split_first()?;
            let mut numbers = [N::default(); 8];
            for (i, number) in numbers.iter_mut().enumerate() {
                if mask & (1 << i) != 0 {
                    *number = N::take(&mut rest)?;
                }
            }
            rest.is_empty().then_some(numbers)
        })
    }
}

/// A ring of numbers that fills from its front: without the zeros at its end.
pub mod ring {
    use super::{Deserializer, Serializer, eight::Number, read_bytes};

    /// Writes it.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer, const N: usize>(
        ring: &[f64; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let len = ring.iter().rposition(|number| !number.is_zero());
        let len = len.map_or(0, |last| last + 1);
        let mut bytes = [[0; 8]; N];
        for (bytes, number) in bytes.iter_mut().zip(ring) {
            *bytes = number.to_bits().to_le_bytes();
        }
        to.serialize_bytes(bytes[..len].as_flattened())
    }

    /// Reads it.
    ///
    /// # Errors
    /// The deserializer's, or the bytes are damaged.
    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<[f64; N], D::Error> {
        read_bytes(from, "a ring of numbers", |mut bytes| {
            let mut ring = [0.0; N];
            for number in &mut ring {
                if bytes.is_empty() {
                    break;
                }
                *number = f64::take(&mut bytes)?;
            }
            bytes.is_empty().then_some(ring)
        })
    }
}

/// A few bytes, without allocating.
pub struct Bytes {
    bytes: [u8; 72],
    len: usize,
}

impl Bytes {
    fn new() -> Self {
        Bytes {
            bytes: [0; 72],
            len: 0,
        }
    }

    fn extend(&mut self, more: &[u8]) {
        self.bytes[self.len..self.len + more.len()].copy_from_slice(more);
        self.len += more.len();
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Reads bytes and what they mean; `None` is damage.
///
/// # Errors
/// The deserializer's, or damage.
pub fn read_bytes<'de, D: Deserializer<'de>, T>(
    from: D,
    what: &'static str,
    read: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, D::Error> {
    struct Read<F, T>(&'static str, F, PhantomData<T>);

    impl<T, F: FnOnce(&[u8]) -> Option<T>> Visitor<'_> for Read<F, T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<T, E> {
            let len = bytes.len();
            (self.1)(bytes).ok_or_else(|| E::invalid_length(len, &self.0))
        }
    }
    from.deserialize_bytes(Read(what, read, PhantomData))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Packed {
        #[serde(with = "super::eight")]
        floats: [f64; 8],
        #[serde(with = "super::eight")]
        counts: [u32; 8],
        #[serde(with = "super::ring")]
        ring: [f64; 5],
    }

    #[test]
    fn numbers_come_back_and_damage_is_an_error() {
        for (floats, counts, ring, bytes) in [
            ([0.0; 8], [0; 8], [0.0; 5], 2 + 2 + 1),
            (
                [1.5, -0.0, 0.0, f64::NAN, 0.0, 0.0, 0.0, 2.0],
                [0, 1, 127, 128, u32::MAX, 0, 0, 3],
                [0.0, 1.0, 0.0, 0.0, 0.0],
                2 + 32 + 2 + 10 + 1 + 16,
            ),
            ([7.25; 8], [9; 8], [1.0; 5], 2 + 64 + 2 + 8 + 1 + 40),
        ] {
            let packed = Packed {
                floats,
                counts,
                ring,
            };
            let written = postcard::to_allocvec(&packed).unwrap();
            assert_eq!(written.len(), bytes);
            let read: Packed = postcard::from_bytes(&written).unwrap();
            assert_eq!(format!("{read:?}"), format!("{packed:?}"));
            for cut in 0..written.len() {
                assert!(postcard::from_bytes::<Packed>(&written[..cut]).is_err());
            }
        }
    }
}
