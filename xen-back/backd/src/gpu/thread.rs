//! The thread of one GPU: waits for bells, for the time and for orders, and has the arbiter look. Nothing
//! it does for one channel may take long: every turn of the GPU waits for this thread.

use super::arbiter::{Arbiter, Key};
use super::{Order, Shared};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use vgpu_protocol::gate::now_ns;
use vgpu_sched::{MILLISECOND, Nanos};

/// What names the wake-up and the timer among the keys of channels.
const WAKE: Key = 0;
const TIMER: Key = 1;
/// The first channel's key.
pub(super) const FIRST_KEY: Key = 2;
/// Rings of one channel within [`RING_TIME`] after which it is not listened to for as long.
const RINGS: u32 = 1000;
const RING_TIME: Nanos = 10 * MILLISECOND;
/// The priority asked for, as nice numbers it.
const NICE: i32 = -10;

/// How often a channel rang lately.
#[derive(Debug, Default)]
struct Rings {
    since: Nanos,
    count: u32,
    /// Not listened to until then.
    muted: Option<Nanos>,
}

/// The thread's own things.
#[derive(Debug)]
pub(super) struct Thread {
    epoll: OwnedFd,
    timer: OwnedFd,
    timer_at: Nanos,
    shared: Arc<Shared>,
    arbiter: Arbiter,
    rings: BTreeMap<Key, Rings>,
}

impl Drop for Thread {
    /// However the thread ends, nobody is left waiting for it.
    fn drop(&mut self) {
        self.arbiter.release();
        for order in self.shared.end() {
            if let Order::AddChannel { mut gate, .. } = order {
                gate.open();
            }
        }
    }
}

impl Thread {
    pub fn new(shared: Arc<Shared>, arbiter: Arbiter) -> io::Result<Thread> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let listen = |fd: &dyn AsFd, key| {
            epoll::add(
                &epoll,
                fd.as_fd(),
                epoll::EventData::new_u64(key),
                epoll::EventFlags::IN | epoll::EventFlags::ET,
            )
        };
        listen(&shared.wake, WAKE)?;
        listen(&timer, TIMER)?;
        Ok(Thread {
            epoll,
            timer,
            timer_at: Nanos::MAX,
            shared,
            arbiter,
            rings: BTreeMap::new(),
        })
    }

    /// Until it is told to stop.
    pub fn run(mut self) {
        // Who started us may have given us more.
        let has = rustix::process::getpriority_process(None);
        if has.is_ok_and(|has| has > NICE)
            && let Err(error) = rustix::process::setpriority_process(None, NICE)
        {
            tracing::warn!(
                "the thread of a GPU has no priority over others ({error}): turns may begin late on a busy machine; give vgpu-backd CAP_SYS_NICE"
            );
        }
        if let Err(error) = self.serve() {
            tracing::error!(%error, "the thread of a GPU has failed: domains share the GPU unscheduled; restart vgpu-backd");
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        loop {
            let now = now_ns();
            for order in self.shared.take() {
                if !self.obey(now, order)? {
                    return Ok(());
                }
            }
            self.listen_again(now)?;
            let mut next = self.arbiter.serve(now);
            let muted = self.rings.values().filter_map(|rings| rings.muted).min();
            next = next.min(muted.unwrap_or(Nanos::MAX));
            self.set_timer(next)?;
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let now = now_ns();
            for event in &events {
                match event.data.u64() {
                    WAKE | TIMER => {}
                    key => self.rang(now, key)?,
                }
            }
        }
    }

    /// Whether to go on.
    fn obey(&mut self, now: Nanos, order: Order) -> io::Result<bool> {
        let arbiter = &mut self.arbiter;
        match order {
            Order::Stop => return Ok(false),
            Order::AddDomain {
                domid,
                name,
                share,
                limits,
            } => arbiter.add_domain(now, domid, &name, share, limits),
            Order::Share(domid, share) => arbiter.update(now, domid, share),
            Order::Limit(domid, limits) => arbiter.limit(domid, limits),
            Order::RemoveDomain(domid) => arbiter.remove_domain(now, domid),
            Order::Change {
                domid,
                change,
                reply,
            } => {
                let share = arbiter.share(domid).map(change);
                if let Some(share) = share {
                    arbiter.update(now, domid, share);
                }
                // Who asked may have given up.
                let _ = reply.send(share);
            }
            Order::Cpu(domid, state) => arbiter.cpu(now, domid, state),
            Order::Presence(domid, presence) => arbiter.presence(domid, presence),
            Order::Switch(policy) => arbiter.switch(now, policy),
            Order::AddChannel {
                key,
                domid,
                number,
                gate,
                sentence,
            } => {
                if !arbiter.add_channel(now, key, domid, number, gate, sentence) {
                    tracing::error!(
                        domid,
                        channel = number,
                        "a channel of a domain that is not here"
                    );
                    return Ok(true);
                }
                self.rings.insert(key, Rings::default());
                self.listen(key)?;
            }
            Order::RemoveChannel(key) => {
                // The worker's copy of the descriptor would keep it in the set.
                if let Some(gate) = arbiter.gate(key)
                    && self
                        .rings
                        .get(&key)
                        .is_some_and(|rings| rings.muted.is_none())
                {
                    epoll::delete(&self.epoll, gate.bell())?;
                }
                self.rings.remove(&key);
                arbiter.remove_channel(now, key);
            }
            Order::Stats(reply) => {
                let _ = reply.send(arbiter.stats(now));
            }
            Order::Record(recorder) => arbiter.record(now, recorder),
        }
        Ok(true)
    }

    fn listen(&self, key: Key) -> io::Result<()> {
        if let Some(gate) = self.arbiter.gate(key) {
            // By edges: the count is never read, and each ring is told all the same.
            epoll::add(
                &self.epoll,
                gate.bell(),
                epoll::EventData::new_u64(key),
                epoll::EventFlags::IN | epoll::EventFlags::ET,
            )?;
        }
        Ok(())
    }

    fn rang(&mut self, now: Nanos, key: Key) -> io::Result<()> {
        self.arbiter.rang(key);
        let Some(rings) = self.rings.get_mut(&key) else {
            return Ok(());
        };
        if now.saturating_sub(rings.since) > RING_TIME {
            rings.since = now;
            rings.count = 0;
        }
        rings.count = rings.count.saturating_add(1);
        if rings.count > RINGS
            && let Some(gate) = self.arbiter.gate(key)
        {
            epoll::delete(&self.epoll, gate.bell())?;
            rings.muted = Some(now.saturating_add(RING_TIME));
        }
        Ok(())
    }

    /// Listens again to who rang too often.
    fn listen_again(&mut self, now: Nanos) -> io::Result<()> {
        let over = |rings: &Rings| rings.muted.is_some_and(|until| until <= now);
        let keys: Vec<Key> = (self.rings.iter())
            .filter(|(_, rings)| over(rings))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.rings.insert(key, Rings::default());
            self.listen(key)?;
            self.arbiter.rang(key);
        }
        Ok(())
    }

    fn set_timer(&mut self, at: Nanos) -> io::Result<()> {
        if at == self.timer_at {
            return Ok(());
        }
        self.timer_at = at;
        // All zeros: never.
        let value = match at {
            Nanos::MAX => Timespec::default(),
            at => Timespec {
                tv_sec: i64::try_from(at / 1_000_000_000).unwrap_or(i64::MAX),
                tv_nsec: (at % 1_000_000_000) as i64,
            },
        };
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: value,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }
}
