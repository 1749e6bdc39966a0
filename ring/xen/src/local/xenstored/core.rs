//! What the local XenStore does with each request: permissions, quotas, transactions, watches, domains.
//!
//! The rules are C xenstored's (4.17), and the conformance suite runs on both. No I/O here: requests come in as
//! messages, answers and events go to outboxes. It must never trust a length, path or number in a request.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use super::outbox::{Charge, Outbox};
use super::tree::{self, Change, Node, Transaction, Tree, View};
use crate::platform::DomId;
use crate::store::Permission;
use crate::store::wire::{self, Message, Op};

/// Nodes a domain may own.
const NODES_MAX: i64 = 1000;
/// Watches a domain may have beyond the one C xenstored is generous with.
const WATCHES_MAX: usize = 128;
/// Bytes a node may have, counted as [`Node::size`] does.
const NODE_SIZE_MAX: usize = 2048;
/// Transactions a domain may have open, beyond the one C xenstored is generous with.
const TRANSACTIONS_MAX: usize = 10;
/// Nodes a domain's transaction may touch.
const TRANSACTION_NODES_MAX: usize = 1024;
/// Entries a domain may give a node's permissions.
const PERMISSIONS_MAX: usize = 5;
/// Requests of a domain that may be under way: answers not taken, or events for dom0 not taken.
const OUTSTANDING_MAX: usize = 20;
/// Connections a domain's processes may hold (a real domain has one, which its kernel shares out).
const GUEST_CONNECTIONS_MAX: usize = 64;
/// The same for dom0, where every tool opens its own.
const PRIVILEGED_CONNECTIONS_MAX: usize = 4096;

const INTRODUCED: &str = "@introduceDomain";
const RELEASED: &str = "@releaseDomain";
/// `DOMID_SELF`
const DOMID_SELF: u16 = 0x7FF0;
/// `DOMID_FIRST_RESERVED`: real domains are below.
const DOMID_FIRST_RESERVED: u16 = 0x7FF0;

/// Names a connection for as long as it lives; never used again.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct ConnectionId(u64);

/// Who may do what with a node.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum Need {
    Read,
    Write,
    /// Write, and be the owner (or dom0).
    Own,
}

