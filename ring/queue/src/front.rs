//! The front of a channel: many threads of one program submit, wait for answers and stage bulk data.
//! One of the waiting threads leads: it polls, sleeps on the doorbell and hands out what arrives; the
//! others wait to be poked by it. No thread may hold the inbox while it polls or sleeps.
//!
//! Locks are taken in this order: submitter, inbox, arena.

use std::{collections::BTreeMap, fmt, ptr::NonNull, sync::Arc, time::Duration};

use crate::{
    Doorbell, Error, Layout, SharedMemory, Side, SpinPolicy, Staged, Ticket,
    arena::Allocator,
    end::{End, LOOK, reason},
    layout::{MAGIC, RingId, VERSION, WANTS_ANSWER, Word},
    memory::{self, Pages},
    ring::{self, Consumer, Head, Producer},
    sync::{AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, lock, wait, yield_now},
};

/// A sleep while another thread of this process may free arena at any moment, of which no doorbell
/// tells.
const ARENA_NAP: Duration = Duration::from_millis(1);

/// What a thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// The answer to this ticket.
    Answer(Ticket),
    /// Room in the submission ring.
    Room,
    /// Room in the arena.
    Arena,
}

impl Want {
    /// Whether it may come when the back retires something.
    fn is_progress(self) -> bool {
        !matches!(self, Want::Answer(_))
    }
}

/// A thread that waits while another one leads.
struct Follower {
    want: Want,
    waiter: Arc<Waiter>,
}

struct Waiter {
    /// There is something to look at.
    poked: AtomicBool,
    /// It no longer polls `poked`. Read and written under the inbox's lock.
    asleep: AtomicBool,
    wake: Condvar,
}

impl Waiter {
    /// Makes the thread look. The caller holds the inbox.
    fn poke(&self) {
        self.poked.store(true, Ordering::Release);
        if self.asleep.load(Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }
}

struct Submitter {
    producer: Producer,
    last: Ticket,
}

struct Inbox {
    /// Tickets whose answer is outstanding, or here and not taken yet.
    answers: BTreeMap<Ticket, Option<Vec<u8>>>,
    /// The completion ring; away while a thread leads.
    drainer: Option<Consumer>,
    followers: Vec<Follower>,
    failure: Option<Error>,
}

impl Inbox {
    fn poke_all(&self, which: impl Fn(Want) -> bool) {
        for follower in &self.followers {
            if which(follower.want) {
                follower.waiter.poke();
            }
        }
    }

    /// Called by a thread that stops waiting: if nobody leads, somebody else must. Those who wait for
    /// progress all get a look, as there may have been some that no doorbell told of.
    fn hand_over(&self) {
        let Some(first) = self.followers.first() else {
            return;
        };
        if self.drainer.is_some() {
            first.waiter.poke();
            self.poke_all(Want::is_progress);
        }
    }
}

/// The front of a channel. Shared by all threads of the program.
pub struct Front {
    end: End,
    spin: SpinPolicy,
    arena_base: memory::Arena,
    submitter: Mutex<Submitter>,
    /// The last ticket given out.
    submitted: AtomicU64,
    inbox: Mutex<Inbox>,
    /// `Inbox::failure` is set.
    dead: AtomicBool,
    arena: Mutex<Allocator>,
}

impl Front {
    /// Sets up a fresh channel in `memory`, before the back attaches to it, and is its front.
    ///
    /// # Errors
    /// [`Error::Layout`] or [`Error::Mismatch`] if the memory cannot hold the layout.
    pub fn new(
        memory: SharedMemory,
        layout: Layout,
        bell: Arc<dyn Doorbell>,
        spin: SpinPolicy,
    ) -> Result<Self, Error> {
        let pages = Pages::new(memory, layout)?;
        for (word, value) in [
            (Word::Magic, MAGIC),
            (Word::Version, VERSION),
            (Word::SqBytes, layout.sq_bytes),
            (Word::CqBytes, layout.cq_bytes),
            (Word::ArenaBytes, layout.arena_bytes),
            (Word::SqProd, 0),
            (Word::CqCons, 0),
            (Word::CqProdEvent, 1),
            (Word::SqConsEvent, 1),
            (Word::CqProd, 0),
            (Word::SqCons, 0),
            (Word::SqProdEvent, 1),
            (Word::FrontClosed, 0),
            (Word::FrontReason, 0),
            (Word::BackClosed, 0),
            (Word::BackReason, 0),
        ] {
            pages.word(word).store(value, Ordering::Relaxed);
        }
        pages.retired().store(0, Ordering::Relaxed);
        // Both count as alive from here on: the back's death is seen even if it comes before the
        // front's first look. Whether the back comes at all is told out of band.
        pages.live(Side::Front).store(1, Ordering::Relaxed);
        pages.live(Side::Back).store(1, Ordering::Release);
        Ok(Self::of(pages, layout, bell, spin))
    }

