//! Streams, events and launches: what waits for what, and what a kernel's failure does to its context.

mod api_common;

use api_common::{
    Fresh, Gate, alloc, event, in_child, kernel, launch, library_path, load, open_gate, stamp,
    stream, word,
};
use cuda_abi::{CuResult, Handle};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Adds a value to a word on the device.
fn add(function: Handle, stream: Handle, mut place: u64, mut value: u32) {
    let mut params = [(&raw mut place).cast(), (&raw mut value).cast()];
    assert_eq!(launch(function, stream, &mut params), CuResult::SUCCESS);
}

const NULL: Handle = null_mut();
const LEGACY: Handle = 1 as Handle;
const PER_THREAD: Handle = 2 as Handle;

#[test]
fn launches_return_at_once_and_streams_tell_when_they_are_done() {
    let _context = Fresh::new();
    let module = load();
    let gate = Gate::new(module);
    let (own, done) = (stream(0), event(0));
    assert_eq!(cu!(cuStreamQuery(own)), CuResult::SUCCESS);
    assert_eq!(cu!(cuEventQuery(done)), CuResult::SUCCESS);
    gate.wait_in(own);
    ok!(cuEventRecord(done, own));
    assert_eq!(cu!(cuStreamQuery(own)), CuResult::NOT_READY);
    assert_eq!(cu!(cuStreamQuery(NULL)), CuResult::NOT_READY);
    assert_eq!(cu!(cuEventQuery(done)), CuResult::NOT_READY);
    gate.open();
    ok!(cuEventSynchronize(done));
    ok!(cuEventQuery(done));
    ok!(cuStreamQuery(own));
    ok!(cuStreamSynchronize(own));
    ok!(cuCtxSynchronize());
}

#[test]
fn a_waiting_thread_sleeps_until_another_opens_the_gate() {
    let _context = Fresh::new();
    let module = load();
    let gate = Gate::new(module);
    gate.wait_in(PER_THREAD);
    let address = gate.address();
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        open_gate(address);
    });
    ok!(cuStreamSynchronize(PER_THREAD));
    opener.join().unwrap();
}

#[test]
fn the_null_stream_waits_for_blocking_streams_and_they_for_it() {
    let _context = Fresh::new();
    let module = load();
    let place = alloc(4);
    let gate = Gate::new(module);
    let (blocking, free) = (stream(0), stream(1));
    // A blocking stream holds the null stream up.
    gate.wait_in(blocking);
    ok!(cuMemsetD32Async(place, 1, 1, NULL));
    assert_eq!(cu!(cuStreamQuery(NULL)), CuResult::NOT_READY);
    assert_eq!(cu!(cuStreamQuery(LEGACY)), CuResult::NOT_READY);
    // And the null stream then every blocking one, the thread's own too, but no other.
    let other = stream(0);
    ok!(cuMemsetD32Async(place, 2, 1, other));
    ok!(cuMemsetD32Async(place, 3, 1, PER_THREAD));
    assert_eq!(cu!(cuStreamQuery(other)), CuResult::NOT_READY);
    assert_eq!(cu!(cuStreamQuery(PER_THREAD)), CuResult::NOT_READY);
    let aside = alloc_in(free);
    ok!(cuMemsetD32Async(aside, 9, 1, free));
    ok!(cuStreamSynchronize(free));
    assert_eq!(cu!(cuStreamQuery(other)), CuResult::NOT_READY);
    gate.open();
    ok!(cuCtxSynchronize());
    assert_eq!(word(aside), 9);
}

/// Allocates without the null stream.
fn alloc_in(stream: Handle) -> u64 {
    let mut address = 0;
    ok!(cuMemAllocAsync(&mut address, 4, stream));
    address
}

#[test]
fn a_free_stream_runs_past_a_busy_null_stream_but_kernels_take_turns() {
    let _context = Fresh::new();
    let module = load();
    let (add_function, place) = (kernel(module, "add"), alloc(4));
    let gate = Gate::new(module);
    let (free, copies) = (stream(1), stream(1));
    ok!(cuCtxSynchronize());
    gate.wait_in(NULL);
    // One compute engine: a kernel of an independent stream waits behind the gate's.
    add(add_function, free, place, 5);
    assert_eq!(cu!(cuStreamQuery(free)), CuResult::NOT_READY);
    // The copy engine runs beside it.
    let aside = alloc_in(copies);
    ok!(cuMemsetD32Async(aside, 4, 1, copies));
    ok!(cuStreamSynchronize(copies));
    assert_eq!(cu!(cuStreamQuery(free)), CuResult::NOT_READY);
    gate.open();
    ok!(cuStreamSynchronize(free));
    assert_eq!(word(place), 5);
}

