//! `softcuda-run FILE.ptx`: lists a module's kernels and what softcuda lacks of it, or runs one kernel with
//! arguments from the command line. It must never run what it could not check: every mistake is named
//! with the line or the argument it is in.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use softcuda::exec::{Arena, KernelInfo, Options, Program, PtxErrorKind, Runtime, Shape};

/// Lists the kernels of a PTX file and what softcuda lacks of it, or runs one of them on the CPU.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The PTX file.
    file: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// The kernel to run; without it the kernels are listed.
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Blocks per dimension.
    #[arg(long, value_name = "X[,Y[,Z]]", default_value = "1", value_parser = sizes)]
    grid: [u32; 3],
    /// Threads of a block per dimension.
    #[arg(long, value_name = "X[,Y[,Z]]", default_value = "1", value_parser = sizes)]
    block: [u32; 3],
    /// Bytes of dynamic shared memory.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    shared: u32,
    /// An argument, in the order of the kernel's parameters: a number (i32:5, f32:1.5), a buffer in device
    /// memory (buf:TYPE:COUNT, optionally =zero, =iota, =random:SEED or =file:PATH), or a buffer that is
    /// printed afterwards (out:TYPE:COUNT…). Types: i8 u8 i16 u16 i32 u32 i64 u64 f32 f64.
    #[arg(long = "arg", value_name = "ARG")]
    args: Vec<String>,
    /// Elements that are printed of each out buffer.
    #[arg(long, value_name = "N", default_value_t = 16)]
    print: usize,
    /// Writes the bytes of all out buffers to a file, one after the other.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// Makes it a cooperative launch, whose blocks may wait for each other.
    #[arg(long)]
    cooperative: bool,
    /// Seconds after which the launch is ended.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Bytes of the heap that kernels allocate from.
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20)]
    heap: u64,
}

/// `X`, `X,Y` or `X,Y,Z`.
fn sizes(text: &str) -> Result<[u32; 3], String> {
    let mut sizes = [1; 3];
    for (index, part) in text.split(',').enumerate() {
        let size = sizes.get_mut(index).ok_or("at most three numbers")?;
        *size = part
            .trim()
            .parse()
            .map_err(|error| format!("{part:?}: {error}"))?;
    }
    Ok(sizes)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("softcuda-run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let file = &arguments.file;
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = std::str::from_utf8(&bytes)
        .with_context(|| format!("{} is no text; PTX is", file.display()))?;
    let problems = Program::problems(text);
    if !problems.is_empty() {
        if arguments.json {
            let list: Vec<Value> = problems
                .iter()
                .map(|problem| {
                    json!({ "line": problem.line, "kind": kind(problem.kind), "message": problem.message })
                })
                .collect();
            println!("{}", json!({ "problems": list }));
        } else {
            for problem in &problems {
                let file = file.display();
                println!(
                    "{file}:{}: {}: {}",
                    problem.line,
                    kind(problem.kind),
                    problem.message
                );
                if let Some(line) = text.lines().nth(problem.line.saturating_sub(1) as usize) {
                    println!("    {}", line.trim());
                }
            }
            eprintln!(
                "softcuda-run: {} problem{}: such a module is not loaded; compile it for an older target (sm_70 to sm_90) or change these lines",
                problems.len(),
                if problems.len() == 1 { "" } else { "s" }
            );
        }
        return Ok(ExitCode::FAILURE);
    }
    let options = Options {
        timed: arguments.timeout.is_some(),
        ..Options::default()
    };
    let started = Instant::now();
    let program = Program::compile_with(&[text], options)?;
    let compiled = started.elapsed();
    match &arguments.kernel {
        None => list(arguments, &program, compiled),
        Some(name) => launch(arguments, &program, name, compiled),
    }
}

fn kind(kind: PtxErrorKind) -> &'static str {
    match kind {
        PtxErrorKind::Invalid => "invalid",
        PtxErrorKind::Unsupported => "unsupported",
        PtxErrorKind::Limit => "too large",
    }
}

/// Threads that a block may or must have.
fn threads(info: &KernelInfo) -> String {
    let shown = |[x, y, z]: [u32; 3]| format!("{x}x{y}x{z}");
    match (info.required_threads, info.max_threads) {
        (Some(required), _) => format!("exactly {}", shown(required)),
        (None, Some(most)) => shown(most),
        (None, None) => softcuda::exec::MAX_BLOCK_THREADS.to_string(),
    }
}

