//! Runs a sample: context, module, one thread per problem with its own stream, timing, verification and
//! the exit status. It must never end a program in a panic's backtrace, whatever libcuda does.

use std::any::Any;
use std::collections::HashMap;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, Parser};
use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DeviceRepr, LaunchConfig,
    ValidAsZeroBits,
};
use cudarc::nvrtc::Ptx;

use crate::compare::{Comparison, Expected};
use crate::report::{Checksum, Figure, Report, TimesMs};

/// The options that all programs have.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Print the report as one JSON object
    #[arg(long)]
    pub json: bool,

    /// Run the kernels this often over the same data
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: u32,

    /// Solve this many problems at once, each in a thread of its own with its own stream
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,

    /// Run on the device of this number
    #[arg(long, value_name = "ORDINAL", default_value_t = 0)]
    pub device: u16,
}

/// A program: its options, its kernels and its reference.
pub trait Sample: Parser + Sync {
    /// The program's name.
    const NAME: &'static str;
    /// The PTX of its kernels.
    const PTX: &'static str;
    /// The kernels in it that the program launches.
    const KERNELS: &'static [&'static str];
    /// What a problem is made of.
    type Input: Send + Sync;
    /// What a result is an array of.
    type Output: Element;

    /// The options that all programs have.
    fn common(&self) -> &Common;

    /// The problem's size in words.
    fn problem(&self) -> String;

    /// Makes a problem; equal seeds make equal problems.
    fn input(&self, seed: u64) -> Self::Input;

    /// Solves a problem on the device.
    ///
    /// # Errors
    ///
    /// Those of CUDA.
    fn solve(&self, lane: &mut Lane, input: &Self::Input) -> Result<Vec<Self::Output>>;

    /// The largest error of an element that still counts as right.
    fn tolerance(&self) -> f64;

    /// What every element of the result should be, computed here, on the CPU.
    fn reference(&self, input: &Self::Input) -> Vec<Expected>;

    /// Compares every element of a result with the reference.
    ///
    /// # Errors
    ///
    /// If the result has the wrong number of elements.
    fn verify(
        &self,
        input: &Self::Input,
        output: &[Self::Output],
        comparison: &mut Comparison,
    ) -> Result<()> {
        let reference = self.reference(input);
        ensure!(
            output.len() == reference.len(),
            "the result has {} elements instead of {}",
            output.len(),
            reference.len()
        );
        for (&got, want) in output.iter().zip(reference) {
            comparison.see(got.into(), want);
        }
        Ok(())
    }
}

/// An element of a result.
pub trait Element: Copy + Send + DeviceRepr + ValidAsZeroBits + Into<f64> {
    /// Its bytes, for the checksum.
    fn bytes(self) -> impl AsRef<[u8]>;
    /// The element next to a number.
    #[cfg(test)]
    fn nearest(number: f64) -> Self;
}

impl Element for f32 {
    fn bytes(self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
    #[cfg(test)]
    fn nearest(number: f64) -> Self {
        number as Self
    }
}

impl Element for f64 {
    fn bytes(self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
    #[cfg(test)]
    fn nearest(number: f64) -> Self {
        number
    }
}

impl Element for u8 {
    fn bytes(self) -> impl AsRef<[u8]> {
        [self]
    }
    #[cfg(test)]
    fn nearest(number: f64) -> Self {
        number.round() as Self
    }
}

impl Element for u32 {
    fn bytes(self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
    #[cfg(test)]
    fn nearest(number: f64) -> Self {
        number.round() as Self
    }
}

/// What a thread works with: a stream, the kernels, and the clock of its phases.
pub struct Lane {
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    kernels: HashMap<&'static str, CudaFunction>,
    iterations: u32,
    multiprocessors: u32,
    times: TimesMs,
    figures: Vec<Figure>,
}

impl Lane {
    /// Copies an array to the device.
    ///
    /// # Errors
    ///
    /// Those of CUDA.
    pub fn upload<T: DeviceRepr>(&mut self, data: &[T]) -> Result<CudaSlice<T>> {
        // SAFETY: nothing reads the slice before the copy below has filled all of it, or failed.
        let mut slice = unsafe { self.stream.alloc(data.len()) }
            .with_context(|| format!("allocating {} elements on the device failed", data.len()))?;
        self.stream
            .synchronize()
            .context("earlier work on the device failed")?;
        let start = Instant::now();
        self.stream
            .memcpy_htod(data, &mut slice)
            .context("copying to the device failed")?;
        self.stream
            .synchronize()
            .context("copying to the device failed")?;
        self.times.h2d += milliseconds(start.elapsed());
        Ok(slice)
    }

