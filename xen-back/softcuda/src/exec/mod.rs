//! Compiled modules and how they run: a grid's blocks over all cores, a block's threads one after the
//! other between its barriers. A kernel's mistakes (addresses, barriers, traps) end its launch with a
//! [`Fault`]; they must never end or hang the process, and no memory outside the launch's is touched.

mod arena;
pub(crate) mod asynchronous;
pub(crate) mod atomics;
mod block;
mod code;
pub(crate) mod context;
mod fault;
pub(crate) mod helpers;
pub(crate) mod matrix;
mod pool;
mod program;
mod reach;
pub(crate) mod runtime;
pub(crate) mod sample;
pub(crate) mod soft;
pub mod texture;
pub(crate) mod video;

pub use crate::ptx::{PtxError, PtxErrorKind};
pub use arena::{Arena, Shape};
pub use fault::{Fault, Place};
pub(crate) use pool::workers;
pub use program::{Lasted, Options, Program, Vectorise};
pub use runtime::{Heap, Runtime};

/// Bytes per entry of a [`MemoryView`]'s table.
pub const GRANULE: u64 = 128;

/// Bytes of shared memory, static and dynamic together, that a block may use (as on compute
/// capability 8.6 with the opt-in).
pub const MAX_SHARED_BYTES: u32 = 99 * 1024;

/// Threads that a block may have.
pub const MAX_BLOCK_THREADS: u32 = 1024;

/// Threads that reside on a multiprocessor, at most.
pub const MAX_RESIDENT_THREADS: u32 = 2048;

/// Blocks that reside on a multiprocessor, at most.
pub const MAX_RESIDENT_BLOCKS: u32 = 32;

/// Bytes of device memory that the blocks of a cooperative launch synchronise through.
pub const WORKSPACE_BYTES: u64 = 64;

/// Lanes of a warp.
pub const WARP_SIZE: u32 = 32;

/// The device memory that a launch may touch: an address range, and per granule of it the number of
/// bytes, counted from the granule's start, that belong to an allocation.
///
/// Compiled code refuses every access that is not naturally aligned or not wholly inside such bytes,
/// to the exact byte. It may merge the checks of neighbouring accesses into one of the first and one
/// of the last of them when they lie within [`MemoryView::GUARD`] bytes of each other.
#[derive(Debug, Clone, Copy)]
pub struct MemoryView {
    base: u64,
    len: u64,
    valid: *const u8,
    ranges: *const HostRange,
    range_count: usize,
}

/// Host memory outside a [`MemoryView`]'s range that kernels reach at its own addresses.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRange {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

// SAFETY: the pointers are to memory that `MemoryView::new`'s caller keeps alive and readable from any
// thread; kernels themselves race on device memory as they do on a GPU.
unsafe impl Send for MemoryView {}
// SAFETY: as for Send; a view is never written through by Rust code.
unsafe impl Sync for MemoryView {}

impl MemoryView {
    /// Unallocated bytes that must follow every allocation (and so separate it from the next).
    pub const GUARD: u64 = 256;

    /// A view of `len` bytes from `base`, device and host address at once.
    ///
    /// `valid` points to one byte per [`GRANULE`] of the range: 0 where nothing is allocated, 128 where
    /// all of the granule is, else the number of leading bytes that are.
    ///
    /// # Safety
    /// `base` and `len` are multiples of [`GRANULE`], `base + len` does not overflow; `valid` has
    /// `len / GRANULE` readable entries; allocations start at multiples of [`GRANULE`] and are
    /// [`MemoryView::GUARD`] apart; until the launch that uses the view has ended, the bytes counted
    /// by `valid` are mapped readable and writable, and Rust code holds no reference to them.
    pub const unsafe fn new(base: u64, len: u64, valid: *const u8) -> Self {
        Self {
            base,
            len,
            valid,
            ranges: std::ptr::null(),
            range_count: 0,
        }
    }

