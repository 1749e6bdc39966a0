//! Fat binaries as compilers write them, for tests. Must never be part of what reads one.

use crate::{HEADER, LZ4, MAGIC, ZSTD};

/// How a file is compressed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Packed {
    /// Not at all.
    Not,
    /// As one LZ4 block.
    Lz4,
    /// As a zstd frame.
    Zstd,
}

/// A file of a fat binary.
pub fn file(kind: u16, arch: u32, packed: Packed, contents: &[u8]) -> Vec<u8> {
    let unpacked = match packed {
        Packed::Not => 0,
        _ => contents.len() as u64,
    };
    file_claiming(kind, arch, packed, contents, unpacked)
}

/// The same, of which the header says what it unpacks to.
pub fn file_claiming(
    kind: u16,
    arch: u32,
    packed: Packed,
    contents: &[u8],
    unpacked: u64,
) -> Vec<u8> {
    /// 64 bits.
    const WIDE: u64 = 1;
    let (flags, stored) = match packed {
        Packed::Not => (WIDE, contents.to_vec()),
        Packed::Lz4 => (WIDE | LZ4, lz4_flex::block::compress(contents)),
        Packed::Zstd => {
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            let stored = ruzstd::encoding::compress_to_vec(contents, level);
            (WIDE | ZSTD, stored)
        }
    };
    let room = stored.len().next_multiple_of(8);
    let mut file = Vec::new();
    file.extend(kind.to_le_bytes());
    file.extend(0x101u16.to_le_bytes());
    file.extend(80u32.to_le_bytes());
    file.extend((room as u64).to_le_bytes());
    file.extend((stored.len() as u32).to_le_bytes());
    file.resize(28, 0);
    file.extend(arch.to_le_bytes());
    file.resize(40, 0);
    file.extend(flags.to_le_bytes());
    file.resize(56, 0);
    file.extend(unpacked.to_le_bytes());
    file.resize(80, 0);
    file.extend(stored);
    file.resize(80usize.saturating_add(room), 0);
    file
}

/// A fat binary of files.
pub fn fat(files: &[Vec<u8>]) -> Vec<u8> {
    let files = files.concat();
    let mut image = MAGIC.to_le_bytes().to_vec();
    image.extend(1u16.to_le_bytes());
    image.extend((HEADER as u16).to_le_bytes());
    image.extend((files.len() as u64).to_le_bytes());
    image.extend(files);
    image
}
