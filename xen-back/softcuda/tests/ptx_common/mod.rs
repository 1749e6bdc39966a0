//! A device for tests of compiled PTX: memory with its table of valid bytes, and a way to launch.
//! Each test file uses a part of it.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "for tests"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc};

use softcuda::exec::{Fault, GRANULE, Heap, Launch, MemoryView, Program, Runtime};

/// Device memory of a fixed size; allocations are never freed.
pub struct Device {
    base: *mut u8,
    layout: Layout,
    valid: Vec<u8>,
    next: u64,
}

/// Plain numbers that tests put in device memory.
pub trait Plain: Copy + Default {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for i16 {}
impl Plain for u32 {}
impl Plain for i32 {}
impl Plain for u64 {}
impl Plain for i64 {}
impl Plain for f32 {}
impl Plain for f64 {}

/// A kernel's arguments, each naturally aligned.
#[derive(Default, Clone)]
pub struct Args(Vec<u8>);

impl Args {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add<T: Plain>(mut self, value: T) -> Self {
        self.0
            .resize(self.0.len().next_multiple_of(size_of::<T>()), 0);
        // SAFETY: plain numbers have no padding.
        let bytes =
            unsafe { std::slice::from_raw_parts((&raw const value).cast::<u8>(), size_of::<T>()) };
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Device {
    pub fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.next_multiple_of(4096), 4096).unwrap();
        // SAFETY: the size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        assert!(!base.is_null());
        Self {
            base,
            layout,
            valid: vec![0; layout.size() / GRANULE as usize],
            next: 4096,
        }
    }

    /// Address of a new allocation, followed by unallocated bytes.
    pub fn allocate(&mut self, bytes: usize) -> u64 {
        let start = self.next;
        self.next = (start + bytes as u64 + MemoryView::GUARD).next_multiple_of(256);
        assert!(
            self.next as usize <= self.layout.size(),
            "the test's device is too small"
        );
        let mut left = bytes as u64;
        let mut granule = (start / GRANULE) as usize;
        while left > 0 {
            self.valid[granule] = left.min(GRANULE) as u8;
            left = left.saturating_sub(GRANULE);
            granule += 1;
        }
        self.base as u64 + start
    }

    pub fn upload<T: Plain>(&mut self, values: &[T]) -> u64 {
        let address = self.allocate(size_of_val(values));
        // SAFETY: the allocation is as long as the values.
        unsafe { (address as *mut T).copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        address
    }

    pub fn zeros<T: Plain>(&mut self, count: usize) -> u64 {
        self.upload(&vec![T::default(); count])
    }

    pub fn download<T: Plain>(&self, address: u64, count: usize) -> Vec<T> {
        let end = self.base as usize + self.layout.size();
        assert!(
            address as usize >= self.base as usize
                && address as usize + count * size_of::<T>() <= end
        );
        // SAFETY: within the device's memory, which any bits are valid numbers of.
        unsafe { std::slice::from_raw_parts(address as *const T, count) }.to_vec()
    }

    pub fn view(&self) -> MemoryView {
        // SAFETY: base and size are multiples of 4096; all of the memory is mapped while `self` lives, and
        // tests hold no reference to it while a kernel runs.
        unsafe {
            MemoryView::new(
                self.base as u64,
                self.layout.size() as u64,
                self.valid.as_ptr(),
            )
        }
    }

    pub fn launch(
        &self,
        program: &Program,
        kernel: &str,
        grid: impl Into<Dim>,
        block: impl Into<Dim>,
        args: &Args,
    ) -> Result<(), Fault> {
        self.launch_shared(program, kernel, grid, block, 0, args)
    }

    pub fn launch_shared(
        &self,
        program: &Program,
        kernel: &str,
        grid: impl Into<Dim>,
        block: impl Into<Dim>,
        dynamic_shared: u32,
        args: &Args,
    ) -> Result<(), Fault> {
        let kernel = program
            .kernels()
            .iter()
            .position(|info| info.name == kernel)
            .expect("the kernel is there");
        program.launch(&Launch {
            kernel,
            grid: grid.into().0,
            block: block.into().0,
            dynamic_shared,
            params: &args.0,
            memory: self.view(),
            textures: None,
            cooperative: None,
            runtime: None,
        })
    }

    /// Launches the module's first kernel with a runtime, perhaps as a cooperative launch.
    pub fn launch_with(
        &self,
        program: &Program,
        grid: u32,
        block: u32,
        args: &Args,
        cooperative: Option<u64>,
        runtime: &Runtime,
    ) -> Result<(), Fault> {
        program.launch(&Launch {
            cooperative,
            runtime: Some(runtime),
            ..Launch::new(0, [grid, 1, 1], [block, 1, 1], &args.0, self.view())
        })
    }

    /// A heap for kernels in this memory.
    pub fn heap(&mut self, bytes: usize) -> Heap {
        let start = self.allocate(bytes);
        let entry = (start - self.base as u64) / GRANULE;
        // SAFETY: the memory and the table's entries are the new allocation's, which tests leave alone.
        unsafe {
            Heap::new(
                start,
                bytes as u64,
                self.valid.as_mut_ptr().add(entry as usize),
            )
        }
    }

    /// Places a program's variables in this memory and writes their initial values.
    pub fn bind(&mut self, program: &Program) -> Vec<u64> {
        let addresses: Vec<u64> = program
            .variables()
            .iter()
            .map(|variable| self.allocate(variable.bytes as usize))
            .collect();
        program.bind_variables(&addresses).unwrap();
        for (index, &address) in addresses.iter().enumerate() {
            let image = program.image(index);
            // SAFETY: the allocation is at least as long as the image.
            unsafe { (address as *mut u8).copy_from_nonoverlapping(image.as_ptr(), image.len()) };
        }
        addresses
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.base, self.layout) };
    }
}

/// One to three dimensions.
pub struct Dim([u32; 3]);

impl From<u32> for Dim {
    fn from(x: u32) -> Self {
        Self([x, 1, 1])
    }
}

impl From<[u32; 2]> for Dim {
    fn from([x, y]: [u32; 2]) -> Self {
        Self([x, y, 1])
    }
}

impl From<[u32; 3]> for Dim {
    fn from(dim: [u32; 3]) -> Self {
        Self(dim)
    }
}

/// A module of the usual header and this text.
pub fn module(text: &str) -> String {
    format!(".version 8.0\n.target sm_90\n.address_size 64\n{text}")
}

pub fn compile(text: &str) -> Program {
    compiled(&module(text))
}

/// A whole text, compiled.
pub fn compiled(text: &str) -> Program {
    Program::compile(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Numbers that look random and are always the same.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let x = self.0 ^ (self.0 >> 33);
        x.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ (x >> 29)
    }

    /// Between 0 and 1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }
}
