//! Contexts.

use super::{Out, call, device_index};
use crate::context::{Context, current, with_stack};
use crate::driver::Driver;
use crate::memory::Peer;
use crate::stream::PRIORITIES;
use cuda_abi::{CuResult, Handle};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What cuCtxGetApiVersion answers for contexts of cuCtxCreate_v2 and later.
const API_VERSION: u32 = 3020;

/// The context that a handle means.
fn find(driver: &Driver, context: Handle) -> Result<Arc<Context>, CuResult> {
    driver
        .contexts
        .get(context)
        .ok_or(CuResult::INVALID_CONTEXT)
}

pub unsafe fn cuCtxCreate_v2(context: *mut Handle, flags: u32, device: i32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(context) }?;
        let device = device_index(driver, device)?;
        if !Context::flags_valid(flags) {
            return Err(CuResult::INVALID_VALUE);
        }
        let handle = driver.contexts.number();
        let context = Context::new(handle, handle, device, flags, false, driver.timeout);
        context.take_memory(driver)?;
        with_stack(|stack| stack.push(Arc::clone(&context)))?;
        driver.contexts.insert(handle, context);
        out.set(handle as Handle);
        Ok(())
    })
}

pub unsafe fn cuCtxCreate_v3(
    context: *mut Handle,
    _params: *mut c_void,
    count: i32,
    flags: u32,
    device: i32,
) -> CuResult {
    if count != 0 {
        return call(|_| Err(CuResult::UNSUPPORTED_EXEC_AFFINITY));
    }
    // SAFETY: the C function's contract.
    unsafe { cuCtxCreate_v2(context, flags, device) }
}

pub unsafe fn cuCtxCreate_v4(
    context: *mut Handle,
    params: *mut c_void,
    flags: u32,
    device: i32,
) -> CuResult {
    let params = params.cast::<cuda_abi::sys::CUctxCreateParams>();
    // SAFETY: null, or the structure that this function takes.
    let asks = !params.is_null()
        && unsafe { (*params).numExecAffinityParams != 0 || !(*params).cigParams.is_null() };
    if asks {
        return call(|_| Err(CuResult::UNSUPPORTED_EXEC_AFFINITY));
    }
    // SAFETY: the C function's contract.
    unsafe { cuCtxCreate_v2(context, flags, device) }
}

pub unsafe fn cuCtxDestroy_v2(context: Handle) -> CuResult {
    call(|driver| {
        let context = find(driver, context)
            .ok()
            .filter(|context| !context.primary);
        let context = context.ok_or(CuResult::INVALID_CONTEXT)?;
        with_stack(|stack| stack.pop_if(|top| top.id == context.id))?;
        driver.destroy_context(&context);
        Ok(())
    })
}

pub unsafe fn cuCtxGetCurrent(context: *mut Handle) -> CuResult {
    call(|_| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(context) }?;
        let top = with_stack(|stack| stack.last().map(|context| context.handle))?;
        out.set(top.map_or(null_mut(), |handle| handle as Handle));
        Ok(())
    })
}

pub unsafe fn cuCtxSetCurrent(context: Handle) -> CuResult {
    call(|driver| {
        let new = (!context.is_null())
            .then(|| find(driver, context))
            .transpose()?;
        with_stack(|stack| {
            stack.pop();
            stack.extend(new);
        })
    })
}

pub unsafe fn cuCtxPushCurrent_v2(context: Handle) -> CuResult {
    call(|driver| {
        let context = find(driver, context)?;
        with_stack(|stack| stack.push(context))
    })
}

pub unsafe fn cuCtxPopCurrent_v2(context: *mut Handle) -> CuResult {
    call(|_| {
        let top = with_stack(Vec::pop)?.ok_or(CuResult::INVALID_CONTEXT)?;
        // SAFETY: the C function's contract; this output is optional.
        if let Ok(out) = unsafe { Out::new(context) } {
            out.set(top.handle as Handle);
        }
        Ok(())
    })
}

/// The calling thread's context whatever its state.
fn top() -> Result<Arc<Context>, CuResult> {
    let top = with_stack(|stack| stack.last().cloned())?;
    let top = top.ok_or(CuResult::INVALID_CONTEXT)?;
    if top.alive() {
        Ok(top)
    } else {
        Err(CuResult::CONTEXT_IS_DESTROYED)
    }
}

pub unsafe fn cuCtxGetDevice(device: *mut i32) -> CuResult {
    call(|_| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(device) }?;
        out.set(top()?.device as i32);
        Ok(())
    })
}

pub unsafe fn cuCtxGetFlags(flags: *mut u32) -> CuResult {
    call(|_| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(flags) }?;
        out.set(top()?.flags.load(Ordering::Relaxed));
        Ok(())
    })
}

pub unsafe fn cuCtxGetApiVersion(context: Handle, version: *mut u32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(version) }?;
        if context.is_null() {
            top()?;
        } else {
            find(driver, context)?;
        }
        out.set(API_VERSION);
        Ok(())
    })
}

