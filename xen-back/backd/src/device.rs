//! One device: a thread that steps the backend's state machine and serves the control ring.
//!
//! The thread alone touches the device, so that nothing is torn down twice or half. Whatever the guest
//! does ends at this device. It must never show `Closing` while anything of the guest is mapped.

use crate::Error;
use crate::channels::{Channels, Context, bind};
use crate::limits::Reservation;
use crate::placement::Entry;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vgpu_protocol::PROTOCOL_VERSION;
use vgpu_protocol::admin::DeviceInfo;
use vgpu_protocol::channel::{Bell, shared_memory};
use vgpu_protocol::codec::{Codec, DecodeError};
use vgpu_protocol::control::{LAYOUT, Request};
use vgpu_protocol::grants::{GrantListError, read_list};
use vgpu_protocol::keys::{self, DeviceId};
use vgpu_protocol::wait::{Wake, is_ready, wait_any};
use vgpu_protocol::xenbus::{BackStep, PATIENCE, Rest, State, View, back_step};
use vgpu_ring::{Back, Completer, Layout, Side, SpinPolicy};
use xen::store::StoreError;
use xen::{Access, GrantMap, Gref, PAGE_SIZE, Port, Store, Watch};

/// How long a frontend has to close when this backend stops.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// How long a frontend may leave answers untaken.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Requests that are taken before the rest of the device is looked at.
const BATCH: usize = 64;
/// The pause after a signal that announced nothing: a guest cannot make us spin.
const SPURIOUS: Duration = Duration::from_millis(1);

/// What the daemon wants of a device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Order {
    /// Serve it.
    Serve,
    /// Close it, leaving it to the next backd.
    Stop,
    /// Its domain is gone: let go of everything, and remove what is left in XenStore.
    Gone,
}

/// What the daemon and a device's thread share.
#[derive(Debug)]
pub struct Handle {
    order: Mutex<Order>,
    wake: Wake,
    info: Mutex<DeviceInfo>,
}

