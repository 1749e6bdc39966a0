//! call-bench: what calls cost on a `libcuda.so.1`, as one JSON object.
//!
//! `cargo xtask bench` runs it on the driver itself and through the split driver, in turns, and prints
//! the ratios. Usage: `call-bench LIBCUDA`.

use cuda_abi::{CuResult, DevicePtr, Driver, Handle};
use std::ffi::{CString, c_void};
use std::process::ExitCode;
use std::ptr::null_mut;
use std::time::Instant;

const PTX: &str = include_str!("../probe.ptx");
/// Bytes of a bulk copy.
const BULK: usize = 64 << 20;

/// Calls a C function of the library under test, with pointers to this program's own variables.
macro_rules! cu {
    ($cuda:expr, $name:ident ( $($argument:expr),* )) => {
        // SAFETY: see the macro's description.
        unsafe { $cuda.$name($($argument),*) }.ok()
    };
}

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: call-bench LIBCUDA");
        return ExitCode::from(2);
    };
    // SAFETY: the caller names a CUDA driver.
    let cuda = match unsafe { Driver::load(path.as_ref()) } {
        Ok(cuda) => cuda,
        Err(error) => {
            eprintln!("call-bench: {error}");
            return ExitCode::FAILURE;
        }
    };
    match measure(&cuda) {
        Ok(results) => {
            println!("{}", serde_json::Value::Array(results));
            ExitCode::SUCCESS
        }
        Err(status) => {
            eprintln!("call-bench: {status}");
            ExitCode::FAILURE
        }
    }
}

/// The median of microseconds that one of `per` pieces of work takes, over `rounds`.
fn median(
    rounds: usize,
    per: usize,
    mut work: impl FnMut() -> Result<(), CuResult>,
) -> Result<f64, CuResult> {
    let mut times = Vec::with_capacity(rounds);
    work()?;
    for _ in 0..rounds {
        let started = Instant::now();
        work()?;
        times.push(started.elapsed().as_secs_f64() * 1e6 / per as f64);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[rounds / 2])
}

fn measure(cuda: &Driver) -> Result<Vec<serde_json::Value>, CuResult> {
    let started = Instant::now();
    cu!(cuda, cuInit(0))?;
    let mut context: Handle = null_mut();
    cu!(cuda, cuDevicePrimaryCtxRetain(&mut context, 0))?;
    cu!(cuda, cuCtxSetCurrent(context))?;
    let setup = started.elapsed().as_secs_f64() * 1e6;

    let (mut module, mut scale, mut stream) = (null_mut(), null_mut(), null_mut());
    let text = CString::new(PTX).map_err(|_| CuResult::INVALID_VALUE)?;
    cu!(cuda, cuModuleLoadData(&mut module, text.as_ptr().cast()))?;
    cu!(
        cuda,
        cuModuleGetFunction(&mut scale, module, c"scale".as_ptr())
    )?;
    cu!(cuda, cuStreamCreate(&mut stream, 1))?;
    let mut device: DevicePtr = 0;
    cu!(cuda, cuMemAlloc_v2(&mut device, BULK))?;
    let launch = || {
        let (mut at, mut n) = (device, 1u32);
        let mut params = [(&raw mut at).cast::<c_void>(), (&raw mut n).cast()];
        cu!(
            cuda,
            cuLaunchKernel(
                scale,
                1,
                1,
                1,
                1,
                1,
                1,
                0,
                stream,
                params.as_mut_ptr(),
                null_mut()
            )
        )
    };
    let mut results = vec![("connect, retain the primary context", "µs", setup)];
    let mut add = |what, unit, value| results.push((what, unit, value));

    add(
        "one launch of a thousand, then one wait",
        "µs",
        median(15, 1000, || {
            (0..1000).try_for_each(|_| launch())?;
            cu!(cuda, cuStreamSynchronize(stream))
        })?,
    );
    add(
        "launch and wait",
        "µs",
        median(2001, 1, || {
            launch()?;
            cu!(cuda, cuStreamSynchronize(stream))
        })?,
    );
    add(
        "ask whether a stream is idle",
        "µs",
        median(2001, 1, || cu!(cuda, cuStreamQuery(stream)))?,
    );
    add(
        "allocate and free 1 MiB",
        "µs",
        median(501, 1, || {
            let mut block = 0;
            cu!(cuda, cuMemAlloc_v2(&mut block, 1 << 20))?;
            cu!(cuda, cuMemFree_v2(block))
        })?,
    );
    let mut word = [0u8; 4];
    add(
        "copy 4 bytes to the device",
        "µs",
        median(2001, 1, || {
            cu!(cuda, cuMemcpyHtoD_v2(device, word.as_ptr().cast(), 4))
        })?,
    );
    add(
        "copy 4 bytes from the device",
        "µs",
        median(2001, 1, || {
            cu!(cuda, cuMemcpyDtoH_v2(word.as_mut_ptr().cast(), device, 4))
        })?,
    );
    let mut host = vec![1u8; BULK];
    let gbps = |microseconds: f64| BULK as f64 / microseconds / 1e3;
    add(
        "copy 64 MiB to the device",
        "GB/s",
        gbps(median(7, 1, || {
            cu!(cuda, cuMemcpyHtoD_v2(device, host.as_ptr().cast(), BULK))
        })?),
    );
    add(
        "copy 64 MiB from the device",
        "GB/s",
        gbps(median(7, 1, || {
            cu!(
                cuda,
                cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), device, BULK)
            )
        })?),
    );
    let mut pinned = null_mut();
    cu!(cuda, cuMemHostAlloc(&mut pinned, BULK, 0))?;
    add(
        "copy 64 MiB of page-locked memory to the device",
        "GB/s",
        gbps(median(7, 1, || {
            cu!(cuda, cuMemcpyHtoDAsync_v2(device, pinned, BULK, stream))?;
            cu!(cuda, cuStreamSynchronize(stream))
        })?),
    );
    add(
        "copy 64 MiB of page-locked memory from the device",
        "GB/s",
        gbps(median(7, 1, || {
            cu!(cuda, cuMemcpyDtoHAsync_v2(pinned, device, BULK, stream))?;
            cu!(cuda, cuStreamSynchronize(stream))
        })?),
    );
    cu!(cuda, cuMemFreeHost(pinned))?;
    cu!(cuda, cuMemFree_v2(device))?;
    Ok(results
        .into_iter()
        .map(
            |(what, unit, value)| serde_json::json!({ "what": what, "unit": unit, "value": value }),
        )
        .collect())
}
