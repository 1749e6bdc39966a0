//! When device work runs: every piece is a task that waits for others (its stream's last one, events,
//! the null stream), then for its engine; an engine takes its ready tasks in the order they were
//! submitted. Threads that wait for a stream run its tasks themselves where they can, so that a short
//! kernel costs no thread switch. Must never run anything under the lock but what takes no time.

use crate::context::Context;
use crate::driver::Driver;
use crate::work::{Engine, Work};
use cuda_abi::CuResult;
use std::collections::{BTreeSet, HashMap};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an engine's thread looks for new work before it sleeps, and a waiting thread before it
/// does: about what a wake-up costs.
const SPIN: Duration = Duration::from_micros(40);
/// Tasks under way from which on submitting one waits for its stream: a program that never
/// synchronises must not use up the host's memory.
const MAX_PENDING: usize = 8192;
/// Stack that a waiting thread must have left to run a kernel itself.
const KERNEL_STACK: usize = 256 * 1024;

/// A task's number; greater than those of all tasks submitted before. 0 is a task that has ended.
pub type TaskId = u64;

/// A stream as the engines know it: an order of tasks within a context.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The legacy default stream: waits for all blocking streams, and they for it.
    #[default]
    Null,
    /// A stream by its number.
    Stream(u64),
}

/// Which tasks a waiting thread may run itself.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// Those of one stream, as far as the task that is waited for.
    Lane(u64, Lane),
    /// All of a context, as far as the task that is waited for.
    Context(u64),
}

/// The engines of all devices, and what is under way on them.
pub struct Engines {
    state: Mutex<State>,
    /// Counts tasks that ended, for threads that wait without the lock.
    ended: AtomicU64,
    wakers: Vec<Waker>,
    spin: Duration,
}

/// How an engine's thread hears of work.
#[derive(Default)]
struct Waker {
    calls: AtomicU64,
    sleep: Condvar,
}

struct State {
    last: TaskId,
    pending: HashMap<TaskId, Task>,
    engines: Vec<EngineState>,
    contexts: HashMap<u64, Lanes>,
}

#[derive(Default)]
struct EngineState {
    ready: BTreeSet<TaskId>,
    busy: bool,
    /// Whether its thread was started.
    started: bool,
    /// Whether its thread sleeps.
    asleep: bool,
}

struct Task {
    context: Arc<Context>,
    lane: Lane,
    /// Whether the null stream waits for it.
    joins_null: bool,
    engine: Option<usize>,
    /// Taken when it starts.
    work: Option<Work>,
    /// Tasks that must end first.
    blockers: usize,
    /// Tasks that wait for this one.
    dependents: Vec<TaskId>,
    /// Threads that sleep until it has ended.
    sleepers: Option<Arc<Condvar>>,
}

/// The streams of one context.
#[derive(Default)]
struct Lanes {
    null: TaskId,
    streams: HashMap<u64, Stream>,
    /// What streams that were destroyed meanwhile left.
    orphans: Vec<Stream>,
}

#[derive(Clone, Copy)]
struct Stream {
    last: TaskId,
    /// Whether it and the null stream wait for each other.
    blocking: bool,
}

impl Engines {
    /// The engines of this many devices.
    pub fn new(devices: usize) -> Engines {
        let count = devices * Engine::ALL.len();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Engines {
            state: Mutex::new(State {
                last: 0,
                pending: HashMap::new(),
                engines: (0..count).map(|_| EngineState::default()).collect(),
                contexts: HashMap::new(),
            }),
            ended: AtomicU64::new(0),
            wakers: (0..count).map(|_| Waker::default()).collect(),
            spin: if cores > 1 { SPIN } else { Duration::ZERO },
        }
    }

    /// Adds a stream to a context; `blocking` ones synchronise with the null stream.
    pub fn add_stream(&self, context: u64, stream: u64, blocking: bool) {
        let lanes = &mut self.state().contexts;
        let stream_state = Stream { last: 0, blocking };
        lanes
            .entry(context)
            .or_default()
            .streams
            .insert(stream, stream_state);
    }

    /// Forgets a stream; its tasks still run.
    pub fn remove_stream(&self, context: u64, stream: u64) {
        let state = &mut *self.state();
        if let Some(lanes) = state.contexts.get_mut(&context)
            && let Some(gone) = lanes.streams.remove(&stream)
        {
            lanes
                .orphans
                .retain(|orphan| state.pending.contains_key(&orphan.last));
            lanes.orphans.push(gone);
        }
    }

    /// Forgets a context, all of whose tasks have ended.
    pub fn remove_context(&self, context: u64) {
        self.state().contexts.remove(&context);
    }

