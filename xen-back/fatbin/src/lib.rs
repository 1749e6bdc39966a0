//! Fat binaries: what CUDA's compilers pack for several GPUs into one image, machine code and PTX, each file
//! compressed or not.
//!
//! Any bytes may come: a size or an offset is believed only after it was checked against what is there, and
//! no more is unpacked than a file claims and [`MAX_BYTES`] allow. Must never panic, nor judge what is in a file.

use std::borrow::Cow;
use std::io::Read as _;

pub mod write;

/// First bytes of a fat binary's wrapper: a pointer to the fat binary stands behind them.
pub const WRAPPER: u32 = 0x4662_43b1;
/// First bytes of a fat binary.
pub const MAGIC: u32 = 0xba55_ed50;
/// Bytes of a fat binary's header, at least.
pub const HEADER: usize = 16;
/// Bytes that the contents of a file may have.
pub const MAX_BYTES: u64 = 512 << 20;
/// `kind` of a file: PTX.
pub const PTX: u16 = 1;
/// `kind` of a file: machine code.
pub const CUBIN: u16 = 2;

/// Bytes of the header of a file, at least.
const FILE_HEADER: usize = 64;
/// Flag of a file: LZ4 compressed.
const LZ4: u64 = 0x2000;
/// Flag of a file: zstd compressed.
const ZSTD: u64 = 0x8000;
/// LZ4 cannot make more bytes than this out of one.
const LZ4_EXPANSION: u64 = 255;

/// What is wrong with a fat binary.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Its own header.
    #[error("the fat binary is cut off or its header is wrong")]
    Header,
    /// A file's.
    #[error("the fat binary's file at byte {0} is cut off or its header is wrong")]
    File(usize),
    /// More than compression or anybody could make of it.
    #[error("{stored} compressed bytes claim to be {claimed}")]
    Claim {
        /// Bytes that are there.
        stored: usize,
        /// Bytes that they are said to unpack to.
        claimed: u64,
    },
    /// What is compressed is broken.
    #[error("a file of the fat binary cannot be unpacked: {0}")]
    Compressed(String),
}

/// Bytes of a fat binary with its header, as that says.
pub fn bytes(header: &[u8]) -> Option<u64> {
    let own = u16_at(header, 6).filter(|bytes| usize::from(*bytes) >= HEADER)?;
    (u32_at(header, 0)? == MAGIC)
        .then(|| u64::from(own).checked_add(u64_at(header, 8)?))
        .flatten()
}

/// A file in a fat binary.
#[derive(Debug)]
pub struct File<'a> {
    /// [`PTX`], [`CUBIN`], or something else.
    pub kind: u16,
    /// 75 for sm_75.
    pub arch: u32,
    flags: u64,
    stored: &'a [u8],
    /// Bytes that compressed contents have.
    unpacked: u64,
}

impl<'a> File<'a> {
    /// The file at the start of `rest`, and what stands behind it.
    fn first(rest: &'a [u8]) -> Option<(File<'a>, &'a [u8])> {
        let header = usize::try_from(u32_at(rest, 4)?).ok()?;
        let room = usize::try_from(u64_at(rest, 8)?).ok()?;
        if header < FILE_HEADER {
            return None;
        }
        let (contents, behind) = rest.get(header..)?.split_at_checked(room)?;
        let flags = u64_at(rest, 40)?;
        let stored = match usize::try_from(u32_at(rest, 16)?).ok()? {
            0 => contents,
            bytes if flags & (LZ4 | ZSTD) != 0 => contents.get(..bytes)?,
            _ => contents,
        };
        let file = File {
            kind: u16_at(rest, 0)?,
            arch: u32_at(rest, 28)?,
            flags,
            stored,
            unpacked: u64_at(rest, 56)?,
        };
        Some((file, behind))
    }

    fn is_compressed(&self) -> bool {
        self.flags & (LZ4 | ZSTD) != 0
    }

    /// Bytes that [`File::unpack`] needs memory for: none where the contents stand in the image as they are.
    pub fn claimed(&self) -> u64 {
        if self.is_compressed() {
            self.unpacked
        } else {
            0
        }
    }

    /// The contents as they were before they were compressed.
    ///
    /// # Errors
    /// If they claim to be more than [`MAX_BYTES`], or are not what they claim to be.
    pub fn unpack(&self) -> Result<Cow<'a, [u8]>, Error> {
        let (claimed, stored) = (self.unpacked, self.stored);
        if !self.is_compressed() {
            return Ok(Cow::Borrowed(stored));
        }
        let lz4 = self.flags & LZ4 != 0;
        let most = (stored.len() as u64)
            .saturating_add(64)
            .saturating_mul(LZ4_EXPANSION);
        let (true, Ok(bytes)) = (
            claimed <= MAX_BYTES && !(lz4 && claimed > most),
            usize::try_from(claimed),
        ) else {
            let stored = stored.len();
            return Err(Error::Claim { stored, claimed });
        };
        let broken = |why: &dyn std::fmt::Display| Error::Compressed(why.to_string());
        let contents = if lz4 {
            lz4_flex::block::decompress(stored, bytes).map_err(|error| broken(&error))?
        } else {
            // Whatever the frame claims, no more memory than the contents themselves may have.
            let window = claimed.next_power_of_two().clamp(8 << 20, MAX_BYTES);
            let decoder =
                ruzstd::decoding::StreamingDecoder::new_with_max_window_size(stored, window)
                    .map_err(|error| broken(&error))?;
            let mut contents = Vec::new();
            decoder
                .take(claimed.saturating_add(1))
                .read_to_end(&mut contents)
                .map_err(|error| broken(&error))?;
            contents
        };
        if contents.len() != bytes {
            let there = contents.len();
            return Err(broken(&format!("it has {there} bytes instead of {bytes}")));
        }
        Ok(Cow::Owned(contents))
    }
}

