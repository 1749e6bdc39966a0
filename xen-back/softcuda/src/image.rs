//! What a program hands over to be loaded: PTX text, a fat binary in its wrapper or bare, a GPU's machine
//! code, or what cuLinkComplete made. All of it is hostile: a length or offset in it is believed only
//! after it was checked, and memory that the program has not is an error, never a crash.

use crate::device;
use crate::module::LoadFailure;
use cuda_abi::CuResult;
use fatbin::{MAGIC as FAT_BINARY, MAX_BYTES, WRAPPER};
use std::ffi::{CStr, c_void};
use std::os::fd::AsRawFd as _;

/// First bytes of an ELF file.
const ELF: u32 = u32::from_le_bytes(*b"\x7fELF");
/// First bytes of what cuLinkComplete makes: the modules' texts, for there is no machine code yet.
const LINKED: u32 = u32::from_le_bytes(*b"\x7fPTX");

/// Bytes of a linked image's header: magic, version, number of texts, padding, bytes of all.
const LINKED_HEADER: usize = 24;
/// The version of that format.
const LINKED_VERSION: u32 = 1;
/// Texts that may be linked.
const MAX_TEXTS: usize = 4096;

/// A PTX text of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// What the program calls it, where it does.
    pub name: String,
    /// The text, without NUL bytes.
    pub bytes: Vec<u8>,
}

impl Text {
    fn new(name: impl Into<String>, bytes: &[u8]) -> Text {
        let end = bytes.iter().position(|byte| *byte == 0);
        Text {
            name: name.into(),
            bytes: bytes[..end.unwrap_or(bytes.len())].to_vec(),
        }
    }
}

/// The texts of an image in memory whose size only the image itself tells.
///
/// # Errors
/// CUDA_ERROR_INVALID_IMAGE for one whose headers make no sense, CUDA_ERROR_NO_BINARY_FOR_GPU for one
/// without PTX that the device takes.
///
/// # Safety
/// The image is as CUDA's contract has it: text ends with a NUL byte, anything else has its headers.
pub unsafe fn texts_at(image: *const c_void) -> Result<Vec<Text>, LoadFailure> {
    // SAFETY: the caller's.
    match unsafe { magic_at(image.cast()) } {
        Some(WRAPPER) => wrapped(image as u64),
        Some(FAT_BINARY) => fat_binary_at(image as u64),
        Some(LINKED) => {
            let header = copy(image as u64, LINKED_HEADER as u64)?;
            let bytes = u64_at(&header, 16).unwrap_or(u64::MAX);
            linked_texts(&copy(image as u64, bytes)?)
        }
        Some(ELF) => Err(cubin()),
        _ => {
            // SAFETY: anything else is text, which ends with a NUL byte.
            let text = unsafe { CStr::from_ptr(image.cast()) };
            Ok(vec![Text::new("", text.to_bytes())])
        }
    }
}

/// The texts of an image of known size: a file's contents, or what a program gave with its size.
///
/// # Errors
/// As [`texts_at`]'s.
pub fn texts_in(image: &[u8]) -> Result<Vec<Text>, LoadFailure> {
    match u32_at(image, 0) {
        Some(FAT_BINARY) => Ok(vec![fat_binary(image)?]),
        Some(LINKED) => linked_texts(image),
        Some(ELF) => Err(cubin()),
        Some(WRAPPER) => Err(invalid(
            "the image is a fat binary's wrapper, whose pointer means nothing outside its program",
        )),
        _ => Ok(vec![Text::new("", image)]),
    }
}

/// A PTX text of known size.
///
/// # Errors
/// CUDA_ERROR_NO_BINARY_FOR_GPU or CUDA_ERROR_INVALID_IMAGE for what is no text.
pub fn text(bytes: &[u8]) -> Result<Text, LoadFailure> {
    match u32_at(bytes, 0) {
        Some(ELF) => Err(cubin()),
        Some(WRAPPER | FAT_BINARY | LINKED) => Err(invalid(
            "the image is given as PTX text, but is something else",
        )),
        _ => Ok(Text::new("", bytes)),
    }
}

