//! Where everything lies in a channel's shared memory. Both ends learn the three sizes out of band
//! and check them here; the copy in the header page only detects a mix-up and is never relied on.
//! Nothing here may read shared memory.
//!
//! ```text
//! 0      header page                    each line below is 128 bytes apart and has one writer
//!        0x000 u32 magic, version, sq_bytes, cq_bytes, arena_bytes       front, once
//!        0x080 u32 sq_prod                                               front
//!        0x100 u32 cq_cons                                               front
//!        0x180 u32 cq_prod_event, sq_cons_event                          front
//!        0x200 u32 cq_prod                                               back
//!        0x280 u32 sq_cons, 0x288 u64 retired                            back
//!        0x300 u32 sq_prod_event                                         back
//!        0x380 u32 closed, reason; 0x388 u8 front_live                   front
//!        0x400 u32 closed, reason; 0x408 u8 back_live                    back
//! 4096   submission ring  (sq_bytes)
//! …      completion ring  (cq_bytes)
//! …      arena            (arena_bytes, may be none)
//! ```
//!
//! Indices count bytes, run freely modulo 2^32 and are multiples of 8. A record is
//! `{u32 payload_len, u32 flags, u64 ticket}`, the payload, and zeroes up to a multiple of 8; it may
//! wrap at the end of its ring. All numbers are little-endian. The front writes every field of the
//! header once, before the back attaches; both events then start at 1, so that the first record is
//! announced whatever the back has done by then.

use crate::Error;

/// Bytes in a page: the unit in which memory is shared.
pub const PAGE_BYTES: usize = 4096;
/// "vgpu" in the first four bytes of the header page.
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"vgpu");
/// Version of this layout. It changes with any incompatible change to it.
pub(crate) const VERSION: u32 = 1;
/// Bytes before a record's payload.
pub(crate) const RECORD_HEADER_BYTES: u32 = 16;
/// Record flag: the front waits for a completion with this ticket.
pub(crate) const WANTS_ANSWER: u32 = 1;

/// loom explores rings of a few words; real rings are whole pages.
const RING_MIN_BYTES: u32 = if cfg!(loom) { 64 } else { PAGE_BYTES as u32 };
const RING_MAX_BYTES: u32 = 16 << 20;
const ARENA_MAX_BYTES: u32 = 1 << 30;

/// The two ends of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The frontend: submits, and takes completions.
    Front,
    /// The backend: executes, and completes.
    Back,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Front => "frontend",
            Side::Back => "backend",
        })
    }
}

/// The sizes, in bytes, of the parts of one channel's shared memory.
///
/// Rings are powers of two from 4 KiB to 16 MiB. The arena is a multiple of 4 KiB up to 1 GiB, and 0
/// for a channel that moves no bulk data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Submission ring.
    pub sq_bytes: u32,
    /// Completion ring.
    pub cq_bytes: u32,
    /// Arena for bulk data.
    pub arena_bytes: u32,
}

impl Layout {
    /// A layout of these sizes.
    ///
    /// # Errors
    /// [`Error::Layout`] names the size that breaks a rule.
    pub fn new(sq_bytes: u32, cq_bytes: u32, arena_bytes: u32) -> Result<Self, Error> {
        let layout = Self {
            sq_bytes,
            cq_bytes,
            arena_bytes,
        };
        layout.check()?;
        Ok(layout)
    }

    /// Checks the sizes, whoever wrote them; both ends do so before they use them.
    ///
    /// # Errors
    /// [`Error::Layout`] names the size that breaks a rule.
    pub fn check(&self) -> Result<(), Error> {
        for (what, bytes) in [
            ("the submission ring", self.sq_bytes),
            ("the completion ring", self.cq_bytes),
        ] {
            if !bytes.is_power_of_two() || !(RING_MIN_BYTES..=RING_MAX_BYTES).contains(&bytes) {
                return Err(Error::Layout {
                    what,
                    bytes: bytes.into(),
                    rule: "a power of two from 4096 to 16777216",
                });
            }
        }
        if !(self.arena_bytes as usize).is_multiple_of(PAGE_BYTES)
            || self.arena_bytes > ARENA_MAX_BYTES
        {
            return Err(Error::Layout {
                what: "the arena",
                bytes: self.arena_bytes.into(),
                rule: "a multiple of 4096 up to 1073741824",
            });
        }
        Ok(())
    }

    /// Bytes of shared memory the channel takes, header page included: a multiple of the page size.
    pub fn total_bytes(&self) -> usize {
        self.arena_offset() + self.arena_bytes as usize
    }

    /// Offset of the submission ring in the shared memory.
    pub fn sq_offset(&self) -> usize {
        PAGE_BYTES
    }

    /// Offset of the completion ring in the shared memory.
    pub fn cq_offset(&self) -> usize {
        self.sq_offset() + self.sq_bytes as usize
    }

    /// Offset of the arena in the shared memory.
    pub fn arena_offset(&self) -> usize {
        self.cq_offset() + self.cq_bytes as usize
    }

    /// The longest payload one submission may have.
    pub fn max_submission(&self) -> usize {
        max_payload(self.sq_bytes) as usize
    }

    /// The longest payload one completion may have.
    pub fn max_completion(&self) -> usize {
        max_payload(self.cq_bytes) as usize
    }

    /// The longest piece of arena one [`crate::Front::stage`] may take.
    pub fn max_stage(&self) -> usize {
        self.arena_bytes as usize / 4
    }