/// The files of a fat binary. It ends with the first that is wrong.
#[derive(Debug)]
pub struct Files<'a> {
    rest: &'a [u8],
    /// Where `rest` starts.
    at: usize,
}

/// The files of a fat binary, which `image` starts with.
///
/// # Errors
/// If its header is wrong, or it is larger than the image.
pub fn files(image: &[u8]) -> Result<Files<'_>, Error> {
    let end = bytes(image).and_then(|bytes| usize::try_from(bytes).ok());
    let at = usize::from(u16_at(image, 6).unwrap_or(0));
    let rest = end.and_then(|end| image.get(at..end));
    Ok(Files {
        rest: rest.ok_or(Error::Header)?,
        at,
    })
}

impl<'a> Iterator for Files<'a> {
    type Item = Result<File<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let before = std::mem::take(&mut self.rest);
        let Some((file, behind)) = File::first(before) else {
            return Some(Err(Error::File(self.at)));
        };
        let taken = before.len().saturating_sub(behind.len());
        (self.rest, self.at) = (behind, self.at.saturating_add(taken));
        Some(Ok(file))
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::write::{Packed, fat, file, file_claiming};
    use super::*;
    use proptest::prelude::*;

    const TEXT: &[u8] = b".version 7.0 .target sm_75 // and so on, and so on, and so on\0\0";
    const ALL: [Packed; 3] = [Packed::Not, Packed::Lz4, Packed::Zstd];

    /// All contents, or the first error.
    fn contents(image: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        files(image)?
            .map(|file| Ok(file?.unpack()?.into_owned()))
            .collect()
    }

    #[test]
    fn files_are_found_whatever_their_compression() {
        let image = fat(&ALL.map(|packed| file(PTX, 90, packed, TEXT)));
        let found: Vec<_> = files(&image).unwrap().map(Result::unwrap).collect();
        for (file, packed) in found.iter().zip(ALL) {
            assert_eq!((file.kind, file.arch), (PTX, 90));
            let unpacked = file.unpack().unwrap();
            // What was not compressed ends at a multiple of 8.
            assert_eq!(unpacked[..TEXT.len()], *TEXT);
            let claimed = if packed == Packed::Not { 0 } else { TEXT.len() };
            assert_eq!(file.claimed(), claimed as u64);
        }
        assert_eq!(found.len(), 3);
        assert_eq!(bytes(&image), Some(image.len() as u64));
        // What stands behind belongs to it no more.
        let longer = [image.as_slice(), b"more"].concat();
        assert_eq!(contents(&longer), contents(&image));
        assert!(contents(&fat(&[])).unwrap().is_empty());
    }

    #[test]
    fn whatever_is_cut_off_is_an_error() {
        let parts = ALL.map(|packed| file(CUBIN, 75, packed, TEXT));
        let image = fat(&parts);
        let ends: Vec<usize> = (0..=parts.len())
            .map(|count| HEADER + parts[..count].concat().len())
            .collect();
        for cut in 0..image.len() {
            assert_eq!(contents(&image[..cut]), Err(Error::Header));
            // Where the header tells the truth, it is a file that is cut off.
            let Some(rest) = cut.checked_sub(HEADER) else {
                continue;
            };
            let mut short = image[..cut].to_vec();
            short[8..16].copy_from_slice(&(rest as u64).to_le_bytes());
            assert_eq!(contents(&short).is_ok(), ends.contains(&cut), "{cut}");
        }
    }

    #[test]
    fn bombs_are_bounded() {
        let zeros = vec![b' '; 1 << 20];
        for packed in [Packed::Lz4, Packed::Zstd] {
            let image = |claimed| fat(&[file_claiming(PTX, 75, packed, &zeros, claimed)]);
            assert_eq!(contents(&image(1 << 20)).unwrap()[0], zeros);
            for claimed in [0, 100, (1 << 20) - 1, (1 << 20) + 1, 1 << 40, u64::MAX] {
                assert!(contents(&image(claimed)).is_err(), "{claimed}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_files_or_an_error(
            parts in prop::collection::vec((0u16..4, 0u32..120, 0usize..3, prop::collection::vec(any::<u8>(), 0..64)), 0..4),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            any in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let parts: Vec<_> = parts.iter().map(|(k, a, p, c)| file(*k, *a, ALL[*p], c)).collect();
            let mut image = fat(&parts);
            for (at, byte) in changes {
                let at = at.index(image.len());
                image[at] = byte;
            }
            let _ = contents(&image);
            let _ = contents(&any);
        }
    }
}