fn constants(program: &Program) -> u64 {
    let variables = program.variables().iter();
    variables
        .filter(|variable| variable.space == softcuda::exec::VariableSpace::Const)
        .map(|variable| variable.bytes)
        .sum()
}

fn list(arguments: &Arguments, program: &Program, compiled: Duration) -> Result<ExitCode> {
    let constants = constants(program);
    if arguments.json {
        let kernels: Vec<Value> = program
            .kernels()
            .iter()
            .map(|info| {
                let params: Vec<Value> = info
                    .params
                    .iter()
                    .map(|param| {
                        json!({ "offset": param.offset, "size": param.size, "align": param.align })
                    })
                    .collect();
                json!({
                    "name": info.name,
                    "params": params,
                    "param_bytes": info.param_bytes,
                    "registers": info.registers,
                    "shared_bytes": info.shared_bytes,
                    "local_bytes": info.local_bytes,
                    "const_bytes": constants,
                    "max_threads": info.max_threads,
                    "required_threads": info.required_threads,
                    "ptx_version": info.ptx_version,
                    "target": info.target,
                })
            })
            .collect();
        let compile = compiled.as_secs_f64();
        println!(
            "{}",
            json!({ "kernels": kernels, "compile_seconds": compile, "problems": [] })
        );
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(vec![
        "kernel",
        "parameters (bytes)",
        "registers",
        "shared",
        "local",
        "const",
        "threads",
    ]);
    for info in program.kernels() {
        let mut params = String::new();
        for param in &info.params {
            let space = if params.is_empty() { "" } else { " " };
            // Writing to a String cannot fail.
            let _ = write!(params, "{space}{}", param.size);
        }
        table.add_row(vec![
            info.name.clone(),
            params,
            info.registers.to_string(),
            info.shared_bytes.to_string(),
            info.local_bytes.to_string(),
            constants.to_string(),
            threads(info),
        ]);
    }
    println!("{table}");
    println!("compiled in {:.1} ms", compiled.as_secs_f64() * 1e3);
    Ok(ExitCode::SUCCESS)
}

/// A type of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number {
    bytes: usize,
    float: bool,
    signed: bool,
}

impl Number {
    fn named(name: &str) -> Result<Self> {
        let (letter, bits) = name.split_at_checked(1).unwrap_or((name, ""));
        let bytes = match (letter, bits) {
            ("i" | "u", "8") => 1,
            ("i" | "u", "16") => 2,
            ("i" | "u" | "f", "32") => 4,
            ("i" | "u" | "f", "64") => 8,
            _ => {
                bail!("{name:?} is no type: write i8, u8, i16, u16, i32, u32, i64, u64, f32 or f64")
            }
        };
        Ok(Self {
            bytes,
            float: letter == "f",
            signed: letter == "i",
        })
    }

    /// The bytes of a number that is written out.
    fn parse(self, text: &str) -> Result<Vec<u8>> {
        if self.float {
            let value: f64 = text
                .parse()
                .with_context(|| format!("{text:?} is no number"))?;
            return Ok(self.float_bytes(value));
        }
        let digits = text.trim_start_matches('-');
        let value = match digits.strip_prefix("0x") {
            Some(digits) => i128::from_str_radix(digits, 16),
            None => digits.parse(),
        };
        let value = value.with_context(|| format!("{text:?} is no whole number"))?;
        let value = if text.starts_with('-') { -value } else { value };
        let bits = 8 * self.bytes as u32;
        let (low, high) = if self.signed {
            (-(1_i128 << (bits - 1)), (1_i128 << bits) - 1)
        } else {
            (0, (1_i128 << bits) - 1)
        };
        ensure!(
            (low..=high).contains(&value),
            "{text} does not fit in {bits} bits"
        );
        Ok(value.to_le_bytes()[..self.bytes].to_vec())
    }

    fn float_bytes(self, value: f64) -> Vec<u8> {
        match self.bytes {
            4 => (value as f32).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        }
    }

    /// The bytes of a small count as this type has it.
    fn count(self, value: u64) -> Vec<u8> {
        if self.float {
            return self.float_bytes(value as f64);
        }
        value.to_le_bytes()[..self.bytes].to_vec()
    }