#[test]
fn streams_wait_for_events_of_others() {
    let _context = Fresh::new();
    let module = load();
    let add_function = kernel(module, "add");
    let gate = Gate::new(module);
    let place = alloc(4);
    ok!(cuCtxSynchronize());
    let (first, second, done) = (stream(1), stream(1), event(2));
    ok!(cuStreamWaitEvent(second, done, 0)); // never recorded: no wait
    ok!(cuStreamSynchronize(second));
    gate.wait_in(first);
    ok!(cuMemsetD32Async(place, 10, 1, first));
    ok!(cuEventRecord(done, first));
    ok!(cuStreamWaitEvent(second, done, 0));
    // Recording it again does not change what the second stream waits for.
    ok!(cuEventRecord(done, second));
    add(add_function, second, place, 1);
    assert_eq!(cu!(cuStreamQuery(second)), CuResult::NOT_READY);
    ok!(cuEventDestroy_v2(done));
    gate.open();
    ok!(cuStreamSynchronize(second));
    assert_eq!(word(place), 11);
    assert_eq!(
        cu!(cuStreamWaitEvent(second, done, 0)),
        CuResult::INVALID_HANDLE
    );
}

#[test]
fn work_of_a_destroyed_stream_still_ends() {
    let _context = Fresh::new();
    let module = load();
    let gate = Gate::new(module);
    let place = alloc(4);
    ok!(cuCtxSynchronize());
    let (free, blocking) = (stream(1), stream(0));
    gate.wait_in(free);
    ok!(cuMemsetD32Async(place, 6, 1, free));
    ok!(cuMemsetD32Async(place, 6, 1, blocking));
    ok!(cuStreamDestroy_v2(free));
    ok!(cuStreamDestroy_v2(blocking));
    assert_eq!(cu!(cuStreamQuery(free)), CuResult::INVALID_HANDLE);
    assert_eq!(cu!(cuStreamDestroy_v2(free)), CuResult::INVALID_HANDLE);
    gate.open();
    ok!(cuCtxSynchronize());
    assert_eq!(word(place), 6);
}

#[test]
fn events_measure_the_time_between_them() {
    let _context = Fresh::new();
    let module = load();
    let gate = Gate::new(module);
    let (own, start, end, untimed) = (stream(0), event(0), event(1), event(2));
    let mut milliseconds = -1f32;
    let mut elapsed = |from, to| {
        let result = cu!(cuEventElapsedTime(&mut milliseconds, from, to));
        (result, milliseconds)
    };
    assert_eq!(elapsed(start, end).0, CuResult::INVALID_HANDLE);
    ok!(cuEventRecord(start, own));
    gate.wait_in(own);
    ok!(cuEventRecordWithFlags(end, own, 0));
    ok!(cuEventRecord(untimed, own));
    assert_eq!(elapsed(start, end).0, CuResult::NOT_READY);
    gate.entered();
    std::thread::sleep(Duration::from_millis(20));
    gate.open();
    ok!(cuEventSynchronize(end));
    let (result, time) = elapsed(start, end);
    assert_eq!(result, CuResult::SUCCESS);
    assert!(time >= 20.0, "{time} ms for a kernel that ran for 20");
    assert_eq!(elapsed(end, start), (CuResult::SUCCESS, -time));
    ok!(cuEventElapsedTime_v2(&mut 0f32, start, end));
    assert_eq!(elapsed(start, untimed).0, CuResult::INVALID_HANDLE);
    assert_eq!(elapsed(start, own).0, CuResult::INVALID_HANDLE);
    assert_eq!(
        cu!(cuEventElapsedTime(null_mut(), start, end)),
        CuResult::INVALID_VALUE
    );
    for flags in [8, 4] {
        assert_eq!(
            cu!(cuEventCreate(&mut null_mut(), flags)),
            CuResult::INVALID_VALUE
        );
    }
    assert_eq!(
        cu!(cuEventRecordWithFlags(end, own, 1)),
        CuResult::INVALID_VALUE
    );
    ok!(cuEventDestroy_v2(start));
    assert_eq!(cu!(cuEventRecord(start, own)), CuResult::INVALID_HANDLE);
    assert_eq!(cu!(cuEventQuery(start)), CuResult::INVALID_HANDLE);
    assert_eq!(cu!(cuEventDestroy_v2(start)), CuResult::INVALID_HANDLE);
}

