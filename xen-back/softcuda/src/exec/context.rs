//! What compiled code and its scheduler share while a block runs: plain memory with fixed offsets.
//! Compiled code reads everything here as constant but `live`, `turns` and `fault`.

use std::ffi::c_void;
use std::sync::atomic::AtomicU32;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::runtime::Services;

use super::HostRange;
use super::texture::Objects;

/// A compiled kernel: runs every runnable thread whose frame lies between two addresses until it
/// waits or ends. Returns [`DONE`] or [`FAULT`].
pub(crate) type KernelCode =
    unsafe extern "C" fn(context: *mut BlockContext, first: *mut u8, end: *mut u8) -> u32;

/// Warps of a block.
pub(crate) const MAX_WARPS: usize = (super::MAX_BLOCK_THREADS / super::WARP_SIZE) as usize;

/// Compiled code's verdicts. A device function also returns `YIELD` (its thread waits) and `EXIT`.
pub(crate) const DONE: u32 = 0;
pub(crate) const YIELD: u32 = 1;
pub(crate) const EXIT: u32 = 2;
pub(crate) const FAULT: u32 = 3;

/// How often a block's threads pass yield points before one makes way for the others: often enough
/// that its cost is little beside that of the accesses it stands before.
pub(crate) const TURNS: u32 = 16;

/// Barriers of a block, with the cluster's.
pub(crate) const BARRIERS: usize = 17;
/// The number of the cluster's barrier.
pub(crate) const CLUSTER_BARRIER: u32 = 16;

/// What one block's code sees.
#[repr(C)]
pub(crate) struct BlockContext {
    /// The launch's parameter buffer.
    pub params: *const u8,
    /// Its bytes.
    pub param_bytes: u64,
    /// Addresses of the module's variables, indexed as in the module; a shared variable's entry is its
    /// offset in this kernel's shared memory.
    pub variables: *const u64,
    /// Entry points of the module's functions.
    pub functions: *const *const c_void,
    /// Entry points of the helpers.
    pub helpers: *const *const c_void,
    /// Device memory's first address.
    pub memory_base: u64,
    /// Its bytes.
    pub memory_len: u64,
    /// Valid bytes per granule of it.
    pub memory_valid: *const u8,
    /// Host ranges beside it: the first, and the end of the list.
    pub ranges: *const HostRange,
    pub ranges_end: *const HostRange,
    /// Texture and surface objects.
    pub textures: *const Objects,
    /// The kernel's code for single threads, where its code for gangs runs.
    pub single: Option<KernelCode>,
    /// The block's shared memory.
    pub shared: *mut u8,
    /// Its bytes.
    pub shared_bytes: u64,
    /// Bytes from one thread's frame to the next.
    pub thread_bytes: u64,
    /// First frame of the block.
    pub frames: *mut u8,
    /// Threads of a block, per dimension.
    pub ntid: [u32; 3],
    /// Blocks of the grid, per dimension.
    pub nctaid: [u32; 3],
    /// This block's place in the grid.
    pub ctaid: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Number of the worker that runs the block: `%smid`.
    pub worker: u32,
    /// Threads that have not ended.
    pub live: u32,
    /// The launch's identity in the process: `%gridid`.
    pub grid_id: u64,
    /// Threads that `bar.arrive` counted, per barrier.
    pub arrivals: Arrivals,
    /// Not 0 once the launch must end.
    pub ending: *const AtomicU32,
    /// What the launch shares with the host.
    pub services: *const Services<'static>,
    /// Device address of the grid's workspace, 0 if its blocks may not wait for each other.
    pub workspace: u64,
    /// How often the block's threads may still pass a yield point before one makes way.
    pub turns: u32,
    /// What went wrong when code returned [`FAULT`].
    pub fault: RawFault,
    /// What a failed assertion says; compiled code never touches it.
    pub assertion: Option<String>,
}

/// What `bar.arrive` did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arrivals {
    /// Per barrier and warp, the lanes that arrived.
    pub lanes: [[u32; MAX_WARPS]; BARRIERS],
    /// Per barrier, arrivals of lanes that had arrived already.
    pub more: [u32; BARRIERS],
    /// Whether there were any since it was cleared.
    pub any: bool,
}

/// A fault as compiled code reports it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawFault {
    /// The address concerned.
    pub address: u64,
    /// Frame of the thread.
    pub thread: *const u8,
    /// Index into the module's table of sites.
    pub site: u32,
    /// How many bytes a function of the device runtime wanted at the address; 0 if compiled code
    /// reports what its site says.
    pub bytes: u32,
}

/// The start of every thread's frame.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct ThreadHeader {
    /// Where the thread goes on: an index into its kernel's resume points; with [`WAITING`] set it
    /// must not run; [`ENDED`] when it has ended.
    pub resume: u32,
    /// What it waits for: one of the `WAIT_` values.
    pub wait: u32,
    /// Its place in the block.
    pub tid: [u16; 3],
    /// Its number in the block.
    pub index: u16,
    /// Operands and result of the barrier or warp instruction it waits at.
    pub exchange: Exchange,
}

