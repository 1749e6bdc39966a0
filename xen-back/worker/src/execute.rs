//! Carries out a guest's calls on the driver.
//!
//! `auto` calls run from their declaration; the messages of the `wire` list have a method each. Posted
//! calls answer nothing: the first error waits for the next call that is answered, which is then not
//! carried out. Work for a device goes by [`crate::meter`], where it may wait for its turn. Must never wait
//! for the device itself (a driver that stages a copy from memory it has not registered may), nor give the
//! driver a number of the guest's as a pointer to this process's memory.

use crate::blocking::Blocking;
use crate::memory::{Held, Memory, Place as MemoryPlace, Reservation};
use crate::meter::{Meter, Work};
use crate::param::Argument;
use crate::regions::{Place, Regions};
use crate::tables::{Kernel, Named, Native, Tables};
use cuda_abi::{
    Context, CuResult, Driver, End, Event, Function, Handle, Mode, Module, New, Opt, Out, Span,
    Stream, Use, Uuid, Val, Wire,
};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use vgpu_protocol::calls::{Call, encode_reply, reply, request};
use vgpu_protocol::codec::{Bytes, Codec, DecodeError, Id, Payload};
use vgpu_ring::{Completer, Ticket};

/// Most bytes of module images that a process may have collected and not yet loaded.
pub const IMAGE_LIMIT: usize = 256 << 20;
/// Most images collected at once.
const IMAGES: usize = 64;
/// Most parameters of a kernel: CUDA allows 32,764 bytes of them.
const PARAM_LIMIT: usize = 32_764;
/// Room for the compiler's messages about a module, in bytes.
const LOG_BYTES: usize = 8192;
/// Zeros behind an image: a driver that reads beyond a malformed image's end reads these.
const IMAGE_PADDING: usize = 4096;