    /// Makes an array of zeros on the device.
    ///
    /// # Errors
    ///
    /// Those of CUDA.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, count: usize) -> Result<CudaSlice<T>> {
        self.stream
            .alloc_zeros(count)
            .with_context(|| format!("allocating {count} elements on the device failed"))
    }

    /// Copies an array back from the device, once all earlier work of this lane is done.
    ///
    /// # Errors
    ///
    /// Those of CUDA, also of the earlier work.
    pub fn download<T: Element>(&mut self, slice: &CudaSlice<T>) -> Result<Vec<T>> {
        self.stream
            .synchronize()
            .context("earlier work on the device failed")?;
        let start = Instant::now();
        let data = self
            .stream
            .clone_dtoh(slice)
            .context("copying from the device failed")?;
        self.stream
            .synchronize()
            .context("copying from the device failed")?;
        self.times.d2h += milliseconds(start.elapsed());
        Ok(data)
    }

    /// Calls `launch`, which queues the kernels of one iteration, as often as the options ask, and waits
    /// until they are done.
    ///
    /// # Errors
    ///
    /// Those of `launch` and those of the kernels.
    pub fn iterate(&mut self, mut launch: impl FnMut(&Self) -> Result<()>) -> Result<()> {
        let timing = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let start = self.stream.record_event(timing)?;
        for _ in 0..self.iterations {
            launch(self).context("launching a kernel failed")?;
        }
        let end = self.stream.record_event(timing)?;
        end.synchronize().context("a kernel failed")?;
        self.times.kernel += f64::from(start.elapsed_ms(&end)?);
        Ok(())
    }

    /// Copies within the device, queued as a kernel is.
    ///
    /// # Errors
    ///
    /// Those of CUDA.
    pub fn copy<T>(&self, from: &CudaSlice<T>, to: &mut CudaSlice<T>) -> Result<()> {
        self.stream
            .memcpy_dtod(from, to)
            .context("copying within the device failed")
    }

    /// Writes a variable of the module.
    ///
    /// # Errors
    ///
    /// Those of CUDA, and if the variable has another size.
    pub fn set<T: DeviceRepr>(&self, variable: &str, data: &[T]) -> Result<()> {
        let mut place = self
            .module
            .get_global(variable, &self.stream)
            .with_context(|| format!("the module has no variable {variable}"))?;
        ensure!(
            place.len() == size_of_val(data),
            "the module's variable {variable} has {} bytes instead of {}",
            place.len(),
            size_of_val(data)
        );
        // SAFETY: the elements have no invalid values for the device to find, and the bytes are as many.
        let view = unsafe { place.transmute_mut::<T>(data.len()) };
        let mut view = view.with_context(|| format!("{variable} is not of that size"))?;
        self.stream
            .memcpy_htod(data, &mut view)
            .with_context(|| format!("writing the module's variable {variable} failed"))
    }

    /// Reads a variable of the module, once all earlier work of this lane is done.
    ///
    /// # Errors
    ///
    /// Those of CUDA, and if the variable has another size.
    pub fn get<T: Element>(&self, variable: &str, count: usize) -> Result<Vec<T>> {
        let mut place = self
            .module
            .get_global(variable, &self.stream)
            .with_context(|| format!("the module has no variable {variable}"))?;
        // SAFETY: any bits are a valid element; cudarc checks the size.
        let view = unsafe { place.transmute_mut::<T>(count) };
        let view = view.with_context(|| format!("{variable} is not of {count} elements"))?;
        let data = self.stream.clone_dtoh(&view)?;
        self.stream
            .synchronize()
            .with_context(|| format!("reading the module's variable {variable} failed"))?;
        Ok(data)
    }

    /// Adds what the program measured to its report.
    pub fn figure(&mut self, what: &str, unit: &str, value: f64) {
        self.figures.push(Figure {
            what: what.to_owned(),
            unit: unit.to_owned(),
            value,
        });
    }

    /// The device's multiprocessors, at least one.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors.max(1)
    }

    /// The lane's stream.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// One of the sample's kernels.
    ///
    /// # Errors
    ///
    /// If it is not in the sample's list.
    pub fn kernel(&self, name: &str) -> Result<&CudaFunction> {
        self.kernels
            .get(name)
            .ok_or_else(|| anyhow!("the kernel {name} is not in the sample's list"))
    }