    /// Submits work to a stream; it starts after everything in the stream and after `also`.
    ///
    /// # Errors
    /// CUDA_ERROR_OPERATING_SYSTEM if a thread cannot be started.
    pub fn submit(
        &self,
        driver: &'static Driver,
        context: &Arc<Context>,
        lane: Lane,
        work: Work,
        also: TaskId,
    ) -> Result<TaskId, CuResult> {
        let mut state = self.state();
        if state.pending.len() >= MAX_PENDING {
            drop(state);
            self.wait_lane(driver, context.id, lane);
            state = self.state();
        }
        let mut after = state.follow(context.id, lane);
        after.push(also);
        self.add(driver, state, context, lane, work, after, true)
    }

    /// Submits work to a stream and waits for it, in the calling thread where that is possible.
    pub fn perform(
        &self,
        driver: &'static Driver,
        context: &Arc<Context>,
        lane: Lane,
        work: Work,
    ) -> Result<(), CuResult> {
        let mut state = self.state();
        let after = state.follow(context.id, lane);
        let task = self.add(driver, state, context, lane, work, after, false)?;
        self.wait(driver, task, Scope::Lane(context.id, lane));
        Ok(())
    }

    /// Waits for everything submitted to a stream until now; for the null stream that is what its
    /// next task would wait for.
    pub fn wait_lane(&self, driver: &'static Driver, context: u64, lane: Lane) {
        let tasks = self.state().under_way(context, Some(lane));
        for task in tasks {
            self.wait(driver, task, Scope::Lane(context, lane));
        }
    }

    /// Waits for everything submitted in a context until now.
    pub fn wait_context(&self, driver: &'static Driver, context: u64) {
        let tasks = self.state().under_way(context, None);
        for task in tasks {
            self.wait(driver, task, Scope::Context(context));
        }
    }

    /// Whether everything submitted to a stream has ended.
    pub fn lane_ended(&self, context: u64, lane: Lane) -> bool {
        self.state().under_way(context, Some(lane)).is_empty()
    }

    /// Whether a task has ended.
    pub fn task_ended(&self, task: TaskId) -> bool {
        !self.state().pending.contains_key(&task)
    }

    /// Waits for a task; meanwhile runs what `scope` allows and an idle engine would run next.
    pub fn wait(&self, driver: &'static Driver, task: TaskId, scope: Scope) {
        let mut state = self.state();
        let mut spin_until = None;
        while state.pending.contains_key(&task) {
            if let Some((engine, next)) = state.next_in(scope, task) {
                if self.may_run_here(engine) {
                    state = self.run(driver, state, engine, next);
                    spin_until = None;
                    continue;
                }
                self.call(&mut state, engine);
            }
            let until = *spin_until.get_or_insert_with(|| Instant::now() + self.spin);
            if Instant::now() < until {
                let ended = self.ended.load(Ordering::Acquire);
                drop(state);
                while self.ended.load(Ordering::Acquire) == ended && Instant::now() < until {
                    std::hint::spin_loop();
                }
                state = self.state();
            } else if let Some(pending) = state.pending.get_mut(&task) {
                let sleepers = Arc::clone(pending.sleepers.get_or_insert_default());
                state = state.sleep(&sleepers);
            }
        }
    }

