//! The channels of one device: what frontd asks about them, and their workers.
//!
//! Nothing here waits: a request that takes time is answered later, when its worker has spoken or
//! ended. Nothing of a channel may be unmapped before its worker is reaped, and no request may leave a
//! channel half open.

use crate::gpu::Pass;
use crate::limits::{LimitReached, Reservation};
use crate::placement::Seat;
use crate::worker::{Launcher, StartError, Worker};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vgpu_protocol::PROTOCOL_VERSION;
use vgpu_protocol::admin::ChannelInfo;
use vgpu_protocol::backend::{FromBackd, FromWorker, MapRegion, REGION_LIMIT, Serve, UnmapRegion};
use vgpu_protocol::codec::Bytes;
use vgpu_protocol::control::{
    AddRegion, Answer, NAME_LIMIT, OpenChannel, RemoveRegion, Request, Status, TEXT_LIMIT,
    printable,
};
use vgpu_protocol::grants::{GrantListError, read_list};
use vgpu_protocol::packet::{self, PacketError};
use vgpu_protocol::quota::QuotaBack;
use vgpu_ring::{Layout, Side, Ticket};
use xen::{Access, DomId, EventChannel, GrantMap, Gref, PAGE_SIZE, Platform, Port};

/// How long a worker has to start its driver.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a worker has for a request about a region.
const REGION_PATIENCE: Duration = Duration::from_secs(30);
/// How long a worker has to end when asked to.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Limit(#[from] LimitReached),
    #[error("the channel's layout is wrong: {0}")]
    Layout(#[from] vgpu_ring::Error),
    #[error(transparent)]
    List(#[from] GrantListError),
    #[error(transparent)]
    Xen(#[from] xen::Error),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the worker cannot be told: {0}")]
    Packet(#[from] PacketError),
}

impl Refusal {
    fn answer(&self) -> Answer {
        let status = match self {
            Refusal::Invalid(_) | Refusal::Layout(_) => Status::Invalid,
            Refusal::Limit(_) => Status::Limit,
            Refusal::List(_) | Refusal::Xen(_) => Status::NotGranted,
            Refusal::Start(_) | Refusal::Packet(_) => Status::Worker,
        };
        Answer::refused(status, &self.to_string())
    }
}

/// What a channel needs of its device.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where Xen is.
    pub platform: Arc<dyn Platform>,
    /// The guest.
    pub frontend: DomId,
    /// How workers are started.
    pub launcher: Arc<Launcher>,
    /// What the guest is and has here.
    pub seat: Arc<Seat>,
}

/// The channels of one device.
#[derive(Debug)]
pub struct Channels {
    context: Context,
    channels: BTreeMap<u32, Channel>,
    answers: Vec<(Ticket, Answer)>,
}

#[derive(Debug)]
struct Channel {
    // In the order in which they must go: the process before its memory, the memory (whose unmapping
    // tells the program) before the event channel.
    worker: Worker,
    _slot: Slot,
    /// For each GPU that it may use. After the worker: what it has on the device ends with it.
    passes: Vec<Pass>,
    regions: BTreeMap<u32, Region>,
    memory: GrantMap,
    /// Kept for the notification when the memory is unmapped.
    _event: EventChannel,
    _reserved: Reservation,
    /// Only shown.
    info: ChannelInfo,
    /// Who waits for the worker to be ready.
    opening: Option<Ticket>,
    /// The worker has been told to end, or does so by itself.
    ending: bool,
    /// Why, by its own word or ours.
    reason: Option<String>,
    /// Who waits for the end.
    closing: Vec<Ticket>,
    /// What the worker has been asked about regions, in order.
    asked: VecDeque<Asked>,
    /// When patience with the worker ends.
    deadline: Option<Instant>,
}

/// A worker's part of its domain's memory quota; what it held is given back with it.
#[derive(Debug)]
struct Slot {
    quota: Arc<QuotaBack>,
    number: u32,
}

impl Slot {
    fn take(quota: &Arc<QuotaBack>) -> Result<Slot, Refusal> {
        let full = || Refusal::Invalid("the domain has as many workers as can be counted".into());
        Ok(Slot {
            number: quota.take_slot().ok_or_else(full)?,
            quota: quota.clone(),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.quota.end_slot(self.number);
    }
}

#[derive(Debug)]
struct Region {
    // The memory before what it is counted as.
    memory: GrantMap,
    _reserved: Reservation,
}

#[derive(Debug)]
struct Asked {
    ticket: Ticket,
    region: u32,
    add: bool,
}

fn within(patience: Duration) -> Option<Instant> {
    Instant::now().checked_add(patience)
}

impl Channels {
    /// None yet.
    pub fn new(context: Context) -> Channels {
        Channels {
            context,
            channels: BTreeMap::new(),
            answers: Vec::new(),
        }
    }

    /// Whether nothing is mapped, bound or running any more.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// What people are shown.
    pub fn info(&self) -> Vec<ChannelInfo> {
        self.channels.values().map(Channel::shown).collect()
    }

    /// Takes a request. Its answer is among [`Channels::take_answers`], now or later.
    pub fn request(&mut self, ticket: Ticket, request: &Request) {
        let answer = match request {
            Request::OpenChannel(open) => self.open(ticket, open),
            Request::CloseChannel(close) => match self.channels.get_mut(&close.channel) {
                Some(channel) => {
                    channel.closing.push(ticket);
                    channel.end("the frontend closed it");
                    Ok(None)
                }
                // Its worker has ended before.
                None => Ok(Some(Answer::done())),
            },
            Request::AddRegion(add) => self.add_region(ticket, add).map(|()| None),
            Request::RemoveRegion(remove) => self.remove_region(ticket, remove).map(|()| None),
        };
        match answer {
            Ok(None) => {}
            Ok(Some(answer)) => self.answers.push((ticket, answer)),
            Err(refusal) => {
                tracing::warn!(domid = %self.context.frontend, "a request is refused: {refusal}");
                self.answers.push((ticket, refusal.answer()));
            }
        }
    }

    /// The answers that are ready.
    pub fn take_answers(&mut self) -> Vec<(Ticket, Answer)> {
        std::mem::take(&mut self.answers)
    }

    fn open(&mut self, ticket: Ticket, open: &OpenChannel) -> Result<Option<Answer>, Refusal> {
        let Context {
            platform,
            frontend,
            launcher,
            seat,
        } = &self.context;
        if self.channels.contains_key(&open.channel) {
            return Err(Refusal::Invalid(format!(
                "channel {} is open already",
                open.channel
            )));
        }
        let layout = Layout::new(open.sq_bytes, open.cq_bytes, open.arena_bytes)?;
        if layout.total_bytes() != open.pages as usize * PAGE_SIZE {
            return Err(Refusal::Invalid(format!(
                "{} pages for a channel that takes {} bytes",
                open.pages,
                layout.total_bytes()
            )));
        }
        let member = seat
            .membership()
            .ok_or_else(|| Refusal::Invalid("the domain has no GPU".to_owned()))?;
        let reserved = seat.account().reserve(1, open.pages)?;
        let grefs = read_list(&**platform, *frontend, Gref(open.list), open.pages)?;
        let event = bind(&**platform, *frontend, Port(open.event_port))?;
        let memory = platform.map(*frontend, &grefs, Access::ReadWrite)?;
        // However the worker ends, the program learns it when its memory is unmapped here.
        memory.set_unmap_notify(Layout::live_offset(Side::Back), Some(&event))?;
        let slot = Slot::take(seat.quota())?;
        let mut fds = Vec::new();
        let (passes, gates) = member.add_channel(open.channel, &mut fds)?;
        let worker = launcher.start(seat.visible().as_deref())?;
        let serve = FromBackd::Serve(Serve {
            domid: frontend.0,
            channel: open.channel,
            sq_bytes: layout.sq_bytes,
            cq_bytes: layout.cq_bytes,
            arena_bytes: layout.arena_bytes,
            memory: packet::put_extents(memory.extents(), &mut fds),
            event: packet::put_event(&event, &mut fds)?,
            driver: Bytes(launcher.driver.as_bytes().to_vec()),
            gates,
            quota: seat.quota().put(slot.number, &mut fds),
        });
        worker.send(&serve, &borrowed(&fds))?;
        let info = ChannelInfo {
            channel: open.channel,
            phase: String::new(),
            pid: open.pid,
            uid: open.uid,
            program: printable(&open.name.0, NAME_LIMIT),
            worker: worker.pid(),
            pages: 0,
        };
        tracing::debug!(domid = %frontend, channel = open.channel, worker = worker.pid(), "worker started");
        let channel = Channel {
            worker,
            _slot: slot,
            passes,
            regions: BTreeMap::new(),
            memory,
            _event: event,
            _reserved: reserved,
            info,
            opening: Some(ticket),
            ending: false,
            reason: None,
            closing: Vec::new(),
            asked: VecDeque::new(),
            deadline: within(START_PATIENCE),
        };
        self.channels.insert(open.channel, channel);
        Ok(None)
    }

    /// A channel that is open, and not about to end.
    fn serving(&mut self, number: u32) -> Result<&mut Channel, Refusal> {
        self.channels
            .get_mut(&number)
            .filter(|channel| channel.opening.is_none() && !channel.ending)
            .ok_or_else(|| Refusal::Invalid(format!("channel {number} is not open")))
    }

    fn add_region(&mut self, ticket: Ticket, add: &AddRegion) -> Result<(), Refusal> {
        let Context {
            platform,
            frontend,
            seat,
            ..
        } = self.context.clone();
        let channel = self.serving(add.channel)?;
        if add.region == 0 || channel.regions.contains_key(&add.region) {
            return Err(Refusal::Invalid(format!(
                "{} is no free number for a region",
                add.region
            )));
        }
        if channel.regions.len() >= REGION_LIMIT {
            return Err(Refusal::Invalid(format!(
                "a channel has at most {REGION_LIMIT} regions"
            )));
        }
        let reserved = seat.account().reserve(0, add.pages)?;
        let grefs = read_list(&*platform, frontend, Gref(add.list), add.pages)?;
        let memory = platform.map(frontend, &grefs, Access::ReadWrite)?;
        let mut fds = Vec::new();
        let memory_named = packet::put_extents(memory.extents(), &mut fds);
        let map = FromBackd::MapRegion(MapRegion {
            region: add.region,
            memory: memory_named,
        });
        channel.worker.send(&map, &borrowed(&fds))?;
        channel.regions.insert(
            add.region,
            Region {
                memory,
                _reserved: reserved,
            },
        );
        channel.ask(Asked {
            ticket,
            region: add.region,
            add: true,
        });
        Ok(())
    }

    fn remove_region(&mut self, ticket: Ticket, remove: &RemoveRegion) -> Result<(), Refusal> {
        let channel = self.serving(remove.channel)?;
        let known = channel.regions.contains_key(&remove.region);
        if !known
            || channel
                .asked
                .iter()
                .any(|asked| asked.region == remove.region)
        {
            let text = format!(
                "channel {} has no region {} to remove",
                remove.channel, remove.region
            );
            return Err(Refusal::Invalid(text));
        }
        channel.worker.send(
            &FromBackd::UnmapRegion(UnmapRegion {
                region: remove.region,
            }),
            &[],
        )?;
        channel.ask(Asked {
            ticket,
            region: remove.region,
            add: false,
        });
        Ok(())
    }

    /// Ends all channels; they are gone once [`Channels::is_empty`].
    pub fn end_all(&mut self, why: &str) {
        for channel in self.channels.values_mut() {
            channel.end(why);
        }
    }

    /// Looks at all workers: takes what they say, notices those that ended, loses patience.
    pub fn attend(&mut self) {
        let now = Instant::now();
        let (domid, answers) = (self.context.frontend, &mut self.answers);
        self.channels.retain(|number, channel| {
            channel.listen(answers);
            if let Some(how) = channel.worker.ended() {
                // What it said last is read before it is forgotten.
                channel.listen(answers);
                channel.finish(&how, answers);
                let reason = channel.reason.as_deref().unwrap_or("its worker ended");
                let wanted = !channel.closing.is_empty();
                tracing::info!(%domid, channel = number, wanted, worker = how, "channel ended: {reason}");
                return false;
            }
            if let Some(reason) = channel.passes.iter().find_map(|pass| pass.sentence()) {
                let reason = reason.to_owned();
                channel.end(&reason);
            }
            if channel.deadline.is_some_and(|at| at <= now) {
                channel.lose_patience();
            }
            true
        });
    }

    /// When [`Channels::attend`] is to be called though no worker stirs.
    pub fn deadline(&self) -> Option<Instant> {
        self.channels
            .values()
            .filter_map(|channel| channel.deadline)
            .min()
    }

    /// What becomes readable when a worker stirs.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.channels.values().flat_map(|channel| {
            let passes = channel.passes.iter().map(|pass| pass.as_fd());
            channel.worker.descriptors().chain(passes)
        })
    }
}

impl Channel {
    fn shown(&self) -> ChannelInfo {
        let phase = match (self.ending, self.opening) {
            (true, _) => "ending",
            (false, Some(_)) => "starting",
            (false, None) => "serving",
        };
        let regions = self.regions.values().map(|region| region.memory.pages());
        let pages = regions.fold(self.memory.pages(), u32::saturating_add);
        ChannelInfo {
            phase: phase.to_owned(),
            pages,
            ..self.info.clone()
        }
    }

    fn ask(&mut self, asked: Asked) {
        if self.asked.is_empty() {
            self.deadline = within(REGION_PATIENCE);
        }
        self.asked.push_back(asked);
    }

    /// The worker ends, by itself or because it is told to. True the first time.
    fn begin_end(&mut self, why: &str) -> bool {
        if self.ending {
            return false;
        }
        self.ending = true;
        self.reason.get_or_insert_with(|| why.to_owned());
        self.deadline = within(END_PATIENCE);
        true
    }

    /// Tells the worker to end.
    fn end(&mut self, why: &str) {
        if !self.begin_end(why) {
            return;
        }
        match self.opening {
            // It does not listen before its driver is up, and has nothing registered.
            Some(_) => self.worker.kill(),
            None => self.worker.hang_up(),
        }
    }

    fn lose_patience(&mut self) {
        match (self.ending, self.opening) {
            (true, _) => {
                tracing::warn!(
                    worker = self.worker.pid(),
                    "a worker does not end: killing it"
                );
                self.deadline = None;
                self.worker.kill();
            }
            (false, Some(_)) => self.end("its worker was not ready in time"),
            (false, None) => self.end("its worker did not do what it was asked in time"),
        }
    }

    /// Takes what the worker says.
    fn listen(&mut self, answers: &mut Vec<(Ticket, Answer)>) {
        loop {
            match self.worker.receive() {
                Ok(None) => return,
                Ok(Some(FromWorker::Ready(ready))) => match (ready.version, self.opening.take()) {
                    (PROTOCOL_VERSION, Some(ticket)) => {
                        self.deadline = None;
                        answers.push((ticket, Answer::done()));
                    }
                    (version, opening) => {
                        self.opening = opening;
                        self.end(&format!(
                            "its worker speaks version {version} and vgpu-backd version {PROTOCOL_VERSION}; install both from the same release"
                        ));
                    }
                },
                Ok(Some(FromWorker::RegionDone(done))) => {
                    let asked = self.asked.pop_front();
                    self.deadline = match self.asked.is_empty() {
                        true => None,
                        false => within(REGION_PATIENCE),
                    };
                    match asked {
                        Some(asked) if asked.region == done.region => {
                            let failed = !done.error.0.is_empty();
                            // A region that was not mapped, or is not any more, is let go.
                            if asked.add == failed {
                                self.regions.remove(&asked.region);
                            }
                            let answer = match failed {
                                false => Answer::done(),
                                true => Answer::refused(
                                    Status::Worker,
                                    &printable(&done.error.0, TEXT_LIMIT),
                                ),
                            };
                            answers.push((asked.ticket, answer));
                        }
                        asked => {
                            self.asked.extend(asked);
                            self.end("its worker answered what it was not asked");
                        }
                    }
                }
                Ok(Some(FromWorker::Ended(ended))) => {
                    self.reason = Some(printable(&ended.reason.0, TEXT_LIMIT));
                }
                Err(PacketError::Closed) => {
                    self.begin_end("its worker hung up");
                    return;
                }
                Err(error) => {
                    return self.end(&format!("its worker cannot be understood: {error}"));
                }
            }
        }
    }

    /// The worker is reaped: answers everybody who waits.
    fn finish(&mut self, how: &str, answers: &mut Vec<(Ticket, Answer)>) {
        let reason = self
            .reason
            .get_or_insert_with(|| format!("its worker ended ({how})"));
        let refused = Answer::refused(Status::Worker, &format!("the channel has ended: {reason}"));
        let waiting = self
            .opening
            .take()
            .into_iter()
            .chain(self.asked.drain(..).map(|asked| asked.ticket));
        answers.extend(waiting.map(|ticket| (ticket, refused.clone())));
        answers.extend(self.closing.iter().map(|ticket| (*ticket, Answer::done())));
    }
}

fn borrowed(fds: &[Arc<OwnedFd>]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(|fd| fd.as_fd()).collect()
}

/// Binds a guest's event channel, through a descriptor that can bind nobody else's.
pub(crate) fn bind(
    platform: &dyn Platform,
    frontend: DomId,
    port: Port,
) -> Result<EventChannel, xen::Error> {
    let event = platform.bind_interdomain(frontend, port)?;
    // Linux knows no restriction to domain 0.
    if frontend != DomId(0) {
        event.restrict(frontend)?;
    }
    Ok(event)
}
