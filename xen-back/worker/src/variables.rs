//! How much device memory a module's variables take, read off its image before the driver loads it.
//!
//! It knows PTX, cubins and fat binaries of them. Any bytes may come: it must never panic, nor unpack more than
//! [`UNPACK_LIMIT`], and it judges nothing but sizes.

use cuda_abi::CuResult;

/// Most bytes that the compressed files of a fat binary may unpack to, all together.
pub const UNPACK_LIMIT: u64 = 1 << 30;

/// Bytes of the variables that an image declares, as far as can be read.
///
/// Of the files in a fat binary the driver loads one, by rules of its own: the one with the most variables counts.
///
/// # Errors
/// CUDA_ERROR_INVALID_IMAGE for the wrapper of a fat binary, whose pointer is the guest's, and for a fat binary with a
/// file that is cut off or cannot be unpacked. A driver that chose that file would refuse it too, and if another's
/// decoder could make more of it than ours, what it declares would not count. CUDA_ERROR_OUT_OF_MEMORY beyond
/// [`UNPACK_LIMIT`].
pub fn bytes(image: &[u8]) -> Result<u64, CuResult> {
    match image.first_chunk().map(|magic| u32::from_le_bytes(*magic)) {
        Some(fatbin::MAGIC) => in_fat_binary(image),
        Some(fatbin::WRAPPER) => Err(CuResult::INVALID_IMAGE),
        _ => Ok(in_file(image)),
    }
}

fn in_fat_binary(image: &[u8]) -> Result<u64, CuResult> {
    let broken = |error: fatbin::Error| {
        tracing::warn!("a fat binary is refused: {error}");
        CuResult::INVALID_IMAGE
    };
    let (mut unpacked, mut most) = (0u64, 0);
    for file in fatbin::files(image).map_err(broken)? {
        let file = file.map_err(broken)?;
        unpacked = unpacked.saturating_add(file.claimed());
        if unpacked > UNPACK_LIMIT {
            return Err(CuResult::OUT_OF_MEMORY);
        }
        // By what it is, whatever its header says it is.
        most = most.max(in_file(&file.unpack().map_err(broken)?));
    }
    Ok(most)
}

/// Of a cubin or a text.
fn in_file(contents: &[u8]) -> u64 {
    match contents {
        [0x7f, b'E', b'L', b'F', ..] => in_cubin(contents),
        text => in_ptx(text),
    }
}

/// A little-endian number of so many bytes.
fn number(image: &[u8], at: u64, bytes: u64) -> Option<u64> {
    let (start, end) = (usize::try_from(at).ok()?, at.checked_add(bytes)?);
    let field = image.get(start..usize::try_from(end).ok()?)?;
    let mut value = 0u64;
    for byte in field.iter().rev() {
        value = value.checked_shl(8)? | u64::from(*byte);
    }
    Some(value)
}

/// The sections of variables of an ELF file of 64 bits.
fn in_cubin(image: &[u8]) -> u64 {
    let sections = || {
        let (table, size) = (number(image, 0x28, 8)?, number(image, 0x3a, 2)?);
        let (count, names) = (number(image, 0x3c, 2)?, number(image, 0x3e, 2)?);
        let header = |section: u64| table.checked_add(section.checked_mul(size)?);
        let names = number(image, header(names)?.checked_add(0x18)?, 8)?;
        let mut sum = 0u64;
        for section in 0..count {
            let at = header(section)?;
            let name = names.checked_add(number(image, at, 4)?)?;
            let name = image.get(usize::try_from(name).ok()?..)?;
            if name.starts_with(b".nv.global") {
                sum = sum.saturating_add(number(image, at.checked_add(0x20)?, 8)?);
            }
        }
        Some(sum)
    };
    sections().unwrap_or(0)
}

/// The words and signs of a text in PTX, without what is said to people.
struct Tokens<'a>(&'a [u8]);

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let skipped = match self.0 {
                [] | [0, ..] => return None,
                [b'/', b'/', rest @ ..] => find(rest, b"\n").map_or(0, |at| at.saturating_add(2)),
                [b'/', b'*', rest @ ..] => find(rest, b"*/").map_or(0, |at| at.saturating_add(4)),
                [b'"', rest @ ..] => find(rest, b"\"").map_or(0, |at| at.saturating_add(2)),
                [c, ..] if c.is_ascii_whitespace() => 1,
                text => {
                    let is_word = |c: &u8| c.is_ascii_alphanumeric() || b"._$%".contains(c);
                    let word = text.iter().take_while(|c| is_word(c)).count().max(1);
                    let (token, rest) = text.split_at_checked(word)?;
                    self.0 = rest;
                    return Some(token);
                }
            };
            // What has no end is the rest of it.
            self.0 = match skipped {
                0 => &[],
                skipped => self.0.get(skipped..)?,
            };
        }
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|here| here == wanted)
}

