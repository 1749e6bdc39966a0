//! Device memory for programs that run kernels without the driver: one range that is given out piece by
//! piece and freed as a whole. It must never let a kernel outlive its memory.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use super::{
    Fault, GRANULE, Heap, Launch, MAX_BLOCK_THREADS, MemoryView, Program, Runtime, WORKSPACE_BYTES,
};

/// Alignment of the range.
const PAGE: usize = 4096;
/// Alignment of what is given out.
const ALIGN: u64 = 256;

/// Device memory of a fixed size.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<u8>,
    layout: Layout,
    /// Valid bytes per granule.
    valid: Vec<u8>,
    /// Bytes given out.
    used: u64,
    workspace: Option<u64>,
}

/// How a kernel is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Blocks per dimension.
    pub grid: [u32; 3],
    /// Threads of a block per dimension.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Whether blocks may wait for each other.
    pub cooperative: bool,
}

impl Arena {
    /// Memory of so many bytes; `None` if there is not that much.
    pub fn new(bytes: u64) -> Option<Self> {
        let size = usize::try_from(bytes)
            .ok()?
            .checked_next_multiple_of(PAGE)?;
        let layout = Layout::from_size_align(size.max(2 * PAGE), PAGE).ok()?;
        // SAFETY: the size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self {
            base,
            layout,
            valid: vec![0; layout.size() / GRANULE as usize],
            // No allocation begins where the range does.
            used: PAGE as u64,
            workspace: None,
        })
    }

    /// The address of new memory, zeroed; `None` if there is no room.
    pub fn allocate(&mut self, bytes: u64) -> Option<u64> {
        let start = self.used;
        let taken = bytes.checked_add(MemoryView::GUARD)?;
        let end = start.checked_add(taken)?.checked_next_multiple_of(ALIGN)?;
        if end > self.layout.size() as u64 {
            return None;
        }
        self.used = end;
        let first = (start / GRANULE) as usize;
        for (index, entry) in self.valid[first..].iter_mut().enumerate() {
            let left = bytes.saturating_sub(index as u64 * GRANULE);
            if left == 0 {
                break;
            }
            *entry = left.min(GRANULE) as u8;
        }
        Some(self.base.as_ptr() as u64 + start)
    }

    /// The place of bytes that were given out.
    fn place(&self, address: u64, bytes: usize) -> Option<*mut u8> {
        self.view()
            .holds(address, bytes as u64)
            .then_some(address as *mut u8)
    }

    /// Writes to memory that was given out; whether it was.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        let Some(to) = self.place(address, bytes.len()) else {
            return false;
        };
        // SAFETY: the bytes are the arena's, and no kernel runs while it is borrowed like this.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        true
    }

    /// Reads memory that was given out.
    pub fn read(&self, address: u64, bytes: usize) -> Option<Vec<u8>> {
        let from = self.place(address, bytes)?;
        let mut read = vec![0; bytes];
        // SAFETY: the bytes are the arena's; kernels run in `launch` only, which borrows it for itself.
        unsafe { from.copy_to_nonoverlapping(read.as_mut_ptr(), bytes) };
        Some(read)
    }

    /// Places a program's variables and writes their initial values.
    ///
    /// # Errors
    /// [`Fault::InvalidLaunch`] if there is no room, or the program has its variables already.
    pub fn bind(&mut self, program: &Program) -> Result<(), Fault> {
        let addresses: Option<Vec<u64>> = program
            .variables()
            .iter()
            .map(|variable| self.allocate(variable.bytes))
            .collect();
        let addresses = addresses
            .ok_or_else(|| Fault::InvalidLaunch("no room for the module's variables".into()))?;
        program.bind_variables(&addresses)?;
        for (index, &address) in addresses.iter().enumerate() {
            self.write(address, &program.image(index));
        }
        Ok(())
    }

    /// A heap for kernels, for one [`Runtime`] that is used with this arena alone; `None` if there is no
    /// room.
    ///
    /// # Safety
    /// The arena lives longer than the runtime that gets the heap.
    pub unsafe fn heap(&mut self, bytes: u64) -> Option<Heap> {
        let bytes = bytes.checked_next_multiple_of(GRANULE)?;
        let start = self.allocate(bytes)?;
        let entry = (start - self.base.as_ptr() as u64) / GRANULE;
        // SAFETY: the memory was given out for this alone; it and the table live as long as the arena.
        Some(unsafe { Heap::new(start, bytes, self.valid.as_mut_ptr().add(entry as usize)) })
    }

    fn view(&self) -> MemoryView {
        let (base, bytes) = (self.base.as_ptr() as u64, self.layout.size() as u64);
        // SAFETY: base and size are multiples of the page size, with a table entry per granule; what is
        // given out begins at multiples of the granule and a guard apart; views are used only while
        // `self` is borrowed.
        unsafe { MemoryView::new(base, bytes, self.valid.as_ptr()) }
    }

    /// Runs a kernel, by its index among the program's.
    ///
    /// # Errors
    /// As [`Program::launch`]; [`Fault::InvalidLaunch`] as well where the kernel's own limits of threads
    /// are not kept.
    pub fn launch(
        &mut self,
        program: &Program,
        kernel: usize,
        shape: Shape,
        params: &[u8],
        runtime: &Runtime,
    ) -> Result<(), Fault> {
        let refuse = |why: &str| Err(Fault::InvalidLaunch(why.into()));
        if let Some(info) = program.kernels().get(kernel) {
            let threads = |sizes: [u32; 3]| sizes.iter().fold(1_u32, |a, &b| a.saturating_mul(b));
            if info
                .required_threads
                .is_some_and(|required| required != shape.block)
            {
                return refuse("a block has the threads that .reqntid says");
            }
            let most = info.max_threads.map_or(MAX_BLOCK_THREADS, threads);
            if threads(shape.block) > most {
                return refuse("a block has no more threads than .maxntid says");
            }
        }
        if shape.cooperative && self.workspace.is_none() {
            self.workspace = self.allocate(WORKSPACE_BYTES);
            if self.workspace.is_none() {
                return refuse("no room for the workspace of a cooperative launch");
            }
        }
        program.launch(&Launch {
            dynamic_shared: shape.shared,
            cooperative: self.workspace.filter(|_| shape.cooperative),
            runtime: Some(runtime),
            ..Launch::new(kernel, shape.grid, shape.block, params, self.view())
        })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; kernels have ended, as `launch` returns after them.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