#[derive(Debug)]
struct Domain {
    /// Tells it from an earlier domain of the same id.
    birth: u64,
    introduced: bool,
    outstanding: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct WatchEntry {
    /// Absolute, or special (`@...`).
    path: String,
    token: Vec<u8>,
    /// Bytes at the front of an event's path that a relative watch does not show.
    hidden: usize,
}

#[derive(Debug)]
struct Connection {
    domid: DomId,
    watches: Vec<WatchEntry>,
    transactions: HashMap<u32, Transaction>,
    last_transaction: u32,
    outbox: Outbox,
}

/// The state of the store and of everyone connected.
#[derive(Debug)]
pub struct Core {
    tree: Tree,
    domains: BTreeMap<DomId, Domain>,
    connections: BTreeMap<ConnectionId, Connection>,
    /// Who sees [`INTRODUCED`] and [`RELEASED`] fire.
    special: [(&'static str, Vec<Permission>); 2],
    last_connection: u64,
    last_birth: u64,
}

/// The answer to a request, and the event that follows it (a new watch fires once).
struct Answer {
    payload: Vec<u8>,
    then: Option<(String, Vec<u8>)>,
}

impl From<Vec<u8>> for Answer {
    fn from(payload: Vec<u8>) -> Answer {
        Answer {
            payload,
            then: None,
        }
    }
}

fn ok() -> Answer {
    b"OK\0".to_vec().into()
}

fn privileged(domid: DomId) -> bool {
    domid == DomId(0)
}

fn home(domid: DomId) -> String {
    format!("/local/domain/{}", domid.0)
}

/// Whether the permissions give the domain this.
fn allows(permissions: &[Permission], domid: DomId, need: Need) -> bool {
    let Some((owner, others)) = permissions.split_first() else {
        return false;
    };
    if privileged(domid) || owner.domid == domid {
        return true;
    }
    let granted = others.iter().find(|p| p.domid == domid).unwrap_or(owner);
    match need {
        Need::Read => granted.read,
        Need::Write => granted.write,
        Need::Own => false,
    }
}

/// Whether the text is a node's absolute path.
fn is_valid_path(path: &str) -> bool {
    let characters = |b: u8| b.is_ascii_alphanumeric() || b"-/_@".contains(&b);
    // What follows /local/domain/N/ may be as long as a path relative to it.
    let relative = path
        .strip_prefix("/local/domain/")
        .and_then(|rest| rest.split_once('/'))
        .filter(|(domid, _)| {
            (1..=5).contains(&domid.len()) && domid.bytes().all(|b| b.is_ascii_digit())
        })
        .map_or(path, |(_, rest)| rest);
    path.starts_with('/')
        && (path == "/" || !path.ends_with('/'))
        && !path.contains("//")
        && path.len() <= wire::ABSOLUTE_PATH_MAX
        && relative.len() <= wire::RELATIVE_PATH_MAX
        && path.bytes().all(characters)
}

/// A path as the connection's domain means it. Only valid characters pass, so it is text.
fn absolute(domid: DomId, path: &[u8]) -> Result<String, Errno> {
    let path = std::str::from_utf8(path).map_err(|_| Errno::INVAL)?;
    let path = if path.starts_with(['/', '@']) {
        path.to_string()
    } else {
        format!("{}/{path}", home(domid))
    };
    Ok(path)
}

fn valid(path: String) -> Result<String, Errno> {
    if is_valid_path(&path) {
        Ok(path)
    } else {
        Err(Errno::INVAL)
    }
}

/// The payload as exactly one string.
fn one(payload: &[u8]) -> Result<&[u8], Errno> {
    match payload.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(Errno::INVAL),
    }
}

/// The payload as exactly two strings.
fn two(payload: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    let mut parts = wire::strings(payload);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(first), Some(second), None) => Ok((first, second)),
        _ => Err(Errno::INVAL),
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Result<T, Errno> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse().ok())
        .ok_or(Errno::INVAL)
}

/// The node, where the domain may have it. Who may not learns nothing of it: the error then depends on the
/// nearest folder that exists.
fn find(view: &mut View<'_>, domid: DomId, path: &str, need: Need) -> Result<Arc<Node>, Errno> {
    let node = view.get(path)?;
    let error = match node {
        Some(node) if allows(&node.permissions, domid, need) => return Ok(node),
        Some(_) => Errno::ACCESS,
        None => Errno::NOENT,
    };
    let mut above = tree::parent(path);
    loop {
        match view.get(above)? {
            Some(folder) if allows(&folder.permissions, domid, need) => return Err(error),
            Some(_) => return Err(Errno::ACCESS),
            None if above == "/" => return Err(Errno::ACCESS),
            None => above = tree::parent(above),
        }
    }
}

fn check_size(domid: DomId, node: &Node) -> Result<(), Errno> {
    if !privileged(domid) && node.size() >= NODE_SIZE_MAX {
        Err(Errno::NOSPC)
    } else {
        Ok(())
    }
}

/// Creates the node and the folders above it that are missing: all of them or none.
fn create(view: &mut View<'_>, domid: DomId, path: &str, value: Vec<u8>) -> Result<(), Errno> {
    let mut missing = vec![path];
    let mut above = tree::parent(path);
    let top = loop {
        match view.get(above)? {
            Some(node) => break node,
            None if above == "/" => return Err(Errno::IO),
            None => {
                missing.push(above);
                above = tree::parent(above);
            }
        }
    };
    if !privileged(domid) && view.owned(domid) + missing.len() as i64 > NODES_MAX {
        return Err(Errno::NOSPC);
    }
    // Permissions are inherited, but what a guest creates is its own.
    let mut permissions = top.permissions.clone();
    if let Some(owner) = permissions.first_mut().filter(|_| !privileged(domid)) {
        owner.domid = domid;
    }
    let mut top = Node::clone(&top);
    let mut writes = Vec::with_capacity(missing.len());
    let mut value = Some(value);
    let mut below: Option<&str> = None;
    for path in missing {
        let mut node = Node::new(permissions.clone());
        node.value = value.take().unwrap_or_default();
        node.children.extend(below.map(str::to_string));
        check_size(domid, &node)?;
        below = Some(tree::name(path));
        writes.push((path, node));
    }
    top.children.extend(below.map(str::to_string));
    check_size(domid, &top)?;
    view.put(above, top)?;
    for (path, node) in writes.into_iter().rev() {
        view.put(path, node)?;
    }
    Ok(())
}