/// An image that stands for several modules linked: their texts.
pub fn linked(texts: &[Text]) -> Vec<u8> {
    let mut image = vec![0; LINKED_HEADER];
    for text in texts {
        for bytes in [text.name.as_bytes(), &text.bytes] {
            image.extend((bytes.len() as u64).to_le_bytes());
            image.extend(bytes);
        }
    }
    let bytes = image.len() as u64;
    image[0..4].copy_from_slice(&LINKED.to_le_bytes());
    image[4..8].copy_from_slice(&LINKED_VERSION.to_le_bytes());
    image[8..12].copy_from_slice(&(texts.len() as u32).to_le_bytes());
    image[16..24].copy_from_slice(&bytes.to_le_bytes());
    image
}

fn linked_texts(image: &[u8]) -> Result<Vec<Text>, LoadFailure> {
    let broken = || invalid("the linked image is cut off or was changed");
    let count = u32_at(image, 8).ok_or_else(broken)? as usize;
    let known = u32_at(image, 4) == Some(LINKED_VERSION);
    if !known || u64_at(image, 16) != Some(image.len() as u64) || count > MAX_TEXTS {
        return Err(broken());
    }
    let mut rest = &image[LINKED_HEADER..];
    let mut part = || -> Option<&[u8]> {
        let bytes = usize::try_from(u64_at(rest, 0)?).ok()?;
        let (part, behind) = rest.get(8..)?.split_at_checked(bytes)?;
        rest = behind;
        Some(part)
    };
    (0..count)
        .map(|_| {
            let name = String::from_utf8_lossy(part()?).into_owned();
            Some(Text::new(name, part()?))
        })
        .collect::<Option<_>>()
        .ok_or_else(broken)
}

fn invalid(log: impl Into<String>) -> LoadFailure {
    LoadFailure::new(CuResult::INVALID_IMAGE, log)
}

fn cubin() -> LoadFailure {
    let log = "the image is an ELF cubin, machine code of an NVIDIA GPU; softcuda runs PTX: compile with -gencode arch=compute_NN,code=compute_NN";
    LoadFailure::new(CuResult::NO_BINARY_FOR_GPU, log)
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

/// The first four bytes of an image; `None` if it ends before, as a short text does.
///
/// # Safety
/// The image goes on until a NUL byte or for four bytes.
unsafe fn magic_at(image: *const u8) -> Option<u32> {
    let mut magic = [0; 4];
    for (at, byte) in magic.iter_mut().enumerate() {
        // SAFETY: no byte before was NUL.
        *byte = unsafe { image.add(at).read() };
        if *byte == 0 {
            return None;
        }
    }
    Some(u32::from_le_bytes(magic))
}

/// A copy of the program's memory, by way of a file: there an address that is not mapped is an error.
fn copy(address: u64, bytes: u64) -> Result<Vec<u8>, LoadFailure> {
    if bytes > MAX_BYTES {
        return Err(invalid(format!(
            "the image claims {bytes} bytes; {MAX_BYTES} are the most that are read"
        )));
    }
    let failed = |error: std::io::Error| {
        LoadFailure::new(CuResult::OPERATING_SYSTEM, format!("memfd: {error}"))
    };
    let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|error| failed(error.into()))?;
    let mut done = 0;
    while done < bytes {
        let from = address.wrapping_add(done) as *const c_void;
        // SAFETY: the kernel reads the bytes, and answers EFAULT where there are none.
        let wrote = unsafe { libc::write(file.as_raw_fd(), from, (bytes - done) as usize) };
        match u64::try_from(wrote) {
            Ok(0) => return Err(failed(std::io::ErrorKind::WriteZero.into())),
            Ok(wrote) => done += wrote,
            Err(_) => {
                let error = std::io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EFAULT) => {
                        return Err(invalid(format!(
                            "the image claims {bytes} bytes, but only {done} are there"
                        )));
                    }
                    _ => return Err(failed(error)),
                }
            }
        }
    }
    let mut copied = vec![0; bytes as usize];
    let mut at = 0;
    while at < copied.len() {
        let read = rustix::io::pread(&file, &mut copied[at..], at as u64)
            .map_err(|error| failed(error.into()))?;
        if read == 0 {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
        at += read;
    }
    Ok(copied)
}

