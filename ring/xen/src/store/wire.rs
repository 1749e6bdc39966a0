//! The XenStore wire protocol: message header, operations, error names, permissions, limits.
//!
//! Pure encoding and decoding for both ends, after xen/include/public/io/xs_wire.h and docs/misc/xenstore.txt.
//! It must never do I/O, and never panic whatever bytes it is given.

use std::fmt;
use std::str::FromStr;

use rustix::io::Errno;

use crate::platform::DomId;

/// Bytes of a message's header (`struct xsd_sockmsg`).
pub const HEADER_LEN: usize = 16;
/// Most bytes of payload in a message (`XENSTORE_PAYLOAD_MAX`).
pub const PAYLOAD_MAX: usize = 4096;
/// Most bytes of payload our client sends: `/dev/xen/xenbus` takes 4096 bytes with the header.
pub const CLIENT_PAYLOAD_MAX: usize = PAYLOAD_MAX - HEADER_LEN;
/// Most bytes of an absolute path (`XENSTORE_ABS_PATH_MAX`).
pub const ABSOLUTE_PATH_MAX: usize = 3072;
/// Most bytes of a path relative to a domain's folder (`XENSTORE_REL_PATH_MAX`).
pub const RELATIVE_PATH_MAX: usize = 2048;

/// An operation or kind of message (`enum xsd_sockmsg_type`).
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the protocol's own")]
pub enum Op {
    Control = 0,
    Directory = 1,
    Read = 2,
    GetPerms = 3,
    Watch = 4,
    Unwatch = 5,
    TransactionStart = 6,
    TransactionEnd = 7,
    Introduce = 8,
    Release = 9,
    GetDomainPath = 10,
    Write = 11,
    Mkdir = 12,
    Rm = 13,
    SetPerms = 14,
    WatchEvent = 15,
    Error = 16,
    IsDomainIntroduced = 17,
    Resume = 18,
    SetTarget = 19,
    ResetWatches = 21,
    DirectoryPart = 22,
}

/// Every operation with its name in the protocol; number 20 was XS_RESTRICT and is no more.
const OPS: [(Op, &str); 22] = [
    (Op::Control, "CONTROL"),
    (Op::Directory, "DIRECTORY"),
    (Op::Read, "READ"),
    (Op::GetPerms, "GET_PERMS"),
    (Op::Watch, "WATCH"),
    (Op::Unwatch, "UNWATCH"),
    (Op::TransactionStart, "TRANSACTION_START"),
    (Op::TransactionEnd, "TRANSACTION_END"),
    (Op::Introduce, "INTRODUCE"),
    (Op::Release, "RELEASE"),
    (Op::GetDomainPath, "GET_DOMAIN_PATH"),
    (Op::Write, "WRITE"),
    (Op::Mkdir, "MKDIR"),
    (Op::Rm, "RM"),
    (Op::SetPerms, "SET_PERMS"),
    (Op::WatchEvent, "WATCH_EVENT"),
    (Op::Error, "ERROR"),
    (Op::IsDomainIntroduced, "IS_DOMAIN_INTRODUCED"),
    (Op::Resume, "RESUME"),
    (Op::SetTarget, "SET_TARGET"),
    (Op::ResetWatches, "RESET_WATCHES"),
    (Op::DirectoryPart, "DIRECTORY_PART"),
];

impl Op {
    /// The operation with this number.
    pub fn from_u32(number: u32) -> Option<Op> {
        OPS.iter()
            .map(|(op, _)| *op)
            .find(|op| *op as u32 == number)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = OPS
            .iter()
            .find(|(op, _)| op == self)
            .map_or("?", |(_, name)| name);
        f.write_str(name)
    }
}

/// The errors that have a name on the wire (`xsd_errors`).
const ERRORS: [(Errno, &str); 16] = [
    (Errno::INVAL, "EINVAL"),
    (Errno::ACCESS, "EACCES"),
    (Errno::EXIST, "EEXIST"),
    (Errno::ISDIR, "EISDIR"),
    (Errno::NOENT, "ENOENT"),
    (Errno::NOMEM, "ENOMEM"),
    (Errno::NOSPC, "ENOSPC"),
    (Errno::IO, "EIO"),
    (Errno::NOTEMPTY, "ENOTEMPTY"),
    (Errno::NOSYS, "ENOSYS"),
    (Errno::ROFS, "EROFS"),
    (Errno::BUSY, "EBUSY"),
    (Errno::AGAIN, "EAGAIN"),
    (Errno::ISCONN, "EISCONN"),
    (Errno::TOOBIG, "E2BIG"),
    (Errno::PERM, "EPERM"),
];

