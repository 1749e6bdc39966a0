//! A worker's life: it is told which channel to serve, serves it, and ends with it.
//!
//! The main thread takes calls off the queue; a second one listens to backd, for regions and for the
//! end. Must never outlive its connection to backd, nor end while the driver has granted pages
//! registered: unmapping a pinned granted page corrupts the backend kernel's page tables.

use crate::execute::{Executor, Fatal};
use crate::memory::Memory;
use crate::meter::Meter;
use crate::regions::Regions;
use crate::sandbox::{SandboxError, confine};
use cuda_abi::{CuResult, Driver};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use vgpu_protocol::PROTOCOL_VERSION;
use vgpu_protocol::backend::{Ended, FromBackd, FromWorker, Ready, RegionDone, Serve};
use vgpu_protocol::channel::{Bell, shared_memory};
use vgpu_protocol::codec::Bytes;
use vgpu_protocol::gate::GateWorker;
use vgpu_protocol::packet::{self, PacketError, WireExtent};
use vgpu_protocol::quota::QuotaWorker;
use vgpu_ring::{Back, Layout, SpinPolicy};
use xen::{Access, Mapping};

/// Why a worker ends before its channel does.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// backd said something else than [`Serve`] first.
    #[error("backd did not say which channel to serve; are both programs of the same version?")]
    NotTold,
    /// The connection to backd failed.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The channel's memory or event channel is not usable.
    #[error(transparent)]
    Xen(#[from] xen::Error),
    /// The channel's memory is not what its layout says.
    #[error("the channel cannot be served: {0}")]
    Ring(#[from] vgpu_ring::Error),
    /// No driver.
    #[error(transparent)]
    Driver(#[from] cuda_abi::LoadError),
    /// A driver that does not start.
    #[error("the driver {path} does not start: {status}; try a CUDA program in this domain itself")]
    Init {
        /// Which driver.
        path: PathBuf,
        /// What `cuInit` said.
        status: CuResult,
    },
    /// Not confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The guest's doing.
    #[error(transparent)]
    Guest(#[from] Fatal),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// Serves the one channel that backd names over `socket`, until it ends.
pub fn run(socket: OwnedFd) -> Result<(), ServeError> {
    let (FromBackd::Serve(serve), fds) = packet::receive::<FromBackd>(&socket)? else {
        return Err(ServeError::NotTold);
    };
    let socket = Arc::new(socket);
    let result = serve_channel(&serve, fds, &socket);
    if let Err(error) = &result {
        let ended = FromWorker::Ended(Ended {
            reason: Bytes(error.to_string().into_bytes()),
        });
        // backd may be gone: then nobody wants to know.
        let _ = packet::send(&*socket, &ended, &[]);
    }
    result
}

fn serve_channel(
    serve: &Serve,
    fds: Vec<OwnedFd>,
    socket: &Arc<OwnedFd>,
) -> Result<(), ServeError> {
    let span = tracing::info_span!("channel", domid = serve.domid, number = serve.channel);
    let _entered = span.enter();
    let (mapping, (event, quota, gates)) = map(&serve.memory, &fds_shared(fds), |fds| {
        let gates = serve.gates.iter().map(|gate| GateWorker::take(gate, fds));
        Ok((
            packet::take_event(&serve.event, fds)?,
            QuotaWorker::take(&serve.quota, fds)?,
            gates.collect::<Result<_, _>>()?,
        ))
    })?;
    let layout = Layout::new(serve.sq_bytes, serve.cq_bytes, serve.arena_bytes)?;
    let mut back = Back::attach(
        shared_memory(mapping),
        layout,
        Arc::new(Bell(event)),
        SpinPolicy::default(),
        PATIENCE,
    )?;

    let path = PathBuf::from(String::from_utf8_lossy(&serve.driver.0).into_owned());
    // SAFETY: backd's configuration names the driver, as a program's linker would.
    let driver = Arc::new(unsafe { Driver::load(&path) }?);
    // SAFETY: 0 is the only flag there is.
    let status = unsafe { driver.cuInit(0) };
    if !status.is_ok() {
        return Err(ServeError::Init { path, status });
    }
    let regions = Arc::new(Regions::new(back.arena()));
    let meter = Meter::new(driver.clone(), gates, back.backlog()).map_err(ServeError::Thread)?;
    let mut executor = Executor::new(
        driver.clone(),
        regions.clone(),
        back.completer(),
        meter,
        layout.max_completion(),
        Memory::new(quota),
    );
    listen(socket.clone(), regions.clone(), driver.clone())?;
    confine()?;
    packet::send(
        &**socket,
        &FromWorker::Ready(Ready {
            version: PROTOCOL_VERSION,
        }),
        &[],
    )?;
    tracing::debug!("serving");

    let error = carry_out(&mut back, &mut executor);
    // A front that is gone needs no word.
    let _ = back.close(CLOSED_BY_WORKER);
    regions.unpin_all(&driver);
    Err(error.into())
}

/// Takes calls off the queue until it ends, which is the answer.
pub fn carry_out(back: &mut Back, executor: &mut Executor) -> Fatal {
    let mut record = Vec::new();
    loop {
        match back.next(&mut record, None) {
            Ok(Some(entry)) => {
                if let Err(error) = executor.execute(&record, entry.ticket, entry.wants_answer) {
                    return error;
                }
                if let Err(error) = back.retire() {
                    return error.into();
                }
                if executor.fills() && !back.stirs(LINGER) {
                    executor.pause();
                }
            }
            Ok(None) => {}
            Err(error) => return error.into(),
        }
    }
}

/// How long a batch of work waits for more when the queue is empty: about what it takes a guest that submits
/// one call after the other. It may be counted as device time.
const LINGER: Duration = Duration::from_micros(5);

/// How long a guest may leave its completion ring full.
const PATIENCE: Duration = Duration::from_secs(10);

/// The reason in the channel's closed word when the worker ends it: the guest broke the protocol.
pub const CLOSED_BY_WORKER: u32 = 1;

fn fds_shared(fds: Vec<OwnedFd>) -> Vec<Arc<OwnedFd>> {
    fds.into_iter().map(Arc::new).collect()
}

fn map<T>(
    memory: &[WireExtent],
    fds: &[Arc<OwnedFd>],
    more: impl FnOnce(&[Arc<OwnedFd>]) -> Result<T, PacketError>,
) -> Result<(Mapping, T), PacketError> {
    let extents = packet::take_extents(memory, fds)?;
    let mapping = Mapping::from_extents(&extents, Access::ReadWrite)?;
    Ok((mapping, more(fds)?))
}

/// Listens to backd. When the connection ends, so does this process: orderly towards the driver, and
/// without destructors, which other threads would run into.
fn listen(
    socket: Arc<OwnedFd>,
    regions: Arc<Regions>,
    driver: Arc<Driver>,
) -> Result<(), ServeError> {
    let listener = move || {
        loop {
            match packet::receive::<FromBackd>(socket.as_fd()) {
                Ok((FromBackd::MapRegion(m), fds)) => {
                    let done = map(&m.memory, &fds_shared(fds), |_| Ok(()))
                        .map_err(|e| e.to_string())
                        .and_then(|(mapping, ())| regions.add(m.region, mapping));
                    answer(&socket, m.region, done);
                }
                Ok((FromBackd::UnmapRegion(m), _)) => {
                    answer(&socket, m.region, regions.remove(m.region))
                }
                Ok((FromBackd::Serve(_), _)) => {
                    tracing::warn!("backd named a second channel; ignored")
                }
                Err(PacketError::Closed) => break,
                Err(error) => {
                    tracing::error!(%error, "lost backd");
                    break;
                }
            }
        }
        regions.unpin_all(&driver);
        // SAFETY: ends the process at once; nothing of it needs a destructor any more.
        unsafe { libc::_exit(0) };
    };
    thread::Builder::new()
        .name("vgpu-backd".into())
        .spawn(listener)
        .map_err(ServeError::Thread)?;
    Ok(())
}

fn answer(socket: &OwnedFd, region: u32, done: Result<(), String>) {
    if let Err(reason) = &done {
        tracing::warn!(region, reason, "a region is refused");
    }
    let error = Bytes(done.err().unwrap_or_default().into_bytes());
    // Where backd is gone, the next receive says so.
    let _ = packet::send(
        socket,
        &FromWorker::RegionDone(RegionDone { region, error }),
        &[],
    );
}