/// What a wrapper points to: one fat binary, or since version 2 also a list of relocatable ones, which
/// belong together.
fn wrapped(address: u64) -> Result<Vec<Text>, LoadFailure> {
    let wrapper = copy(address, 24)?;
    let version = u32_at(&wrapper, 4).unwrap_or(0);
    let pointer = |at| u64_at(&wrapper, at).filter(|pointer| *pointer != 0);
    if let (2.., Some(list)) = (version, pointer(16)) {
        let mut texts = Vec::new();
        for at in 0.. {
            if at >= MAX_TEXTS {
                return Err(invalid(format!(
                    "the wrapper's list has more than {MAX_TEXTS} fat binaries"
                )));
            }
            let entry = copy(list.wrapping_add(8 * at as u64), 8)?;
            match u64_at(&entry, 0) {
                Some(0) | None => break,
                Some(found) => texts.extend(fat_binary_at(found)?),
            }
        }
        if !texts.is_empty() {
            return Ok(texts);
        }
    }
    match pointer(8) {
        Some(found) => fat_binary_at(found),
        None => Err(invalid("the wrapper points to no fat binary")),
    }
}

fn fat_binary_at(address: u64) -> Result<Vec<Text>, LoadFailure> {
    let header = copy(address, fatbin::HEADER as u64)?;
    let bytes =
        fatbin::bytes(&header).ok_or_else(|| invalid("the fat binary's header is wrong"))?;
    Ok(vec![fat_binary(&copy(address, bytes)?)?])
}