fn in_ptx(text: &[u8]) -> u64 {
    let mut tokens = Tokens(text);
    let (mut sum, mut last): (u64, &[u8]) = (0, b"");
    while let Some(token) = tokens.next() {
        // A parameter's pointer says where it points.
        if token == b".global" && last != b".ptr" {
            sum = sum.saturating_add(declared(&mut tokens));
        }
        last = token;
    }
    sum
}

/// Bytes of the variables of one declaration, which is read to its end.
fn declared(tokens: &mut Tokens<'_>) -> u64 {
    let (mut element, mut vector, mut sum) = (0u64, 1u64, 0u64);
    // Of the variable that is being read: whether there is one, its elements, and those of its value.
    let (mut named, mut count, mut unsized_, mut listed) = (false, 1u64, false, 0u64);
    let (mut in_brackets, mut is_value, mut last): (bool, bool, &[u8]) = (false, false, b"");
    for token in tokens.by_ref() {
        match token {
            b";" | b"{" if !is_value => break,
            b";" => break,
            b"=" => is_value = true,
            _ if is_value => {
                // Each value but the first follows a comma.
                listed =
                    listed.saturating_add(u64::from(token == b",").max(u64::from(listed == 0)));
            }
            b"[" => in_brackets = true,
            b"]" => {
                unsized_ |= last == b"[";
                in_brackets = false;
            }
            b"," => {
                sum = sum.saturating_add(element.saturating_mul(vector).saturating_mul(count));
                (named, count, unsized_) = (false, 1, false);
            }
            b".v2" => vector = 2,
            b".v4" => vector = 4,
            b".v8" => vector = 8,
            word if in_brackets => count = count.saturating_mul(integer(word).unwrap_or(1)),
            [b'.', kind @ ..] => element = size(kind).unwrap_or(element),
            // The number behind `.align` is no name, nor are signs.
            [c, ..] if last != b".align" && (c.is_ascii_alphabetic() || b"_$%".contains(c)) => {
                named = true
            }
            _ => {}
        }
        last = token;
    }
    if unsized_ {
        count = listed;
    }
    let size = element.saturating_mul(vector).saturating_mul(count);
    if named { sum.saturating_add(size) } else { sum }
}