#[test]
fn memory_freed_in_a_stream_serves_work_before_it() {
    let _context = Fresh::new();
    let module = load();
    let add_function = kernel(module, "add");
    let gate = Gate::new(module);
    let (own, result) = (stream(1), alloc(4));
    ok!(cuCtxSynchronize());
    gate.wait_in(own);
    let scratch = alloc_in(own);
    ok!(cuMemsetD32Async(scratch, 30, 1, own));
    add(add_function, own, scratch, 3);
    ok!(cuMemcpyDtoDAsync_v2(result, scratch, 4, own));
    ok!(cuMemFreeAsync(scratch, own));
    assert_eq!(
        cu!(cuMemsetD32Async(scratch, 1, 1, own)),
        CuResult::INVALID_VALUE
    );
    gate.open();
    ok!(cuStreamSynchronize(own));
    assert_eq!(word(result), 33);
}

#[test]
fn freeing_waits_for_the_kernels_that_may_use_the_memory() {
    let _context = Fresh::new();
    let module = load();
    let gate = Gate::new(module);
    let place = alloc(4);
    gate.wait_in(stream(1));
    let address = gate.address();
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        open_gate(address);
    });
    ok!(cuMemFree_v2(place));
    // The gate was open before the memory was free.
    assert!(opener.is_finished() || cu!(cuCtxSynchronize()) == CuResult::SUCCESS);
    opener.join().unwrap();
}

#[test]
fn properties_of_streams() {
    let context = Fresh::new();
    let (blocking, free) = (stream(0), stream(1));
    let (mut flags, mut priority, mut capturing, mut seen) = (9, 9, 9, null_mut());
    for (handle, expected) in [
        (blocking, 0),
        (free, 1),
        (NULL, 0),
        (LEGACY, 0),
        (PER_THREAD, 0),
    ] {
        ok!(cuStreamGetFlags(handle, &mut flags));
        ok!(cuStreamGetPriority(handle, &mut priority));
        ok!(cuStreamIsCapturing(handle, &mut capturing));
        ok!(cuStreamGetCtx(handle, &mut seen));
        assert_eq!(
            (flags, priority, capturing, seen),
            (expected, 0, 0, context.0)
        );
    }
    ok!(cuStreamCreateWithPriority(&mut seen, 0, -5));
    assert_eq!(cu!(cuStreamCreate(&mut seen, 2)), CuResult::INVALID_VALUE);
    assert_eq!(cu!(cuStreamCreate(null_mut(), 0)), CuResult::INVALID_VALUE);
    assert_eq!(
        cu!(cuStreamWaitEvent(blocking, event(0), 1)),
        CuResult::INVALID_VALUE
    );
    let stack_word = 0u64;
    for wrong in [
        3 as Handle,
        usize::MAX as Handle,
        (&raw const stack_word) as Handle,
        context.0,
    ] {
        assert_eq!(cu!(cuStreamSynchronize(wrong)), CuResult::INVALID_HANDLE);
        assert_eq!(cu!(cuStreamQuery(wrong)), CuResult::INVALID_HANDLE);
        assert_eq!(cu!(cuStreamDestroy_v2(wrong)), CuResult::INVALID_HANDLE);
        assert_eq!(
            cu!(cuStreamGetFlags(wrong, &mut flags)),
            CuResult::INVALID_HANDLE
        );
        assert_eq!(cu!(cuEventSynchronize(wrong)), CuResult::INVALID_HANDLE);
        assert_eq!(
            cu!(cuMemsetD8Async(alloc(4), 0, 4, wrong)),
            CuResult::INVALID_HANDLE
        );
    }
    assert_eq!(cu!(cuStreamDestroy_v2(NULL)), CuResult::INVALID_HANDLE);
}

