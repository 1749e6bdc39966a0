//! Graphs: captured ones do what the stream would have done, explicit ones follow their edges, and what
//! makes no sense during a capture is an error.

mod api_common;

use api_common::{Fresh, Gate, alloc, event, kernel, load, stamp, stream, word};
use cuda_abi::{CuResult, Handle, sys};
use std::ffi::c_void;
use std::mem::zeroed;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const NULL: Handle = null_mut();
const LEGACY: Handle = 1 as Handle;
const GLOBAL: i32 = 0;
const THREAD_LOCAL: i32 = 1;
const RELAXED: i32 = 2;

/// Keeps other tests out: a capture forbids calls to all threads of the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds a value to a word on the device.
fn add(module: Handle, stream: Handle, mut place: u64, mut value: u32) -> CuResult {
    let mut params = [(&raw mut place).cast(), (&raw mut value).cast()];
    api_common::launch(kernel(module, "add"), stream, &mut params)
}

fn begin(stream: Handle, mode: i32) {
    ok!(cuStreamBeginCapture_v2(stream, mode));
}

fn end(stream: Handle) -> Result<Handle, CuResult> {
    let mut graph = null_mut();
    match cu!(cuStreamEndCapture(stream, &mut graph)) {
        CuResult::SUCCESS => Ok(graph),
        error => {
            assert!(graph.is_null());
            Err(error)
        }
    }
}

fn instantiate(graph: Handle) -> Handle {
    let mut exec = null_mut();
    ok!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    exec
}

fn run(graph: Handle) {
    ok!(cuCtxSynchronize()); // what the test allocated is zeroed in the null stream
    let (exec, own) = (instantiate(graph), stream(1));
    ok!(cuGraphLaunch(exec, own));
    ok!(cuStreamSynchronize(own));
    ok!(cuGraphExecDestroy(exec));
    ok!(cuStreamDestroy_v2(own));
}

fn nodes(graph: Handle) -> Vec<Handle> {
    let mut count = 0;
    ok!(cuGraphGetNodes(graph, null_mut(), &mut count));
    let mut list = vec![null_mut(); count];
    ok!(cuGraphGetNodes(graph, list.as_mut_ptr(), &mut count));
    list
}

fn edges(graph: Handle) -> usize {
    let mut count = 0;
    ok!(cuGraphGetEdges(graph, null_mut(), null_mut(), &mut count));
    count
}

fn kind(node: Handle) -> i32 {
    let mut kind = -1;
    ok!(cuGraphNodeGetType(node, &mut kind));
    kind
}

fn status(stream: Handle) -> i32 {
    let mut status = -1;
    ok!(cuStreamIsCapturing(stream, &mut status));
    status
}