    /// The front of a channel that another process has set up and nobody has used: a daemon sets it
    /// up for the back to attach to, a program joins. Writes nothing, so that what the back has said
    /// in between, above all that it is gone, is not lost.
    ///
    /// # Errors
    /// [`Error::Layout`] or [`Error::Mismatch`] if it is no such channel.
    pub fn join(
        memory: SharedMemory,
        layout: Layout,
        bell: Arc<dyn Doorbell>,
        spin: SpinPolicy,
    ) -> Result<Self, Error> {
        let pages = Pages::new(memory, layout)?;
        pages.check_header()?;
        Ok(Self::of(pages, layout, bell, spin))
    }

    fn of(pages: Pages, layout: Layout, bell: Arc<dyn Doorbell>, spin: SpinPolicy) -> Self {
        Self {
            spin,
            arena_base: pages.arena(),
            submitter: Mutex::new(Submitter {
                producer: Producer::new(pages.clone(), RingId::Submission),
                last: 0,
            }),
            submitted: AtomicU64::new(0),
            inbox: Mutex::new(Inbox {
                answers: BTreeMap::new(),
                drainer: Some(Consumer::new(pages.clone(), RingId::Completion)),
                followers: Vec::new(),
                failure: None,
            }),
            dead: AtomicBool::new(false),
            arena: Mutex::new(Allocator::new(layout.arena_bytes)),
            end: End::new(pages, bell, Side::Front),
        }
    }

    /// The sizes of the channel.
    pub fn layout(&self) -> Layout {
        self.end.pages.layout()
    }

    /// Submits one record, whose payload is the parts one after the other, and returns its ticket.
    /// Submissions are executed in the order in which their tickets count. Waits while the ring is
    /// full. With `wants_answer`, [`Front::wait`] must be called with the ticket, and soon: answers
    /// that nobody takes fill the completion ring, and the back closes the channel.
    ///
    /// # Errors
    /// [`Error::TooLong`] for more than [`Layout::max_submission`] bytes; else the channel is dead.
    pub fn submit(&self, parts: &[&[u8]], wants_answer: bool) -> Result<Ticket, Error> {
        let mut submitter = lock(&self.submitter);
        let need = submitter.producer.measure(parts)?;
        self.check()?;
        if !matches!(submitter.producer.has_room(need), Ok(true)) {
            self.attend(Want::Room, |_| {
                Ok(submitter.producer.has_room(need)?.then_some(()))
            })?;
        }
        let ticket = submitter.last + 1;
        submitter.last = ticket;
        if wants_answer {
            lock(&self.inbox).answers.insert(ticket, None);
        }
        // Before the back can see it, lest its `retired` look too large.
        self.submitted.store(ticket, Ordering::Release);
        let flags = if wants_answer { WANTS_ANSWER } else { 0 };
        let asleep = submitter.producer.push(need, Head { ticket, flags }, parts);
        drop(submitter);
        if asleep {
            self.notify()?;
        }
        Ok(ticket)
    }

