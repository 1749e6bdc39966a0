//! The XenBus frontend: one thread that looks at both ends' states and does what
//! [`vgpu_protocol::xenbus::front_step`] says, for ever.
//!
//! It keeps nothing about the past that the two states do not say, so that it does not matter what it
//! missed. It must never follow a path that it read from XenStore.

use crate::clients::{Clients, Listener};
use crate::control::{Control, ControlError};
use crate::{Error, Options};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vgpu_protocol::PROTOCOL_VERSION;
use vgpu_protocol::keys::{self, DeviceId};
use vgpu_protocol::wait::{Wake, is_ready, wait_any};
use vgpu_protocol::xenbus::{FrontStep, PATIENCE, Rest, State, View, front_step};
use xen::{DomId, Platform, PlatformSpec, Store, Watch};

/// How often a connected device is looked at without a reason: a backend that was killed says nothing.
const LOOK: Duration = Duration::from_secs(1);
/// How long programs have to close their channels when the device closes.
const PROGRAMS_PATIENCE: Duration = Duration::from_secs(5);

/// Why a control ring could not be shared.
#[derive(Debug, thiserror::Error)]
enum ShareError {
    #[error(
        "the backend speaks protocol version {theirs:?} and this vgpu-frontd version {PROTOCOL_VERSION}; install both ends from the same release"
    )]
    Version { theirs: Vec<u32> },
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Store(#[from] xen::store::StoreError),
}

/// Serves the domain's programs until `stop` is readable.
///
/// # Errors
/// [`Error`], where nothing can be done without a new start: the socket is taken, XenStore is gone.
pub fn run(options: &Options, stop: BorrowedFd<'_>) -> Result<(), Error> {
    let platform = options.platform.open()?;
    if options.platform == PlatformSpec::Device {
        raise_gntalloc_limit(options.gntalloc_limit);
    }
    let store = platform.store()?;
    let clients = Clients::new(options.layout, options.programs_per_user);
    let listener = Listener::bind(&options.socket)?;
    let end = Arc::new(Wake::new().map_err(Error::system("making an eventfd"))?);
    let acceptor = {
        let (clients, end) = (clients.clone(), end.clone());
        std::thread::Builder::new()
            .name("accept".into())
            .spawn(move || clients.accept(listener, &end))
            .map_err(Error::system("starting a thread"))?
    };
    tracing::info!(platform = platform.name(), socket = %options.socket.display(), "vgpu-frontd is ready");
    let mut device = Device {
        dir: keys::own_frontend_dir(options.devid),
        devid: options.devid,
        platform,
        store,
        clients: clients.clone(),
        backend: None,
        own: State::Unknown,
        since: Instant::now(),
        control: None,
        rest: Rest::default(),
    };
    let result = device.serve(stop);
    clients.close("vgpu-frontd has been stopped", PROGRAMS_PATIENCE);
    end.wake();
    if acceptor.join().is_err() {
        tracing::error!("the thread that accepts programs has failed");
    }
    result
}

#[derive(Debug)]
struct Device {
    dir: String,
    devid: u32,
    platform: Arc<dyn Platform>,
    store: Store,
    clients: Arc<Clients>,
    /// The device as it was last seen, and the watch on its backend.
    backend: Option<(DeviceId, Watch)>,
    /// The state that this process last showed.
    own: State,
    since: Instant,
    control: Option<Arc<Control>>,
    rest: Rest,
}

