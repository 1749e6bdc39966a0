//! Graphs and stream capture.

use super::copy::{Memcpy3D, node_copy, row_fill};
use super::pool::{Properties, reserve};
use super::stream::{Shape, batch, kernel};
use super::{Out, call};
use crate::capture::{Info, Mode, exchange_thread_mode};
use crate::context::{Context, current};
use crate::driver::Driver;
use crate::graph::{CopyNode, Exec, Graph, KernelNode, Node, Operation};
use crate::stream::{NON_BLOCKING, Target};
use crate::work::Pattern;
use cuda_abi::{CuResult, Handle, HostFn};
use std::ffi::{c_char, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

/// Entries that a list may have: more nodes than memory holds.
const MOST: usize = 1 << 28;
/// Flags of cuGraphInstantiate: free on launch, upload, use the nodes' priorities. The one between
/// them, launching from the device, is not offered.
const INSTANTIATE_FLAGS: u64 = 1 | 2 | 8;
/// `CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH`.
const DEVICE_LAUNCH: u64 = 4;

fn graph_of(driver: &Driver, graph: Handle) -> Result<Arc<Graph>, CuResult> {
    driver.graphs.get(graph).ok_or(CuResult::INVALID_VALUE)
}

fn node_of(driver: &Driver, node: Handle) -> Result<Arc<Node>, CuResult> {
    driver.nodes.get(node).ok_or(CuResult::INVALID_VALUE)
}

fn exec_of(driver: &Driver, exec: Handle) -> Result<Arc<Exec>, CuResult> {
    driver.execs.get(exec).ok_or(CuResult::INVALID_VALUE)
}

/// The context that a handle means; null is the calling thread's.
fn context_of(driver: &Driver, context: Handle) -> Result<Arc<Context>, CuResult> {
    if context.is_null() {
        return current();
    }
    let found = driver.contexts.get(context);
    let found = found.ok_or(CuResult::INVALID_CONTEXT)?;
    found.check()?;
    Ok(found)
}

/// A program's list of handles.
///
/// # Safety
/// `from` is null or has `count` entries.
unsafe fn list(from: *const Handle, count: usize) -> Result<Vec<u64>, CuResult> {
    if count > 0 && from.is_null() || count > MOST {
        return Err(CuResult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    Ok((0..count)
        .map(|at| unsafe { from.add(at).read() } as u64)
        .collect())
}

/// Two such lists as edges.
///
/// # Safety
/// As for [`list`].
unsafe fn edge_list(
    from: *const Handle,
    to: *const Handle,
    count: usize,
) -> Result<Vec<(u64, u64)>, CuResult> {
    // SAFETY: the caller's.
    let (from, to) = unsafe { (list(from, count)?, list(to, count)?) };
    Ok(from.into_iter().zip(to).collect())
}

/// Gives a list to a program, as far as it has room; without a place for it, its length.
///
/// # Safety
/// `place` is null or has `*count` entries; `count` is null or can be read and written.
unsafe fn give(place: *mut Handle, count: *mut usize, handles: &[u64]) -> Result<(), CuResult> {
    // SAFETY: the caller's.
    let counted = unsafe { Out::new(count) }?;
    if !place.is_null() {
        // SAFETY: the caller's.
        let room = unsafe { count.read() }.min(MOST);
        for at in 0..room {
            let handle = handles.get(at).copied().unwrap_or(0);
            // SAFETY: within the caller's list.
            unsafe { place.add(at).write(handle as Handle) };
        }
    }
    counted.set(handles.len());
    Ok(())
}

/// Adds a node to a graph.
///
/// # Safety
/// `out` is null or can be written, `after` null or of `count` entries.
unsafe fn add(
    out: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
    operation: impl FnOnce(&'static Driver) -> Result<Operation, CuResult>,
) -> CuResult {
    call(|driver| {
        // SAFETY: the caller's.
        let out = unsafe { Out::new(out) }?;
        let graph = graph_of(driver, graph)?;
        // SAFETY: the caller's.
        let after = unsafe { list(after, count) }?;
        let node = graph.add(driver, &after, operation(driver)?)?;
        out.set(node as Handle);
        Ok(())
    })
}

/// Gives a node of a graph other parameters.
fn set(
    node: Handle,
    operation: impl FnOnce(&'static Driver) -> Result<Operation, CuResult>,
) -> CuResult {
    call(|driver| node_of(driver, node)?.set(operation(driver)?))
}

/// Gives a node of an executable graph other parameters.
fn set_exec(
    exec: Handle,
    node: Handle,
    operation: impl FnOnce(&'static Driver) -> Result<Operation, CuResult>,
) -> CuResult {
    call(|driver| exec_of(driver, exec)?.set(node as u64, operation(driver)?))
}

/// Gives a node's parameters, as `of` finds them in its operation.
///
/// # Safety
/// `out` is null or can be written.
unsafe fn get<T>(node: Handle, out: *mut T, of: impl FnOnce(Operation) -> Option<T>) -> CuResult {
    call(|driver| {
        // SAFETY: the caller's.
        let out = unsafe { Out::new(out) }?;
        let operation = node_of(driver, node)?.operation();
        out.set(of(operation).ok_or(CuResult::INVALID_VALUE)?);
        Ok(())
    })
}

/// `CUDA_KERNEL_NODE_PARAMS`, first version.
#[derive(Clone, Copy)]
#[repr(C)]
struct KernelParams {
    function: Handle,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
}

/// `CUDA_KERNEL_NODE_PARAMS_v2` and `_v3`.
#[derive(Clone, Copy)]
#[repr(C)]
struct KernelParams2 {
    first: KernelParams,
    kernel: Handle,
    context: Handle,
}

/// The words of a `CUDA_MEMCPY3D`.
type CopyParams = [u64; 25];

/// `CUDA_MEMSET_NODE_PARAMS`, first version.
#[derive(Clone, Copy)]
#[repr(C)]
struct FillParams {
    to: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
struct HostParams {
    function: HostFn,
    data: *mut c_void,
}

/// `CUDA_MEM_ALLOC_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
struct AllocParams {
    properties: Properties,
    rest: [u64; 9],
    access: *const c_void,
    access_count: usize,
    bytes: usize,
    address: u64,
}

/// `CUDA_BATCH_MEM_OP_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
struct BatchParams {
    context: Handle,
    count: u32,
    entries: *mut c_void,
    flags: u32,
}

/// The structure that a pointer names.
///
/// # Errors
/// CUDA_ERROR_INVALID_VALUE for null.
///
/// # Safety
/// `place` is null or points to one.
unsafe fn read<T: Copy>(place: *const c_void) -> Result<T, CuResult> {
    if place.is_null() {
        return Err(CuResult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    Ok(unsafe { place.cast::<T>().read_unaligned() })
}

/// # Safety
/// The pointers in `params` are as cuLaunchKernel has them.
unsafe fn kernel_operation(
    driver: &'static Driver,
    params: KernelParams,
) -> Result<Operation, CuResult> {
    let function = crate::library::function(driver, params.function)?;
    function.context.check()?;
    let shape = Shape {
        grid: params.grid,
        block: params.block,
        shared: params.shared,
        cooperative: false,
    };
    // SAFETY: the caller's.
    let kernel = unsafe { kernel(driver, function, shape, params.params, params.extra) }?;
    Ok(Operation::Kernel(Arc::new(KernelNode::new(kernel))))
}

/// # Safety
/// As for [`kernel_operation`].
unsafe fn kernel_operation_2(
    driver: &'static Driver,
    params: KernelParams2,
) -> Result<Operation, CuResult> {
    let mut first = params.first;
    if first.function.is_null() {
        first.function = params.kernel;
    }
    // SAFETY: the caller's.
    unsafe { kernel_operation(driver, first) }
}

fn kernel_params(operation: Operation) -> Option<KernelParams> {
    let Operation::Kernel(node) = operation else {
        return None;
    };
    // The node keeps both lists until it is given others or destroyed, as CUDA has it.
    let params = match node.pointers.is_empty() {
        true => null_mut(),
        false => node.pointers.as_ptr().cast_mut().cast(),
    };
    Some(KernelParams {
        function: node.kernel.function.handle as Handle,
        grid: node.kernel.grid,
        block: node.kernel.block,
        shared: node.kernel.shared,
        params,
        extra: null_mut(),
    })
}

/// The copy that a `CUDA_MEMCPY3D` describes.
///
/// # Safety
/// `params` is null or points to one.
unsafe fn copy_operation(
    driver: &'static Driver,
    params: *const c_void,
    context: Handle,
) -> Result<Operation, CuResult> {
    let context = context_of(driver, context)?;
    // SAFETY: the caller's; the words are kept as they are, for who asks for them later.
    let (copy, words) = unsafe { (read::<Memcpy3D>(params)?, read::<CopyParams>(params)?) };
    let copy = node_copy(driver, &copy)?;
    let node = CopyNode::Box(copy.map(Box::new), Box::new(words));
    Ok(Operation::Copy(node, context))
}

fn copy_params(operation: Operation) -> Option<CopyParams> {
    /// `CU_MEMORYTYPE_UNIFIED`: told by the address.
    const UNIFIED: u64 = 4;
    match operation {
        Operation::Copy(CopyNode::Box(_, words), _) => Some(*words),
        Operation::Copy(CopyNode::Bytes(to, from, bytes, _), _) => {
            // Either end: offsets and level, type, host and device address, array, context, pitch,
            // rows; then the extent.
            let end = |address| [0, 0, 0, 0, UNIFIED, 0, address, 0, 0, bytes, 1];
            let mut words = [0; 25];
            words[..11].copy_from_slice(&end(from));
            words[11..22].copy_from_slice(&end(to));
            words[22..].copy_from_slice(&[bytes, 1, 1]);
            Some(words)
        }
        _ => None,
    }
}

fn fill_operation(
    driver: &'static Driver,
    params: FillParams,
    context: Handle,
) -> Result<Operation, CuResult> {
    let context = context_of(driver, context)?;
    let value = match params.element {
        1 => Pattern::Byte(params.value as u8),
        2 => Pattern::Half(params.value as u16),
        4 => Pattern::Word(params.value),
        _ => return Err(CuResult::INVALID_VALUE),
    };
    let FillParams {
        to,
        pitch,
        width,
        height,
        ..
    } = params;
    let fill = row_fill(driver, to, pitch, value, width, height)?;
    let fill = fill.ok_or(CuResult::INVALID_VALUE)?;
    Ok(Operation::Fill(fill, context))
}

fn fill_params(operation: Operation) -> Option<FillParams> {
    let Operation::Fill(fill, _) = operation else {
        return None;
    };
    Some(FillParams {
        to: fill.to,
        pitch: fill.pitch as usize,
        value: match fill.value {
            Pattern::Byte(value) => value.into(),
            Pattern::Half(value) => value.into(),
            Pattern::Word(value) => value,
        },
        element: fill.value.width() as u32,
        width: fill.width as usize,
        height: fill.height as usize,
    })
}

fn host_operation(params: HostParams) -> Result<Operation, CuResult> {
    let function = params.function.ok_or(CuResult::INVALID_VALUE)?;
    Ok(Operation::Host(function, params.data as usize))
}

/// The node of an event, by `of`.
fn event_operation(
    driver: &'static Driver,
    event: Handle,
    of: impl FnOnce(Arc<crate::event::Event>, u64) -> Operation,
) -> Result<Operation, CuResult> {
    let found = driver.events.get(event).ok_or(CuResult::INVALID_HANDLE)?;
    Ok(of(found, event as u64))
}

/// Takes the memory of an allocation node; `params.address` tells where.
fn alloc_operation(
    driver: &'static Driver,
    params: &mut AllocParams,
) -> Result<Operation, CuResult> {
    let context = current()?;
    if params.properties.device(driver)? != context.device {
        return Err(CuResult::INVALID_VALUE);
    }
    let reservation = reserve(driver, &context, params.bytes)?;
    params.address = reservation.start();
    Ok(Operation::Alloc(Arc::new(reservation), params.bytes as u64))
}

fn free_operation(driver: &'static Driver, address: u64) -> Result<Operation, CuResult> {
    match driver.memory.reserved(address) {
        true => Ok(Operation::Free(address)),
        false => Err(CuResult::INVALID_VALUE),
    }
}

/// # Safety
/// `params.entries` has `params.count` entries.
unsafe fn batch_operation(
    driver: &'static Driver,
    params: BatchParams,
) -> Result<Operation, CuResult> {
    if params.flags != 0 {
        return Err(CuResult::INVALID_VALUE);
    }
    let context = context_of(driver, params.context)?;
    // SAFETY: the caller's.
    let works = unsafe { batch(driver, params.count, params.entries) }?;
    Ok(Operation::Words(works, context))
}

/// The operation of a `CUgraphNodeParams`.
///
/// # Safety
/// `params` is null or points to one, whose pointers are as its kind of node has them.
unsafe fn operation(driver: &'static Driver, params: *mut c_void) -> Result<Operation, CuResult> {
    /// Bytes from the structure's start to the parameters of its kind.
    const PARAMS: usize = 16;
    // SAFETY: the caller's; the structure begins with its kind.
    let kind = unsafe { read::<i32>(params) }?;
    let own = params.cast::<u8>().wrapping_add(PARAMS).cast::<c_void>();
    // SAFETY: the caller's.
    unsafe {
        match kind {
            0 => kernel_operation_2(driver, read(own)?),
            1 => {
                // Flags, the context, the copy.
                let [_, context]: [u64; 2] = read(own)?;
                let copy = own.cast::<u64>().wrapping_add(2).cast();
                copy_operation(driver, copy, context as Handle)
            }
            2 => {
                #[derive(Clone, Copy)]
                #[repr(C)]
                struct Params(FillParams, Handle);
                let Params(fill, context) = read(own)?;
                fill_operation(driver, fill, context)
            }
            3 => host_operation(read(own)?),
            4 => {
                let graph = graph_of(driver, read(own)?)?;
                Ok(Operation::Graph(graph.copy(driver, true, 1)?))
            }
            5 => Ok(Operation::Empty),
            6 => event_operation(driver, read(own)?, Operation::WaitEvent),
            7 => event_operation(driver, read(own)?, Operation::RecordEvent),
            10 => {
                let mut alloc: AllocParams = read(own)?;
                let operation = alloc_operation(driver, &mut alloc)?;
                own.cast::<AllocParams>().write_unaligned(alloc);
                Ok(operation)
            }
            11 => free_operation(driver, read(own)?),
            15 => batch_operation(driver, read(own)?),
            8 | 9 | 13 => Err(CuResult::NOT_SUPPORTED), // external semaphores, conditions
            _ => Err(CuResult::INVALID_VALUE),
        }
    }
}

pub unsafe fn cuGraphCreate(graph: *mut Handle, flags: u32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(graph) }?;
        if flags != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        out.set(Graph::new(driver).number as Handle);
        Ok(())
    })
}

pub unsafe fn cuGraphDestroy(graph: Handle) -> CuResult {
    call(|driver| {
        let graph = graph_of(driver, graph)?;
        if graph.inner {
            return Err(CuResult::INVALID_VALUE); // it goes with its node
        }
        graph.destroy(driver);
        Ok(())
    })
}

pub unsafe fn cuGraphClone(clone: *mut Handle, original: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(clone) }?;
        let copy = graph_of(driver, original)?.copy(driver, false, 0)?;
        out.set(copy.number as Handle);
        Ok(())
    })
}

pub unsafe fn cuGraphNodeFindInClone(
    node: *mut Handle,
    original: Handle,
    clone: Handle,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(node) }?;
        let nodes = graph_of(driver, clone)?.nodes();
        let own = nodes.iter().find(|own| own.original == original as u64);
        out.set(own.ok_or(CuResult::INVALID_VALUE)?.number as Handle);
        Ok(())
    })
}