    /// Waits for the answer to a submission and returns the completion's payload.
    ///
    /// # Errors
    /// [`Error::UnknownTicket`] if none is outstanding; else the channel died before it came.
    pub fn wait(&self, ticket: Ticket) -> Result<Vec<u8>, Error> {
        self.attend(Want::Answer(ticket), |inbox| inbox.answer(ticket))
    }

    /// The answer to a submission if it is here. After `None` the doorbell rings at the next
    /// completion, unless another thread is waiting already: so a caller may sleep on the doorbell's
    /// descriptor itself.
    ///
    /// # Errors
    /// As for [`Front::wait`].
    pub fn try_wait(&self, ticket: Ticket) -> Result<Option<Vec<u8>>, Error> {
        let mut inbox = lock(&self.inbox);
        if let Some(answer) = inbox.answer(ticket)? {
            return Ok(Some(answer));
        }
        if let Some(drainer) = inbox.drainer.take() {
            drainer.arm();
            self.bring_in(&mut inbox, drainer, Ok(()));
        }
        match (inbox.answer(ticket)?, &inbox.failure) {
            (None, Some(failure)) => Err(failure.clone()),
            (answer, _) => Ok(answer),
        }
    }

    /// The last ticket that the back has executed, with all before it; 0 before the first.
    ///
    /// # Errors
    /// [`Error::Protocol`] if the back claims one that was never submitted.
    pub fn retired(&self) -> Result<Ticket, Error> {
        self.read_retired()
            .inspect_err(|error| self.fail(&mut lock(&self.inbox), error.clone()))
    }

    /// Takes `len` bytes of the arena, waiting until they are free. A thread that still holds another
    /// piece must use [`Front::try_stage`]: two such threads would wait for each other.
    ///
    /// # Errors
    /// [`Error::TooLong`] for more than [`Layout::max_stage`] bytes, [`Error::Empty`] for none; else
    /// the channel is dead.
    pub fn stage(&self, len: usize) -> Result<Staged<'_>, Error> {
        if let Some(staged) = self.try_stage(len)? {
            return Ok(staged);
        }
        lock(&self.arena).waiting += 1;
        let staged = self.attend(Want::Arena, |_| self.allocate(len));
        lock(&self.arena).waiting -= 1;
        staged
    }

