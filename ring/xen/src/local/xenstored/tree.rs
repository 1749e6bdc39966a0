//! The nodes of the local XenStore: values, permissions, generations, and transactions over them.
//!
//! Pure data with C xenstored's rules: one generation per node, optimistic transactions that fail when a node
//! they read was changed meanwhile. It must never know of connections, watches or who asks.

use std::collections::HashMap;
use std::sync::Arc;

use rustix::io::Errno;

use crate::platform::DomId;
use crate::store::Permission;

/// One node. Never changed in place: transactions and the tree share it.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Node {
    /// Differs after every change of this node (its value, permissions or list of children).
    pub generation: u64,
    /// Never empty; the first entry is the owner.
    pub permissions: Vec<Permission>,
    /// Any bytes.
    pub value: Vec<u8>,
    /// Names, in the order of their creation.
    pub children: Vec<String>,
}

impl Node {
    /// A node without value or children.
    pub fn new(permissions: Vec<Permission>) -> Node {
        Node {
            generation: 0,
            permissions,
            value: Vec::new(),
            children: Vec::new(),
        }
    }

    /// Whose node it is.
    pub fn owner(&self) -> DomId {
        self.permissions.first().map_or(DomId(0), |p| p.domid)
    }

    /// What C xenstored counts against the quota on a node's size: its database record, that is a header of
    /// 24 bytes, 8 a permission, the value and the children's names with their NULs.
    pub fn size(&self) -> usize {
        let names: usize = self.children.iter().map(|name| name.len() + 1).sum();
        24 + 8 * self.permissions.len() + self.value.len() + names
    }
}

/// The folder above; the root is above itself.
pub fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((above, _)) => above,
    }
}

/// The last part of a path.
pub fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// The path of a child.
pub fn child(path: &str, name: &str) -> String {
    if path == "/" {
        format!("/{name}")
    } else {
        format!("{path}/{name}")
    }
}

/// Whether `path` is `above` or lies below it.
pub fn is_at_or_below(path: &str, above: &str) -> bool {
    above == "/"
        || path
            .strip_prefix(above)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The whole store.
#[derive(Debug)]
pub struct Tree {
    nodes: HashMap<String, Arc<Node>>,
    owned: HashMap<DomId, usize>,
    generation: u64,
}

impl Tree {
    /// A tree with the nodes xenstored starts with, owned by dom0 and closed to others.
    pub fn new() -> Tree {
        let mut tree = Tree {
            nodes: HashMap::new(),
            owned: HashMap::new(),
            generation: 0,
        };
        for (path, children) in [
            ("/", vec!["tool"]),
            ("/tool", vec!["xenstored"]),
            ("/tool/xenstored", vec![]),
        ] {
            let mut node = Node::new(vec![Permission::none(DomId(0))]);
            node.children = children.into_iter().map(str::to_string).collect();
            tree.put(path, node);
        }
        tree
    }

    /// The node as committed.
    pub fn get(&self, path: &str) -> Option<&Arc<Node>> {
        self.nodes.get(path)
    }

    /// How many nodes the domain owns.
    pub fn owned(&self, domid: DomId) -> usize {
        self.owned.get(&domid).copied().unwrap_or(0)
    }

    /// Every path whose node fits, shortest first, so that a folder comes before what is in it.
    pub fn paths_where(&self, fits: impl Fn(&Node) -> bool) -> Vec<String> {
        let mut paths: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, node)| fits(node))
            .map(|(path, _)| path.clone())
            .collect();
        paths.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        paths
    }

    /// Starts a transaction that may touch this many nodes.
    pub fn begin(&self, most_nodes: Option<usize>) -> Transaction {
        Transaction {
            touched: HashMap::new(),
            order: Vec::new(),
            owned: HashMap::new(),
            most_nodes,
        }
    }

    /// Whether nothing the transaction read was changed since.
    pub fn can_commit(&self, transaction: &Transaction) -> bool {
        transaction
            .touched
            .iter()
            .all(|(path, touched)| match touched.read {
                None => true,
                Some(generation) => generation == self.nodes.get(path).map(|node| node.generation),
            })
    }

    /// Makes the transaction's changes the tree's. Returns the watches to fire, in the order of the changes.
    pub fn commit(&mut self, mut transaction: Transaction) -> Vec<Change> {
        let mut changes = Vec::new();
        for path in std::mem::take(&mut transaction.order) {
            let Some(touched) = transaction.touched.remove(&path) else {
                continue;
            };
            if !touched.modified {
                continue;
            }
            let before = self.nodes.get(&path).cloned();
            match &touched.now {
                Some(node) => self.put(&path, Node::clone(node)),
                None => self.delete(&path),
            }
            if let Some(exact) = touched.fires {
                changes.push(Change {
                    path,
                    exact,
                    before,
                });
            }
        }
        changes
    }

    fn put(&mut self, path: &str, mut node: Node) {
        self.generation += 1;
        node.generation = self.generation;
        *self.owned.entry(node.owner()).or_default() += 1;
        if let Some(old) = self.nodes.insert(path.to_string(), Arc::new(node)) {
            self.disown(old.owner());
        }
    }

    fn delete(&mut self, path: &str) {
        if let Some(old) = self.nodes.remove(path) {
            self.disown(old.owner());
        }
    }

    fn disown(&mut self, owner: DomId) {
        if let Some(count) = self.owned.get_mut(&owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.owned.remove(&owner);
            }
        }
    }
}

