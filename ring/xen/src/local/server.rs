//! The process behind the local platform: one folder with sockets for each domain.
//!
//! One thread serves hypervisor requests in turn, and XenStore has its own. No client can make it
//! wait: sockets are read and written without blocking, and who does not take an answer is dropped.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::event::{Timespec, epoll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, listen, socket_with,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::hypervisor::{Answer, Hypervisor, Limits};
use super::schedule::{SCHEDULE_FILE, SCHEDULE_FILE_NEW};
use super::{Failure, HYPERVISOR_SOCKET, ObjectId, Reply, Request, XENSTORE_SOCKET};
use super::{domain_folder, message, xenstored};
use crate::platform::{DomId, Error, Result};
use crate::store::Store;

/// The most processes of a domain that are connected at once.
const CONNECTIONS_MAX: usize = 256;

/// Serves the local platform in a folder.
#[derive(Debug)]
pub struct Server {
    dir: PathBuf,
    // Held as long as the folder is ours.
    _lock: OwnedFd,
    hypervisor: Hypervisor,
    store: xenstored::Server,
    sockets: BTreeMap<u64, Socket>,
    last_socket: u64,
    poller: OwnedFd,
    /// Polls the objects alone, so that what was dropped before a request is released before it.
    objects: OwnedFd,
    /// Given up for a moment to refuse a connection when there are no descriptors left.
    reserve: Option<OwnedFd>,
}

#[derive(Debug)]
struct Socket {
    domid: DomId,
    fd: OwnedFd,
    listens: bool,
}

/// Tokens of the poller that are not sockets.
const STOP: u64 = u64::MAX;
const OBJECTS: u64 = u64::MAX - 1;

impl Server {
    /// Takes a folder, which is made if need be, and starts with dom0 alone. Requests are answered
    /// once [`Server::run`] is called.
    ///
    /// # Errors
    /// If the folder is served already, or the system refuses.
    pub fn new(dir: &Path, limits: Limits) -> Result<Server> {
        let failed = |what: &str| {
            let what = format!("{what} {}", dir.display());
            move |error: io::Error| Error::io(what, error)
        };
        fs::create_dir_all(dir).map_err(failed("making the folder"))?;
        let lock = rustix::fs::open(
            dir,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| failed("opening the folder")(errno.into()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Invalid(format!(
                    "another xen-local serves {}: end that one, or choose another --dir",
                    dir.display()
                )));
            }
            Err(errno) => return Err(failed("locking the folder")(errno.into())),
        }
        remove_domain_folders(dir).map_err(failed("removing old domains from"))?;

