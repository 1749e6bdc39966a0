//! The back of a channel: one thread takes submissions in order and retires them; completions come
//! from any thread. The front is hostile: nothing it writes may cost more than its own channel, and
//! no thread may wait for it without a limit.

use std::{
    fmt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Arena, Doorbell, Error, Layout, SharedMemory, Side, SpinPolicy, Ticket,
    end::{End, LOOK, reason},
    layout::{RingId, WANTS_ANSWER},
    memory::Pages,
    ring::{self, Consumer, Head, Producer, Visible},
    sync::{Mutex, Ordering, lock},
};

/// One submission, whose payload is in the caller's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submission {
    /// Its number: they count from 1 without gaps.
    pub ticket: Ticket,
    /// The front waits for exactly one completion with this ticket.
    pub wants_answer: bool,
}

/// The consuming end of a channel.
pub struct Back {
    shared: Arc<Shared>,
    incoming: Incoming,
    failure: Option<Error>,
}

struct Incoming {
    consumer: Consumer,
    /// The last ticket taken.
    last: Ticket,
}

struct Shared {
    end: End,
    spin: SpinPolicy,
    patience: Duration,
    outgoing: Mutex<Outgoing>,
}

struct Outgoing {
    producer: Producer,
    failure: Option<Error>,
}

impl Back {
    /// Attaches to a channel that the front has set up in `memory`. A completion waits at most
    /// `patience` for a front that does not take its answers.
    ///
    /// # Errors
    /// [`Error::Layout`] for a bad layout, [`Error::Mismatch`] if the memory does not hold a channel
    /// of this version and layout.
    pub fn attach(
        memory: SharedMemory,
        layout: Layout,
        bell: Arc<dyn Doorbell>,
        spin: SpinPolicy,
        patience: Duration,
    ) -> Result<Self, Error> {
        let pages = Pages::new(memory, layout)?;
        pages.check_header()?;
        Ok(Self {
            incoming: Incoming {
                consumer: Consumer::new(pages.clone(), RingId::Submission),
                last: 0,
            },
            shared: Arc::new(Shared {
                outgoing: Mutex::new(Outgoing {
                    producer: Producer::new(pages.clone(), RingId::Completion),
                    failure: None,
                }),
                end: End::new(pages, bell, Side::Back),
                spin,
                patience,
            }),
            failure: None,
        })
    }

    /// Copies the next submission's payload into `buf`, waiting at most `timeout` for one. `None`
    /// means that there is none: the time is up, or the doorbell rang for something else. After
    /// `None` the front rings at its next submission, so a caller may also sleep on the doorbell's
    /// descriptor itself.
    ///
    /// # Errors
    /// The channel is dead, and what was published before it died has been returned: the front
    /// closed it, is gone, or broke the protocol.
    pub fn next(
        &mut self,
        buf: &mut Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<Option<Submission>, Error> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.await_next(buf, timeout).inspect_err(|error| {
            if let Error::Protocol { .. } = error {
                // The error that is being reported matters more than one in telling the peer of it.
                let _ = self.shared.end.close(reason::PROTOCOL);
            }
            self.failure = Some(error.clone());
        })
    }