/// The name an error has on the wire; EINVAL for one that has none, as xenstored does.
pub fn error_name(errno: Errno) -> &'static str {
    ERRORS
        .iter()
        .find(|(e, _)| *e == errno)
        .map_or("EINVAL", |(_, name)| name)
}

/// The error with this name (a trailing NUL is allowed); an unknown name is EINVAL.
pub fn error_from_name(name: &[u8]) -> Errno {
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    ERRORS
        .iter()
        .find(|(_, n)| n.as_bytes() == name)
        .map_or(Errno::INVAL, |(errno, _)| *errno)
}

/// A message's header (`struct xsd_sockmsg`), little-endian on the wire as on every machine that runs Xen here.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Header {
    /// The operation's number; may be unknown.
    pub kind: u32,
    /// Echoed by the server; 0 in watch events.
    pub req_id: u32,
    /// The transaction; 0 outside any.
    pub tx_id: u32,
    /// Bytes of payload that follow.
    pub len: u32,
}

impl Header {
    fn decode(bytes: &[u8; HEADER_LEN]) -> Header {
        let [
            k0,
            k1,
            k2,
            k3,
            r0,
            r1,
            r2,
            r3,
            t0,
            t1,
            t2,
            t3,
            l0,
            l1,
            l2,
            l3,
        ] = *bytes;
        Header {
            kind: u32::from_le_bytes([k0, k1, k2, k3]),
            req_id: u32::from_le_bytes([r0, r1, r2, r3]),
            tx_id: u32::from_le_bytes([t0, t1, t2, t3]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
        }
    }
}

/// One message, whole.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Message {
    /// Its header; `len` is the payload's length.
    pub header: Header,
    /// What follows the header: at most [`PAYLOAD_MAX`] bytes.
    pub payload: Vec<u8>,
}

/// A message as bytes. The payload's length is the caller's to keep within the limit.
pub fn encode(kind: Op, req_id: u32, tx_id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    for word in [kind as u32, req_id, tx_id, payload.len() as u32] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// A header announced more payload than a message may have; the stream cannot be followed further.
#[derive(thiserror::Error, Copy, Clone, Eq, PartialEq, Debug)]
#[error("a message announced {0} bytes of payload; the protocol allows {PAYLOAD_MAX}")]
pub struct Oversized(pub u32);

/// Cuts a stream of bytes into messages. Holds at most one message and what was fed behind it.
#[derive(Default, Debug)]
pub struct Decoder {
    bytes: Vec<u8>,
    used: usize,
}

impl Decoder {
    /// Adds bytes as they came.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.used > 0 {
            self.bytes.drain(..self.used);
            self.used = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    pub fn next_message(&mut self) -> Result<Option<Message>, Oversized> {
        let rest = self.bytes.get(self.used..).unwrap_or_default();
        let Some((head, rest)) = rest.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let header = Header::decode(head);
        if header.len as usize > PAYLOAD_MAX {
            return Err(Oversized(header.len));
        }
        let Some(payload) = rest.get(..header.len as usize) else {
            return Ok(None);
        };
        self.used += HEADER_LEN + payload.len();
        Ok(Some(Message {
            header,
            payload: payload.to_vec(),
        }))
    }

    /// Bytes fed and not yet given out.
    pub fn pending(&self) -> usize {
        self.bytes.len().saturating_sub(self.used)
    }
}

/// The NUL-terminated strings at the front of a payload; bytes behind the last NUL are left out.
pub fn strings(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = payload
        .iter()
        .rposition(|b| *b == 0)
        .and_then(|last| payload.get(..last));
    whole.into_iter().flat_map(|p| p.split(|b| *b == 0))
}

/// One entry of a node's permissions. The first entry of a list names the owner, and its `read` and `write`
/// are what domains get that no later entry names.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct Permission {
    /// Whom the entry is about.
    pub domid: DomId,
    /// May read the node, list its children and see its watches fire.
    pub read: bool,
    /// May write the node, create children and delete it.
    pub write: bool,
}

impl Permission {
    /// `nD`: D owns (as first entry) or has nothing (later).
    pub const fn none(domid: DomId) -> Permission {
        Permission {
            domid,
            read: false,
            write: false,
        }
    }

    /// `rD`
    pub const fn read(domid: DomId) -> Permission {
        Permission {
            domid,
            read: true,
            write: false,
        }
    }