    /// The view with host ranges beside it, of any place and alignment. They are looked through in
    /// order, only for accesses outside the view's own range; an access must lie in one of them whole,
    /// so that ranges which touch should be given as one.
    ///
    /// # Safety
    /// Until the launch that uses the view has ended: `ranges` stays as it is, and the memory it names
    /// is mapped readable and writable, and Rust code holds no reference to it. No range wraps around
    /// the end of the address space.
    #[must_use]
    pub const unsafe fn with_ranges(mut self, ranges: &[HostRange]) -> Self {
        self.ranges = ranges.as_ptr();
        self.range_count = ranges.len();
        self
    }

    /// Whether all of the bytes belong to allocations.
    fn holds(&self, address: u64, bytes: u64) -> bool {
        let Some(end) = address.checked_add(bytes) else {
            return false;
        };
        let mut at = address;
        while at < end {
            let offset = at.wrapping_sub(self.base);
            if offset >= self.len {
                return false;
            }
            // SAFETY: `new`'s caller vouches for an entry per granule of the range.
            let valid = unsafe { self.valid.add((offset / GRANULE) as usize).read() };
            let left = u64::from(valid).saturating_sub(offset % GRANULE);
            if left == 0 {
                return false;
            }
            at += left;
        }
        true
    }
}

/// One kernel parameter's place in the parameter buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// Bytes from the buffer's start.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// Bytes, a power of two.
    pub align: u32,
}

/// What a module says about one of its kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelInfo {
    /// Name as in the PTX.
    pub name: String,
    /// Its parameters, in order.
    pub params: Vec<Param>,
    /// Bytes of the parameter buffer.
    pub param_bytes: u32,
    /// Bytes of static shared memory.
    pub shared_bytes: u32,
    /// Bytes of local memory per thread.
    pub local_bytes: u32,
    /// `.maxntid`: threads a block may have, per dimension.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: threads a block must have, per dimension.
    pub required_threads: Option<[u32; 3]>,
    /// Registers per thread, an estimate: softcuda allocates none.
    pub registers: u32,
    /// `.version` of the module: 63 for 6.3.
    pub ptx_version: u32,
    /// `.target` of the module: 75 for sm_75.
    pub target: u32,
}

/// Where a module's variable lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VariableSpace {
    /// `.global`
    Global,
    /// `.const`
    Const,
}

/// A module's `.global` or `.const` variable. Its first bytes come from [`Program::image`], the rest
/// of it is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableInfo {
    /// Name as in the PTX.
    pub name: String,
    /// Where it lives.
    pub space: VariableSpace,
    /// Bytes, at least 1.
    pub bytes: u64,
    /// Bytes, a power of two.
    pub align: u64,
    /// `.attribute(.managed)`: the host uses it at the same address.
    pub managed: bool,
    /// Whether it is a texture, sampler or surface reference.
    pub opaque: Option<crate::ptx::ast::Opaque>,
}

/// One kernel launch.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// Index into [`Program::kernels`].
    pub kernel: usize,
    /// Blocks per dimension.
    pub grid: [u32; 3],
    /// Threads of a block per dimension.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameter buffer, at least [`KernelInfo::param_bytes`] long.
    pub params: &'a [u8],
    /// Device memory.
    pub memory: MemoryView,
    /// The texture and surface objects that handles in the kernel stand for.
    pub textures: Option<&'a texture::TextureTable>,
    /// Address of [`WORKSPACE_BYTES`] of device memory for a cooperative launch, whose blocks may wait
    /// for each other; the launch clears them.
    pub cooperative: Option<u64>,
    /// What the launch shares with the host; without it kernels print nothing and have no heap.
    pub runtime: Option<&'a Runtime>,
}

impl<'a> Launch<'a> {
    /// An ordinary launch without dynamic shared memory.
    pub fn new(
        kernel: usize,
        grid: [u32; 3],
        block: [u32; 3],
        params: &'a [u8],
        memory: MemoryView,
    ) -> Self {
        Self {
            kernel,
            grid,
            block,
            dynamic_shared: 0,
            params,
            memory,
            textures: None,
            cooperative: None,
            runtime: None,
        }
    }
}
