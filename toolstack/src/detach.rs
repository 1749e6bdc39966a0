//! detach: has both ends close the device, then removes its nodes. It must never leave nodes behind,
//! whatever the ends do.

use crate::device::{self, Ends};
use crate::failure::Failure;
use crate::{Context, domain, note, print};
use std::time::Duration;
use vgpu_protocol::keys::{DeviceId, remove_device, retire_device};
use vgpu_protocol::xenbus::State;
use xen::DomId;

/// How long a backend that has closed a device has to remove it itself, before we do.
const REMOVAL: Duration = Duration::from_secs(1);

/// See the module. The ends have `wait` to close the device; without, they are not asked.
pub fn run(
    context: &Context,
    wanted: &str,
    devid: u32,
    wait: Option<Duration>,
) -> Result<(), Failure> {
    let devices = device::list(context)?;
    let (domid, label) = whose(context, &devices, wanted)?;
    let (ours, others): (Vec<DeviceId>, Vec<DeviceId>) = devices
        .into_iter()
        .filter(|device| device.frontend == domid)
        .partition(|device| device.devid == devid);
    if ours.is_empty() {
        let known = match others.is_empty() {
            true => "it has none at all; xl-vgpu list shows who has".into(),
            false => {
                let numbers = others.iter().map(|device| device.devid.to_string());
                format!("it has {}: say which with --devid", domain::join(numbers))
            }
        };
        return Err(Failure::NoDevice {
            domain: label,
            devid,
            known,
        });
    }
    // One, unless a backend's domain left its half of an earlier device.
    for device in ours {
        if let Some(wait) = wait {
            close(context, device, wait)?;
        }
        remove_device(&context.store, device)?;
        print(format_args!("{device} is detached from {label}"))?;
    }
    Ok(())
}

/// Asks the ends to close the device, and waits until they have.
fn close(context: &Context, device: DeviceId, wait: Duration) -> Result<(), Failure> {
    if !retire_device(&context.store, device)? {
        return Ok(());
    }
    let removed = |ends: Ends| ends.backend.is_none();
    let closed = |ends: Ends| removed(ends) || ends.backend == Some(State::Closed);
    let ends = device::wait(context, device, wait, closed)?;
    if closed(ends) {
        device::wait(context, device, REMOVAL, removed)?;
    } else {
        let seconds = wait.as_secs();
        note(format_args!(
            "{device} did not close within {seconds} s ({ends}); it is removed all the same"
        ));
    }
    Ok(())
}

/// The domain that a text names; one that is gone and left devices is named by its domid.
fn whose(
    context: &Context,
    devices: &[DeviceId],
    wanted: &str,
) -> Result<(DomId, String), Failure> {
    let failure = match domain::find(&context.domains, wanted) {
        Ok(domain) => return Ok((domain.domid, domain::label(domain))),
        Err(failure) => failure,
    };
    let left = devices
        .iter()
        .find(|device| device.frontend.to_string() == wanted);
    let left = left.ok_or(failure)?;
    Ok((left.frontend, domain::label_of(left.frontend)))
}
