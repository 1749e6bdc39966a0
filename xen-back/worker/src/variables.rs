//! How much device memory a module's variables take, read off its image before the driver loads it.
//!
//! It knows PTX and cubins; of a fat binary, whose parts may be compressed, it says nothing. Any bytes may come:
//! it must never fail, and it judges nothing but sizes.

/// Bytes of the variables that an image declares, as far as can be read.
pub fn bytes(image: &[u8]) -> u64 {
    match image {
        [0x7f, b'E', b'L', b'F', ..] => in_cubin(image),
        // A fat binary, or its wrapper.
        [0x50, 0xed, 0x55, 0xba, ..] | [0xb1, 0x43, 0x62, 0x46, ..] => 0,
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
    use proptest::prelude::*;

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
            assert_eq!(bytes(text.as_bytes()), expected, "{text}");
            // An image ends at its zero.
            assert_eq!(
                bytes(format!("{text}\0 .global .b8 x[7];").as_bytes()),
                expected
            );
        }
    }

    #[test]
    fn variables_of_a_cubin_are_counted() {
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
        assert_eq!(bytes(&image), (1 << 20) + 16);
        // Cut short anywhere, it is not believed.
        for length in 4..0x180 {
            assert_eq!(bytes(&image[..length]), 0);
        }
    }

    proptest! {
        /// Any bytes are read to their end.
        #[test]
        fn any_bytes(image in proptest::collection::vec(any::<u8>(), 0..300), text in "[.globaluv4, \\[\\]{};=\"/*0-9xb\\n]{0,200}") {
            bytes(&image);
            bytes(text.as_bytes());
            let mut elf = b"\x7fELF".to_vec();
            elf.extend_from_slice(&image);
            bytes(&elf);
        }
    }
}