pub unsafe fn cuGraphAddEmptyNode(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe { add(node, graph, after, count, |_| Ok(Operation::Empty)) }
}

pub unsafe fn cuGraphAddKernelNode(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
    params: *const c_void,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        add(node, graph, after, count, |driver| {
            kernel_operation(driver, read(params)?)
        })
    }
}

pub unsafe fn cuGraphAddKernelNode_v2(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
    params: *const c_void,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        add(node, graph, after, count, |driver| {
            kernel_operation_2(driver, read(params)?)
        })
    }
}

pub unsafe fn cuGraphKernelNodeGetParams(node: Handle, params: *mut c_void) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { get(node, params.cast::<KernelParams>(), kernel_params) }
}

pub unsafe fn cuGraphKernelNodeGetParams_v2(node: Handle, params: *mut c_void) -> CuResult {
    let of = |operation: Operation| {
        let context = match &operation {
            Operation::Kernel(node) => node.kernel.function.context.handle,
            _ => 0,
        };
        Some(KernelParams2 {
            first: kernel_params(operation)?,
            kernel: null_mut(),
            context: context as Handle,
        })
    };
    // SAFETY: the C function's contract.
    unsafe { get(node, params.cast::<KernelParams2>(), of) }
}

pub unsafe fn cuGraphKernelNodeSetParams(node: Handle, params: *const c_void) -> CuResult {
    // SAFETY: the C function's contract.
    set(node, |driver| unsafe {
        kernel_operation(driver, read(params)?)
    })
}

