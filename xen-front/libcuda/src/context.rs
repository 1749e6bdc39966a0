//! Contexts: which exist, and which is current in each thread.
//!
//! The current context is a property of the guest's thread; every call carries it. Must never ask the
//! backend what the guest knows.

use crate::handles::{FIRST_INDEX, Named, lock, to_c};
use crate::session::{Session, session};
use cuda_abi::{Context, CuResult, Handle};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Mutex;
use vgpu_protocol::calls::request;
use vgpu_protocol::codec::Id;

thread_local! {
    /// The thread's stack of contexts; the last is current, 0 stands for none.
    static STACK: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// The index of the calling thread's context; 0 for none.
pub fn current() -> u32 {
    STACK.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

/// The calling thread's context and what is known of it.
pub fn current_info(session: &Session) -> Result<(Id<Context>, Info), CuResult> {
    let index = current();
    let info = lock(&session.contexts.0)
        .get(&index)
        .copied()
        .ok_or(CuResult::INVALID_CONTEXT)?;
    Ok((Id::new(index), info))
}

/// What is known of a context.
#[derive(Copy, Clone, Debug)]
pub struct Info {
    /// Its device.
    pub device: i32,
    /// The flags it was created with.
    flags: u32,
    /// References to a primary context; 0 for others.
    retained: u32,
}

/// The contexts that exist.
#[derive(Debug, Default)]
pub struct Contexts(Mutex<HashMap<u32, Info>>);

/// Primary contexts have the indices below [`FIRST_INDEX`], by device.
fn primary(device: i32) -> Result<Id<Context>, CuResult> {
    let index = u32::try_from(device).map_err(|_| CuResult::INVALID_DEVICE)?;
    if index >= FIRST_INDEX - 1 {
        return Err(CuResult::INVALID_DEVICE);
    }
    Ok(Id::new(index.saturating_add(1)))
}

fn known(session: &Session, ctx: Handle) -> Result<Id<Context>, CuResult> {
    let id = crate::handles::from_c::<Context>(ctx).map_err(|_| CuResult::INVALID_CONTEXT)?;
    if lock(&session.contexts.0).contains_key(&id.0) {
        Ok(id)
    } else {
        Err(CuResult::INVALID_CONTEXT)
    }
}

fn gone(session: &Session, id: Id<Context>) {
    lock(&session.contexts.0).remove(&id.0);
    session.handles.forget_context(id.0);
    session.modules.forget(|context| context == id.0);
    session.memory.forget_context(id.0);
}

pub unsafe fn cuDevicePrimaryCtxRetain(pctx: *mut Handle, dev: i32) -> CuResult {
    answer(|session| {
        if pctx.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        let id = primary(dev)?;
        session.call(&request::PrimaryRetain {
            context: id,
            device: dev,
        })?;
        let mut contexts = lock(&session.contexts.0);
        let info = contexts.entry(id.0).or_insert(Info {
            device: dev,
            flags: 0,
            retained: 0,
        });
        info.retained = info.retained.saturating_add(1);
        // SAFETY: not null, and the program vouches for it.
        unsafe { pctx.write(to_c(id)) };
        Ok(())
    })
}

pub unsafe fn cuDevicePrimaryCtxRelease_v2(dev: i32) -> CuResult {
    answer(|session| {
        let id = primary(dev)?;
        session.call(&request::PrimaryRelease { device: dev })?;
        let last = lock(&session.contexts.0)
            .get_mut(&id.0)
            .is_some_and(|info| {
                info.retained = info.retained.saturating_sub(1);
                info.retained == 0
            });
        if last {
            gone(session, id);
        }
        Ok(())
    })
}

pub unsafe fn cuDevicePrimaryCtxReset_v2(dev: i32) -> CuResult {
    answer(|session| {
        let id = primary(dev)?;
        session.call(&request::PrimaryReset { device: dev })?;
        gone(session, id);
        Ok(())
    })
}

pub unsafe fn cuDevicePrimaryCtxGetState(dev: i32, flags: *mut u32, active: *mut i32) -> CuResult {
    answer(|session| {
        if flags.is_null() || active.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        let state = session.call(&request::PrimaryState { device: dev })?;
        // SAFETY: neither is null, and the program vouches for them.
        unsafe {
            flags.write(state.flags);
            active.write(state.active);
        }
        Ok(())
    })
}

pub unsafe fn cuDevicePrimaryCtxSetFlags_v2(dev: i32, flags: u32) -> CuResult {
    answer(|session| {
        session.call(&request::PrimarySetFlags { device: dev, flags })?;
        if let Some(info) = lock(&session.contexts.0).get_mut(&primary(dev)?.0) {
            info.flags = flags;
        }
        Ok(())
    })
}

pub unsafe fn cuCtxCreate_v2(pctx: *mut Handle, flags: u32, dev: i32) -> CuResult {
    answer(|session| {
        if pctx.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        let id = Context::reserve(&session.handles, 0);
        if let Err(error) = session.call(&request::ContextCreate {
            context: id,
            flags,
            device: dev,
        }) {
            Context::release(&session.handles, id);
            return Err(error);
        }
        lock(&session.contexts.0).insert(
            id.0,
            Info {
                device: dev,
                flags,
                retained: 0,
            },
        );
        STACK.with_borrow_mut(|stack| stack.push(id.0));
        // SAFETY: not null, and the program vouches for it.
        unsafe { pctx.write(to_c(id)) };
        Ok(())
    })
}

pub unsafe fn cuCtxCreate_v3(
    pctx: *mut Handle,
    paramsArray: *mut c_void,
    numParams: i32,
    flags: u32,
    dev: i32,
) -> CuResult {
    if numParams != 0 && !paramsArray.is_null() {
        return CuResult::UNSUPPORTED_EXEC_AFFINITY;
    }
    // SAFETY: the program vouches for its pointer.
    unsafe { cuCtxCreate_v2(pctx, flags, dev) }
}

pub unsafe fn cuCtxCreate_v4(
    pctx: *mut Handle,
    ctxCreateParams: *mut c_void,
    flags: u32,
    dev: i32,
) -> CuResult {
    if !ctxCreateParams.is_null() {
        // SAFETY: the program vouches for the structure that it passes.
        let params = unsafe {
            ctxCreateParams
                .cast::<cuda_abi::sys::CUctxCreateParams>()
                .read_unaligned()
        };
        if params.numExecAffinityParams != 0 || !params.cigParams.is_null() {
            return CuResult::NOT_SUPPORTED;
        }
    }
    // SAFETY: the program vouches for its pointer.
    unsafe { cuCtxCreate_v2(pctx, flags, dev) }
}

pub unsafe fn cuCtxDestroy_v2(ctx: Handle) -> CuResult {
    answer(|session| {
        let id = known(session, ctx)?;
        if id.0 < FIRST_INDEX {
            // A primary context is released, not destroyed.
            return Err(CuResult::INVALID_CONTEXT);
        }
        session.call(&request::ContextDestroy { context: id })?;
        gone(session, id);
        Context::release(&session.handles, id);
        STACK.with_borrow_mut(|stack| {
            if stack.last() == Some(&id.0) {
                stack.pop();
            }
        });
        Ok(())
    })
}

pub unsafe fn cuCtxGetCurrent(pctx: *mut Handle) -> CuResult {
    answer(|_| {
        if pctx.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: not null, and the program vouches for it.
        unsafe { pctx.write(handle_of(current())) };
        Ok(())
    })
}

fn handle_of(index: u32) -> Handle {
    if index == 0 {
        std::ptr::null_mut()
    } else {
        to_c(Id::<Context>::new(index))
    }
}

pub unsafe fn cuCtxSetCurrent(ctx: Handle) -> CuResult {
    answer(|session| {
        let index = if ctx.is_null() {
            0
        } else {
            known(session, ctx)?.0
        };
        STACK.with_borrow_mut(|stack| {
            stack.pop();
            if index != 0 {
                stack.push(index);
            }
        });
        Ok(())
    })
}

pub unsafe fn cuCtxPushCurrent_v2(ctx: Handle) -> CuResult {
    answer(|session| {
        let id = known(session, ctx)?;
        STACK.with_borrow_mut(|stack| stack.push(id.0));
        Ok(())
    })
}

pub unsafe fn cuCtxPopCurrent_v2(pctx: *mut Handle) -> CuResult {
    answer(|_| {
        let index = STACK
            .with_borrow_mut(Vec::pop)
            .ok_or(CuResult::INVALID_CONTEXT)?;
        if !pctx.is_null() {
            // SAFETY: not null, and the program vouches for it.
            unsafe { pctx.write(handle_of(index)) };
        }
        Ok(())
    })
}

pub unsafe fn cuCtxGetDevice(device: *mut i32) -> CuResult {
    answer(|session| {
        let (_, info) = current_info(session)?;
        give(device, info.device)
    })
}

pub unsafe fn cuCtxGetFlags(flags: *mut u32) -> CuResult {
    answer(|session| {
        let (_, info) = current_info(session)?;
        give(flags, info.flags)
    })
}

/// The version of the context interface that `cuCtxCreate_v2` to `_v4` stand for.
const CONTEXT_API: u32 = 3020;

pub unsafe fn cuCtxGetApiVersion(ctx: Handle, version: *mut u32) -> CuResult {
    answer(|session| {
        if ctx.is_null() {
            current_info(session)?;
        } else {
            known(session, ctx)?;
        }
        give(version, CONTEXT_API)
    })
}

pub unsafe fn cuStreamGetCtx(hStream: Handle, pctx: *mut Handle) -> CuResult {
    answer(|session| {
        let id = crate::auto::used::<cuda_abi::Stream>(hStream, session)?;
        let index = match cuda_abi::Stream::context(&session.handles, id) {
            Some(index) => index,
            None => current_info(session)?.0.0,
        };
        give(pctx, handle_of(index))
    })
}

/// Runs a function's body with the session.
pub fn answer(body: impl FnOnce(&'static Session) -> Result<(), CuResult>) -> CuResult {
    session().and_then(body).into()
}

/// Fills a place that the program passed; null is an invalid value.
pub fn give<T>(place: *mut T, value: T) -> Result<(), CuResult> {
    if place.is_null() {
        return Err(CuResult::INVALID_VALUE);
    }
    // SAFETY: not null, and the program vouches for it.
    unsafe { place.write_unaligned(value) };
    Ok(())
}
