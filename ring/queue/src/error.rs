//! What can go wrong on a channel. Every value says what happened and what to do next; none of them
//! may ever end the process.

use std::{io, sync::Arc};

use crate::{Side, Ticket};

/// Why an operation on a channel failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The sizes of the two rings and the arena break a rule of [`crate::Layout`].
    #[error(
        "channel layout refused: {what} is {bytes} bytes, it must be {rule}; correct the size where the channel is set up"
    )]
    Layout {
        /// Which size.
        what: &'static str,
        /// Its value in bytes.
        bytes: u64,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The memory is not a channel of the agreed layout.
    #[error(
        "shared memory refused: {what} is {found:#x} where {expected:#x} was agreed; both ends must come from compatible versions"
    )]
    Mismatch {
        /// Which field of the header, or the memory itself.
        what: &'static str,
        /// What was found.
        found: u64,
        /// What was expected.
        expected: u64,
    },
    /// The peer broke the rules of the ring. The channel is dead from then on: close it.
    #[error(
        "the {peer} broke the ring protocol: {what} (value {value:#x}); the channel is dead, close it"
    )]
    Protocol {
        /// Who broke them.
        peer: Side,
        /// Which rule.
        what: &'static str,
        /// The value that broke it.
        value: u64,
    },
    /// The peer closed the channel.
    #[error("the {peer} closed the channel with reason {reason}; open a new one")]
    Closed {
        /// Who closed it.
        peer: Side,
        /// Its reason: a number whose meaning the user of the channel defines, or [`crate::reason`].
        reason: u32,
    },
    /// The peer's mapping of the shared memory is gone: it died or left without a word.
    #[error("the {peer} is gone without closing the channel; release it and open a new one")]
    PeerGone {
        /// Who is gone.
        peer: Side,
    },
    /// More bytes than the ring or arena takes at once.
    #[error("{len} bytes do not fit: the limit is {max} at once; send them in pieces")]
    TooLong {
        /// Bytes asked for.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Zero bytes of arena were asked for.
    #[error("zero bytes of arena asked for; leave the transfer out")]
    Empty,
    /// The ticket does not stand for an answer that can still come.
    #[error(
        "no answer is outstanding for ticket {0}: it was posted without one, or its answer was taken"
    )]
    UnknownTicket(Ticket),
    /// The completion ring stayed full: the front does not consume its answers.
    #[error(
        "the completion ring stayed full for {waited_ms} ms: the frontend does not take its answers; close the channel"
    )]
    Stuck {
        /// How long the back waited, in milliseconds.
        waited_ms: u64,
    },
    /// Ringing the doorbell or waiting for it failed.
    #[error("the doorbell of the channel failed: {0}; the channel is dead, close it")]
    Doorbell(#[source] Arc<io::Error>),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Doorbell(Arc::new(error))
    }
}