impl Device {
    fn serve(&mut self, stop: BorrowedFd<'_>) -> Result<(), Error> {
        let watch = self.store.watch(&self.dir)?;
        loop {
            // Taken before looking, so that what comes later is looked at once more.
            while watch.next(Some(Duration::ZERO))?.is_some() {}
            if let Some((_, watch)) = &self.backend {
                while watch.next(Some(Duration::ZERO))?.is_some() {}
            }
            let stopping = is_ready(stop);
            let Some(device) = self.find()? else {
                self.forget("this domain has no vgpu device; in the backend's domain, xl-vgpu attach gives it one");
                if stopping {
                    return Ok(());
                }
                self.sleep(&watch, stop, false, None)?;
                continue;
            };
            let step = self.step(device, stopping)?;
            let resume = match step {
                FrontStep::Restart => self.rest.before(Instant::now()),
                _ => None,
            };
            if step != FrontStep::Wait && resume.is_none() {
                tracing::debug!(own = self.own.name(), ?step, "stepping");
                self.act(step, device)?;
                continue;
            }
            if stopping && self.own == State::Closed {
                return Ok(());
            }
            let deadline = match (resume, self.own) {
                (Some(at), _) => Some(at),
                (None, State::Connected) => Instant::now().checked_add(LOOK),
                (None, State::Closing) => self.since.checked_add(PATIENCE),
                (None, _) => None,
            };
            self.sleep(&watch, stop, stopping, deadline)?;
        }
    }

    /// The device, if there is one. Notices when it is another than before.
    fn find(&mut self) -> Result<Option<DeviceId>, Error> {
        let Some(backend) =
            keys::number(&self.store, &format!("{}/{}", self.dir, keys::BACKEND_ID))?
        else {
            return Ok(None);
        };
        let frontend = self.platform.domid()?;
        let device = DeviceId {
            backend: DomId(backend),
            frontend,
            devid: self.devid,
        };
        let shown = keys::state(&self.store, &self.dir)?;
        let known = self
            .backend
            .as_ref()
            .is_some_and(|(known, _)| *known == device);
        if !known || shown != self.own {
            if known {
                tracing::info!(%device, state = shown.name(), "somebody else has written our state: beginning anew");
            }
            self.forget("the vgpu device has been replaced");
            let watch = self.store.watch(&device.backend_dir())?;
            self.backend = Some((device, watch));
            // What a predecessor showed is not true of us.
            self.set(if shown == State::Initialising {
                shown
            } else {
                State::Unknown
            });
        }
        Ok(Some(device))
    }

    fn set(&mut self, state: State) {
        self.own = state;
        self.since = Instant::now();
    }

    /// Lets go of a device that is there no more.
    fn forget(&mut self, reason: &str) {
        if self.control.is_some() {
            tracing::info!("{reason}");
            self.clients.close(reason, PROGRAMS_PATIENCE);
        }
        self.clients.refuse(reason);
        self.control = None;
        self.backend = None;
        self.set(State::Unknown);
    }

    fn step(&mut self, device: DeviceId, stopping: bool) -> Result<FrontStep, Error> {
        let dead = self
            .control
            .as_ref()
            .is_some_and(|control| !control.is_alive());
        let peer = match dead {
            // Whatever it last showed: it is not there any more.
            true => State::Unknown,
            false => keys::state(&self.store, &device.backend_dir())?,
        };
        let wanted = !stopping && keys::is_online(&self.store, device)?;
        if self.own != State::Connected {
            match (wanted, peer) {
                (false, _) => self.clients.refuse("the vgpu device is being detached"),
                (true, State::Initialising | State::Closing | State::Closed | State::Unknown) => {
                    self.clients.hold(
                        "its backend is not ready; is vgpu-backd running in the backend's domain?",
                    );
                }
                (true, _) => self.clients.hold("it is being connected"),
            }
        }
        let late = self.since.elapsed() >= PATIENCE;
        Ok(front_step(View {
            own: self.own,
            peer,
            wanted,
            late,
        }))
    }