impl Handle {
    /// For a device that is to be served.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn new() -> std::io::Result<Handle> {
        Ok(Handle {
            order: Mutex::new(Order::Serve),
            wake: Wake::new()?,
            info: Mutex::default(),
        })
    }

    /// Orders something else from now on. A domain that is gone stays gone.
    pub fn order(&self, order: Order) {
        let mut now = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != Order::Gone {
            *now = order;
        }
        self.wake.wake();
    }

    /// Has the device looked at again.
    pub fn nudge(&self) {
        self.wake.wake();
    }

    fn ordered(&self) -> Order {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What people are shown.
    pub fn info(&self) -> DeviceInfo {
        self.info
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Why a frontend could not be connected.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("the frontend's {key} is {found:?}, and must be {expected}")]
    Key {
        key: &'static str,
        found: Option<String>,
        expected: String,
    },
    #[error(transparent)]
    Limit(#[from] crate::limits::LimitReached),
    #[error(transparent)]
    List(#[from] GrantListError),
    #[error(transparent)]
    Xen(#[from] xen::Error),
    #[error(transparent)]
    Ring(#[from] vgpu_ring::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a control ring is given up.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error(transparent)]
    Ring(#[from] vgpu_ring::Error),
    #[error("a request makes no sense: {0}")]
    Decode(#[from] DecodeError),
    #[error("a request wants no answer")]
    NoAnswer,
}

/// The control ring, mapped.
#[derive(Debug)]
struct Control {
    // In the order in which they must go: the mapping before the grants and the doorbell.
    back: Back,
    completer: Completer,
    _map: GrantMap,
    bell: Arc<Bell>,
    _reserved: Reservation,
}

/// A device's thread.
#[derive(Debug)]
pub struct Device {
    id: DeviceId,
    domain: String,
    store: Store,
    handle: Arc<Handle>,
    context: Context,
    channels: Channels,
    control: Option<Control>,
    /// The control ring has failed since the last connection.
    broken: bool,
    own: State,
    since: Instant,
    connected: Option<Instant>,
    rest: Rest,
    offers: u32,
    /// Why the domain is not let in.
    refused: Option<String>,
}

impl Device {
    /// The device as its nodes say.
    ///
    /// # Errors
    /// XenStore's.
    pub fn new(
        id: DeviceId,
        store: Store,
        handle: Arc<Handle>,
        context: Context,
    ) -> Result<Device, Error> {
        let dir = id.backend_dir();
        let domain = keys::value(&store, &format!("{dir}/{}", keys::DOMAIN))?.unwrap_or_default();
        // What a predecessor showed is not true of us, unless it showed that it had nothing.
        let own = match keys::state(&store, &dir)? {
            own @ (State::Initialising | State::Closed) => own,
            _ => State::Unknown,
        };
        Ok(Device {
            id,
            domain: String::from_utf8_lossy(&domain).into_owned(),
            store,
            handle,
            channels: Channels::new(context.clone()),
            context,
            control: None,
            broken: false,
            own,
            since: Instant::now(),
            connected: None,
            rest: Rest::default(),
            offers: 0,
            refused: None,
        })
    }

    /// Serves the device until it is gone or no longer wanted.
    ///
    /// # Errors
    /// XenStore's. What a guest does is none.
    pub fn serve(mut self) -> Result<(), Error> {
        let peer = self
            .store
            .watch(&format!("{}/{}", self.id.frontend_dir(), keys::STATE))?;
        let online = self
            .store
            .watch(&format!("{}/{}", self.id.backend_dir(), keys::ONLINE))?;
        tracing::info!(device = %self.id, domain = self.domain, "serving");
        loop {
            // Taken before looking, so that what comes later is looked at once more.
            self.handle.wake.clear();
            for watch in [&peer, &online] {
                while watch.next(Some(Duration::ZERO))?.is_some() {}
            }
            let more = self.serve_control();
            self.channels.attend();
            self.answer();
            let order = self.handle.ordered();
            let path = format!("{}/{}", self.id.backend_dir(), keys::STATE);
            let nodes = keys::value(&self.store, &path)?;
            if order == Order::Gone || nodes.is_none() {
                if self.let_go("the domain or its device is gone") {
                    // Whoever removed the nodes may be making them anew: only a domain's end is ours
                    // to clean up after.
                    if order == Order::Gone {
                        keys::remove_device(&self.store, self.id)?;
                    }
                    tracing::info!(device = %self.id, domain = self.domain, "removed");
                    return Ok(());
                }
                self.sleep(&[&peer, &online], None)?;
                continue;
            }
            let (step, deadline) = self.step(order)?;
            match step {
                BackStep::Wait => self.sleep(
                    &[&peer, &online],
                    if more { Some(Instant::now()) } else { deadline },
                )?,
                BackStep::Remove if order == Order::Stop => return Ok(()),
                BackStep::Remove => {
                    keys::remove_device(&self.store, self.id)?;
                    tracing::info!(device = %self.id, domain = self.domain, "detached");
                    return Ok(());
                }
                BackStep::Close => {
                    if self.let_go("the device is being closed") {
                        self.show(State::Closing, &[])?;
                    } else {
                        self.sleep(&[&peer, &online], None)?;
                    }
                }
                BackStep::Offer => self.offer()?,
                BackStep::Connect => match self.connect() {
                    Ok(()) => {}
                    Err(ConnectError::Store(error)) => return Err(error.into()),
                    Err(error) => self.fail(&error.to_string())?,
                },
                BackStep::Finish => self.show(State::Closed, &[])?,
            }
        }
    }

    /// What to do next, or until when to wait.
    fn step(&mut self, order: Order) -> Result<(BackStep, Option<Instant>), Error> {
        let peer = match self.broken && self.own == State::Connected {
            // Whatever it shows: its control ring is of no more use.
            true => State::Unknown,
            false => keys::state(&self.store, &self.id.frontend_dir())?,
        };
        let wanted = order == Order::Serve && keys::is_online(&self.store, self.id)?;
        let patience = match order {
            Order::Stop => STOP_PATIENCE,
            _ => PATIENCE,
        };
        let late = self.since.elapsed() >= patience;
        let step = back_step(View {
            own: self.own,
            peer,
            wanted,
            late,
        });
        if step != BackStep::Wait {
            tracing::debug!(device = %self.id, own = self.own.name(), peer = peer.name(), wanted, late, ?step, "stepping");
        }
        if step == BackStep::Offer
            && let Some(until) = self.rest.before(Instant::now())
        {
            return Ok((BackStep::Wait, Some(until)));
        }
        if step == BackStep::Offer && !self.enter()? {
            // The daemon wakes us when something has become free.
            return Ok((BackStep::Wait, None));
        }
        let deadline = match self.own {
            State::Closing => self.since.checked_add(patience),
            _ => None,
        };
        Ok((step, deadline))
    }

    /// Whether the domain is let in. Where it is not, people are told why, once for each reason.
    fn enter(&mut self) -> Result<bool, Error> {
        let refused = match self.context.seat.enter() {
            Entry::Yes => None,
            Entry::NotYet => return Ok(false),
            Entry::Refused(why) => Some(why),
        };
        if refused != self.refused {
            match &refused {
                Some(why) => {
                    tracing::warn!(device = %self.id, domain = self.domain, "refused for now: {why}");
                    let error = format!("refused for now: {why}");
                    self.store.write(&self.id.backend_error(), &error)?;
                }
                None => {
                    tracing::info!(device = %self.id, domain = self.domain, "let in");
                    self.store.rm(&self.id.backend_error())?;
                }
            }
            self.refused = refused;
            self.tell();
        }
        Ok(self.refused.is_none())
    }

    fn show(&mut self, state: State, said: &[(&str, String)]) -> Result<(), Error> {
        // A folder that is gone is noticed by the next look.
        keys::publish(&self.store, &self.id.backend_dir(), said, state)?;
        self.own = state;
        self.since = Instant::now();
        Ok(())
    }

    fn offer(&mut self) -> Result<(), Error> {
        let limits = self.context.seat.account().limits();
        self.offers = self.offers.wrapping_add(1);
        let said = [
            (keys::VERSIONS, PROTOCOL_VERSION.to_string()),
            (keys::MAX_CHANNELS, limits.channels.to_string()),
            (keys::MAX_PAGES, limits.pages.to_string()),
            (
                keys::SESSION,
                format!("{}-{}", std::process::id(), self.offers),
            ),
        ];
        self.show(State::InitWait, &said)
    }

    /// Checks what the frontend says it has shared, maps and binds it.
    fn connect(&mut self) -> Result<(), ConnectError> {
        let dir = self.id.frontend_dir();
        for (key, expected) in [
            (keys::VERSION, PROTOCOL_VERSION.to_string()),
            (keys::PROTOCOL, keys::PROTOCOL_VALUE.to_owned()),
        ] {
            let found = keys::value(&self.store, &format!("{dir}/{key}"))?;
            if found.as_deref() != Some(expected.as_bytes()) {
                let found = found.map(|bytes| vgpu_protocol::control::printable(&bytes, 64));
                return Err(ConnectError::Key {
                    key,
                    found,
                    expected,
                });
            }
        }
        let number = |key| {
            keys::number::<u32>(&self.store, &format!("{dir}/{key}"))?.ok_or(ConnectError::Key {
                key,
                found: None,
                expected: "a number".to_owned(),
            })
        };
        let list = Gref(number(keys::RING_REF)?);
        let port = Port(number(keys::EVENT_CHANNEL)?);
        let pages = LAYOUT.total_bytes().div_ceil(PAGE_SIZE) as u32;
        let Context {
            platform,
            frontend,
            seat,
            ..
        } = &self.context;
        let reserved = seat.account().reserve(0, pages)?;
        let grefs = read_list(&**platform, *frontend, list, pages)?;
        let bell = Arc::new(Bell(bind(&**platform, *frontend, port)?));
        let map = platform.map(*frontend, &grefs, Access::ReadWrite)?;
        map.set_unmap_notify(Layout::live_offset(Side::Back), Some(&bell.0))?;
        let memory = shared_memory(map.mmap()?);
        let back = Back::attach(
            memory,
            LAYOUT,
            bell.clone(),
            SpinPolicy::NEVER,
            ANSWER_PATIENCE,
        )?;
        let completer = back.completer();
        self.control = Some(Control {
            back,
            completer,
            _map: map,
            bell,
            _reserved: reserved,
        });
        self.broken = false;
        self.connected = Some(Instant::now());
        keys::publish(&self.store, &self.id.backend_dir(), &[], State::Connected)?;
        self.own = State::Connected;
        self.since = Instant::now();
        self.store.rm(&self.id.backend_error())?;
        tracing::info!(device = %self.id, domain = self.domain, "connected");
        Ok(())
    }

    /// Gives this frontend up for now, and says why where people look for it.
    fn fail(&mut self, reason: &str) -> Result<(), Error> {
        tracing::error!(device = %self.id, domain = self.domain, "{reason}");
        self.rest.after(Duration::ZERO);
        self.store.write(&self.id.backend_error(), reason)?;
        self.show(State::Closing, &[])
    }

    /// Lets go of everything of the guest's. True once nothing is left.
    fn let_go(&mut self, why: &str) -> bool {
        if let Some(connected) = self.connected.take() {
            tracing::info!(device = %self.id, domain = self.domain, "closing: {why}");
            self.rest.after(connected.elapsed());
        }
        self.channels.end_all(why);
        self.channels.attend();
        self.answer();
        let done = self.channels.is_empty();
        if done {
            // Last, so that the frontend gets its answers.
            self.control = None;
        }
        done
    }

    /// Takes requests. True where there may be more at once.
    fn serve_control(&mut self) -> bool {
        let Some(control) = &mut self.control else {
            return false;
        };
        if self.broken {
            return false;
        }
        let rung = is_ready(control.bell.0.poll_fd());
        match serve_batch(control, &mut self.channels) {
            Ok(0) if rung => {
                std::thread::sleep(SPURIOUS);
                false
            }
            Ok(taken) => taken == BATCH,
            Err(error) => {
                tracing::info!(device = %self.id, domain = self.domain, "the control ring has ended: {error}");
                self.broken = true;
                false
            }
        }
    }

    /// Sends the answers that are ready.
    fn answer(&mut self) {
        let answers = self.channels.take_answers();
        if let Some(control) = self.control.as_ref().filter(|_| !self.broken) {
            for (ticket, answer) in answers {
                if let Err(error) = control.completer.complete(ticket, &[&answer.encode()]) {
                    tracing::info!(device = %self.id, domain = self.domain, "an answer cannot be given: {error}");
                    self.broken = true;
                    break;
                }
            }
        }
        self.tell();
    }

    /// Shows people how things are.
    fn tell(&self) {
        let mut info = self
            .handle
            .info
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *info = DeviceInfo {
            domid: self.id.frontend.0,
            domain: self.domain.clone(),
            devid: self.id.devid,
            state: self.own.name().to_owned(),
            gpus: self.context.seat.gpus(),
            refused: self.refused.clone().unwrap_or_default(),
            channels: self.channels.info(),
        };
    }

    /// Sleeps until something stirs.
    fn sleep(&self, watches: &[&Watch], deadline: Option<Instant>) -> Result<(), Error> {
        let mut fds: Vec<BorrowedFd<'_>> = watches.iter().map(|watch| watch.poll_fd()).collect();
        fds.push(self.handle.wake.as_fd());
        if let Some(control) = self.control.as_ref().filter(|_| !self.broken) {
            fds.push(control.bell.0.poll_fd());
        }
        fds.extend(self.channels.descriptors());
        let deadline = [deadline, self.channels.deadline()]
            .into_iter()
            .flatten()
            .min();
        wait_any(&fds, deadline).map_err(Error::system("waiting for a device"))
    }
}

/// Takes at most [`BATCH`] requests; says how many.
fn serve_batch(control: &mut Control, channels: &mut Channels) -> Result<usize, ControlError> {
    let mut record = Vec::new();
    for taken in 0..BATCH {
        let Some(submission) = control.back.next(&mut record, Some(Duration::ZERO))? else {
            return Ok(taken);
        };
        if !submission.wants_answer {
            return Err(ControlError::NoAnswer);
        }
        channels.request(submission.ticket, &Request::decode(&record)?);
        control.back.retire()?;
    }
    Ok(BATCH)
}