pub unsafe fn cuGraphKernelNodeSetParams_v2(node: Handle, params: *const c_void) -> CuResult {
    // SAFETY: the C function's contract.
    set(node, |driver| unsafe {
        kernel_operation_2(driver, read(params)?)
    })
}

pub unsafe fn cuGraphExecKernelNodeSetParams(
    exec: Handle,
    node: Handle,
    params: *const c_void,
) -> CuResult {
    // SAFETY: the C function's contract.
    set_exec(exec, node, |driver| unsafe {
        kernel_operation(driver, read(params)?)
    })
}

pub unsafe fn cuGraphExecKernelNodeSetParams_v2(
    exec: Handle,
    node: Handle,
    params: *const c_void,
) -> CuResult {
    // SAFETY: the C function's contract.
    set_exec(exec, node, |driver| unsafe {
        kernel_operation_2(driver, read(params)?)
    })
}

pub unsafe fn cuGraphAddMemcpyNode(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
    params: *const c_void,
    context: Handle,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        add(node, graph, after, count, |driver| {
            copy_operation(driver, params, context)
        })
    }
}

pub unsafe fn cuGraphMemcpyNodeGetParams(node: Handle, params: *mut c_void) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { get(node, params.cast::<CopyParams>(), copy_params) }
}

/// The context of a copy's or a fill's node, which new parameters keep.
fn own_context(driver: &Driver, node: Handle) -> Result<Handle, CuResult> {
    match node_of(driver, node)?.operation() {
        Operation::Copy(_, context) | Operation::Fill(_, context) => Ok(context.handle as Handle),
        _ => Err(CuResult::INVALID_VALUE),
    }
}

