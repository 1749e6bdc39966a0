//! What Xen keeps: domains, their grants, what is mapped of them, and their event channels.
//!
//! Rules alone, no sockets. Every request is a domain's and is checked against what that domain may
//! do and how much it may hold; nothing a domain asks may panic here or cost another domain.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::message::DESCRIPTORS_MAX;
use super::{Failure, GrefRun, MappedRun, ObjectId, Reply, Request, is_ordinary};
use super::{signal, take_signal};
use crate::PAGE_SIZE;
use crate::event::Port;
use crate::grant::Access;
use crate::platform::{DomId, FIRST_RESERVED_DOMID};

/// The most pages mapped at once, as in xen-gntdev.
pub const BATCH_PAGES_MAX: u32 = 64 * 1024;

/// The most ports of a domain, as in Xen for an ordinary domain.
pub const PORTS_MAX: u32 = 1023;

/// The most things (runs of granted pages, mapped batches, ports) that the server keeps for a
/// domain; each takes two of its descriptors.
pub const OBJECTS_MAX: usize = 2048;

/// The most separate runs of pages in a batch, so that the answer fits a message.
const RUNS_MAX: usize = 1024;

/// The first references are Xen's own (`GNTTAB_NR_RESERVED_ENTRIES`).
const FIRST_GREF: u32 = 8;

/// What a domain may have.
#[derive(Copy, Clone, Debug)]
pub struct Limits {
    /// Granted pages, counting those taken back that a peer still maps. As in xen-gntalloc.
    pub granted_pages: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            granted_pages: 1024,
        }
    }
}

/// An answer, with the descriptors to send beside it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub reply: Reply,
    pub fds: Vec<Arc<OwnedFd>>,
    /// What was made, and lives until the client closes the first of the descriptors.
    pub object: Option<ObjectId>,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Answer {
        Answer {
            reply,
            fds: Vec::new(),
            object: None,
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::System(errno.raw_os_error())
    }
}

/// The state of all domains.
#[derive(Debug)]
pub(crate) struct Hypervisor {
    limits: Limits,
    domains: BTreeMap<DomId, Domain>,
    last_domid: u16,
    objects: BTreeMap<ObjectId, Object>,
    last_object: u64,
    channels: BTreeMap<u64, Channel>,
    last_channel: u64,
}

#[derive(Debug, Default)]
struct Domain {
    /// By first reference.
    grants: BTreeMap<u32, Arc<Pages>>,
    last_gref: u32,
    granted_pages: Arc<AtomicU32>,
    /// The channel of each port, and which of its ends this is.
    ports: BTreeMap<u32, (u64, usize)>,
    objects: BTreeSet<ObjectId>,
}

/// Granted pages. They count until the grant is taken back and no batch holds them.
#[derive(Debug)]
struct Pages {
    memory: Arc<OwnedFd>,
    first: u32,
    count: u32,
    peer: DomId,
    access: Access,
    account: Arc<AtomicU32>,
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.account.fetch_sub(self.count, Ordering::Relaxed);
    }
}

/// Something a client holds through a pipe: when every copy of its end is closed, it is released.
#[derive(Debug)]
struct Object {
    domain: DomId,
    alive: OwnedFd,
    what: What,
    notify: Option<Notify>,
}

#[derive(Debug)]
enum What {
    Grant(Arc<Pages>),
    Batch {
        access: Access,
        runs: Vec<(Arc<Pages>, MappedRun)>,
    },
    Port(u32),
}

/// What to do when an object is released.
#[derive(Debug)]
struct Notify {
    memory: Arc<OwnedFd>,
    offset: u64,
    event: Option<Arc<OwnedFd>>,
}

impl Notify {
    fn fire(self) {
        if let Err(errno) = rustix::io::pwrite(&*self.memory, &[0], self.offset) {
            tracing::warn!(%errno, "cannot clear the byte of an unmap notification");
        }
        if let Some(Err(errno)) = self.event.map(signal) {
            tracing::warn!(%errno, "cannot signal an unmap notification");
        }
    }
}

/// An event channel: two ends, each of one domain, open or waiting to be bound by it. While one end
/// is open, the other can be bound and closed again and again.
#[derive(Debug)]
struct Channel {
    ends: [End; 2],
}

