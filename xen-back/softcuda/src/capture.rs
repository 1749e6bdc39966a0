//! Stream capture: between cuStreamBeginCapture and cuStreamEndCapture what is submitted to a stream
//! becomes nodes of a graph instead of work; events carry it to other streams. A call that makes no sense
//! during a capture invalidates it. Must never let work of a capturing stream reach an engine.

use crate::context::Context;
use crate::driver::Driver;
use crate::engine::Lane;
use crate::graph::{Graph, Operation};
use crate::work::Work;
use cuda_abi::CuResult;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// Which calls a capture forbids to which threads (`CUstreamCaptureMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Unsafe calls, to all threads.
    Global,
    /// Unsafe calls, to the thread that captures.
    ThreadLocal,
    /// None.
    Relaxed,
}

impl Mode {
    /// By its number in CUDA.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for a number that is none.
    pub fn of(number: i32) -> Result<Mode, CuResult> {
        match number {
            0 => Ok(Mode::Global),
            1 => Ok(Mode::ThreadLocal),
            2 => Ok(Mode::Relaxed),
            _ => Err(CuResult::INVALID_VALUE),
        }
    }

    /// Its number in CUDA.
    pub fn number(self) -> i32 {
        self as i32
    }
}

thread_local! {
    static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// Sets which captures forbid the calling thread unsafe calls; the setting before.
pub fn exchange_thread_mode(mode: Mode) -> Mode {
    THREAD_MODE.replace(mode)
}

/// One capture.
#[derive(Debug)]
pub struct Capture {
    /// Unique in the process.
    pub id: u64,
    /// What it makes.
    pub graph: Arc<Graph>,
    /// Whether the graph was there before it.
    into_graph: bool,
    mode: Mode,
    thread: ThreadId,
    invalid: AtomicBool,
    ended: AtomicBool,
}

/// A stream that is being captured.
#[derive(Debug, Clone)]
pub struct Member {
    /// By what.
    pub capture: Arc<Capture>,
    /// The nodes that the stream's next one follows.
    pub after: Vec<u64>,
    origin: bool,
    blocking: bool,
}

/// What an event that was recorded in a capturing stream stands for.
#[derive(Debug, Clone)]
pub struct Point {
    capture: Arc<Capture>,
    after: Vec<u64>,
}

/// What is known of a stream's capture.
#[derive(Debug, Clone)]
pub struct Info {
    /// `CUstreamCaptureStatus`.
    pub status: i32,
    /// Where it is active.
    pub member: Option<Member>,
}

type Place = (u64, Lane);

/// All captures under way.
#[derive(Debug, Default)]
pub struct Captures {
    /// Streams that are being captured; looked at first, since there mostly are none.
    count: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    members: HashMap<Place, Member>,
}

impl State {
    /// Whether a capture forbids the null stream of a context: one of a stream that waits for it.
    fn of_blocking(&self, context: u64) -> Option<Arc<Capture>> {
        let found = self
            .members
            .iter()
            .find(|((id, _), member)| *id == context && member.blocking);
        found.map(|(_, member)| Arc::clone(&member.capture))
    }
}

fn invalidate(capture: &Capture, error: CuResult) -> CuResult {
    capture.invalid.store(true, Ordering::Release);
    error
}

impl Captures {
    fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to capture a stream, into `graph` behind its nodes `after` if there is one.
    ///
    /// # Errors
    /// CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED for the null stream, CUDA_ERROR_ILLEGAL_STATE for a stream
    /// that is being captured.
    pub fn begin(
        &self,
        driver: &'static Driver,
        place: Place,
        blocking: bool,
        mode: Mode,
        into: Option<(Arc<Graph>, Vec<u64>)>,
    ) -> Result<(), CuResult> {
        if place.1 == Lane::Null {
            return Err(CuResult::STREAM_CAPTURE_UNSUPPORTED);
        }
        let mut state = self.state();
        if state.members.contains_key(&place) {
            return Err(CuResult::ILLEGAL_STATE);
        }
        state.last += 1;
        let into_graph = into.is_some();
        let (graph, after) = into.unwrap_or_else(|| (Graph::new(driver), Vec::new()));
        let capture = Capture {
            id: state.last,
            graph,
            into_graph,
            mode,
            thread: thread::current().id(),
            invalid: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        };
        let member = Member {
            capture: Arc::new(capture),
            after,
            origin: true,
            blocking,
        };
        state.members.insert(place, member);
        self.count.store(state.members.len(), Ordering::Release);
        Ok(())
    }

    /// Ends a stream's capture; its graph.
    ///
    /// # Errors
    /// CUDA_ERROR_ILLEGAL_STATE if it is not captured, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
    /// `_UNMATCHED` if the capture began elsewhere, `_UNJOINED` if a stream that joined it was not joined
    /// back, `_INVALIDATED`.
    pub fn end(&self, driver: &'static Driver, place: Place) -> Result<Arc<Graph>, CuResult> {
        let mut state = self.state();
        let member = state
            .members
            .get(&place)
            .cloned()
            .ok_or(CuResult::ILLEGAL_STATE)?;
        let capture = &member.capture;
        if capture.mode != Mode::Relaxed && capture.thread != thread::current().id() {
            return Err(CuResult::STREAM_CAPTURE_WRONG_THREAD);
        }
        if !member.origin {
            return Err(invalidate(capture, CuResult::STREAM_CAPTURE_UNMATCHED));
        }
        let (mut joined, mut others) = (true, Vec::new());
        for (at, other) in &state.members {
            if Arc::ptr_eq(&other.capture, capture) {
                others.push(*at);
                joined &= other.origin || capture.graph.precede(&other.after, &member.after);
            }
        }
        for at in others {
            state.members.remove(&at);
        }
        self.count.store(state.members.len(), Ordering::Release);
        drop(state);
        capture.ended.store(true, Ordering::Release);
        let outcome = match (capture.invalid.load(Ordering::Acquire), joined) {
            (true, _) => Err(CuResult::STREAM_CAPTURE_INVALIDATED),
            (false, false) => Err(CuResult::STREAM_CAPTURE_UNJOINED),
            (false, true) => Ok(Arc::clone(&capture.graph)),
        };
        if outcome.is_err() && !capture.into_graph {
            capture.graph.destroy(driver);
        }
        outcome
    }

    /// What a stream's capture is like.
    ///
    /// # Errors
    /// CUDA_ERROR_STREAM_CAPTURE_IMPLICIT for the null stream while one that waits for it is captured.
    pub fn info(&self, place: Place) -> Result<Info, CuResult> {
        let none = Info {
            status: 0,
            member: None,
        };
        if !self.any() {
            return Ok(none);
        }
        let state = self.state();
        if place.1 == Lane::Null && state.of_blocking(place.0).is_some() {
            return Err(CuResult::STREAM_CAPTURE_IMPLICIT);
        }
        Ok(match state.members.get(&place) {
            None => none,
            Some(member) => match member.capture.invalid.load(Ordering::Acquire) {
                true => Info {
                    status: 2,
                    member: None,
                },
                false => Info {
                    status: 1,
                    member: Some(member.clone()),
                },
            },
        })
    }

    /// Changes what a capturing stream's next node follows.
    ///
    /// # Errors
    /// CUDA_ERROR_ILLEGAL_STATE if it is not captured, CUDA_ERROR_INVALID_VALUE for nodes that are not
    /// of its graph.
    pub fn update(&self, place: Place, nodes: Vec<u64>, replace: bool) -> Result<(), CuResult> {
        let mut state = self.state();
        let member = state
            .members
            .get_mut(&place)
            .ok_or(CuResult::ILLEGAL_STATE)?;
        if !member.capture.graph.has_all(&nodes) {
            return Err(CuResult::INVALID_VALUE);
        }
        if replace {
            member.after.clear();
        }
        extend(&mut member.after, &nodes);
        Ok(())
    }

    /// Makes work a node if its stream is being captured; gives it back if not.
    ///
    /// # Errors
    /// CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, `_UNSUPPORTED` for work that no graph has, `_IMPLICIT` for
    /// the null stream while one that waits for it is captured.
    pub fn divert(
        &self,
        driver: &'static Driver,
        context: &Arc<Context>,
        lane: Lane,
        work: Work,
    ) -> Result<Option<Work>, CuResult> {
        if !self.any() {
            return Ok(Some(work));
        }
        self.check_null(context, lane)?;
        if !self.state().members.contains_key(&(context.id, lane)) {
            return Ok(Some(work));
        }
        if matches!(work, Work::Mark) {
            return Ok(None);
        }
        match Operation::of_work(driver, context, work) {
            Ok(operation) => self
                .add(driver, (context.id, lane), operation)
                .map(|_| None),
            Err(error) => Err(self.refuse((context.id, lane), error)),
        }
    }

    /// Adds a node to a captured stream; whether the stream is captured.
    ///
    /// # Errors
    /// CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    pub fn add(
        &self,
        driver: &'static Driver,
        place: Place,
        operation: Operation,
    ) -> Result<bool, CuResult> {
        if !self.any() {
            return Ok(false);
        }
        let mut state = self.state();
        let Some(member) = state.members.get_mut(&place) else {
            return Ok(false);
        };
        if member.capture.invalid.load(Ordering::Acquire) {
            return Err(CuResult::STREAM_CAPTURE_INVALIDATED);
        }
        let node = member.capture.graph.add(driver, &member.after, operation)?;
        member.after = vec![node];
        Ok(true)
    }

    /// Whether a stream is being captured.
    pub fn has(&self, place: Place) -> bool {
        self.any() && self.state().members.contains_key(&place)
    }

    /// Invalidates a stream's capture for a call that cannot be part of it; the error to give.
    pub fn refuse(&self, place: Place, error: CuResult) -> CuResult {
        match self.state().members.get(&place) {
            Some(member) if member.capture.invalid.load(Ordering::Acquire) => {
                CuResult::STREAM_CAPTURE_INVALIDATED
            }
            Some(member) => invalidate(&member.capture, error),
            None => error,
        }
    }

    /// Refuses to wait for a stream that is being captured, or to ask whether its work has ended.
    ///
    /// # Errors
    /// CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, or `_IMPLICIT` for the null stream.
    pub fn check_wait(&self, context: &Context, lane: Lane) -> Result<(), CuResult> {
        if !self.any() {
            return Ok(());
        }
        self.check_null(context, lane)?;
        let place = (context.id, lane);
        match self.has(place) {
            true => Err(self.refuse(place, CuResult::STREAM_CAPTURE_UNSUPPORTED)),
            false => Ok(()),
        }
    }

    /// Refuses to wait for a context of which a stream is being captured.
    ///
    /// # Errors
    /// CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    pub fn check_wait_context(&self, context: &Context) -> Result<(), CuResult> {
        if !self.any() {
            return Ok(());
        }
        let mut refused = Ok(());
        for ((id, _), member) in &self.state().members {
            if *id == context.id {
                refused = Err(invalidate(
                    &member.capture,
                    CuResult::STREAM_CAPTURE_UNSUPPORTED,
                ));
            }
        }
        refused
    }

    /// Refuses work in the null stream while a stream that waits for it is captured.
    fn check_null(&self, context: &Context, lane: Lane) -> Result<(), CuResult> {
        if lane != Lane::Null {
            return Ok(());
        }
        match self.state().of_blocking(context.id) {
            Some(capture) => Err(invalidate(&capture, CuResult::STREAM_CAPTURE_IMPLICIT)),
            None => Ok(()),
        }
    }

    /// Refuses calls that might wait for what a capture holds back, to those threads that it concerns.
    ///
    /// # Errors
    /// CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    pub fn check_unsafe_call(&self) -> Result<(), CuResult> {
        let mode = THREAD_MODE.get();
        if !self.any() || mode == Mode::Relaxed {
            return Ok(());
        }
        let this = thread::current().id();
        let mut refused = Ok(());
        for member in self.state().members.values() {
            let capture = &member.capture;
            let concerned = match capture.thread == this {
                true => capture.mode != Mode::Relaxed,
                false => capture.mode == Mode::Global && mode == Mode::Global,
            };
            if concerned {
                refused = Err(invalidate(capture, CuResult::STREAM_CAPTURE_UNSUPPORTED));
            }
        }
        refused
    }

    /// The point in a capture that an event recorded now in a stream stands for.
    ///
    /// # Errors
    /// CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, or `_IMPLICIT` for the null stream.
    pub fn point(&self, context: &Context, lane: Lane) -> Result<Option<Point>, CuResult> {
        if !self.any() {
            return Ok(None);
        }
        self.check_null(context, lane)?;
        match self.state().members.get(&(context.id, lane)) {
            None => Ok(None),
            Some(member) if member.capture.invalid.load(Ordering::Acquire) => {
                Err(CuResult::STREAM_CAPTURE_INVALIDATED)
            }
            Some(member) => Ok(Some(Point {
                capture: Arc::clone(&member.capture),
                after: member.after.clone(),
            })),
        }
    }

    /// Makes a stream wait for a captured event: it joins that capture.
    ///
    /// # Errors
    /// CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED for the null stream, `_MERGE` for a stream of another
    /// capture, `_INVALIDATED`, CUDA_ERROR_CAPTURED_EVENT if the capture has ended.
    pub fn join(&self, place: Place, blocking: bool, point: &Point) -> Result<(), CuResult> {
        if point.capture.ended.load(Ordering::Acquire) {
            return Err(CuResult::CAPTURED_EVENT);
        }
        if place.1 == Lane::Null {
            return Err(invalidate(
                &point.capture,
                CuResult::STREAM_CAPTURE_UNSUPPORTED,
            ));
        }
        let mut state = self.state();
        let member = state.members.entry(place).or_insert_with(|| Member {
            capture: Arc::clone(&point.capture),
            after: Vec::new(),
            origin: false,
            blocking,
        });
        let outcome = if !Arc::ptr_eq(&member.capture, &point.capture) {
            point.capture.invalid.store(true, Ordering::Release);
            Err(invalidate(&member.capture, CuResult::STREAM_CAPTURE_MERGE))
        } else if point.capture.invalid.load(Ordering::Acquire) {
            Err(CuResult::STREAM_CAPTURE_INVALIDATED)
        } else {
            extend(&mut member.after, &point.after);
            Ok(())
        };
        self.count.store(state.members.len(), Ordering::Release);
        outcome
    }

    /// Ends what a stream that is destroyed, or all of a context's (`None`), take part in.
    pub fn forget(&self, context: u64, lane: Option<Lane>) {
        if !self.any() {
            return;
        }
        let mut state = self.state();
        state.members.retain(|(id, at), member| {
            let gone = *id == context && lane.is_none_or(|lane| lane == *at);
            if gone {
                member.capture.invalid.store(true, Ordering::Release);
            }
            !gone
        });
        self.count.store(state.members.len(), Ordering::Release);
    }
}

/// Adds the nodes that are not there yet.
fn extend(after: &mut Vec<u64>, nodes: &[u64]) {
    let mut known: HashSet<u64> = after.iter().copied().collect();
    after.extend(nodes.iter().filter(|node| known.insert(**node)));
}