pub unsafe fn cuGraphMemcpyNodeSetParams(node: Handle, params: *const c_void) -> CuResult {
    set(node, |driver| {
        // SAFETY: the C function's contract.
        unsafe { copy_operation(driver, params, own_context(driver, node)?) }
    })
}

pub unsafe fn cuGraphExecMemcpyNodeSetParams(
    exec: Handle,
    node: Handle,
    params: *const c_void,
    context: Handle,
) -> CuResult {
    set_exec(exec, node, |driver| {
        // SAFETY: the C function's contract.
        unsafe { copy_operation(driver, params, context) }
    })
}

pub unsafe fn cuGraphAddMemsetNode(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
    params: *const c_void,
    context: Handle,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        add(node, graph, after, count, |driver| {
            fill_operation(driver, read(params)?, context)
        })
    }
}

pub unsafe fn cuGraphMemsetNodeGetParams(node: Handle, params: *mut c_void) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { get(node, params.cast::<FillParams>(), fill_params) }
}

pub unsafe fn cuGraphMemsetNodeSetParams(node: Handle, params: *const c_void) -> CuResult {
    set(node, |driver| {
        // SAFETY: the C function's contract.
        let params = unsafe { read(params) }?;
        fill_operation(driver, params, own_context(driver, node)?)
    })
}

pub unsafe fn cuGraphExecMemsetNodeSetParams(
    exec: Handle,
    node: Handle,
    params: *const c_void,
    context: Handle,
) -> CuResult {
    set_exec(exec, node, |driver| {
        // SAFETY: the C function's contract.
        fill_operation(driver, unsafe { read(params) }?, context)
    })
}

pub unsafe fn cuGraphAddHostNode(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
    params: *const c_void,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe { add(node, graph, after, count, |_| host_operation(read(params)?)) }
}

pub unsafe fn cuGraphHostNodeGetParams(node: Handle, params: *mut c_void) -> CuResult {
    let of = |operation| match operation {
        Operation::Host(function, data) => Some(HostParams {
            function: Some(function),
            data: data as *mut c_void,
        }),
        _ => None,
    };
    // SAFETY: the C function's contract.
    unsafe { get(node, params.cast::<HostParams>(), of) }
}

pub unsafe fn cuGraphHostNodeSetParams(node: Handle, params: *const c_void) -> CuResult {
    // SAFETY: the C function's contract.
    set(node, |_| host_operation(unsafe { read(params) }?))
}

pub unsafe fn cuGraphExecHostNodeSetParams(
    exec: Handle,
    node: Handle,
    params: *const c_void,
) -> CuResult {
    // SAFETY: the C function's contract.
    set_exec(exec, node, |_| host_operation(unsafe { read(params) }?))
}

pub unsafe fn cuGraphAddChildGraphNode(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
    child: Handle,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        add(node, graph, after, count, |driver| {
            let copy = graph_of(driver, child)?.copy(driver, true, 1)?;
            Ok(Operation::Graph(copy))
        })
    }
}

pub unsafe fn cuGraphChildGraphNodeGetGraph(node: Handle, graph: *mut Handle) -> CuResult {
    let of = |operation| match operation {
        Operation::Graph(graph) => Some(graph.number as Handle),
        _ => None,
    };
    // SAFETY: the C function's contract.
    unsafe { get(node, graph, of) }
}

pub unsafe fn cuGraphExecChildGraphNodeSetParams(
    exec: Handle,
    node: Handle,
    child: Handle,
) -> CuResult {
    call(|driver| {
        let child = graph_of(driver, child)?;
        exec_of(driver, exec)?.set_graph(node as u64, &child)
    })
}

pub unsafe fn cuGraphAddEventRecordNode(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
    event: Handle,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        add(node, graph, after, count, |driver| {
            event_operation(driver, event, Operation::RecordEvent)
        })
    }
}

pub unsafe fn cuGraphEventRecordNodeGetEvent(node: Handle, event: *mut Handle) -> CuResult {
    let of = |operation| match operation {
        Operation::RecordEvent(_, handle) => Some(handle as Handle),
        _ => None,
    };
    // SAFETY: the C function's contract.
    unsafe { get(node, event, of) }
}

pub unsafe fn cuGraphEventRecordNodeSetEvent(node: Handle, event: Handle) -> CuResult {
    set(node, |driver| {
        event_operation(driver, event, Operation::RecordEvent)
    })
}

pub unsafe fn cuGraphExecEventRecordNodeSetEvent(
    exec: Handle,
    node: Handle,
    event: Handle,
) -> CuResult {
    set_exec(exec, node, |driver| {
        event_operation(driver, event, Operation::RecordEvent)
    })
}

pub unsafe fn cuGraphAddEventWaitNode(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
    event: Handle,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        add(node, graph, after, count, |driver| {
            event_operation(driver, event, Operation::WaitEvent)
        })
    }
}

pub unsafe fn cuGraphEventWaitNodeGetEvent(node: Handle, event: *mut Handle) -> CuResult {
    let of = |operation| match operation {
        Operation::WaitEvent(_, handle) => Some(handle as Handle),
        _ => None,
    };
    // SAFETY: the C function's contract.
    unsafe { get(node, event, of) }
}

