//! What a program's libcuda and vgpu-frontd say to each other, over a Unix `SOCK_SEQPACKET` socket.
//!
//! One connection is one process: the channel lives as long as it. The program says [`Hello`], gets the
//! channel, and may later ask for more granted memory. Must never carry a domid or a grant reference:
//! the program has no business with Xen.

use crate::codec::{Bytes, choice, messages};
use crate::packet::{WireEvent, WireExtent};

/// Where frontd listens, unless [`SOCKET_VARIABLE`] says otherwise.
pub const SOCKET: &str = "/run/xen-vgpu/frontd.sock";
/// The environment variable that names another socket.
pub const SOCKET_VARIABLE: &str = "XEN_VGPU_SOCKET";
/// First word of a [`Hello`]: "VGPU".
pub const MAGIC: u32 = 0x5550_4756;

messages! {
    /// A program introduces itself.
    Hello {
        /// [`MAGIC`].
        magic: u32,
        /// [`crate::PROTOCOL_VERSION`].
        version: u32,
    }
    /// The channel, ready to be used.
    Opened {
        /// Bytes of the submission ring.
        sq_bytes: u32,
        /// Bytes of the completion ring.
        cq_bytes: u32,
        /// Bytes of the arena.
        arena_bytes: u32,
        /// The channel's memory.
        memory: Vec<WireExtent>,
        /// The channel's event channel.
        event: WireEvent,
    }
    /// Asks for granted memory of its own.
    AddRegion {
        /// How much, in bytes; rounded up to pages.
        bytes: u64,
    }
    /// The region, mapped by the worker.
    RegionAdded {
        /// Its number in [`crate::codec::Range`].
        region: u32,
        /// Its memory.
        memory: Vec<WireExtent>,
    }
    /// The program uses the region no more, and the worker has unregistered it.
    RemoveRegion {
        /// Which.
        region: u32,
    }
    /// Done.
    RegionRemoved {
        /// Which.
        region: u32,
    }
    /// What was asked for is not to be had.
    Refused {
        /// A `CUresult` for the program.
        status: u32,
        /// Why, and what to do next; UTF-8.
        reason: Bytes,
    }
}

choice! {
    /// What a program says.
    FromProgram {
        /// First.
        1 => Hello(Hello),
        /// Any time later.
        2 => AddRegion(AddRegion),
        /// Any time later.
        3 => RemoveRegion(RemoveRegion),
    }
}

choice! {
    /// What frontd answers: one answer to each message, in order.
    FromFrontd {
        /// To [`Hello`].
        1 => Opened(Opened),
        /// To [`AddRegion`].
        2 => RegionAdded(RegionAdded),
        /// To [`RemoveRegion`].
        3 => RegionRemoved(RegionRemoved),
        /// To any.
        4 => Refused(Refused),
    }
}
