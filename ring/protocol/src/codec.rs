//! How values become bytes: little-endian, no padding, every length stated and bounded.
//!
//! Decoding works on a private copy of what the peer sent and takes nothing on trust: too short, too
//! long, an impossible value or trailing bytes are errors. Must never panic on any input.

use cuda_abi::Kind;
use std::marker::PhantomData;

/// Why bytes are not what they should be.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends inside a value.
    #[error("the message ends {missing} bytes too early")]
    Short {
        /// Bytes that were still wanted.
        missing: usize,
    },
    /// Bytes follow the last value.
    #[error("{extra} bytes follow the message's last value")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A value that its type does not have.
    #[error("{value} is no {what}")]
    Invalid {
        /// The type or field.
        what: &'static str,
        /// What was found.
        value: u64,
    },
    /// A length above the limit.
    #[error("{what} of {len} exceeds the limit of {limit}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// What was found.
        len: u64,
        /// What is allowed.
        limit: u64,
    },
}

/// Takes values off the front of a message.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from a private copy of a message.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(DecodeError::Short {
            missing: len.saturating_sub(self.0.len()),
        })?;
        self.0 = tail;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Short {
            missing: N.saturating_sub(self.0.len()),
        })?;
        self.0 = tail;
        Ok(*head)
    }

    /// Refuses a message that goes on.
    pub fn end(&self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { extra }),
        }
    }
}

/// A value with one encoding.
pub trait Codec: Sized {
    /// Appends the encoding.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes the value off the front.
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// The whole encoding.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }
    /// The value that is all of `bytes`.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let value = Self::take(&mut reader)?;
        reader.end()?;
        Ok(value)
    }
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Codec for $t {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
                from.array().map(<$t>::from_le_bytes)
            }
        }
    )*};
}
numbers!(u8, u16, u32, i32, u64, f32);

/// `size_t` travels as 64 bits.
impl Codec for usize {
    fn put(&self, out: &mut Vec<u8>) {
        (*self as u64).put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let value = u64::take(from)?;
        usize::try_from(value).map_err(|_| DecodeError::Invalid {
            what: "size_t",
            value,
        })
    }
}

/// Nothing travels.
impl Codec for () {
    fn put(&self, _: &mut Vec<u8>) {}
    fn take(_: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(())
    }
}

impl Codec for [u8; 16] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        from.array()
    }
}

impl Codec for [u32; 3] {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|v| v.put(out));
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok([u32::take(from)?, u32::take(from)?, u32::take(from)?])
    }
}

/// Bytes with their length in front (u32). Bounded by the record that carries them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bytes(pub Vec<u8>);

impl Codec for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        // A record is far below 4 GiB: the queue refuses anything larger.
        (self.0.len() as u32).put(out);
        out.extend_from_slice(&self.0);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = u32::take(from)? as usize;
        Ok(Bytes(from.bytes(len)?.to_vec()))
    }
}

/// A list with its length in front (u32), of at most [`LIST_LIMIT`] values.
impl<T: Codec> Codec for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        self.iter().for_each(|v| v.put(out));
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = u32::take(from)?;
        if len > LIST_LIMIT {
            return Err(DecodeError::TooLong {
                what: "list",
                len: len.into(),
                limit: LIST_LIMIT.into(),
            });
        }
        (0..len).map(|_| T::take(from)).collect()
    }
}

/// Longest list in a message.
pub const LIST_LIMIT: u32 = 4096;

/// A handle as it travels: an index that the guest chose, checked by the worker for kind and owner.
pub struct Id<K>(pub u32, PhantomData<K>);

impl<K> Id<K> {
    /// The handle with this index.
    pub const fn new(index: u32) -> Self {
        Id(index, PhantomData)
    }
}
impl<K> Copy for Id<K> {}
impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<K: Kind> std::fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", K::NAME, self.0)
    }
}
impl<K: Kind> Codec for Id<K> {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        u32::take(from).map(Id::new)
    }
}

/// A run of bytes in a region of granted memory. Region 0 is the channel's arena; others were added
/// later. Nothing here is checked yet: the worker checks it against its region table.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Range {
    /// Which region.
    pub region: u32,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How many bytes; 0 for no range at all.
    pub len: u64,
}

impl Codec for Range {
    fn put(&self, out: &mut Vec<u8>) {
        self.region.put(out);
        self.offset.put(out);
        self.len.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Range {
            region: u32::take(from)?,
            offset: u64::take(from)?,
            len: u64::take(from)?,
        })
    }
}

/// Data on its way to the backend: small data in the record itself, bulk data in a region.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Payload {
    /// In the record.
    Inline(Bytes),
    /// In granted memory.
    Region(Range),
}

impl Codec for Payload {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Payload::Inline(bytes) => {
                0u8.put(out);
                bytes.put(out);
            }
            Payload::Region(range) => {
                1u8.put(out);
                range.put(out);
            }
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::take(from)? {
            0 => Bytes::take(from).map(Payload::Inline),
            1 => Range::take(from).map(Payload::Region),
            value => Err(DecodeError::Invalid {
                what: "payload kind",
                value: value.into(),
            }),
        }
    }
}

/// Declares messages as structures whose encoding is their fields', in order.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $t:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $($(#[$fdoc])* pub $field: $t),* }
        impl $crate::codec::Codec for $name {
            fn put(&self, _out: &mut Vec<u8>) { $($crate::codec::Codec::put(&self.$field, _out);)* }
            fn take(_from: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::codec::DecodeError> {
                Ok($name { $($field: $crate::codec::Codec::take(_from)?),* })
            }
        }
    )*};
}
pub(crate) use messages;

/// Declares a choice of messages, each with its number in front (u8).
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $number:literal => $variant:ident($t:ty)),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name { $($(#[$vdoc])* $variant($t)),* }
        impl $crate::codec::Codec for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self { $($name::$variant(m) => {
                    out.push($number);
                    $crate::codec::Codec::put(m, out);
                })* }
            }
            fn take(from: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::codec::DecodeError> {
                match <u8 as $crate::codec::Codec>::take(from)? {
                    $($number => $crate::codec::Codec::take(from).map($name::$variant),)*
                    value => Err($crate::codec::DecodeError::Invalid { what: stringify!($name), value: value.into() }),
                }
            }
        }
    };
}
pub(crate) use choice;
