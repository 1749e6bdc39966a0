//! A machine without a hypervisor: `xen-local` serves what Xen would, and [`Local`] is a process's
//! way to it.
//!
//! A domain is known by the folder whose sockets its processes connect to. Memory is passed as
//! memfds and event channels as eventfds, so that the server is on no fast path. A process here can
//! do nothing that the device platform would refuse; within one user id it is no security boundary.

pub mod hypervisor;
pub mod message;
pub mod schedule;
pub mod server;
pub mod toolstack;
pub mod xenstored;

use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect,
    socket_with,
};
use serde::{Deserialize, Serialize};

use crate::PAGE_SIZE;
use crate::event::{EventChannel, Port};
use crate::grant::{Access, Extent, GrantMap, Granted, Gref, Hold};
use crate::platform::{DomId, Error, FIRST_RESERVED_DOMID, Platform, Result};
use crate::store::Store;

/// The name of a domain's socket for grants and event channels, in its folder.
pub const HYPERVISOR_SOCKET: &str = "hypervisor.sock";

/// The name of a domain's XenStore socket, in its folder.
pub const XENSTORE_SOCKET: &str = "xenstored.sock";

/// Where a domain's folder is, within the folder that `xen-local` serves.
pub fn domain_folder(dir: &Path, domid: DomId) -> PathBuf {
    dir.join(format!("dom{domid}"))
}

/// What the server keeps for a client until the last copy of the descriptor it gave for it is
/// closed: a run of granted pages, a batch of mapped ones, or a port.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ObjectId(pub u64);

/// Consecutive grant references.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct GrefRun {
    pub first: u32,
    pub count: u32,
}

/// A run of pages in one of the descriptors beside a reply.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct MappedRun {
    /// Which descriptor, counted from the first that is not the object's own.
    pub memory: usize,
    pub first_page: u32,
    pub pages: u32,
}

/// What a client asks of the server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    Domid,
    Grant {
        peer: DomId,
        pages: u32,
        access: Access,
    },
    Map {
        peer: DomId,
        grefs: Vec<GrefRun>,
        access: Access,
    },
    UnmapNotify {
        object: ObjectId,
        offset: u64,
        port: Option<Port>,
    },
    BindUnbound {
        remote: DomId,
    },
    BindInterdomain {
        remote: DomId,
        port: Port,
    },
    // What only dom0 may ask.
    CreateDomain,
    DestroyDomain {
        domid: DomId,
    },
    Domains,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Domid => f.write_str("asking for the domid"),
            Request::Grant { peer, pages, .. } => {
                write!(f, "granting {pages} pages to domain {peer}")
            }
            Request::Map {
                peer,
                grefs,
                access,
            } => write!(
                f,
                "mapping {} pages of domain {peer} for {access}",
                grefs.iter().map(|run| u64::from(run.count)).sum::<u64>()
            ),
            Request::UnmapNotify { offset, .. } => {
                write!(f, "setting an unmap notification at byte {offset}")
            }
            Request::BindUnbound { remote } => {
                write!(f, "making an event channel for domain {remote}")
            }
            Request::BindInterdomain { remote, port } => {
                write!(f, "binding event channel port {port} of domain {remote}")
            }
            Request::CreateDomain => f.write_str("making a domain"),
            Request::DestroyDomain { domid } => write!(f, "destroying domain {domid}"),
            Request::Domains => f.write_str("listing domains"),
        }
    }
}

/// What the server answers. Of the descriptors beside it, the first belongs to the object.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    Done,
    Domid(DomId),
    Domains(Vec<DomId>),
    Granted {
        object: ObjectId,
        first: u32,
    },
    Mapped {
        object: ObjectId,
        runs: Vec<MappedRun>,
    },
    Bound(Port),
    Failed(Failure),
}

/// Why the server did not do it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Failure {
    NotGranted,
    NotOffered,
    Limit(u32),
    Denied,
    Invalid(String),
    System(i32),
}

/// The connection to the server: one request at a time.
#[derive(Debug)]
struct Client {
    socket: Mutex<OwnedFd>,
    folder: PathBuf,
}

