//! The device that softcuda pretends to be: compute capability 9.0, a multiprocessor per CPU core,
//! limits as NVIDIA documents them for that capability except where the engine has smaller ones. It
//! must never claim what the engine lacks.

use crate::exec::{MAX_BLOCK_THREADS, MAX_SHARED_BYTES, WARP_SIZE};
use cuda_abi::Uuid;
use cuda_abi::sys::CUdevice_attribute as Attribute;

/// Compute capability, major and minor: PTX for any target up to sm_90 runs.
pub const COMPUTE_CAPABILITY: (i32, i32) = (9, 0);
/// The same as PTX targets count it.
pub const TARGET: i32 = COMPUTE_CAPABILITY.0 * 10 + COMPUTE_CAPABILITY.1;
/// Threads of a block in each dimension, at most.
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Blocks of a grid in each dimension, at most.
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Bytes of shared memory that a kernel may use without asking for more.
pub const SHARED_BYTES: u32 = 48 * 1024;
/// Bytes of a kernel's parameters, at most.
pub const MAX_PARAM_BYTES: usize = 32764;
pub use crate::exec::{MAX_RESIDENT_BLOCKS, MAX_RESIDENT_THREADS};
/// Bytes of shared memory of a multiprocessor.
pub const RESIDENT_SHARED_BYTES: u32 = MAX_SHARED_BYTES + RESERVED_SHARED_BYTES;
/// Bytes of shared memory that each resident block costs beside its own.
pub const RESERVED_SHARED_BYTES: u32 = 1024;
/// Registers of a multiprocessor.
pub const REGISTERS: u32 = 65536;

/// One device.
#[derive(Debug, Clone)]
pub struct Device {
    /// Which of the machine's configured devices it is, whatever ordinal the program knows it by.
    pub index: usize,
    /// The same on each start on one machine.
    pub uuid: Uuid,
    /// Multiprocessors: CPU cores that run blocks.
    pub cores: u32,
    /// Bytes of memory.
    pub memory: u64,
}

impl Device {
    /// The device with this index on the machine that `machine` names.
    pub fn new(index: usize, machine: &[u8], cores: u32, memory: u64) -> Device {
        Device {
            index,
            uuid: uuid(machine, index),
            cores,
            memory,
        }
    }

    /// The device's name.
    pub fn name(&self) -> String {
        let plural = if self.cores == 1 { "" } else { "s" };
        format!("softcuda ({} core{plural})", self.cores)
    }

    /// Where it would lie on the PCI bus: its index is the device's number there, as the attributes say.
    pub fn pci_bus_id(&self) -> String {
        format!("0000:00:{:02x}.0", self.index)
    }

    /// Whether text names that place: `[domain:]bus:device[.function]` in hexadecimal digits.
    pub fn is_at(&self, text: &str) -> bool {
        let (place, function) = text.split_once('.').unwrap_or((text, "0"));
        let numbers: Option<Vec<u32>> = place
            .split(':')
            .chain([function])
            .map(|digits| u32::from_str_radix(digits, 16).ok())
            .collect();
        match numbers.as_deref() {
            Some([0, 0, device, 0] | [0, device, 0]) => *device as usize == self.index,
            _ => false,
        }
    }