/// Removes the node and everything below it.
fn remove(view: &mut View<'_>, path: &str) -> Result<(), Errno> {
    let folder = tree::parent(path);
    let Some(parent) = view.get(folder)? else {
        return Err(Errno::INVAL);
    };
    // The folders come before what is in them: backwards, the leaves go first.
    let mut doomed = vec![path.to_string()];
    let mut next = 0;
    while let Some(at) = doomed.get(next).cloned() {
        if let Some(node) = view.get(&at)? {
            doomed.extend(node.children.iter().map(|name| tree::child(&at, name)));
        }
        next += 1;
    }
    for at in doomed.iter().rev() {
        let before = view.get(at)?;
        view.delete(at);
        view.changed(at, at != path, before);
    }
    let mut parent = Node::clone(&parent);
    parent.children.retain(|name| name != tree::name(path));
    view.put(folder, parent)
}

impl Core {
    /// An empty store with dom0.
    pub fn new() -> Core {
        let dom0_only = || vec![Permission::none(DomId(0))];
        let mut core = Core {
            tree: Tree::new(),
            domains: BTreeMap::new(),
            connections: BTreeMap::new(),
            special: [(INTRODUCED, dom0_only()), (RELEASED, dom0_only())],
            last_connection: 0,
            last_birth: 0,
        };
        core.domain_created(DomId(0));
        if let Some(dom0) = core.domains.get_mut(&DomId(0)) {
            dom0.introduced = true;
        }
        core
    }

    /// The hypervisor created a domain; it is not introduced yet.
    pub fn domain_created(&mut self, domid: DomId) {
        if self.domains.contains_key(&domid) {
            return;
        }
        // What was granted before anyone had this id was not meant for this domain.
        self.strip(domid);
        self.last_birth += 1;
        let outstanding = Arc::new(AtomicUsize::new(0));
        self.domains.insert(
            domid,
            Domain {
                birth: self.last_birth,
                introduced: false,
                outstanding,
            },
        );
    }

    /// The hypervisor destroyed a domain: its nodes, watches, transactions and connections go.
    pub fn domain_destroyed(&mut self, domid: DomId) {
        if privileged(domid) {
            return;
        }
        if let Some(domain) = self.domains.remove(&domid) {
            self.forget(domid, domain.introduced);
        }
    }

    /// Tells a domain from an earlier one of the same id; `None` where there is no such domain.
    pub fn birth(&self, domid: DomId) -> Option<u64> {
        self.domains.get(&domid).map(|domain| domain.birth)
    }

    /// Adds a connection of this domain; `None` where it has too many or does not exist.
    pub fn connect(&mut self, domid: DomId) -> Option<ConnectionId> {
        let most = if privileged(domid) {
            PRIVILEGED_CONNECTIONS_MAX
        } else {
            GUEST_CONNECTIONS_MAX
        };
        let has = self
            .connections
            .values()
            .filter(|c| c.domid == domid)
            .count();
        if has >= most || !self.domains.contains_key(&domid) {
            return None;
        }
        self.last_connection += 1;
        let id = ConnectionId(self.last_connection);
        let connection = Connection {
            domid,
            watches: Vec::new(),
            transactions: HashMap::new(),
            last_transaction: 0,
            outbox: Outbox::new(privileged(domid)),
        };
        self.connections.insert(id, connection);
        Some(id)
    }

