//! Any bytes as a module: see `tests/ptx_fuzz/exercise.rs` for what they go through.

#![no_main]

#[path = "../../tests/ptx_fuzz/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    exercise::exercise(bytes);
});