pub unsafe fn cuCtxSynchronize() -> CuResult {
    call(|driver| {
        let context = current()?;
        driver.captures.check_wait_context(&context)?;
        driver.engines.wait_context(driver, context.id);
        context.print();
        context.check()
    })
}

pub unsafe fn cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) -> CuResult {
    call(|_| {
        current()?;
        for (place, priority) in [(least, PRIORITIES.0), (greatest, PRIORITIES.1)] {
            // SAFETY: the C function's contract; each output is optional.
            if let Ok(out) = unsafe { Out::new(place) } {
                out.set(priority);
            }
        }
        Ok(())
    })
}

pub unsafe fn cuCtxGetLimit(value: *mut usize, limit: i32) -> CuResult {
    call(|_| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(value) }?;
        out.set(current()?.limit(limit)?);
        Ok(())
    })
}

pub unsafe fn cuCtxSetLimit(limit: i32, value: usize) -> CuResult {
    call(|_| current()?.set_limit(limit, value))
}

pub unsafe fn cuCtxGetCacheConfig(config: *mut i32) -> CuResult {
    call(|_| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(config) }?;
        out.set(current()?.cache_config.load(Ordering::Relaxed));
        Ok(())
    })
}

pub unsafe fn cuCtxSetCacheConfig(config: i32) -> CuResult {
    call(|_| {
        let context = current()?;
        if !(0..=3).contains(&config) {
            return Err(CuResult::INVALID_VALUE);
        }
        context.cache_config.store(config, Ordering::Relaxed);
        Ok(())
    })
}

pub unsafe fn cuCtxGetSharedMemConfig(config: *mut i32) -> CuResult {
    call(|_| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(config) }?;
        out.set(current()?.shared_config.load(Ordering::Relaxed));
        Ok(())
    })
}

pub unsafe fn cuCtxSetSharedMemConfig(config: i32) -> CuResult {
    call(|_| {
        let context = current()?;
        match config {
            0 => context.shared_config.store(1, Ordering::Relaxed),
            1 | 2 => context.shared_config.store(config, Ordering::Relaxed),
            _ => return Err(CuResult::INVALID_VALUE),
        }
        Ok(())
    })
}

/// No part of the cache is set aside, so there is nothing to reset.
pub unsafe fn cuCtxResetPersistingL2Cache() -> CuResult {
    call(|_| current().map(drop))
}

pub unsafe fn cuCtxGetId(context: Handle, id: *mut u64) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(id) }?;
        let context = if context.is_null() {
            top()?
        } else {
            find(driver, context)?
        };
        out.set(context.id);
        Ok(())
    })
}

pub unsafe fn cuCtxSetFlags(flags: u32) -> CuResult {
    call(|_| {
        let context = top()?;
        if !Context::flags_valid(flags) {
            return Err(CuResult::INVALID_VALUE);
        }
        context.flags.store(flags, Ordering::Relaxed);
        Ok(())
    })
}

pub unsafe fn cuCtxAttach(context: *mut Handle, flags: u32) -> CuResult {
    call(|_| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(context) }?;
        if flags != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let context = top()?;
        context.attached.fetch_add(1, Ordering::AcqRel);
        out.set(context.handle as Handle);
        Ok(())
    })
}

/// The last one to detach destroys the context, which whoever created it is attached to.
pub unsafe fn cuCtxDetach(context: Handle) -> CuResult {
    let attached = call(|driver| {
        let context = find(driver, context)?;
        let one_less = |attached: u32| attached.checked_sub(1);
        context
            .attached
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less)
            .map(drop)
            .map_err(|_| CuResult::NOT_FOUND)
    });
    match attached {
        // SAFETY: the same contract.
        CuResult::NOT_FOUND => unsafe { cuCtxDestroy_v2(context) },
        other => other,
    }
}

/// The pair of the calling thread's context and a peer's.
fn peer(driver: &Driver, context: Handle) -> Result<Peer, CuResult> {
    let current = current()?;
    let other = find(driver, context)?;
    if current.device == other.device {
        return Err(CuResult::INVALID_DEVICE);
    }
    Ok(Peer {
        from: (current.handle, current.device),
        to: (other.handle, other.device),
    })
}

pub unsafe fn cuCtxEnablePeerAccess(context: Handle, flags: u32) -> CuResult {
    call(|driver| {
        if flags != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        driver.memory.enable_peer(peer(driver, context)?)
    })
}

pub unsafe fn cuCtxDisablePeerAccess(context: Handle) -> CuResult {
    call(|driver| {
        let peer = peer(driver, context).map_err(|error| match error {
            CuResult::INVALID_DEVICE => CuResult::PEER_ACCESS_NOT_ENABLED,
            other => other,
        })?;
        // What uses the access ends first.
        driver.engines.wait_context(driver, current()?.id);
        driver.memory.disable_peer(peer)
    })
}

/// There is no profiler to tell.
pub unsafe fn cuProfilerStart() -> CuResult {
    call(|_| current().map(drop))
}

pub unsafe fn cuProfilerStop() -> CuResult {
    call(|_| current().map(drop))
}