    /// Random bytes: all values for integers, from 0 to 1 for floats.
    fn random(self, state: &mut u64) -> Vec<u8> {
        // SplitMix64.
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = *state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^= value >> 31;
        if self.float {
            return self.float_bytes((value >> 40) as f64 / f64::from(1 << 24));
        }
        value.to_le_bytes()[..self.bytes].to_vec()
    }

    fn show(self, bytes: &[u8]) -> String {
        let mut full = [0; 8];
        full[..bytes.len()].copy_from_slice(bytes);
        let value = u64::from_le_bytes(full);
        let unused = 64 - 8 * bytes.len() as u32;
        match (self.float, bytes.len()) {
            (true, 4) => f32::from_bits(value as u32).to_string(),
            (true, _) => f64::from_bits(value).to_string(),
            _ if self.signed => ((value << unused).cast_signed() >> unused).to_string(),
            _ => value.to_string(),
        }
    }
}

/// A buffer in device memory.
struct Buffer {
    number: Number,
    name: String,
    address: u64,
    bytes: usize,
    out: bool,
}

/// Elements that one buffer may have.
const MAX_ELEMENTS: u64 = 1 << 32;

/// The content of `buf:TYPE:COUNT[=INITIAL]`, without what stands before the type.
fn content(text: &str) -> Result<(Number, Vec<u8>)> {
    let (shape, initial) = text.split_once('=').unwrap_or((text, "zero"));
    let (number, count) = shape
        .split_once(':')
        .context("a buffer is written as buf:TYPE:COUNT")?;
    let number = Number::named(number)?;
    let count: u64 = count
        .parse()
        .with_context(|| format!("{count:?} is no count"))?;
    ensure!(
        count <= MAX_ELEMENTS,
        "a buffer has at most {MAX_ELEMENTS} elements"
    );
    let bytes = usize::try_from(count)? * number.bytes;
    let content = match initial.split_once(':').unwrap_or((initial, "")) {
        ("zero", "") => vec![0; bytes],
        ("iota", "") => (0..count).flat_map(|value| number.count(value)).collect(),
        ("random", seed) => {
            let mut state = match seed {
                "" => 0,
                seed => seed
                    .parse()
                    .with_context(|| format!("{seed:?} is no seed"))?,
            };
            (0..count).flat_map(|_| number.random(&mut state)).collect()
        }
        ("file", path) => {
            let mut content = std::fs::read(path).with_context(|| format!("cannot read {path}"))?;
            ensure!(
                content.len() <= bytes,
                "{path} has {} bytes where the buffer has {bytes}",
                content.len()
            );
            content.resize(bytes, 0);
            content
        }
        _ => bail!("{initial:?} is no content: write zero, iota, random:SEED or file:PATH"),
    };
    Ok((number, content))
}

/// One argument as it was written.
enum Argument {
    Value(Vec<u8>),
    Buffer(Number, Vec<u8>, bool),
}

fn argument(text: &str) -> Result<Argument> {
    let (kind, rest) = text
        .split_once(':')
        .context("an argument is written as TYPE:VALUE or buf:TYPE:COUNT")?;
    Ok(match kind {
        "buf" | "out" => {
            let (number, content) = content(rest)?;
            Argument::Buffer(number, content, kind == "out")
        }
        _ => Argument::Value(Number::named(kind)?.parse(rest)?),
    })
}

