//! What a fuzzed module goes through: it is parsed and compiled, and if it compiles, every kernel of it is
//! run with parameters that mean nothing. Nothing of that may end or hang the process; errors are fine.

use std::time::Duration;

use softcuda::exec::{Arena, Fault, Options, Program, Runtime, Shape};

/// Bytes of device memory that fuzzed kernels get.
const MEMORY: u64 = 1 << 20;
/// How long a launch may take.
const LAUNCH: Duration = Duration::from_millis(20);
/// Kernels of a module that are run.
const KERNELS: usize = 4;
/// Bytes of local memory of a block that is run.
const LOCAL: u64 = 64 << 20;

/// Takes any bytes for a module. Whether they were one.
///
/// # Panics
/// Where the module shows a mistake of softcuda's that is no crash: an error without a line, a fault of
/// the code generator.
pub fn exercise(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let program = match Program::compile_with(
        &[text],
        Options {
            timed: true,
            ..Options::default()
        },
    ) {
        Ok(program) => program,
        Err(error) => {
            assert!(error.line > 0, "{error}");
            assert!(!error.message.contains("an error of softcuda's"), "{error}");
            return false;
        }
    };
    let mut arena = Arena::new(MEMORY).expect("a megabyte");
    if arena.bind(&program).is_err() {
        return true;
    }
    let buffer = arena.allocate(64 << 10);
    let runtime = Runtime::new(Some(LAUNCH));
    if program.uses_heap() {
        // SAFETY: the runtime is dropped before the arena.
        if let Some(heap) = unsafe { arena.heap(16 << 10) } {
            runtime.set_heap(heap);
        }
    }
    for (kernel, info) in program.kernels().iter().enumerate().take(KERNELS) {
        let block = info.required_threads.unwrap_or([33, 1, 1]);
        let threads: u64 = block.iter().map(|&size| u64::from(size)).product();
        if threads > 64 || threads * u64::from(info.local_bytes) > LOCAL {
            continue;
        }
        // Addresses that are good, that are not, and small numbers.
        let words = [
            buffer.unwrap_or(0),
            64,
            buffer.unwrap_or(0) + 4096,
            0,
            u64::MAX,
            1 << 33,
        ];
        for turn in 0..2 {
            let mut params = Vec::new();
            while params.len() < info.param_bytes as usize {
                params.extend(words[(params.len() / 8 + turn) % words.len()].to_le_bytes());
            }
            let shape = Shape {
                grid: [3, 1, 1],
                block,
                shared: 256,
                cooperative: turn == 1,
            };
            let outcome = arena.launch(&program, kernel, shape, &params, &runtime);
            if matches!(outcome, Err(Fault::Timeout { .. })) {
                break;
            }
        }
        runtime.take_output();
    }
    true
}
