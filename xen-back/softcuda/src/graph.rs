//! Graphs: operations and what each must wait for, built by a program or by stream capture, and their
//! executable form, which is submitted as a whole. What a node does is checked when it is set, with the
//! context of that time; a launch must only ever submit what was checked.

use crate::context::Context;
use crate::driver::Driver;
use crate::engine::{Lane, Step, TaskId};
use crate::event::Event;
use crate::memory::{Allocation, Home};
use crate::work::{Copy, CopyRows, FillRows, Host, Kernel, Source, Work};
use cuda_abi::{CuResult, Handle, Kind};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Graphs in graphs, at most this deep.
const MAX_DEPTH: u32 = 64;

/// `CUgraph`.
pub enum GraphKind {}
impl Kind for GraphKind {
    const TAG: u8 = 0x31;
    const NAME: &'static str = "CUgraph";
}
/// `CUgraphNode`.
pub enum NodeKind {}
impl Kind for NodeKind {
    const TAG: u8 = 0x32;
    const NAME: &'static str = "CUgraphNode";
}
/// `CUgraphExec`.
pub enum ExecKind {}
impl Kind for ExecKind {
    const TAG: u8 = 0x33;
    const NAME: &'static str = "CUgraphExec";
}

/// What a node does.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Nothing.
    Empty,
    /// Runs a kernel.
    Kernel(Arc<KernelNode>),
    /// Copies.
    Copy(CopyNode, Arc<Context>),
    /// Fills memory.
    Fill(FillRows, Arc<Context>),
    /// Calls a function of the program's.
    Host(unsafe extern "C" fn(*mut std::ffi::c_void), usize),
    /// All of another graph.
    Graph(Arc<Graph>),
    /// Waits for an event, with its handle.
    WaitEvent(Arc<Event>, u64),
    /// Records an event, with its handle.
    RecordEvent(Arc<Event>, u64),
    /// Memory of the graph's own becomes usable: where and how many bytes.
    Alloc(Arc<Reservation>, u64),
    /// And is not used any more.
    Free(u64),
    /// Writes and awaits words, one after the other.
    Words(Vec<Work>, Arc<Context>),
}

/// A kernel's launch, in the form in which programs ask for it.
#[derive(Debug)]
pub struct KernelNode {
    /// What is run.
    pub kernel: Kernel,
    /// Where each parameter lies in `kernel.params`.
    pub pointers: Vec<usize>,
}

impl KernelNode {
    /// Of a launch.
    pub fn new(kernel: Kernel) -> KernelNode {
        let start = kernel.params.as_ptr() as usize;
        let params = &kernel.function.info().params;
        let pointers = params.iter().map(|p| start + p.offset as usize).collect();
        KernelNode { kernel, pointers }
    }
}

/// A copy in a graph.
#[derive(Debug, Clone)]
pub enum CopyNode {
    /// Of consecutive bytes, as captured: to, from, how many, and whether it ends in host memory.
    Bytes(u64, u64, u64, bool),
    /// Of a box of bytes (none if it is empty), with the words of its `CUDA_MEMCPY3D`.
    Box(Option<Box<CopyRows>>, Box<[u64; 25]>),
    /// Of a kind that only capture makes.
    Other(Work),
}

/// Device memory that a graph holds as long as it or an executable form of it is there.
pub struct Reservation {
    driver: &'static Driver,
    allocation: Allocation,
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.allocation.fmt(f)
    }
}

impl Reservation {
    /// Holds an allocation.
    pub fn new(driver: &'static Driver, allocation: Allocation) -> Reservation {
        Reservation { driver, allocation }
    }

    /// Its first address.
    pub fn start(&self) -> u64 {
        self.allocation.start
    }

