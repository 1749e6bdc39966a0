//! The XenStore client: one connection, a thread that reads it, watches and transactions.
//!
//! One request is under way at a time, as in libxenstore: the kernel answers WATCH and UNWATCH on
//! `/dev/xen/xenbus` with request id 0, so answers can only be told apart by their order. The reading thread
//! must never block on a caller: a watch's queue is bounded and coalesced.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::wire::{self, CLIENT_PAYLOAD_MAX, Decoder, Message, Op, Permission};
use super::{Result, StoreError};
use crate::platform::DomId;

/// Where xenstored's socket is looked for, after `$XENSTORED_PATH`.
const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
/// The kernel's device: a guest's way to xenstored, and dom0's where xenstored lives elsewhere.
const DEVICES: [&str; 2] = ["/dev/xen/xenbus", "/proc/xen/xenbus"];
/// Paths a watch queues before it forgets which they were and reports its own path instead.
const WATCH_QUEUE_MAX: usize = 1024;
/// Bytes of names in one folder beyond which a listing is not believed.
const LISTING_MAX: usize = 1 << 20;
/// How often a transaction is tried before [`StoreError::Conflict`].
const TRANSACTION_ATTEMPTS: u32 = 64;

/// How often a transaction is tried again because a request in it made no sense to the server.
const REFUSALS: u32 = 3;

/// A connection to XenStore. Clones share it; it closes when the last clone, watch and transaction is gone.
///
/// The operations on nodes are those of [`Nodes`].
#[derive(Clone, Debug)]
pub struct Store {
    nodes: Nodes,
}

impl Deref for Store {
    type Target = Nodes;

    fn deref(&self) -> &Nodes {
        &self.nodes
    }
}

impl Store {
    /// Connects to this domain's XenStore: the socket `$XENSTORED_PATH`, then xenstored's usual socket, then
    /// `/dev/xen/xenbus`.
    pub fn open() -> Result<Store> {
        let mut tried = Vec::new();
        if let Some(path) = std::env::var_os("XENSTORED_PATH") {
            tried.push(PathBuf::from(path));
        }
        tried.extend(SOCKETS.into_iter().chain(DEVICES).map(PathBuf::from));
        let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
        for path in &tried {
            match open_link(path) {
                Ok(link) => return Store::new(link),
                // A place that does not exist says less than one that refused us.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => last = e,
            }
        }
        let tried = tried
            .iter()
            .map(|p| p.display().to_string())
            .collect::<Vec<_>>()
            .join(", ");
        Err(StoreError::Connect {
            tried,
            source: last,
        })
    }

    /// Connects to XenStore at this socket (or device).
    pub fn connect(path: &Path) -> Result<Store> {
        let link = open_link(path).map_err(|source| StoreError::Connect {
            tried: path.display().to_string(),
            source,
        })?;
        Store::new(link)
    }