    /// The value of an attribute; `None` for a number that CUDA 12.8 does not know. What softcuda
    /// lacks, and what no number describes, is 0.
    pub fn attribute(&self, attribute: i32) -> Option<i32> {
        use Attribute::*;
        const VALUES: &[(Attribute, i32)] = &[
            (
                CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
                MAX_BLOCK_THREADS as i32,
            ),
            (CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, MAX_BLOCK[0] as i32),
            (CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, MAX_BLOCK[1] as i32),
            (CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, MAX_BLOCK[2] as i32),
            (CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, MAX_GRID[0] as i32),
            (CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, MAX_GRID[1] as i32),
            (CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, MAX_GRID[2] as i32),
            (
                CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK,
                SHARED_BYTES as i32,
            ),
            (
                CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                MAX_SHARED_BYTES as i32,
            ),
            (
                CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
                RESIDENT_SHARED_BYTES as i32,
            ),
            (
                CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK,
                RESERVED_SHARED_BYTES as i32,
            ),
            (CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 64 * 1024),
            (CU_DEVICE_ATTRIBUTE_WARP_SIZE, WARP_SIZE as i32),
            (CU_DEVICE_ATTRIBUTE_MAX_PITCH, i32::MAX),
            (
                CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK,
                REGISTERS as i32,
            ),
            (
                CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR,
                REGISTERS as i32,
            ),
            (
                CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
                MAX_RESIDENT_THREADS as i32,
            ),
            (
                CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR,
                MAX_RESIDENT_BLOCKS as i32,
            ),
            (
                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                COMPUTE_CAPABILITY.0,
            ),
            (
                CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                COMPUTE_CAPABILITY.1,
            ),
            // kHz and bits: a CPU's memory has no such numbers that mean the same, these are of its order.
            (CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 2_000_000),
            (CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1_600_000),
            (CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 128),
            (CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 8 << 20),
            (CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512),
            (CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT, 32),
            (CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT, 512),
            (CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1),
            // One copy engine each way, beside the compute engine.
            (CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1),
            (CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 2),
            // One address space; page-locked host memory lies in it.
            (CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1),
            (CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1),
            (CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1),
            (CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, 1),
            (CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED, 1),
            (CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED, 1),
            (CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED, 1),
            (CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO, 2),
            (CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1),
            (CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1),
            // Waits for values in memory, of both versions of the calls.
            (CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1, 1),
            (CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1, 1),
            (CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR_V1, 1),
            (CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, 1),
            (CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR, 1),
            (CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD_GROUP_ID, 0),
            (CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT, 1),
            (
                CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM,
                1,
            ),
            // Managed memory is host memory that kernels reach: nothing moves.
            (CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 1),
            (CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 1),
            (CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST, 1),
            (
                Attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                1,
            ),
            // Textures, as capability 9.0 has them and `array` enforces it.
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH, 131_072),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LINEAR_WIDTH, 1 << 28),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_WIDTH, 131_072),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_HEIGHT, 65_536),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_WIDTH, 131_072),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_HEIGHT, 65_000),
            (
                CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_PITCH,
                2_097_120,
            ),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH, 16_384),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT, 16_384),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH, 16_384),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_WIDTH, 32_768),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_LAYERS, 2048),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_WIDTH, 32_768),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_HEIGHT, 32_768),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_LAYERS, 2048),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_WIDTH, 32_768),
            (
                CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_WIDTH,
                32_768,
            ),
            (
                CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS,
                2046,
            ),
            (
                CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH,
                131_072,
            ),
            (
                CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH,
                131_072,
            ),
            (
                CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_HEIGHT,
                65_536,
            ),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_WIDTH, 131_072),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_HEIGHT, 65_536),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_WIDTH, 131_072),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_WIDTH, 131_072),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_HEIGHT, 65_536),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_WIDTH, 16_384),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_HEIGHT, 16_384),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_DEPTH, 16_384),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_WIDTH, 32_768),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_LAYERS, 2048),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_WIDTH, 32_768),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_HEIGHT, 32_768),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_LAYERS, 2048),
            (CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_WIDTH, 32_768),
            (
                CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_WIDTH,
                32_768,
            ),
            (
                CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS,
                2046,
            ),
        ];
        /// The first number that CUDA 12.8's header does not define.
        const END: i32 = 144;
        if !(1..END).contains(&attribute) {
            return None;
        }
        if attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as i32 {
            return Some(self.cores as i32);
        }
        if attribute == CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID as i32 {
            return Some(self.index as i32);
        }
        let known = VALUES.iter().find(|(id, _)| *id as i32 == attribute);
        Some(known.map_or(0, |(_, value)| *value))
    }
}

/// A UUID (version 8: of our own making) from the machine's name and the device's index.
fn uuid(machine: &[u8], index: usize) -> Uuid {
    // FNV-1a over 128 bits.
    const PRIME: u128 = (1 << 88) + 0x13b;
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let index = (index as u64).to_le_bytes();
    for byte in b"softcuda".iter().chain(machine).chain(&index) {
        hash = (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
    }
    let mut uuid = hash.to_be_bytes();
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_stable_and_distinct() {
        let uuids: Vec<Uuid> = (0..16).map(|i| uuid(b"machine", i)).collect();
        assert_eq!(uuids[3], uuid(b"machine", 3));
        assert_ne!(uuids[3], uuid(b"another", 3));
        for (i, a) in uuids.iter().enumerate() {
            assert!(!uuids[..i].contains(a));
        }
    }

    #[test]
    fn attributes_of_the_header_have_values_and_others_none() {
        let device = Device::new(1, b"", 6, 1 << 30);
        assert_eq!(device.attribute(16), Some(6));
        assert_eq!(device.attribute(1), Some(1024));
        assert_eq!(device.attribute(75), Some(9));
        assert_eq!(device.attribute(10), Some(32));
        assert_eq!(device.attribute(34), Some(1));
        for number in [i32::MIN, -1, 0, 144, i32::MAX] {
            assert_eq!(device.attribute(number), None, "{number}");
        }
        assert_eq!(device.name(), "softcuda (6 cores)");
    }

    #[test]
    fn a_device_lies_on_the_pci_bus_at_its_index() {
        let device = Device::new(11, b"", 1, 1 << 30);
        assert_eq!(device.pci_bus_id(), "0000:00:0b.0");
        for text in ["0000:00:0b.0", "00:0B.0", "0:b", "0000:00:0b"] {
            assert!(device.is_at(text), "{text}");
        }
        for text in [
            "",
            ":",
            "0000:01:0b.0",
            "00:0a.0",
            "00:0b.1",
            "0:0:0:b.0",
            "b",
        ] {
            assert!(!device.is_at(text), "{text}");
        }
    }
}