#[derive(Debug)]
struct End {
    domain: DomId,
    port: Option<u32>,
    /// What this end waits on.
    event: Arc<OwnedFd>,
}

impl End {
    fn new(domain: DomId) -> Result<End, Errno> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(End {
            domain,
            port: None,
            event: Arc::new(event),
        })
    }
}

impl Hypervisor {
    /// A machine on which only dom0 runs.
    pub fn new(limits: Limits) -> Hypervisor {
        Hypervisor {
            limits,
            domains: BTreeMap::from([(DomId(0), Domain::default())]),
            last_domid: 0,
            objects: BTreeMap::new(),
            last_object: 0,
            channels: BTreeMap::new(),
            last_channel: 0,
        }
    }

    pub fn domains(&self) -> Vec<DomId> {
        self.domains.keys().copied().collect()
    }

    /// Makes a domain. A domid is used again only when all others have been.
    pub fn create(&mut self) -> Result<DomId, Failure> {
        let after = self.last_domid + 1..FIRST_RESERVED_DOMID;
        let before = 1..=self.last_domid;
        let domid = after
            .chain(before)
            .map(DomId)
            .find(|domid| !self.domains.contains_key(domid))
            .ok_or(Failure::Limit(FIRST_RESERVED_DOMID.into()))?;
        self.last_domid = domid.0;
        self.domains.insert(domid, Domain::default());
        Ok(domid)
    }

    /// Ends a domain and releases all it held; says whether there was one.
    pub fn destroy(&mut self, domid: DomId) -> bool {
        let Some(domain) = self.domains.get(&domid) else {
            return false;
        };
        for object in domain.objects.clone() {
            self.release(object);
        }
        self.domains.remove(&domid);
        true
    }

