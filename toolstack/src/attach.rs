//! attach: makes the device's nodes, then tells how far its ends have come.

use crate::backd::{self, BackdError};
use crate::device::{self, Ends};
use crate::failure::Failure;
use crate::{Context, domain, note, print};
use std::path::Path;
use std::time::Duration;
use vgpu_protocol::keys::{Created, DeviceId, create_device};
use vgpu_protocol::xenbus::State;
use xen::DomId;

/// How long a backend has to offer the device: it does so as soon as it sees it.
const OFFER: Duration = Duration::from_secs(10);

/// See the module. With `wait`, both ends have this long to connect.
pub fn run(
    context: &Context,
    wanted: &str,
    devid: u32,
    backend: DomId,
    wait: Option<Duration>,
) -> Result<(), Failure> {
    let frontend = domain::find(&context.domains, wanted)?;
    // Nodes below a domain that does not exist would be its successor's.
    domain::find(&context.domains, &backend.to_string())?;
    if frontend.domid == backend {
        return Err(Failure::OwnBackend(backend));
    }
    let device = DeviceId {
        backend,
        frontend: frontend.domid,
        devid,
    };
    let label = domain::label(frontend);
    if create_device(&context.store, device, &frontend.name)? == Created::Already {
        let ends = Ends::read(&context.store, device)?;
        return Err(Failure::Attached {
            domain: label,
            devid,
            ends,
        });
    }

    let waited = wait.unwrap_or(OFFER);
    let enough = |ends: Ends| match wait {
        Some(_) => ends.connected(),
        None => offered(ends),
    };
    let ends = device::wait(context, device, waited, |ends| {
        ends.backend.is_none() || enough(ends)
    })?;
    if ends.backend.is_none() {
        return Err(Failure::Removed(device));
    }
    if !enough(ends) {
        let local = (backend == context.here).then_some(context.socket.as_path());
        let mut advice = advice(device, ends, local, |socket| {
            backd::listing(socket).map(|_| ())
        });
        advice.push_str(&device::complaints(&context.store, device)?);
        return Err(Failure::Unanswered {
            device,
            waited,
            ends,
            advice,
        });
    }
    print(format_args!("{device} is attached to {label}: {ends}"))?;
    if !ends.connected() {
        note("the guest has not connected yet; its vgpu-frontd does so by itself once it runs");
    }
    Ok(())
}

/// Whether a backend has taken the device up.
fn offered(ends: Ends) -> bool {
    matches!(
        ends.backend,
        Some(State::InitWait | State::Initialised | State::Connected)
    )
}

/// What to do about a device that does not come as far as it should. `socket` is that of a backd in
/// our own domain, and `ask` tells whether one answers there.
fn advice(
    device: DeviceId,
    ends: Ends,
    socket: Option<&Path>,
    ask: impl Fn(&Path) -> Result<(), BackdError>,
) -> String {
    if offered(ends) {
        return "start vgpu-frontd in the guest: it connects by itself".into();
    }
    let log = "the log of vgpu-backd says why";
    match (ends.backend, socket) {
        (Some(State::Initialising), Some(socket)) => match ask(socket) {
            Ok(()) => format!("vgpu-backd runs, but has not taken the device up: {log}"),
            Err(error) => format!(
                "no vgpu-backd answers at {} ({error}): start vgpu-backd as root, and it takes the \
                 device up by itself",
                socket.display()
            ),
        },
        (Some(State::Initialising), None) => format!(
            "start vgpu-backd in domain {}: it takes the device up by itself",
            device.backend
        ),
        _ => format!("the backend does not offer the device: {log}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId {
        backend: DomId(2),
        frontend: DomId(5),
        devid: 0,
    };

    fn advised(backend: State, socket: Option<&str>, runs: bool) -> String {
        let ends = Ends {
            backend: Some(backend),
            frontend: Some(State::Initialising),
        };
        advice(DEVICE, ends, socket.map(Path::new), |_| match runs {
            true => Ok(()),
            false => Err(BackdError::Refused("no".into())),
        })
    }

    #[test]
    fn the_advice_names_the_end_that_did_not_answer() {
        let text = advised(State::InitWait, Some("/s"), true);
        assert!(text.contains("vgpu-frontd in the guest"), "{text}");
        let text = advised(State::Connected, Some("/s"), true);
        assert!(text.contains("vgpu-frontd in the guest"), "{text}");
        let text = advised(State::Initialising, Some("/s"), true);
        assert!(text.contains("vgpu-backd runs"), "{text}");
        let text = advised(State::Initialising, Some("/s"), false);
        assert!(text.contains("no vgpu-backd answers at /s"), "{text}");
        let text = advised(State::Initialising, None, true);
        assert!(text.contains("start vgpu-backd in domain 2"), "{text}");
        for state in [State::Closing, State::Closed, State::Unknown] {
            let text = advised(state, Some("/s"), true);
            assert!(text.contains("does not offer"), "{text}");
        }
    }
}