    fn act(&mut self, step: FrontStep, device: DeviceId) -> Result<(), Error> {
        match step {
            FrontStep::Wait => Ok(()),
            FrontStep::Restart => self.show(State::Initialising, &[]),
            FrontStep::Share => match self.share(device) {
                Ok(()) => Ok(()),
                Err(ShareError::Store(error)) => Err(error.into()),
                Err(error) => self.fail(device, &error.to_string()),
            },
            FrontStep::Serve => {
                self.show(State::Connected, &[])?;
                self.say(device, None);
                if let Some(control) = &self.control {
                    tracing::info!(%device, "connected");
                    self.clients.open(control.clone());
                }
                Ok(())
            }
            FrontStep::Close => {
                tracing::info!(%device, "closing");
                let lasted = match self.own {
                    State::Connected => self.since.elapsed(),
                    _ => Duration::ZERO,
                };
                self.rest.after(lasted);
                self.clients
                    .close("the vgpu device is being closed", PROGRAMS_PATIENCE);
                if let Some(control) = &self.control {
                    control.close();
                }
                self.show(State::Closing, &[])
            }
            FrontStep::Release => {
                self.control = None;
                self.show(State::Closed, &[])
            }
        }
    }

    /// Shares a new control ring and says where it is.
    fn share(&mut self, device: DeviceId) -> Result<(), ShareError> {
        let path = format!("{}/{}", device.backend_dir(), keys::VERSIONS);
        let versions = keys::value(&self.store, &path)?;
        let theirs = keys::parse_versions(&versions.unwrap_or_default());
        if !theirs.contains(&PROTOCOL_VERSION) {
            return Err(ShareError::Version { theirs });
        }
        let control = Control::share(self.platform.clone(), device.backend)?;
        let said = [
            (keys::VERSION, PROTOCOL_VERSION.to_string()),
            (keys::PROTOCOL, keys::PROTOCOL_VALUE.to_owned()),
            (keys::RING_REF, control.ring_ref().to_string()),
            (keys::EVENT_CHANNEL, control.port().to_string()),
        ];
        self.control = Some(Arc::new(control));
        keys::publish(&self.store, &self.dir, &said, State::Initialised)?;
        self.set(State::Initialised);
        Ok(())
    }

    /// Gives this connection up for now, and says why where people look for it.
    fn fail(&mut self, device: DeviceId, reason: &str) -> Result<(), Error> {
        tracing::error!(%device, "{reason}");
        self.rest.after(Duration::ZERO);
        self.control = None;
        self.say(device, Some(reason));
        self.show(State::Closed, &[])
    }

    /// Says where people look for it what is wrong, or that nothing is.
    fn say(&self, device: DeviceId, wrong: Option<&str>) {
        let path = device.frontend_error();
        let said = match wrong {
            Some(reason) => self.store.write(&path, reason),
            None => self.store.rm(&path),
        };
        // The log has it anyway; a domain may not be allowed the node.
        if let Err(error) = said {
            tracing::debug!(%error, "an error could not be written to XenStore");
        }
    }

    fn show(&mut self, state: State, said: &[(&str, String)]) -> Result<(), Error> {
        // A folder that is gone is noticed by the next look.
        keys::publish(&self.store, &self.dir, said, state)?;
        self.set(state);
        Ok(())
    }

    /// Sleeps until something changes.
    fn sleep(
        &self,
        watch: &Watch,
        stop: BorrowedFd<'_>,
        stopping: bool,
        deadline: Option<Instant>,
    ) -> Result<(), Error> {
        let mut fds = vec![watch.poll_fd()];
        fds.extend(self.backend.as_ref().map(|(_, watch)| watch.poll_fd()));
        if !stopping {
            fds.push(stop);
        }
        wait_any(&fds, deadline).map_err(Error::system("waiting for XenStore"))
    }
}

/// The module's own default allows 4 MiB of granted pages, which is less than one channel.
fn raise_gntalloc_limit(wanted: u32) {
    let path = "/sys/module/xen_gntalloc/parameters/limit";
    let now = std::fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    match now {
        Some(limit) if limit >= wanted => {}
        _ => match std::fs::write(path, wanted.to_string()) {
            Ok(()) => tracing::info!(pages = wanted, "raised the limit of granted pages"),
            Err(error) => tracing::warn!(
                "cannot raise the limit of granted pages from {} to {wanted}: {error}; load the module with `modprobe xen-gntalloc limit={wanted}`",
                now.map_or("an unknown number".to_owned(), |limit| limit.to_string()),
            ),
        },
    }
}
