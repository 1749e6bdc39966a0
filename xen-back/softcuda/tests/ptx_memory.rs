//! Memory instructions against plain Rust: spaces, host ranges, atomics, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod ptx_common;

use ptx_common::{Args, Device, compile};
use softcuda::exec::{Fault, HostRange, Launch, MemoryView};

/// As a device's view, with host ranges.
fn launch_with(
    device: &Device,
    ranges: &[HostRange],
    text: &str,
    args: &Args,
) -> Result<(), Fault> {
    let program = compile(text);
    // SAFETY: the tests keep list and memory until the launch has ended and do not look at it meanwhile.
    let memory: MemoryView = unsafe { device.view().with_ranges(ranges) };
    program.launch(&Launch::new(0, [1; 3], [1; 3], args.bytes(), memory))
}

#[test]
fn host_ranges_are_reached_to_the_byte() {
    let device = Device::new(1 << 16);
    let mut memory = vec![0_u64; 64];
    let start = memory.as_mut_ptr() as u64;
    let ranges = [
        HostRange {
            base: start + 8,
            len: 24,
        },
        HostRange {
            base: start + 65,
            len: 15,
        },
    ];
    let text = |space: &str, ty: &str| {
        let register = if ty.ends_with('8') { "b16" } else { ty };
        format!(
            ".visible .entry k(.param .u64 at) {{ .reg .b64 %p; .reg .{register} %v; .reg .{register} %w;
             ld.param.u64 %p, [at]; ld{space}.{ty} %v, [%p]; st{space}.{ty} [%p], %v; ret; }}"
        )
    };
    for space in ["", ".global"] {
        for (ty, bytes) in [("b8", 1), ("b16", 2), ("b32", 4), ("b64", 8)] {
            for at in 0..100_u64 {
                let address = start + at;
                let inside = ranges.iter().any(|range| {
                    address >= range.base && address + bytes <= range.base + range.len
                });
                let args = Args::new().add(address);
                let got = launch_with(&device, &ranges, &text(space, ty), &args);
                match got {
                    Ok(()) => assert!(inside && address % bytes == 0, "{space} {ty} {at}"),
                    Err(Fault::MisalignedAddress { address: found, .. }) => {
                        assert!(address % bytes != 0 && found == address);
                    }
                    Err(Fault::IllegalAddress { address: found, .. }) => {
                        assert!(!inside && address % bytes == 0 && found == address);
                    }
                    Err(other) => panic!("{other}"),
                }
                if at % 8 == 0 && at > 40 && ty != "b64" {
                    break;
                }
            }
        }
    }
    // One check for neighbours: all of them must be in one range.
    let two = ".visible .entry k(.param .u64 at) { .reg .b64 %p; .reg .b32 %a, %b;
        ld.param.u64 %p, [at]; ld.global.b32 %a, [%p]; ld.global.b32 %b, [%p+12];
        add.u32 %a, %a, %b; st.global.b32 [%p+4], %a; ret; }";
    memory[1] = 5;
    memory[2] = 7 << 32;
    let run = |at: u64| launch_with(&device, &ranges, two, &Args::new().add(start + at));
    run(8).unwrap();
    assert_eq!(memory[1], 12 << 32 | 5);
    assert!(matches!(run(24), Err(Fault::IllegalAddress { .. })));
    assert!(matches!(run(4), Err(Fault::IllegalAddress { .. })));
}
