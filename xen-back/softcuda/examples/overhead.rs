//! What the calls of a libcuda.so.1 cost when the device has nothing to do: `overhead LIBRARY` prints
//! the median time of each in microseconds.

use cuda_abi::{CuResult, Driver};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

const PTX: &std::ffi::CStr =
    c".version 6.0\n.target sm_50\n.address_size 64\n.visible .entry empty()\n{\nret;\n}\n";

/// Prints the median duration of `body`, each time after a pause of `idle`.
fn measure(
    what: &str,
    idle: Duration,
    mut body: impl FnMut() -> Result<(), CuResult>,
) -> Result<(), CuResult> {
    let rounds = if idle.is_zero() { 20_000 } else { 300 };
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        if !idle.is_zero() {
            std::thread::sleep(idle);
        }
        let start = Instant::now();
        body()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
    println!("{what:45} {:8.2} µs median {:8.2} µs 90 %", at(50), at(90));
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("usage: overhead LIBRARY, the path of a libcuda.so.1")?;
    // SAFETY: the user names a CUDA driver library.
    let cuda = unsafe { Driver::load(path.as_ref()) }?;
    let (mut context, mut module, mut empty, mut stream) =
        (null_mut(), null_mut(), null_mut(), null_mut());
    let mut address = 0;
    // SAFETY: every pointer below is to a live place of the call's type, the kernel takes no parameters,
    // and the copies stay inside their four bytes.
    unsafe {
        cuda.cuInit(0).ok()?;
        cuda.cuCtxCreate_v2(&mut context, 0, 0).ok()?;
        cuda.cuModuleLoadData(&mut module, PTX.as_ptr().cast())
            .ok()?;
        cuda.cuModuleGetFunction(&mut empty, module, c"empty".as_ptr())
            .ok()?;
        cuda.cuStreamCreate(&mut stream, 1).ok()?;
        cuda.cuMemAlloc_v2(&mut address, 4).ok()?;
        let launch = || {
            cuda.cuLaunchKernel(empty, 1, 1, 1, 1, 1, 1, 0, stream, null_mut(), null_mut())
                .ok()
        };
        let synchronise = || cuda.cuStreamSynchronize(stream).ok();
        let mut word = 0u32;
        let busy = Duration::ZERO;
        measure("launch and synchronise", busy, || {
            launch().and_then(|()| synchronise())
        })?;
        measure(
            "launch and synchronise, 1 ms apart",
            Duration::from_millis(1),
            || launch().and_then(|()| synchronise()),
        )?;
        measure("launch, 1 ms apart", Duration::from_millis(1), launch)?;
        measure("launch, one after the other", busy, launch)?;
        synchronise()?;
        measure(
            "100 launches and synchronise",
            Duration::from_millis(1),
            || {
                (0..100).try_for_each(|_| launch())?;
                synchronise()
            },
        )?;
        measure("synchronise an idle stream", busy, synchronise)?;
        measure("copy 4 bytes to the device", busy, || {
            cuda.cuMemcpyHtoD_v2(address, (&raw const word).cast(), 4)
                .ok()
        })?;
        measure("copy 4 bytes from the device", busy, || {
            cuda.cuMemcpyDtoH_v2((&raw mut word).cast(), address, 4)
                .ok()
        })?;
        measure("allocate and free 4 KiB", busy, || {
            let mut block = 0;
            cuda.cuMemAlloc_v2(&mut block, 4096).ok()?;
            cuda.cuMemFree_v2(block).ok()
        })?;
        cuda.cuCtxDestroy_v2(context).ok()?;
    }
    Ok(())
}