        // Grants and event channels are descriptors: as many as the system lets us have.
        let descriptors = getrlimit(Resource::Nofile);
        let most = Rlimit {
            current: descriptors.maximum,
            ..descriptors
        };
        if let Err(errno) = setrlimit(Resource::Nofile, most) {
            tracing::warn!(%errno, "cannot raise the limit of open descriptors");
        }
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC);
        let objects = epoll::create(epoll::CreateFlags::CLOEXEC);
        let mut server = Server {
            dir: dir.to_owned(),
            _lock: lock,
            hypervisor: Hypervisor::new(limits),
            store: xenstored::Server::new().map_err(failed("starting XenStore for"))?,
            sockets: BTreeMap::new(),
            last_socket: 0,
            poller: poller.map_err(|errno| Error::io("making a poller", errno))?,
            objects: objects.map_err(|errno| Error::io("making a poller", errno))?,
            reserve: reserve(),
        };
        watch(&server.poller, &server.objects, OBJECTS)
            .map_err(|errno| Error::io("polling for dropped objects", errno))?;
        server
            .open_folder(DomId(0))
            .map_err(failed("making domain 0's sockets in"))?;
        server.write_dom0()?;
        Ok(server)
    }

    /// What the hypervisor's tools do at boot: dom0 is a domain with a name.
    fn write_dom0(&self) -> Result<()> {
        let folder = domain_folder(&self.dir, DomId(0));
        let store = Store::connect(&folder.join(XENSTORE_SOCKET))?;
        store.write("/local/domain/0/domid", "0")?;
        store.write("/local/domain/0/name", "Domain-0")?;
        if store.read_bytes("/tool/xenstored")?.is_none() {
            store.mkdir("/tool/xenstored")?;
        }
        Ok(())
    }

    /// Serves until `stop` is readable, then removes what it made in the folder.
    ///
    /// # Errors
    /// If polling fails.
    pub fn run(mut self, stop: OwnedFd) -> Result<()> {
        let polling = |errno: Errno| Error::io("polling the sockets of domains", errno);
        watch(&self.poller, &stop, STOP).map_err(polling)?;
        let mut space = [MaybeUninit::uninit(); 64];
        loop {
            let events = match epoll::wait(&self.poller, &mut space, None) {
                Ok((events, _)) => events,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(polling(errno)),
            };
            for event in events {
                match event.data.u64() {
                    STOP => return Ok(()),
                    OBJECTS => self.release_dropped(),
                    token => self.serve(token),
                }
            }
        }
    }

    /// Releases the objects whose holders are gone.
    fn release_dropped(&mut self) {
        let mut space = [MaybeUninit::uninit(); 64];
        loop {
            match epoll::wait(&self.objects, &mut space, Some(&Timespec::default())) {
                Ok(([], _)) => return,
                Ok((events, _)) => {
                    for event in events {
                        self.hypervisor.release(ObjectId(event.data.u64()));
                    }
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    tracing::error!(%errno, "cannot look for dropped objects");
                    return;
                }
            }
        }
    }

    fn serve(&mut self, token: u64) {
        // It may have gone with its domain by an event before this one.
        let Some(socket) = self.sockets.get(&token) else {
            return;
        };
        let domid = socket.domid;
        let listens = socket.listens;
        let result = if listens {
            self.accept(token)
        } else {
            self.answer(token)
        };
        match result {
            Ok(true) => {}
            Ok(false) => {
                self.sockets.remove(&token);
            }
            Err(error) => {
                tracing::warn!(%domid, %error, "dropping a connection");
                if !listens {
                    self.sockets.remove(&token);
                }
            }
        }
    }

    /// Lets a process of a domain connect. The listening socket stays in any case.
    fn accept(&mut self, token: u64) -> io::Result<bool> {
        let Some(Socket { domid, fd, .. }) = self.sockets.get(&token) else {
            return Ok(true);
        };
        let domid = *domid;
        let connection = match accept_with(fd, SocketFlags::CLOEXEC) {
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(true),
            Err(errno @ (Errno::MFILE | Errno::NFILE)) => {
                // Take it with the descriptor in reserve, and refuse it.
                self.reserve = None;
                drop(accept_with(fd, SocketFlags::CLOEXEC));
                self.reserve = reserve();
                return Err(errno.into());
            }
            result => result?,
        };
        let of_domain = |socket: &&Socket| socket.domid == domid && !socket.listens;
        if self.sockets.values().filter(of_domain).count() >= CONNECTIONS_MAX {
            return Err(io::Error::other(format!(
                "this domain has {CONNECTIONS_MAX} connections already"
            )));
        }
        self.add_socket(domid, connection, false)?;
        Ok(true)
    }

    fn add_socket(&mut self, domid: DomId, fd: OwnedFd, listens: bool) -> io::Result<()> {
        let token = self.last_socket + 1;
        watch(&self.poller, &fd, token)?;
        self.last_socket = token;
        self.sockets.insert(token, Socket { domid, fd, listens });
        Ok(())
    }

    /// Answers one request; `false` when the connection is at its end.
    fn answer(&mut self, token: u64) -> io::Result<bool> {
        let Some(Socket { domid, fd, .. }) = self.sockets.get(&token) else {
            return Ok(true);
        };
        let domid = *domid;
        let request = match message::receive::<Request>(fd, 0, RecvFlags::DONTWAIT) {
            Ok(Some((request, _))) => request,
            Ok(None) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        // What any process dropped before this was asked must be free by now.
        self.release_dropped();
        let answer = self
            .handle(domid, request)
            .and_then(|answer| self.follow(answer))
            .unwrap_or_else(|failure| Reply::Failed(failure).into());
        let fds: Vec<_> = answer.fds.iter().map(|fd| fd.as_fd()).collect();
        match self.sockets.get(&token) {
            // It destroyed its own domain.
            None => Ok(true),
            // Without reading its answers nobody gets more than a socket's buffer of them.
            Some(socket) => {
                message::send(&socket.fd, &answer.reply, &fds, SendFlags::DONTWAIT).map(|()| true)
            }
        }
    }

    /// Sees to it that a new object is released when its holder is gone.
    fn follow(&mut self, answer: Answer) -> Result<Answer, Failure> {
        if let Some(object) = answer.object {
            let added = match self.hypervisor.alive(object) {
                // Nothing to ask for: a hang-up is always reported.
                Some(alive) => epoll::add(
                    &self.objects,
                    alive,
                    epoll::EventData::new_u64(object.0),
                    epoll::EventFlags::empty(),
                ),
                None => Ok(()),
            };
            if let Err(errno) = added {
                self.hypervisor.release(object);
                return Err(errno.into());
            }
        }
        Ok(answer)
    }

    fn handle(&mut self, domid: DomId, request: Request) -> Result<Answer, Failure> {
        let by_dom0 = domid == DomId(0);
        match request {
            Request::CreateDomain if by_dom0 => {
                let created = self.hypervisor.create()?;
                if let Err(error) = self.open_folder(created) {
                    tracing::error!(domid = %created, %error, "cannot make a domain's sockets");
                    self.destroy(created);
                    return Err(Failure::System(error.raw_os_error().unwrap_or(libc::EIO)));
                }
                Ok(Reply::Domid(created).into())
            }
            Request::DestroyDomain { domid } if by_dom0 => {
                if domid == DomId(0) {
                    return Err(Failure::Invalid("domain 0 ends with xen-local".into()));
                }
                if !self.destroy(domid) {
                    return Err(Failure::Invalid("there is no such domain".into()));
                }
                Ok(Reply::Done.into())
            }
            Request::Domains if by_dom0 => Ok(Reply::Domains(self.hypervisor.domains()).into()),
            request => self.hypervisor.request(domid, request),
        }
    }

    fn destroy(&mut self, domid: DomId) -> bool {
        let existed = self.hypervisor.destroy(domid);
        self.sockets.retain(|_, socket| socket.domid != domid);
        remove_folder(&domain_folder(&self.dir, domid));
        self.store.domain_destroyed(domid);
        existed
    }

    /// Makes a domain's folder and listens in it.
    fn open_folder(&mut self, domid: DomId) -> io::Result<()> {
        let folder = domain_folder(&self.dir, domid);
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        bind(
            &socket,
            &SocketAddrUnix::new(folder.join(HYPERVISOR_SOCKET))?,
        )?;
        listen(&socket, 128)?;
        self.add_socket(domid, socket, true)?;
        let store = UnixListener::bind(folder.join(XENSTORE_SOCKET))?;
        if domid != DomId(0) {
            self.store.domain_created(domid);
        }
        self.store.listen(domid, store)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = remove_domain_folders(&self.dir) {
            tracing::warn!(%error, "cannot remove the folders of domains");
        }
    }
}

fn watch(poller: &OwnedFd, fd: &OwnedFd, token: u64) -> rustix::io::Result<()> {
    epoll::add(
        poller,
        fd,
        epoll::EventData::new_u64(token),
        epoll::EventFlags::IN,
    )
}

fn reserve() -> Option<OwnedFd> {
    fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

/// Removes a domain's folder with our files in it, and nothing else that anyone put there.
fn remove_folder(folder: &Path) {
    for file in [
        HYPERVISOR_SOCKET,
        XENSTORE_SOCKET,
        SCHEDULE_FILE,
        SCHEDULE_FILE_NEW,
    ] {
        let _ = fs::remove_file(folder.join(file));
    }
    if let Err(error) = fs::remove_dir(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "cannot remove a domain's folder");
    }
}

fn remove_domain_folders(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let domid = name.to_str().and_then(|name| name.strip_prefix("dom"));
        if domid.is_some_and(|domid| domid.parse::<DomId>().is_ok()) {
            remove_folder(&entry.path());
        }
    }
    Ok(())
}