/// Why a channel cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The queue is dead, or the guest broke its rules.
    #[error(transparent)]
    Ring(#[from] vgpu_ring::Error),
    /// A record makes no sense.
    #[error("a call from the guest makes no sense: {0}")]
    Decode(#[from] DecodeError),
    /// A record asks for an answer that its call has not, or the other way round.
    #[error("the guest's call {0:?} asks for an answer against its declaration")]
    Answer(Wire),
}

type Answer<T> = Result<T, CuResult>;

/// One guest process's view of the driver.
pub struct Executor {
    driver: Arc<Driver>,
    regions: Arc<Regions>,
    blocking: Blocking,
    completer: Completer,
    meter: Meter,
    /// How often the guest has retained each device's primary context.
    retained: HashMap<i32, u32>,
    tables: Tables,
    images: HashMap<u32, Vec<u8>>,
    /// The guest's index of the context that is current in this thread.
    current: u32,
    /// The first error of a posted call that nobody has been told of.
    pending: Option<CuResult>,
    /// Streams that were given work and not yet seen idle, with their context.
    busy: Vec<(u32, Native)>,
    /// Longest answer, in bytes.
    max_answer: usize,
    /// Frees that other threads have not carried out yet.
    frees: Arc<Frees>,
    /// What the process has allocated.
    memory: Arc<Memory>,
    /// The device of each context.
    devices: HashMap<u32, usize>,
}

/// Counts frees that wait for the device, so that who allocates or asks for free memory can wait for
/// them: in the program's order they came first.
#[derive(Default)]
struct Frees {
    count: Mutex<usize>,
    done: Condvar,
}

impl Frees {
    fn count(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn begin(&self) {
        let mut count = self.count();
        *count = count.saturating_add(1);
    }
    fn end(&self) {
        let mut count = self.count();
        *count = count.saturating_sub(1);
        self.done.notify_all();
    }
    fn any(&self) -> bool {
        *self.count() != 0
    }
    fn wait(&self) {
        drop(self.done.wait_while(self.count(), |count| *count != 0));
    }
}

/// How a call ends.
enum End_ {
    /// With an answer, or with none for a posted call.
    Now(Answer<Vec<u8>>),
    /// Another thread answers.
    Later,
}

fn now<T: Codec>(answer: Answer<T>) -> End_ {
    End_::Now(answer.map(|reply| encode_reply(Ok(reply))))
}

impl Executor {
    /// An executor whose process has done nothing yet. `max_answer`: the completion ring's longest record.
    pub fn new(
        driver: Arc<Driver>,
        regions: Arc<Regions>,
        completer: Completer,
        meter: Meter,
        max_answer: usize,
        memory: Memory,
    ) -> Self {
        Executor {
            driver,
            regions,
            completer,
            meter,
            retained: HashMap::new(),
            max_answer,
            blocking: Blocking::default(),
            tables: Tables::default(),
            images: HashMap::new(),
            current: 0,
            pending: None,
            busy: Vec::new(),
            frees: Arc::default(),
            memory: Arc::new(memory),
            devices: HashMap::new(),
        }
    }

    /// Carries out one record. Returns an error only where the channel is to end.
    pub fn execute(
        &mut self,
        record: &[u8],
        ticket: Ticket,
        wants_answer: bool,
    ) -> Result<(), Fatal> {
        let (header, call) = Call::decode(record)?;
        let number = call.number();
        let mode = number.mode();
        let posted = mode == Mode::Post;
        if posted == wants_answer {
            return Err(Fatal::Answer(number));
        }
        if !posted && let Some(error) = self.pending.take() {
            return Ok(self
                .completer
                .complete(ticket, &[&encode_reply::<()>(Err(error))])?);
        }
        if mode == Mode::Sync || !posted && number.is_message() {
            // The guest waits for what it has submitted, or this may take long.
            self.meter.pause();
        }
        let current = if number.needs_context() {
            self.make_current(header.context)
        } else {
            Ok(())
        };
        let end = match current {
            Ok(()) => self.carry_out(call, header.context, ticket),
            Err(error) => End_::Now(Err(error)),
        };
        match end {
            End_::Later => Ok(()),
            End_::Now(Err(error)) if posted => {
                tracing::debug!(call = ?number, %error, "a posted call failed");
                self.pending.get_or_insert(error);
                Ok(())
            }
            End_::Now(Ok(_)) if posted => Ok(()),
            End_::Now(answer) => {
                let bytes = answer.unwrap_or_else(|error| encode_reply::<()>(Err(error)));
                Ok(self.completer.complete(ticket, &[&bytes])?)
            }
        }
    }

    fn make_current(&mut self, context: u32) -> Answer<()> {
        if context == self.current {
            return Ok(());
        }
        self.meter.pause();
        // SAFETY: the handle is one that the driver gave out, or null for none.
        unsafe { self.driver.cuCtxSetCurrent(self.native_context(context)?) }.ok()?;
        self.current = context;
        Ok(())
    }

    /// Whether the device has been given work in a batch that has not ended.
    pub fn fills(&self) -> bool {
        self.meter.fills()
    }

    /// Nothing more is there to be carried out.
    pub fn pause(&mut self) {
        self.meter.pause();
    }

    fn native_context(&self, context: u32) -> Answer<Handle> {
        if context == 0 {
            return Ok(ptr::null_mut());
        }
        let native =
            Context::find(&self.tables, Id::new(context)).map_err(|_| CuResult::INVALID_CONTEXT)?;
        Ok(native.handle())
    }

    /// Notes that a stream was given work.
    fn mark_busy(&mut self, context: u32, stream: Native) {
        if !self.busy.contains(&(context, stream)) {
            self.busy.push((context, stream));
        }
    }

    /// Whether all the work of the current context is known to have ended: then nothing blocks.
    fn is_idle(&mut self) -> bool {
        let (driver, current) = (&self.driver, self.current);
        self.busy.retain(|(context, stream)| {
            // SAFETY: the stream is the driver's own handle, and its context is current.
            *context != current || !unsafe { driver.cuStreamQuery(stream.handle()) }.is_ok()
        });
        self.busy.is_empty()
    }

    /// Runs a call that may block: at once where nothing can keep it, else on another thread, which
    /// answers.
    fn may_block<T: Codec>(
        &mut self,
        ticket: Ticket,
        work: impl FnOnce(&Driver) -> Answer<T> + Send + 'static,
    ) -> End_ {
        if self.is_idle() {
            return now(work(&self.driver));
        }
        self.will_block(ticket, work)
    }

    /// Runs a call on another thread, which answers.
    fn will_block<T: Codec>(
        &mut self,
        ticket: Ticket,
        work: impl FnOnce(&Driver) -> Answer<T> + Send + 'static,
    ) -> End_ {
        let context = match self.native_context(self.current) {
            Ok(context) => Native::from(context),
            Err(error) => return End_::Now(Err(error)),
        };
        let (driver, completer) = (self.driver.clone(), self.completer.clone());
        self.blocking.run(move || {
            // SAFETY: the context is one that the driver gave out.
            let current = unsafe { driver.cuCtxSetCurrent(context.handle()) }.ok();
            let answer = encode_reply(current.and_then(|()| work(&driver)));
            // A queue that is dead has told the main thread so too.
            let _ = completer.complete(ticket, &[&answer]);
        });
        End_::Later
    }
}

/// A number that may go to another thread: an argument's slot, opened.
macro_rules! auto_call {
    (Sync $self:ident $context:ident $ticket:ident $request:ident $name:ident ($($p:ident: $t:ty),*)) => {{
        $(let mut $p = match <$t as Argument>::open($request.$p, &$self.tables) {
            Ok(slot) => slot,
            Err(error) => return End_::Now(Err(error)),
        };)*
        $self.may_block($ticket, move |driver| {
            // SAFETY: handles come from the tables, everything else is by value.
            unsafe { driver.$name($(<$t as Argument>::argument(&mut $p)),*) }.ok()?;
            reply::$name::decode(&[]).map_err(|_| CuResult::UNKNOWN)
        })
    }};
    ($mode:ident $self:ident $context:ident $ticket:ident $request:ident $name:ident ($($p:ident: $t:ty),*)) => {
        now($self.answer(|this| {
            $(let mut $p = <$t as Argument>::open($request.$p, &this.tables)?;)*
            if matches!(Mode::$mode, Mode::Post) {
                #[allow(unused_mut, reason = "only calls that name a stream change it")]
                let mut stream = Native::from(ptr::null_mut::<c_void>());
                $(if let Some(named) = <$t as Argument>::stream(&$p) { stream = named; })*
                this.mark_busy($context, stream);
                $(if let Some(ended) = <$t as Argument>::ended(&$p) { this.meter.split(ended); })*
                if matches!(Wire::$name, Wire::cuStreamWaitEvent) { this.meter.split(stream); }
                let spans: &[Option<u64>] = &[$(<$t as Argument>::span(&$p)),*];
                if let Some(bytes) = spans.iter().copied().flatten().reduce(u64::saturating_mul) {
                    this.meter.piece($context, stream, Work::Fill(bytes));
                }
            }
            // SAFETY: handles come from the tables, places to fill are slots that outlive the call, and
            // device addresses are the driver's to check.
            unsafe { this.driver.$name($(<$t as Argument>::argument(&mut $p)),*) }.ok()?;
            Ok(reply::$name { $($p: <$t as Argument>::close($p, &mut this.tables, $context)?),* })
        }))
    };
}

macro_rules! carry_out {
    (
        auto { $($(#[$adoc:meta])+ $anum:literal $aname:ident ($abase:literal, $asince:literal) $amode:ident ($($ap:ident: $at:ty),*);)* }
        wire { $($wire:tt)* }
        guest { $($guest:tt)* }
        driver { $($driver:tt)* }
    ) => {
        impl Executor {
            #[allow(non_snake_case, unused_variables, reason = "CUDA's names; a call without parameters uses none")]
            #[allow(unreachable_patterns, reason = "the first calls are not carried out from their declaration")]
            fn carry_out(&mut self, call: Call, context: u32, ticket: Ticket) -> End_ {
                match call {
                    // Free memory is what it is after the frees before it, and what the quota leaves.
                    Call::cuMemGetInfo_v2(_) => self.mem_get_info(ticket),
                    Call::cuDeviceTotalMem_v2(request) => now(self.device_total_mem(request)),
                    Call::cuCtxSetLimit(request) => now(self.ctx_set_limit(request)),
                    $(Call::$aname(request) => auto_call!($amode self context ticket request $aname ($($ap: $at),*)),)*
                    other => self.carry_out_message(other, context, ticket),
                }
            }
        }
    };
}
cuda_abi::with_calls!(carry_out);

impl Executor {
    fn answer<T>(&mut self, work: impl FnOnce(&mut Self) -> Answer<T>) -> Answer<T> {
        work(self)
    }

    fn carry_out_message(&mut self, call: Call, context: u32, ticket: Ticket) -> End_ {
        match call {
            Call::DriverVersion(_) => now(self.driver_version()),
            Call::DeviceAttribute(r) => now(self.device_attribute(r)),
            Call::DeviceName(r) => now(self.device_name(r)),
            Call::PrimaryRetain(r) => now(self.primary_retain(r)),
            Call::PrimaryRelease(r) => now(self.primary_release(r)),
            Call::PrimaryReset(r) => now(self.primary_reset(r)),
            Call::PrimaryState(r) => now(self.primary_state(r)),
            Call::PrimarySetFlags(r) => {
                // SAFETY: numbers by value; the driver checks them.
                now(unsafe { self.driver.cuDevicePrimaryCtxSetFlags_v2(r.device, r.flags) }.ok())
            }
            Call::ContextCreate(r) => now(self.context_create(r)),
            Call::ContextDestroy(r) => now(self.context_destroy(r)),
            Call::DeviceMemory(r) => now(self.device_memory(r.device)),
            Call::DeviceShare(r) => {
                // A driver whose devices are not measured has no answer.
                let shares = self.meter.shares(ordinal(r.device));
                now(shares
                    .map(|[kernels, copies]| reply::DeviceShare { kernels, copies })
                    .ok_or(CuResult::NOT_SUPPORTED))
            }
            Call::ImageData(r) => now(self.image_data(r)),
            Call::ModuleLoad(r) => now(self.module_load(r, context)),
            Call::ModuleUnload(r) => now(self.module_unload(r)),
            Call::ModuleGetFunction(r) => now(self.module_get_function(r, context)),
            Call::ModuleGetGlobal(r) => now(self.module_get_global(r)),
            Call::MemAlloc(r) => self.mem_alloc(r, ticket),
            Call::MemFree(r) => now(self.mem_free(r)),
            Call::MemAllocAsync(r) => self.mem_alloc_async(r, ticket),
            Call::MemFreeAsync(r) => now(self.mem_free_async(r, context)),
            Call::CopyIn(r) => now(self.copy_in(r, context)),
            Call::CopyOut(r) => self.copy_out(r, context, ticket),
            Call::CopyOutAsync(r) => now(self.copy_out_async(r, context)),
            Call::RegionPin(r) => now(self
                .regions
                .pin(r.region, &self.driver)
                .map(|device| reply::RegionPin { device })),
            Call::RegionUnpin(r) => {
                let regions = self.regions.clone();
                self.may_block(ticket, move |driver| {
                    // Copies from and to it may be under way. A fault of the context's own is told by
                    // other calls; the memory goes all the same.
                    // SAFETY: waits for the context that is current in this thread.
                    let _ = unsafe { driver.cuCtxSynchronize() };
                    regions.unpin(r.region, driver)
                })
            }
            Call::Fence(_) => now(Ok(())),
            Call::Launch(r) => now(self.launch(r, context)),
            // The `auto` calls are carried out from their declaration.
            _ => End_::Now(Err(CuResult::NOT_SUPPORTED)),
        }
    }

    fn driver_version(&self) -> Answer<reply::DriverVersion> {
        let mut version = 0;
        // SAFETY: the place outlives the call.
        unsafe { self.driver.cuDriverGetVersion(&mut version) }.ok()?;
        Ok(reply::DriverVersion { version })
    }

    fn device_attribute(&self, r: request::DeviceAttribute) -> Answer<reply::DeviceAttribute> {
        let mut value = 0;
        // SAFETY: the place outlives the call; the driver checks the numbers.
        unsafe {
            self.driver
                .cuDeviceGetAttribute(&mut value, r.attribute, r.device)
        }
        .ok()?;
        Ok(reply::DeviceAttribute { value })
    }

    fn device_name(&self, r: request::DeviceName) -> Answer<reply::DeviceName> {
        let mut name = [0u8; 256];
        // SAFETY: the buffer has the length that the driver is told.
        unsafe {
            self.driver
                .cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, r.device)
        }
        .ok()?;
        Ok(reply::DeviceName {
            name: Bytes(until_nul(&name)),
        })
    }

    /// By the account alone: the driver tells what is free to a context only, and of all domains.
    fn device_memory(&self, device: i32) -> Answer<reply::DeviceMemory> {
        let mut total = 0;
        // SAFETY: the place outlives the call; the driver checks the ordinal.
        unsafe { self.driver.cuDeviceTotalMem_v2(&mut total, device) }.ok()?;
        let gpu = ordinal(device);
        let (_, total) = self.memory.seen(gpu, 0, total);
        let (total, used) = (total as u64, self.memory.used(gpu));
        Ok(reply::DeviceMemory {
            total,
            free: total.saturating_sub(used),
            used,
        })
    }

    /// Counts what the driver takes for a context that is about to be made.
    fn reserve_context(&self, context: Id<Context>, device: i32) -> Answer<Option<Reservation>> {
        Context::check_free(&self.tables, context)?;
        let place = MemoryPlace {
            context: context.0,
            gpu: ordinal(device),
        };
        let reserved = self.memory.reserve_context(&self.driver, place);
        if reserved.is_err() {
            tracing::warn!(
                device,
                "the domain's memory quota has no room for a context"
            );
        }
        reserved
    }

    /// The driver has made it.
    fn context_came(
        &mut self,
        context: Id<Context>,
        native: Native,
        device: i32,
        reserved: Option<Reservation>,
    ) -> Answer<()> {
        Context::insert(&mut self.tables, context, context.0, native)?;
        self.devices.insert(context.0, ordinal(device));
        self.meter.came(context.0, native, device);
        if let Some(reserved) = reserved {
            reserved.hold(Held::Context);
        }
        Ok(())
    }

    fn primary_retain(&mut self, r: request::PrimaryRetain) -> Answer<()> {
        let known = Context::find(&self.tables, r.context).ok();
        let reserved = match known {
            Some(_) => None,
            None => self.reserve_context(r.context, r.device)?,
        };
        let mut native: Handle = ptr::null_mut();
        // SAFETY: the place outlives the call.
        unsafe { self.driver.cuDevicePrimaryCtxRetain(&mut native, r.device) }.ok()?;
        let native = Native::from(native);
        if known.is_some_and(|known| known != native) {
            // Nor may it stay, as it is not counted.
            // SAFETY: it was retained just now.
            unsafe { self.driver.cuDevicePrimaryCtxRelease_v2(r.device) }.ok()?;
            return Err(CuResult::INVALID_CONTEXT);
        }
        let retained = self.retained.entry(r.device).or_default();
        *retained = retained.saturating_add(1);
        match known {
            Some(_) => Ok(()),
            None => self.context_came(r.context, native, r.device, reserved),
        }
    }

    fn primary_release(&mut self, r: request::PrimaryRelease) -> Answer<()> {
        let native = self.primary(r.device)?;
        let retained = self.retained.get(&r.device).copied().unwrap_or(0);
        if let Some(native) = native
            && retained <= 1
        {
            self.meter.forget(native);
        }
        // SAFETY: an ordinal by value; the driver checks it.
        unsafe { self.driver.cuDevicePrimaryCtxRelease_v2(r.device) }.ok()?;
        self.retained.insert(r.device, retained.saturating_sub(1));
        if let Some(native) = native
            && !self.is_active(r.device)?
        {
            self.native_gone(native);
        }
        Ok(())
    }

    fn is_active(&self, device: i32) -> Answer<bool> {
        let state = self.primary_state(request::PrimaryState { device })?;
        Ok(state.active != 0)
    }

    /// The driver's handle of a device's primary context. One that is not active is not made for that.
    fn primary(&self, device: i32) -> Answer<Option<Native>> {
        if !self.is_active(device)? {
            return Ok(None);
        }
        let mut native: Handle = ptr::null_mut();
        // SAFETY: the place outlives the call; the reference is given back below.
        unsafe { self.driver.cuDevicePrimaryCtxRetain(&mut native, device) }.ok()?;
        // SAFETY: it was retained just now.
        unsafe { self.driver.cuDevicePrimaryCtxRelease_v2(device) }.ok()?;
        Ok(Some(native.into()))
    }

    fn primary_reset(&mut self, r: request::PrimaryReset) -> Answer<()> {
        let native = self.primary(r.device)?;
        if let Some(native) = native {
            self.meter.forget(native);
        }
        // SAFETY: an ordinal by value.
        unsafe { self.driver.cuDevicePrimaryCtxReset_v2(r.device) }.ok()?;
        if let Some(native) = native {
            self.native_gone(native);
        }
        Ok(())
    }

    /// A context of the driver's is no more.
    fn native_gone(&mut self, native: Native) {
        let mut gone = Vec::new();
        self.tables.contexts.remove_where(|index, value| {
            if *value == native {
                gone.push(index);
            }
            *value == native
        });
        for context in gone {
            self.context_gone(context);
        }
    }

    fn context_gone(&mut self, context: u32) {
        self.meter.went(context);
        self.tables.forget_context(context);
        self.memory.context_gone(context);
        self.devices.remove(&context);
        self.busy.retain(|(owner, _)| *owner != context);
        if self.current == context {
            self.current = 0;
            // SAFETY: null takes the current context away.
            let _ = unsafe { self.driver.cuCtxSetCurrent(ptr::null_mut()) };
        }
    }

    fn primary_state(&self, r: request::PrimaryState) -> Answer<reply::PrimaryState> {
        let mut state = reply::PrimaryState {
            flags: 0,
            active: 0,
        };
        // SAFETY: both places outlive the call.
        unsafe {
            self.driver
                .cuDevicePrimaryCtxGetState(r.device, &mut state.flags, &mut state.active)
        }
        .ok()?;
        Ok(state)
    }

    fn context_create(&mut self, r: request::ContextCreate) -> Answer<()> {
        let reserved = self.reserve_context(r.context, r.device)?;
        let mut native: Handle = ptr::null_mut();
        self.meter.pause();
        // SAFETY: the place outlives the call.
        unsafe { self.driver.cuCtxCreate_v2(&mut native, r.flags, r.device) }.ok()?;
        self.context_came(r.context, native.into(), r.device, reserved)?;
        // The driver made it current in this thread.
        self.current = r.context.0;
        Ok(())
    }

    fn context_destroy(&mut self, r: request::ContextDestroy) -> Answer<()> {
        let native =
            Context::find(&self.tables, r.context).map_err(|_| CuResult::INVALID_CONTEXT)?;
        self.meter.forget(native);
        // SAFETY: the handle is the driver's own.
        unsafe { self.driver.cuCtxDestroy_v2(native.handle()) }.ok()?;
        Context::remove(&mut self.tables, r.context)?;
        self.context_gone(r.context.0);
        Ok(())
    }

    fn image_data(&mut self, r: request::ImageData) -> Answer<()> {
        let collected: usize = self.images.values().map(Vec::len).sum();
        let more = match &r.data {
            Payload::Inline(bytes) => bytes.0.len(),
            Payload::Region(range) => {
                usize::try_from(range.len).map_err(|_| CuResult::INVALID_VALUE)?
            }
        };
        if collected.saturating_add(more) > IMAGE_LIMIT
            || (self.images.len() >= IMAGES && !self.images.contains_key(&r.image))
        {
            return Err(CuResult::OUT_OF_MEMORY);
        }
        let place = match &r.data {
            Payload::Inline(_) => None,
            Payload::Region(range) => Some(self.regions.place(*range)?),
        };
        let image = self.images.entry(r.image).or_default();
        match (&r.data, place) {
            (Payload::Inline(bytes), _) => image.extend_from_slice(&bytes.0),
            (_, Some(place)) => {
                image.reserve(place.len());
                // SAFETY: `place` is mapped for its length and the destination has room for it; the
                // guest may write meanwhile, which a raw copy of bytes tolerates; the copy is
                // private from here on.
                unsafe {
                    let end = image.as_mut_ptr().add(image.len());
                    ptr::copy_nonoverlapping(place.address().cast::<u8>(), end, place.len());
                    image.set_len(image.len().saturating_add(place.len()));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn module_load(&mut self, r: request::ModuleLoad, context: u32) -> Answer<reply::ModuleLoad> {
        let mut image = self
            .images
            .remove(&r.image)
            .ok_or(CuResult::INVALID_VALUE)?;
        cuda_abi::Module::check_free(&self.tables, r.module)?;
        let reserved = match crate::variables::bytes(&image)? {
            0 => None,
            bytes => Some(
                self.memory
                    .reserve(&self.driver, self.memory_place(), bytes)?,
            ),
        };
        image.resize(image.len().saturating_add(IMAGE_PADDING), 0);
        let mut log = vec![0u8; LOG_BYTES];
        let mut options = [JIT_ERROR_LOG_BUFFER, JIT_ERROR_LOG_BUFFER_SIZE];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), LOG_BYTES as *mut c_void];
        let mut native: Handle = ptr::null_mut();
        // SAFETY: the image is followed by zeros, the two options have their values, and the log
        // buffer has the length that is told.
        let status = unsafe {
            self.driver.cuModuleLoadDataEx(
                &mut native,
                image.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        let mut log = until_nul(&log);
        if status.is_ok() {
            cuda_abi::Module::insert(&mut self.tables, r.module, context, native.into())?;
            if let Some(reserved) = reserved {
                reserved.hold(Held::Module(r.module.0));
            }
        } else {
            tracing::warn!(%status, log = %String::from_utf8_lossy(&log).trim_end(), "the driver refuses a module");
        }
        log.truncate(self.max_answer.saturating_sub(64));
        Ok(reply::ModuleLoad {
            result: status.0,
            log: Bytes(log),
        })
    }

    fn module_unload(&mut self, r: request::ModuleUnload) -> Answer<()> {
        let native = cuda_abi::Module::find(&self.tables, r.module)?;
        // SAFETY: the handle is the driver's own.
        unsafe { self.driver.cuModuleUnload(native.handle()) }.ok()?;
        cuda_abi::Module::remove(&mut self.tables, r.module)?;
        self.memory
            .drop_held(self.current, Held::Module(r.module.0));
        self.tables
            .functions
            .remove_where(|_, kernel| kernel.module == r.module.0);
        Ok(())
    }

    fn module_get_function(
        &mut self,
        r: request::ModuleGetFunction,
        context: u32,
    ) -> Answer<reply::ModuleGetFunction> {
        let module = cuda_abi::Module::find(&self.tables, r.module)?;
        Function::check_free(&self.tables, r.function)?;
        let name = CString::new(r.name.0).map_err(|_| CuResult::INVALID_VALUE)?;
        let mut native: Handle = ptr::null_mut();
        // SAFETY: the module is the driver's own handle, the name ends with NUL.
        unsafe {
            self.driver
                .cuModuleGetFunction(&mut native, module.handle(), name.as_ptr())
        }
        .ok()?;
        let params = self.parameters(native)?;
        let mut listed = Vec::new();
        for (offset, size) in &params {
            offset.put(&mut listed);
            size.put(&mut listed);
        }
        let kernel = Kernel {
            native: native.into(),
            module: r.module.0,
            params,
            usual: Arc::default(),
        };
        self.tables
            .functions
            .insert(r.function.0, context, kernel)?;
        Ok(reply::ModuleGetFunction {
            params: Bytes(listed),
        })
    }

    /// Offset and size of each parameter of a kernel, as the driver has them.
    fn parameters(&self, function: Handle) -> Answer<Vec<(u32, u32)>> {
        let mut params: Vec<(u32, u32)> = Vec::new();
        for index in 0..=PARAM_LIMIT {
            let (mut offset, mut size) = (0usize, 0usize);
            // SAFETY: the function is the driver's own handle and both places outlive the call.
            let status = unsafe {
                self.driver
                    .cuFuncGetParamInfo(function, index, &mut offset, &mut size)
            };
            if status == CuResult::INVALID_VALUE {
                break;
            }
            if status == CuResult::NOT_SUPPORTED {
                tracing::error!(
                    "the driver does not tell kernels' parameters (cuFuncGetParamInfo); install a driver of CUDA 12.4 or newer"
                );
            }
            status.ok()?;
            if offset.saturating_add(size) > PARAM_LIMIT {
                return Err(CuResult::INVALID_IMAGE);
            }
            params.push((offset as u32, size as u32));
        }
        Ok(params)
    }

    fn module_get_global(&self, r: request::ModuleGetGlobal) -> Answer<reply::ModuleGetGlobal> {
        let module = cuda_abi::Module::find(&self.tables, r.module)?;
        let name = CString::new(r.name.0).map_err(|_| CuResult::INVALID_VALUE)?;
        let (mut address, mut bytes) = (0, 0);
        // SAFETY: the module is the driver's own handle, the name ends with NUL, the places outlive the call.
        unsafe {
            self.driver.cuModuleGetGlobal_v2(
                &mut address,
                &mut bytes,
                module.handle(),
                name.as_ptr(),
            )
        }
        .ok()?;
        Ok(reply::ModuleGetGlobal {
            address,
            bytes: bytes as u64,
        })
    }

    /// Where the current context allocates.
    fn memory_place(&self) -> MemoryPlace {
        let gpu = self.devices.get(&self.current).copied().unwrap_or_default();
        MemoryPlace {
            context: self.current,
            gpu,
        }
    }

    fn mem_get_info(&mut self, ticket: Ticket) -> End_ {
        let (memory, gpu) = (self.memory.clone(), self.memory_place().gpu);
        let work = move |driver: &Driver| {
            let (mut free, mut total) = (0, 0);
            // SAFETY: both places outlive the call.
            unsafe { driver.cuMemGetInfo_v2(&mut free, &mut total) }.ok()?;
            let (free, total) = memory.seen(gpu, free, total);
            Ok(reply::cuMemGetInfo_v2 { free, total })
        };
        if !self.frees.any() {
            return now(work(&self.driver));
        }
        // It has to see the effect of every free before it.
        let frees = self.frees.clone();
        self.may_block(ticket, move |driver| {
            frees.wait();
            work(driver)
        })
    }

    fn device_total_mem(
        &self,
        r: request::cuDeviceTotalMem_v2,
    ) -> Answer<reply::cuDeviceTotalMem_v2> {
        let mut total = 0;
        // SAFETY: the place outlives the call; the driver checks the ordinal.
        unsafe { self.driver.cuDeviceTotalMem_v2(&mut total, r.dev) }.ok()?;
        let (_, bytes) = self.memory.seen(ordinal(r.dev), 0, total);
        Ok(reply::cuDeviceTotalMem_v2 { bytes, dev: () })
    }

    /// Some limits of a context are memory of the device: they count against the quota.
    fn ctx_set_limit(&mut self, r: request::cuCtxSetLimit) -> Answer<reply::cuCtxSetLimit> {
        let threads = match r.limit {
            LIMIT_PRINTF_FIFO | LIMIT_MALLOC_HEAP => Some(1),
            LIMIT_STACK => Some(self.resident_threads()?),
            _ => None,
        };
        let place = self.memory_place();
        let reserved = match threads {
            Some(threads) if self.memory.bound(place.gpu).is_some() => {
                let bytes = (r.value as u64).checked_mul(threads);
                let bytes = bytes.ok_or(CuResult::OUT_OF_MEMORY)?;
                Some(self.memory.reserve(&self.driver, place, bytes)?)
            }
            _ => None,
        };
        // SAFETY: numbers by value; the driver checks them.
        unsafe { self.driver.cuCtxSetLimit(r.limit, r.value) }.ok()?;
        if let Some(reserved) = reserved {
            reserved.hold(Held::Limit(r.limit));
        }
        Ok(reply::cuCtxSetLimit {
            limit: (),
            value: (),
        })
    }

    /// Threads that can be on the current context's device at once.
    fn resident_threads(&self) -> Answer<u64> {
        let mut device = 0;
        // SAFETY: the place outlives the call.
        unsafe { self.driver.cuCtxGetDevice(&mut device) }.ok()?;
        let mut product = 1u64;
        for attribute in [MULTIPROCESSOR_COUNT, MAX_THREADS_PER_MULTIPROCESSOR] {
            let mut value = 0;
            // SAFETY: as above.
            unsafe {
                self.driver
                    .cuDeviceGetAttribute(&mut value, attribute, device)
            }
            .ok()?;
            product = product.saturating_mul(u64::try_from(value).unwrap_or(1));
        }
        Ok(product)
    }

    /// Allocates: at once where there is room, or on another thread when there may be.
    fn allocate<T: Codec>(
        &mut self,
        ticket: Ticket,
        bytes: u64,
        reserve: impl FnOnce(&Self, MemoryPlace) -> Answer<Reservation>,
        work: impl FnOnce(&Driver, Reservation) -> Answer<T> + Send + 'static,
    ) -> End_ {
        let place = self.memory_place();
        // Before trying: what is freed meanwhile makes for one more try.
        let may_wait = self.frees.any() || self.memory.may_shrink(place.gpu);
        match reserve(self, place) {
            Ok(reserved) => return now(work(&self.driver, reserved)),
            Err(error) if !may_wait => return End_::Now(Err(error)),
            Err(_) => {}
        }
        let (frees, memory) = (self.frees.clone(), self.memory.clone());
        self.may_block(ticket, move |driver| {
            frees.wait();
            let reserved = memory.wait_and_reserve(driver, place, bytes)?;
            work(driver, reserved)
        })
    }

    fn mem_alloc(&mut self, r: request::MemAlloc, ticket: Ticket) -> End_ {
        let waits = self.frees.any();
        let reserve = |this: &Self, place| match waits {
            // The driver has to have the memory back too.
            true => Err(CuResult::OUT_OF_MEMORY),
            false => this.memory.reserve(&this.driver, place, r.bytes),
        };
        self.allocate(ticket, r.bytes, reserve, move |driver, reserved| {
            let bytes = usize::try_from(r.bytes).map_err(|_| CuResult::OUT_OF_MEMORY)?;
            let mut address = 0;
            // SAFETY: the place outlives the call.
            unsafe { driver.cuMemAlloc_v2(&mut address, bytes) }.ok()?;
            reserved.keep(address);
            Ok(reply::MemAlloc { address })
        })
    }

    /// Freeing waits for the device: where that is busy, another thread waits. A free answers nothing.
    fn mem_free(&mut self, r: request::MemFree) -> Answer<()> {
        if self.is_idle() && !self.frees.any() {
            let leaving = self.memory.leaving(r.address);
            // SAFETY: an address by value; the driver checks it.
            let status = unsafe { self.driver.cuMemFree_v2(r.address) };
            self.memory.left(leaving, status);
            return status.ok();
        }
        let context = Native::from(self.native_context(self.current)?);
        let (driver, frees, memory) =
            (self.driver.clone(), self.frees.clone(), self.memory.clone());
        let leaving = memory.leaving(r.address);
        frees.begin();
        self.blocking.run(move || {
            // SAFETY: the context is the driver's own, the address is by value.
            let status = unsafe {
                let _ = driver.cuCtxSetCurrent(context.handle());
                driver.cuMemFree_v2(r.address)
            };
            memory.left(leaving, status);
            frees.end();
            if !status.is_ok() {
                tracing::debug!(%status, "a posted free failed");
            }
        });
        Ok(())
    }

    fn mem_alloc_async(&mut self, r: request::MemAllocAsync, ticket: Ticket) -> End_ {
        let stream = match Stream::find(&self.tables, r.stream) {
            Ok(stream) => stream,
            Err(error) => return End_::Now(Err(error)),
        };
        let reserve =
            |this: &Self, place| this.memory.reserve_in(&this.driver, place, stream, r.bytes);
        self.allocate(ticket, r.bytes, reserve, move |driver, reserved| {
            let bytes = usize::try_from(r.bytes).map_err(|_| CuResult::OUT_OF_MEMORY)?;
            let mut address = 0;
            // SAFETY: the place outlives the call; the stream is the driver's own.
            unsafe { driver.cuMemAllocAsync(&mut address, bytes, stream.handle()) }.ok()?;
            reserved.keep(address);
            Ok(reply::MemAllocAsync { address })
        })
    }

    fn mem_free_async(&mut self, r: request::MemFreeAsync, context: u32) -> Answer<()> {
        let stream = Stream::find(&self.tables, r.stream)?;
        self.mark_busy(context, stream);
        let leaving = self.memory.leaving(r.address);
        // SAFETY: an address by value; the stream is the driver's own.
        let status = unsafe { self.driver.cuMemFreeAsync(r.address, stream.handle()) };
        match status.is_ok() {
            true => self.memory.left_in(&self.driver, leaving, stream),
            false => self.memory.left(leaving, status),
        }
        status.ok()
    }

    fn copy_in(&mut self, r: request::CopyIn, context: u32) -> Answer<()> {
        let stream = Stream::find(&self.tables, r.stream)?;
        let place;
        let (source, len): (*const c_void, usize) = match &r.data {
            Payload::Inline(bytes) => (bytes.0.as_ptr().cast(), bytes.0.len()),
            Payload::Region(range) => {
                place = self.regions.place(*range)?;
                (place.address(), place.len())
            }
        };
        let work = Work::CopyIn(len as u64);
        if r.ordered == 0 {
            self.meter
                .piece(context, Native::from(ptr::null_mut::<c_void>()), work);
            // SAFETY: the source is readable for `len`; the driver checks the device address.
            return unsafe { self.driver.cuMemcpyHtoD_v2(r.address, source, len) }.ok();
        }
        self.mark_busy(context, stream);
        self.meter.piece(context, stream, work);
        // SAFETY: as above. A source that the driver has not registered is staged before the call
        // returns; one that it has is a region, which stays mapped while it is registered.
        unsafe {
            self.driver
                .cuMemcpyHtoDAsync_v2(r.address, source, len, stream.handle())
        }
        .ok()
    }

    fn copy_out(&mut self, r: request::CopyOut, context: u32, ticket: Ticket) -> End_ {
        let (stream, place) = match self.copy_out_checked(&r) {
            Ok(checked) => checked,
            Err(error) => return End_::Now(Err(error)),
        };
        let courier = self.meter.courier(context);
        let work = move |driver: &Driver| {
            let mut data = Vec::new();
            let (target, len): (*mut c_void, usize) = match &place {
                Some(place) => (place.address(), place.len()),
                None => {
                    data.resize(r.bytes as usize, 0u8);
                    (data.as_mut_ptr().cast(), data.len())
                }
            };
            let (stream, ordered) = match r.ordered {
                0 => (Native::from(ptr::null_mut::<c_void>()), false),
                _ => (stream, true),
            };
            let copy = || {
                if ordered {
                    // SAFETY: the target is writable for `len`, and stays until the stream has been waited
                    // for; the driver checks the device address.
                    unsafe { driver.cuMemcpyDtoHAsync_v2(target, r.address, len, stream.handle()) }
                } else {
                    // SAFETY: as above; the call waits itself.
                    unsafe { driver.cuMemcpyDtoH_v2(target, r.address, len) }
                }
            };
            let copied = match courier {
                Some(courier) => courier.carry(stream, r.bytes, copy),
                None => copy(),
            };
            if ordered {
                // SAFETY: the stream is the driver's own.
                let waited = unsafe { driver.cuStreamSynchronize(stream.handle()) };
                copied.ok()?;
                waited.ok()?;
            }
            copied.ok()?;
            Ok(reply::CopyOut { data: Bytes(data) })
        };
        if self.meter.passes(context) {
            self.may_block(ticket, work)
        } else {
            self.will_block(ticket, work)
        }
    }

    fn copy_out_checked(&self, r: &request::CopyOut) -> Answer<(Native, Option<Place>)> {
        let stream = Stream::find(&self.tables, r.stream)?;
        if r.into.len != 0 {
            if r.into.len != r.bytes {
                return Err(CuResult::INVALID_VALUE);
            }
            return Ok((stream, Some(self.regions.place(r.into)?)));
        }
        if r.bytes > self.max_answer.saturating_sub(64) as u64 {
            return Err(CuResult::INVALID_VALUE);
        }
        Ok((stream, None))
    }

    fn copy_out_async(&mut self, r: request::CopyOutAsync, context: u32) -> Answer<()> {
        let stream = Stream::find(&self.tables, r.stream)?;
        let place = self.regions.place(r.into)?;
        self.mark_busy(context, stream);
        let work = Work::CopyOut(place.len() as u64);
        self.meter.piece(context, stream, work);
        // SAFETY: the place is writable for its length. Where the driver has it registered it stays
        // mapped until it is unregistered; else the driver copies before the call returns.
        unsafe {
            self.driver.cuMemcpyDtoHAsync_v2(
                place.address(),
                r.address,
                place.len(),
                stream.handle(),
            )
        }
        .ok()
    }

    fn launch(&mut self, r: request::Launch, context: u32) -> Answer<()> {
        let stream = Stream::find(&self.tables, r.stream)?;
        let kernel = self.tables.functions.get(r.function.0)?;
        let mut params = r.params.0;
        let mut pointers = Vec::with_capacity(kernel.params.len());
        for (offset, size) in &kernel.params {
            let (start, len) = (*offset as usize, *size as usize);
            let end = start.checked_add(len).ok_or(CuResult::INVALID_VALUE)?;
            let param = params.get_mut(start..end).ok_or(CuResult::INVALID_VALUE)?;
            pointers.push(param.as_mut_ptr().cast::<c_void>());
        }
        let (function, [gx, gy, gz], [bx, by, bz]) = (kernel.native, r.grid, r.block);
        self.meter
            .piece(context, stream, Work::Kernel(&kernel.usual));
        self.mark_busy(context, stream);
        // SAFETY: the function and the stream are the driver's own handles; each pointer is to as many
        // bytes as the driver said its parameter has, and they outlive the call, which copies them.
        unsafe {
            if r.cooperative == 0 {
                self.driver.cuLaunchKernel(
                    function.handle(),
                    gx,
                    gy,
                    gz,
                    bx,
                    by,
                    bz,
                    r.shared,
                    stream.handle(),
                    pointers.as_mut_ptr(),
                    ptr::null_mut(),
                )
            } else {
                self.driver.cuLaunchCooperativeKernel(
                    function.handle(),
                    gx,
                    gy,
                    gz,
                    bx,
                    by,
                    bz,
                    r.shared,
                    stream.handle(),
                    pointers.as_mut_ptr(),
                )
            }
        }
        .ok()
    }
}

/// `CU_JIT_ERROR_LOG_BUFFER`.
const JIT_ERROR_LOG_BUFFER: i32 = cuda_abi::sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER as i32;
/// `CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES`.
const JIT_ERROR_LOG_BUFFER_SIZE: i32 =
    cuda_abi::sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES as i32;

/// `CU_LIMIT_STACK_SIZE`, of each thread.
const LIMIT_STACK: i32 = cuda_abi::sys::CUlimit::CU_LIMIT_STACK_SIZE as i32;
/// `CU_LIMIT_PRINTF_FIFO_SIZE`.
const LIMIT_PRINTF_FIFO: i32 = cuda_abi::sys::CUlimit::CU_LIMIT_PRINTF_FIFO_SIZE as i32;
/// `CU_LIMIT_MALLOC_HEAP_SIZE`.
const LIMIT_MALLOC_HEAP: i32 = cuda_abi::sys::CUlimit::CU_LIMIT_MALLOC_HEAP_SIZE as i32;
/// `CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT`.
const MULTIPROCESSOR_COUNT: i32 =
    cuda_abi::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as i32;
/// `CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR`.
const MAX_THREADS_PER_MULTIPROCESSOR: i32 =
    cuda_abi::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR as i32;

/// A device as the quota numbers it. One that does not exist has no quota; the driver refuses it.
fn ordinal(device: i32) -> usize {
    usize::try_from(device).unwrap_or(usize::MAX)
}

fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().take_while(|b| *b != 0).collect()
}