unsafe extern "C" fn count_up(counter: *mut c_void) {
    // SAFETY: the tests pass a counter that lives until the stream has run this.
    unsafe { &*counter.cast::<AtomicU32>() }.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn a_captured_stream_becomes_a_graph_that_does_the_same_each_time() {
    let _alone = alone();
    let _context = Fresh::new();
    let module = load();
    let (own, place, copy) = (stream(0), alloc(4), alloc(4));
    let calls = AtomicU32::new(0);
    let (mut from, mut to) = (5u32, 0u32);
    ok!(cuCtxSynchronize());
    assert_eq!(status(own), 0);
    begin(own, GLOBAL);
    assert_eq!(status(own), 1);
    // The program's own memory is read and written when the graph is launched.
    ok!(cuMemcpyHtoDAsync_v2(
        place,
        (&raw const from).cast(),
        4,
        own
    ));
    assert_eq!(add(module, own, place, 2), CuResult::SUCCESS);
    ok!(cuMemcpyDtoDAsync_v2(copy, place, 4, own));
    ok!(cuMemsetD32Async(place, 9, 1, own));
    ok!(cuMemcpyDtoHAsync_v2((&raw mut to).cast(), copy, 4, own));
    ok!(cuLaunchHostFunc(
        own,
        Some(count_up),
        (&raw const calls).cast_mut().cast()
    ));
    let graph = end(own).unwrap();
    assert_eq!(status(own), 0);
    ok!(cuStreamSynchronize(own));
    assert_eq!((word(place), calls.load(Ordering::SeqCst)), (0, 0));
    let kinds: Vec<i32> = nodes(graph).into_iter().map(kind).collect();
    assert_eq!(kinds, [1, 0, 1, 2, 1, 3]);
    assert_eq!(edges(graph), 5);
    let exec = instantiate(graph);
    ok!(cuGraphDestroy(graph));
    for round in 1..=3u32 {
        // SAFETY: both live, and no launch is under way.
        unsafe { (&raw mut from).write_volatile(5 * round) };
        ok!(cuGraphUpload(exec, own));
        ok!(cuGraphLaunch(exec, own));
        ok!(cuStreamSynchronize(own));
        // SAFETY: as above.
        assert_eq!(unsafe { (&raw const to).read_volatile() }, 5 * round + 2);
        assert_eq!((word(place), word(copy)), (9, 5 * round + 2));
        assert_eq!(calls.load(Ordering::SeqCst), round);
    }
    ok!(cuGraphExecDestroy(exec));
    assert_eq!(cu!(cuGraphLaunch(exec, own)), CuResult::INVALID_VALUE);
    assert_eq!(cu!(cuGraphExecDestroy(exec)), CuResult::INVALID_VALUE);
}

#[test]
fn events_carry_a_capture_to_other_streams_and_back() {
    let _alone = alone();
    let _context = Fresh::new();
    let module = load();
    let (first, second, fork, join) = (stream(1), stream(1), event(2), event(2));
    let (counter, out) = (alloc(4), alloc(16));
    ok!(cuCtxSynchronize());
    begin(first, GLOBAL);
    stamp(module, first, counter, out);
    ok!(cuEventRecord(fork, first));
    assert_eq!(cu!(cuEventQuery(fork)), CuResult::CAPTURED_EVENT);
    ok!(cuStreamWaitEvent(second, fork, 0));
    assert_eq!(status(second), 1);
    stamp(module, second, counter, out + 4);
    stamp(module, first, counter, out + 8);
    ok!(cuEventRecord(join, second));
    ok!(cuStreamWaitEvent(first, join, 0));
    stamp(module, first, counter, out + 12);
    let (mut now, mut id, mut graph, mut after, mut count) = (0, 0, null_mut(), null(), 0);
    ok!(cuStreamGetCaptureInfo_v2(
        first, &mut now, &mut id, &mut graph, &mut after, &mut count
    ));
    assert_eq!(
        (now, count, graph.is_null(), after.is_null()),
        (1, 1, false, false)
    );
    assert_ne!(id, 0);
    assert_eq!(end(first), Ok(graph));
    assert_eq!((status(first), status(second)), (0, 0));
    assert_eq!((nodes(graph).len(), edges(graph)), (4, 4));
    run(graph);
    assert_eq!((word(out), word(out + 12)), (0, 3));
    assert_eq!(word(out + 4) + word(out + 8), 3);
    // Not joined back.
    begin(first, GLOBAL);
    ok!(cuEventRecord(fork, first));
    ok!(cuStreamWaitEvent(second, fork, 0));
    stamp(module, second, counter, out);
    assert_eq!(
        cu!(cuStreamEndCapture(second, &mut graph)),
        CuResult::STREAM_CAPTURE_UNMATCHED
    );
    assert_eq!(end(first), Err(CuResult::STREAM_CAPTURE_INVALIDATED));
    begin(first, GLOBAL);
    ok!(cuEventRecord(fork, first));
    ok!(cuStreamWaitEvent(second, fork, 0));
    stamp(module, second, counter, out);
    assert_eq!(end(first), Err(CuResult::STREAM_CAPTURE_UNJOINED));
    assert_eq!(status(second), 0);
}

#[test]
fn what_makes_no_sense_in_a_capture_is_an_error_and_ends_it() {
    let _alone = alone();
    let context = Fresh::new();
    let module = load();
    let (own, other, blocking, done) = (stream(1), stream(1), stream(0), event(0));
    let place = alloc(4);
    ok!(cuCtxSynchronize());
    for null in [NULL, LEGACY] {
        let begun = cu!(cuStreamBeginCapture_v2(null, GLOBAL));
        assert_eq!(begun, CuResult::STREAM_CAPTURE_UNSUPPORTED);
    }
    assert_eq!(
        cu!(cuStreamBeginCapture_v2(own, 3)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(end(own), Err(CuResult::ILLEGAL_STATE));
    let invalid = Err(CuResult::STREAM_CAPTURE_INVALIDATED);
    let unsupported = CuResult::STREAM_CAPTURE_UNSUPPORTED;
    begin(own, RELAXED);
    assert_eq!(
        cu!(cuStreamBeginCapture_v2(own, RELAXED)),
        CuResult::ILLEGAL_STATE
    );
    let graph = end(own).unwrap();
    assert!(nodes(graph).is_empty());
    // Waiting for it.
    begin(own, RELAXED);
    assert_eq!(cu!(cuStreamSynchronize(own)), unsupported);
    assert_eq!(status(own), 2);
    assert_eq!(
        add(module, own, place, 1),
        CuResult::STREAM_CAPTURE_INVALIDATED
    );
    assert_eq!(end(own), invalid);
    begin(own, RELAXED);
    assert_eq!(cu!(cuStreamQuery(own)), unsupported);
    assert_eq!(end(own), invalid);
    begin(own, RELAXED);
    assert_eq!(cu!(cuCtxSynchronize()), unsupported);
    assert_eq!(end(own), invalid);
    // A call that might wait, from this thread and from another.
    let mut address = 0;
    for mode in [GLOBAL, THREAD_LOCAL] {
        begin(own, mode);
        assert_eq!(cu!(cuMemAlloc_v2(&mut address, 4)), unsupported);
        assert_eq!(end(own), invalid);
    }
    begin(own, RELAXED);
    ok!(cuMemAlloc_v2(&mut address, 4));
    end(own).unwrap();
    let handle = context.0 as usize;
    for (mode, expected) in [
        (GLOBAL, unsupported),
        (THREAD_LOCAL, CuResult::SUCCESS),
        (RELAXED, CuResult::SUCCESS),
    ] {
        begin(own, mode);
        let (own, handle) = (own as usize, handle);
        let elsewhere = std::thread::spawn(move || {
            ok!(cuCtxSetCurrent(handle as Handle));
            let mut address = 0;
            let allocated = cu!(cuMemAlloc_v2(&mut address, 4));
            let ended = end(own as Handle);
            (allocated, ended.map(|graph| graph as usize))
        });
        let (allocated, ended) = elsewhere.join().unwrap();
        assert_eq!(allocated, expected);
        match mode {
            RELAXED => assert!(ended.is_ok()),
            _ => {
                assert_eq!(ended, Err(CuResult::STREAM_CAPTURE_WRONG_THREAD));
                assert_eq!(end(own as Handle).is_ok(), expected == CuResult::SUCCESS);
            }
        }
    }
    // A thread that does not mind.
    let mut mode = RELAXED;
    ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
    assert_eq!(mode, GLOBAL);
    begin(own, GLOBAL);
    ok!(cuMemAlloc_v2(&mut address, 4));
    end(own).unwrap();
    ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
    assert_eq!(mode, RELAXED);
    mode = 7;
    assert_eq!(
        cu!(cuThreadExchangeStreamCaptureMode(&mut mode)),
        CuResult::INVALID_VALUE
    );
    // The null stream would wait for a blocking stream, but not for others.
    begin(own, RELAXED);
    ok!(cuMemsetD32Async(place, 1, 1, NULL));
    end(own).unwrap();
    begin(blocking, RELAXED);
    assert_eq!(
        cu!(cuMemsetD32Async(place, 1, 1, NULL)),
        CuResult::STREAM_CAPTURE_IMPLICIT
    );
    let mut now = 0;
    assert_eq!(
        cu!(cuStreamIsCapturing(NULL, &mut now)),
        CuResult::STREAM_CAPTURE_IMPLICIT
    );
    assert_eq!(end(blocking), invalid);
    // Work that is not captured, and work of another capture.
    ok!(cuEventRecord(done, other));
    begin(own, RELAXED);
    assert_eq!(
        cu!(cuStreamWaitEvent(own, done, 0)),
        CuResult::STREAM_CAPTURE_ISOLATION
    );
    assert_eq!(end(own), invalid);
    begin(own, RELAXED);
    begin(other, RELAXED);
    ok!(cuEventRecord(done, own));
    assert_eq!(
        cu!(cuStreamWaitEvent(other, done, 0)),
        CuResult::STREAM_CAPTURE_MERGE
    );
    assert_eq!((end(own), end(other)), (invalid, invalid));
    // A stream that is destroyed takes its capture along.
    begin(other, RELAXED);
    ok!(cuStreamDestroy_v2(other));
    ok!(cuStreamSynchronize(own));
    // Callbacks are no nodes.
    unsafe extern "C" fn never(_: Handle, _: CuResult, _: *mut c_void) {}
    begin(own, RELAXED);
    assert_eq!(
        cu!(cuStreamAddCallback(own, Some(never), null_mut(), 0)),
        unsupported
    );
    assert_eq!(end(own), invalid);
}

/// A graph.
fn graph() -> Handle {
    let mut graph = null_mut();
    ok!(cuGraphCreate(&mut graph, 0));
    graph
}

/// Parameters of a `stamp` kernel's node.
struct Stamp {
    values: [u64; 2],
    pointers: [*mut c_void; 2],
}

impl Stamp {
    fn new(counter: u64, out: u64) -> Box<Stamp> {
        let mut own = Box::new(Stamp {
            values: [counter, out],
            pointers: [null_mut(); 2],
        });
        let values = &raw mut own.values;
        own.pointers = [values.cast(), values.cast::<u64>().wrapping_add(1).cast()];
        own
    }

    fn params(&mut self, module: Handle) -> sys::CUDA_KERNEL_NODE_PARAMS_v2 {
        // SAFETY: null pointers and zeros are values of all its fields.
        let mut params: sys::CUDA_KERNEL_NODE_PARAMS_v2 = unsafe { zeroed() };
        params.func = kernel(module, "stamp").cast();
        (params.gridDimX, params.gridDimY, params.gridDimZ) = (1, 1, 1);
        (params.blockDimX, params.blockDimY, params.blockDimZ) = (1, 1, 1);
        params.kernelParams = self.pointers.as_mut_ptr();
        params
    }
}

/// Adds a `stamp` node.
fn stamp_node(graph: Handle, after: &[Handle], module: Handle, counter: u64, out: u64) -> Handle {
    let mut stamp = Stamp::new(counter, out);
    let params = stamp.params(module);
    let mut node = null_mut();
    ok!(cuGraphAddKernelNode_v2(
        &mut node,
        graph,
        after.as_ptr(),
        after.len(),
        (&raw const params).cast()
    ));
    node
}

fn neighbours(node: Handle) -> (usize, usize) {
    let (mut before, mut behind) = (0, 0);
    ok!(cuGraphNodeGetDependencies(node, null_mut(), &mut before));
    ok!(cuGraphNodeGetDependentNodes(node, null_mut(), &mut behind));
    (before, behind)
}

#[test]
fn nodes_run_after_those_that_they_wait_for() {
    let _alone = alone();
    let _context = Fresh::new();
    let module = load();
    let (counter, out, graph) = (alloc(4), alloc(20), graph());
    let a = stamp_node(graph, &[], module, counter, out);
    let b = stamp_node(graph, &[a], module, counter, out + 4);
    let c = stamp_node(graph, &[a, a], module, counter, out + 8);
    let d = stamp_node(graph, &[], module, counter, out + 12);
    assert_eq!(nodes(graph), [a, b, c, d]);
    ok!(cuGraphAddDependencies(
        graph,
        [b, c].as_ptr(),
        [d, d].as_ptr(),
        2
    ));
    assert_eq!((neighbours(a), neighbours(d)), ((0, 2), (2, 0)));
    let again = cu!(cuGraphAddDependencies(graph, [b].as_ptr(), [d].as_ptr(), 1));
    assert_eq!(again, CuResult::INVALID_VALUE);
    let mut count = 3;
    let mut roots = [null_mut(); 3];
    ok!(cuGraphGetRootNodes(graph, roots.as_mut_ptr(), &mut count));
    assert_eq!((count, roots), (1, [a, null_mut(), null_mut()]));
    run(graph);
    assert_eq!((word(out), word(out + 12)), (0, 3));
    assert_eq!(word(out + 4) + word(out + 8), 3);
    // A copy is a graph of its own.
    let (mut copy, mut copied) = (null_mut(), null_mut());
    ok!(cuGraphClone(&mut copy, graph));
    ok!(cuGraphNodeFindInClone(&mut copied, d, copy));
    assert_eq!((kind(copied), edges(copy)), (0, 4));
    ok!(cuGraphDestroyNode(copied));
    assert_eq!((edges(copy), edges(graph), nodes(copy).len()), (2, 4, 3));
    assert_eq!(cu!(cuGraphDestroyNode(copied)), CuResult::INVALID_VALUE);
    // A circle cannot be launched.
    ok!(cuGraphAddDependencies(graph, [d].as_ptr(), [a].as_ptr(), 1));
    let (mut exec, mut wrong) = (null_mut(), null_mut());
    let made = cu!(cuGraphInstantiate_v2(
        &mut exec,
        graph,
        &mut wrong,
        null_mut(),
        0
    ));
    assert_eq!(made, CuResult::INVALID_VALUE);
    assert!(nodes(graph).contains(&wrong));
    ok!(cuGraphRemoveDependencies(
        graph,
        [d].as_ptr(),
        [a].as_ptr(),
        1
    ));
    run(graph);
    ok!(cuGraphDestroy(graph));
    let mut kind = 0;
    assert_eq!(
        cu!(cuGraphNodeGetType(a, &mut kind)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(cu!(cuGraphDestroy(graph)), CuResult::INVALID_VALUE);
}

#[test]
fn parameters_change_in_graphs_and_in_executable_ones() {
    let _alone = alone();
    let _context = Fresh::new();
    let module = load();
    let (counter, out, graph, own) = (alloc(4), alloc(16), graph(), stream(1));
    ok!(cuCtxSynchronize());
    let node = stamp_node(graph, &[], module, counter, out);
    let exec = instantiate(graph);
    // SAFETY: as in Stamp::params.
    let mut read: sys::CUDA_KERNEL_NODE_PARAMS_v2 = unsafe { zeroed() };
    ok!(cuGraphKernelNodeGetParams_v2(node, (&raw mut read).cast()));
    assert_eq!(
        (read.gridDimX, read.func),
        (1, kernel(module, "stamp").cast())
    );
    // SAFETY: the node keeps the parameters that it gives out.
    let given = unsafe { (*read.kernelParams.add(1)).cast::<u64>().read_unaligned() };
    assert_eq!(given, out);
    let mut elsewhere = Stamp::new(counter, out + 4);
    let params = elsewhere.params(module);
    ok!(cuGraphExecKernelNodeSetParams_v2(
        exec,
        node,
        (&raw const params).cast()
    ));
    ok!(cuGraphLaunch(exec, own));
    ok!(cuStreamSynchronize(own));
    assert_eq!((word(counter), word(out)), (1, 0));
    // Not carried out.
    let mut enabled = 9;
    ok!(cuGraphNodeSetEnabled(exec, node, 0));
    ok!(cuGraphNodeGetEnabled(exec, node, &mut enabled));
    ok!(cuGraphLaunch(exec, own));
    ok!(cuStreamSynchronize(own));
    assert_eq!((word(counter), enabled), (1, 0));
    ok!(cuGraphNodeSetEnabled(exec, node, 1));
    // From a graph of the same shape, but not of another.
    let mut third = Stamp::new(counter, out + 8);
    let params = third.params(module);
    ok!(cuGraphKernelNodeSetParams_v2(
        node,
        (&raw const params).cast()
    ));
    // SAFETY: zeros are values of its fields, as integers.
    let mut info = [0u64; 3];
    ok!(cuGraphExecUpdate_v2(exec, graph, info.as_mut_ptr().cast()));
    ok!(cuGraphLaunch(exec, own));
    ok!(cuStreamSynchronize(own));
    assert_eq!((word(out + 8), info[0] as i32), (1, 0));
    let mut empty = null_mut();
    ok!(cuGraphAddEmptyNode(&mut empty, graph, null(), 0));
    let updated = cu!(cuGraphExecUpdate_v2(exec, graph, info.as_mut_ptr().cast()));
    assert_eq!(
        (updated, info[0] as i32),
        (CuResult::GRAPH_EXEC_UPDATE_FAILURE, 2)
    );
    ok!(cuGraphDestroyNode(node));
    let updated = cu!(cuGraphExecUpdate_v2(exec, graph, info.as_mut_ptr().cast()));
    assert_eq!(
        (updated, info[0] as i32),
        (CuResult::GRAPH_EXEC_UPDATE_FAILURE, 3)
    );
    let set = cu!(cuGraphExecKernelNodeSetParams_v2(
        exec,
        empty,
        (&raw const params).cast()
    ));
    assert_eq!(set, CuResult::INVALID_VALUE);
}

#[test]
fn every_kind_of_node_does_its_work() {
    let _alone = alone();
    let context = Fresh::new();
    let module = load();
    let (from, to, flag) = (alloc(64), alloc(64), alloc(8));
    let (recorded, calls) = (event(0), AtomicU32::new(0));
    ok!(cuCtxSynchronize());
    let graph = graph();
    let mut last = null_mut();
    // SAFETY: zeros are values of all fields.
    let mut fill: sys::CUDA_MEMSET_NODE_PARAMS = unsafe { zeroed() };
    (fill.dst, fill.pitch, fill.value) = (from, 16, 7);
    (fill.elementSize, fill.width, fill.height) = (4, 2, 3);
    let params = (&raw const fill).cast();
    ok!(cuGraphAddMemsetNode(
        &mut last,
        graph,
        null(),
        0,
        params,
        context.0
    ));
    // SAFETY: zeros are values of all fields.
    let mut read: sys::CUDA_MEMSET_NODE_PARAMS = unsafe { zeroed() };
    ok!(cuGraphMemsetNodeGetParams(last, (&raw mut read).cast()));
    assert_eq!((read.pitch, read.value, read.height), (16, 7, 3));
    // Columns 1 and 2 of three rows of 16 bytes to rows of 8.
    let mut copy = [0u64; 25];
    (copy[0], copy[4], copy[6], copy[9]) = (4, 2, from, 16);
    (copy[15], copy[17], copy[20]) = (2, to, 8);
    (copy[22], copy[23], copy[24]) = (8, 3, 1);
    let mut node = null_mut();
    let params = copy.as_ptr().cast();
    ok!(cuGraphAddMemcpyNode(
        &mut node, graph, &last, 1, params, context.0
    ));
    let mut words = [1u64; 25];
    ok!(cuGraphMemcpyNodeGetParams(node, words.as_mut_ptr().cast()));
    assert_eq!(words, copy);
    let child = self::graph();
    stamp_node(child, &[], module, flag, flag + 4);
    let mut inner = null_mut();
    ok!(cuGraphAddChildGraphNode(&mut inner, graph, &node, 1, child));
    ok!(cuGraphDestroy(child));
    let mut copy_of_child = null_mut();
    ok!(cuGraphChildGraphNodeGetGraph(inner, &mut copy_of_child));
    assert_eq!(nodes(copy_of_child).len(), 1);
    assert_eq!(cu!(cuGraphDestroy(copy_of_child)), CuResult::INVALID_VALUE);
    // SAFETY: zeros are values of all fields.
    let mut host: sys::CUDA_HOST_NODE_PARAMS = unsafe { zeroed() };
    host.fn_ = Some(count_up);
    host.userData = (&raw const calls).cast_mut().cast();
    ok!(cuGraphAddHostNode(
        &mut node,
        graph,
        &inner,
        1,
        (&raw const host).cast()
    ));
    ok!(cuGraphAddEventRecordNode(
        &mut last, graph, &node, 1, recorded
    ));
    ok!(cuGraphAddEventWaitNode(
        &mut node, graph, &last, 1, recorded
    ));
    let mut event = null_mut();
    ok!(cuGraphEventWaitNodeGetEvent(node, &mut event));
    assert_eq!(event, recorded);
    // One word of the second write waits for the first.
    let batch: [[u64; 6]; 2] = [[2, flag, 40, 0, 0, 0], [1, flag, 40, 1, 0, 0]];
    // SAFETY: zeros are values of all fields.
    let mut words: sys::CUDA_BATCH_MEM_OP_NODE_PARAMS = unsafe { zeroed() };
    (words.ctx, words.count) = (context.0.cast(), 2);
    words.paramArray = batch.as_ptr().cast_mut().cast();
    ok!(cuGraphAddBatchMemOpNode(
        &mut last,
        graph,
        &node,
        1,
        (&raw const words).cast()
    ));
    run(graph);
    let bytes = [
        word(to),
        word(to + 4),
        word(to + 8),
        word(to + 20),
        word(to + 24),
    ];
    assert_eq!(bytes, [7, 0, 7, 0, 0]);
    assert_eq!(
        (word(flag), word(flag + 4), calls.load(Ordering::SeqCst)),
        (40, 0, 1)
    );
    ok!(cuEventQuery(recorded));
    let mut milliseconds = -1.0;
    ok!(cuEventElapsedTime(&mut milliseconds, recorded, recorded));
    assert_eq!(milliseconds, 0.0);
    let kinds: Vec<i32> = nodes(graph).into_iter().map(kind).collect();
    assert_eq!(kinds, [2, 1, 4, 3, 7, 6, 15]);
}

#[test]
fn graphs_have_memory_of_their_own() {
    let _alone = alone();
    let _context = Fresh::new();
    let (own, result) = (stream(1), alloc(4));
    let (mut free, mut total) = (0, 0);
    ok!(cuCtxSynchronize());
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    begin(own, GLOBAL);
    let mut scratch = 0;
    ok!(cuMemAllocAsync(&mut scratch, 1 << 20, own));
    ok!(cuMemsetD32Async(scratch, 77, 1, own));
    ok!(cuMemcpyDtoDAsync_v2(result, scratch, 4, own));
    ok!(cuMemFreeAsync(scratch, own));
    let graph = end(own).unwrap();
    let kinds: Vec<i32> = nodes(graph).into_iter().map(kind).collect();
    assert_eq!(kinds, [10, 2, 1, 11]);
    let mut address = 0;
    ok!(cuGraphMemFreeNodeGetParams(nodes(graph)[3], &mut address));
    assert_eq!(address, scratch);
    let exec = instantiate(graph);
    ok!(cuGraphDestroy(graph));
    for _ in 0..2 {
        ok!(cuMemsetD32_v2(result, 0, 1));
        ok!(cuCtxSynchronize());
        ok!(cuGraphLaunch(exec, own));
        ok!(cuStreamSynchronize(own));
        assert_eq!(word(result), 77);
    }
    // Memory that is not the graph's is not freed by it.
    begin(own, GLOBAL);
    let freed = cu!(cuMemFreeAsync(result, own));
    assert_eq!(freed, CuResult::STREAM_CAPTURE_UNSUPPORTED);
    assert!(end(own).is_err());
    ok!(cuGraphExecDestroy(exec));
    let mut now = 0;
    ok!(cuMemGetInfo_v2(&mut now, &mut total));
    assert_eq!(now, free);
}

#[test]
fn a_graph_launched_twice_runs_one_after_the_other() {
    let _alone = alone();
    let _context = Fresh::new();
    let module = load();
    let gate = Gate::new(module);
    let (first, second, place) = (stream(1), stream(1), alloc(4));
    ok!(cuCtxSynchronize());
    begin(first, GLOBAL);
    gate.wait_in(first);
    ok!(cuMemsetD32Async(place, 3, 1, first));
    let exec = instantiate(end(first).unwrap());
    ok!(cuGraphLaunch(exec, first));
    ok!(cuGraphLaunch(exec, second));
    // What follows in the second stream waits for both.
    ok!(cuMemsetD32Async(place, 4, 1, second));
    assert_eq!(cu!(cuStreamQuery(second)), CuResult::NOT_READY);
    // And destroying it takes nothing from what is under way.
    ok!(cuGraphExecDestroy(exec));
    gate.open();
    ok!(cuStreamSynchronize(second));
    assert_eq!(word(place), 4);
    // A graph in a graph, by capture.
    begin(first, GLOBAL);
    ok!(cuMemsetD32Async(place, 5, 1, first));
    let inner = instantiate(end(first).unwrap());
    begin(first, GLOBAL);
    ok!(cuGraphLaunch(inner, first));
    let outer = end(first).unwrap();
    assert_eq!(nodes(outer).into_iter().map(kind).collect::<Vec<_>>(), [4]);
    run(outer);
    assert_eq!(word(place), 5);
}

#[test]
fn wrong_handles_and_lists_are_errors() {
    let _alone = alone();
    let context = Fresh::new();
    let graph = graph();
    let mut out = null_mut();
    for wrong in [NULL, 5 as Handle, usize::MAX as Handle, context.0] {
        let invalid = CuResult::INVALID_VALUE;
        assert_eq!(cu!(cuGraphDestroy(wrong)), invalid);
        assert_eq!(cu!(cuGraphDestroyNode(wrong)), invalid);
        assert_eq!(cu!(cuGraphExecDestroy(wrong)), invalid);
        assert_eq!(cu!(cuGraphLaunch(wrong, NULL)), invalid);
        assert_eq!(
            cu!(cuGraphInstantiateWithFlags(&mut out, wrong, 0)),
            invalid
        );
        assert_eq!(
            cu!(cuGraphAddEmptyNode(&mut out, wrong, null(), 0)),
            invalid
        );
        assert_eq!(
            cu!(cuGraphAddEmptyNode(&mut out, graph, &wrong, 1)),
            invalid
        );
        assert_eq!(
            cu!(cuGraphAddEmptyNode(&mut out, graph, &wrong, usize::MAX)),
            invalid
        );
        assert_eq!(
            cu!(cuGraphAddChildGraphNode(&mut out, graph, null(), 0, wrong)),
            invalid
        );
        let recorded = cu!(cuGraphAddEventRecordNode(&mut out, graph, null(), 0, wrong));
        assert_eq!(recorded, CuResult::INVALID_HANDLE);
        let mut params = [0u64; 32];
        params[2] = wrong as u64;
        let params = params.as_mut_ptr().cast();
        let added = cu!(cuGraphAddNode(&mut out, graph, null(), 0, params));
        assert_eq!(added, CuResult::INVALID_HANDLE);
    }
    assert_eq!(cu!(cuGraphCreate(&mut out, 1)), CuResult::INVALID_VALUE);
    assert_eq!(cu!(cuGraphCreate(null_mut(), 0)), CuResult::INVALID_VALUE);
    assert_eq!(
        cu!(cuGraphAddEmptyNode(&mut out, graph, null(), 2)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuGraphInstantiateWithFlags(&mut out, graph, 4)),
        CuResult::NOT_SUPPORTED
    );
    assert_eq!(
        cu!(cuGraphInstantiateWithFlags(&mut out, graph, 64)),
        CuResult::INVALID_VALUE
    );
    let mut unknown = [99u64; 32];
    let params = unknown.as_mut_ptr().cast();
    let added = cu!(cuGraphAddNode(&mut out, graph, null(), 0, params));
    assert_eq!(added, CuResult::INVALID_VALUE);
    assert!(nodes(graph).is_empty());
}