impl Client {
    fn connect(folder: &Path) -> io::Result<Client> {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        connect(
            &socket,
            &SocketAddrUnix::new(folder.join(HYPERVISOR_SOCKET))?,
        )?;
        Ok(Client {
            socket: Mutex::new(socket),
            folder: folder.to_owned(),
        })
    }

    /// Asks, and returns the answer with its descriptors.
    fn ask(&self, request: &Request) -> Result<(Reply, Vec<OwnedFd>)> {
        let lost = |why: String| Error::NotPresent {
            what: format!(
                "{request}: the local platform at {} {why}",
                self.folder.display()
            ),
            advice: "xen-local has ended, or has destroyed this domain: start again".into(),
        };
        // Sending and receiving cannot panic, so that a poisoned lock guards a usable socket.
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        message::send(&*socket, request, &[], SendFlags::empty()).map_err(|error| {
            match error.kind() {
                io::ErrorKind::InvalidInput => Error::Invalid(format!("{request}: {error}")),
                _ => lost(format!("cannot be asked: {error}")),
            }
        })?;
        match message::receive(&*socket, message::DESCRIPTORS_MAX, RecvFlags::empty()) {
            Ok(Some((Reply::Failed(failure), _))) => Err(failed(request, failure)),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(lost("has closed the connection".into())),
            Err(error) => Err(lost(format!("does not answer: {error}"))),
        }
    }
}

fn unexpected(request: &Request) -> Error {
    Error::Invalid(format!(
        "{request}: xen-local gave the answer to another question; it must be of this version"
    ))
}

/// What a failure means.
fn failed(request: &Request, failure: Failure) -> Error {
    match (failure, request) {
        (Failure::NotOffered, &Request::BindInterdomain { remote, port }) => {
            Error::NotOffered { remote, port }
        }
        (Failure::NotOffered, _) => {
            Error::Invalid(format!("{request}: no such port in this domain"))
        }
        (Failure::NotGranted, _) => Error::NotGranted {
            what: request.to_string(),
        },
        (Failure::Limit(limit), _) => Error::LimitReached {
            what: format!("{request}: this domain's limit of {limit} is reached"),
            limit: Some(limit),
            advice:
                "give back some; for granted pages, start xen-local with a larger --grant-limit"
                    .into(),
        },
        (Failure::Denied, _) => Error::PermissionDenied {
            operation: request.to_string(),
            advice: "only domain 0 may do this: use the folder dom0".into(),
        },
        (Failure::Invalid(text), _) => Error::Invalid(format!("{request}: {text}")),
        (Failure::System(errno), _) => {
            Error::io(request.to_string(), io::Error::from_raw_os_error(errno))
        }
    }
}

/// One domain's way to a running `xen-local`.
#[derive(Debug)]
pub struct Local {
    client: Arc<Client>,
    domid: DomId,
}

