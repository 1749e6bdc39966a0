//! What vgpu-frontd asks of vgpu-backd over the device's control ring: channels and regions.
//!
//! The ring is a `vgpu_ring` channel of [`LAYOUT`] without an arena; a record is one [`Request`], its
//! completion one [`Answer`]. Must never name memory other than by grant reference, and backd must
//! never believe a number here before it has checked it.

use crate::codec::{Bytes, choice, messages};
use vgpu_ring::Layout;

/// The control ring's layout. Requests are small and few.
pub const LAYOUT: Layout = Layout {
    sq_bytes: 4096,
    cq_bytes: 4096,
    arena_bytes: 0,
};

/// Longest program name in [`OpenChannel`], in bytes.
pub const NAME_LIMIT: usize = 64;
/// Longest text in [`Answer`], in bytes.
pub const TEXT_LIMIT: usize = 512;

messages! {
    /// Opens a channel: a worker maps its pages, binds its event channel and serves it.
    OpenChannel {
        /// The channel's number: the frontend's choice, not one that is open.
        channel: u32,
        /// Grant reference of the first page of the list ([`crate::grants`]) of the channel's pages.
        list: u32,
        /// How many pages the list must name.
        pages: u32,
        /// The frontend's unbound event channel, for the backend's domain.
        event_port: u32,
        /// Bytes of the submission ring.
        sq_bytes: u32,
        /// Bytes of the completion ring.
        cq_bytes: u32,
        /// Bytes of the arena.
        arena_bytes: u32,
        /// The program's user in the guest. Only shown.
        uid: u32,
        /// The program's process id in the guest. Only shown.
        pid: u32,
        /// The program's name, of at most [`NAME_LIMIT`] bytes. Only shown.
        name: Bytes,
    }
    /// Ends a channel. Answered once nothing of it is mapped or bound any more.
    CloseChannel {
        /// Which.
        channel: u32,
    }
    /// Maps more pages for a channel's worker.
    AddRegion {
        /// The channel.
        channel: u32,
        /// The region's number: the frontend's choice, not 0 and not one in use in the channel.
        region: u32,
        /// Grant reference of the first page of the list of the region's pages.
        list: u32,
        /// How many pages the list must name.
        pages: u32,
    }
    /// Takes a region away. Answered once it is not mapped any more.
    RemoveRegion {
        /// The channel.
        channel: u32,
        /// Which region.
        region: u32,
    }
    /// How a request ended.
    Answer {
        /// A [`Status`] as its number.
        status: u32,
        /// What went wrong and what to do next, of at most [`TEXT_LIMIT`] bytes of UTF-8.
        text: Bytes,
    }
}

choice! {
    /// What frontd asks.
    Request {
        /// Open a channel.
        1 => OpenChannel(OpenChannel),
        /// Close it.
        2 => CloseChannel(CloseChannel),
        /// Add a region to it.
        3 => AddRegion(AddRegion),
        /// Remove one.
        4 => RemoveRegion(RemoveRegion),
    }
}

/// How a request ended. Numbers that are none of these mean [`Status::Failed`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Status {
    /// As asked.
    Done = 0,
    /// The request makes no sense: a wrong number, size or state.
    Invalid = 1,
    /// A limit of the backend: channels or pages of this domain or of all.
    Limit = 2,
    /// The pages or the event channel could not be had.
    NotGranted = 3,
    /// The worker could not be started or could not serve.
    Worker = 4,
    /// Anything else.
    Failed = 5,
}

impl From<u32> for Status {
    fn from(number: u32) -> Status {
        [
            Status::Done,
            Status::Invalid,
            Status::Limit,
            Status::NotGranted,
            Status::Worker,
        ]
        .into_iter()
        .find(|status| *status as u32 == number)
        .unwrap_or(Status::Failed)
    }
}

impl Answer {
    /// The answer to a request that was carried out.
    pub fn done() -> Answer {
        Answer {
            status: Status::Done as u32,
            text: Bytes::default(),
        }
    }

    /// The answer to one that was not, and why.
    pub fn refused(status: Status, text: &str) -> Answer {
        Answer {
            status: status as u32,
            text: Bytes(clip(text, TEXT_LIMIT).as_bytes().to_vec()),
        }
    }

    /// The answer as its reader wants it.
    pub fn result(&self) -> Result<(), (Status, String)> {
        match Status::from(self.status) {
            Status::Done => Ok(()),
            status => Err((status, printable(&self.text.0, TEXT_LIMIT))),
        }
    }
}

/// The front of `text`, at most `limit` bytes of it.
pub fn clip(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit))
        .unwrap_or_default()
}

/// What a peer calls text, fit for a log or a terminal: bounded, and without control characters.
pub fn printable(bytes: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(bytes.get(..limit).unwrap_or(bytes));
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;
    use proptest::prelude::*;

    #[test]
    fn the_longest_messages_fit_in_the_ring() {
        LAYOUT.check().unwrap();
        let open = Request::OpenChannel(OpenChannel {
            channel: u32::MAX,
            list: u32::MAX,
            pages: u32::MAX,
            event_port: u32::MAX,
            sq_bytes: u32::MAX,
            cq_bytes: u32::MAX,
            arena_bytes: u32::MAX,
            uid: u32::MAX,
            pid: u32::MAX,
            name: Bytes(vec![b'x'; NAME_LIMIT]),
        });
        assert!(open.encode().len() <= LAYOUT.max_submission());
        assert_eq!(Request::decode(&open.encode()).unwrap(), open);
        let answer = Answer::refused(Status::Limit, &"é".repeat(TEXT_LIMIT));
        assert!(answer.text.0.len() <= TEXT_LIMIT);
        assert!(answer.encode().len() <= LAYOUT.max_completion());
        let (status, text) = Answer::decode(&answer.encode())
            .unwrap()
            .result()
            .unwrap_err();
        assert_eq!(status, Status::Limit);
        assert!(text.starts_with('é'));
    }

    #[test]
    fn unknown_statuses_are_failures() {
        for known in [
            Status::Done,
            Status::Invalid,
            Status::Limit,
            Status::NotGranted,
            Status::Worker,
            Status::Failed,
        ] {
            assert_eq!(Status::from(known as u32), known);
        }
        assert_eq!(Status::from(u32::MAX), Status::Failed);
        assert_eq!(Answer::done().result(), Ok(()));
    }

    #[test]
    fn a_peers_text_cannot_steer_a_terminal() {
        let text = printable(b"a\x1b[31mb\nc\xff", 100);
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert_eq!(printable(b"abcdef", 3), "abc");
        assert_eq!(clip("aé", 2), "a");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), &bytes[..]);
            }
            if let Ok(answer) = Answer::decode(&bytes) {
                let _ = answer.result();
            }
        }
    }
}
