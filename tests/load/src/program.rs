//! The load itself: launches kernels or copies as the options say and writes down when. One stream; waits block, so
//! the processor is left to others. Must end with an error rather than report a kernel whose times do not
//! make sense.

use std::any::Any;
use std::collections::VecDeque;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser as _;
use cudarc::driver::sys::{self, CUctx_flags, CUevent_flags};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaSlice, CudaStream, DevicePtr as _, LaunchConfig,
    PushKernelArg as _, result,
};
use cudarc::nvrtc::Ptx;
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};
use vgpu_sched::sim::{Distribution, Random};

use crate::options::{Direction, Options};
use crate::report::{Copy, Kernel, Report, align};

const PTX: &str = include_str!("load.ptx");
/// What every kernel is launched with.
const ONE_THREAD: LaunchConfig = LaunchConfig {
    grid_dim: (1, 1, 1),
    block_dim: (1, 1, 1),
    shared_mem_bytes: 0,
};
/// Kernels whose times one piece of device memory holds.
const TIMES: usize = 1 << 15;

/// The program's `main`.
pub fn main() -> ExitCode {
    let options = Options::parse();
    // cudarc panics where libcuda or one of its functions is missing. That is a message, not a backtrace.
    std::panic::set_hook(Box::new(|_| ()));
    let result = catch_unwind(AssertUnwindSafe(|| run(&options)))
        .unwrap_or_else(|panic| Err(panic_message(&*panic)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vgpu-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> anyhow::Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    anyhow!(
        "{}",
        text.unwrap_or("a function of the CUDA library panicked")
    )
}

fn run(options: &Options) -> Result<()> {
    options.check()?;
    let mut device = Device::open(options.device)?;
    let (start, end) = when(options)?;
    let mut load = Load {
        options,
        end,
        left: options.count.unwrap_or(u64::MAX),
        random: Random::new(options.seed),
    };
    sleep_until(start);
    let cpu = cpu_time();
    let mut report = Report {
        device: device.context.name().context("asking the device's name")?,
        started_ns: now(),
        ..Report::default()
    };
    let mut seen = Vec::new();
    match (options.copy, options.every_us) {
        (Some(bytes), _) => report.copies = load.copy(&device, bytes)?,
        (None, Some(every)) => load.every(&mut device, every, &mut seen)?,
        (None, None) => load.keep_busy(&mut device, &mut seen)?,
    }
    report.ended_ns = now();
    report.cpu_ns = cpu_time() - cpu;
    report.kernels = device.kernels(&seen)?;
    // Since 1970, as far as the host knows: right where the device's clock is the host's.
    let epoch = nanos(clock_gettime(ClockId::Monotonic))
        .wrapping_sub(nanos(clock_gettime(ClockId::Realtime)));
    (report.clock_offset_ns, report.clock_error_ns) =
        align(&mut report.kernels, epoch.cast_signed());
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        summarise(&report);
    }
    Ok(())
}

/// When the load starts and ends; waits to be told, if it is to be.
fn when(options: &Options) -> Result<(u64, u64)> {
    if options.hold {
        println!("ready");
        std::io::stdout().flush()?;
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        let times = line
            .trim()
            .split_once(' ')
            .and_then(|(start, end)| Some((start.parse::<u64>().ok()?, end.parse::<u64>().ok()?)));
        return times.with_context(|| format!("{line:?} is not a start and an end"));
    }
    let start = options.start_at.unwrap_or_else(now);
    Ok((start, start + (options.seconds * 1e9) as u64))
}

/// A device, ready to launch the kernel.
struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernel: CudaFunction,
    /// Where kernels write their times, two numbers each, and its address.
    times: Vec<(CudaSlice<u64>, u64)>,
    launched: usize,
    /// Events that nothing waits for.
    events: Vec<CudaEvent>,
}

/// A kernel in flight.
struct Launch {
    submitted: u64,
    duration: u64,
    event: CudaEvent,
}

/// What the host saw of a kernel.
struct Seen {
    submitted: u64,
    duration: u64,
    done: u64,
}

