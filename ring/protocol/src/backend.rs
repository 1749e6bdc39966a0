//! What vgpu-backd and a vgpu-worker say to each other, over the `SOCK_SEQPACKET` socket pair that the
//! worker is born with as descriptor 3.
//!
//! backd maps and binds; the worker only mmaps what it is handed, so it needs neither root nor
//! `/dev/xen`. The connection is the worker's life: when it closes, the worker ends. Must never carry
//! anything that a guest wrote except numbers that were checked.

use crate::codec::{Bytes, choice, messages};
use crate::gate::WireGate;
use crate::packet::{WireEvent, WireExtent};
use crate::quota::WireQuota;
use serde::{Deserialize, Serialize};

/// The worker's end of the socket pair.
pub const WORKER_FD: i32 = 3;
/// Most regions of one process beside its arena.
pub const REGION_LIMIT: usize = 1024;

/// A device of the driver, as `vgpu-worker --probe` prints it in a JSON list in the driver's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// As `CUDA_VISIBLE_DEVICES` names it: `GPU-8c8a45fd-…`.
    pub uuid: String,
    /// Its model.
    pub name: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Its compute capability: major, minor.
    pub capability: (u32, u32),
    /// Bytes of its memory that a context takes; 0 where that cannot be told.
    #[serde(default)]
    pub context: u64,
}

messages! {
    /// The channel to serve. The first message.
    Serve {
        /// The guest's domain, for messages in the log.
        domid: u16,
        /// The channel's number, for messages in the log.
        channel: u32,
        /// Bytes of the submission ring.
        sq_bytes: u32,
        /// Bytes of the completion ring.
        cq_bytes: u32,
        /// Bytes of the arena.
        arena_bytes: u32,
        /// The channel's memory: the guest's granted pages.
        memory: Vec<WireExtent>,
        /// The channel's event channel.
        event: WireEvent,
        /// The `libcuda.so.1` to run calls on: a path, or a name for the loader. UTF-8.
        driver: Bytes,
        /// The gates before the devices, one for each ordinal of the driver; none: all work passes unmeasured.
        gates: Vec<WireGate>,
        /// The domain's memory quota, and the worker's slot in it.
        quota: WireQuota,
    }
    /// More of the guest's granted pages, for the region table.
    MapRegion {
        /// The region's number; never 0, never one in use.
        region: u32,
        /// Its memory.
        memory: Vec<WireExtent>,
    }
    /// Forget a region: the guest is about to take the pages back.
    UnmapRegion {
        /// Which.
        region: u32,
    }
    /// The worker serves the channel.
    Ready {
        /// [`crate::PROTOCOL_VERSION`] of the worker.
        version: u32,
    }
    /// A request about a region has been carried out, or why not.
    RegionDone {
        /// Which.
        region: u32,
        /// Empty for success; UTF-8.
        error: Bytes,
    }
    /// The worker ends, and why; UTF-8.
    Ended {
        /// The reason.
        reason: Bytes,
    }
}

choice! {
    /// What backd says.
    FromBackd {
        /// First.
        1 => Serve(Serve),
        /// Any time later.
        2 => MapRegion(MapRegion),
        /// Any time later.
        3 => UnmapRegion(UnmapRegion),
    }
}

choice! {
    /// What a worker says.
    FromWorker {
        /// Once, after [`Serve`].
        1 => Ready(Ready),
        /// To [`MapRegion`] and [`UnmapRegion`], in order.
        2 => RegionDone(RegionDone),
        /// Last.
        3 => Ended(Ended),
    }
}