pub unsafe fn cuGraphEventWaitNodeSetEvent(node: Handle, event: Handle) -> CuResult {
    set(node, |driver| {
        event_operation(driver, event, Operation::WaitEvent)
    })
}

pub unsafe fn cuGraphExecEventWaitNodeSetEvent(
    exec: Handle,
    node: Handle,
    event: Handle,
) -> CuResult {
    set_exec(exec, node, |driver| {
        event_operation(driver, event, Operation::WaitEvent)
    })
}

pub unsafe fn cuGraphAddMemAllocNode(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
    params: *mut c_void,
) -> CuResult {
    // SAFETY: the same contract; the structure's address field is an output.
    unsafe {
        add(node, graph, after, count, |driver| {
            let mut own: AllocParams = read(params)?;
            let operation = alloc_operation(driver, &mut own)?;
            params.cast::<AllocParams>().write_unaligned(own);
            Ok(operation)
        })
    }
}

pub unsafe fn cuGraphMemAllocNodeGetParams(node: Handle, params: *mut c_void) -> CuResult {
    let of = |operation| match operation {
        Operation::Alloc(reservation, bytes) => Some(AllocParams {
            properties: Properties::of_device(reservation.device()),
            rest: [0; 9],
            access: std::ptr::null(),
            access_count: 0,
            bytes: bytes as usize,
            address: reservation.start(),
        }),
        _ => None,
    };
    // SAFETY: the C function's contract.
    unsafe { get(node, params.cast::<AllocParams>(), of) }
}

pub unsafe fn cuGraphAddMemFreeNode(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
    address: u64,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        add(node, graph, after, count, |driver| {
            free_operation(driver, address)
        })
    }
}

pub unsafe fn cuGraphMemFreeNodeGetParams(node: Handle, address: *mut u64) -> CuResult {
    let of = |operation| match operation {
        Operation::Free(address) => Some(address),
        _ => None,
    };
    // SAFETY: the C function's contract.
    unsafe { get(node, address, of) }
}

pub unsafe fn cuGraphAddBatchMemOpNode(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
    params: *const c_void,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        add(node, graph, after, count, |driver| {
            batch_operation(driver, read(params)?)
        })
    }
}

pub unsafe fn cuGraphBatchMemOpNodeSetParams(node: Handle, params: *const c_void) -> CuResult {
    // SAFETY: the C function's contract.
    set(node, |driver| unsafe {
        batch_operation(driver, read(params)?)
    })
}

pub unsafe fn cuGraphExecBatchMemOpNodeSetParams(
    exec: Handle,
    node: Handle,
    params: *const c_void,
) -> CuResult {
    // SAFETY: the C function's contract.
    set_exec(exec, node, |driver| unsafe {
        batch_operation(driver, read(params)?)
    })
}

pub unsafe fn cuGraphAddNode(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    count: usize,
    params: *mut c_void,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        add(node, graph, after, count, |driver| {
            operation(driver, params)
        })
    }
}

/// Edges have no properties here: what they could say concerns launches from kernels.
///
/// # Safety
/// `data` is null or has `count` entries of 8 bytes.
unsafe fn plain_edges(data: *const c_void, count: usize) -> Result<(), CuResult> {
    if data.is_null() || count > MOST {
        return Ok(());
    }
    for at in 0..count {
        // SAFETY: within the caller's list.
        if unsafe { data.cast::<u64>().add(at).read_unaligned() } != 0 {
            return Err(CuResult::NOT_SUPPORTED);
        }
    }
    Ok(())
}

pub unsafe fn cuGraphAddNode_v2(
    node: *mut Handle,
    graph: Handle,
    after: *const Handle,
    data: *const c_void,
    count: usize,
    params: *mut c_void,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        add(node, graph, after, count, |driver| {
            plain_edges(data, count)?;
            operation(driver, params)
        })
    }
}

pub unsafe fn cuGraphNodeSetParams(node: Handle, params: *mut c_void) -> CuResult {
    // SAFETY: the C function's contract.
    set(node, |driver| unsafe { operation(driver, params) })
}

pub unsafe fn cuGraphExecNodeSetParams(
    exec: Handle,
    node: Handle,
    params: *mut c_void,
) -> CuResult {
    // SAFETY: the C function's contract.
    set_exec(exec, node, |driver| unsafe { operation(driver, params) })
}

pub unsafe fn cuGraphNodeGetType(node: Handle, kind: *mut i32) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { get(node, kind, |operation| Some(operation.kind())) }
}

pub unsafe fn cuGraphGetNodes(graph: Handle, nodes: *mut Handle, count: *mut usize) -> CuResult {
    call(|driver| {
        let all = graph_of(driver, graph)?.nodes();
        let all: Vec<u64> = all.iter().map(|node| node.number).collect();
        // SAFETY: the C function's contract.
        unsafe { give(nodes, count, &all) }
    })
}

pub unsafe fn cuGraphGetRootNodes(
    graph: Handle,
    nodes: *mut Handle,
    count: *mut usize,
) -> CuResult {
    call(|driver| {
        let roots = graph_of(driver, graph)?.roots();
        // SAFETY: the C function's contract.
        unsafe { give(nodes, count, &roots) }
    })
}

/// Writes that edges have no properties.
///
/// # Safety
/// `data` is null or has `*count` entries of 8 bytes.
unsafe fn give_plain_edges(data: *mut c_void, count: *mut usize) {
    if !data.is_null() && !count.is_null() {
        // SAFETY: the caller's.
        unsafe { data.cast::<u64>().write_bytes(0, count.read().min(MOST)) };
    }
}

pub unsafe fn cuGraphGetEdges(
    graph: Handle,
    from: *mut Handle,
    to: *mut Handle,
    count: *mut usize,
) -> CuResult {
    call(|driver| {
        let edges = graph_of(driver, graph)?.edges();
        if from.is_null() != to.is_null() || count.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        let (sources, targets): (Vec<u64>, Vec<u64>) = edges.into_iter().unzip();
        // SAFETY: the C function's contract; both lists have as much room.
        unsafe {
            let mut room = count.read();
            give(from, &mut room, &sources)?;
            give(to, count, &targets)
        }
    })
}

