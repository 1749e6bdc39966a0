//! The GPUs: which there are, who may use them when, and what each domain has had of them.
//!
//! Each GPU has a thread; the rest of vgpu-backd gives it orders and never waits for it longer than for an
//! answer. A worker's work passes a gate that this thread opens (ring/protocol/src/gate.rs); who goes next
//! is vgpu-sched's decision. What a channel needs of a GPU is a [`Pass`], and must not outlive its worker
//! for long: a turn ends with its pass.

mod arbiter;
mod record;
#[cfg(test)]
mod tests;
mod thread;

pub use record::{Recorder, Recording, recording};

use crate::cpu::Presence;
use arbiter::{Arbiter, Key};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use thread::{FIRST_KEY, Thread};
use vgpu_protocol::admin::GpuStats;
use vgpu_protocol::gate::{GateBack, WireGate, now_ns};
use vgpu_protocol::packet::PacketError;
use vgpu_protocol::wait::Wake;
use vgpu_sched::{CpuState, Limits, PolicyKind, Share};

/// How long a GPU's thread has for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How GPUs are shared, as the command line says.
#[derive(Copy, Clone, Debug)]
pub struct Sharing {
    /// The policy at the start.
    pub policy: PolicyKind,
    /// How long a domain's work may keep a GPU before its channel is ended.
    pub longest: Option<Duration>,
}

type Change = Box<dyn FnOnce(Share) -> Share + Send>;

/// What a GPU's thread is told.
enum Order {
    AddDomain {
        domid: u16,
        name: String,
        share: Share,
        limits: Limits,
    },
    RemoveDomain(u16),
    Limit(u16, Limits),
    Share(u16, Share),
    Change {
        domid: u16,
        change: Change,
        reply: Sender<Option<Share>>,
    },
    Cpu(u16, CpuState),
    Presence(u16, Arc<Presence>),
    Switch(PolicyKind),
    AddChannel {
        key: Key,
        domid: u16,
        number: u32,
        gate: GateBack,
        sentence: Arc<Sentence>,
    },
    RemoveChannel(Key),
    Stats(Sender<GpuStats>),
    Record(Recorder),
    Stop,
}

/// What a GPU's thread and those who give it orders share.
struct Shared {
    /// `None` once the thread has ended.
    orders: Mutex<Option<VecDeque<Order>>>,
    wake: Wake,
    next_key: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    /// Gives an order. Whether there is somebody to obey it.
    fn give(&self, order: Order) -> bool {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(orders) = &mut *orders else {
            return false;
        };
        orders.push_back(order);
        self.wake.wake();
        true
    }

    /// All orders so far.
    fn take(&self) -> VecDeque<Order> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// All orders so far; there will be no more.
    fn end(&self) -> VecDeque<Order> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.take().unwrap_or_default()
    }
}

/// Why a channel is to be ended, once it is.
#[derive(Debug)]
pub struct Sentence {
    reason: OnceLock<String>,
    wake: Wake,
}

impl Sentence {
    fn new() -> io::Result<Sentence> {
        Ok(Sentence {
            reason: OnceLock::new(),
            wake: Wake::new()?,
        })
    }

    fn pass(&self, reason: String) {
        // The first reason stands.
        let _ = self.reason.set(reason);
        self.wake.wake();
    }
}

/// A channel's right to use one GPU; ends when dropped.
#[derive(Debug)]
pub struct Pass {
    shared: Arc<Shared>,
    key: Key,
    sentence: Arc<Sentence>,
}

impl Pass {
    /// Why the channel is to be ended, if it is.
    pub fn sentence(&self) -> Option<&str> {
        let reason = self.sentence.reason.get()?;
        // Once it is known there is nothing more to wake for.
        self.sentence.wake.clear();
        Some(reason)
    }
}

impl AsFd for Pass {
    /// Becomes readable when there is a sentence.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sentence.wake.as_fd()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.shared.give(Order::RemoveChannel(self.key));
    }
}