    /// Takes `len` bytes of the arena if they are free now.
    ///
    /// # Errors
    /// As for [`Front::stage`].
    pub fn try_stage(&self, len: usize) -> Result<Option<Staged<'_>>, Error> {
        self.check()?;
        self.allocate(len).inspect_err(|error| {
            if let Error::Protocol { .. } = error {
                self.fail(&mut lock(&self.inbox), error.clone());
            }
        })
    }

    /// Why the channel is dead, or nothing while it lives: closed by the back, the back gone, or the
    /// protocol broken.
    ///
    /// # Errors
    /// That reason.
    pub fn check(&self) -> Result<(), Error> {
        if self.dead.load(Ordering::Relaxed)
            && let Some(failure) = &lock(&self.inbox).failure
        {
            return Err(failure.clone());
        }
        self.end.peer()
    }

    /// Ends the channel: the back learns the reason, and every thread that waits here fails at its
    /// next look, a fifth of a second at most. The first reason given stays.
    ///
    /// # Errors
    /// [`Error::Doorbell`] if the back could not be told at once; it finds out by itself.
    pub fn close(&self, reason: u32) -> Result<(), Error> {
        let closed = self.end.close(reason);
        let peer = Side::Front;
        self.fail(&mut lock(&self.inbox), Error::Closed { peer, reason });
        closed
    }

    /// Waits until `ready` has something, leading or following, and looks for it at least after every
    /// event that could bring it.
    fn attend<T>(
        &self,
        want: Want,
        mut ready: impl FnMut(&mut Inbox) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let mut inbox = lock(&self.inbox);
        // Whether the back was asked to ring, and `ready` and the rings looked at since then: only
        // then may this thread sleep.
        let mut armed = false;
        let outcome = loop {
            // Before `ready` looks, so that what comes after its look is noticed.
            let progress = want.is_progress().then(|| self.progress());
            match ready(&mut inbox) {
                Ok(Some(value)) => break Ok(value),
                Ok(None) => {}
                Err(error) => {
                    if let Error::Protocol { .. } = error {
                        self.fail(&mut inbox, error.clone());
                    }
                    break Err(error);
                }
            }
            if let Some(failure) = &inbox.failure {
                break Err(failure.clone());
            }
            inbox = match inbox.drainer.take() {
                Some(drainer) => self.lead(inbox, drainer, want, progress, &mut armed),
                None => self.follow(inbox, want, &mut armed),
            };
        };
        inbox.hand_over();
        outcome
    }

    /// One step of the leader: poll and arm, or, if armed, sleep; then bring in what came.
    fn lead<'a>(
        &'a self,
        inbox: MutexGuard<'a, Inbox>,
        drainer: Consumer,
        want: Want,
        progress: Option<u32>,
        armed: &mut bool,
    ) -> MutexGuard<'a, Inbox> {
        drop(inbox);
        if *armed {
            *armed = false;
            let rung = self.end.bell.wait(Some(self.nap(want)));
            let mut inbox = lock(&self.inbox);
            if let Ok(true) = rung {
                inbox.poke_all(Want::is_progress);
            }
            self.bring_in(&mut inbox, drainer, rung.map(|_| ()).map_err(Error::from));
            return inbox;
        }
        let stirred = self.spin.until(
            || drainer.stirs() || progress.is_some_and(|seen| self.progress() != seen),
            || self.end.peer().is_err(),
            None,
        );
        let mut inbox = lock(&self.inbox);
        if !stirred {
            drainer.arm();
            *armed = !want.is_progress() || ring::arm_progress(&self.end.pages);
        }
        if self.bring_in(&mut inbox, drainer, Ok(())) {
            // Taking a record passed the armed event.
            *armed = false;
        }
        inbox
    }

    /// Waits to be poked by the leader or by whoever frees what is wanted.
    fn follow<'a>(
        &'a self,
        mut inbox: MutexGuard<'a, Inbox>,
        want: Want,
        armed: &mut bool,
    ) -> MutexGuard<'a, Inbox> {
        if want.is_progress() && !*armed {
            *armed = ring::arm_progress(&self.end.pages);
            if !*armed {
                drop(inbox);
                yield_now();
                inbox = lock(&self.inbox);
            }
            return inbox;
        }
        *armed = false;
        let waiter = Arc::new(Waiter {
            poked: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            wake: Condvar::new(),
        });
        inbox.followers.push(Follower {
            want,
            waiter: Arc::clone(&waiter),
        });
        drop(inbox);
        let poked = || waiter.poked.load(Ordering::Acquire);
        self.spin.until(poked, || false, None);
        let mut inbox = lock(&self.inbox);
        waiter.asleep.store(true, Ordering::Relaxed);
        while !poked() {
            inbox = wait(&waiter.wake, inbox);
        }
        inbox
            .followers
            .retain(|follower| !Arc::ptr_eq(&follower.waiter, &waiter));
        inbox
    }

    /// Takes all completions into the inbox, puts the ring back for the next leader, and records how
    /// the channel died if it did. Returns whether any came.
    fn bring_in(
        &self,
        inbox: &mut Inbox,
        mut drainer: Consumer,
        before: Result<(), Error>,
    ) -> bool {
        // Looked at before the ring: what the back answered before it closed still counts.
        let peer = self.end.peer();
        let drained = inbox.drain(&mut drainer);
        inbox.drainer = Some(drainer);
        if let Err(error) = before.and(drained.clone().map(|_| ())).and(peer) {
            self.fail(inbox, error);
        }
        matches!(drained, Ok(true))
    }

    /// Ends the channel from this side: the first error stays, and all who wait learn it.
    fn fail(&self, inbox: &mut Inbox, error: Error) {
        if inbox.failure.is_some() {
            return;
        }
        if let Error::Protocol { .. } = error {
            // The error that is being reported matters more than one in telling the peer of it.
            let _ = self.end.close(reason::PROTOCOL);
        }
        inbox.failure = Some(error);
        self.dead.store(true, Ordering::Relaxed);
        inbox.poke_all(|_| true);
    }

    fn notify(&self) -> Result<(), Error> {
        self.end.bell.notify().map_err(|error| {
            let error = Error::from(error);
            self.fail(&mut lock(&self.inbox), error.clone());
            error
        })
    }

    fn nap(&self, want: Want) -> Duration {
        if want == Want::Arena && lock(&self.arena).held > 0 {
            ARENA_NAP
        } else {
            LOOK
        }
    }

    /// The back's progress in the submission ring: only compared with itself.
    fn progress(&self) -> u32 {
        self.end.pages.word(Word::SqCons).load(Ordering::Acquire)
    }

    fn read_retired(&self) -> Result<Ticket, Error> {
        let retired = self.end.pages.retired().load(Ordering::Acquire);
        if retired > self.submitted.load(Ordering::Acquire) {
            return Err(Error::Protocol {
                peer: Side::Back,
                what: "it retired a ticket that was never submitted",
                value: retired,
            });
        }
        Ok(retired)
    }

    fn allocate(&self, len: usize) -> Result<Option<Staged<'_>>, Error> {
        let max = self.layout().max_stage();
        if len == 0 {
            return Err(Error::Empty);
        }
        let Some(bytes) = u32::try_from(len).ok().filter(|_| len <= max) else {
            return Err(Error::TooLong { len, max });
        };
        let retired = self.read_retired()?;
        let offset = lock(&self.arena).take(bytes, retired);
        Ok(offset.map(|offset| Staged::new(self, offset, bytes)))
    }

    /// Changes the arena's books, and lets those look who wait for room in it.
    pub(crate) fn with_arena(&self, change: impl FnOnce(&mut Allocator)) {
        let waiting = {
            let mut arena = lock(&self.arena);
            change(&mut arena);
            arena.waiting > 0
        };
        if waiting {
            lock(&self.inbox).poke_all(|want| want == Want::Arena);
        }
    }

    pub(crate) fn arena_base(&self) -> NonNull<u8> {
        self.arena_base.as_ptr()
    }
}