pub unsafe fn cuGraphGetEdges_v2(
    graph: Handle,
    from: *mut Handle,
    to: *mut Handle,
    data: *mut c_void,
    count: *mut usize,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        give_plain_edges(data, count);
        cuGraphGetEdges(graph, from, to, count)
    }
}

/// Gives the nodes at the other ends of a node's edges.
///
/// # Safety
/// As for [`give`].
unsafe fn neighbours(
    node: Handle,
    list: *mut Handle,
    count: *mut usize,
    which: impl Fn((u64, u64)) -> (u64, u64),
) -> CuResult {
    call(|driver| {
        let node = node_of(driver, node)?;
        let graph = node.graph.upgrade().ok_or(CuResult::INVALID_VALUE)?;
        let ends = graph.edges().into_iter().map(which);
        let others: Vec<u64> = ends
            .filter(|(own, _)| *own == node.number)
            .map(|(_, other)| other)
            .collect();
        // SAFETY: the caller's.
        unsafe { give(list, count, &others) }
    })
}

pub unsafe fn cuGraphNodeGetDependencies(
    node: Handle,
    list: *mut Handle,
    count: *mut usize,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe { neighbours(node, list, count, |(from, to)| (to, from)) }
}

pub unsafe fn cuGraphNodeGetDependencies_v2(
    node: Handle,
    list: *mut Handle,
    data: *mut c_void,
    count: *mut usize,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        give_plain_edges(data, count);
        cuGraphNodeGetDependencies(node, list, count)
    }
}

pub unsafe fn cuGraphNodeGetDependentNodes(
    node: Handle,
    list: *mut Handle,
    count: *mut usize,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe { neighbours(node, list, count, |edge| edge) }
}

pub unsafe fn cuGraphNodeGetDependentNodes_v2(
    node: Handle,
    list: *mut Handle,
    data: *mut c_void,
    count: *mut usize,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        give_plain_edges(data, count);
        cuGraphNodeGetDependentNodes(node, list, count)
    }
}

pub unsafe fn cuGraphAddDependencies(
    graph: Handle,
    from: *const Handle,
    to: *const Handle,
    count: usize,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        graph_of(driver, graph)?.connect(&unsafe { edge_list(from, to, count) }?)
    })
}

pub unsafe fn cuGraphAddDependencies_v2(
    graph: Handle,
    from: *const Handle,
    to: *const Handle,
    data: *const c_void,
    count: usize,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        match plain_edges(data, count) {
            Ok(()) => cuGraphAddDependencies(graph, from, to, count),
            Err(error) => call(|_| Err(error)),
        }
    }
}

pub unsafe fn cuGraphRemoveDependencies(
    graph: Handle,
    from: *const Handle,
    to: *const Handle,
    count: usize,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        graph_of(driver, graph)?.disconnect(&unsafe { edge_list(from, to, count) }?)
    })
}

pub unsafe fn cuGraphRemoveDependencies_v2(
    graph: Handle,
    from: *const Handle,
    to: *const Handle,
    _data: *const c_void,
    count: usize,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuGraphRemoveDependencies(graph, from, to, count) }
}

pub unsafe fn cuGraphDestroyNode(node: Handle) -> CuResult {
    call(|driver| {
        let node = node_of(driver, node)?;
        let graph = node.graph.upgrade().ok_or(CuResult::INVALID_VALUE)?;
        graph.remove(driver, node.number);
        Ok(())
    })
}

/// Makes a graph executable, or tells the node that is wrong.
fn instantiate(
    driver: &'static Driver,
    graph: Handle,
    flags: u64,
) -> Result<Arc<Exec>, (CuResult, u64)> {
    let plain = |error| (error, 0);
    if flags & !(INSTANTIATE_FLAGS | DEVICE_LAUNCH) != 0 {
        return Err(plain(CuResult::INVALID_VALUE));
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(plain(CuResult::NOT_SUPPORTED));
    }
    current().map_err(plain)?;
    let graph = graph_of(driver, graph).map_err(plain)?;
    Exec::new(driver, &graph, flags).map_err(|node| (CuResult::INVALID_VALUE, node))
}

pub unsafe fn cuGraphInstantiateWithFlags(
    exec: *mut Handle,
    graph: Handle,
    flags: u64,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(exec) }?;
        let made = instantiate(driver, graph, flags).map_err(|(error, _)| error)?;
        out.set(made.number as Handle);
        Ok(())
    })
}

pub unsafe fn cuGraphInstantiate_v2(
    exec: *mut Handle,
    graph: Handle,
    error_node: *mut Handle,
    log: *mut c_char,
    log_bytes: usize,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract; all outputs but the first are optional.
        unsafe {
            let out = Out::new(exec)?;
            if let (Ok(log), true) = (Out::new(log), log_bytes > 0) {
                log.set(0);
            }
            let made = instantiate(driver, graph, 0).map_err(|(error, node)| {
                if let Ok(place) = Out::new(error_node) {
                    place.set(node as Handle);
                }
                error
            })?;
            out.set(made.number as Handle);
        }
        Ok(())
    })
}

pub unsafe fn cuGraphInstantiate(
    exec: *mut Handle,
    graph: Handle,
    error_node: *mut Handle,
    log: *mut c_char,
    log_bytes: usize,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuGraphInstantiate_v2(exec, graph, error_node, log, log_bytes) }
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
struct InstantiateParams {
    flags: u64,
    upload_stream: Handle,
    error_node: Handle,
    result: i32,
}