    /// Removes a connection with its watches and transactions.
    pub fn disconnect(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    /// What waits to be sent on the connection; `None` where it is to be closed.
    pub fn outbox(&mut self, id: ConnectionId) -> Option<&mut Outbox> {
        let outbox = &mut self.connections.get_mut(&id)?.outbox;
        if outbox.overflowed() {
            None
        } else {
            Some(outbox)
        }
    }

    /// Whether a request of this connection may be taken now.
    pub fn may_read(&self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get(&id) else {
            return false;
        };
        let Some(domain) = self.domains.get(&connection.domid) else {
            return false;
        };
        domain.introduced
            && connection.outbox.replies() < OUTSTANDING_MAX
            && domain.outstanding.load(Ordering::Relaxed) < OUTSTANDING_MAX
    }

    /// Takes one request; the answer and the events it causes go to the outboxes.
    pub fn request(&mut self, id: ConnectionId, message: &Message) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let domid = connection.domid;
        let header = message.header;
        // Watches do not belong to transactions: there the id is ignored.
        let op = Op::from_u32(header.kind);
        let in_transaction = header.tx_id != 0 && !matches!(op, Some(Op::Watch | Op::Unwatch));
        let mut transaction = if in_transaction {
            connection.transactions.remove(&header.tx_id)
        } else {
            None
        };
        let answer = if in_transaction && transaction.is_none() {
            Err(Errno::NOENT)
        } else if let Some(op) = op {
            let charge = match self.domains.get(&domid) {
                Some(domain) if !privileged(domid) => Some(Charge::new(&domain.outstanding)),
                _ => None,
            };
            self.answer(
                id,
                domid,
                op,
                &mut transaction,
                &message.payload,
                charge.as_ref(),
            )
        } else {
            Err(Errno::NOSYS)
        };
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if let Some(transaction) = transaction {
            connection.transactions.insert(header.tx_id, transaction);
        }
        let outbox = &mut connection.outbox;
        let mut reply =
            |kind, payload: &[u8]| outbox.reply(kind, header.req_id, header.tx_id, payload);
        match (op, answer) {
            (Some(op), Ok(answer)) if answer.payload.len() <= wire::PAYLOAD_MAX => {
                reply(op, &answer.payload);
                if let Some((path, token)) = answer.then {
                    outbox.event(&path, &token, false, None);
                }
            }
            (_, Ok(_)) => reply(Op::Error, &error_payload(Errno::TOOBIG)),
            (_, Err(errno)) => reply(Op::Error, &error_payload(errno)),
        }
    }

    fn answer(
        &mut self,
        id: ConnectionId,
        domid: DomId,
        op: Op,
        transaction: &mut Option<Transaction>,
        payload: &[u8],
        charge: Option<&Arc<Charge>>,
    ) -> Result<Answer, Errno> {
        match op {
            Op::Control | Op::Introduce | Op::Release | Op::IsDomainIntroduced
                if !privileged(domid) =>
            {
                Err(Errno::ACCESS)
            }
            Op::Directory | Op::DirectoryPart | Op::Read | Op::GetPerms => {
                let mut view = View::new(&mut self.tree, transaction.as_mut());
                look(&mut view, domid, op, payload).map(Answer::from)
            }
            Op::SetPerms if payload.first() == Some(&b'@') => {
                self.set_special_permissions(domid, payload)
            }
            Op::Write | Op::Mkdir | Op::Rm | Op::SetPerms => {
                let exists = |domid| self.domains.contains_key(&domid);
                let mut view = View::new(&mut self.tree, transaction.as_mut());
                let done = change(&mut view, domid, op, payload, exists);
                let changes = view.into_changes();
                done?;
                self.fire(&changes, charge);
                Ok(ok())
            }
            Op::Watch => self.watch(id, domid, payload),
            Op::Unwatch => self.unwatch(id, domid, payload),
            Op::ResetWatches => {
                self.reset(|c_id, _| c_id == id);
                // The transaction this came in, if any, goes with the others.
                *transaction = None;
                Ok(ok())
            }
            Op::TransactionStart => self.transaction_start(id, domid, transaction),
            Op::TransactionEnd => self.transaction_end(domid, transaction, payload, charge),
            Op::Introduce => self.introduce(payload),
            Op::Release => self.release(payload),
            Op::GetDomainPath => {
                let mut path = home(DomId(number(one(payload)?)?)).into_bytes();
                path.push(0);
                Ok(path.into())
            }
            Op::IsDomainIntroduced => {
                let domid: u16 = number(one(payload)?)?;
                let known = domid == DOMID_SELF
                    || self
                        .domains
                        .get(&DomId(domid))
                        .is_some_and(|d| d.introduced);
                Ok(if known {
                    b"T\0".to_vec()
                } else {
                    b"F\0".to_vec()
                }
                .into())
            }
            Op::Control => self.control(payload),
            Op::Resume | Op::SetTarget | Op::WatchEvent | Op::Error => Err(Errno::NOSYS),
        }
    }