impl Inbox {
    /// Takes the answer to a ticket out, if it is here.
    fn answer(&mut self, ticket: Ticket) -> Result<Option<Vec<u8>>, Error> {
        match self.answers.get_mut(&ticket) {
            None => Err(Error::UnknownTicket(ticket)),
            Some(slot) => Ok(slot.take().inspect(|_| {
                self.answers.remove(&ticket);
            })),
        }
    }

    /// Takes all completions out of the ring. Returns whether there were any.
    fn drain(&mut self, drainer: &mut Consumer) -> Result<bool, Error> {
        let mut any = false;
        loop {
            let mut payload = Vec::new();
            let Some(head) = drainer.take(&mut payload)? else {
                break;
            };
            any = true;
            if head.flags != 0 {
                return Err(Error::Protocol {
                    peer: Side::Back,
                    what: "a completion has flags",
                    value: head.flags.into(),
                });
            }
            match self.answers.get_mut(&head.ticket) {
                Some(slot @ None) => *slot = Some(payload),
                _ => {
                    return Err(Error::Protocol {
                        peer: Side::Back,
                        what: "it answered a ticket that has no answer outstanding",
                        value: head.ticket,
                    });
                }
            }
            self.poke_all(|want| want == Want::Answer(head.ticket));
        }
        if any {
            drainer.release();
        }
        Ok(any)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // Nobody is left to tell; the back also finds out by the liveness byte.
        let _ = self.end.close(reason::DROPPED);
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front")
            .field("layout", &self.layout())
            .finish_non_exhaustive()
    }
}