    fn new(link: Link) -> Result<Store> {
        let io = |what| move |source| StoreError::Io { what, source };
        let stop =
            eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| io("creating an eventfd")(e.into()))?;
        let reader = Reader {
            file: link
                .file
                .try_clone()
                .map_err(io("duplicating the connection's descriptor"))?,
            stop: stop.try_clone().map_err(io("duplicating an eventfd"))?,
            routes: Arc::new(Routes::default()),
        };
        let routes = Arc::clone(&reader.routes);
        std::thread::Builder::new()
            .name("xenstore".into())
            .spawn(move || reader.run())
            .map_err(io("starting the reading thread"))?;
        let connection = Connection {
            link: Mutex::new(link),
            stop,
            routes,
        };
        Ok(Store {
            nodes: Nodes {
                connection: Arc::new(connection),
                tx_id: 0,
            },
        })
    }

    /// Watches a node and everything below it, or `@introduceDomain` / `@releaseDomain`. It fires once at once.
    pub fn watch(&self, path: &str) -> Result<Watch> {
        let connection = Arc::clone(&self.nodes.connection);
        let (token, queue) = connection.routes.add_watch(path)?;
        match self
            .nodes
            .request(Op::Watch, path, &payload(&[path, &token])?)
        {
            Ok(_) => Ok(Watch {
                connection,
                path: path.to_string(),
                token,
                queue,
            }),
            Err(e) => {
                connection.routes.remove_watch(&token);
                Err(e)
            }
        }
    }

    /// Runs `f` in a transaction and commits it. Where others changed what it read, `f` runs again on what is
    /// there now, so it must not have effects outside the transaction; an error of `f` aborts and is returned, after a
    /// few tries where it is a request that the server found senseless.
    pub fn transaction<T>(&self, mut f: impl FnMut(&Transaction) -> Result<T>) -> Result<T> {
        for attempt in 0..TRANSACTION_ATTEMPTS {
            if attempt > 0 {
                // Grows to 32 ms, and differs between clients so that two of them do not meet for ever.
                let longest = 1u64 << attempt.min(5);
                let skew = u64::from(std::process::id()).wrapping_mul(u64::from(attempt)) % longest;
                std::thread::sleep(Duration::from_micros(500 * (longest + skew)));
            }
            let transaction = Transaction::start(self)?;
            let done = match f(&transaction) {
                Ok(done) => done,
                // In C xenstored a transaction is no snapshot: what another client removes meanwhile can
                // be there at one request and gone at the next. Ended without effect, it may do better.
                Err(error) if attempt < REFUSALS && error.errno() == Some(Errno::INVAL) => continue,
                Err(error) => return Err(error),
            };
            match transaction.end(true) {
                Ok(()) => return Ok(done),
                Err(e) if e.errno() == Some(Errno::AGAIN) => {}
                Err(e) => return Err(e),
            }
        }
        Err(StoreError::Conflict {
            attempts: TRANSACTION_ATTEMPTS,
        })
    }

    /// Tells xenstored that a domain exists and where its ring is (dom0 only): guest frame number and the
    /// domain's event channel.
    pub fn introduce(&self, domid: DomId, mfn: u64, evtchn: u32) -> Result<()> {
        let domid = domid.0.to_string();
        let payload = payload(&[&domid, &mfn.to_string(), &evtchn.to_string()])?;
        self.nodes
            .request(Op::Introduce, &domid, &payload)
            .map(drop)
    }

    /// Tells xenstored that a domain is gone (dom0 only).
    pub fn release(&self, domid: DomId) -> Result<()> {
        let domid = domid.0.to_string();
        self.nodes
            .request(Op::Release, &domid, &payload(&[&domid])?)
            .map(drop)
    }

    /// Whether xenstored knows the domain (dom0 only).
    pub fn is_introduced(&self, domid: DomId) -> Result<bool> {
        let domid = domid.0.to_string();
        let answer = self
            .nodes
            .request(Op::IsDomainIntroduced, &domid, &payload(&[&domid])?)?;
        match answer.as_slice() {
            b"T\0" => Ok(true),
            b"F\0" => Ok(false),
            other => Err(bad_answer(Op::IsDomainIntroduced, &domid, other)),
        }
    }

    /// The domain's folder, `/local/domain/N`.
    pub fn domain_path(&self, domid: DomId) -> Result<String> {
        let domid = domid.0.to_string();
        let answer = self
            .nodes
            .request(Op::GetDomainPath, &domid, &payload(&[&domid])?)?;
        let text = answer.strip_suffix(&[0]).unwrap_or(&answer);
        String::from_utf8(text.to_vec()).map_err(|_| bad_answer(Op::GetDomainPath, &domid, &answer))
    }

    /// Drops every watch and transaction of this connection on the server. Our own [`Watch`]es fall silent:
    /// meant for the start, to be rid of a predecessor's.
    pub fn reset_watches(&self) -> Result<()> {
        self.nodes.request(Op::ResetWatches, "", &[0]).map(drop)
    }
}

/// The nodes of XenStore as a connection or a transaction sees them.
///
/// A path that does not begin with `/` is relative to the connection's own domain, `/local/domain/N`.
#[derive(Clone)]
pub struct Nodes {
    connection: Arc<Connection>,
    tx_id: u32,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes")
            .field("tx_id", &self.tx_id)
            .finish_non_exhaustive()
    }
}

impl Nodes {
    /// The node's value as text; `None` where there is no node.
    pub fn read(&self, path: &str) -> Result<Option<String>> {
        match self.read_bytes(path)? {
            None => Ok(None),
            Some(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(StoreError::NotUtf8 {
                    path: path.to_string(),
                }),
            },
        }
    }

    /// The node's value; `None` where there is no node.
    pub fn read_bytes(&self, path: &str) -> Result<Option<Vec<u8>>> {
        found(self.request(Op::Read, path, &payload(&[path])?))
    }