impl Local {
    /// Connects through a domain's folder.
    ///
    /// # Errors
    /// [`Error::NotPresent`] if nobody serves it.
    pub fn open(folder: &Path) -> Result<Local> {
        let client = Client::connect(folder).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Error::PermissionDenied {
                operation: format!("using {} as a domain", folder.display()),
                advice: "only who may open this folder's sockets is in its domain".into(),
            },
            _ => Error::NotPresent {
                what: format!("no domain at {}: {error}", folder.display()),
                advice:
                    "start xen-local serve --dir DIR, make a domain with xen-local create, and \
                         name its folder DIR/domN"
                        .into(),
            },
        })?;
        match client.ask(&Request::Domid)? {
            (Reply::Domid(domid), _) => Ok(Local {
                client: Arc::new(client),
                domid,
            }),
            _ => Err(unexpected(&Request::Domid)),
        }
    }

    /// Makes a domain, which has nothing in XenStore yet. For dom0.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] in another domain; [`Error::LimitReached`].
    pub fn create_domain(&self) -> Result<DomId> {
        match self.client.ask(&Request::CreateDomain)? {
            (Reply::Domid(domid), _) => Ok(domid),
            _ => Err(unexpected(&Request::CreateDomain)),
        }
    }

    /// Ends a domain: its grants, mappings and ports go, as if all of its processes had died. For
    /// dom0.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] in another domain; [`Error::Invalid`] if there is none such.
    pub fn destroy_domain(&self, domid: DomId) -> Result<()> {
        let request = Request::DestroyDomain { domid };
        match self.client.ask(&request)? {
            (Reply::Done, _) => Ok(()),
            _ => Err(unexpected(&request)),
        }
    }

    /// All domains, dom0 first. For dom0.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] in another domain.
    pub fn domains(&self) -> Result<Vec<DomId>> {
        match self.client.ask(&Request::Domains)? {
            (Reply::Domains(domains), _) => Ok(domains),
            _ => Err(unexpected(&Request::Domains)),
        }
    }

    fn bind(&self, request: &Request) -> Result<EventChannel> {
        match self.client.ask(request)? {
            (Reply::Bound(port), fds) => LocalChannel::from_descriptors(fds)
                .map(|channel| EventChannel::local(port, channel))
                .map_err(|_| unexpected(request)),
            _ => Err(unexpected(request)),
        }
    }

    fn hold(&self, object: ObjectId, alive: OwnedFd) -> Box<dyn Hold> {
        Box::new(LocalHold {
            client: self.client.clone(),
            object,
            _alive: alive,
        })
    }
}

impl Platform for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn domid(&self) -> Result<DomId> {
        Ok(self.domid)
    }

    fn store(&self) -> Result<Store> {
        Ok(Store::connect(&self.client.folder.join(XENSTORE_SOCKET))?)
    }

    fn grant(&self, peer: DomId, pages: u32, access: Access) -> Result<Granted> {
        let request = Request::Grant {
            peer,
            pages,
            access,
        };
        let (Reply::Granted { object, first }, fds) = self.client.ask(&request)? else {
            return Err(unexpected(&request));
        };
        let [alive, memory] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| unexpected(&request))?;
        let end = first
            .checked_add(pages)
            .ok_or_else(|| unexpected(&request))?;
        Ok(Granted::new(
            self.hold(object, alive),
            (first..end).map(Gref).collect(),
            vec![Extent {
                fd: Arc::new(memory),
                offset: 0,
                pages,
            }],
        ))
    }

    fn map(&self, peer: DomId, grefs: &[Gref], access: Access) -> Result<GrantMap> {
        let request = Request::Map {
            peer,
            grefs: runs_of(grefs),
            access,
        };
        let (Reply::Mapped { object, runs }, fds) = self.client.ask(&request)? else {
            return Err(unexpected(&request));
        };
        let mut fds = fds.into_iter();
        let alive = fds.next().ok_or_else(|| unexpected(&request))?;
        let memories: Vec<_> = fds.map(Arc::new).collect();
        let extents = runs
            .iter()
            .map(|run| {
                Some(Extent {
                    fd: memories.get(run.memory)?.clone(),
                    offset: u64::from(run.first_page) * PAGE_SIZE as u64,
                    pages: run.pages,
                })
            })
            .collect::<Option<_>>()
            .ok_or_else(|| unexpected(&request))?;
        Ok(GrantMap::new(self.hold(object, alive), access, extents))
    }

    fn bind_unbound(&self, remote: DomId) -> Result<EventChannel> {
        self.bind(&Request::BindUnbound { remote })
    }

    fn bind_interdomain(&self, remote: DomId, port: Port) -> Result<EventChannel> {
        self.bind(&Request::BindInterdomain { remote, port })
    }
}

/// Consecutive references as runs, which is what a peer's grants mostly are.
fn runs_of(grefs: &[Gref]) -> Vec<GrefRun> {
    let mut runs: Vec<GrefRun> = Vec::new();
    for gref in grefs {
        match runs.last_mut() {
            Some(run) if run.first.checked_add(run.count) == Some(gref.0) => run.count += 1,
            _ => runs.push(GrefRun {
                first: gref.0,
                count: 1,
            }),
        }
    }
    runs
}