    /// Offset of the byte that is 1 while `side` lives and that its unmap notification clears.
    pub const fn live_offset(side: Side) -> usize {
        match side {
            Side::Front => 0x388,
            Side::Back => 0x408,
        }
    }
}

/// The longest payload of a ring: four of them may be under way, so nobody waits for an empty ring.
pub(crate) const fn max_payload(ring_bytes: u32) -> u32 {
    ring_bytes / 4
}

/// The header's 32-bit words.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Word {
    Magic,
    Version,
    SqBytes,
    CqBytes,
    ArenaBytes,
    SqProd,
    CqCons,
    CqProdEvent,
    SqConsEvent,
    CqProd,
    SqCons,
    SqProdEvent,
    FrontClosed,
    FrontReason,
    BackClosed,
    BackReason,
}

impl Word {
    #[cfg(any(test, loom))]
    pub(crate) const ALL: [Word; 16] = [
        Word::Magic,
        Word::Version,
        Word::SqBytes,
        Word::CqBytes,
        Word::ArenaBytes,
        Word::SqProd,
        Word::CqCons,
        Word::CqProdEvent,
        Word::SqConsEvent,
        Word::CqProd,
        Word::SqCons,
        Word::SqProdEvent,
        Word::FrontClosed,
        Word::FrontReason,
        Word::BackClosed,
        Word::BackReason,
    ];

    /// Byte offset in the header page: always a multiple of 4 and inside the page.
    #[cfg_attr(loom, allow(dead_code, reason = "the model has no addresses"))]
    pub(crate) const fn offset(self) -> usize {
        match self {
            Word::Magic => 0x000,
            Word::Version => 0x004,
            Word::SqBytes => 0x008,
            Word::CqBytes => 0x00c,
            Word::ArenaBytes => 0x010,
            Word::SqProd => 0x080,
            Word::CqCons => 0x100,
            Word::CqProdEvent => 0x180,
            Word::SqConsEvent => 0x184,
            Word::CqProd => 0x200,
            Word::SqCons => 0x280,
            Word::SqProdEvent => 0x300,
            Word::FrontClosed => 0x380,
            Word::FrontReason => 0x384,
            Word::BackClosed => 0x400,
            Word::BackReason => 0x404,
        }
    }

    pub(crate) const fn closed(side: Side) -> Word {
        match side {
            Side::Front => Word::FrontClosed,
            Side::Back => Word::BackClosed,
        }
    }

    pub(crate) const fn reason(side: Side) -> Word {
        match side {
            Side::Front => Word::FrontReason,
            Side::Back => Word::BackReason,
        }
    }
}

/// Offset of the 64-bit word in which the back publishes the last ticket it executed.
#[cfg_attr(loom, allow(dead_code, reason = "the model has no addresses"))]
pub(crate) const RETIRED_OFFSET: usize = 0x288;

/// Which of the two rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RingId {
    Submission,
    Completion,
}

impl RingId {
    pub(crate) fn prod(self) -> Word {
        match self {
            RingId::Submission => Word::SqProd,
            RingId::Completion => Word::CqProd,
        }
    }

    pub(crate) fn cons(self) -> Word {
        match self {
            RingId::Submission => Word::SqCons,
            RingId::Completion => Word::CqCons,
        }
    }

    pub(crate) fn prod_event(self) -> Word {
        match self {
            RingId::Submission => Word::SqProdEvent,
            RingId::Completion => Word::CqProdEvent,
        }
    }

    /// The side that writes records into it.
    pub(crate) fn producer(self) -> Side {
        match self {
            RingId::Submission => Side::Front,
            RingId::Completion => Side::Back,
        }
    }

    /// The side that takes records out of it.
    pub(crate) fn consumer(self) -> Side {
        match self {
            RingId::Submission => Side::Back,
            RingId::Completion => Side::Front,
        }
    }

    pub(crate) fn bytes(self, layout: &Layout) -> u32 {
        match self {
            RingId::Submission => layout.sq_bytes,
            RingId::Completion => layout.cq_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_lie_in_the_page_and_apart() {
        let mut spans: Vec<(usize, usize)> = Word::ALL.map(|word| (word.offset(), 4)).to_vec();
        spans.push((RETIRED_OFFSET, 8));
        spans.push((Layout::live_offset(Side::Front), 1));
        spans.push((Layout::live_offset(Side::Back), 1));
        spans.sort_unstable();
        for &(offset, bytes) in &spans {
            assert_eq!(offset % bytes, 0, "{offset:#x} is aligned");
            assert!(offset + bytes <= PAGE_BYTES);
        }
        for pair in spans.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?} overlap");
        }
    }

    #[cfg(not(loom))]
    #[test]
    fn sizes_are_checked() {
        let layout = Layout::new(4096, 8192, 0).unwrap();
        assert_eq!(layout.total_bytes(), 4096 + 4096 + 8192);
        assert!(Layout::new(16 << 20, 16 << 20, 1 << 30).is_ok());
        assert!(Layout::new(4096, 4096, 12288).is_ok());
        for (sq, cq, arena) in [
            (0, 4096, 0),
            (4096, 0, 0),
            (2048, 4096, 0),
            (4096 + 8, 4096, 0),
            (32 << 20, 4096, 0),
            (4096, 4096, 100),
            (4096, 4096, (1 << 30) + 4096),
            (u32::MAX, u32::MAX, u32::MAX),
        ] {
            assert!(Layout::new(sq, cq, arena).is_err(), "{sq} {cq} {arena}");
        }
    }
}