    /// Writes the node, creating it and the folders above it where they are missing.
    pub fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<()> {
        let mut payload = payload(&[path])?;
        payload.extend_from_slice(value.as_ref());
        self.request(Op::Write, path, &payload).map(drop)
    }

    /// Creates the node with no value; one that exists is left as it is.
    pub fn mkdir(&self, path: &str) -> Result<()> {
        self.request(Op::Mkdir, path, &payload(&[path])?).map(drop)
    }

    /// Removes the node and everything below it; one that does not exist is no error.
    pub fn rm(&self, path: &str) -> Result<()> {
        found(self.request(Op::Rm, path, &payload(&[path])?)).map(drop)
    }

    /// The names of the node's children, in no order to rely on; `None` where there is no node.
    pub fn directory(&self, path: &str) -> Result<Option<Vec<String>>> {
        match self.request(Op::Directory, path, &payload(&[path])?) {
            Err(e) if e.errno() == Some(Errno::TOOBIG) => self.directory_in_parts(path),
            answer => found(answer)?
                .map(|list| names(Op::Directory, path, &list))
                .transpose(),
        }
    }

    /// A listing that does not fit in one message: pieces, each with the node's generation in front, taken again
    /// from the start when the node changed between two of them.
    fn directory_in_parts(&self, path: &str) -> Result<Option<Vec<String>>> {
        let mut list = Vec::new();
        let mut generation = Vec::new();
        let mut restarts = 0;
        loop {
            let payload = payload(&[path, &list.len().to_string()])?;
            let Some(part) = found(self.request(Op::DirectoryPart, path, &payload))? else {
                return Ok(None);
            };
            let bad = || bad_answer(Op::DirectoryPart, path, &part);
            let split = part.iter().position(|b| *b == 0).ok_or_else(bad)?;
            let (now, piece) = (
                part.get(..split).ok_or_else(bad)?,
                part.get(split + 1..).ok_or_else(bad)?,
            );
            if list.is_empty() {
                generation = now.to_vec();
            } else if generation != now {
                restarts += 1;
                if restarts > TRANSACTION_ATTEMPTS {
                    return Err(StoreError::Conflict { attempts: restarts });
                }
                list.clear();
                continue;
            }
            // The last piece ends in an empty name: two NULs, or nothing but one.
            let last = piece == [0] || piece.ends_with(&[0, 0]);
            let piece = if last {
                piece.get(..piece.len() - 1).ok_or_else(bad)?
            } else {
                piece
            };
            if (piece.is_empty() && !last) || list.len() + piece.len() > LISTING_MAX {
                return Err(bad());
            }
            list.extend_from_slice(piece);
            if last {
                return names(Op::DirectoryPart, path, &list).map(Some);
            }
        }
    }

    /// The node's permissions, owner first; `None` where there is no node.
    pub fn permissions(&self, path: &str) -> Result<Option<Vec<Permission>>> {
        let Some(list) = found(self.request(Op::GetPerms, path, &payload(&[path])?))? else {
            return Ok(None);
        };
        let bad = || bad_answer(Op::GetPerms, path, &list);
        names(Op::GetPerms, path, &list)?
            .iter()
            .map(|p| p.parse().map_err(|_| bad()))
            .collect::<Result<_>>()
            .map(Some)
    }

    /// Replaces the node's permissions. The first entry is the owner (whom only dom0 may change) and what every
    /// domain may do that no later entry names.
    pub fn set_permissions(&self, path: &str, permissions: &[Permission]) -> Result<()> {
        let mut payload = payload(&[path])?;
        for permission in permissions {
            payload.extend_from_slice(permission.to_string().as_bytes());
            payload.push(0);
        }
        self.request(Op::SetPerms, path, &payload).map(drop)
    }

    fn request(&self, op: Op, path: &str, payload: &[u8]) -> Result<Vec<u8>> {
        self.connection.request(op, path, self.tx_id, payload)
    }
}

/// A transaction: what it wrote is seen by others all at once, when it commits.
///
/// Its operations are those of [`Nodes`]. Made by [`Store::transaction`].
#[derive(Debug)]
pub struct Transaction {
    nodes: Nodes,
    ended: bool,
}

impl Deref for Transaction {
    type Target = Nodes;

    fn deref(&self) -> &Nodes {
        &self.nodes
    }
}