    /// Index of its device.
    pub fn device(&self) -> usize {
        match self.allocation.home {
            Home::Device(device) => device,
            _ => 0,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.driver.memory.release_same(&self.allocation);
    }
}

impl Operation {
    /// The operation of captured work.
    ///
    /// # Errors
    /// CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED for work that no graph has.
    pub fn of_work(
        driver: &'static Driver,
        context: &Arc<Context>,
        work: Work,
    ) -> Result<Operation, CuResult> {
        let context = Arc::clone(context);
        Ok(match work {
            Work::Mark => Operation::Empty,
            Work::Kernel(kernel) => Operation::Kernel(Arc::new(KernelNode::new(*kernel))),
            Work::Copy(Copy {
                to,
                from: Source::Address(from),
                bytes,
                download,
            }) => Operation::Copy(CopyNode::Bytes(to, from, bytes, download), context),
            Work::Fill(fill) => {
                let node = FillRows {
                    to: fill.to,
                    pitch: fill.count * fill.value.width(),
                    value: fill.value,
                    width: fill.count,
                    height: 1,
                };
                Operation::Fill(node, context)
            }
            Work::FillRows(node) => Operation::Fill(node, context),
            Work::Host(Host::Function(function, data)) => Operation::Host(function, data),
            Work::Write(_) | Work::Await(..) => Operation::Words(vec![work], context),
            Work::Release(start) => {
                // Memory of the graph's own only: other memory would be freed by each launch.
                driver
                    .memory
                    .reserved(start)
                    .then_some(Operation::Free(start))
                    .ok_or(CuResult::STREAM_CAPTURE_UNSUPPORTED)?
            }
            Work::Record(_) | Work::Host(Host::Callback(..)) => {
                return Err(CuResult::STREAM_CAPTURE_UNSUPPORTED);
            }
            other => Operation::Copy(CopyNode::Other(other), context),
        })
    }

    /// Its `CUgraphNodeType`.
    pub fn kind(&self) -> i32 {
        match self {
            Operation::Kernel(_) => 0,
            Operation::Copy(..) => 1,
            Operation::Fill(..) => 2,
            Operation::Host(..) => 3,
            Operation::Graph(_) => 4,
            Operation::Empty => 5,
            Operation::WaitEvent(..) => 6,
            Operation::RecordEvent(..) => 7,
            Operation::Alloc(..) => 10,
            Operation::Free(_) => 11,
            Operation::Words(..) => 15,
        }
    }

    /// What is done for it, one after the other, and in which context (`None`: that of the launch).
    fn works(&self) -> (Vec<Work>, Option<Arc<Context>>) {
        match self {
            Operation::Empty
            | Operation::Graph(_)
            | Operation::Alloc(..)
            | Operation::Free(_)
            | Operation::WaitEvent(..) => (Vec::new(), None),
            Operation::Kernel(node) => {
                let context = Arc::clone(&node.kernel.function.context);
                let work = Work::Kernel(Box::new(node.kernel.clone()));
                (vec![work], Some(context))
            }
            Operation::Copy(node, context) => (node.works(), Some(Arc::clone(context))),
            Operation::Fill(node, context) => {
                (vec![Work::FillRows(*node)], Some(Arc::clone(context)))
            }
            Operation::Host(function, data) => {
                (vec![Work::Host(Host::Function(*function, *data))], None)
            }
            Operation::RecordEvent(event, _) => {
                let context = Arc::clone(&event.context);
                (vec![Work::Record(Arc::clone(event))], Some(context))
            }
            Operation::Words(works, context) => (works.clone(), Some(Arc::clone(context))),
        }
    }
}

impl CopyNode {
    fn works(&self) -> Vec<Work> {
        match self {
            CopyNode::Bytes(to, from, bytes, download) => vec![Work::Copy(Copy {
                to: *to,
                from: Source::Address(*from),
                bytes: *bytes,
                download: *download,
            })],
            CopyNode::Box(copy, _) => {
                let copy = copy.iter();
                copy.map(|copy| Work::CopyRows(copy.clone())).collect()
            }
            CopyNode::Other(work) => vec![work.clone()],
        }
    }
}

/// A node of a graph.
#[derive(Debug)]
pub struct Node {
    /// What programs call it.
    pub number: u64,
    /// The node it is a copy of, or itself.
    pub original: u64,
    /// Where it belongs.
    pub graph: Weak<Graph>,
    operation: Mutex<Operation>,
}

impl Node {
    /// What it does.
    pub fn operation(&self) -> Operation {
        self.lock().clone()
    }