    /// How many blocks a grid-stride kernel should have for `items` pieces of work, a thread each: enough
    /// to fill the device, and at least one.
    pub fn blocks(&self, items: usize, threads_per_block: u32) -> u32 {
        const BLOCKS_PER_MULTIPROCESSOR: u32 = 8;
        let full = self
            .multiprocessors
            .saturating_mul(BLOCKS_PER_MULTIPROCESSOR)
            .clamp(1, 65_535);
        let needed = items.div_ceil(threads_per_block as usize);
        u32::try_from(needed).unwrap_or(full).clamp(1, full)
    }
}

/// How many blocks or threads there are along each axis; an axis that is left out has one.
pub trait Extent {
    /// Along x, y and z.
    fn axes(self) -> (u32, u32, u32);
}

impl Extent for u32 {
    fn axes(self) -> (u32, u32, u32) {
        (self, 1, 1)
    }
}

impl Extent for (u32, u32) {
    fn axes(self) -> (u32, u32, u32) {
        (self.0, self.1, 1)
    }
}

impl Extent for (u32, u32, u32) {
    fn axes(self) -> (u32, u32, u32) {
        self
    }
}

/// A launch of a grid of blocks of threads, with bytes of dynamic shared memory.
pub fn config(grid: impl Extent, block: impl Extent, shared_bytes: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: grid.axes(),
        block_dim: block.axes(),
        shared_mem_bytes: shared_bytes,
    }
}

/// Queues a kernel: `launch!(lane, "name", grid, block; &a, &mut b, &n)`, and with dynamic shared memory
/// `launch!(lane, "name", grid, block, bytes; …)`. It is as unsafe as cudarc's `launch`: the arguments must
/// be those of the kernel, and what the kernel does with them must be right.
macro_rules! launch {
    ($lane:expr, $kernel:expr, $grid:expr, $block:expr; $($argument:expr),*) => {
        launch!($lane, $kernel, $grid, $block, 0; $($argument),*)
    };
    ($lane:expr, $kernel:expr, $grid:expr, $block:expr, $shared:expr; $($argument:expr),*) => {{
        let mut launch = $lane.stream().launch_builder($lane.kernel($kernel)?);
        $(cudarc::driver::PushKernelArg::arg(&mut launch, $argument);)*
        launch.launch($crate::harness::config($grid, $block, $shared))
    }};
}
pub(crate) use launch;

/// A program's `main`: parses the options, the first of which is the program's name, runs the sample and
/// prints the report.
pub fn main<S: Sample>(arguments: Vec<OsString>) -> ExitCode {
    let sample = S::parse_from(arguments);
    // cudarc panics where libcuda or one of its functions is missing. That is a message, not a backtrace.
    std::panic::set_hook(Box::new(|_| ()));
    let result = catch_unwind(AssertUnwindSafe(|| run_and_print(&sample)))
        .unwrap_or_else(|panic| Err(panic_message(&*panic)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error:#}", S::NAME);
            ExitCode::FAILURE
        }
    }
}

fn run_and_print<S: Sample>(sample: &S) -> Result<()> {
    let (report, comparison) = run(sample)?;
    if sample.common().json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    ensure!(report.ok, "the result is wrong: {comparison}");
    Ok(())
}