    fn state(&self) -> Locked<'_> {
        Locked {
            state: self.state.lock().unwrap_or_else(PoisonError::into_inner),
            wakes: Wakes {
                wakers: &self.wakers,
                engines: 0,
            },
        }
    }

    /// Adds a task that starts after those in `after`. With `call`, an engine's thread is woken for
    /// it; without, the caller goes on to wait for it.
    #[allow(
        clippy::too_many_arguments,
        reason = "the parts of a task, known at two places only"
    )]
    fn add(
        &self,
        driver: &'static Driver,
        mut state: Locked<'_>,
        context: &Arc<Context>,
        lane: Lane,
        work: Work,
        after: Vec<TaskId>,
        call: bool,
    ) -> Result<TaskId, CuResult> {
        let engine = work
            .engine()
            .map(|engine| context.device * Engine::ALL.len() + engine as usize);
        if let Some(engine) = engine
            && !state.engines[engine].started
        {
            self.start(driver, engine)?;
            state.engines[engine].started = true;
        }
        state.last += 1;
        let id = state.last;
        let mut blockers = 0;
        for before in after {
            if let Some(task) = state.pending.get_mut(&before) {
                task.dependents.push(id);
                blockers += 1;
            }
        }
        let joins_null = state.set_last(context.id, lane, id);
        let task = Task {
            context: Arc::clone(context),
            lane,
            joins_null,
            engine,
            work: Some(work),
            blockers,
            dependents: Vec::new(),
            sleepers: None,
        };
        state.pending.insert(id, task);
        if blockers == 0 {
            match engine {
                Some(engine) => {
                    state.engines[engine].ready.insert(id);
                    if call {
                        self.call(&mut state, engine);
                    }
                }
                None => self.end(driver, &mut state, id),
            }
        }
        Ok(id)
    }

    /// Ends a task, and with it those that waited for it and take no time.
    fn end(&self, driver: &Driver, state: &mut Locked<'_>, task: TaskId) {
        let mut ending = vec![task];
        while let Some(id) = ending.pop() {
            let Some(mut task) = state.pending.remove(&id) else {
                continue;
            };
            if let Some(work) = task.work.take() {
                work.pass(driver, id);
            }
            if let Some(sleepers) = task.sleepers {
                sleepers.notify_all();
            }
            for next in task.dependents {
                let Some(dependent) = state.pending.get_mut(&next) else {
                    continue;
                };
                dependent.blockers -= 1;
                if dependent.blockers == 0 {
                    match dependent.engine {
                        Some(engine) => {
                            state.engines[engine].ready.insert(next);
                            self.call(state, engine);
                        }
                        None => ending.push(next),
                    }
                }
            }
        }
        self.ended.fetch_add(1, Ordering::Release);
    }

    /// Tells an engine's thread that there is work.
    fn call(&self, state: &mut Locked<'_>, engine: usize) {
        if state.engines[engine].busy {
            return; // whoever runs it looks again
        }
        let waker = &self.wakers[engine];
        waker.calls.fetch_add(1, Ordering::Release);
        if state.engines[engine].asleep {
            state.engines[engine].asleep = false;
            state.wakes.engines |= 1 << engine;
        }
    }

    /// Runs a ready task of an idle engine without the lock.
    fn run<'a>(
        &'a self,
        driver: &'static Driver,
        mut state: Locked<'a>,
        engine: usize,
        id: TaskId,
    ) -> Locked<'a> {
        state.engines[engine].ready.remove(&id);
        state.engines[engine].busy = true;
        let started = state
            .pending
            .get_mut(&id)
            .and_then(|task| Some((task.work.take()?, Arc::clone(&task.context))));
        drop(state);
        if let Some((work, context)) = started
            && context.goes_on()
        {
            // A panic in the engine is our mistake; to the program it is a failed kernel.
            if catch_unwind(AssertUnwindSafe(|| work.run(driver, &context))).is_err() {
                context.fail(CuResult::LAUNCH_FAILED);
            }
        }
        let mut state = self.state();
        state.engines[engine].busy = false;
        self.end(driver, &mut state, id);
        if !state.engines[engine].ready.is_empty() {
            self.call(&mut state, engine);
        }
        state
    }

    /// Whether the calling thread has the stack that the engine's work needs.
    fn may_run_here(&self, engine: usize) -> bool {
        engine % Engine::ALL.len() != Engine::Compute as usize || stack_left() >= KERNEL_STACK
    }

    /// Starts the thread of an engine. It lives as long as the process.
    fn start(&self, driver: &'static Driver, engine: usize) -> Result<(), CuResult> {
        let kind = Engine::ALL[engine % Engine::ALL.len()];
        std::thread::Builder::new()
            .name(format!("softcuda {kind:?}").to_lowercase())
            .stack_size(8 << 20)
            .spawn(move || driver.engines.serve(driver, engine))
            .map(drop)
            .map_err(|error| {
                tracing::error!(%error, "cannot start an engine's thread; raise the thread limit");
                CuResult::OPERATING_SYSTEM
            })
    }

    /// An engine's thread.
    fn serve(&self, driver: &'static Driver, engine: usize) {
        let waker = &self.wakers[engine];
        let mut state = self.state();
        loop {
            let calls = waker.calls.load(Ordering::Acquire);
            let next = state.engines[engine].ready.first().copied();
            if let Some(next) = next.filter(|_| !state.engines[engine].busy) {
                state = self.run(driver, state, engine, next);
                continue;
            }
            drop(state);
            let until = Instant::now() + self.spin;
            while waker.calls.load(Ordering::Acquire) == calls && Instant::now() < until {
                std::hint::spin_loop();
            }
            state = self.state();
            if waker.calls.load(Ordering::Acquire) == calls {
                state.engines[engine].asleep = true;
                while state.engines[engine].asleep {
                    state = state.sleep(&waker.sleep);
                }
            }
        }
    }
}