    /// Gives it other parameters.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for those of another kind of node.
    pub fn set(&self, operation: Operation) -> Result<(), CuResult> {
        let mut own = self.lock();
        if own.kind() != operation.kind() {
            return Err(CuResult::INVALID_VALUE);
        }
        *own = operation;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Operation> {
        self.operation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A graph.
#[derive(Debug)]
pub struct Graph {
    /// What programs call it.
    pub number: u64,
    /// Whether it is part of a node of another graph.
    pub inner: bool,
    shape: Mutex<Shape>,
}

#[derive(Debug, Default)]
struct Shape {
    nodes: Vec<Arc<Node>>,
    /// Per node, those that it waits for.
    after: HashMap<u64, Vec<u64>>,
}

impl Graph {
    /// A graph without nodes.
    pub fn new(driver: &'static Driver) -> Arc<Graph> {
        Graph::register(driver, false)
    }

    fn register(driver: &'static Driver, inner: bool) -> Arc<Graph> {
        let number = driver.graphs.number();
        let graph = Arc::new(Graph {
            number,
            inner,
            shape: Mutex::default(),
        });
        driver.graphs.insert(number, Arc::clone(&graph));
        graph
    }

    /// Adds a node; its number.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for nodes to wait for that are not the graph's.
    pub fn add(
        self: &Arc<Graph>,
        driver: &'static Driver,
        after: &[u64],
        operation: Operation,
    ) -> Result<u64, CuResult> {
        let mut shape = self.shape();
        if !shape.has_all(after) {
            return Err(CuResult::INVALID_VALUE);
        }
        let number = driver.nodes.number();
        let mut unique: Vec<u64> = Vec::with_capacity(after.len());
        for node in after {
            if !unique.contains(node) {
                unique.push(*node);
            }
        }
        shape.insert(driver, self, number, number, unique, operation);
        Ok(number)
    }

    /// A copy of the graph and all in it.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if graphs lie too deep in each other.
    pub fn copy(
        &self,
        driver: &'static Driver,
        inner: bool,
        depth: u32,
    ) -> Result<Arc<Graph>, CuResult> {
        if depth > MAX_DEPTH {
            return Err(CuResult::INVALID_VALUE);
        }
        let (nodes, after) = {
            let shape = self.shape();
            (shape.nodes.clone(), shape.after.clone())
        };
        let copy = Graph::register(driver, inner);
        let numbers: HashMap<u64, u64> = nodes
            .iter()
            .map(|node| (node.number, driver.nodes.number()))
            .collect();
        for node in &nodes {
            let operation = match node.operation() {
                Operation::Graph(graph) => {
                    Operation::Graph(graph.copy(driver, true, depth + 1).inspect_err(|_| {
                        copy.destroy(driver);
                    })?)
                }
                other => other,
            };
            let befores = after.get(&node.number).into_iter().flatten();
            let befores = befores.filter_map(|n| numbers.get(n).copied()).collect();
            let number = numbers.get(&node.number).copied().unwrap_or_default();
            let mut shape = copy.shape();
            shape.insert(driver, &copy, number, node.number, befores, operation);
        }
        Ok(copy)
    }

    /// Ends the handles of the graph and all in it.
    pub fn destroy(&self, driver: &'static Driver) {
        driver.graphs.remove(self.number as Handle);
        let nodes = std::mem::take(&mut self.shape().nodes);
        for node in nodes {
            driver.nodes.remove(node.number as Handle);
            if let Operation::Graph(graph) = node.operation() {
                graph.destroy(driver);
            }
        }
    }

    /// Takes a node out, and what waits for it does not any more.
    pub fn remove(&self, driver: &'static Driver, number: u64) {
        let mut shape = self.shape();
        shape.nodes.retain(|node| node.number != number);
        shape.after.remove(&number);
        for after in shape.after.values_mut() {
            after.retain(|node| *node != number);
        }
        drop(shape);
        if let Some(node) = driver.nodes.remove(number as Handle)
            && let Operation::Graph(graph) = node.operation()
        {
            graph.destroy(driver);
        }
    }

    /// Its nodes, in the order they were added.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.shape().nodes.clone()
    }

    /// Its nodes that wait for none.
    pub fn roots(&self) -> Vec<u64> {
        let shape = self.shape();
        let nodes = shape.nodes.iter().map(|node| node.number);
        nodes
            .filter(|node| shape.after.get(node).is_none_or(Vec::is_empty))
            .collect()
    }

    /// Its edges: which node, and which one waits for it.
    pub fn edges(&self) -> Vec<(u64, u64)> {
        let shape = self.shape();
        let nodes = shape.nodes.iter();
        nodes
            .flat_map(|node| {
                let after = shape.after.get(&node.number);
                let after = after.into_iter().flatten();
                after.map(|from| (*from, node.number)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Whether all of these are its nodes.
    pub fn has_all(&self, nodes: &[u64]) -> bool {
        self.shape().has_all(nodes)
    }

    /// Makes nodes wait for others.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for nodes that are not the graph's, and for an edge that is there.
    pub fn connect(&self, edges: &[(u64, u64)]) -> Result<(), CuResult> {
        let mut shape = self.shape();
        for (at, (from, to)) in edges.iter().enumerate() {
            let there = shape
                .after
                .get(to)
                .is_some_and(|after| after.contains(from));
            if !shape.has_all(&[*from, *to])
                || from == to
                || there
                || edges[..at].contains(&(*from, *to))
            {
                return Err(CuResult::INVALID_VALUE);
            }
        }
        for (from, to) in edges {
            shape.after.entry(*to).or_default().push(*from);
        }
        Ok(())
    }

    /// Undoes [`Graph::connect`].
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for an edge that is not there.
    pub fn disconnect(&self, edges: &[(u64, u64)]) -> Result<(), CuResult> {
        let mut shape = self.shape();
        for (from, to) in edges {
            if !shape
                .after
                .get(to)
                .is_some_and(|after| after.contains(from))
            {
                return Err(CuResult::INVALID_VALUE);
            }
        }
        for (from, to) in edges {
            if let Some(after) = shape.after.get_mut(to) {
                after.retain(|node| node != from);
            }
        }
        Ok(())
    }

    /// Whether each of `these` is one of `those` or comes before one of them.
    pub fn precede(&self, these: &[u64], those: &[u64]) -> bool {
        let shape = self.shape();
        let mut reached: std::collections::HashSet<u64> = those.iter().copied().collect();
        let mut open: Vec<u64> = those.to_vec();
        while let Some(node) = open.pop() {
            for before in shape.after.get(&node).into_iter().flatten() {
                if reached.insert(*before) {
                    open.push(*before);
                }
            }
        }
        these.iter().all(|node| reached.contains(node))
    }

    fn shape(&self) -> MutexGuard<'_, Shape> {
        self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the graph's nodes to an executable form, behind those of `entry`; those at its end.
    ///
    /// # Errors
    /// The number of a node that waits for itself.
    fn unfold(&self, into: &mut Vec<ExecNode>, entry: &[usize]) -> Result<Vec<usize>, u64> {
        let (nodes, after) = {
            let shape = self.shape();
            (shape.nodes.clone(), shape.after.clone())
        };
        let befores = |node: &Node| after.get(&node.number).map_or(&[][..], Vec::as_slice);
        let mut open: HashMap<u64, usize> =
            nodes.iter().map(|n| (n.number, befores(n).len())).collect();
        let mut followers: HashMap<u64, Vec<usize>> = HashMap::new();
        for (at, node) in nodes.iter().enumerate() {
            for before in befores(node) {
                followers.entry(*before).or_default().push(at);
            }
        }
        // In the order they were added, as far as what they wait for allows.
        let mut ready: std::collections::BTreeSet<usize> = (0..nodes.len())
            .filter(|at| befores(&nodes[*at]).is_empty())
            .collect();
        let mut placed: HashMap<u64, usize> = HashMap::new();
        let mut last: Vec<usize> = Vec::new();
        while let Some(at) = ready.pop_first() {
            let node = &nodes[at];
            let mut waits: Vec<usize> = befores(node)
                .iter()
                .filter_map(|before| placed.get(before).copied())
                .collect();
            if waits.is_empty() {
                waits = entry.to_vec();
            }
            let operation = node.operation();
            if let Operation::Graph(graph) = &operation {
                let ends = graph.unfold(into, &waits)?;
                if !ends.is_empty() {
                    waits = ends;
                }
            }
            placed.insert(node.number, into.len());
            let next = followers.get(&node.number).map_or(&[][..], Vec::as_slice);
            if next.is_empty() {
                last.push(into.len());
            }
            into.push(ExecNode {
                node: node.number,
                operation,
                after: waits,
                enabled: true,
            });
            for follower in next {
                if let Some(count) = open.get_mut(&nodes[*follower].number) {
                    *count -= 1;
                    if *count == 0 {
                        ready.insert(*follower);
                    }
                }
            }
        }
        match nodes.iter().find(|node| !placed.contains_key(&node.number)) {
            Some(node) => Err(node.number),
            None => Ok(last),
        }
    }
}

impl Shape {
    fn has_all(&self, nodes: &[u64]) -> bool {
        nodes.iter().all(|node| self.after.contains_key(node))
    }

    fn insert(
        &mut self,
        driver: &'static Driver,
        graph: &Arc<Graph>,
        number: u64,
        original: u64,
        after: Vec<u64>,
        operation: Operation,
    ) {
        let node = Arc::new(Node {
            number,
            original,
            graph: Arc::downgrade(graph),
            operation: Mutex::new(operation),
        });
        driver.nodes.insert(number, Arc::clone(&node));
        self.nodes.push(node);
        self.after.insert(number, after);
    }
}

/// A graph ready to be launched.
#[derive(Debug)]
pub struct Exec {
    /// What programs call it.
    pub number: u64,
    /// As given when it was made.
    pub flags: u64,
    state: Mutex<ExecState>,
}

#[derive(Debug)]
struct ExecState {
    nodes: Vec<ExecNode>,
    /// Its last launch: the next one follows it.
    last: TaskId,
}

#[derive(Debug, Clone)]
struct ExecNode {
    /// The graph's node.
    node: u64,
    operation: Operation,
    /// What it waits for, by index; all come before it.
    after: Vec<usize>,
    enabled: bool,
}

/// Why an executable graph does not take a graph's parameters (`CUgraphExecUpdateResult`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// The reason's number.
    pub reason: i32,
    /// The graph's node, or 0.
    pub node: u64,
    /// The node that it should have been like, or 0.
    pub from: u64,
}

impl Exec {
    /// Makes a graph ready.
    ///
    /// # Errors
    /// The number of a node that waits for itself.
    pub fn new(driver: &'static Driver, graph: &Graph, flags: u64) -> Result<Arc<Exec>, u64> {
        let mut nodes = Vec::new();
        graph.unfold(&mut nodes, &[])?;
        let number = driver.execs.number();
        let exec = Arc::new(Exec {
            number,
            flags,
            state: Mutex::new(ExecState { nodes, last: 0 }),
        });
        driver.execs.insert(number, Arc::clone(&exec));
        Ok(exec)
    }

    /// Submits all of it to a stream.
    ///
    /// # Errors
    /// The error of a node's context, or what `Engines::submit_steps` gives.
    pub fn launch(
        &self,
        driver: &'static Driver,
        context: &Arc<Context>,
        lane: Lane,
    ) -> Result<(), CuResult> {
        let mut state = self.state();
        let mut steps = Vec::with_capacity(state.nodes.len());
        for node in &state.nodes {
            let (works, own) = match node.enabled {
                true => node.operation.works(),
                false => (Vec::new(), None),
            };
            let own = own.unwrap_or_else(|| Arc::clone(context));
            own.check()?;
            steps.push(Step {
                context: own,
                works,
                after: node.after.clone(),
                also: match &node.operation {
                    Operation::WaitEvent(event, _) => event.task(),
                    _ => 0,
                },
            });
        }
        let last = state.last;
        state.last = driver
            .engines
            .submit_steps(driver, context, lane, steps, last)?;
        Ok(())
    }

    /// Makes it part of a capture.
    pub fn operation(&self, driver: &'static Driver) -> Result<Operation, CuResult> {
        let graph = Graph::register(driver, true);
        let state = self.state();
        let mut numbers: Vec<u64> = Vec::with_capacity(state.nodes.len());
        for node in &state.nodes {
            let after: Vec<u64> = node
                .after
                .iter()
                .filter_map(|at| numbers.get(*at).copied())
                .collect();
            let operation = match &node.operation {
                // What is in it comes before it already.
                Operation::Graph(_) => Operation::Empty,
                other if node.enabled => other.clone(),
                _ => Operation::Empty,
            };
            numbers.push(graph.add(driver, &after, operation)?);
        }
        Ok(Operation::Graph(graph))
    }

    /// Gives a node other parameters.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for a node that it does not have, or of another kind.
    pub fn set(&self, node: u64, operation: Operation) -> Result<(), CuResult> {
        let mut state = self.state();
        let own = state.find(node)?;
        if own.operation.kind() != operation.kind() || !same_place(&own.operation, &operation) {
            return Err(CuResult::INVALID_VALUE);
        }
        own.operation = operation;
        Ok(())
    }

    /// Gives a node that stands for a graph another one of the same shape.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for a node that it does not have or that stands for none, and for a
    /// graph of another shape.
    pub fn set_graph(&self, node: u64, graph: &Graph) -> Result<(), CuResult> {
        let mut state = self.state();
        let at = state.nodes.iter().position(|own| own.node == node);
        let at = at.ok_or(CuResult::INVALID_VALUE)?;
        let mut new = Vec::new();
        graph
            .unfold(&mut new, &[])
            .map_err(|_| CuResult::INVALID_VALUE)?;
        let start = at.checked_sub(new.len()).ok_or(CuResult::INVALID_VALUE)?;
        let is_graph = matches!(state.nodes[at].operation, Operation::Graph(_));
        let fits = state.nodes[start..at].iter().zip(&new).all(|(own, new)| {
            let inner: Vec<usize> = own
                .after
                .iter()
                .filter_map(|at| at.checked_sub(start))
                .collect();
            own.operation.kind() == new.operation.kind() && inner == new.after
        });
        if !is_graph || !fits {
            return Err(CuResult::INVALID_VALUE);
        }
        for (own, new) in state.nodes[start..at].iter_mut().zip(new) {
            own.operation = new.operation;
        }
        Ok(())
    }

    /// Takes a graph's parameters, if it has the same shape.
    ///
    /// # Errors
    /// What is different.
    pub fn update(&self, graph: &Graph) -> Result<(), Mismatch> {
        let topology = Mismatch {
            reason: 2,
            node: 0,
            from: 0,
        };
        let mut new = Vec::new();
        graph.unfold(&mut new, &[]).map_err(|_| topology)?;
        let mut state = self.state();
        if state.nodes.len() != new.len() {
            return Err(topology);
        }
        for (own, new) in state.nodes.iter().zip(&new) {
            let reason = if own.operation.kind() != new.operation.kind() {
                3
            } else if own.after != new.after {
                2
            } else if !same_place(&own.operation, &new.operation) {
                7
            } else {
                continue;
            };
            return Err(Mismatch {
                reason,
                node: new.node,
                from: own.node,
            });
        }
        for (own, new) in state.nodes.iter_mut().zip(new) {
            own.operation = new.operation;
        }
        Ok(())
    }

    /// Whether a node is carried out, and sets it.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for a node that it does not have, or that is no kernel, copy or fill.
    pub fn enable(&self, node: u64, enabled: Option<bool>) -> Result<bool, CuResult> {
        let mut state = self.state();
        let own = state.find(node)?;
        if own.operation.kind() > 2 {
            return Err(CuResult::INVALID_VALUE);
        }
        if let Some(enabled) = enabled {
            own.enabled = enabled;
        }
        Ok(own.enabled)
    }

    fn state(&self) -> MutexGuard<'_, ExecState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ExecState {
    fn find(&mut self, node: u64) -> Result<&mut ExecNode, CuResult> {
        let found = self.nodes.iter_mut().find(|own| own.node == node);
        found.ok_or(CuResult::INVALID_VALUE)
    }
}

/// Whether two operations of a kind belong to the same context: an executable graph's stay where they are.
fn same_place(one: &Operation, other: &Operation) -> bool {
    match (one.works().1, other.works().1) {
        (Some(one), Some(other)) => one.id == other.id,
        _ => true,
    }
}