/// Keeps an object of the server's by keeping its descriptor open.
#[derive(Debug)]
struct LocalHold {
    client: Arc<Client>,
    object: ObjectId,
    _alive: OwnedFd,
}

impl Hold for LocalHold {
    fn set_unmap_notify(&self, offset: u64, event: Option<&EventChannel>) -> Result<()> {
        let request = Request::UnmapNotify {
            object: self.object,
            offset,
            port: event.map(EventChannel::port),
        };
        match self.client.ask(&request)? {
            (Reply::Done, _) => Ok(()),
            _ => Err(unexpected(&request)),
        }
    }
}

/// One end of an event channel: an eventfd to wait on, the peer's to signal, and the descriptor
/// that keeps the port.
#[derive(Debug)]
pub struct LocalChannel {
    receive: OwnedFd,
    send: OwnedFd,
    alive: OwnedFd,
}

impl LocalChannel {
    pub(crate) fn notify(&self) -> Result<()> {
        signal(&self.send).map_err(|errno| Error::io("signalling an event channel", errno))
    }

    pub(crate) fn poll_fd(&self) -> BorrowedFd<'_> {
        self.receive.as_fd()
    }

    pub(crate) fn clear(&self) -> Result<bool> {
        take_signal(&self.receive).map_err(|errno| Error::io("reading an event channel", errno))
    }

    pub(crate) fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        [&self.receive, &self.send, &self.alive]
            .into_iter()
            .map(OwnedFd::try_clone)
            .collect()
    }

    pub(crate) fn from_descriptors(fds: Vec<OwnedFd>) -> Result<LocalChannel, Vec<OwnedFd>> {
        let [receive, send, alive] = <[OwnedFd; 3]>::try_from(fds)?;
        Ok(LocalChannel {
            receive,
            send,
            alive,
        })
    }
}

/// Adds to an eventfd. The peer shares it and could fill it to make us wait: full is signalled
/// enough.
pub(crate) fn signal(event: impl AsFd) -> rustix::io::Result<()> {
    let mut ready = [PollFd::new(&event, PollFlags::OUT)];
    match poll(&mut ready, Some(&Timespec::default())) {
        Ok(0) | Err(Errno::INTR) if ready[0].revents().is_empty() => {}
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno),
    }
    if !ready[0].revents().contains(PollFlags::OUT) {
        return Ok(());
    }
    match rustix::io::write(&event, &1u64.to_ne_bytes()) {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Empties an eventfd; says whether there was something. Never waits, whatever flags the peer, who
/// shares it, has set on it.
pub(crate) fn take_signal(event: impl AsFd) -> rustix::io::Result<bool> {
    let mut count = [0; 8];
    loop {
        match rustix::io::preadv2(
            &event,
            &mut [IoSliceMut::new(&mut count)],
            u64::MAX, // the current position, which an eventfd has not
            ReadWriteFlags::NOWAIT,
        ) {
            Ok(_) => return Ok(true),
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether a domid is one that a peer can have.
pub(crate) fn is_ordinary(domid: DomId) -> bool {
    domid.0 < FIRST_RESERVED_DOMID
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    #[test]
    fn references_are_sent_as_runs() {
        let grefs = [7, 8, 9, 4, 4, u32::MAX, 0].map(Gref);
        let runs: Vec<_> = runs_of(&grefs)
            .iter()
            .map(|run| (run.first, run.count))
            .collect();
        assert_eq!(runs, [(7, 3), (4, 1), (4, 1), (u32::MAX, 1), (0, 1)]);
    }

    #[test]
    fn a_shared_eventfd_never_makes_us_wait() {
        // Without EFD_NONBLOCK, as if the peer had cleared it.
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        assert!(!take_signal(&event).unwrap());
        signal(&event).unwrap();
        signal(&event).unwrap();
        assert!(take_signal(&event).unwrap());
        assert!(!take_signal(&event).unwrap());
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        signal(&event).unwrap();
        assert!(take_signal(&event).unwrap());
    }
}
