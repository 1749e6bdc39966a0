//! Writes a cpio archive in the "newc" form, which is what the kernel unpacks as its first root file system.
//! Uncompressed on purpose: in software emulation, unpacking costs far more than copying.
//! It holds no file system of the host: owner, times and device numbers are all zero.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive under way.
pub(crate) struct Archive<W> {
    to: W,
    /// Each entry has its own inode number; equal ones would be hard links.
    inode: u32,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(to: W) -> Archive<W> {
        Archive { to, inode: 0 }
    }

    pub(crate) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, &[])
    }

    pub(crate) fn file(&mut self, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | (mode & 0o7777), data)
    }

    pub(crate) fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, LINK | 0o777, target.as_bytes())
    }

    /// Writes the closing entry. Another archive may follow it: the kernel unpacks one after the other.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.to)
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        let size = u32::try_from(data.len())
            .map_err(|_| io::Error::other(format!("{name} is over 4 GiB")))?;
        self.inode += 1;
        let fields = [
            self.inode,
            mode,
            0, // owner
            0, // group
            1, // links
            0, // time
            size,
            0, // device of the file, major
            0, // and minor
            0, // device it is, major
            0, // and minor
            u32::try_from(name.len() + 1).map_err(io::Error::other)?,
            0, // check sum: none in this form
        ];
        let mut head = String::from("070701");
        for field in fields {
            head.push_str(&format!("{field:08x}"));
        }
        head.push_str(name);
        head.push('\0');
        self.to.write_all(head.as_bytes())?;
        self.pad(head.len())?;
        self.to.write_all(data)?;
        self.pad(data.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.to
            .write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_closed() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("a").unwrap();
        archive.file("a/b", 0o755, b"hello").unwrap();
        archive.link("c", "a/b").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 4);
        // The head is 110 bytes; name and data are each filled up to a multiple of four.
        let name = text.find("a/b").unwrap();
        assert_eq!(text.get(name..name + 14), Some("a/b\0\0\0hello\0\0\0"));
        assert!(text.contains("TRAILER!!!"));
        // inode 2, regular file 0755, its size and its name's
        assert!(text.contains("07070100000002000081ed"), "{text:?}");
    }
}