impl Transaction {
    fn start(store: &Store) -> Result<Transaction> {
        let answer = store.nodes.request(Op::TransactionStart, "", &[0])?;
        let id = std::str::from_utf8(answer.strip_suffix(&[0]).unwrap_or(&answer))
            .ok()
            .and_then(|t| t.parse().ok());
        match id {
            Some(tx_id) if tx_id != 0 => {
                let connection = Arc::clone(&store.nodes.connection);
                Ok(Transaction {
                    nodes: Nodes { connection, tx_id },
                    ended: false,
                })
            }
            _ => Err(bad_answer(Op::TransactionStart, "", &answer)),
        }
    }

    fn end(mut self, commit: bool) -> Result<()> {
        self.ended = true;
        self.nodes
            .request(Op::TransactionEnd, "", if commit { b"T\0" } else { b"F\0" })
            .map(drop)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.ended {
            // Nothing to do about a failure: the server drops it with the connection at the latest.
            let _ = self.nodes.request(Op::TransactionEnd, "", b"F\0");
        }
    }
}

/// Something changed at or below a watched node; what, is to be read from the store.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct WatchEvent {
    /// What changed: in the watch's own terms, so relative where the watch's path was.
    pub path: String,
}

/// A watch. Dropping it ends it.
///
/// Several changes of one path may arrive as one event, and where very many paths changed, one event names the
/// watched node itself: an event means "look again at and below this path".
#[derive(Debug)]
pub struct Watch {
    connection: Arc<Connection>,
    path: String,
    token: String,
    queue: Arc<WatchQueue>,
}

impl Watch {
    /// The next event; `None` when none came before the timeout (`None`: wait for ever). It fails when the
    /// connection has ended and every event was taken.
    pub fn next(&self, timeout: Option<Duration>) -> Result<Option<WatchEvent>> {
        self.queue.next(timeout)
    }

    /// Readable while an event waits, and when the connection has ended.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.queue.ready.as_fd()
    }

    /// The path that is watched, as it was given.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Ok(payload) = payload(&[&self.path, &self.token]) {
            // Nothing to do about a failure: the server drops it with the connection at the latest.
            let _ = self
                .connection
                .request(Op::Unwatch, &self.path, 0, &payload);
        }
        self.connection.routes.remove_watch(&self.token);
    }
}

/// What a watch has to tell and nobody has asked for yet.
#[derive(Debug)]
struct WatchQueue {
    watched: String,
    state: Mutex<WatchState>,
    changed: Condvar,
    ready: OwnedFd,
}

#[derive(Default, Debug)]
struct WatchState {
    order: VecDeque<String>,
    queued: HashSet<String>,
    ended: Option<String>,
}

impl WatchQueue {
    fn push(&self, path: String) {
        let mut state = lock(&self.state);
        let was_empty = state.order.is_empty();
        if state.queued.contains(&path) {
            return;
        }
        if state.order.len() >= WATCH_QUEUE_MAX {
            // Too many to keep apart: from here on "look at everything below".
            state.order.clear();
            state.queued.clear();
            state.queued.insert(self.watched.clone());
            state.order.push_back(self.watched.clone());
        } else {
            state.queued.insert(path.clone());
            state.order.push_back(path);
        }
        if was_empty {
            self.signal();
        }
        drop(state);
        self.changed.notify_all();
    }

    fn end(&self, why: &str) {
        let mut state = lock(&self.state);
        state.ended = Some(why.to_string());
        // Stays readable: the end is never taken out of the queue.
        self.signal();
        drop(state);
        self.changed.notify_all();
    }

    fn signal(&self) {
        // An eventfd takes 2^64-2 ones before it refuses.
        let _ = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
    }

    fn next(&self, timeout: Option<Duration>) -> Result<Option<WatchEvent>> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut state = lock(&self.state);
        loop {
            if let Some(path) = state.order.pop_front() {
                state.queued.remove(&path);
                if state.order.is_empty() && state.ended.is_none() {
                    let _ = rustix::io::read(&self.ready, &mut [0u8; 8]);
                }
                return Ok(Some(WatchEvent { path }));
            }
            if let Some(why) = &state.ended {
                return Err(StoreError::Closed(why.clone()));
            }
            state = match deadline {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    self.changed
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }
}

/// The two ways to xenstored.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum LinkKind {
    /// A stream: a failed write ends it.
    Socket,
    /// The kernel's xenbus device: one write is one message, and a failed write is the answer to it.
    Device,
}

#[derive(Debug)]
struct Link {
    kind: LinkKind,
    file: File,
    last_id: u32,
}

