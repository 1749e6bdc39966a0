//! When device work runs: every piece is a task that waits for others (its stream's last one, events,
//! the null stream), then for its engine, which it shares with the machine's other processes (`turns`).
//! When it is this process's turn, the engine takes the ready task of the highest priority, of those the
//! one submitted first. Threads that wait for a stream run its tasks themselves where they can, so that
//! a short kernel costs no thread switch, unless the program asked for a wait that sleeps. Must never run
//! anything under the lock but what takes no time.

use crate::context::Context;
use crate::driver::Driver;
use crate::event::Event;
use crate::turns::Turns;
use crate::work::{Engine, Work};
use cuda_abi::CuResult;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an engine's thread looks for new work before it sleeps, and a waiting thread before it
/// does: about what a wake-up costs.
const SPIN: Duration = Duration::from_micros(40);
/// The first and the longest pause between two looks at memory that tasks wait for.
const WATCH: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(1));
/// An event in an idle stream, or behind another event, and work that is submitted so soon after it are one to
/// the device, which reads a stream when it comes to this process: what passes before the work starts is not
/// its time.
const TOGETHER: Duration = Duration::from_micros(200);
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
    /// None: it sleeps, and leaves the processor and the work to others.
    Nothing,
    /// Those of one stream, as far as the task that is waited for.
    Lane(u64, Lane),
    /// All of a context, as far as the task that is waited for.
    Context(u64),
}

/// A part of work that is submitted as a whole.
pub struct Step {
    /// Where it belongs.
    pub context: Arc<Context>,
    /// What is done, one after the other.
    pub works: Vec<Work>,
    /// The steps that must end first, by index; all come before it. Without any it follows what its
    /// stream did until then.
    pub after: Vec<usize>,
    /// A task that must end first too.
    pub also: TaskId,
}

/// The engines of all devices, and what is under way on them.
pub struct Engines {
    state: Mutex<State>,
    /// Tells the watching thread that there is memory to look at.
    watch: Condvar,
    /// Counts tasks that ended, for threads that wait without the lock.
    ended: AtomicU64,
    wakers: Vec<Waker>,
    spin: Duration,
    /// The machine's engines; `None` where this process has engines of its own.
    turns: Option<&'static Turns>,
    /// Per device, which of the machine's it is.
    devices: Vec<usize>,
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
    /// Tasks whose turn it is but for a value that memory does not hold yet.
    awaiting: Vec<TaskId>,
    /// Whether the thread that looks at such memory was started.
    watched: bool,
}

#[derive(Default)]
struct EngineState {
    /// By priority (lower first), then in the order they were submitted.
    ready: BTreeSet<(i32, TaskId)>,
    /// Tickets for the machine's engine, as many as tasks are ready or running.
    tickets: VecDeque<u64>,
    /// Whether a thread runs a task of it, or waits for the machine's engine to do so.
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
    priority: i32,
    engine: Option<usize>,
    /// Taken when it starts.
    work: Option<Work>,
    /// Tasks that must end first.
    blockers: usize,
    /// When the last of those that ended did.
    since: Option<Instant>,
    /// Tasks that wait for this one.
    dependents: Vec<TaskId>,
    /// Threads that sleep until it has ended.
    sleepers: Option<Arc<Condvar>>,
    /// The event that says when it starts, with the task that recorded it.
    led_by: Option<(Arc<Event>, TaskId)>,
}

/// A task that is about to be added.
struct NewTask<'a> {
    context: &'a Arc<Context>,
    lane: Lane,
    work: Work,
    /// Whether what follows in its stream waits for it.
    last: bool,
    /// Whether an engine's thread is woken for it; if not, the caller goes on to wait for it.
    call: bool,
}

/// The streams of one context.
#[derive(Default)]
struct Lanes {
    null: TaskId,
    streams: HashMap<u64, Stream>,
    /// What streams that were destroyed meanwhile left.
    orphans: Vec<Stream>,
    /// By stream, the event that is the last thing in it.
    passed: HashMap<Lane, Lead>,
}