    fn await_next(
        &mut self,
        buf: &mut Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<Option<Submission>, Error> {
        let (end, incoming) = (&self.shared.end, &mut self.incoming);
        let stirred = self.shared.spin.until(
            || incoming.consumer.stirs(),
            || end.peer().is_err(),
            timeout,
        );
        if stirred && let Some(submission) = incoming.take(buf)? {
            return Ok(Some(submission));
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut over = false;
        loop {
            incoming.consumer.arm();
            // Looked at before the ring: what the front submitted before it closed still counts.
            let peer = end.peer();
            if let Some(submission) = incoming.take(buf)? {
                return Ok(Some(submission));
            }
            peer?;
            if over {
                return Ok(None);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let rung = end
                .bell
                .wait(Some(left.map_or(LOOK, |left| left.min(LOOK))))?;
            over = rung || left.is_some_and(|left| left <= LOOK);
        }
    }

    /// Everything that [`Back::next`] returned has been executed: gives its space in the ring and in
    /// the arena back to the front.
    ///
    /// # Errors
    /// [`Error::Doorbell`] if a front that waits for it could not be told.
    pub fn retire(&mut self) -> Result<(), Error> {
        let end = &self.shared.end;
        // Before the index: who sees the index move sees the ticket.
        end.pages
            .retired()
            .store(self.incoming.last, Ordering::Release);
        let moved = self.incoming.consumer.release();
        if ring::progress_is_awaited(&end.pages, moved) {
            end.bell.notify()?;
        }
        Ok(())
    }

    /// A handle that completes submissions, for any thread.
    pub fn completer(&self) -> Completer {
        Completer {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Polls until there is a submission, at most so long, and returns whether there is. Cheap: it only looks
    /// at an index of the front's, and does not judge it.
    pub fn stirs(&self, within: Duration) -> bool {
        SpinPolicy { poll: within }.until(|| self.incoming.consumer.stirs(), || false, None)
    }

    /// A view of the submissions that wait, for a thread that carries one out.
    pub fn backlog(&self) -> Backlog {
        Backlog(self.incoming.consumer.visible())
    }

    /// The arena, to look up what submissions refer to.
    pub fn arena(&self) -> Arena {
        self.shared.end.pages.arena()
    }

    /// Whether the front is still there: for a thread that is busy for long.
    ///
    /// # Errors
    /// [`Error::Closed`] or [`Error::PeerGone`].
    pub fn check(&self) -> Result<(), Error> {
        self.shared.end.peer()
    }

    /// Tells the front that the channel is over and why; every thread that waits there fails, once
    /// it has taken the answers sent before. The first reason given stays.
    ///
    /// # Errors
    /// [`Error::Doorbell`] if the front could not be told at once; it finds out by itself.
    pub fn close(&self, reason: u32) -> Result<(), Error> {
        self.shared.end.close(reason)
    }
}

impl Incoming {
    fn take(&mut self, buf: &mut Vec<u8>) -> Result<Option<Submission>, Error> {
        let Some(head) = self.consumer.take(buf)? else {
            return Ok(None);
        };
        let protocol = |what, value| Error::Protocol {
            peer: Side::Front,
            what,
            value,
        };
        if head.flags & !WANTS_ANSWER != 0 {
            return Err(protocol(
                "a submission has unknown flags",
                head.flags.into(),
            ));
        }
        if Some(head.ticket) != self.last.checked_add(1) {
            return Err(protocol("its tickets do not count up by one", head.ticket));
        }
        self.last = head.ticket;
        Ok(Some(Submission {
            ticket: head.ticket,
            wants_answer: head.flags & WANTS_ANSWER != 0,
        }))
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        // Nobody is left to tell; the front also finds out by the liveness byte.
        let _ = self.close(reason::DROPPED);
    }
}

impl fmt::Debug for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Back")
            .field("layout", &self.shared.end.pages.layout())
            .field("last", &self.incoming.last)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

/// The submissions that wait behind the one that was taken last.
#[derive(Debug)]
pub struct Backlog(Visible);

impl Backlog {
    /// How many, up to a limit. It is what the front says: good for an estimate.
    pub fn count(&self, limit: u32) -> u32 {
        self.0.count(limit)
    }
}

/// Completes submissions, from any thread and in any order.
#[derive(Clone)]
pub struct Completer {
    shared: Arc<Shared>,
}

impl Completer {
    /// Answers a submission that wants an answer, once, with the parts one after the other. Waits
    /// while the ring is full, at most as long as the channel's patience.
    ///
    /// # Errors
    /// [`Error::TooLong`] for more than [`Layout::max_completion`] bytes. Else the channel is dead:
    /// [`Error::Stuck`] if the front does not take its answers, or it is gone or broke the protocol.
    pub fn complete(&self, ticket: Ticket, parts: &[&[u8]]) -> Result<(), Error> {
        let mut outgoing = lock(&self.shared.outgoing);
        let need = outgoing.producer.measure(parts)?;
        if let Some(failure) = &outgoing.failure {
            return Err(failure.clone());
        }
        if !matches!(outgoing.producer.has_room(need), Ok(true)) {
            self.shared
                .await_room(&mut outgoing.producer, need)
                .inspect_err(|error| {
                    if let Error::Protocol { .. } = error {
                        // As in `Back::next`.
                        let _ = self.shared.end.close(reason::PROTOCOL);
                    }
                    outgoing.failure = Some(error.clone());
                })?;
        }
        let asleep = outgoing
            .producer
            .push(need, Head { ticket, flags: 0 }, parts);
        drop(outgoing);
        if asleep {
            self.shared.end.bell.notify()?;
        }
        Ok(())
    }

    /// As [`Back::close`].
    ///
    /// # Errors
    /// As for [`Back::close`].
    pub fn close(&self, reason: u32) -> Result<(), Error> {
        self.shared.end.close(reason)
    }
}

impl Shared {
    /// Waits for room in the completion ring. It is full only if the front lets many answers lie, so
    /// this polls with growing pauses: the doorbell belongs to the thread in [`Back::next`].
    fn await_room(&self, producer: &mut Producer, need: u32) -> Result<(), Error> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(20);
        while !producer.has_room(need)? {
            self.end.peer()?;
            let waited = start.elapsed();
            if waited >= self.patience {
                return Err(Error::Stuck {
                    waited_ms: waited.as_millis() as u64,
                });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl fmt::Debug for Completer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completer").finish_non_exhaustive()
    }
}