fn launch(
    arguments: &Arguments,
    program: &Program,
    name: &str,
    compiled: Duration,
) -> Result<ExitCode> {
    let kernels = program.kernels();
    let Some(kernel) = kernels.iter().position(|info| info.name == name) else {
        let names: Vec<&str> = kernels.iter().map(|info| info.name.as_str()).collect();
        bail!(
            "there is no kernel {name}; the file has {}",
            names.join(", ")
        );
    };
    let info = &kernels[kernel];
    ensure!(
        info.params.len() == arguments.args.len(),
        "{name} has {} parameters of {:?} bytes: give one --arg for each, not {}",
        info.params.len(),
        info.params
            .iter()
            .map(|param| param.size)
            .collect::<Vec<_>>(),
        arguments.args.len()
    );
    let mut parsed = Vec::new();
    for (index, text) in arguments.args.iter().enumerate() {
        parsed.push(argument(text).with_context(|| format!("argument {index}, {text:?}"))?);
    }
    // Room for everything, each with its guard and alignment.
    let variables = program.variables().iter().map(|variable| variable.bytes);
    let buffers = parsed.iter().map(|argument| match argument {
        Argument::Value(_) => 0,
        Argument::Buffer(_, content, _) => content.len() as u64,
    });
    let heap = if program.uses_heap() {
        arguments.heap
    } else {
        0
    };
    let room = variables
        .chain(buffers)
        .chain([heap])
        .fold(1_u64 << 16, |all, bytes| {
            all.saturating_add(bytes).saturating_add(1024)
        });
    let mut arena =
        Arena::new(room).with_context(|| format!("no memory for the arguments, {room} bytes"))?;
    arena.bind(program)?;
    let mut params = vec![0; info.param_bytes as usize];
    let mut placed = Vec::new();
    for (index, (argument, param)) in parsed.into_iter().zip(&info.params).enumerate() {
        let bytes = match argument {
            Argument::Value(bytes) => bytes,
            Argument::Buffer(number, content, out) => {
                let address = arena
                    .allocate(content.len() as u64)
                    .with_context(|| format!("no memory for argument {index}"))?;
                arena.write(address, &content);
                placed.push(Buffer {
                    number,
                    name: format!("argument {index}"),
                    address,
                    bytes: content.len(),
                    out,
                });
                address.to_le_bytes().to_vec()
            }
        };
        ensure!(
            bytes.len() == param.size as usize,
            "argument {index} has {} bytes where {name}'s parameter has {}",
            bytes.len(),
            param.size
        );
        let at = param.offset as usize;
        params[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    let timeout = arguments
        .timeout
        .map(Duration::try_from_secs_f64)
        .transpose();
    let timeout = timeout.context("--timeout takes seconds above 0")?;
    let runtime = Runtime::new(timeout);
    if heap > 0 {
        // SAFETY: the runtime is dropped before the arena, which was made before it.
        let heap = unsafe { arena.heap(heap) };
        runtime.set_heap(heap.context("no memory for the heap: lower --heap")?);
    }
    let shape = Shape {
        grid: arguments.grid,
        block: arguments.block,
        shared: arguments.shared,
        cooperative: arguments.cooperative,
    };
    let started = Instant::now();
    let outcome = arena.launch(program, kernel, shape, &params, &runtime);
    let took = started.elapsed();
    // What it printed comes first, also where it failed.
    use std::io::Write as _;
    std::io::stdout().write_all(&runtime.take_output())?;
    outcome?;
    let mut outputs = Vec::new();
    for buffer in placed.iter().filter(|buffer| buffer.out) {
        let bytes = arena
            .read(buffer.address, buffer.bytes)
            .context("a buffer cannot be read back")?;
        outputs.push((buffer, bytes));
    }
    if let Some(path) = &arguments.dump {
        let all: Vec<u8> = outputs
            .iter()
            .flat_map(|(_, bytes)| bytes.iter().copied())
            .collect();
        std::fs::write(path, all).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let product = |sizes: [u32; 3]| sizes.iter().map(|&size| u64::from(size)).product::<u64>();
    let (blocks, block) = (product(shape.grid), product(shape.block));
    let seconds = took.as_secs_f64();
    let elements = |buffer: &Buffer, bytes: &[u8]| -> Vec<String> {
        let elements = bytes.chunks(buffer.number.bytes).take(arguments.print);
        elements.map(|bytes| buffer.number.show(bytes)).collect()
    };
    if arguments.json {
        let outputs: Vec<Value> = outputs
            .iter()
            .map(|(buffer, bytes)| json!({ "name": buffer.name, "elements": elements(buffer, bytes) }))
            .collect();
        println!(
            "{}",
            json!({
                "kernel": name,
                "blocks": blocks,
                "threads": blocks * block,
                "compile_seconds": compiled.as_secs_f64(),
                "seconds": seconds,
                "outputs": outputs,
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    for (buffer, bytes) in &outputs {
        let shown = elements(buffer, bytes);
        let all = buffer.bytes / buffer.number.bytes;
        let rest = if shown.len() < all { " …" } else { "" };
        println!(
            "{} ({all} elements): {}{rest}",
            buffer.name,
            shown.join(" ")
        );
    }
    println!(
        "{name}: {blocks} blocks of {block} threads in {:.3} ms, {:.1} million threads per second; compiled in {:.1} ms",
        seconds * 1e3,
        (blocks * block) as f64 / seconds / 1e6,
        compiled.as_secs_f64() * 1e3
    );
    Ok(ExitCode::SUCCESS)
}