impl Device {
    fn open(ordinal: u16) -> Result<Device> {
        result::init().context("there is no CUDA driver that starts")?;
        let number = result::device::get(ordinal.into())
            .with_context(|| format!("there is no device {ordinal}"))?;
        let flags = CUctx_flags::CU_CTX_SCHED_BLOCKING_SYNC as u32;
        // Before the context is made: not every driver lets the flags of one be changed.
        // SAFETY: the driver is initialised, and the device is one of its own.
        unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(number, flags) }
            .result()
            .context("asking for waits that block")?;
        let context = CudaContext::new(ordinal.into())
            .with_context(|| format!("device {ordinal} cannot be used"))?;
        // SAFETY: there is one stream, so no slice is used in two of them.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().context("making a stream")?;
        let module = context
            .load_module(Ptx::from_src(PTX))
            .context("loading the kernel")?;
        let kernel = module.load_function("load")?;
        let warm_up = module.load_function("warm_up")?;
        let mut device = Device {
            context,
            stream,
            kernel,
            times: Vec::new(),
            launched: 0,
            events: Vec::new(),
        };
        // The first of each is slower: it is not part of the load. A kernel of its own, as schedulers learn from
        // each how long it takes.
        device.grow()?;
        let event = device
            .context
            .new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC))?;
        // SAFETY: warm_up() in load.ptx has no arguments and does nothing.
        unsafe { device.stream.launch_builder(&warm_up).launch(ONE_THREAD) }
            .context("launching the first kernel")?;
        event.record(&device.stream)?;
        event.synchronize().context("the first kernel")?;
        device.events.push(event);
        Ok(device)
    }

    /// Makes room for the times of more kernels.
    fn grow(&mut self) -> Result<()> {
        let slice = self
            .stream
            .alloc_zeros::<u64>(2 * TIMES)
            .context("allocating memory for the kernels' times")?;
        let address = slice.device_ptr(&self.stream).0;
        self.times.push((slice, address));
        Ok(())
    }

    /// Launches a kernel that takes so long.
    fn launch(&mut self, duration: u64) -> Result<Launch> {
        let (block, place) = (self.launched / TIMES, self.launched % TIMES);
        if block == self.times.len() {
            self.grow()?;
        }
        let event = match self.events.pop() {
            Some(event) => event,
            None => self
                .context
                .new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC))?,
        };
        let at = self.times[block].1 + (place * 16) as u64;
        let submitted = now();
        let mut launch = self.stream.launch_builder(&self.kernel);
        launch.arg(&at).arg(&duration);
        // SAFETY: the arguments are those of load(times, duration) in load.ptx, and the two numbers at `at`
        // are within a slice that lives as long as `self`.
        unsafe { launch.launch(ONE_THREAD) }.context("launching a kernel")?;
        event.record(&self.stream)?;
        self.launched += 1;
        Ok(Launch {
            submitted,
            duration,
            event,
        })
    }

    /// What the kernels wrote, beside what the host saw of them.
    fn kernels(&self, seen: &[Seen]) -> Result<Vec<Kernel>> {
        let mut times = Vec::with_capacity(seen.len() * 2);
        for (slice, _) in &self.times {
            times.extend(self.stream.clone_dtoh(slice)?);
        }
        self.stream.synchronize()?;
        let mut before = 0;
        let kernels = seen.iter().zip(times.as_chunks::<2>().0).enumerate();
        let kernels = kernels.map(|(number, (seen, &[start, end]))| {
            ensure!(
                start >= before && end.checked_sub(start) >= Some(seen.duration),
                "kernel {number} of {} ns says that it ran from {start} to {end}, after one until {before}",
                seen.duration
            );
            before = end;
            Ok(Kernel {
                submitted: seen.submitted,
                done: seen.done,
                start,
                end,
            })
        });
        let kernels: Vec<Kernel> = kernels.collect::<Result<_>>()?;
        ensure!(
            kernels.len() == self.launched,
            "{} kernels were launched and {} ended",
            self.launched,
            kernels.len()
        );
        Ok(kernels)
    }
}

impl Launch {
    fn wait(self, seen: &mut Vec<Seen>) -> Result<CudaEvent> {
        self.event.synchronize().context("a kernel failed")?;
        seen.push(Seen {
            submitted: self.submitted,
            duration: self.duration,
            done: now(),
        });
        Ok(self.event)
    }
}

struct Load<'o> {
    options: &'o Options,
    end: u64,
    left: u64,
    random: Random,
}