/// The newest PTX of a fat binary that the device takes.
fn fat_binary(image: &[u8]) -> Result<Text, LoadFailure> {
    let broken = |error: fatbin::Error| invalid(error.to_string());
    let mut newest: Option<fatbin::File<'_>> = None;
    let mut others = Vec::new();
    for file in fatbin::files(image).map_err(broken)? {
        let file = file.map_err(broken)?;
        let what = match file.kind {
            fatbin::PTX => "PTX",
            fatbin::CUBIN => "cubin",
            _ => "other contents",
        };
        if others.len() < 16 {
            others.push(format!("{what} for sm_{}", file.arch));
        }
        let usable = file.kind == fatbin::PTX && file.arch <= device::TARGET as u32;
        if usable && newest.as_ref().is_none_or(|newest| file.arch > newest.arch) {
            newest = Some(file);
        }
    }
    let Some(file) = newest else {
        let log = format!(
            "the fat binary has no PTX for sm_{} or below, only: {}",
            device::TARGET,
            others.join(", ")
        );
        return Err(LoadFailure::new(CuResult::NO_BINARY_FOR_GPU, log));
    };
    Ok(Text::new("", &file.unpack().map_err(broken)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use fatbin::write::{Packed, fat, file};
    use fatbin::{CUBIN, PTX};
    use proptest::prelude::*;

    const TEXT: &[u8] = b".version 7.0 .target sm_75 // and so on, and so on, and so on\0\0";

    fn code(result: Result<Vec<Text>, LoadFailure>) -> CuResult {
        result.unwrap_err().code
    }

    #[test]
    fn the_newest_usable_ptx_is_taken_whatever_its_compression() {
        let plain = |arch, text: &[u8]| file(PTX, arch, Packed::Not, text);
        for packed in [Packed::Not, Packed::Lz4, Packed::Zstd] {
            let image = fat(&[
                file(CUBIN, 90, Packed::Not, b"\x7fELF machine code"),
                plain(50, b"old"),
                file(PTX, 90, packed, TEXT),
                plain(100, b"too new"),
                plain(75, b"older"),
            ]);
            let texts = texts_in(&image).unwrap();
            assert_eq!(texts, [Text::new("", TEXT)]);
            assert!(!texts[0].bytes.contains(&0));
            // SAFETY: the image is complete.
            assert_eq!(unsafe { texts_at(image.as_ptr().cast()) }.unwrap(), texts);
            let wrapper: [u64; 3] = [u64::from(WRAPPER) | 1 << 32, image.as_ptr() as u64, 0];
            // SAFETY: the wrapper and what it points to are complete.
            let wrapped = unsafe { texts_at(wrapper.as_ptr().cast()) };
            assert_eq!(wrapped.unwrap(), texts);
        }
    }

    #[test]
    fn a_wrapper_of_version_2_lists_what_belongs_together() {
        let images = [b"one", b"two"].map(|text| fat(&[file(PTX, 75, Packed::Not, text)]));
        let list = [images[0].as_ptr() as u64, images[1].as_ptr() as u64, 0];
        let wrapper = [u64::from(WRAPPER) | 2 << 32, 0, list.as_ptr() as u64];
        // SAFETY: the wrapper and what it points to are complete.
        let texts = unsafe { texts_at(wrapper.as_ptr().cast()) }.unwrap();
        assert_eq!(texts, [Text::new("", b"one"), Text::new("", b"two")]);
        let nothing = [u64::from(WRAPPER) | 1 << 32, 0, 0];
        // SAFETY: as above.
        let refused = unsafe { texts_at(nothing.as_ptr().cast()) };
        assert_eq!(code(refused), CuResult::INVALID_IMAGE);
        // Pointers to nowhere are errors as well.
        for pointers in [[8, 0], [0, 8], [u64::MAX, 0], [0, u64::MAX - 7]] {
            let wrapper = [u64::from(WRAPPER) | 2 << 32, pointers[0], pointers[1]];
            // SAFETY: what it points to is read by the kernel only.
            let refused = unsafe { texts_at(wrapper.as_ptr().cast()) };
            assert_eq!(code(refused), CuResult::INVALID_IMAGE);
        }
    }

    #[test]
    fn without_ptx_there_is_no_binary() {
        for files in [
            vec![],
            vec![file(CUBIN, 75, Packed::Not, b"x")],
            vec![file(PTX, 100, Packed::Not, b"x")],
        ] {
            assert_eq!(code(texts_in(&fat(&files))), CuResult::NO_BINARY_FOR_GPU);
        }
        assert_eq!(code(texts_in(b"\x7fELF\x02")), CuResult::NO_BINARY_FOR_GPU);
    }

    #[test]
    fn lies_about_sizes_are_refused() {
        let good = fat(&[file(PTX, 75, Packed::Not, TEXT)]);
        for cut in 1..good.len() {
            if cut >= 4 {
                assert_eq!(
                    code(texts_in(&good[..cut])),
                    CuResult::INVALID_IMAGE,
                    "{cut}"
                );
            }
        }
        let changed = |at: usize, value: u64| {
            let mut image = good.clone();
            image[at..at + 8].copy_from_slice(&value.to_le_bytes());
            image
        };
        // The fat binary's own sizes, the file's header, its contents.
        for image in [
            changed(8, u64::MAX),
            changed(8, u64::MAX - 15),
            changed(8, good.len() as u64),
            changed(4, 0),
            changed(20, 0),
            changed(20, u64::from(u32::MAX)),
            changed(24, u64::MAX),
            changed(24, TEXT.len() as u64 + 9),
        ] {
            assert_eq!(code(texts_in(&image)), CuResult::INVALID_IMAGE);
            // SAFETY: sizes beyond the image's are checked before the bytes are used.
            let refused = unsafe { texts_at(image.as_ptr().cast()) };
            assert!(refused.is_err());
        }
    }

    #[test]
    fn linked_images_hold_their_texts() {
        let texts = [
            Text::new("a.ptx", b"one"),
            Text::new("", b""),
            Text::new("b", b"two"),
        ];
        let image = linked(&texts);
        assert_eq!(texts_in(&image).unwrap(), texts);
        // SAFETY: the image is complete.
        assert_eq!(unsafe { texts_at(image.as_ptr().cast()) }.unwrap(), texts);
        for cut in 4..image.len() {
            assert_eq!(code(texts_in(&image[..cut])), CuResult::INVALID_IMAGE);
        }
        assert_eq!(texts_in(&linked(&[])).unwrap(), []);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_image_or_an_error(
            files in prop::collection::vec((0u16..4, 0u32..120, 0usize..3, prop::collection::vec(any::<u8>(), 0..64)), 0..4),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let files: Vec<_> = files.iter().map(|(k, a, p, s)| {
                file(*k, *a, [Packed::Not, Packed::Lz4, Packed::Zstd][*p], s)
            }).collect();
            let mut image = fat(&files);
            for (at, byte) in changes {
                let at = at.index(image.len());
                image[at] = byte;
            }
            let _ = texts_in(&image);
            let mut linked = linked(&[Text::new("x", &image)]);
            let len = linked.len();
            linked[image.len() % len] ^= 1;
            let _ = texts_in(&linked);
        }
    }
}