/// Runs a failing kernel; the error stays with its context, and with that only.
fn failure(name: &str, params: &mut [*mut c_void], expected: CuResult) {
    let healthy = Fresh::new();
    let survivor = alloc(4);
    let sick = Fresh::new();
    let module = load();
    let (place, own, done) = (alloc(4), stream(0), event(0));
    ok!(cuCtxSynchronize());
    assert_eq!(launch(kernel(module, name), own, params), CuResult::SUCCESS);
    // What follows in the context does not run.
    let _ = cu!(cuMemsetD32Async(place, 1, 1, own));
    assert_eq!(cu!(cuStreamSynchronize(own)), expected);
    assert_eq!(cu!(cuCtxSynchronize()), expected);
    assert_eq!(cu!(cuStreamQuery(own)), expected);
    assert_eq!(cu!(cuMemAlloc_v2(&mut 0, 4)), expected);
    let mut read = 0u32;
    assert_eq!(
        cu!(cuMemcpyDtoH_v2((&raw mut read).cast(), place, 4)),
        expected
    );
    assert_eq!(read, 0);
    assert_eq!(cu!(cuEventRecord(done, own)), expected);
    assert_eq!(cu!(cuEventQuery(done)), expected);
    assert_eq!(cu!(cuMemFree_v2(place)), expected);
    // The failure comes before what is wrong with the call.
    assert_eq!(launch(0x77 as Handle, own, &mut []), expected);
    let (mut device, mut current) = (-1, null_mut());
    ok!(cuCtxGetDevice(&mut device));
    ok!(cuCtxGetCurrent(&mut current));
    assert_eq!(current, sick.0);
    ok!(cuCtxSetCurrent(healthy.0));
    assert_eq!(word(survivor), 0);
    drop(sick);
    ok!(cuCtxSetCurrent(healthy.0));
    assert_eq!(word(survivor), 0);
}

#[test]
fn an_illegal_address_ends_the_context() {
    for mut address in [0u64, 64, 1 << 40, u64::MAX - 3] {
        let params = &mut [(&raw mut address).cast()];
        failure("wild", params, CuResult::ILLEGAL_ADDRESS);
    }
}

#[test]
fn one_word_past_an_allocation_is_an_illegal_address() {
    let context = Fresh::new();
    let module = load();
    let mut past = alloc(1000) + 1000;
    let launched = launch(kernel(module, "wild"), NULL, &mut [(&raw mut past).cast()]);
    assert_eq!(launched, CuResult::SUCCESS);
    assert_eq!(cu!(cuCtxSynchronize()), CuResult::ILLEGAL_ADDRESS);
    drop(context);
}

#[test]
fn a_misaligned_address_ends_the_context() {
    let _context = Fresh::new();
    let module = load();
    let mut odd = alloc(1000) + 2;
    let launched = launch(kernel(module, "wild"), NULL, &mut [(&raw mut odd).cast()]);
    assert_eq!(launched, CuResult::SUCCESS);
    assert_eq!(cu!(cuCtxSynchronize()), CuResult::MISALIGNED_ADDRESS);
}

#[test]
fn a_trap_ends_the_context() {
    failure("trapped", &mut [], CuResult::LAUNCH_FAILED);
}

#[test]
fn a_context_destroyed_under_work_drops_what_has_not_started() {
    let outer = Fresh::new();
    let place = alloc(4);
    ok!(cuCtxSynchronize());
    let inner = Fresh::new();
    let module = load();
    let gate = Gate::new(module);
    let own = stream(0);
    gate.wait_in(own);
    ok!(cuMemsetD32Async(place, 1, 1, own));
    let address = gate.address();
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        open_gate(address);
    });
    std::mem::forget(gate); // its word goes with the context
    drop(inner);
    opener.join().unwrap();
    ok!(cuCtxSetCurrent(outer.0));
    assert_eq!(word(place), 0);
}

#[test]
fn a_long_queue_runs_in_order() {
    let _context = Fresh::new();
    let module = load();
    let (add_function, own) = (kernel(module, "add"), stream(1));
    let (place, copy) = (alloc(4), alloc(4));
    ok!(cuCtxSynchronize());
    for round in 0..10_000u32 {
        if round % 100 == 0 {
            ok!(cuMemsetD32Async(place, round, 1, own));
        } else {
            add(add_function, own, place, 1);
        }
    }
    ok!(cuMemcpyDtoDAsync_v2(copy, place, 4, own));
    ok!(cuStreamSynchronize(own));
    assert_eq!(word(copy), 9999);
}

