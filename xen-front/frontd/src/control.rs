//! The control ring: how frontd asks backd for channels and regions.
//!
//! Any thread may ask; each waits for its own answer. Granted pages must never be taken back before
//! backd has said that it has unmapped them, unless it does not answer any more: then the kernel keeps
//! them from being used again for as long as they are mapped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vgpu_protocol::channel::{Bell, shared_memory};
use vgpu_protocol::codec::{Bytes, Codec, DecodeError};
use vgpu_protocol::control::{
    AddRegion, Answer, CloseChannel, LAYOUT, OpenChannel, RemoveRegion, Request, Status,
};
use vgpu_protocol::grants::{GrantList, GrantListError};
use vgpu_ring::{Front, Layout, Side, SpinPolicy};
use xen::{Access, DomId, EventChannel, Extent, Granted, Gref, PAGE_SIZE, Platform, Port};

/// The smallest arena a channel is opened with where grants are scarce.
const ARENA_LEAST_BYTES: u32 = 256 * 1024;

/// Why a channel or region could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// backd refused.
    #[error("the backend refused: {1}")]
    Refused(Status, String),
    /// The control ring is dead.
    #[error("the control ring to the backend failed: {0}")]
    Ring(#[from] vgpu_ring::Error),
    /// backd's answer makes no sense.
    #[error(
        "the backend's answer makes no sense: {0}; frontend and backend must be of compatible versions"
    )]
    Nonsense(#[from] DecodeError),
    /// The list of grant references could not be made.
    #[error(transparent)]
    List(#[from] GrantListError),
    /// Pages or an event channel could not be had.
    #[error(transparent)]
    Xen(#[from] xen::Error),
}

impl ControlError {
    /// Whether this domain ran out of pages that it may grant.
    pub fn is_grant_limit(&self) -> bool {
        matches!(
            self,
            ControlError::Xen(xen::Error::LimitReached { .. })
                | ControlError::List(GrantListError::Xen(xen::Error::LimitReached { .. }))
        )
    }
}

/// Grants pages to the backend, with the list that names them.
fn grant(
    platform: &dyn Platform,
    peer: DomId,
    pages: u32,
) -> Result<(Granted, GrantList), ControlError> {
    let granted = platform.grant(peer, pages, Access::ReadWrite)?;
    let list = GrantList::new(platform, peer, granted.grefs())?;
    Ok((granted, list))
}

/// The control ring of a device that is being connected or is connected.
#[derive(Debug)]
pub struct Control {
    // In the order in which they must go: the ring's mapping before its pages and its doorbell.
    front: Front,
    _pages: Granted,
    /// Kept until the backend has read it, and it is small.
    list: GrantList,
    bell: Arc<Bell>,
    platform: Arc<dyn Platform>,
    peer: DomId,
    next_channel: AtomicU32,
}

impl Control {
    /// Shares a new control ring with the backend's domain.
    ///
    /// # Errors
    /// Whatever granting, mapping and binding say.
    pub fn share(platform: Arc<dyn Platform>, peer: DomId) -> Result<Control, ControlError> {
        let (pages, list) = grant(&*platform, peer, pages_of(LAYOUT.total_bytes() as u64))?;
        let bell = Arc::new(Bell(event_channel(&*platform, peer)?));
        let memory = shared_memory(pages.mmap()?);
        let front = Front::new(memory, LAYOUT, bell.clone(), SpinPolicy::NEVER)?;
        // If this process dies, the backend learns it at once.
        pages.set_unmap_notify(Layout::live_offset(Side::Front), Some(&bell.0))?;
        Ok(Control {
            front,
            _pages: pages,
            list,
            bell,
            platform,
            peer,
            next_channel: AtomicU32::new(1),
        })
    }

    /// What the node `ring-ref` says.
    pub fn ring_ref(&self) -> Gref {
        self.list.gref()
    }

    /// What the node `event-channel` says.
    pub fn port(&self) -> Port {
        self.bell.0.port()
    }

    /// Ends the control ring: who waits for an answer gets an error.
    pub fn close(&self) {
        if let Err(error) = self.front.close(vgpu_ring::reason::DROPPED) {
            tracing::debug!(%error, "the backend was not told that the control ring is closed");
        }
    }

    /// Whether the backend still holds its end.
    pub fn is_alive(&self) -> bool {
        self.front.check().is_ok()
    }

    fn ask(&self, request: &Request) -> Result<(), ControlError> {
        let ticket = self.front.submit(&[&request.encode()], true)?;
        let answer = Answer::decode(&self.front.wait(ticket)?)?;
        answer
            .result()
            .map_err(|(status, text)| ControlError::Refused(status, text))
    }

    /// Opens a channel for a program. The arena is smaller than asked for where this domain cannot
    /// grant as much.
    ///
    /// # Errors
    /// [`ControlError`]; nothing is left then.
    pub fn open_channel(
        self: &Arc<Self>,
        layout: Layout,
        who: &Program,
    ) -> Result<Channel, ControlError> {
        let (layout, (pages, list)) = self.grant_channel(layout)?;
        let event = event_channel(&*self.platform, self.peer)?;
        let number = self.next_channel.fetch_add(1, Ordering::Relaxed);
        // The header is written before the worker looks at it. The program writes the same once more.
        let bell = Arc::new(Bell(event));
        let memory = shared_memory(pages.mmap()?);
        let front = Front::new(memory, layout, bell.clone(), SpinPolicy::NEVER)?;
        // From here on a failure closes the channel, however far the backend has come with it.
        let channel = Channel {
            front: Some(front),
            number,
            layout,
            regions: Vec::new(),
            pages,
            bell,
            next_region: 1,
            control: self.clone(),
        };
        self.ask(&Request::OpenChannel(OpenChannel {
            channel: number,
            list: list.gref().0,
            pages: pages_of(layout.total_bytes() as u64),
            event_port: channel.bell.0.port().0,
            sq_bytes: layout.sq_bytes,
            cq_bytes: layout.cq_bytes,
            arena_bytes: layout.arena_bytes,
            uid: who.uid,
            pid: who.pid,
            name: Bytes(who.name.as_bytes().to_vec()),
        }))?;
        Ok(channel)
    }

    fn grant_channel(
        &self,
        mut layout: Layout,
    ) -> Result<(Layout, (Granted, GrantList)), ControlError> {
        loop {
            let pages = pages_of(layout.total_bytes() as u64);
            match grant(&*self.platform, self.peer, pages) {
                Err(error)
                    if error.is_grant_limit() && layout.arena_bytes / 2 >= ARENA_LEAST_BYTES =>
                {
                    let half = layout.arena_bytes / 2;
                    // A multiple of whole pages, as layouts must be.
                    layout.arena_bytes = half.saturating_sub(half % PAGE_SIZE as u32);
                    tracing::warn!(arena_bytes = layout.arena_bytes, "a smaller arena: {error}");
                }
                Err(error) => return Err(error),
                Ok(pages) => return Ok((layout, pages)),
            }
        }
    }
}

/// Which program a channel is for; only shown by the backend.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its user.
    pub uid: u32,
    /// Its process.
    pub pid: u32,
    /// Its name, cut to what the protocol carries.
    pub name: String,
}

/// A program's channel. Dropping it closes it: its pages are taken back once the backend has unmapped
/// them.
#[derive(Debug)]
pub struct Channel {
    front: Option<Front>,
    number: u32,
    layout: Layout,
    regions: Vec<(u32, Granted)>,
    pages: Granted,
    bell: Arc<Bell>,
    next_region: u32,
    control: Arc<Control>,
}

impl Channel {
    /// The channel's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Its memory.
    pub fn extents(&self) -> &[Extent] {
        self.pages.extents()
    }

    /// Its event channel.
    pub fn event(&self) -> &EventChannel {
        &self.bell.0
    }

    /// Grants more pages and has the worker map them: the region's number and its memory.
    ///
    /// # Errors
    /// [`ControlError`]; nothing is left then.
    pub fn add_region(&mut self, bytes: u64) -> Result<(u32, &[Extent]), ControlError> {
        let pages = pages_of(bytes);
        let (memory, list) = grant(&*self.control.platform, self.control.peer, pages)?;
        let region = self.next_region;
        self.control.ask(&Request::AddRegion(AddRegion {
            channel: self.number,
            region,
            list: list.gref().0,
            pages,
        }))?;
        self.next_region = region.checked_add(1).unwrap_or(1);
        self.regions.push((region, memory));
        let extents = self
            .regions
            .last()
            .map_or(&[][..], |(_, memory)| memory.extents());
        Ok((region, extents))
    }

    /// Takes a region back.
    ///
    /// # Errors
    /// [`ControlError`]; the region stays then.
    pub fn remove_region(&mut self, region: u32) -> Result<(), ControlError> {
        let Some(at) = self
            .regions
            .iter()
            .position(|(number, _)| *number == region)
        else {
            let text = format!("channel {} has no region {region}", self.number);
            return Err(ControlError::Refused(Status::Invalid, text));
        };
        self.control.ask(&Request::RemoveRegion(RemoveRegion {
            channel: self.number,
            region,
        }))?;
        drop(self.regions.swap_remove(at));
        Ok(())
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // Tells the worker through the channel itself, and unmaps it here.
        self.front = None;
        let request = Request::CloseChannel(CloseChannel {
            channel: self.number,
        });
        match self.control.ask(&request) {
            Ok(()) => tracing::debug!(channel = self.number, "channel closed"),
            // A backend that is gone has unmapped everything. From one that misbehaves the kernel
            // keeps the pages: it frees a granted page only when nobody maps it any more.
            Err(error) => {
                tracing::debug!(channel = self.number, %error, "channel closed without the backend")
            }
        }
    }
}

fn pages_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PAGE_SIZE as u64)).unwrap_or(u32::MAX)
}

/// An event channel that only the backend's domain may bind, made fit to be passed on.
fn event_channel(platform: &dyn Platform, peer: DomId) -> Result<EventChannel, xen::Error> {
    let event = platform.bind_unbound(peer)?;
    // Linux knows no restriction to domain 0.
    if peer != DomId(0) {
        event.restrict(peer)?;
    }
    Ok(event)
}