fn integer(word: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(word).ok()?.trim_end_matches('U');
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Bytes of a type: `b8`, `u32`, `f16x2`; `None` for what is none.
fn size(kind: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(kind).ok()?;
    if matches!(text, "texref" | "samplerref" | "surfref") {
        return Some(8);
    }
    let digits = text
        .trim_start_matches("bf")
        .trim_start_matches(['b', 'u', 's', 'f']);
    let (bits, times) = digits.split_once('x').unwrap_or((digits, "1"));
    let (bits, times) = (bits.parse::<u64>().ok()?, times.parse::<u64>().ok()?);
    bits.checked_mul(times)?
        .checked_div(8)
        .filter(|bytes| (1..=16).contains(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fatbin::write::{Packed, fat, file, file_claiming};
    use proptest::prelude::*;

    const PACKED: [Packed; 3] = [Packed::Not, Packed::Lz4, Packed::Zstd];

    #[test]
    fn variables_of_ptx_are_counted() {
        for (text, expected) in [
            ("", 0),
            (".version 8.0\n.target sm_90\n.address_size 64\n", 0),
            (".global .align 4 .u32 counter;", 4),
            (".visible .global .align 8 .b8 big[1073741824];", 1 << 30),
            (".global .f32 a[2][3] = {{1, 2, 3}, {4, 5, 6}};", 24),
            (".global .b8 text[] = {104, 105, 0};", 3),
            (".global .v4 .f32 v[2];", 32),
            (".global .u16 a, b[0x10];", 34),
            (".global .attribute(.managed) .align 4 .s32 m;", 4),
            (".extern .global .b8 elsewhere[];", 0),
            (
                "// .global .b8 x[99];\n/* .global .b8 y[99]; */ .global .b8 z[1];",
                1,
            ),
            (
                ".entry k(.param .u64 .ptr .global .align 4 p) { ld.global.u32 %r1, [%rd1]; st.global.v4.f32 [x], v; }",
                0,
            ),
            (".global .b8 huge[18446744073709551615];", u64::MAX),
            (".global .b64 huge[18446744073709551615][2];", u64::MAX),
            (".global .texref t;", 8),
        ] {
            assert_eq!(bytes(text.as_bytes()), Ok(expected), "{text}");
            // An image ends at its zero.
            assert_eq!(
                bytes(format!("{text}\0 .global .b8 x[7];").as_bytes()),
                Ok(expected)
            );
        }
    }

    /// A cubin with variables of 1 MiB and 16 bytes.
    fn cubin() -> Vec<u8> {
        let mut image = vec![0u8; 0x200];
        let put = |image: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            image[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(&mut image, 0, b"\x7fELF");
        put(&mut image, 0x28, &0x40u64.to_le_bytes());
        put(&mut image, 0x3a, &64u16.to_le_bytes());
        put(&mut image, 0x3c, &3u16.to_le_bytes());
        put(&mut image, 0x3e, &0u16.to_le_bytes());
        // The names, then two sections of variables.
        put(&mut image, 0x40 + 0x18, &0x180u64.to_le_bytes());
        put(&mut image, 0x180, b"\0.nv.global\0.nv.global.init\0");
        for (section, name, size) in [(1usize, 1u32, 1u64 << 20), (2, 12, 16)] {
            let at = 0x40 + section * 64;
            put(&mut image, at, &name.to_le_bytes());
            put(&mut image, at + 0x20, &size.to_le_bytes());
        }
        image
    }

    #[test]
    fn variables_of_a_cubin_are_counted() {
        let image = cubin();
        assert_eq!(bytes(&image), Ok((1 << 20) + 16));
        // Cut short anywhere, it is not believed.
        for length in 4..0x180 {
            assert_eq!(bytes(&image[..length]), Ok(0));
        }
    }

    #[test]
    fn the_largest_file_of_a_fat_binary_counts() {
        let text =
            |bytes: u64| format!(".version 8.0\n.global .align 4 .b8 big[{bytes}];\n").into_bytes();
        for packed in PACKED {
            let part = |kind, arch, contents: &[u8]| file(kind, arch, packed, contents);
            let (small, big) = (text(1000), text(3 << 20));
            for (files, expected) in [
                (vec![], 0),
                (vec![part(fatbin::PTX, 75, &small)], 1000),
                (
                    vec![
                        part(fatbin::CUBIN, 75, &cubin()),
                        part(fatbin::PTX, 90, &small),
                    ],
                    (1 << 20) + 16,
                ),
                (
                    vec![
                        part(fatbin::PTX, 75, &big),
                        part(fatbin::CUBIN, 90, &cubin()),
                    ],
                    3 << 20,
                ),
                // Whatever a file is said to be.
                (
                    vec![part(7, 75, &small), part(fatbin::CUBIN, 75, &big)],
                    3 << 20,
                ),
            ] {
                let mut image = fat(&files);
                assert_eq!(bytes(&image), Ok(expected));
                image.extend(b"behind it");
                assert_eq!(bytes(&image), Ok(expected));
                for cut in 4..fat(&files).len() {
                    assert_eq!(bytes(&image[..cut]), Err(CuResult::INVALID_IMAGE));
                }
            }
        }
    }

    #[test]
    fn fat_binaries_that_lie_are_refused() {
        let wrapper = [u64::from(fatbin::WRAPPER) | 1 << 32, 0x1000, 0];
        let wrapper = wrapper.map(u64::to_le_bytes).concat();
        assert_eq!(bytes(&wrapper), Err(CuResult::INVALID_IMAGE));
        let text = b".global .b8 big[4096];";
        for packed in [Packed::Lz4, Packed::Zstd] {
            let claiming = |claimed| file_claiming(fatbin::PTX, 75, packed, text, claimed);
            let image = |claimed| fat(&[claiming(claimed)]);
            assert_eq!(bytes(&image(text.len() as u64)), Ok(4096));
            for claimed in [0, 1, 100, 1 << 29] {
                assert_eq!(
                    bytes(&image(claimed)),
                    Err(CuResult::INVALID_IMAGE),
                    "{claimed}"
                );
            }
            for claimed in [UNPACK_LIMIT + 1, u64::MAX] {
                assert_eq!(
                    bytes(&image(claimed)),
                    Err(CuResult::OUT_OF_MEMORY),
                    "{claimed}"
                );
            }
            // Each may be so large, but not all of them.
            let zeros = vec![b' '; 1 << 20];
            let many = |count: u64| {
                let mut files = vec![file(fatbin::PTX, 75, packed, &zeros); count as usize];
                files.push(claiming(UNPACK_LIMIT - (3 << 20)));
                bytes(&fat(&files))
            };
            assert_eq!(many(3), Err(CuResult::INVALID_IMAGE));
            assert_eq!(many(4), Err(CuResult::OUT_OF_MEMORY));
        }
    }

    proptest! {
        /// Any bytes are read to their end.
        #[test]
        fn any_bytes(image in proptest::collection::vec(any::<u8>(), 0..300), text in "[.globaluv4, \\[\\]{};=\"/*0-9xb\\n]{0,200}") {
            let _ = bytes(&image);
            let _ = bytes(text.as_bytes());
            let mut elf = b"\x7fELF".to_vec();
            elf.extend_from_slice(&image);
            let _ = bytes(&elf);
        }

        /// So is a fat binary with any changes.
        #[test]
        fn any_fat_binary(
            texts in proptest::collection::vec(("[.globalb8 x\\[\\];0-9]{0,100}", 0usize..3), 0..4),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let files: Vec<_> = texts.iter().map(|(text, packed)| file(fatbin::PTX, 75, PACKED[*packed], text.as_bytes())).collect();
            let mut image = fat(&files);
            prop_assert!(bytes(&image).is_ok());
            for (at, byte) in changes {
                let at = at.index(image.len());
                image[at] = byte;
            }
            let _ = bytes(&image);
        }
    }
}