/// Operands and result of a barrier or warp instruction.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Exchange {
    /// Membership mask, or a barrier's number of threads (0: all).
    pub mask: u32,
    /// Which barrier, the source lane, or a site's number.
    pub control: u32,
    /// The value given.
    pub operand: u64,
    /// `shfl`'s clamp and segment mask.
    pub clamp: u32,
    /// The predicate that results.
    pub predicate: u32,
    /// The value that results.
    pub result: u64,
}

/// In `resume`: the thread waits.
pub(crate) const WAITING: u32 = 0x8000_0000;
/// `resume` of a thread that has ended.
pub(crate) const ENDED: u32 = 0xffff_ffff;

/// In `resume`: the thread waits, or is to go on, together with its gang.
pub(crate) const GANG: u32 = 0x4000_0000;
/// In `wait` of a thread that runs alone: it stops at this point, where its gang meets.
pub(crate) const MEETING: u32 = 0x4000_0000;

/// What a thread waits for: the values of `ThreadHeader::wait`.
pub(crate) mod wait {
    /// Nothing.
    pub(crate) const NOTHING: u32 = 0;
    /// Nothing that the scheduler knows: the thread made way for others.
    pub(crate) const YIELD: u32 = 8;
    /// `bar.sync`.
    pub(crate) const BARRIER: u32 = 1;
    /// `bar.red.popc`, `.and`, `.or`.
    pub(crate) const BARRIER_POPC: u32 = 2;
    pub(crate) const BARRIER_AND: u32 = 3;
    pub(crate) const BARRIER_OR: u32 = 4;
    /// `bar.warp.sync`, and the first of the warp instructions with a mask.
    pub(crate) const WARP_SYNC: u32 = 16;
    pub(crate) const SHFL_UP: u32 = 17;
    pub(crate) const SHFL_DOWN: u32 = 18;
    pub(crate) const SHFL_BFLY: u32 = 19;
    pub(crate) const SHFL_IDX: u32 = 20;
    pub(crate) const VOTE_ALL: u32 = 21;
    pub(crate) const VOTE_ANY: u32 = 22;
    pub(crate) const VOTE_UNI: u32 = 23;
    pub(crate) const VOTE_BALLOT: u32 = 24;
    pub(crate) const MATCH_ANY: u32 = 25;
    pub(crate) const MATCH_ALL: u32 = 26;
    pub(crate) const REDUX_ADD: u32 = 27;
    pub(crate) const REDUX_MIN_U: u32 = 28;
    pub(crate) const REDUX_MAX_U: u32 = 29;
    pub(crate) const REDUX_MIN_S: u32 = 30;
    pub(crate) const REDUX_MAX_S: u32 = 31;
    pub(crate) const REDUX_AND: u32 = 32;
    pub(crate) const REDUX_OR: u32 = 33;
    pub(crate) const REDUX_XOR: u32 = 34;
    pub(crate) const ELECT: u32 = 35;
    pub(crate) const ACTIVE_MASK: u32 = 36;
    /// The smallest and largest single, as `control` says.
    pub(crate) const REDUX_MIN_F: u32 = 37;
    pub(crate) const REDUX_MAX_F: u32 = 38;
    /// A matrix instruction: `clamp` says which, `control` where in the frame its words are.
    pub(crate) const MATRIX: u32 = 39;
    /// Bits of `control` of `REDUX_MIN_F` and `REDUX_MAX_F`: magnitudes; a NaN wins.
    pub(crate) const MAGNITUDES: u32 = 1;
    pub(crate) const NAN_WINS: u32 = 2;
    /// Added to a warp instruction that takes whichever lanes are at the same site (no `.sync`).
    pub(crate) const CONVERGED: u32 = 0x100;
}

/// What stands behind a fault: one entry per place in the text that can fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Site {
    pub line: u32,
    pub kind: SiteKind,
}

/// A space's name, as messages have it.
pub(crate) type SpaceName = &'static str;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SiteKind {
    /// A memory access; `bytes` may cover neighbours checked together.
    Access {
        #[serde(deserialize_with = "space")]
        space: SpaceName,
        bytes: u32,
        align: u32,
    },
    Trap,
    Stack,
    /// A back edge or a function's start, where a launch that must end does.
    Ending,
}

/// The name of a space, out of those that there are.
fn space<'de, D: Deserializer<'de>>(from: D) -> Result<SpaceName, D::Error> {
    const NAMES: [&str; 7] = [
        "generic", "global", "const", "shared", "local", "param", "code",
    ];
    let name = String::deserialize(from)?;
    let known = NAMES.into_iter().find(|known| *known == name);
    known.ok_or_else(|| D::Error::custom("a space that does not exist"))
}