/// One GPU.
#[derive(Debug)]
pub struct Gpu {
    number: u32,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Gpu {
    /// Starts its thread.
    ///
    /// # Errors
    /// If the process has no descriptors or threads left.
    pub fn start(number: u32, name: &str, sharing: &Sharing) -> io::Result<Gpu> {
        let shared = Arc::new(Shared {
            orders: Mutex::new(Some(VecDeque::new())),
            wake: Wake::new()?,
            next_key: AtomicU64::new(FIRST_KEY),
        });
        let longest = sharing
            .longest
            .map(|longest| u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX));
        let arbiter = Arbiter::new(now_ns(), number, name.to_owned(), sharing.policy, longest);
        let thread = Thread::new(shared.clone(), arbiter)?;
        let thread = std::thread::Builder::new()
            .name(format!("gpu-{number}"))
            .spawn(move || thread.run())?;
        Ok(Gpu {
            number,
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// A domain comes, or another device of one that is here.
    pub fn add_domain(&self, domid: u16, name: &str, share: Share, limits: Limits) {
        self.shared.give(Order::AddDomain {
            domid,
            name: name.to_owned(),
            share,
            limits,
        });
    }

    /// A domain's device goes.
    pub fn remove_domain(&self, domid: u16) {
        self.shared.give(Order::RemoveDomain(domid));
    }

    /// A domain is entitled to something else from now on.
    pub fn share(&self, domid: u16, share: Share) {
        self.shared.give(Order::Share(domid, share));
    }

    /// Other limits hold for a domain from now on.
    pub fn limit(&self, domid: u16, limits: Limits) {
        self.shared.give(Order::Limit(domid, limits));
    }

    /// A new channel of a domain that was added: its right to use this GPU, and its gate as it is named to
    /// the worker in a message with these descriptors.
    ///
    /// # Errors
    /// If the system has no memory or no descriptors left, or the GPU's thread has failed.
    pub fn add_channel(
        &self,
        domid: u16,
        number: u32,
        fds: &mut Vec<Arc<OwnedFd>>,
    ) -> Result<(Pass, WireGate), PacketError> {
        let gate = GateBack::new()?;
        let wire = gate.put(fds);
        let sentence = Arc::new(Sentence::new()?);
        let key = self.shared.next_key.fetch_add(1, Ordering::Relaxed);
        let added = self.shared.give(Order::AddChannel {
            key,
            domid,
            number,
            gate,
            sentence: sentence.clone(),
        });
        if !added {
            let text = format!(
                "the thread of GPU {} has failed; restart vgpu-backd",
                self.number
            );
            return Err(PacketError::Io(io::Error::other(text)));
        }
        let pass = Pass {
            shared: self.shared.clone(),
            key,
            sentence,
        };
        Ok((pass, wire))
    }

    /// Changes a domain's share. What it is now; `None` if the domain is not here.
    pub fn change(
        &self,
        domid: u16,
        change: impl FnOnce(Share) -> Share + Send + 'static,
    ) -> Option<Share> {
        let (reply, answer) = channel();
        self.shared.give(Order::Change {
            domid,
            change: Box::new(change),
            reply,
        });
        answer.recv_timeout(PATIENCE).ok().flatten()
    }

    /// What the hypervisor says of a domain.
    pub fn cpu(&self, domid: u16, state: CpuState) {
        self.shared.give(Order::Cpu(domid, state));
    }

    /// Who is told from now on whether a domain's work is on the GPU or next there.
    pub fn presence(&self, domid: u16, presence: Arc<Presence>) {
        self.shared.give(Order::Presence(domid, presence));
    }

    /// Another policy from now on. What waits and what runs stays.
    pub fn switch(&self, policy: PolicyKind) {
        self.shared.give(Order::Switch(policy));
    }

    /// What each domain has had; `None` if the thread does not answer.
    pub fn stats(&self) -> Option<GpuStats> {
        let (reply, answer) = channel();
        self.shared.give(Order::Stats(reply));
        answer.recv_timeout(PATIENCE).ok()
    }

    /// Tells a recorder what happens from now on.
    pub fn record(&self, recorder: Recorder) {
        self.shared.give(Order::Record(recorder));
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.shared.give(Order::Stop);
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(gpu = self.number, "the thread of a GPU has failed");
        }
    }
}

/// A domain's place on the GPUs that it may use, in the order in which its programs see them. Ends when
/// dropped.
#[derive(Debug)]
pub struct Membership {
    domid: u16,
    gpus: Vec<Arc<Gpu>>,
}

impl Membership {
    /// Lets a domain in.
    pub fn new(
        gpus: &[Arc<Gpu>],
        domid: u16,
        name: &str,
        share: Share,
        limits: Limits,
    ) -> Membership {
        for gpu in gpus {
            gpu.add_domain(domid, name, share, limits);
        }
        Membership {
            domid,
            gpus: gpus.to_vec(),
        }
    }

    /// Other limits hold from now on.
    pub fn limit(&self, limits: Limits) {
        for gpu in &self.gpus {
            gpu.limit(self.domid, limits);
        }
    }

    /// Another share of all these GPUs holds from now on.
    pub fn share(&self, share: Share) {
        for gpu in &self.gpus {
            gpu.share(self.domid, share);
        }
    }

    /// What a new channel needs of all these GPUs: see [`Gpu::add_channel`].
    ///
    /// # Errors
    /// If the system has no memory or no descriptors left.
    pub fn add_channel(
        &self,
        number: u32,
        fds: &mut Vec<Arc<OwnedFd>>,
    ) -> Result<(Vec<Pass>, Vec<WireGate>), PacketError> {
        let mut both = (Vec::new(), Vec::new());
        for gpu in &self.gpus {
            let (pass, gate) = gpu.add_channel(self.domid, number, fds)?;
            both.0.push(pass);
            both.1.push(gate);
        }
        Ok(both)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        for gpu in &self.gpus {
            gpu.remove_domain(self.domid);
        }
    }
}
