//! How a launch can fail. A fault says what happened, where in the grid and on which PTX line; the
//! driver's layer above turns it into a sticky CUresult.

use thiserror::Error;

/// Which thread of which kernel did it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Kernel's name.
    pub kernel: String,
    /// Line of the instruction in the PTX text; 0 when no one instruction is to blame.
    pub line: u32,
    /// Block in the grid.
    pub block: [u32; 3],
    /// Thread in the block.
    pub thread: [u32; 3],
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(
            f,
            "kernel {}, PTX line {}, block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz})",
            self.kernel, self.line
        )
    }
}

/// Why a launch ended early.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// The launch itself is impossible; nothing ran. CUDA_ERROR_INVALID_VALUE or
    /// CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: the context stays usable.
    #[error("the launch cannot start: {0}")]
    InvalidLaunch(String),
    /// CUDA_ERROR_ILLEGAL_ADDRESS.
    #[error(
        "access of {bytes} bytes at {address:#x} in {space} memory, outside every allocation; {place}"
    )]
    IllegalAddress {
        /// State space of the instruction.
        space: &'static str,
        /// The address as the instruction had it.
        address: u64,
        /// Bytes of the access.
        bytes: u32,
        /// Who did it.
        place: Place,
    },
    /// CUDA_ERROR_MISALIGNED_ADDRESS.
    #[error("misaligned access of {bytes} bytes at {address:#x} in {space} memory; {place}")]
    MisalignedAddress {
        /// State space of the instruction.
        space: &'static str,
        /// The address as the instruction had it.
        address: u64,
        /// Bytes of the access.
        bytes: u32,
        /// Who did it.
        place: Place,
    },
    /// `trap`: CUDA_ERROR_LAUNCH_FAILED.
    #[error("trap; {0}")]
    Trap(Place),
    /// A failed device-side assertion: CUDA_ERROR_ASSERT.
    #[error("assertion failed: {message}; {place}")]
    Assert {
        /// What the assertion says.
        message: String,
        /// Who did it.
        place: Place,
    },
    /// Threads wait for a barrier or a warp collective that the others cannot reach any more:
    /// CUDA_ERROR_LAUNCH_FAILED (a GPU would hang).
    #[error(
        "{waiting} threads wait at barriers or warp instructions that the others will not reach: {threads}; {place}"
    )]
    BarrierDeadlock {
        /// Threads of the block that wait.
        waiting: u32,
        /// Which threads, by their numbers in the block, wait on which lines.
        threads: String,
        /// One of them.
        place: Place,
    },
    /// A thread's calls nest deeper than its stack: CUDA_ERROR_LAUNCH_FAILED.
    #[error("the thread's call stack is full; {0}")]
    StackOverflow(Place),
    /// The launch took longer than it may: CUDA_ERROR_LAUNCH_TIMEOUT.
    #[error(
        "kernel {kernel} did not end within {limit:?}; raise SOFTCUDA_TIMEOUT if it needs longer"
    )]
    Timeout {
        /// Kernel's name.
        kernel: String,
        /// How long it might take.
        limit: std::time::Duration,
    },
}