pub unsafe fn cuGraphInstantiateWithParams(
    exec: *mut Handle,
    graph: Handle,
    params: *mut c_void,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let (out, params) =
            unsafe { (Out::new(exec)?, params.cast::<InstantiateParams>().as_mut()) };
        let params = params.ok_or(CuResult::INVALID_VALUE)?;
        params.error_node = null_mut();
        let made = instantiate(driver, graph, params.flags).map_err(|(error, node)| {
            params.error_node = node as Handle;
            params.result = if node == 0 { 1 } else { 2 }; // an error, an invalid structure
            error
        })?;
        params.result = 0;
        out.set(made.number as Handle);
        Ok(())
    })
}

pub unsafe fn cuGraphExecGetFlags(exec: Handle, flags: *mut u64) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(flags) }?;
        out.set(exec_of(driver, exec)?.flags);
        Ok(())
    })
}

/// There is nothing to upload: an executable graph is ready when it is made.
pub unsafe fn cuGraphUpload(exec: Handle, stream: Handle) -> CuResult {
    call(|driver| {
        exec_of(driver, exec)?;
        Target::of(driver, stream).map(drop)
    })
}

pub unsafe fn cuGraphLaunch(exec: Handle, stream: Handle) -> CuResult {
    call(|driver| {
        let exec = exec_of(driver, exec)?;
        let Target { context, lane, .. } = Target::of(driver, stream)?;
        let place = (context.id, lane);
        if driver.captures.has(place) {
            let node = exec.operation(driver)?;
            return driver.captures.add(driver, place, node).map(drop);
        }
        if lane == crate::engine::Lane::Null {
            driver.captures.check_wait(&context, lane)?;
        }
        exec.launch(driver, &context, lane)
    })
}

pub unsafe fn cuGraphExecDestroy(exec: Handle) -> CuResult {
    call(|driver| {
        let gone = driver.execs.remove(exec);
        gone.map(drop).ok_or(CuResult::INVALID_VALUE)
    })
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
struct UpdateInfo {
    result: i32,
    node: Handle,
    from: Handle,
}

pub unsafe fn cuGraphExecUpdate_v2(exec: Handle, graph: Handle, info: *mut c_void) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(info.cast::<UpdateInfo>()) }?;
        let (exec, graph) = (exec_of(driver, exec)?, graph_of(driver, graph)?);
        let outcome = exec.update(&graph);
        let (reason, node, from) = match outcome {
            Ok(()) => (0, 0, 0),
            Err(mismatch) => (mismatch.reason, mismatch.node, mismatch.from),
        };
        out.set(UpdateInfo {
            result: reason,
            node: node as Handle,
            from: from as Handle,
        });
        outcome.map_err(|_| CuResult::GRAPH_EXEC_UPDATE_FAILURE)
    })
}

pub unsafe fn cuGraphExecUpdate(
    exec: Handle,
    graph: Handle,
    error_node: *mut Handle,
    result: *mut i32,
) -> CuResult {
    let mut info = UpdateInfo {
        result: 1,
        node: null_mut(),
        from: null_mut(),
    };
    // SAFETY: a live structure of the type that it takes.
    let outcome = unsafe { cuGraphExecUpdate_v2(exec, graph, (&raw mut info).cast()) };
    // SAFETY: the C function's contract; the node is optional.
    unsafe {
        if let Ok(place) = Out::new(error_node) {
            place.set(info.node);
        }
        match Out::new(result) {
            Ok(place) => place.set(info.result),
            Err(error) => return error,
        }
    }
    outcome
}

pub unsafe fn cuGraphNodeSetEnabled(exec: Handle, node: Handle, enabled: u32) -> CuResult {
    call(|driver| {
        let exec = exec_of(driver, exec)?;
        exec.enable(node as u64, Some(enabled != 0)).map(drop)
    })
}

pub unsafe fn cuGraphNodeGetEnabled(exec: Handle, node: Handle, enabled: *mut u32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(enabled) }?;
        let is = exec_of(driver, exec)?.enable(node as u64, None)?;
        out.set(is.into());
        Ok(())
    })
}

pub unsafe fn cuStreamBeginCapture_v2(stream: Handle, mode: i32) -> CuResult {
    call(|driver| {
        let mode = Mode::of(mode)?;
        let Target {
            context,
            lane,
            flags,
        } = Target::of(driver, stream)?;
        let blocking = flags & NON_BLOCKING == 0;
        let place = (context.id, lane);
        driver.captures.begin(driver, place, blocking, mode, None)
    })
}

pub unsafe fn cuStreamBeginCaptureToGraph(
    stream: Handle,
    graph: Handle,
    after: *const Handle,
    data: *const c_void,
    count: usize,
    mode: i32,
) -> CuResult {
    call(|driver| {
        let mode = Mode::of(mode)?;
        let Target {
            context,
            lane,
            flags,
        } = Target::of(driver, stream)?;
        let graph = graph_of(driver, graph)?;
        // SAFETY: the C function's contract.
        let after = unsafe {
            plain_edges(data, count)?;
            list(after, count)?
        };
        if !graph.has_all(&after) {
            return Err(CuResult::INVALID_VALUE);
        }
        let blocking = flags & NON_BLOCKING == 0;
        let place = (context.id, lane);
        let into = Some((graph, after));
        driver.captures.begin(driver, place, blocking, mode, into)
    })
}

pub unsafe fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> CuResult {
    call(|driver| {
        let Target { context, lane, .. } = Target::of(driver, stream)?;
        let outcome = driver.captures.end(driver, (context.id, lane));
        let number = outcome.as_ref().map_or(0, |graph| graph.number);
        // SAFETY: the C function's contract; a capture ends even if nobody wants its graph.
        if let Ok(out) = unsafe { Out::new(graph) } {
            out.set(number as Handle);
        }
        outcome.map(drop)
    })
}

pub unsafe fn cuStreamIsCapturing(stream: Handle, status: *mut i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(status) }?;
        let Target { context, lane, .. } = Target::of(driver, stream)?;
        out.set(driver.captures.info((context.id, lane))?.status);
        Ok(())
    })
}

/// Where cuStreamGetCaptureInfo puts what it tells; all but the status are optional.
struct InfoPlaces {
    status: *mut i32,
    id: *mut u64,
    graph: *mut Handle,
    nodes: *mut *const Handle,
    edges: *mut *const c_void,
    count: *mut usize,
}