    fn set_special_permissions(&mut self, domid: DomId, payload: &[u8]) -> Result<Answer, Errno> {
        let mut parts = wire::strings(payload);
        let name = parts.next().ok_or(Errno::INVAL)?;
        let permissions = parse_permissions(domid, parts)?;
        let special = self
            .special
            .iter_mut()
            .find(|(n, _)| n.as_bytes() == name)
            .ok_or(Errno::INVAL)?;
        if !allows(&special.1, domid, Need::Own) {
            return Err(Errno::ACCESS);
        }
        special.1 = permissions;
        Ok(ok())
    }

    fn watch(&mut self, id: ConnectionId, domid: DomId, payload: &[u8]) -> Result<Answer, Errno> {
        let (path, token) = two(payload)?;
        let (path, hidden) = match path.first() {
            Some(b'@') if path.len() > wire::RELATIVE_PATH_MAX => return Err(Errno::INVAL),
            Some(b'@') => (absolute(domid, path)?, 0),
            Some(b'/') => (valid(absolute(domid, path)?)?, 0),
            _ => (valid(absolute(domid, path)?)?, home(domid).len() + 1),
        };
        let has: usize = self
            .connections
            .values()
            .filter(|c| c.domid == domid)
            .map(|c| c.watches.len())
            .sum();
        let connection = self.connections.get_mut(&id).ok_or(Errno::IO)?;
        if connection
            .watches
            .iter()
            .any(|w| w.path == path && w.token == token)
        {
            return Err(Errno::EXIST);
        }
        if !privileged(domid) && has > WATCHES_MAX {
            return Err(Errno::TOOBIG);
        }
        let shown = path.get(hidden..).unwrap_or_default().to_string();
        connection.watches.push(WatchEntry {
            path,
            token: token.to_vec(),
            hidden,
        });
        Ok(Answer {
            payload: b"OK\0".to_vec(),
            then: Some((shown, token.to_vec())),
        })
    }

    fn unwatch(&mut self, id: ConnectionId, domid: DomId, payload: &[u8]) -> Result<Answer, Errno> {
        let (path, token) = two(payload)?;
        let path = absolute(domid, path)?;
        let watches = &mut self.connections.get_mut(&id).ok_or(Errno::IO)?.watches;
        let at = watches
            .iter()
            .position(|w| w.path == path && w.token == token)
            .ok_or(Errno::NOENT)?;
        watches.remove(at);
        Ok(ok())
    }

    fn transaction_start(
        &mut self,
        id: ConnectionId,
        domid: DomId,
        nested: &mut Option<Transaction>,
    ) -> Result<Answer, Errno> {
        if nested.is_some() {
            return Err(Errno::BUSY);
        }
        let open: usize = self
            .connections
            .values()
            .filter(|c| c.domid == domid)
            .map(|c| c.transactions.len())
            .sum();
        if !privileged(domid) && open > TRANSACTIONS_MAX {
            return Err(Errno::NOSPC);
        }
        let most_nodes = if privileged(domid) {
            None
        } else {
            Some(TRANSACTION_NODES_MAX)
        };
        let connection = self.connections.get_mut(&id).ok_or(Errno::IO)?;
        loop {
            connection.last_transaction = connection.last_transaction.wrapping_add(1);
            let tx_id = connection.last_transaction;
            if tx_id != 0 && !connection.transactions.contains_key(&tx_id) {
                connection
                    .transactions
                    .insert(tx_id, self.tree.begin(most_nodes));
                return Ok(format!("{tx_id}\0").into_bytes().into());
            }
        }
    }

