//! What asking the hypervisor costs: reads a domain's weight and virtual processors over and over and prints the time
//! of a call. Run in dom0 as `asking device DOMID...`, or `asking local:DIR DOMID...`. It changes nothing.

use std::time::{Duration, Instant};

use vgpu_hypervisor::Error;
use xen::{DomId, PlatformSpec};

const CALLS: u32 = 2000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let platform: PlatformSpec = arguments
        .next()
        .ok_or("asking PLATFORM DOMID...")?
        .parse()?;
    let start = Instant::now();
    let hypervisor = vgpu_hypervisor::open(&platform)?;
    println!("{}: opened in {:?}", hypervisor.name(), start.elapsed());
    for domid in arguments {
        let domid: DomId = domid.parse()?;
        println!("domain {domid}: {:?}", hypervisor.parameters(domid)?);
        for number in 0.. {
            match hypervisor.vcpu(domid, number)? {
                Some(vcpu) => println!("domain {domid}: {number}: {vcpu:?}"),
                None => break,
            }
        }
        let parameters = timed(|| hypervisor.parameters(domid).map(|_| ()))?;
        let vcpu = timed(|| hypervisor.vcpu(domid, 0).map(|_| ()))?;
        println!("domain {domid}: parameters {parameters:?} a call, vcpu {vcpu:?} a call");
    }
    Ok(())
}

/// The median time of a call.
fn timed(mut call: impl FnMut() -> Result<(), Error>) -> Result<Duration, Error> {
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let start = Instant::now();
        call()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
