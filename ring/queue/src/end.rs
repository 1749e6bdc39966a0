//! What the two ends of a channel do alike: close it, and notice that the peer closed it or is gone.
//! It never waits.

use std::{sync::Arc, time::Duration};

use crate::{
    Doorbell, Error, Side,
    layout::{MAGIC, VERSION, Word},
    memory::Pages,
    sync::{AtomicBool, Ordering},
};

/// Reasons for closing that the rings themselves give; the users of a channel define all others.
pub mod reason {
    /// The end was dropped and no reason was given.
    pub const DROPPED: u32 = 0;
    /// The peer broke the ring protocol.
    pub const PROTOCOL: u32 = u32::MAX;
}

/// The longest sleep after which an end looks whether its peer still lives, should nobody ring.
pub(crate) const LOOK: Duration = Duration::from_millis(200);

pub(crate) struct End {
    pub(crate) pages: Pages,
    pub(crate) bell: Arc<dyn Doorbell>,
    side: Side,
    peer: Side,
    closed: AtomicBool,
}

impl End {
    pub(crate) fn new(pages: Pages, bell: Arc<dyn Doorbell>, side: Side) -> Self {
        Self {
            pages,
            bell,
            side,
            peer: match side {
                Side::Front => Side::Back,
                Side::Back => Side::Front,
            },
            closed: AtomicBool::new(false),
        }
    }

    /// Tells the peer that this end is done, once: the first reason stays.
    pub(crate) fn close(&self, reason: u32) -> Result<(), Error> {
        if self.closed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let pages = &self.pages;
        pages
            .word(Word::reason(self.side))
            .store(reason, Ordering::Relaxed);
        pages
            .word(Word::closed(self.side))
            .store(1, Ordering::Release);
        Ok(self.bell.notify()?)
    }

    /// Whether the peer is there. Its fields share one cache line that it writes at its end only.
    pub(crate) fn peer(&self) -> Result<(), Error> {
        let peer = self.peer;
        if self.pages.word(Word::closed(peer)).load(Ordering::Acquire) != 0 {
            let reason = self.pages.word(Word::reason(peer)).load(Ordering::Relaxed);
            return Err(Error::Closed { peer, reason });
        }
        if self.pages.live(peer).load(Ordering::Acquire) == 0 {
            return Err(Error::PeerGone { peer });
        }
        Ok(())
    }
}

impl Pages {
    /// Refuses memory that was not set up as a channel of this layout.
    pub(crate) fn check_header(&self) -> Result<(), Error> {
        let layout = self.layout();
        for (what, word, expected) in [
            ("the magic number", Word::Magic, MAGIC),
            ("the version of the layout", Word::Version, VERSION),
            ("the submission ring's size", Word::SqBytes, layout.sq_bytes),
            ("the completion ring's size", Word::CqBytes, layout.cq_bytes),
            ("the arena's size", Word::ArenaBytes, layout.arena_bytes),
        ] {
            let found = self.word(word).load(Ordering::Acquire);
            if found != expected {
                return Err(Error::Mismatch {
                    what,
                    found: found.into(),
                    expected: expected.into(),
                });
            }
        }
        Ok(())
    }
}