    fn transaction_end(
        &mut self,
        domid: DomId,
        transaction: &mut Option<Transaction>,
        payload: &[u8],
        charge: Option<&Arc<Charge>>,
    ) -> Result<Answer, Errno> {
        let commit = match one(payload)? {
            b"T" => true,
            b"F" => false,
            _ => return Err(Errno::INVAL),
        };
        let transaction = transaction.take().ok_or(Errno::NOENT)?;
        if !commit {
            return Ok(ok());
        }
        if !self.tree.can_commit(&transaction) {
            return Err(Errno::AGAIN);
        }
        // C xenstored stops one short here.
        let over = |(owner, more): (DomId, i64)| {
            !privileged(owner) && more > 0 && self.tree.owned(owner) as i64 + more >= NODES_MAX
        };
        if !privileged(domid) && transaction.owned().any(over) {
            return Err(Errno::NOSPC);
        }
        let changes = self.tree.commit(transaction);
        self.fire(&changes, charge);
        Ok(ok())
    }

    fn introduce(&mut self, payload: &[u8]) -> Result<Answer, Errno> {
        let mut parts = wire::strings(payload);
        let (Some(domid), Some(mfn), Some(port)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(Errno::INVAL);
        };
        let domid = DomId(number(domid)?);
        // The ring and its event channel are the socket's business here; they are checked and not used.
        let _: u64 = number(mfn)?;
        let port: u32 = number(port)?;
        if port == 0 || domid.0 >= DOMID_FIRST_RESERVED {
            return Err(Errno::INVAL);
        }
        let domain = self.domains.get_mut(&domid).ok_or(Errno::INVAL)?;
        if domain.introduced {
            // Introduced again: whoever spoke for the domain starts anew.
            if !privileged(domid) {
                self.reset(|_, c| c.domid == domid);
            }
            return Ok(ok());
        }
        domain.introduced = true;
        self.fire_special(INTRODUCED);
        Ok(ok())
    }

    fn release(&mut self, payload: &[u8]) -> Result<Answer, Errno> {
        let domid = DomId(number(one(payload)?)?);
        if privileged(domid) {
            return Err(Errno::INVAL);
        }
        let domain = self
            .domains
            .get_mut(&domid)
            .filter(|d| d.introduced)
            .ok_or(Errno::NOENT)?;
        domain.introduced = false;
        self.forget(domid, true);
        Ok(ok())
    }