/// An event at the end of a stream.
struct Lead {
    event: Arc<Event>,
    task: TaskId,
    /// When it was put there.
    at: Instant,
    /// Whether what follows is all that it can stand for: the stream was idle, or what was before it ends with an event
    /// of its own.
    of_next: bool,
}

#[derive(Clone, Copy)]
struct Stream {
    last: TaskId,
    /// Whether it and the null stream wait for each other.
    blocking: bool,
    /// Lower is more urgent.
    priority: i32,
}

impl Engines {
    /// The engines of these of the machine's devices; with `turns` shared with its other processes.
    pub fn new(devices: Vec<usize>, turns: Option<&'static Turns>) -> Engines {
        let count = devices.len() * Engine::ALL.len();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Engines {
            state: Mutex::new(State {
                last: 0,
                pending: HashMap::new(),
                engines: (0..count).map(|_| EngineState::default()).collect(),
                contexts: HashMap::new(),
                awaiting: Vec::new(),
                watched: false,
            }),
            watch: Condvar::new(),
            ended: AtomicU64::new(0),
            wakers: (0..count).map(|_| Waker::default()).collect(),
            spin: if cores > 1 { SPIN } else { Duration::ZERO },
            turns,
            devices,
        }
    }

    /// Adds a stream to a context; `blocking` ones synchronise with the null stream.
    pub fn add_stream(&self, context: u64, stream: u64, blocking: bool, priority: i32) {
        let lanes = &mut self.state().contexts;
        let stream_state = Stream {
            last: 0,
            blocking,
            priority,
        };
        lanes
            .entry(context)
            .or_default()
            .streams
            .insert(stream, stream_state);
    }

    /// Changes how urgent what is submitted to a stream from now on is.
    pub fn set_priority(&self, context: u64, stream: u64, priority: i32) {
        if let Some(stream) = self.state().stream(context, stream) {
            stream.priority = priority;
        }
    }

    /// A stream's priority.
    pub fn priority(&self, context: u64, lane: Lane) -> i32 {
        match lane {
            Lane::Null => 0,
            Lane::Stream(stream) => {
                let mut state = self.state();
                let stream = state.stream(context, stream);
                stream.map_or(0, |stream| stream.priority)
            }
        }
    }