    /// What becomes hung up when the object is to be released.
    pub fn alive(&self, object: ObjectId) -> Option<BorrowedFd<'_>> {
        self.objects.get(&object).map(|object| object.alive.as_fd())
    }

    /// The holder of an object is gone.
    pub fn release(&mut self, id: ObjectId) {
        let Some(object) = self.objects.remove(&id) else {
            return;
        };
        if let Some(domain) = self.domains.get_mut(&object.domain) {
            domain.objects.remove(&id);
            match &object.what {
                What::Grant(pages) => {
                    domain.grants.remove(&pages.first);
                }
                What::Batch { .. } => {}
                What::Port(port) => {
                    if let Some((channel, end)) = domain.ports.remove(port) {
                        self.close(channel, end);
                    }
                }
            }
        }
        if let Some(notify) = object.notify {
            notify.fire();
        }
    }

    fn close(&mut self, id: u64, end: usize) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        channel.ends[end].port = None;
        if channel.ends.iter().all(|end| end.port.is_none()) {
            self.channels.remove(&id);
        }
    }

    /// Does what a domain's process asks.
    pub fn request(&mut self, domid: DomId, request: Request) -> Result<Answer, Failure> {
        match request {
            Request::Domid => Ok(Reply::Domid(domid).into()),
            Request::Grant {
                peer,
                pages,
                access,
            } => self.grant(domid, peer, pages, access),
            Request::Map {
                peer,
                grefs,
                access,
            } => self.map(domid, peer, &grefs, access),
            Request::UnmapNotify {
                object,
                offset,
                port,
            } => self.set_notify(domid, object, offset, port),
            Request::BindUnbound { remote } => self.bind_unbound(domid, remote),
            Request::BindInterdomain { remote, port } => {
                self.bind_interdomain(domid, remote, port.0)
            }
            Request::CreateDomain | Request::DestroyDomain { .. } | Request::Domains => {
                Err(Failure::Denied)
            }
        }
    }

    fn domain(&mut self, domid: DomId) -> Result<&mut Domain, Failure> {
        self.domains
            .get_mut(&domid)
            .ok_or_else(|| Failure::Invalid(format!("there is no domain {domid}")))
    }

    /// Keeps something until the returned descriptor is closed everywhere.
    fn keep(&mut self, domid: DomId, what: What) -> Result<(ObjectId, Arc<OwnedFd>), Failure> {
        let id = ObjectId(self.last_object + 1);
        let domain = self.domain(domid)?;
        if domain.objects.len() >= OBJECTS_MAX {
            return Err(Failure::Limit(OBJECTS_MAX as u32));
        }
        let (alive, held) = pipe_with(PipeFlags::CLOEXEC)?;
        domain.objects.insert(id);
        self.last_object = id.0;
        self.objects.insert(
            id,
            Object {
                domain: domid,
                alive,
                what,
                notify: None,
            },
        );
        Ok((id, Arc::new(held)))
    }

    fn grant(
        &mut self,
        domid: DomId,
        peer: DomId,
        count: u32,
        access: Access,
    ) -> Result<Answer, Failure> {
        let limit = self.limits.granted_pages;
        if count == 0 || !is_ordinary(peer) {
            return Err(Failure::Invalid("no pages, or no such peer".into()));
        }
        let domain = self.domain(domid)?;
        let account = domain.granted_pages.clone();
        let fits = account
            .load(Ordering::Relaxed)
            .checked_add(count)
            .is_some_and(|sum| sum <= limit);
        if !fits {
            return Err(Failure::Limit(limit));
        }
        // References count up and begin again when exhausted, past those in use.
        let mut first = domain.last_gref.max(FIRST_GREF - 1).wrapping_add(1);
        if first < FIRST_GREF || first.checked_add(count).is_none() {
            first = FIRST_GREF;
        }
        while let Some((_, clash)) = domain
            .grants
            .range(..first.saturating_add(count))
            .next_back()
            .filter(|(_, pages)| pages.first + pages.count > first)
        {
            first = clash.first + clash.count;
            first.checked_add(count).ok_or(Failure::Limit(u32::MAX))?;
        }
        let memory = Arc::new(shareable_memory(count)?);
        account.fetch_add(count, Ordering::Relaxed);
        let pages = Arc::new(Pages {
            memory: memory.clone(),
            first,
            count,
            peer,
            access,
            account,
        });
        let (object, held) = self.keep(domid, What::Grant(pages.clone()))?;
        let domain = self.domain(domid)?;
        domain.last_gref = first + (count - 1);
        domain.grants.insert(first, pages);
        Ok(Answer {
            reply: Reply::Granted { object, first },
            fds: vec![held, memory],
            object: Some(object),
        })
    }

    fn map(
        &mut self,
        domid: DomId,
        peer: DomId,
        grefs: &[GrefRun],
        access: Access,
    ) -> Result<Answer, Failure> {
        let total: u64 = grefs.iter().map(|run| u64::from(run.count)).sum();
        if total == 0 {
            return Err(Failure::Invalid("ask for at least one page".into()));
        }
        if total > BATCH_PAGES_MAX.into() {
            return Err(Failure::Limit(BATCH_PAGES_MAX));
        }
        let owner = self.domains.get(&peer).ok_or(Failure::NotGranted)?;
        let mut memories: Vec<Arc<Pages>> = Vec::new();
        let mut runs: Vec<(Arc<Pages>, MappedRun)> = Vec::new();
        for run in grefs {
            let (mut gref, mut left) = (run.first, run.count);
            while left > 0 {
                let (_, pages) = owner
                    .grants
                    .range(..=gref)
                    .next_back()
                    .ok_or(Failure::NotGranted)?;
                let first_page = gref - pages.first;
                let allowed = pages.peer == domid
                    && (pages.access == Access::ReadWrite || access == Access::ReadOnly);
                if first_page >= pages.count || !allowed {
                    return Err(Failure::NotGranted);
                }
                let memory = match memories.iter().position(|known| Arc::ptr_eq(known, pages)) {
                    Some(at) => at,
                    None => {
                        memories.push(pages.clone());
                        memories.len() - 1
                    }
                };
                if runs.len() == RUNS_MAX || memories.len() > DESCRIPTORS_MAX - 1 {
                    return Err(Failure::Invalid(
                        "pages of too many separate grants at once".into(),
                    ));
                }
                let taken = left.min(pages.count - first_page);
                runs.push((
                    pages.clone(),
                    MappedRun {
                        memory,
                        first_page,
                        pages: taken,
                    },
                ));
                left -= taken;
                // Past the last reference there is nothing, which `left > 0` will find.
                gref = gref.wrapping_add(taken);
            }
        }
        let memories = memories
            .iter()
            .map(|pages| match access {
                Access::ReadWrite => Ok(pages.memory.clone()),
                Access::ReadOnly => for_reading(&pages.memory).map(Arc::new),
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        let reply = runs.iter().map(|(_, run)| *run).collect();
        let (object, held) = self.keep(domid, What::Batch { access, runs })?;
        let mut fds = vec![held];
        fds.extend(memories);
        Ok(Answer {
            reply: Reply::Mapped {
                object,
                runs: reply,
            },
            fds,
            object: Some(object),
        })
    }

    fn set_notify(
        &mut self,
        domid: DomId,
        object: ObjectId,
        offset: u64,
        port: Option<Port>,
    ) -> Result<Answer, Failure> {
        let event = match port {
            None => None,
            Some(port) => {
                let &(channel, end) = self
                    .domain(domid)?
                    .ports
                    .get(&port.0)
                    .ok_or(Failure::NotOffered)?;
                self.channels
                    .get(&channel)
                    .map(|channel| channel.ends[1 - end].event.clone())
            }
        };
        let object = self
            .objects
            .get_mut(&object)
            .filter(|object| object.domain == domid)
            .ok_or_else(|| Failure::Invalid("not of this domain".into()))?;
        let (memory, offset) = match &object.what {
            What::Grant(pages) if offset < pages.count as u64 * PAGE_SIZE as u64 => {
                (pages.memory.clone(), offset)
            }
            What::Batch {
                access: Access::ReadWrite,
                runs,
            } => byte_of(runs, offset)?,
            _ => return Err(Failure::Invalid("no such byte to clear".into())),
        };
        object.notify = Some(Notify {
            memory,
            offset,
            event,
        });
        Ok(Reply::Done.into())
    }

    fn free_port(&mut self, domid: DomId) -> Result<u32, Failure> {
        let ports = &self.domain(domid)?.ports;
        (1..=PORTS_MAX)
            .find(|port| !ports.contains_key(port))
            .ok_or(Failure::Limit(PORTS_MAX))
    }

    fn bind_unbound(&mut self, domid: DomId, remote: DomId) -> Result<Answer, Failure> {
        if !is_ordinary(remote) {
            return Err(Failure::Invalid("no such domain".into()));
        }
        let channel = Channel {
            ends: [End::new(domid)?, End::new(remote)?],
        };
        let id = self.last_channel + 1;
        self.last_channel = id;
        self.channels.insert(id, channel);
        let answer = self.open(domid, id, 0);
        if answer.is_err() {
            self.channels.remove(&id);
        }
        answer
    }

    fn bind_interdomain(
        &mut self,
        domid: DomId,
        remote: DomId,
        port: u32,
    ) -> Result<Answer, Failure> {
        let &(id, remote_end) = self
            .domains
            .get(&remote)
            .and_then(|domain| domain.ports.get(&port))
            .ok_or(Failure::NotOffered)?;
        let end = 1 - remote_end;
        let event = self
            .channels
            .get(&id)
            .map(|channel| &channel.ends[end])
            .filter(|end| end.domain == domid && end.port.is_none())
            .ok_or(Failure::NotOffered)?
            .event
            .clone();
        let answer = self.open(domid, id, end)?;
        // Xen raises the binder's port once, for what was signalled before; what is left from
        // another time is not counted.
        take_signal(&*event)?;
        signal(&*event)?;
        Ok(answer)
    }

    /// Gives an end of a channel a port.
    fn open(&mut self, domid: DomId, id: u64, end: usize) -> Result<Answer, Failure> {
        let port = self.free_port(domid)?;
        let (object, held) = self.keep(domid, What::Port(port))?;
        self.domain(domid)?.ports.insert(port, (id, end));
        let channel = self.channels.get_mut(&id).ok_or(Failure::NotOffered)?;
        channel.ends[end].port = Some(port);
        Ok(Answer {
            reply: Reply::Bound(Port(port)),
            fds: vec![
                channel.ends[end].event.clone(),
                channel.ends[1 - end].event.clone(),
                held,
            ],
            object: Some(object),
        })
    }
}

/// Zeroed memory whose length nobody can change.
fn shareable_memory(pages: u32) -> Result<OwnedFd, Errno> {
    let memory = memfd_create("xen-grant", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    // Otherwise who has it for reading could open it again for writing.
    fchmod(&memory, Mode::RUSR | Mode::WUSR)?;
    ftruncate(&memory, u64::from(pages) * PAGE_SIZE as u64)?;
    fcntl_add_seals(
        &memory,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(memory)
}

/// The same memory behind a descriptor that cannot be mapped for writing.
fn for_reading(memory: &OwnedFd) -> Result<OwnedFd, Failure> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(format!("/proc/self/fd/{}", memory.as_raw_fd()))
        .map(OwnedFd::from)
        .map_err(|error| Failure::System(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// Where byte `offset` of a batch lies.
fn byte_of(
    runs: &[(Arc<Pages>, MappedRun)],
    mut offset: u64,
) -> Result<(Arc<OwnedFd>, u64), Failure> {
    for (pages, run) in runs {
        let len = u64::from(run.pages) * PAGE_SIZE as u64;
        if offset < len {
            return Ok((
                pages.memory.clone(),
                u64::from(run.first_page) * PAGE_SIZE as u64 + offset,
            ));
        }
        offset -= len;
    }
    Err(Failure::Invalid("no such byte to clear".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DomId = DomId(1);
    const B: DomId = DomId(2);

    fn machine(granted_pages: u32) -> Hypervisor {
        let mut machine = Hypervisor::new(Limits { granted_pages });
        assert_eq!(machine.create().unwrap(), A);
        assert_eq!(machine.create().unwrap(), B);
        machine
    }

    fn grant(machine: &mut Hypervisor, pages: u32, access: Access) -> (ObjectId, u32) {
        let request = Request::Grant {
            peer: B,
            pages,
            access,
        };
        match machine.request(A, request).unwrap().reply {
            Reply::Granted { object, first } => (object, first),
            reply => panic!("{reply:?}"),
        }
    }

    /// Memory, first page, pages.
    type Run = (usize, u32, u32);

    fn map(
        machine: &mut Hypervisor,
        by: DomId,
        grefs: &[(u32, u32)],
        access: Access,
    ) -> Result<(ObjectId, Vec<Run>), Failure> {
        let grefs = grefs
            .iter()
            .map(|&(first, count)| GrefRun { first, count })
            .collect();
        let request = Request::Map {
            peer: A,
            grefs,
            access,
        };
        match machine.request(by, request)?.reply {
            Reply::Mapped { object, runs } => Ok((
                object,
                runs.iter()
                    .map(|run| (run.memory, run.first_page, run.pages))
                    .collect(),
            )),
            reply => panic!("{reply:?}"),
        }
    }

    fn bind(machine: &mut Hypervisor, by: DomId, request: Request) -> Result<Bound, Failure> {
        let answer = machine.request(by, request)?;
        match answer.reply {
            Reply::Bound(port) => Ok(Bound {
                port,
                object: answer.object.unwrap(),
                receive: answer.fds[0].clone(),
                send: answer.fds[1].clone(),
            }),
            reply => panic!("{reply:?}"),
        }
    }

    struct Bound {
        port: Port,
        object: ObjectId,
        receive: Arc<OwnedFd>,
        send: Arc<OwnedFd>,
    }

    #[test]
    fn a_batch_is_found_across_grants_and_within_them() {
        let mut machine = machine(1024);
        let (_, first) = grant(&mut machine, 4, Access::ReadWrite);
        let (_, second) = grant(&mut machine, 3, Access::ReadWrite);
        assert_eq!(second, first + 4, "references count up");
        let (_, runs) = map(
            &mut machine,
            B,
            &[(first + 2, 3), (second + 2, 1), (first, 1)],
            Access::ReadWrite,
        )
        .unwrap();
        assert_eq!(runs, [(0, 2, 2), (1, 0, 1), (1, 2, 1), (0, 0, 1)]);
    }

    #[test]
    fn only_what_was_granted_to_a_domain_is_mapped() {
        let mut machine = machine(1024);
        let (object, first) = grant(&mut machine, 2, Access::ReadOnly);
        let refused = Err(Failure::NotGranted);
        for (by, run, access) in [
            (A, (first, 1), Access::ReadOnly),
            (DomId(0), (first, 1), Access::ReadOnly),
            (B, (first, 1), Access::ReadWrite),
            (B, (first, 3), Access::ReadOnly),
            (B, (first + 2, 1), Access::ReadOnly),
            (B, (first - 1, 1), Access::ReadOnly),
            (B, (u32::MAX, 2), Access::ReadOnly),
            (B, (0, 1), Access::ReadOnly),
        ] {
            assert_eq!(map(&mut machine, by, &[run], access), refused, "{run:?}");
        }
        assert!(map(&mut machine, B, &[(first, 2)], Access::ReadOnly).is_ok());
        machine.release(object);
        assert_eq!(
            map(&mut machine, B, &[(first, 2)], Access::ReadOnly),
            refused
        );
    }

    #[test]
    fn sizes_without_sense_are_refused() {
        let mut machine = machine(u32::MAX);
        let (_, first) = grant(&mut machine, 2, Access::ReadWrite);
        for (runs, expected) in [
            (vec![], Failure::Invalid("ask for at least one page".into())),
            (
                vec![(first, u32::MAX), (first, u32::MAX)],
                Failure::Limit(BATCH_PAGES_MAX),
            ),
            (
                vec![(first, 1); RUNS_MAX + 1],
                Failure::Invalid("pages of too many separate grants at once".into()),
            ),
        ] {
            assert_eq!(
                map(&mut machine, B, &runs, Access::ReadWrite),
                Err(expected)
            );
        }
        let none = Request::Grant {
            peer: B,
            pages: 0,
            access: Access::ReadWrite,
        };
        assert!(machine.request(A, none).is_err());
    }

    #[test]
    fn pages_count_until_taken_back_and_unmapped() {
        let mut machine = machine(4);
        let (first_object, first) = grant(&mut machine, 3, Access::ReadWrite);
        let two = || Request::Grant {
            peer: B,
            pages: 2,
            access: Access::ReadWrite,
        };
        let (batch, _) = map(&mut machine, B, &[(first, 1)], Access::ReadWrite).unwrap();
        assert_eq!(machine.request(A, two()).unwrap_err(), Failure::Limit(4));
        machine.release(first_object);
        assert_eq!(machine.request(A, two()).unwrap_err(), Failure::Limit(4));
        machine.release(batch);
        machine.request(A, two()).unwrap();
    }

    #[test]
    fn a_domain_holds_a_bounded_number_of_things() {
        let mut machine = machine(u32::MAX);
        let (_, first) = grant(&mut machine, 1, Access::ReadWrite);
        let mut refused = None;
        for _ in 0..=OBJECTS_MAX {
            if let Err(failure) = map(&mut machine, B, &[(first, 1)], Access::ReadWrite) {
                refused = Some(failure);
            }
        }
        assert_eq!(refused, Some(Failure::Limit(OBJECTS_MAX as u32)));
        // Another domain does not notice.
        grant(&mut machine, 1, Access::ReadWrite);
    }

    #[test]
    fn an_unmap_notification_clears_its_byte_and_signals_even_if_the_port_closed_first() {
        let mut machine = machine(1024);
        let (_, first) = grant(&mut machine, 3, Access::ReadWrite);
        let a = bind(&mut machine, A, Request::BindUnbound { remote: B }).unwrap();
        let to_a = Request::BindInterdomain {
            remote: A,
            port: a.port,
        };
        let b = bind(&mut machine, B, to_a).unwrap();
        let (batch, _) = map(
            &mut machine,
            B,
            &[(first + 2, 1), (first, 2)],
            Access::ReadWrite,
        )
        .unwrap();
        let notify = |object, offset| Request::UnmapNotify {
            object,
            offset,
            port: Some(b.port),
        };
        assert!(machine.request(B, notify(batch, 3 * 4096)).is_err());
        assert!(machine.request(A, notify(batch, 0)).is_err());
        machine.request(B, notify(batch, 4096 + 5)).unwrap();

        let pages = machine.domains[&A].grants[&first].memory.clone();
        rustix::io::pwrite(&*pages, &[1; 3 * 4096], 0).unwrap();
        machine.release(b.object);
        machine.release(batch);
        let mut bytes = vec![9; 3 * 4096];
        rustix::io::pread(&*pages, &mut bytes, 0).unwrap();
        let cleared: Vec<_> = (0..bytes.len()).filter(|&at| bytes[at] == 0).collect();
        assert_eq!(cleared, [5]);
        assert!(take_signal(&*a.receive).unwrap());
    }

    #[test]
    fn a_port_is_bound_once_by_the_domain_it_is_for_and_again_after_it_closed() {
        let mut machine = machine(1024);
        let a = bind(&mut machine, A, Request::BindUnbound { remote: B }).unwrap();
        let to_a = || Request::BindInterdomain {
            remote: A,
            port: a.port,
        };
        let refused = Failure::NotOffered;
        assert_eq!(machine.request(A, to_a()).unwrap_err(), refused);
        assert_eq!(machine.request(DomId(0), to_a()).unwrap_err(), refused);
        let b = bind(&mut machine, B, to_a()).unwrap();
        assert_eq!(machine.request(B, to_a()).unwrap_err(), refused);
        assert!(take_signal(&*b.receive).unwrap(), "signalled once at first");
        signal(&*a.send).unwrap();
        assert!(take_signal(&*b.receive).unwrap());

        machine.release(b.object);
        let again = bind(&mut machine, B, to_a()).unwrap();
        signal(&*again.send).unwrap();
        assert!(take_signal(&*a.receive).unwrap());

        // The side that offered the port may come back, too.
        machine.release(a.object);
        let to_b = Request::BindInterdomain {
            remote: B,
            port: again.port,
        };
        let a = bind(&mut machine, A, to_b).unwrap();
        signal(&*again.send).unwrap();
        take_signal(&*a.receive).unwrap();
        machine.release(a.object);
        machine.release(again.object);
        assert!(machine.channels.is_empty());
    }

    #[test]
    fn ports_run_out() {
        let mut machine = machine(1024);
        for _ in 0..PORTS_MAX {
            bind(&mut machine, A, Request::BindUnbound { remote: B }).unwrap();
        }
        let failure = machine
            .request(A, Request::BindUnbound { remote: B })
            .unwrap_err();
        assert_eq!(failure, Failure::Limit(PORTS_MAX));
        assert_eq!(machine.channels.len(), PORTS_MAX as usize);
    }

    #[test]
    fn a_domain_that_ends_leaves_nothing() {
        let mut machine = machine(1024);
        let (_, first) = grant(&mut machine, 2, Access::ReadWrite);
        let (batch, _) = map(&mut machine, B, &[(first, 2)], Access::ReadWrite).unwrap();
        let a = bind(&mut machine, A, Request::BindUnbound { remote: B }).unwrap();
        let to_a = Request::BindInterdomain {
            remote: A,
            port: a.port,
        };
        let b = bind(&mut machine, B, to_a).unwrap();
        assert!(machine.destroy(A));
        assert!(!machine.destroy(A));
        assert_eq!(
            map(&mut machine, B, &[(first, 1)], Access::ReadWrite),
            Err(Failure::NotGranted)
        );
        machine.release(batch);
        machine.release(b.object);
        assert!(machine.objects.is_empty() && machine.channels.is_empty());
        assert_eq!(machine.create().unwrap(), DomId(3), "domids are not reused");
    }

    #[test]
    fn references_begin_again_past_those_in_use() {
        let mut machine = machine(1024);
        let (_, first) = grant(&mut machine, 3, Access::ReadWrite);
        machine.domains.get_mut(&A).unwrap().last_gref = u32::MAX - 2;
        let (_, again) = grant(&mut machine, 3, Access::ReadWrite);
        assert_eq!((first, again), (FIRST_GREF, FIRST_GREF + 3));
    }

    #[test]
    fn only_the_server_itself_makes_and_ends_domains() {
        let mut machine = machine(1024);
        for request in [
            Request::CreateDomain,
            Request::DestroyDomain { domid: B },
            Request::Domains,
        ] {
            assert_eq!(machine.request(A, request).unwrap_err(), Failure::Denied);
        }
    }
}
