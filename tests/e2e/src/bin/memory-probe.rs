//! memory-probe: a CUDA program that allocates and frees what it is told, line by line, and says what came of it.
//!
//! Usage: `memory-probe LIBCUDA`, then commands on standard input; each answers with one line. Must never end by
//! itself: what it holds goes when the test has it end.

use anyhow::{Context, Result, bail};
use cuda_abi::{CuResult, Driver, Handle};
use fatbin::write::{Packed, fat, file};
use std::ffi::CString;
use std::io::BufRead;
use std::ptr::null_mut;

/// Calls a C function of the library. Every call in this program passes pointers to its own variables, or numbers
/// that are wrong on purpose where the function says that it checks them.
macro_rules! cu {
    ($cuda:expr, $name:ident ( $($argument:expr),* )) => {
        // SAFETY: see the macro's description.
        unsafe { $cuda.$name($($argument),*) }
    };
}

/// The first result that is none of success.
fn first_of<const N: usize>(results: [CuResult; N]) -> CuResult {
    let wrong = results.into_iter().find(|result| !result.is_ok());
    wrong.unwrap_or(CuResult::SUCCESS)
}

fn main() -> Result<()> {
    let path = std::env::args()
        .nth(1)
        .context("usage: memory-probe LIBCUDA")?;
    // SAFETY: the caller names a CUDA driver.
    let cuda = unsafe { Driver::load(path.as_ref()) }?;
    let ready = |what: &str, status: CuResult| match status.is_ok() {
        true => Ok(()),
        false => bail!("{what}: {status}"),
    };
    ready("cuInit", cu!(cuda, cuInit(0)))?;
    let mut context: Handle = null_mut();
    ready("cuCtxCreate", cu!(cuda, cuCtxCreate_v2(&mut context, 0, 0)))?;
    let mut streams: [Handle; 2] = [null_mut(); 2];
    for stream in &mut streams {
        ready("cuStreamCreate", cu!(cuda, cuStreamCreate(stream, 1)))?;
    }
    let mut held: Vec<u64> = Vec::new();
    let mut contexts: Vec<Handle> = Vec::new();
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let numbers: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>()?;
        let first = numbers.first().copied().unwrap_or_default() as usize;
        let mut address = 0;
        match command {
            "alloc" => {
                let status = cu!(cuda, cuMemAlloc_v2(&mut address, first));
                held.extend(status.is_ok().then_some(address));
                println!("{status}");
            }
            "free" => {
                let status = match held.pop() {
                    Some(address) => cu!(cuda, cuMemFree_v2(address)),
                    None => CuResult::INVALID_VALUE,
                };
                // Frees are not waited for by themselves.
                let after = cu!(cuda, cuCtxSynchronize());
                println!("{status} {after}");
            }
            // Allocates, uses and frees in stream order, so often.
            "async" => {
                let times = numbers.get(1).copied().unwrap_or(1);
                let [stream, _] = streams;
                let mut status = CuResult::SUCCESS;
                for _ in 0..times {
                    status = cu!(cuda, cuMemAllocAsync(&mut address, first, stream));
                    if !status.is_ok() {
                        break;
                    }
                    status = first_of([
                        cu!(cuda, cuMemsetD8Async(address, 1, first, stream)),
                        cu!(cuda, cuMemFreeAsync(address, stream)),
                    ]);
                }
                println!("{status}");
            }
            // Frees in one stream's order what is then wanted in another's.
            "across" => {
                let [one, other] = streams;
                let status = first_of([
                    cu!(cuda, cuMemAllocAsync(&mut address, first, one)),
                    cu!(cuda, cuMemsetD8Async(address, 1, first, one)),
                    cu!(cuda, cuMemFreeAsync(address, one)),
                ]);
                let again = first_of([
                    cu!(cuda, cuMemAllocAsync(&mut address, first, other)),
                    cu!(cuda, cuMemFreeAsync(address, other)),
                ]);
                let whole = first_of([
                    cu!(cuda, cuMemAlloc_v2(&mut address, first)),
                    cu!(cuda, cuMemFree_v2(address)),
                ]);
                println!("{status} {again} {whole}");
            }
            // A module with a variable of this size: as text, or in a fat binary as it is, by LZ4, by zstd.
            "module" => {
                let text = format!(
                    ".version 8.0\n.target sm_50\n.address_size 64\n.global .align 4 .b8 x[{first}];\n\
                     .visible .entry k()\n{{\n ret;\n}}\n"
                );
                let image = CString::new(text)?.into_bytes_with_nul();
                let in_fat = |packed| fat(&[file(fatbin::PTX, 50, packed, &image)]);
                let image = match numbers.get(1) {
                    None => image,
                    Some(0) => in_fat(Packed::Not),
                    Some(1) => in_fat(Packed::Lz4),
                    Some(_) => in_fat(Packed::Zstd),
                };
                let mut module: Handle = null_mut();
                let status = cu!(cuda, cuModuleLoadData(&mut module, image.as_ptr().cast()));
                println!("{status}");
            }
            // One more context; the first stays current.
            "context" => {
                let mut more: Handle = null_mut();
                let status = cu!(cuda, cuCtxCreate_v2(&mut more, 0, 0));
                if status.is_ok() {
                    contexts.push(more);
                    ready("cuCtxSetCurrent", cu!(cuda, cuCtxSetCurrent(context)))?;
                }
                println!("{status}");
            }
            "destroy" => {
                let more = contexts.pop().unwrap_or(null_mut());
                println!("{}", cu!(cuda, cuCtxDestroy_v2(more)));
            }
            "retain" => {
                let mut primary: Handle = null_mut();
                println!("{}", cu!(cuda, cuDevicePrimaryCtxRetain(&mut primary, 0)));
            }
            "release" => println!("{}", cu!(cuda, cuDevicePrimaryCtxRelease_v2(0))),
            "reset" => println!("{}", cu!(cuda, cuDevicePrimaryCtxReset_v2(0))),
            "limit" => {
                let value = numbers.get(1).copied().unwrap_or_default() as usize;
                println!("{}", cu!(cuda, cuCtxSetLimit(first as i32, value)));
            }
            "info" => {
                let (mut free, mut total) = (0, 0);
                let status = cu!(cuda, cuMemGetInfo_v2(&mut free, &mut total));
                println!("{status} {free} {total}");
            }
            "total" => {
                let mut total = 0;
                let status = cu!(cuda, cuDeviceTotalMem_v2(&mut total, 0));
                println!("{status} {total}");
            }
            "devices" => {
                let (mut count, mut uuid) = (0, [0u8; 16]);
                let status = first_of([
                    cu!(cuda, cuDeviceGetCount(&mut count)),
                    cu!(cuda, cuDeviceGetUuid(&mut uuid, 0)),
                ]);
                println!("{status} {count} {uuid:02x?}");
            }
            // Ends the context with all that is held in it, and makes another.
            "renew" => {
                let ended = cu!(cuda, cuCtxDestroy_v2(context));
                held.clear();
                let made = cu!(cuda, cuCtxCreate_v2(&mut context, 0, 0));
                for stream in &mut streams {
                    ready("cuStreamCreate", cu!(cuda, cuStreamCreate(stream, 1)))?;
                }
                println!("{ended} {made}");
            }
            other => bail!("there is no command {other:?}"),
        }
    }
    Ok(())
}