    /// Forgets a stream; its tasks still run.
    pub fn remove_stream(&self, context: u64, stream: u64) {
        let state = &mut *self.state();
        if let Some(lanes) = state.contexts.get_mut(&context)
            && let Some(gone) = lanes.streams.remove(&stream)
        {
            lanes.passed.remove(&Lane::Stream(stream));
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

    /// Submits work to a stream; it starts after everything in the stream and after `also`. In a stream
    /// that is being captured it becomes a node, and the task is 0.
    ///
    /// # Errors
    /// CUDA_ERROR_OPERATING_SYSTEM if a thread cannot be started, or what `Captures::divert` gives.
    pub fn submit(
        &self,
        driver: &'static Driver,
        context: &Arc<Context>,
        lane: Lane,
        work: Work,
        also: TaskId,
    ) -> Result<TaskId, CuResult> {
        let Some(work) = driver.captures.divert(driver, context, lane, work)? else {
            return Ok(0);
        };
        let mut state = self.state();
        if state.pending.len() >= MAX_PENDING {
            drop(state);
            self.wait_lane(driver, context.id, lane);
            state = self.state();
        }
        let mut after = state.follow(context.id, lane);
        after.push(also);
        let task = NewTask {
            context,
            lane,
            work,
            last: true,
            call: true,
        };
        self.add(driver, &mut state, task, &after)
    }

    /// Submits steps to a stream; they start after everything in the stream and after `also`, and what
    /// follows in the stream starts after all of them. The task that ends when all have.
    ///
    /// # Errors
    /// CUDA_ERROR_OPERATING_SYSTEM if a thread cannot be started.
    pub fn submit_steps(
        &self,
        driver: &'static Driver,
        context: &Arc<Context>,
        lane: Lane,
        steps: Vec<Step>,
        also: TaskId,
    ) -> Result<TaskId, CuResult> {
        let mut state = self.state();
        if state.pending.len() >= MAX_PENDING {
            drop(state);
            self.wait_lane(driver, context.id, lane);
            state = self.state();
        }
        let mut before = state.follow(context.id, lane);
        before.push(also);
        let mut ends: Vec<TaskId> = Vec::with_capacity(steps.len());
        for step in steps {
            let mut after: Vec<TaskId> = match step.after.is_empty() {
                true => before.clone(),
                false => step.after.iter().map(|at| ends[*at]).collect(),
            };
            after.push(step.also);
            let works = match step.works.is_empty() {
                true => vec![Work::Mark],
                false => step.works,
            };
            for work in works {
                let event = match &work {
                    Work::Record(event) => Some(Arc::clone(event)),
                    _ => None,
                };
                let task = NewTask {
                    context: &step.context,
                    lane,
                    work,
                    last: false,
                    call: true,
                };
                let id = self.add(driver, &mut state, task, &after)?;
                if let Some(event) = event {
                    event.recorded(id, lane);
                }
                after = vec![id];
            }
            ends.extend(after);
        }
        ends.extend(before);
        let end = NewTask {
            context,
            lane,
            work: Work::Mark,
            last: true,
            call: true,
        };
        self.add(driver, &mut state, end, &ends)
    }

    /// Submits work to a stream and waits for it, in the calling thread where that is possible.
    pub fn perform(
        &self,
        driver: &'static Driver,
        context: &Arc<Context>,
        lane: Lane,
        work: Work,
    ) -> Result<(), CuResult> {
        driver.captures.check_wait(context, lane)?;
        let mut state = self.state();
        let after = state.follow(context.id, lane);
        let task = NewTask {
            context,
            lane,
            work,
            last: true,
            call: false,
        };
        let task = self.add(driver, &mut state, task, &after)?;
        drop(state);
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
            if let Some(engine) = state.next_in(scope, task) {
                if self.may_run_here(engine) {
                    state = self.run(driver, state, engine);
                    spin_until = None;
                    continue;
                }
                self.call(&mut state, engine);
            }
            let until = *spin_until.get_or_insert_with(|| Instant::now() + self.spin);
            if !matches!(scope, Scope::Nothing) && Instant::now() < until {
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
                engines: self,
                threads: 0,
                turn: None,
                sleepers: Vec::new(),
            },
        }
    }

    /// Adds a task that starts after those in `after`.
    fn add(
        &self,
        driver: &'static Driver,
        state: &mut Locked<'_>,
        new: NewTask<'_>,
        after: &[TaskId],
    ) -> Result<TaskId, CuResult> {
        let NewTask {
            context,
            lane,
            work,
            last,
            call,
        } = new;
        let engine = work
            .engine()
            .map(|engine| context.device * Engine::ALL.len() + engine as usize);
        if let Some(engine) = engine
            && !state.engines[engine].started
        {
            self.start(driver, engine)?;
            state.engines[engine].started = true;
        }
        if matches!(work, Work::Await(..)) && !state.watched {
            spawn("watch", move || driver.engines.watch(driver))?;
            state.watched = true;
        }
        state.last += 1;
        let id = state.last;
        let mut blockers = 0;
        for before in after {
            if let Some(task) = state.pending.get_mut(before) {
                task.dependents.push(id);
                blockers += 1;
            }
        }
        if last {
            state.set_last(context.id, lane, id);
        }
        let (joins_null, priority) = state.traits(context.id, lane);
        let lanes = state.contexts.entry(context.id).or_default();
        let passed = lanes.passed.remove(&lane);
        if let Work::Record(event) = &work {
            let leads = Lead {
                event: Arc::clone(event),
                task: id,
                at: Instant::now(),
                of_next: blockers == 0 || passed.is_some(),
            };
            lanes.passed.insert(lane, leads);
        }
        let led_by = passed
            .filter(|lead| engine.is_some() && lead.of_next && lead.at.elapsed() < TOGETHER)
            .filter(|lead| {
                blockers == 0
                    || blockers == 1
                        && after.contains(&lead.task)
                        && state.pending.contains_key(&lead.task)
            })
            .map(|lead| (lead.event, lead.task));
        let task = Task {
            context: Arc::clone(context),
            lane,
            joins_null,
            priority,
            engine,
            work: Some(work),
            blockers,
            since: None,
            dependents: Vec::new(),
            sleepers: None,
            led_by,
        };
        state.pending.insert(id, task);
        if blockers == 0 {
            match engine {
                Some(engine) => {
                    self.line_up(state, engine, id, priority);
                    if call {
                        self.call(state, engine);
                    }
                }
                None => {
                    self.end(driver, state, id, Instant::now());
                    // It may have been a write that another waits for.
                    self.end_awaiting(driver, state);
                }
            }
        }
        Ok(id)
    }

    /// Looks at the memory that tasks wait for, as long as there are such.
    fn watch(&self, driver: &'static Driver) {
        let mut pause = WATCH.0;
        let mut state = self.state();
        loop {
            let waiting = state.awaiting.len();
            if waiting == 0 {
                state = state.sleep(&self.watch);
                pause = WATCH.0;
                continue;
            }
            self.end_awaiting(driver, &mut state);
            pause = match state.awaiting.len() == waiting {
                true => WATCH.1.min(pause * 2),
                false => WATCH.0,
            };
            drop(state);
            std::thread::sleep(pause);
            state = self.state();
        }
    }

    /// Ends the tasks whose memory holds what they wait for, and those of ended contexts.
    fn end_awaiting(&self, driver: &Driver, state: &mut Locked<'_>) {
        let awaiting = std::mem::take(&mut state.awaiting);
        for id in awaiting {
            self.end(driver, state, id, Instant::now());
        }
    }

    /// Ends a task that was over at this time, and with it those that waited for it and take no time.
    fn end(&self, driver: &Driver, state: &mut Locked<'_>, task: TaskId, at: Instant) {
        let mut ending = vec![task];
        while let Some(id) = ending.pop() {
            let waits = state.pending.get(&id).is_some_and(|task| {
                let work = task.work.as_ref();
                task.context.goes_on() && work.is_some_and(|work| !work.may_pass())
            });
            if waits {
                state.awaiting.push(id);
                self.watch.notify_one();
                continue;
            }
            let Some(mut task) = state.pending.remove(&id) else {
                continue;
            };
            let at = task.since.map_or(at, |since| since.max(at));
            if let Some(work) = task.work.take() {
                work.pass(driver, id, at);
            }
            state.wakes.sleepers.extend(task.sleepers);
            for next in task.dependents {
                let Some(dependent) = state.pending.get_mut(&next) else {
                    continue;
                };
                dependent.blockers -= 1;
                dependent.since = dependent.since.max(Some(at));
                if dependent.blockers == 0 {
                    match dependent.engine {
                        Some(engine) => {
                            let priority = dependent.priority;
                            self.line_up(state, engine, next, priority);
                            self.call(state, engine);
                        }
                        None => ending.push(next),
                    }
                }
            }
        }
        self.ended.fetch_add(1, Ordering::Release);
    }

    /// Puts a task whose turn only its engine decides into that engine's queue.
    fn line_up(&self, state: &mut Locked<'_>, engine: usize, task: TaskId, priority: i32) {
        let queue = &mut state.engines[engine];
        queue.ready.insert((priority, task));
        if let Some((turns, shared)) = self.shared(engine) {
            let ticket = turns.draw();
            queue.tickets.push_back(ticket);
            if queue.tickets.len() == 1 {
                turns.line_up(shared, ticket);
            }
        }
    }

    /// The machine's engine behind one of this process's, if it is shared.
    fn shared(&self, engine: usize) -> Option<(&'static Turns, usize)> {
        let kinds = Engine::ALL.len();
        let kind = Engine::ALL[engine % kinds];
        let place = Engine::SHARED.iter().position(|shared| *shared == kind)?;
        Some((
            self.turns?,
            self.devices[engine / kinds] * Engine::SHARED.len() + place,
        ))
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
            state.wakes.threads |= 1 << engine;
        }
    }