/// The locked state, and which engines' threads to wake when it is unlocked: woken before, they would
/// only wait for the lock. (The fields' order is that of their drops.)
struct Locked<'a> {
    state: MutexGuard<'a, State>,
    wakes: Wakes<'a>,
}

impl<'a> Locked<'a> {
    /// Unlocks until the condition is notified.
    fn sleep(self, condition: &Condvar) -> Locked<'a> {
        let Locked { state, wakes } = self;
        let wakers = wakes.wakers;
        drop(wakes);
        Locked {
            state: condition
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner),
            wakes: Wakes { wakers, engines: 0 },
        }
    }
}

impl Deref for Locked<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

/// Engines' threads to wake, a bit each: 16 devices have 48.
struct Wakes<'a> {
    wakers: &'a [Waker],
    engines: u64,
}

impl Drop for Wakes<'_> {
    fn drop(&mut self) {
        for (engine, waker) in self.wakers.iter().enumerate() {
            if self.engines >> engine & 1 == 1 {
                waker.sleep.notify_one();
            }
        }
    }
}

impl State {
    /// The tasks that new work of a stream must wait for.
    fn follow(&mut self, context: u64, lane: Lane) -> Vec<TaskId> {
        let null = self.contexts.entry(context).or_default().null;
        let mut tasks = self.under_way(context, Some(lane));
        if let Lane::Stream(stream) = lane
            && self.stream(context, stream).is_some_and(|s| s.blocking)
        {
            tasks.push(null);
        }
        tasks
    }

    /// The tasks that have not ended whose end is that of a stream, or of all streams.
    fn under_way(&mut self, context: u64, lane: Option<Lane>) -> Vec<TaskId> {
        if let Some(Lane::Stream(stream)) = lane {
            let last = self.stream(context, stream).map_or(0, |stream| stream.last);
            return if self.pending.contains_key(&last) {
                vec![last]
            } else {
                Vec::new()
            };
        }
        let lanes = self.contexts.entry(context).or_default();
        let streams = lanes.streams.values().chain(&lanes.orphans);
        streams
            .filter(|stream| lane.is_none() || stream.blocking)
            .map(|stream| stream.last)
            .chain([lanes.null])
            .filter(|task| self.pending.contains_key(task))
            .collect()
    }

    fn stream(&mut self, context: u64, stream: u64) -> Option<&mut Stream> {
        self.contexts.get_mut(&context)?.streams.get_mut(&stream)
    }

    /// Makes a task its stream's last; whether the null stream waits for it.
    fn set_last(&mut self, context: u64, lane: Lane, task: TaskId) -> bool {
        match lane {
            Lane::Null => {
                self.contexts.entry(context).or_default().null = task;
                true
            }
            Lane::Stream(stream) => self.stream(context, stream).is_some_and(|stream| {
                stream.last = task;
                stream.blocking
            }),
        }
    }

    /// An idle engine and the task it would take next, if that is in the scope.
    fn next_in(&self, scope: Scope, until: TaskId) -> Option<(usize, TaskId)> {
        let idle = self
            .engines
            .iter()
            .enumerate()
            .filter(|(_, engine)| !engine.busy);
        idle.filter_map(|(at, engine)| Some((at, *engine.ready.first()?)))
            .find(|(_, id)| {
                *id <= until
                    && self.pending.get(id).is_some_and(|task| match scope {
                        Scope::Lane(context, lane) => {
                            task.context.id == context
                                && (task.lane == lane || lane == Lane::Null && task.joins_null)
                        }
                        Scope::Context(context) => task.context.id == context,
                    })
            })
    }
}

/// Bytes of stack that the calling thread has left; 0 where that cannot be known.
fn stack_left() -> usize {
    thread_local! {
        static LOWEST: usize = lowest_stack_address().unwrap_or(usize::MAX);
    }
    let here = 0u8;
    LOWEST
        .try_with(|lowest| (&raw const here as usize).saturating_sub(*lowest))
        .unwrap_or(0)
}

/// The lowest address of the calling thread's stack.
fn lowest_stack_address() -> Option<usize> {
    // SAFETY: the attributes are initialised by pthread_getattr_np, read and destroyed here only.
    unsafe {
        let mut attributes = std::mem::zeroed();
        if libc::pthread_getattr_np(libc::pthread_self(), &mut attributes) != 0 {
            return None;
        }
        let (mut lowest, mut size) = (std::ptr::null_mut(), 0);
        let found = libc::pthread_attr_getstack(&attributes, &mut lowest, &mut size) == 0;
        libc::pthread_attr_destroy(&mut attributes);
        found.then_some(lowest as usize)
    }
}