thread_local! {
    /// The list that the thread's last cuStreamGetCaptureInfo gave out: it is the program's to read
    /// until the next call about the stream.
    static SHOWN: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// # Safety
/// Each place is null or can be written.
unsafe fn capture_info(stream: Handle, places: InfoPlaces) -> CuResult {
    call(|driver| {
        // SAFETY: the caller's, here and below.
        let status = unsafe { Out::new(places.status) }?;
        let Target { context, lane, .. } = Target::of(driver, stream)?;
        let Info {
            status: now,
            member,
        } = driver.captures.info((context.id, lane))?;
        status.set(now);
        let Some(member) = member else {
            return Ok(());
        };
        let count = member.after.len();
        let shown = SHOWN.with_borrow_mut(|shown| {
            *shown = member.after;
            shown.as_ptr().cast::<Handle>()
        });
        // SAFETY: as said above.
        unsafe {
            if let Ok(out) = Out::new(places.id) {
                out.set(member.capture.id);
            }
            if let Ok(out) = Out::new(places.graph) {
                out.set(member.capture.graph.number as Handle);
            }
            if let Ok(out) = Out::new(places.nodes) {
                out.set(shown);
            }
            if let Ok(out) = Out::new(places.edges) {
                out.set(std::ptr::null()); // none has properties
            }
            if let Ok(out) = Out::new(places.count) {
                out.set(count);
            }
        }
        Ok(())
    })
}

pub unsafe fn cuStreamGetCaptureInfo(stream: Handle, status: *mut i32, id: *mut u64) -> CuResult {
    let places = InfoPlaces {
        status,
        id,
        graph: null_mut(),
        nodes: null_mut(),
        edges: null_mut(),
        count: null_mut(),
    };
    // SAFETY: the same contract.
    unsafe { capture_info(stream, places) }
}

pub unsafe fn cuStreamGetCaptureInfo_v2(
    stream: Handle,
    status: *mut i32,
    id: *mut u64,
    graph: *mut Handle,
    nodes: *mut *const Handle,
    count: *mut usize,
) -> CuResult {
    let places = InfoPlaces {
        status,
        id,
        graph,
        nodes,
        edges: null_mut(),
        count,
    };
    // SAFETY: the same contract.
    unsafe { capture_info(stream, places) }
}

pub unsafe fn cuStreamGetCaptureInfo_v3(
    stream: Handle,
    status: *mut i32,
    id: *mut u64,
    graph: *mut Handle,
    nodes: *mut *const Handle,
    edges: *mut *const c_void,
    count: *mut usize,
) -> CuResult {
    let places = InfoPlaces {
        status,
        id,
        graph,
        nodes,
        edges,
        count,
    };
    // SAFETY: the same contract.
    unsafe { capture_info(stream, places) }
}

pub unsafe fn cuStreamUpdateCaptureDependencies(
    stream: Handle,
    nodes: *mut Handle,
    count: usize,
    flags: u32,
) -> CuResult {
    call(|driver| {
        let replace = match flags {
            0 => false,
            1 => true,
            _ => return Err(CuResult::INVALID_VALUE),
        };
        let Target { context, lane, .. } = Target::of(driver, stream)?;
        // SAFETY: the C function's contract.
        let nodes = unsafe { list(nodes, count) }?;
        driver.captures.update((context.id, lane), nodes, replace)
    })
}

pub unsafe fn cuStreamUpdateCaptureDependencies_v2(
    stream: Handle,
    nodes: *mut Handle,
    data: *const c_void,
    count: usize,
    flags: u32,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe {
        match plain_edges(data, count) {
            Ok(()) => cuStreamUpdateCaptureDependencies(stream, nodes, count, flags),
            Err(error) => call(|_| Err(error)),
        }
    }
}

pub unsafe fn cuThreadExchangeStreamCaptureMode(mode: *mut i32) -> CuResult {
    call(|_| {
        // SAFETY: the C function's contract: read, then written.
        let (out, new) = unsafe { (Out::new(mode)?, Mode::of(mode.read())?) };
        out.set(exchange_thread_mode(new).number());
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cuda_abi::sys;
    use std::mem::{offset_of, size_of};

    #[test]
    fn structures_lie_as_the_headers_do() {
        assert_eq!(
            size_of::<KernelParams2>(),
            size_of::<sys::CUDA_KERNEL_NODE_PARAMS_v2>()
        );
        assert_eq!(
            offset_of!(KernelParams2, kernel),
            offset_of!(sys::CUDA_KERNEL_NODE_PARAMS_v2, kern)
        );
        assert_eq!(size_of::<CopyParams>(), size_of::<sys::CUDA_MEMCPY3D>());
        assert_eq!(size_of::<Memcpy3D>(), size_of::<CopyParams>());
        assert_eq!(
            offset_of!(sys::CUDA_MEMCPY3D, srcDevice),
            6 * size_of::<u64>()
        );
        assert_eq!(
            size_of::<FillParams>(),
            size_of::<sys::CUDA_MEMSET_NODE_PARAMS>()
        );
        assert_eq!(
            size_of::<HostParams>(),
            size_of::<sys::CUDA_HOST_NODE_PARAMS>()
        );
        assert_eq!(
            size_of::<AllocParams>(),
            size_of::<sys::CUDA_MEM_ALLOC_NODE_PARAMS>()
        );
        assert_eq!(
            size_of::<BatchParams>(),
            size_of::<sys::CUDA_BATCH_MEM_OP_NODE_PARAMS>()
        );
        assert_eq!(
            size_of::<InstantiateParams>(),
            size_of::<sys::CUDA_GRAPH_INSTANTIATE_PARAMS>()
        );
        assert_eq!(
            size_of::<UpdateInfo>(),
            size_of::<sys::CUgraphExecUpdateResultInfo>()
        );
        assert_eq!(
            size_of::<super::super::stream::BatchEntry>(),
            size_of::<sys::CUstreamBatchMemOpParams>()
        );
        assert_eq!(offset_of!(sys::CUgraphNodeParams_st, __bindgen_anon_1), 16);
    }
}