    /// Runs the first ready task of an idle engine without the lock, when it is this process's turn.
    fn run<'a>(
        &'a self,
        driver: &'static Driver,
        mut state: Locked<'a>,
        engine: usize,
    ) -> Locked<'a> {
        let shared = self.shared(engine);
        let ticket = state.engines[engine].tickets.front().copied();
        state.engines[engine].busy = true;
        let held = match (shared, ticket) {
            (Some((turns, shared)), Some(ticket)) if state.first_goes_on(engine) => {
                if !turns.try_take(shared, ticket) {
                    drop(state);
                    turns.take(shared, ticket);
                    state = self.state();
                }
                true
            }
            // What is left of an ended context takes no time, so it needs no turn.
            _ => false,
        };
        // A more urgent one may have become ready meanwhile.
        let id = state.engines[engine].ready.pop_first().map(|(_, id)| id);
        let started = id
            .and_then(|id| state.pending.get_mut(&id))
            .and_then(|task| {
                let led_by = task.led_by.take();
                Some((task.work.take()?, Arc::clone(&task.context), led_by))
            });
        drop(state);
        let mut lasted = None;
        if let Some((work, context, led_by)) = started
            && (context.goes_on() || context.alive() && work.outlives_failure())
        {
            let began = Instant::now();
            // A panic in the engine is our mistake; to the program it is a failed kernel.
            match catch_unwind(AssertUnwindSafe(|| work.run(driver, &context))) {
                Ok(ran) => lasted = ran,
                Err(_) => context.fail(CuResult::LAUNCH_FAILED),
            }
            if let Some((event, task)) = led_by {
                event.passed_again(task, lasted.map_or(began, |lasted| lasted.began));
            }
        }
        let ended = lasted.map_or_else(Instant::now, |lasted| lasted.ended);
        let mut state = self.state();
        if let Some(id) = id {
            self.end(driver, &mut state, id, ended);
            self.end_awaiting(driver, &mut state);
        }
        let queue = &mut state.engines[engine];
        queue.busy = false;
        queue.tickets.pop_front();
        if let Some((turns, shared)) = shared {
            let next = queue.tickets.front().copied().unwrap_or(0);
            let whose = turns.leave(shared, next, held);
            state.wakes.turn = whose.map(|slot| (shared, slot));
        }
        if !state.engines[engine].ready.is_empty() {
            self.call(&mut state, engine);
        }
        state
    }

    /// Whether the calling thread may do the engine's work, and has the stack that it needs.
    fn may_run_here(&self, engine: usize) -> bool {
        match Engine::ALL[engine % Engine::ALL.len()] {
            Engine::Compute => stack_left() >= KERNEL_STACK,
            Engine::Upload | Engine::Download => true,
            // The program's functions run on a thread that is none of its own.
            Engine::Host => false,
        }
    }

    /// Starts the thread of an engine. It lives as long as the process.
    fn start(&self, driver: &'static Driver, engine: usize) -> Result<(), CuResult> {
        let kind = Engine::ALL[engine % Engine::ALL.len()];
        let name = format!("{kind:?}").to_lowercase();
        spawn(&name, move || driver.engines.serve(driver, engine))
    }

    /// An engine's thread.
    fn serve(&self, driver: &'static Driver, engine: usize) {
        let waker = &self.wakers[engine];
        let mut state = self.state();
        loop {
            let calls = waker.calls.load(Ordering::Acquire);
            let queue = &state.engines[engine];
            if !queue.busy && !queue.ready.is_empty() {
                state = self.run(driver, state, engine);
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

/// The locked state, and which threads to wake when it is unlocked: woken before, they would only wait for
/// the lock. (The fields' order is that of their drops.)
struct Locked<'a> {
    state: MutexGuard<'a, State>,
    wakes: Wakes<'a>,
}

impl<'a> Locked<'a> {
    /// Unlocks until the condition is notified.
    fn sleep(self, condition: &Condvar) -> Locked<'a> {
        let Locked { state, wakes } = self;
        let engines = wakes.engines;
        drop(wakes);
        Locked {
            state: condition
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner),
            wakes: Wakes {
                engines,
                threads: 0,
                turn: None,
                sleepers: Vec::new(),
            },
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

/// Whom to wake: engines' threads, a bit each (16 devices have 64), the process whose turn it is on one of the
/// machine's engines, and threads that wait for tasks which have ended.
struct Wakes<'a> {
    engines: &'a Engines,
    threads: u64,
    turn: Option<(usize, usize)>,
    sleepers: Vec<Arc<Condvar>>,
}

impl Drop for Wakes<'_> {
    fn drop(&mut self) {
        if let (Some(turns), Some((engine, slot))) = (self.engines.turns, self.turn) {
            turns.wake(engine, Some(slot));
        }
        for (engine, waker) in self.engines.wakers.iter().enumerate() {
            if self.threads >> engine & 1 == 1 {
                waker.sleep.notify_one();
            }
        }
        for sleepers in &self.sleepers {
            sleepers.notify_all();
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

    /// Makes a task its stream's last.
    fn set_last(&mut self, context: u64, lane: Lane, task: TaskId) {
        match lane {
            Lane::Null => self.contexts.entry(context).or_default().null = task,
            Lane::Stream(stream) => {
                if let Some(stream) = self.stream(context, stream) {
                    stream.last = task;
                }
            }
        }
    }

    /// Whether the null stream waits for a stream, and its priority.
    fn traits(&mut self, context: u64, lane: Lane) -> (bool, i32) {
        match lane {
            Lane::Null => (true, 0),
            Lane::Stream(stream) => {
                let stream = self.stream(context, stream);
                stream.map_or((false, 0), |stream| (stream.blocking, stream.priority))
            }
        }
    }

    /// Whether the task that an engine would take next is still to be carried out.
    fn first_goes_on(&self, engine: usize) -> bool {
        let first = self.engines[engine].ready.first();
        first
            .and_then(|(_, id)| self.pending.get(id))
            .is_some_and(|task| task.context.goes_on())
    }

    /// An idle engine whose next task is in the scope.
    fn next_in(&self, scope: Scope, until: TaskId) -> Option<usize> {
        let idle = self
            .engines
            .iter()
            .enumerate()
            .filter(|(_, engine)| !engine.busy);
        idle.filter_map(|(at, engine)| Some((at, engine.ready.first()?.1)))
            .find(|(_, id)| {
                *id <= until
                    && self.pending.get(id).is_some_and(|task| match scope {
                        Scope::Lane(context, lane) => {
                            task.context.id == context
                                && (task.lane == lane || lane == Lane::Null && task.joins_null)
                        }
                        Scope::Context(context) => task.context.id == context,
                        Scope::Nothing => false,
                    })
            })
            .map(|(engine, _)| engine)
    }
}

/// Starts a thread that lives as long as the process.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), CuResult> {
    std::thread::Builder::new()
        .name(format!("softcuda {name}"))
        .stack_size(8 << 20)
        .spawn(body)
        .map(drop)
        .map_err(|error| {
            tracing::error!(%error, "cannot start an engine's thread; raise the thread limit");
            CuResult::OPERATING_SYSTEM
        })
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