impl Load<'_> {
    /// Whether there is to be one more.
    fn more(&mut self) -> bool {
        let more = self.left > 0 && now() < self.end;
        self.left -= u64::from(more);
        more
    }

    /// The pause after a kernel or a copy.
    fn pause(&mut self) {
        let think = self.options.think_us.draw(&mut self.random);
        if think > 0 {
            sleep_until((now() + think).min(self.end));
        }
        let compute = self.options.compute_us.draw(&mut self.random);
        if compute > 0 {
            let end = cpu_time() + compute;
            while cpu_time() < end {
                std::hint::spin_loop();
            }
        }
    }

    /// Always so many kernels in flight.
    fn keep_busy(&mut self, device: &mut Device, seen: &mut Vec<Seen>) -> Result<()> {
        let mut flying = VecDeque::new();
        loop {
            while flying.len() < self.options.depth as usize && self.more() {
                let duration = self.options.kernel_us.draw(&mut self.random);
                flying.push_back(device.launch(duration)?);
            }
            let Some(oldest) = flying.pop_front() else {
                return Ok(());
            };
            let event = oldest.wait(seen)?;
            device.events.push(event);
            self.pause();
        }
    }

    /// A kernel each so often.
    fn every(
        &mut self,
        device: &mut Device,
        every: Distribution,
        seen: &mut Vec<Seen>,
    ) -> Result<()> {
        thread::scope(|scope| {
            let (launched, waits) = mpsc::channel::<Launch>();
            let (free, freed) = mpsc::channel();
            let waiter = scope.spawn(move || {
                for launch in waits {
                    // Nobody takes it any more when the last ones end.
                    let _ = free.send(launch.wait(seen)?);
                }
                anyhow::Ok(())
            });
            let mut next = now();
            loop {
                next += every.draw(&mut self.random);
                sleep_until(next.min(self.end));
                if !self.more() {
                    break;
                }
                device.events.extend(freed.try_iter());
                let duration = self.options.kernel_us.draw(&mut self.random);
                if launched.send(device.launch(duration)?).is_err() {
                    // The waiter has failed, and says why.
                    break;
                }
            }
            drop(launched);
            waiter
                .join()
                .unwrap_or_else(|panic| Err(panic_message(&*panic)))
        })
    }

    /// One copy after the other.
    fn copy(&mut self, device: &Device, bytes: u64) -> Result<Vec<Copy>> {
        let stream = &device.stream;
        let length = usize::try_from(bytes)?;
        let mut memory = stream.alloc_zeros::<u8>(length)?;
        let mut pinned = if self.options.pinned {
            // SAFETY: all of it is written at once.
            let mut pinned = unsafe { device.context.alloc_pinned::<u8>(length) }
                .context("allocating page-locked memory")?;
            pinned.as_mut_slice()?.fill(1);
            Some(pinned)
        } else {
            None
        };
        let mut plain = vec![1_u8; if pinned.is_some() { 0 } else { length }];
        let mut copies = Vec::new();
        while self.more() {
            let submitted = now();
            let inward = match self.options.direction {
                Direction::In => true,
                Direction::Out => false,
                Direction::Both => copies.len() % 2 == 0,
            };
            match (&mut pinned, inward) {
                (Some(host), true) => stream.memcpy_htod(host, &mut memory)?,
                (Some(host), false) => stream.memcpy_dtoh(&memory, host)?,
                (None, true) => stream.memcpy_htod(&plain, &mut memory)?,
                (None, false) => stream.memcpy_dtoh(&memory, &mut plain)?,
            }
            stream.synchronize().context("a copy failed")?;
            copies.push(Copy {
                submitted,
                done: now(),
                bytes,
            });
            self.pause();
        }
        Ok(copies)
    }
}

fn summarise(report: &Report) {
    let seconds = (report.ended_ns - report.started_ns) as f64 / 1e9;
    let busy: u64 = report.kernels.iter().map(|k| k.end - k.start).sum();
    let bytes: u64 = report.copies.iter().map(|copy| copy.bytes).sum();
    println!("{}: {seconds:.3} s", report.device);
    if !report.kernels.is_empty() {
        let mut waits: Vec<f64> = report
            .kernels
            .iter()
            .map(|k| k.start.saturating_sub(k.submitted) as f64 / 1e3)
            .collect();
        let mut wait = |part| vgpu_sched::metrics::percentile(&mut waits, part);
        println!(
            "{} kernels, {:.1} % of the time on the device; launch latency p50 {:.0} µs, p99 {:.0} µs",
            report.kernels.len(),
            busy as f64 / seconds / 1e7,
            wait(0.5),
            wait(0.99)
        );
    }
    if !report.copies.is_empty() {
        println!(
            "{} copies, {:.3} GB/s",
            report.copies.len(),
            bytes as f64 / seconds / 1e9
        );
    }
}

fn nanos(time: Timespec) -> u64 {
    (time.tv_sec.cast_unsigned())
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec.cast_unsigned())
}

fn now() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

fn cpu_time() -> u64 {
    nanos(clock_gettime(ClockId::ProcessCPUTime))
}

fn sleep_until(time: u64) {
    let time = Timespec {
        tv_sec: (time / 1_000_000_000).cast_signed(),
        tv_nsec: (time % 1_000_000_000).cast_signed(),
    };
    // A signal wakes it early: then it goes on sleeping.
    while clock_nanosleep_absolute(ClockId::Monotonic, &time) == Err(rustix::io::Errno::INTR) {}
}