/// A change whose watches are to fire.
#[derive(Clone, Debug)]
pub struct Change {
    /// What changed.
    pub path: String,
    /// Only watches of this very path fire, not those above it (a node removed along with its folder).
    pub exact: bool,
    /// The node before the change: who could read it then is told, too.
    pub before: Option<Arc<Node>>,
}

/// What a transaction has read and written.
#[derive(Debug)]
pub struct Transaction {
    touched: HashMap<String, Touched>,
    order: Vec<String>,
    /// By how many each domain's nodes grew.
    owned: HashMap<DomId, i64>,
    most_nodes: Option<usize>,
}

#[derive(Debug)]
struct Touched {
    /// The generation it was read at (`Some(None)`: it did not exist); `None` where it was only written.
    read: Option<Option<u64>>,
    now: Option<Arc<Node>>,
    modified: bool,
    /// Its watches fire at commit; the value is [`Change::exact`].
    fires: Option<bool>,
}

impl Transaction {
    /// How many nodes more each domain owns in here.
    pub fn owned(&self) -> impl Iterator<Item = (DomId, i64)> {
        self.owned.iter().map(|(domid, more)| (*domid, *more))
    }

    fn touch(&mut self, path: &str, touched: Touched) -> Result<(), Errno> {
        if self
            .most_nodes
            .is_some_and(|most| self.touched.len() >= most)
        {
            return Err(Errno::NOSPC);
        }
        self.order.push(path.to_string());
        self.touched.insert(path.to_string(), touched);
        Ok(())
    }

    fn own(&mut self, domid: DomId, more: i64) {
        *self.owned.entry(domid).or_default() += more;
    }
}

/// The tree as a request sees it: directly, or through its transaction. Collects the watches to fire.
pub struct View<'a> {
    tree: &'a mut Tree,
    transaction: Option<&'a mut Transaction>,
    changes: Vec<Change>,
}

impl<'a> View<'a> {
    /// The tree seen through a transaction, or directly.
    pub fn new(tree: &'a mut Tree, transaction: Option<&'a mut Transaction>) -> View<'a> {
        View {
            tree,
            transaction,
            changes: Vec::new(),
        }
    }

    /// The watches to fire now: none within a transaction, which keeps them until it commits.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// The node. In a transaction, the first look decides: it sees what it saw then, or what it wrote.
    pub fn get(&mut self, path: &str) -> Result<Option<Arc<Node>>, Errno> {
        let Some(transaction) = &mut self.transaction else {
            return Ok(self.tree.nodes.get(path).cloned());
        };
        if let Some(touched) = transaction.touched.get(path) {
            return Ok(touched.now.clone());
        }
        let now = self.tree.nodes.get(path).cloned();
        let read = Some(now.as_ref().map(|node| node.generation));
        transaction.touch(
            path,
            Touched {
                read,
                now: now.clone(),
                modified: false,
                fires: None,
            },
        )?;
        Ok(now)
    }

    /// How many nodes the domain owns.
    pub fn owned(&self, domid: DomId) -> i64 {
        let more = self
            .transaction
            .as_ref()
            .and_then(|t| t.owned.get(&domid).copied())
            .unwrap_or(0);
        i64::try_from(self.tree.owned(domid))
            .unwrap_or(i64::MAX)
            .saturating_add(more)
    }

    /// Writes the node.
    pub fn put(&mut self, path: &str, node: Node) -> Result<(), Errno> {
        match &mut self.transaction {
            None => self.tree.put(path, node),
            Some(transaction) => {
                let owner = node.owner();
                let node = Some(Arc::new(node));
                let before = match transaction.touched.get_mut(path) {
                    Some(touched) => {
                        touched.modified = true;
                        std::mem::replace(&mut touched.now, node)
                    }
                    None => {
                        transaction.touch(
                            path,
                            Touched {
                                read: None,
                                now: node,
                                modified: true,
                                fires: None,
                            },
                        )?;
                        self.tree.nodes.get(path).cloned()
                    }
                };
                if let Some(before) = before {
                    transaction.own(before.owner(), -1);
                }
                transaction.own(owner, 1);
            }
        }
        Ok(())
    }

    /// Removes a node that was looked at before; its folder's list is the caller's.
    pub fn delete(&mut self, path: &str) {
        match &mut self.transaction {
            None => self.tree.delete(path),
            Some(transaction) => {
                let Some(touched) = transaction.touched.get_mut(path) else {
                    return;
                };
                touched.modified = true;
                if let Some(before) = touched.now.take() {
                    transaction.own(before.owner(), -1);
                }
            }
        }
    }

    /// The watches of this path are to fire: now, or when the transaction commits.
    pub fn changed(&mut self, path: &str, exact: bool, before: Option<Arc<Node>>) {
        match &mut self.transaction {
            None => self.changes.push(Change {
                path: path.to_string(),
                exact,
                before,
            }),
            Some(transaction) => {
                if let Some(touched) = transaction.touched.get_mut(path) {
                    touched.fires = Some(exact);
                }
            }
        }
    }
}