    /// `wD`
    pub const fn write(domid: DomId) -> Permission {
        Permission {
            domid,
            read: false,
            write: true,
        }
    }

    /// `bD`
    pub const fn both(domid: DomId) -> Permission {
        Permission {
            domid,
            read: true,
            write: true,
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match (self.read, self.write) {
            (false, false) => 'n',
            (true, false) => 'r',
            (false, true) => 'w',
            (true, true) => 'b',
        };
        write!(f, "{letter}{}", self.domid.0)
    }
}

/// A text is no permission entry.
#[derive(thiserror::Error, Clone, Eq, PartialEq, Debug)]
#[error("{0:?} is no XenStore permission: write n, r, w or b and a domid, as in \"r5\"")]
pub struct ParsePermissionError(pub String);

impl FromStr for Permission {
    type Err = ParsePermissionError;

    fn from_str(text: &str) -> Result<Permission, ParsePermissionError> {
        let wrong = || ParsePermissionError(text.to_string());
        let (read, write) = match text.as_bytes().first() {
            Some(b'n') => (false, false),
            Some(b'r') => (true, false),
            Some(b'w') => (false, true),
            Some(b'b') => (true, true),
            _ => return Err(wrong()),
        };
        let digits = text.get(1..).unwrap_or_default();
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let domid = digits.parse::<u16>().map_err(|_| wrong())?;
        Ok(Permission {
            domid: DomId(domid),
            read,
            write,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn operations_have_the_numbers_of_xs_wire_h() {
        assert_eq!(Op::from_u32(2), Some(Op::Read));
        assert_eq!(Op::from_u32(15), Some(Op::WatchEvent));
        assert_eq!(Op::from_u32(20), None);
        assert_eq!(Op::from_u32(22), Some(Op::DirectoryPart));
        assert_eq!(Op::from_u32(23), None);
        for (op, name) in OPS {
            assert_eq!(Op::from_u32(op as u32), Some(op));
            assert_eq!(op.to_string(), name);
        }
    }

    #[test]
    fn errors_travel_by_name() {
        for (errno, name) in ERRORS {
            assert_eq!(error_name(errno), name);
            assert_eq!(error_from_name(format!("{name}\0").as_bytes()), errno);
        }
        assert_eq!(error_name(Errno::PIPE), "EINVAL");
        assert_eq!(error_from_name(b"ENOTHING\0"), Errno::INVAL);
    }

    #[test]
    fn strings_stop_at_the_last_nul() {
        let all = |p: &'static [u8]| strings(p).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(all(b""), Vec::<Vec<u8>>::new());
        assert_eq!(all(b"abc"), Vec::<Vec<u8>>::new());
        assert_eq!(all(b"\0"), vec![b"".to_vec()]);
        assert_eq!(all(b"a\0b\0rest"), vec![b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(all(b"a\0\0"), vec![b"a".to_vec(), b"".to_vec()]);
    }

    #[test]
    fn permissions_are_a_letter_and_a_domid() {
        for text in ["n0", "r5", "w17", "b32751"] {
            assert_eq!(text.parse::<Permission>().unwrap().to_string(), text);
        }
        for text in ["", "r", "x5", "r-1", "r+1", "r65536", "r5 ", "é5", "rr"] {
            assert!(text.parse::<Permission>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..64)) {
            let mut decoder = Decoder::default();
            for chunk in &chunks {
                decoder.feed(chunk);
                while let Ok(Some(message)) = decoder.next_message() {
                    prop_assert!(message.payload.len() <= PAYLOAD_MAX);
                    let _ = Op::from_u32(message.header.kind);
                    let _ = strings(&message.payload).count();
                }
            }
        }

        #[test]
        fn messages_survive_any_cutting(
            messages in prop::collection::vec((0u32..24, any::<u32>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..200)), 1..8),
            cut in 1usize..50,
        ) {
            let mut stream = Vec::new();
            let mut sent = Vec::new();
            for (kind, req_id, tx_id, payload) in messages {
                let Some(op) = Op::from_u32(kind) else { continue };
                stream.extend(encode(op, req_id, tx_id, &payload));
                let header = Header { kind, req_id, tx_id, len: payload.len() as u32 };
                sent.push(Message { header, payload });
            }
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.feed(piece);
                while let Some(message) = decoder.next_message().unwrap() {
                    got.push(message);
                }
            }
            prop_assert_eq!(got, sent);
            prop_assert_eq!(decoder.pending(), 0);
        }

        #[test]
        fn permission_text_never_panics(text in ".{0,12}") {
            let _ = text.parse::<Permission>();
        }
    }
}
