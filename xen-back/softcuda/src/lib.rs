//! A libcuda.so.1 that compiles PTX with Cranelift and runs it on the CPU.
//!
//! `ptx`, `compile` and `exec` turn PTX into code and run a grid of it; `memory` is the device's memory,
//! `engine` decides when work runs, with `turns` among the processes of the machine, and `work` carries
//! it out; `context`, `stream`, `event` and `module`
//! are what a program's handles mean, and `api` is the driver's C functions over them. Programs reach it
//! through the exported symbols only.
//!
//! cuInit reads these variables, once; a value that makes no sense fails it with
//! `CUDA_ERROR_SYSTEM_NOT_READY` and a line on standard error.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `SOFTCUDA_MEMORY` | memory of each device, in bytes or with K, M, G, T (powers of 1024), from 1M to 4T | a quarter of the machine's |
//! | `SOFTCUDA_DEVICES` | number of devices, from 1 to 16 | 1 |
//! | `SOFTCUDA_TIMEOUT` | how long a launch may take, in seconds; one that takes longer fails with `CUDA_ERROR_LAUNCH_TIMEOUT` | for ever |
//! | `SOFTCUDA_ENGINE` | the file in which the processes of the machine queue for the devices' engines, or `off`: then each process has engines of its own | `/dev/shm/softcuda-engines` |
//! | `CUDA_VISIBLE_DEVICES` | the devices that the program sees, by ordinal or UUID (`GPU-…`), as with NVIDIA's driver | all |
//! | `SOFTCUDA_WIDE` | which kernels are vectorised: none (0), all that can be (`always`), or those for which it pays, once they have run 32768 threads; results are the same | where it pays |
//! | `SOFTCUDA_CACHE` | the folder in which compiled code is kept for the next process; none if it is empty or 0 | `softcuda` in `$XDG_CACHE_HOME` or `~/.cache` |
//! | `SOFTCUDA_CACHE_SIZE` | bytes that its files may have together, from 1M; what was used longest ago makes room | 256M |
//! | `SOFTCUDA_LOG` | what is written to standard error, as a `tracing` filter: `error` shows why a module or a kernel failed | nothing |

#[allow(
    non_snake_case,
    clippy::missing_safety_doc,
    reason = "the functions have C's names and CUDA's contracts; cuda-abi documents each"
)]
mod api;
mod array;
mod cache;
mod capture;
mod compile;
mod context;
mod device;
mod driver;
mod engine;
mod event;
pub mod exec;
mod graph;
mod handles;
mod image;
mod launch;
mod library;
mod memory;
mod module;
mod pool;
pub mod ptx;
mod rounding;
mod settings;
mod stream;
mod texture;
mod turns;
mod work;

cuda_abi::with_calls!(cuda_abi::export_all_calls);
