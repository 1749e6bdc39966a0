//! The XenStore server of the local platform: XenStore's real wire protocol on sockets, one per domain.
//!
//! A connection's domain is the socket it came through; that alone decides what it may do. One thread serves
//! everybody without ever waiting for anybody. It must never be brought down, blocked or filled by a client.

mod core;
#[cfg(test)]
mod model;
mod outbox;
mod tree;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;

use self::core::{ConnectionId, Core};
use crate::platform::DomId;
use crate::store::wire::{Decoder, HEADER_LEN, PAYLOAD_MAX};

/// Requests taken from one connection before the others have their turn.
const REQUESTS_A_TURN: usize = 8;
/// How long to leave listeners alone after the system refused to accept (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often to look whether a client that holds up others has gone quiet.
const PATIENCE_CHECK: Duration = Duration::from_secs(1);

/// A running XenStore. It stops, and every connection closes, when this is dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: OwnedFd,
}

#[derive(Debug)]
struct State {
    core: Core,
    /// Sockets handed in that the serving thread has not taken over yet.
    incoming: Vec<(DomId, Endpoint)>,
    stop: bool,
}

#[derive(Debug)]
enum Endpoint {
    Stream(UnixStream),
    Listener(UnixListener),
}

impl Server {
    /// Starts an empty store in which only dom0 exists.
    pub fn new() -> io::Result<Server> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                core: Core::new(),
                incoming: Vec::new(),
                stop: false,
            }),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let server = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("xenstored".into())
            .spawn(move || Service::new(server).run())?;
        Ok(Server {
            shared,
            thread: Some(thread),
        })
    }

    /// Speaks XenStore on this socket, on behalf of this domain.
    pub fn serve(&self, domid: DomId, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        self.hand_in(domid, Endpoint::Stream(stream));
        Ok(())
    }

    /// Serves whoever connects to this socket, on behalf of this domain, until the domain is destroyed.
    pub fn listen(&self, domid: DomId, listener: UnixListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.hand_in(domid, Endpoint::Listener(listener));
        Ok(())
    }

    /// A domain exists from now on. Requests of its connections wait until the toolstack introduces it.
    pub fn domain_created(&self, domid: DomId) {
        self.shared.lock().core.domain_created(domid);
        self.shared.wake();
    }

    /// A domain exists no more: its connections close, its nodes, watches and transactions go, and
    /// `@releaseDomain` fires.
    pub fn domain_destroyed(&self, domid: DomId) {
        self.shared.lock().core.domain_destroyed(domid);
        self.shared.wake();
    }

    fn hand_in(&self, domid: DomId, endpoint: Endpoint) {
        self.shared.lock().incoming.push((domid, endpoint));
        self.shared.wake();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // A panic in there was reported by the panic hook; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A full eventfd is one that will wake the thread.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// What the serving thread owns: the sockets, and what was read from them.
struct Service {
    shared: Arc<Shared>,
    listeners: Vec<Listening>,
    clients: BTreeMap<ConnectionId, Client>,
    accept_again: Option<Instant>,
}

struct Listening {
    domid: DomId,
    birth: u64,
    socket: UnixListener,
}

struct Client {
    socket: UnixStream,
    decoder: Decoder,
    /// A whole request may wait in the decoder.
    more: bool,
}

/// What [`poll`] said of one socket.
#[derive(Copy, Clone)]
enum Source {
    Wake,
    Listener(usize),
    Client(ConnectionId),
}

impl Service {
    fn new(shared: Arc<Shared>) -> Service {
        Service {
            shared,
            listeners: Vec::new(),
            clients: BTreeMap::new(),
            accept_again: None,
        }
    }

    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let Some((sources, ready)) = self.wait(&shared) else {
                return;
            };
            let mut state = shared.lock();
            if state.stop {
                return;
            }
            for (source, events) in sources.into_iter().zip(ready) {
                match source {
                    Source::Wake if events.is_empty() => {}
                    Source::Wake => {
                        let _ = rustix::io::read(&shared.wake, &mut [0u8; 8]);
                    }
                    Source::Listener(at) if !events.is_empty() => self.accept(&mut state.core, at),
                    Source::Listener(_) => {}
                    Source::Client(id) => {
                        if self.service(&mut state.core, id, events).is_err() {
                            state.core.disconnect(id);
                        }
                    }
                }
            }
            self.take_over(&mut state);
            self.flush(&mut state.core);
        }
    }

    /// Waits until there is something to do; `None` where the server is to stop.
    fn wait(&mut self, shared: &Shared) -> Option<(Vec<Source>, Vec<PollFlags>)> {
        let mut sources = vec![Source::Wake];
        let mut fds: Vec<(BorrowedFd<'_>, PollFlags)> = vec![(shared.wake.as_fd(), PollFlags::IN)];
        let mut longest: Option<Duration> = None;
        let mut at_most = |limit: Duration| longest = Some(longest.map_or(limit, |l| l.min(limit)));
        {
            let mut state = shared.lock();
            if state.stop {
                return None;
            }
            if !state.incoming.is_empty() {
                at_most(Duration::ZERO);
            }
            match self
                .accept_again
                .map(|t| t.saturating_duration_since(Instant::now()))
            {
                Some(left) if !left.is_zero() => at_most(left),
                _ => {
                    self.accept_again = None;
                    for (at, listening) in self.listeners.iter().enumerate() {
                        sources.push(Source::Listener(at));
                        fds.push((listening.socket.as_fd(), PollFlags::IN));
                    }
                }
            }
            for (id, client) in &self.clients {
                let mut events = PollFlags::empty();
                if state.core.may_read(*id) {
                    events |= PollFlags::IN;
                    if client.more {
                        at_most(Duration::ZERO);
                    }
                }
                match state.core.outbox(*id) {
                    // Gone from the core: the flush drops it.
                    None => at_most(Duration::ZERO),
                    Some(outbox) => {
                        if outbox.front().is_some() {
                            events |= PollFlags::OUT;
                        }
                        outbox.lose_patience();
                        if outbox.holds_up_others() {
                            at_most(PATIENCE_CHECK);
                        }
                    }
                }
                sources.push(Source::Client(*id));
                fds.push((client.socket.as_fd(), events));
            }
        }
        let timeout = longest.map(|l| Timespec {
            tv_sec: l.as_secs() as i64,
            tv_nsec: i64::from(l.subsec_nanos()),
        });
        let mut fds: Vec<PollFd<'_>> = fds
            .into_iter()
            .map(|(fd, events)| PollFd::from_borrowed_fd(fd, events))
            .collect();
        if let Err(e) = poll(&mut fds, timeout.as_ref()) {
            if e != Errno::INTR {
                tracing::error!("waiting for XenStore's clients failed: {e}; trying again");
                std::thread::sleep(ACCEPT_PAUSE);
            }
            return Some((Vec::new(), Vec::new()));
        }
        Some((sources, fds.iter().map(PollFd::revents).collect()))
    }

    fn accept(&mut self, core: &mut Core, at: usize) {
        let Some(listening) = self.listeners.get(at) else {
            return;
        };
        match listening.socket.accept() {
            Ok((socket, _)) => {
                let domid = listening.domid;
                if let Err(e) = socket.set_nonblocking(true) {
                    tracing::warn!(%domid, "a XenStore connection could not be set up: {e}");
                    return;
                }
                self.add(core, domid, socket);
            }
            Err(e)
                if matches!(
                    Errno::from_io_error(&e),
                    Some(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED)
                ) => {}
            Err(e) => {
                tracing::warn!("accepting XenStore connections failed, trying again shortly: {e}");
                self.accept_again = Instant::now().checked_add(ACCEPT_PAUSE);
            }
        }
    }

    fn add(&mut self, core: &mut Core, domid: DomId, socket: UnixStream) {
        match core.connect(domid) {
            Some(id) => {
                self.clients.insert(
                    id,
                    Client {
                        socket,
                        decoder: Decoder::default(),
                        more: false,
                    },
                );
            }
            // Dropping the socket closes it, which tells the client.
            None => {
                tracing::warn!(%domid, "a XenStore connection was refused: too many, or no such domain")
            }
        }
    }

    /// Sockets handed in since, and listeners of domains that are gone.
    fn take_over(&mut self, state: &mut State) {
        for (domid, endpoint) in std::mem::take(&mut state.incoming) {
            match (endpoint, state.core.birth(domid)) {
                (Endpoint::Stream(socket), _) => self.add(&mut state.core, domid, socket),
                (Endpoint::Listener(socket), Some(birth)) => self.listeners.push(Listening {
                    domid,
                    birth,
                    socket,
                }),
                (Endpoint::Listener(_), None) => {
                    tracing::warn!(%domid, "a XenStore socket was refused: no such domain");
                }
            }
        }
        self.listeners
            .retain(|l| state.core.birth(l.domid) == Some(l.birth));
    }

    /// Reads from a client and takes its requests; an error ends the connection.
    fn service(&mut self, core: &mut Core, id: ConnectionId, events: PollFlags) -> Result<(), ()> {
        let Some(client) = self.clients.get_mut(&id) else {
            return Ok(());
        };
        let gone = events.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
        if !core.may_read(id) {
            // Nobody is left to answer, or the domain must wait.
            return if gone { Err(()) } else { Ok(()) };
        }
        let room = client.decoder.pending() < HEADER_LEN + PAYLOAD_MAX;
        if room && (gone || events.contains(PollFlags::IN)) {
            let mut buffer = [0u8; HEADER_LEN + PAYLOAD_MAX];
            match (&client.socket).read(&mut buffer) {
                Ok(0) => return Err(()),
                Ok(n) => client.decoder.feed(buffer.get(..n).unwrap_or_default()),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(_) => return Err(()),
            }
        }
        client.more = true;
        for _ in 0..REQUESTS_A_TURN {
            if !core.may_read(id) {
                break;
            }
            match client.decoder.next_message() {
                Ok(Some(message)) => core.request(id, &message),
                Ok(None) => {
                    client.more = false;
                    break;
                }
                Err(e) => {
                    tracing::warn!("a XenStore client broke the protocol: {e}");
                    return Err(());
                }
            }
        }
        Ok(())
    }

    /// Sends what waits as far as each client takes it, and drops the clients that are gone.
    fn flush(&mut self, core: &mut Core) {
        self.clients.retain(|id, client| {
            let kept = loop {
                let Some(outbox) = core.outbox(*id) else {
                    break false;
                };
                let Some(bytes) = outbox.front() else {
                    break true;
                };
                match rustix::net::send(
                    &client.socket,
                    bytes,
                    SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
                ) {
                    Ok(n) => outbox.sent(n),
                    Err(Errno::AGAIN) => break true,
                    Err(Errno::INTR) => {}
                    Err(_) => break false,
                }
            };
            if !kept {
                core.disconnect(*id);
            }
            kept
        });
    }
}
