//! Events: a point in a stream and when it was reached. Must never be locked around anything else.

use crate::capture::Point;
use crate::context::Context;
use crate::engine::{Lane, TaskId};
use cuda_abi::CuResult;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// `CU_EVENT_BLOCKING_SYNC`: who waits for it sleeps.
pub const BLOCKING_SYNC: u32 = 1;
/// `CU_EVENT_DISABLE_TIMING`.
pub const DISABLE_TIMING: u32 = 2;
/// `CU_EVENT_INTERPROCESS`, which needs `CU_EVENT_DISABLE_TIMING`.
pub const INTERPROCESS: u32 = 4;
/// All flags of cuEventCreate.
pub const FLAGS: u32 = 7;

/// An event.
#[derive(Debug)]
pub struct Event {
    /// Where it belongs.
    pub context: Arc<Context>,
    /// As given to cuEventCreate.
    pub flags: u32,
    record: Mutex<Record>,
    /// Where in a capture it was recorded last, if that was in a capturing stream.
    captured: Mutex<Option<Point>>,
}

/// The last cuEventRecord.
#[derive(Debug, Default, Clone, Copy)]
struct Record {
    /// 0 if there was none.
    task: TaskId,
    /// The stream it was recorded in.
    lane: Lane,
    /// When the task ended.
    at: Option<Instant>,
}

impl Event {
    /// An event that was never recorded.
    pub fn new(context: Arc<Context>, flags: u32) -> Event {
        Event {
            context,
            flags,
            record: Mutex::default(),
            captured: Mutex::default(),
        }
    }

    /// Where in a capture it was recorded last, if that was in a capturing stream.
    pub fn captured(&self) -> Option<Point> {
        let captured = self.captured.lock();
        captured.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that, or that it was recorded elsewhere.
    pub fn set_captured(&self, point: Option<Point>) {
        *self.captured.lock().unwrap_or_else(PoisonError::into_inner) = point;
    }

    /// The task that stands for its last record; 0 if there was none.
    pub fn task(&self) -> TaskId {
        self.record().task
    }

    /// The same with its stream.
    pub fn place(&self) -> (TaskId, Lane) {
        let record = self.record();
        (record.task, record.lane)
    }

    /// Notes that a task reached it, unless it was recorded again since.
    pub fn reached(&self, task: TaskId, at: Instant) {
        let mut record = self.record();
        if task >= record.task {
            record.task = task;
            record.at = Some(at);
        }
    }

    /// Notes that the work it stands right before has started only now, if this task was its last record.
    pub fn passed_again(&self, task: TaskId, at: Instant) {
        let mut record = self.record();
        if record.task == task && record.at.is_some() {
            record.at = Some(at);
        }
    }

    /// Notes that it was recorded as this task, which may have reached it already.
    pub fn recorded(&self, task: TaskId, lane: Lane) {
        let mut record = self.record();
        if task > record.task {
            *record = Record {
                task,
                lane,
                at: None,
            };
        }
    }

    /// Milliseconds from this event to a later one.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_HANDLE if either was not recorded or keeps no time, CUDA_ERROR_NOT_READY if
    /// either was not reached.
    pub fn milliseconds_until(&self, end: &Event) -> Result<f32, CuResult> {
        if (self.flags | end.flags) & DISABLE_TIMING != 0 || self.task() == 0 || end.task() == 0 {
            return Err(CuResult::INVALID_HANDLE);
        }
        let from = self.record().at.ok_or(CuResult::NOT_READY)?;
        let to = end.record().at.ok_or(CuResult::NOT_READY)?;
        let milliseconds = if to >= from {
            (to - from).as_secs_f64() * 1e3
        } else {
            (from - to).as_secs_f64() * -1e3
        };
        Ok(milliseconds as f32)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_count_only_for_the_latest_record() {
        let context = Context::new(1, 1, 0, 0, false, None);
        let (a, b) = (Event::new(Arc::clone(&context), 0), Event::new(context, 0));
        let start = Instant::now();
        assert_eq!(a.milliseconds_until(&b), Err(CuResult::INVALID_HANDLE));
        a.recorded(1, Lane::Null);
        b.recorded(2, Lane::Null);
        assert_eq!(a.milliseconds_until(&b), Err(CuResult::NOT_READY));
        a.reached(1, start);
        // Recorded again before the older record is reached: that one's time is not taken.
        b.recorded(3, Lane::Null);
        b.reached(2, start);
        assert_eq!(a.milliseconds_until(&b), Err(CuResult::NOT_READY));
        b.reached(3, start + Duration::from_micros(1500));
        assert_eq!(a.milliseconds_until(&b), Ok(1.5));
        assert_eq!(b.milliseconds_until(&a), Ok(-1.5));
        // What it stands before has started later; of an older record that says nothing.
        a.passed_again(1, start + Duration::from_micros(500));
        assert_eq!(a.milliseconds_until(&b), Ok(1.0));
        a.recorded(4, Lane::Null);
        a.passed_again(4, start);
        assert_eq!(a.milliseconds_until(&b), Err(CuResult::NOT_READY));
        a.reached(4, start);
        a.passed_again(1, start + Duration::from_micros(500));
        assert_eq!(a.milliseconds_until(&b), Ok(1.5));
    }

    #[test]
    fn events_without_time_have_no_distance() {
        let context = Context::new(1, 1, 0, 0, false, None);
        let timed = Event::new(Arc::clone(&context), 0);
        let untimed = Event::new(context, DISABLE_TIMING);
        for event in [&timed, &untimed] {
            event.reached(1, Instant::now());
        }
        assert_eq!(
            timed.milliseconds_until(&untimed),
            Err(CuResult::INVALID_HANDLE)
        );
    }
}