fn open_link(path: &Path) -> std::io::Result<Link> {
    use std::os::unix::fs::FileTypeExt;

    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_socket() {
        let socket = UnixStream::connect(path)?;
        Ok(Link {
            kind: LinkKind::Socket,
            file: File::from(OwnedFd::from(socket)),
            last_id: 0,
        })
    } else {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Link {
            kind: LinkKind::Device,
            file,
            last_id: 0,
        })
    }
}

#[derive(Debug)]
struct Connection {
    /// Held for the whole of a request: what is under way is the holder's.
    link: Mutex<Link>,
    stop: OwnedFd,
    routes: Arc<Routes>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

impl Connection {
    fn request(&self, op: Op, path: &str, tx_id: u32, payload: &[u8]) -> Result<Vec<u8>> {
        if payload.len() > CLIENT_PAYLOAD_MAX {
            let (path, len) = (path.to_string(), payload.len());
            return Err(StoreError::TooLong {
                op,
                path,
                len,
                max: CLIENT_PAYLOAD_MAX,
            });
        }
        let mut link = lock(&self.link);
        link.last_id = link.last_id.wrapping_add(1).max(1);
        let req_id = link.last_id;
        self.routes.expect_answer()?;
        let message = wire::encode(op, req_id, tx_id, payload);
        if let Err(e) = send(&link, &message) {
            match (link.kind, Errno::from_io_error(&e)) {
                (LinkKind::Device, Some(errno)) => {
                    self.routes.forget_answer();
                    return Err(StoreError::Refused {
                        op,
                        path: path.to_string(),
                        errno,
                    });
                }
                _ => {
                    self.routes.end(&format!("sending failed: {e}"));
                    return Err(StoreError::Closed(e.to_string()));
                }
            }
        }
        let answer = self.routes.wait_for_answer()?;
        drop(link);
        let kind = Op::from_u32(answer.header.kind);
        // The kernel's own answers on /dev/xen/xenbus carry id 0.
        let ours = answer.header.req_id == req_id || answer.header.req_id == 0;
        match kind {
            Some(Op::Error) if ours => Err(StoreError::Refused {
                op,
                path: path.to_string(),
                errno: wire::error_from_name(&answer.payload),
            }),
            Some(kind) if ours && kind == op => Ok(answer.payload),
            _ => {
                // Answers are matched by order alone: once out of step, nothing on this connection is to be believed.
                let what = format!(
                    "message type {} with id {}",
                    answer.header.kind, answer.header.req_id
                );
                self.routes.end(&format!("out of step: {what}"));
                Err(StoreError::BadAnswer {
                    op,
                    path: path.to_string(),
                    what,
                })
            }
        }
    }
}

fn send(link: &Link, message: &[u8]) -> std::io::Result<()> {
    match link.kind {
        // One message is one write to the kernel.
        LinkKind::Device => loop {
            match (&link.file).write(message) {
                Ok(n) if n == message.len() => return Ok(()),
                Ok(_) => return Err(std::io::ErrorKind::WriteZero.into()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        },
        LinkKind::Socket => {
            let mut rest = message;
            while !rest.is_empty() {
                // MSG_NOSIGNAL: a server that went away must not kill the process with SIGPIPE.
                match rustix::net::send(&link.file, rest, rustix::net::SendFlags::NOSIGNAL) {
                    Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(())
        }
    }
}

/// What the reading thread and the callers share.
#[derive(Default, Debug)]
struct Routes {
    state: Mutex<RoutesState>,
    answered: Condvar,
}

#[derive(Default, Debug)]
struct RoutesState {
    waiting: bool,
    answer: Option<Message>,
    watches: HashMap<String, Arc<WatchQueue>>,
    last_token: u64,
    ended: Option<String>,
}

impl Routes {
    fn expect_answer(&self) -> Result<()> {
        let mut state = lock(&self.state);
        if let Some(why) = &state.ended {
            return Err(StoreError::Closed(why.clone()));
        }
        state.waiting = true;
        state.answer = None;
        Ok(())
    }

    fn forget_answer(&self) {
        lock(&self.state).waiting = false;
    }

    fn wait_for_answer(&self) -> Result<Message> {
        let mut state = lock(&self.state);
        loop {
            if let Some(answer) = state.answer.take() {
                return Ok(answer);
            }
            if let Some(why) = &state.ended {
                return Err(StoreError::Closed(why.clone()));
            }
            state = self
                .answered
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add_watch(&self, path: &str) -> Result<(String, Arc<WatchQueue>)> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let ready = eventfd(0, flags).map_err(|e| StoreError::Io {
            what: "creating a watch's eventfd",
            source: e.into(),
        })?;
        let (state, changed) = (Mutex::default(), Condvar::new());
        let queue = Arc::new(WatchQueue {
            watched: path.to_string(),
            state,
            changed,
            ready,
        });
        let mut state = lock(&self.state);
        state.last_token += 1;
        let token = state.last_token.to_string();
        state.watches.insert(token.clone(), Arc::clone(&queue));
        if let Some(why) = &state.ended {
            queue.end(why);
        }
        Ok((token, queue))
    }

    fn remove_watch(&self, token: &str) {
        lock(&self.state).watches.remove(token);
    }

    /// Takes one message from the server; an error ends the connection.
    fn route(&self, message: Message) -> Result<(), String> {
        if message.header.kind != Op::WatchEvent as u32 {
            let mut state = lock(&self.state);
            if !state.waiting {
                return Err(format!(
                    "an answer of type {} that nobody asked for",
                    message.header.kind
                ));
            }
            state.waiting = false;
            state.answer = Some(message);
            self.answered.notify_all();
            return Ok(());
        }
        let mut parts = wire::strings(&message.payload);
        let (Some(path), Some(token)) = (parts.next(), parts.next()) else {
            return Err("a watch event without path and token".into());
        };
        // Valid paths are ASCII: another can only come from a broken server.
        let (Ok(path), Ok(token)) = (std::str::from_utf8(path), std::str::from_utf8(token)) else {
            return Err("a watch event that is not text".into());
        };
        // An event for a watch that was just dropped is no error.
        let queue = lock(&self.state).watches.get(token).cloned();
        if let Some(queue) = queue {
            queue.push(path.to_string());
        }
        Ok(())
    }

    /// The connection is of no more use: everybody who waits is told.
    fn end(&self, why: &str) {
        let mut state = lock(&self.state);
        if state.ended.is_none() {
            state.ended = Some(why.to_string());
            for queue in state.watches.values() {
                queue.end(why);
            }
        }
        drop(state);
        self.answered.notify_all();
    }
}

/// The reading thread.
struct Reader {
    file: File,
    stop: OwnedFd,
    routes: Arc<Routes>,
}

impl Reader {
    fn run(self) {
        let why = match self.read_all() {
            Ok(()) => "the server closed it".to_string(),
            Err(why) => why,
        };
        self.routes.end(&why);
    }

    /// Until the server closes the connection or we do.
    fn read_all(&self) -> Result<(), String> {
        let mut decoder = Decoder::default();
        let mut buffer = [0u8; 4096];
        loop {
            let mut fds = [
                PollFd::new(&self.file, PollFlags::IN),
                PollFd::new(&self.stop, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(format!("waiting for the server failed: {e}")),
            }
            if !fds[1].revents().is_empty() {
                return Err("it was closed here".into());
            }
            let read = match (&self.file).read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::Interrupted | std::io::ErrorKind::WouldBlock
                    ) =>
                {
                    continue;
                }
                Err(e) => return Err(format!("reading from the server failed: {e}")),
            };
            decoder.feed(buffer.get(..read).unwrap_or_default());
            while let Some(message) = decoder.next_message().map_err(|e| e.to_string())? {
                self.routes.route(message)?;
            }
        }
    }
}

/// A poisoned lock protects data that is whole: every change below one is finished before anything can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The strings, each with its NUL.
fn payload(strings: &[&str]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for text in strings {
        if text.is_empty() || text.contains('\0') {
            return Err(StoreError::Unsendable(text.to_string()));
        }
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    Ok(bytes)
}

/// "No such node" as a value.
fn found(answer: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match answer {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.errno() == Some(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

fn names(op: Op, path: &str, list: &[u8]) -> Result<Vec<String>> {
    wire::strings(list)
        .map(|name| String::from_utf8(name.to_vec()).map_err(|_| bad_answer(op, path, list)))
        .collect()
}

fn bad_answer(op: Op, path: &str, answer: &[u8]) -> StoreError {
    let shown = answer.get(..answer.len().min(64)).unwrap_or_default();
    StoreError::BadAnswer {
        op,
        path: path.to_string(),
        what: format!("{:?}", shown.escape_ascii().to_string()),
    }
}