    fn control(&self, payload: &[u8]) -> Result<Answer, Errno> {
        let mut parts = wire::strings(payload);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(b"help"), None, _) => Ok(b"help\nquota <domid>\n\0".to_vec().into()),
            (Some(b"quota"), Some(domid), None) => {
                let domid = DomId(number(domid)?);
                let domain = self.domains.get(&domid).ok_or(Errno::NOENT)?;
                let its = || self.connections.values().filter(|c| c.domid == domid);
                let text = format!(
                    "nodes: {}\nwatches: {}\ntransactions: {}\noutstanding: {}\n\0",
                    self.tree.owned(domid),
                    its().map(|c| c.watches.len()).sum::<usize>(),
                    its().map(|c| c.transactions.len()).sum::<usize>(),
                    domain.outstanding.load(Ordering::Relaxed),
                );
                Ok(text.into_bytes().into())
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// Drops the watches and transactions of some connections.
    fn reset(&mut self, which: impl Fn(ConnectionId, &Connection) -> bool) {
        for (id, connection) in &mut self.connections {
            if which(*id, connection) {
                connection.watches.clear();
                connection.transactions.clear();
            }
        }
    }

    /// Removes what a domain leaves: its connections, the nodes it owns with all below them, and its entries in
    /// the permissions of others' nodes, which a later domain of the same id must not inherit.
    fn forget(&mut self, domid: DomId, was_introduced: bool) {
        self.connections
            .retain(|_, connection| connection.domid != domid);
        for path in self.tree.paths_where(|node| node.owner() == domid) {
            // It may have gone with a folder already, and the root is nobody's to remove.
            if path == "/" || self.tree.get(&path).is_none() {
                continue;
            }
            let mut view = View::new(&mut self.tree, None);
            if remove(&mut view, &path).is_ok() {
                let changes = view.into_changes();
                self.fire(&changes, None);
            }
        }
        for (_, permissions) in &mut self.special {
            if permissions
                .first()
                .is_some_and(|owner| owner.domid == domid)
            {
                *permissions = vec![Permission::none(DomId(0))];
            }
        }
        self.strip(domid);
        if was_introduced {
            self.fire_special(RELEASED);
        }
    }

    /// Removes a domain's entries from the permissions of others' nodes.
    fn strip(&mut self, domid: DomId) {
        let named = |node: &Node| node.permissions.iter().skip(1).any(|p| p.domid == domid);
        for path in self.tree.paths_where(named) {
            let Some(node) = self.tree.get(&path) else {
                continue;
            };
            let mut node = Node::clone(node);
            strip_entries(&mut node.permissions, domid);
            // Without a transaction there is no limit that could refuse.
            let _ = View::new(&mut self.tree, None).put(&path, node);
        }
        for (_, permissions) in &mut self.special {
            strip_entries(permissions, domid);
        }
    }

    fn fire(&mut self, changes: &[Change], charge: Option<&Arc<Charge>>) {
        for change in changes {
            let node = self.tree.get(&change.path);
            let folder = self.tree.get(tree::parent(&change.path));
            let before = change.before.as_ref();
            for connection in self.connections.values_mut() {
                // Told is who can read the node, could before, or can list its folder.
                let reads = |node: Option<&Arc<Node>>| {
                    node.is_some_and(|n| allows(&n.permissions, connection.domid, Need::Read))
                };
                if !(reads(before) || reads(node) || reads(folder)) {
                    continue;
                }
                for watch in &connection.watches {
                    let fits = if change.exact {
                        change.path == watch.path
                    } else {
                        tree::is_at_or_below(&change.path, &watch.path)
                    };
                    if fits {
                        let shown = change.path.get(watch.hidden..).unwrap_or_default();
                        connection.outbox.event(shown, &watch.token, false, charge);
                    }
                }
            }
        }
    }

    fn fire_special(&mut self, name: &str) {
        let Some((_, permissions)) = self.special.iter().find(|(n, _)| *n == name) else {
            return;
        };
        for connection in self.connections.values_mut() {
            if !allows(permissions, connection.domid, Need::Read) {
                continue;
            }
            for watch in connection.watches.iter().filter(|w| w.path == name) {
                connection.outbox.event(name, &watch.token, true, None);
            }
        }
    }
}

/// Leaves out what names the domain behind the first entry, which is the owner's.
fn strip_entries(permissions: &mut Vec<Permission>, domid: DomId) {
    let mut is_owner = true;
    permissions.retain(|p| std::mem::take(&mut is_owner) || p.domid != domid);
}

fn error_payload(errno: Errno) -> Vec<u8> {
    let mut payload = wire::error_name(errno).as_bytes().to_vec();
    payload.push(0);
    payload
}

/// The operations that read.
fn look(view: &mut View<'_>, domid: DomId, op: Op, payload: &[u8]) -> Result<Vec<u8>, Errno> {
    let (path, offset) = match op {
        Op::DirectoryPart => {
            let (path, offset) = two(payload)?;
            (path, number::<usize>(offset)?)
        }
        _ => (one(payload)?, 0),
    };
    let path = valid(absolute(domid, path)?)?;
    let node = find(view, domid, &path, Need::Read)?;
    let nul_terminated = |list: &mut Vec<u8>, text: &str| {
        list.extend_from_slice(text.as_bytes());
        list.push(0);
    };
    let mut list = Vec::new();
    match op {
        Op::Read => list.extend_from_slice(&node.value),
        Op::GetPerms => node
            .permissions
            .iter()
            .for_each(|p| nul_terminated(&mut list, &p.to_string())),
        Op::Directory => node
            .children
            .iter()
            .for_each(|name| nul_terminated(&mut list, name)),
        _ => {
            nul_terminated(&mut list, &node.generation.to_string());
            // The offset is in bytes of the whole list; whole names from there, as many as fit, and an empty
            // one behind the last.
            let mut at = 0;
            for name in &node.children {
                let end = at + name.len() + 1;
                if at >= offset {
                    if list.len() + name.len() + 2 > wire::PAYLOAD_MAX {
                        return Ok(list);
                    }
                    nul_terminated(&mut list, name);
                }
                at = end;
            }
            list.push(0);
        }
    }
    Ok(list)
}

/// The operations that write.
fn change(
    view: &mut View<'_>,
    domid: DomId,
    op: Op,
    payload: &[u8],
    exists: impl Fn(DomId) -> bool,
) -> Result<(), Errno> {
    let mut parts = wire::strings(payload);
    let first = match op {
        Op::Mkdir | Op::Rm => one(payload)?,
        _ => parts.next().ok_or(Errno::INVAL)?,
    };
    let path = valid(absolute(domid, first)?)?;
    let need = if op == Op::SetPerms {
        Need::Own
    } else {
        Need::Write
    };
    let permissions = match op {
        Op::SetPerms => parse_permissions(domid, parts)?,
        _ => Vec::new(),
    };
    let node = find(view, domid, &path, need);
    match (op, node) {
        (Op::Write, node) => {
            let value = payload.get(first.len() + 1..).unwrap_or_default().to_vec();
            match node {
                Ok(node) => {
                    let mut node = Node::clone(&node);
                    node.value = value;
                    check_size(domid, &node)?;
                    view.put(&path, node)?;
                }
                Err(Errno::NOENT) => create(view, domid, &path, value)?,
                Err(e) => return Err(e),
            }
            view.changed(&path, false, None);
            Ok(())
        }
        (Op::Mkdir, Ok(_)) => Ok(()),
        (Op::Mkdir, Err(Errno::NOENT)) => {
            create(view, domid, &path, Vec::new())?;
            view.changed(&path, false, None);
            Ok(())
        }
        (Op::Rm, Ok(_)) if path == "/" => Err(Errno::INVAL),
        (Op::Rm, Ok(_)) => remove(view, &path),
        // What is not there is removed already, where the folder is there.
        (Op::Rm, Err(Errno::NOENT)) if view.get(tree::parent(&path))?.is_some() => Ok(()),
        (Op::SetPerms, Ok(node)) => {
            let owner = permissions.first().map_or(DomId(0), |p| p.domid);
            if !privileged(domid) && owner != node.owner() {
                return Err(Errno::PERM);
            }
            if !exists(owner) {
                return Err(Errno::NOENT);
            }
            let mut changed = Node::clone(&node);
            changed.permissions = permissions;
            check_size(domid, &changed)?;
            view.put(&path, changed)?;
            view.changed(&path, false, Some(node));
            Ok(())
        }
        (_, Err(e)) => Err(e),
        (_, Ok(_)) => Err(Errno::NOSYS),
    }
}

fn parse_permissions<'a>(
    domid: DomId,
    texts: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<Permission>, Errno> {
    let parse = |text: &[u8]| {
        std::str::from_utf8(text)
            .ok()
            .and_then(|t| t.parse().ok())
            .ok_or(Errno::INVAL)
    };
    let permissions = texts
        .map(parse)
        .collect::<Result<Vec<Permission>, Errno>>()?;
    if permissions.is_empty() {
        return Err(Errno::INVAL);
    }
    if !privileged(domid) && permissions.len() > PERMISSIONS_MAX {
        return Err(Errno::NOSPC);
    }
    Ok(permissions)
}
