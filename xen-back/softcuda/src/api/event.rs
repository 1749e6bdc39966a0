//! Events.

use super::{Out, call};
use crate::context::current;
use crate::engine::Scope;
use crate::event::{self, DISABLE_TIMING, Event, INTERPROCESS};
use crate::stream::Target;
use crate::work::Work;
use cuda_abi::{CuResult, Handle};
use std::sync::Arc;

pub unsafe fn cuEventCreate(event: *mut Handle, flags: u32) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(event) }?;
        let timed_across = flags & (INTERPROCESS | DISABLE_TIMING) == INTERPROCESS;
        if flags & !event::FLAGS != 0 || timed_across {
            return Err(CuResult::INVALID_VALUE);
        }
        let number = driver.events.number();
        let event = Event::new(current()?, flags);
        driver.events.insert(number, Arc::new(event));
        out.set(number as Handle);
        Ok(())
    })
}

pub unsafe fn cuEventRecord(event: Handle, stream: Handle) -> CuResult {
    call(|driver| {
        let Target { context, lane, .. } = Target::of(driver, stream)?;
        let event = driver.events.get(event).ok_or(CuResult::INVALID_HANDLE)?;
        if event.context.id != context.id {
            return Err(CuResult::INVALID_HANDLE);
        }
        let work = Work::Record(Arc::clone(&event));
        let task = driver.engines.submit(driver, &context, lane, work, 0)?;
        event.recorded(task, lane);
        Ok(())
    })
}

/// The only flag is for captured streams, and none is ever captured.
pub unsafe fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) -> CuResult {
    if flags != 0 {
        return call(|_| Err(CuResult::INVALID_VALUE));
    }
    // SAFETY: the same contract.
    unsafe { cuEventRecord(event, stream) }
}

pub unsafe fn cuEventQuery(event: Handle) -> CuResult {
    call(|driver| {
        let event = driver.events.get(event).ok_or(CuResult::INVALID_HANDLE)?;
        event.context.check()?;
        if driver.engines.task_ended(event.task()) {
            event.context.check()
        } else {
            Err(CuResult::NOT_READY)
        }
    })
}

pub unsafe fn cuEventSynchronize(event: Handle) -> CuResult {
    call(|driver| {
        let event = driver.events.get(event).ok_or(CuResult::INVALID_HANDLE)?;
        event.context.check()?;
        let (task, lane) = event.place();
        let scope = Scope::Lane(event.context.id, lane);
        driver.engines.wait(driver, task, scope);
        event.context.print();
        event.context.check()
    })
}

pub unsafe fn cuEventDestroy_v2(event: Handle) -> CuResult {
    call(|driver| {
        let gone = driver
            .events
            .remove(event)
            .ok_or(CuResult::INVALID_HANDLE)?;
        gone.context.check()
    })
}

pub unsafe fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(milliseconds) }?;
        let find = |event| driver.events.get(event).ok_or(CuResult::INVALID_HANDLE);
        let (start, end) = (find(start)?, find(end)?);
        start.context.check()?;
        out.set(start.milliseconds_until(&end)?);
        Ok(())
    })
}

pub unsafe fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    start: Handle,
    end: Handle,
) -> CuResult {
    // SAFETY: the same contract.
    unsafe { cuEventElapsedTime(milliseconds, start, end) }
}
