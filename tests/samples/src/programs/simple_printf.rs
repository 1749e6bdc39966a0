//! simplePrintf: lines that kernels print.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};

const THREADS_PER_BLOCK: u32 = 8;

/// Prints a line a thread on a CUDA device and checks every line
///
/// Standard output goes to a file while the kernel runs: the lines must be what C's printf makes of the same arguments,
/// in any order. What the calls return, the number of arguments, is the result; none may be wrong.
#[derive(Parser)]
#[command(name = "simplePrintf", version)]
pub(super) struct SimplePrintf {
    /// Blocks of 8 threads
    #[arg(long, value_name = "BLOCKS", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    blocks: u32,

    #[command(flatten)]
    common: Common,
}

/// Standard output belongs to the process.
static STDOUT: Mutex<()> = Mutex::new(());

/// Standard output, led into a file until this is dropped.
struct Captured {
    file: File,
    before: OwnedFd,
}

impl Captured {
    fn start() -> Result<Self> {
        std::io::stdout().flush()?;
        // SAFETY: a name that ends with a zero.
        let file = unsafe { libc::memfd_create(c"printed".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: standard output is a number, open or not.
        let before = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_DUPFD_CLOEXEC, 3) };
        ensure!(
            file >= 0 && before >= 0,
            "standard output cannot be led into a file"
        );
        // SAFETY: both have just been opened, by nobody else.
        let (file, before) = unsafe { (File::from_raw_fd(file), OwnedFd::from_raw_fd(before)) };
        // SAFETY: two open descriptors.
        unsafe { libc::dup2(file.as_raw_fd(), libc::STDOUT_FILENO) };
        Ok(Self { file, before })
    }

    /// What has been printed.
    fn text(mut self) -> Result<String> {
        // SAFETY: flushes every stream of C's, in whose buffers a driver may have left what it printed.
        unsafe { libc::fflush(std::ptr::null_mut()) };
        let mut text = String::new();
        self.file.rewind()?;
        self.file.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: two open descriptors.
        unsafe { libc::dup2(self.before.as_raw_fd(), libc::STDOUT_FILENO) };
    }
}

impl Sample for SimplePrintf {
    const NAME: &'static str = "simplePrintf";
    const PTX: &'static str = include_str!("../../kernels/simplePrintf.ptx");
    const KERNELS: &'static [&'static str] = &["print"];
    /// A number that each line has.
    type Input = u32;
    type Output = u32;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} lines", self.blocks * THREADS_PER_BLOCK)
    }

    fn input(&self, seed: u64) -> u32 {
        1000 + seed as u32
    }

    fn solve(&self, lane: &mut Lane, input: &u32) -> Result<Vec<u32>> {
        let threads = self.blocks * THREADS_PER_BLOCK;
        let mut returned = lane.zeros(threads as usize)?;
        let alone = STDOUT.lock();
        let captured = Captured::start()?;
        lane.iterate(|lane| {
            // SAFETY: the arguments are those of the kernel's source, print(value, printed), in type and order; `printed`
            // has an element a thread.
            unsafe {
                launch!(lane, "print", self.blocks, THREADS_PER_BLOCK; input, &mut returned)
            }?;
            Ok(())
        })?;
        lane.stream().synchronize()?;
        let text = captured.text()?;
        drop(alone);
        let mut printed: Vec<&str> = text.lines().collect();
        let mut wanted: Vec<String> = (0..self.common.iterations)
            .flat_map(|_| (0..threads).map(|i| line(i, *input)))
            .collect();
        printed.sort_unstable();
        wanted.sort_unstable();
        let wrong = || {
            let printed: Vec<_> = printed
                .iter()
                .filter(|line| !wanted.contains(&(**line).to_owned()))
                .collect();
            format!(
                "{} lines were printed instead of {}, some of which are wrong: {printed:.5?}",
                text.lines().count(),
                wanted.len()
            )
        };
        ensure!(printed == wanted, wrong());
        lane.download(&returned).context("after printing")
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    /// The number of arguments.
    fn reference(&self, _: &u32) -> Vec<Expected> {
        vec![7_u32.into(); (self.blocks * THREADS_PER_BLOCK) as usize]
    }
}

/// What thread `i` prints.
fn line(i: u32, value: u32) -> String {
    let (block, thread) = (i / THREADS_PER_BLOCK, i % THREADS_PER_BLOCK);
    let negative = -i64::from(i * value);
    let long = (u64::from(i) << 32) + u64::from(value);
    let parity = if i % 2 == 1 { "odd" } else { "even" };
    let letter = char::from(b'a' + (i % 26) as u8);
    let half = 0.125 * f64::from(i);
    format!("[{block}, {thread}]: {negative} {half:5.3} {long:x} {parity} {letter}%")
}
