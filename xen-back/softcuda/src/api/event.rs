//! Events.

use super::{Out, call};
use crate::context::current;
use crate::engine::Scope;
use crate::event::{self, BLOCKING_SYNC, DISABLE_TIMING, Event, INTERPROCESS};
use crate::graph::Operation;
use crate::stream::Target;
use crate::work::Work;
use cuda_abi::{CuResult, Handle};
use std::sync::Arc;

/// `CU_EVENT_RECORD_EXTERNAL`.
const EXTERNAL: u32 = 1;

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
    // SAFETY: the same contract.
    unsafe { cuEventRecordWithFlags(event, stream, 0) }
}

/// The only flag makes a node of a capture's graph that records the event each time it is launched.
pub unsafe fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) -> CuResult {
    call(|driver| {
        let handle = event as u64;
        let Target { context, lane, .. } = Target::of(driver, stream)?;
        let event = driver.events.get(event).ok_or(CuResult::INVALID_HANDLE)?;
        if event.context.id != context.id {
            return Err(CuResult::INVALID_HANDLE);
        }
        let external = match flags {
            0 => false,
            EXTERNAL => true,
            _ => return Err(CuResult::INVALID_VALUE),
        };
        let place = (context.id, lane);
        if external {
            let node = Operation::RecordEvent(event, handle);
            return match driver.captures.add(driver, place, node)? {
                true => Ok(()),
                false => Err(CuResult::INVALID_VALUE),
            };
        }
        let point = driver.captures.point(&context, lane)?;
        let captured = point.is_some();
        event.set_captured(point);
        if captured {
            return Ok(());
        }
        let work = Work::Record(Arc::clone(&event));
        let task = driver.engines.submit(driver, &context, lane, work, 0)?;
        event.recorded(task, lane);
        Ok(())
    })
}

pub unsafe fn cuEventQuery(event: Handle) -> CuResult {
    call(|driver| {
        let event = driver.events.get(event).ok_or(CuResult::INVALID_HANDLE)?;
        event.context.check()?;
        refuse_captured(&event)?;
        driver.captures.check_unsafe_call()?;
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
        refuse_captured(&event)?;
        driver.captures.check_unsafe_call()?;
        let (task, lane) = event.place();
        let scope = match event.flags & BLOCKING_SYNC {
            0 => Scope::Lane(event.context.id, lane),
            _ => Scope::Nothing,
        };
        driver.engines.wait(driver, task, scope);
        event.context.print();
        event.context.check()
    })
}

/// Refuses to ask about an event that stands for a point of a capture.
fn refuse_captured(event: &Event) -> Result<(), CuResult> {
    match event.captured() {
        Some(_) => Err(CuResult::CAPTURED_EVENT),
        None => Ok(()),
    }
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
        refuse_captured(&start)?;
        refuse_captured(&end)?;
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