#[test]
fn many_threads_launch_in_their_own_streams() {
    let context = Fresh::new();
    let module = load();
    let (function, handle) = (kernel(module, "add") as usize, context.0 as usize);
    let total = alloc(4);
    ok!(cuCtxSynchronize());
    let threads: Vec<_> = (0..6u32)
        .map(|id| {
            std::thread::spawn(move || {
                ok!(cuCtxSetCurrent(handle as Handle));
                let own = match id % 3 {
                    0 => stream(0),
                    1 => stream(1),
                    _ => PER_THREAD,
                };
                let mine = alloc(4);
                ok!(cuCtxSynchronize());
                let done = event(0);
                for round in 1..=100u32 {
                    add(function as Handle, own, mine, round);
                    add(function as Handle, own, total, 1);
                    match round % 4 {
                        0 => ok!(cuStreamSynchronize(own)),
                        1 => {
                            ok!(cuEventRecord(done, own));
                            ok!(cuEventSynchronize(done));
                        }
                        2 => ok!(cuCtxSynchronize()),
                        _ => {}
                    }
                }
                ok!(cuStreamSynchronize(own));
                assert_eq!(word(mine), 5050);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(word(total), 600);
}

#[test]
fn a_process_ends_under_a_running_kernel() {
    if in_child("a_process_ends_under_a_running_kernel", &[]) {
        let context = Fresh::new();
        let module = load();
        let gate = Gate::new(module);
        gate.wait_in(stream(0));
        gate.wait_in(PER_THREAD);
        std::mem::forget((gate, context));
    }
}

#[test]
fn the_library_may_be_closed_under_its_threads() {
    if in_child("the_library_may_be_closed_under_its_threads", &[]) {
        // SAFETY: it is the library under test.
        let closed = unsafe { cuda_abi::Driver::load(&library_path()) }.unwrap();
        let (mut context, mut place) = (null_mut(), 0);
        // SAFETY: live places, and an allocation of that size.
        unsafe {
            assert_eq!(closed.cuInit(0), CuResult::SUCCESS);
            assert_eq!(closed.cuCtxCreate_v2(&mut context, 0, 0), CuResult::SUCCESS);
            assert_eq!(closed.cuMemAlloc_v2(&mut place, 1 << 20), CuResult::SUCCESS);
            assert_eq!(closed.cuMemsetD8_v2(place, 1, 1 << 20), CuResult::SUCCESS);
        }
        drop(closed);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a function that a stream called saw.
#[derive(Default)]
struct Seen {
    calls: AtomicU32,
    status: AtomicU32,
    thread: AtomicU64,
    hold: AtomicBool,
}

impl Seen {
    fn data(&self) -> *mut c_void {
        (&raw const *self).cast_mut().cast()
    }

    fn note(&self) {
        while self.hold.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        // SAFETY: asks for the calling thread's number.
        let thread = unsafe { libc::pthread_self() };
        self.thread.store(thread, Ordering::SeqCst);
        let mut free = 0usize;
        let asked = cu!(cuMemGetInfo_v2(&mut free, &mut 0));
        assert_eq!(asked, CuResult::NOT_PERMITTED);
        self.calls.fetch_add(1, Ordering::SeqCst);
    }
}

unsafe extern "C" fn host_function(data: *mut c_void) {
    // SAFETY: the tests pass a Seen that outlives the stream's work.
    unsafe { &*data.cast::<Seen>() }.note();
}

unsafe extern "C" fn callback(_: Handle, status: CuResult, data: *mut c_void) {
    // SAFETY: as above.
    let seen = unsafe { &*data.cast::<Seen>() };
    seen.status.store(status.0, Ordering::SeqCst);
    seen.note();
}

#[test]
fn functions_of_the_program_hold_their_stream_up_and_no_other() {
    let _context = Fresh::new();
    let (own, other, place) = (stream(1), stream(1), alloc(4));
    ok!(cuCtxSynchronize());
    let seen = Seen::default();
    seen.hold.store(true, Ordering::SeqCst);
    ok!(cuLaunchHostFunc(own, Some(host_function), seen.data()));
    ok!(cuStreamAddCallback(own, Some(callback), seen.data(), 0));
    ok!(cuMemsetD32Async(place, 5, 1, own));
    let aside = alloc_in(other);
    ok!(cuMemsetD32Async(aside, 6, 1, other));
    ok!(cuStreamSynchronize(other));
    assert_eq!(cu!(cuStreamQuery(own)), CuResult::NOT_READY);
    seen.hold.store(false, Ordering::SeqCst);
    ok!(cuStreamSynchronize(own));
    assert_eq!(seen.calls.load(Ordering::SeqCst), 2);
    // SAFETY: asks for the calling thread's number.
    assert_ne!(seen.thread.load(Ordering::SeqCst), unsafe {
        libc::pthread_self()
    });
    assert_eq!((word(place), seen.status.load(Ordering::SeqCst)), (5, 0));
    assert_eq!(
        cu!(cuLaunchHostFunc(own, None, null_mut())),
        CuResult::INVALID_VALUE
    );
    let added = cu!(cuStreamAddCallback(own, Some(callback), seen.data(), 1));
    assert_eq!(added, CuResult::INVALID_VALUE);
}

#[test]
fn callbacks_hear_of_a_failure_and_host_functions_do_not_run_after_it() {
    let _context = Fresh::new();
    let module = load();
    let (own, seen, never) = (stream(1), Seen::default(), Seen::default());
    let gate = Gate::new(module);
    gate.wait_in(own);
    assert_eq!(
        launch(kernel(module, "trapped"), own, &mut []),
        CuResult::SUCCESS
    );
    ok!(cuLaunchHostFunc(own, Some(host_function), never.data()));
    ok!(cuStreamAddCallback(own, Some(callback), seen.data(), 0));
    gate.open();
    assert_eq!(cu!(cuStreamSynchronize(own)), CuResult::LAUNCH_FAILED);
    let status = CuResult(seen.status.load(Ordering::SeqCst));
    assert_eq!(status, CuResult::LAUNCH_FAILED);
    assert_eq!(never.calls.load(Ordering::SeqCst), 0);
}

#[test]
fn urgent_streams_go_first_among_ready_work() {
    let _context = Fresh::new();
    let module = load();
    let gate = Gate::new(module);
    let (counter, out) = (alloc(4), alloc(12));
    ok!(cuCtxSynchronize());
    let (mut least, mut greatest) = (9, 9);
    ok!(cuCtxGetStreamPriorityRange(&mut least, &mut greatest));
    assert!(least == 0 && greatest < 0);
    let with = |priority| {
        let (mut stream, mut read) = (null_mut(), 99);
        ok!(cuStreamCreateWithPriority(&mut stream, 1, priority));
        ok!(cuStreamGetPriority(stream, &mut read));
        (stream, read)
    };
    let (low, high) = (with(least), with(greatest));
    assert_eq!((low.1, high.1), (least, greatest));
    assert_eq!((with(7).1, with(-99).1), (least, greatest));
    gate.wait_in(stream(1));
    stamp(module, low.0, counter, out);
    stamp(module, low.0, counter, out + 4);
    stamp(module, high.0, counter, out + 8);
    gate.open();
    ok!(cuCtxSynchronize());
    assert_eq!((word(out), word(out + 4), word(out + 8)), (1, 2, 0));
}

#[test]
fn streams_wait_for_values_in_memory() {
    let _context = Fresh::new();
    let module = load();
    let (waiting, writing, flag, place) = (stream(1), stream(1), alloc(16), alloc(4));
    ok!(cuCtxSynchronize());
    // What each condition waits for, and a value that meets it.
    let conditions: [(u32, u32, u32); 5] = [
        (0, 5, 6),
        (0, u32::MAX, 1), // a signed difference
        (1, 7, 7),
        (2, 0b110, 0b011),
        (3, u32::MAX - 1, 0xfe),
    ];
    let unmet = [4, 0x7fff_ffff, 8, 0b1000, 1];
    for ((condition, value, met), before) in conditions.into_iter().zip(unmet) {
        ok!(cuMemsetD32_v2(flag, before, 1));
        ok!(cuCtxSynchronize());
        ok!(cuStreamWaitValue32_v2(waiting, flag, value, condition));
        ok!(cuMemsetD32Async(place, value, 1, waiting));
        // Neither the engines nor other streams are held up.
        stamp(module, writing, flag + 8, flag + 12);
        ok!(cuStreamSynchronize(writing));
        assert_eq!(
            cu!(cuStreamQuery(waiting)),
            CuResult::NOT_READY,
            "{condition}"
        );
        ok!(cuStreamWriteValue32_v2(writing, flag, met, 0));
        ok!(cuStreamSynchronize(waiting));
        assert_eq!(word(place), value);
    }
    // A kernel's store is seen too, and 64 bits count.
    ok!(cuMemsetD8_v2(flag, 0, 16));
    ok!(cuCtxSynchronize());
    ok!(cuStreamWaitValue64_v2(waiting, flag, 1 << 32, 0));
    stamp(module, writing, flag + 4, flag + 8);
    ok!(cuStreamSynchronize(waiting));
    ok!(cuStreamWriteValue64_v2(waiting, flag, 0x1_0000_0002, 1));
    let batch: [[u64; 6]; 4] = [
        [5, flag + 8, 3, 0, 0, 0],
        [6, 0, 0, 0, 0, 0],
        [4, flag + 8, 3, 1, 0, 0],
        [2, flag + 8, 9, 0, 0, 0],
    ];
    ok!(cuStreamBatchMemOp_v2(
        waiting,
        4,
        batch.as_ptr().cast_mut().cast(),
        0
    ));
    ok!(cuStreamSynchronize(waiting));
    assert_eq!((word(flag), word(flag + 4), word(flag + 8)), (2, 1, 9));
    for (result, expected) in [
        (
            cu!(cuStreamWaitValue32(waiting, flag + 2, 0, 0)),
            CuResult::INVALID_VALUE,
        ),
        (
            cu!(cuStreamWaitValue64(waiting, flag + 4, 0, 0)),
            CuResult::INVALID_VALUE,
        ),
        (
            cu!(cuStreamWaitValue32(waiting, flag, 0, 4)),
            CuResult::INVALID_VALUE,
        ),
        (
            cu!(cuStreamWriteValue32(waiting, flag, 0, 2)),
            CuResult::INVALID_VALUE,
        ),
        (
            cu!(cuStreamWriteValue64(waiting, 0, 0, 0)),
            CuResult::INVALID_VALUE,
        ),
        (
            cu!(cuStreamBatchMemOp(waiting, 257, null_mut(), 0)),
            CuResult::INVALID_VALUE,
        ),
    ] {
        assert_eq!(result, expected);
    }
}

#[test]
fn a_context_that_ends_waits_for_no_value() {
    let context = Fresh::new();
    let (own, flag) = (stream(1), alloc(4));
    let seen = Seen::default();
    ok!(cuStreamWaitValue32_v2(own, flag, 1, 1));
    ok!(cuLaunchHostFunc(own, Some(host_function), seen.data()));
    drop(context);
    assert_eq!(seen.calls.load(Ordering::SeqCst), 0);
}

#[test]
fn streams_have_attributes_and_numbers() {
    let context = Fresh::new();
    let (one, two) = (stream(0), stream(0));
    let mut ids = [0u64; 4];
    for (handle, id) in [one, two, NULL, PER_THREAD].into_iter().zip(&mut ids) {
        ok!(cuStreamGetId(handle, id));
        let (mut device, mut seen, mut green) = (9, null_mut(), one);
        ok!(cuStreamGetDevice(handle, &mut device));
        ok!(cuStreamGetCtx_v2(handle, &mut seen, &mut green));
        assert_eq!((device, seen, green), (0, context.0, null_mut()));
    }
    assert!((1..4).all(|at| !ids[..at].contains(&ids[at])), "{ids:?}");
    let policy = |stream| {
        let mut value = [9u8; 64];
        ok!(cuStreamGetAttribute(stream, 3, value.as_mut_ptr().cast()));
        value[0]
    };
    let mut value = [0u8; 64];
    value[0] = 2;
    assert_eq!((policy(one), policy(two)), (1, 1));
    ok!(cuStreamSetAttribute(one, 3, value.as_ptr().cast()));
    ok!(cuStreamCopyAttributes(two, one));
    assert_eq!((policy(one), policy(two), policy(NULL)), (2, 2, 1));
    let (urgent, mut priority) = (-3i32, 0);
    value[..4].copy_from_slice(&urgent.to_ne_bytes());
    ok!(cuStreamSetAttribute(one, 8, value.as_ptr().cast()));
    ok!(cuStreamGetPriority(one, &mut priority));
    assert_eq!(priority, -3);
    let place = value.as_mut_ptr().cast();
    assert_eq!(
        cu!(cuStreamGetAttribute(one, 99, place)),
        CuResult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuStreamGetAttribute(one, 3, null_mut())),
        CuResult::INVALID_VALUE
    );
}

#[test]
fn pools_count_what_comes_from_them() {
    let _context = Fresh::new();
    let own = stream(1);
    let (mut default, mut current, mut pool) = (null_mut(), null_mut(), null_mut());
    ok!(cuDeviceGetDefaultMemPool(&mut default, 0));
    ok!(cuDeviceGetMemPool(&mut current, 0));
    assert_eq!(default, current);
    // Pinned, no handles, device 0.
    let properties = [1i32, 0, 1, 0, 0, 0, 0, 0];
    ok!(cuMemPoolCreate(&mut pool, properties.as_ptr().cast()));
    let used = |pool, attribute| {
        let mut bytes = 0u64;
        ok!(cuMemPoolGetAttribute(
            pool,
            attribute,
            (&raw mut bytes).cast()
        ));
        bytes
    };
    let (mut one, mut two) = (0, 0);
    ok!(cuMemAllocFromPoolAsync(&mut one, 1000, pool, own));
    ok!(cuDeviceSetMemPool(0, pool));
    ok!(cuMemAllocAsync(&mut two, 500, own));
    assert_eq!((used(pool, 7), used(pool, 8)), (1500, 1500));
    let mut of: Handle = null_mut();
    ok!(cuPointerGetAttribute(
        (&raw mut of).cast::<c_void>(),
        17,
        two
    ));
    assert_eq!(of, pool);
    ok!(cuMemFreeAsync(one, own));
    ok!(cuStreamSynchronize(own));
    assert_eq!((used(pool, 7), used(pool, 8)), (500, 1500));
    ok!(cuMemFree_v2(two));
    let mut zero = 0u64;
    ok!(cuMemPoolSetAttribute(pool, 8, (&raw mut zero).cast()));
    assert_eq!((used(pool, 7), used(pool, 8)), (0, 0));
    let mut threshold = u64::MAX;
    ok!(cuMemPoolSetAttribute(pool, 4, (&raw mut threshold).cast()));
    assert_eq!(used(pool, 4), u64::MAX);
    ok!(cuMemPoolTrimTo(pool, 0));
    let (device, mut flags) = ([1i32, 0], 0);
    ok!(cuMemPoolGetAccess(&mut flags, pool, device.as_ptr().cast()));
    assert_eq!(flags, 3);
    ok!(cuMemPoolSetAccess(pool, [1i32, 0, 3].as_ptr().cast(), 1));
    ok!(cuMemPoolDestroy(pool));
    ok!(cuDeviceGetMemPool(&mut current, 0));
    assert_eq!(current, default);
    assert_eq!(cu!(cuMemPoolDestroy(pool)), CuResult::INVALID_VALUE);
    assert_eq!(cu!(cuMemPoolDestroy(default)), CuResult::INVALID_VALUE);
    let gone = cu!(cuMemAllocFromPoolAsync(&mut one, 4, pool, own));
    assert_eq!(gone, CuResult::INVALID_VALUE);
}

#[test]
fn variants_for_per_thread_default_streams_leave_the_null_stream_alone() {
    let _context = Fresh::new();
    let module = load();
    let gate = Gate::new(module);
    let (aside, mut write): (u64, *mut c_void) = (alloc(4), null_mut());
    ok!(cuCtxSynchronize());
    let found = cu!(cuGetProcAddress_v2(
        c"cuStreamGetId".as_ptr(),
        &mut write,
        12000,
        2,
        null_mut()
    ));
    assert_eq!(found, CuResult::SUCCESS);
    // SAFETY: the function's signature.
    let id_of: unsafe extern "C" fn(Handle, *mut u64) -> CuResult =
        unsafe { std::mem::transmute(write) };
    let (mut own, mut asked, mut null) = (0, 0, 0);
    // SAFETY: a live place.
    assert_eq!(unsafe { id_of(NULL, &mut asked) }, CuResult::SUCCESS);
    ok!(cuStreamGetId(PER_THREAD, &mut own));
    ok!(cuStreamGetId(NULL, &mut null));
    assert!(asked == own && null != own);
    ok!(cuGetProcAddress_v2(
        c"cuMemsetD32".as_ptr(),
        &mut write,
        12000,
        2,
        null_mut()
    ));
    // SAFETY: the function's signature.
    let fill: unsafe extern "C" fn(u64, u32, usize) -> CuResult =
        unsafe { std::mem::transmute(write) };
    // A kernel in a stream that does not wait for the thread's: the fill does not either.
    gate.wait_in(stream(1));
    // SAFETY: an allocation of that size.
    assert_eq!(unsafe { fill(aside, 4, 1) }, CuResult::SUCCESS);
    ok!(cuStreamSynchronize(PER_THREAD));
    gate.open();
    assert_eq!(word(aside), 4);
}