fn run<S: Sample>(sample: &S) -> Result<(Report, Comparison)> {
    let common = sample.common();
    let inputs: Vec<S::Input> = (0..common.threads)
        .map(|thread| sample.input(u64::from(thread)))
        .collect();

    let start = Instant::now();
    let ordinal = common.device;
    let context = CudaContext::new(usize::from(ordinal))
        .with_context(|| format!("no context can be made on CUDA device {ordinal}"))?;
    let module = context
        .load_module(Ptx::from_src(S::PTX))
        .context("the kernels' module cannot be loaded")?;
    let kernels = S::KERNELS
        .iter()
        .map(|&name| {
            let function = module
                .load_function(name)
                .with_context(|| format!("the module has no usable kernel {name}"))?;
            Ok((name, function))
        })
        .collect::<Result<HashMap<_, _>>>()?;
    let setup = milliseconds(start.elapsed());

    let device = context
        .name()
        .context("the device does not tell its name")?;
    let multiprocessors = context
        .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        .context("the device does not tell its number of multiprocessors")?;
    let lane = || -> Result<Lane> {
        Ok(Lane {
            stream: context.new_stream().context("no stream can be made")?,
            module: module.clone(),
            kernels: kernels.clone(),
            iterations: common.iterations,
            multiprocessors: u32::try_from(multiprocessors).unwrap_or(1),
            times: TimesMs::default(),
            figures: Vec::new(),
        })
    };
    let solve = |input: &S::Input| -> Result<(Vec<S::Output>, TimesMs, Vec<Figure>)> {
        let mut lane = lane()?;
        let output = sample.solve(&mut lane, input)?;
        Ok((output, lane.times, lane.figures))
    };
    let mut results = solve_all(&inputs, solve)?;
    // What cudarc could not report when it happened, such as an error while memory was freed.
    context
        .check_err()
        .context("CUDA failed while cleaning up")?;
    let total = milliseconds(start.elapsed());

    let mut comparison = Comparison::new(sample.tolerance());
    let mut checksum = Checksum::new();
    let mut times_ms = TimesMs {
        setup,
        total,
        ..TimesMs::default()
    };
    for (input, (output, times, _)) in inputs.iter().zip(&results) {
        sample.verify(input, output, &mut comparison)?;
        output
            .iter()
            .for_each(|element| checksum.add(element.bytes().as_ref()));
        times_ms = times_ms.longest(*times);
    }
    let report = Report {
        program: S::NAME.to_owned(),
        device,
        problem: sample.problem(),
        threads: common.threads,
        iterations: common.iterations,
        ok: comparison.ok(),
        max_error: comparison.max_error(),
        tolerance: comparison.tolerance(),
        checksum: checksum.hex(),
        times_ms,
        figures: std::mem::take(&mut results[0].2),
    };
    Ok((report, comparison))
}

/// Solves every problem in a thread of its own, all at once; a single one in this thread.
fn solve_all<I: Sync, R: Send>(
    inputs: &[I],
    solve: impl Fn(&I) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    if let [input] = inputs {
        return Ok(vec![solve(input)?]);
    }
    thread::scope(|scope| {
        let threads = inputs
            .iter()
            .map(|input| {
                thread::Builder::new()
                    .spawn_scoped(scope, || solve(input))
                    .context("a thread cannot be started")
            })
            .collect::<Result<Vec<_>>>()?;
        // All are joined before the first failure is looked at: a panic that nobody joins is the scope's own.
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        results
            .into_iter()
            .enumerate()
            .map(|(number, result)| match result {
                Ok(result) => result.with_context(|| format!("thread {number} failed")),
                Err(panic) => Err(panic_message(&*panic)),
            })
            .collect()
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> anyhow::Error {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    anyhow!("{}", text.unwrap_or("it panicked and did not say why"))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// For every program's tests: what the reference gives is right, and an element beside it, or one too few, is not.
#[cfg(test)]
pub(crate) fn check<S: Sample>() {
    let sample = S::parse_from([S::NAME]);
    assert_eq!(S::command().get_name(), S::NAME);
    let input = sample.input(1);
    let reference = sample.reference(&input);
    let mut output: Vec<_> = reference
        .iter()
        .map(|want| S::Output::nearest(want.value))
        .collect();
    let judge = |output: &[S::Output]| {
        let mut comparison = Comparison::new(sample.tolerance());
        sample
            .verify(&input, output, &mut comparison)
            .map(|()| comparison)
    };
    let right = judge(&output).unwrap();
    assert!(right.ok(), "{}: {right}", S::NAME);
    assert!(judge(&output[1..]).is_err(), "{}", S::NAME);
    let place = reference.len() / 2;
    let Expected { value, scale } = reference[place];
    let near = S::Output::nearest(value + 4.0 * sample.tolerance() * scale + 1e-6 * value.abs());
    output[place] = if near.into() == output[place].into() {
        S::Output::nearest(value + 1.0)
    } else {
        near
    };
    assert!(!judge(&output).unwrap().ok(), "{}", S::NAME);
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn every_problem_is_solved_and_keeps_its_place() {
        for count in [1, 2, 5] {
            let inputs: Vec<u32> = (0..count).collect();
            let results = solve_all(&inputs, |input| Ok(input * 10)).unwrap();
            assert_eq!(
                results,
                inputs.iter().map(|input| input * 10).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn a_failing_or_panicking_thread_is_an_error() {
        let error = solve_all(&[1, 2], |input| {
            if *input == 2 {
                bail!("no device")
            } else {
                Ok(())
            }
        })
        .unwrap_err();
        assert_eq!(format!("{error:#}"), "thread 1 failed: no device");
        let error = solve_all(&[1, 2], |input| {
            if *input == 2 {
                panic!("no symbol")
            } else {
                Ok(())
            }
        })
        .unwrap_err();
        assert_eq!(format!("{error:#}"), "no symbol");
    }
}
