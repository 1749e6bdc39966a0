//! alignedTypes: copies of arrays whose elements have several sizes and alignments.

use anyhow::Result;
use clap::Parser;

use crate::compare::Expected;
use crate::harness::{Common, Lane, Sample, launch};
use crate::input::Random;

const THREADS_PER_BLOCK: u32 = 256;

/// The kernels, each with the bytes from one element to the next and those of them that hold a value.
const TYPES: [(&str, usize, usize); 13] = [
    ("copyUint8", 1, 1),
    ("copyUint16", 2, 2),
    ("copyUint32", 4, 4),
    ("copyUint64", 8, 8),
    ("copyBytes4Unaligned", 4, 4),
    ("copyWords2Unaligned", 8, 8),
    ("copyWords3", 12, 12),
    ("copyWords4Unaligned", 16, 16),
    ("copyBytes4", 4, 4),
    ("copyWords2", 8, 8),
    ("copyWords3Aligned", 16, 12),
    ("copyWords4", 16, 16),
    ("copyWords8", 32, 32),
];

/// Copies arrays of structures on a CUDA device and checks every byte
///
/// The reference is the input itself, but for what pads a structure. The error is the difference of the
/// bytes, and none is tolerated.
#[derive(Parser)]
#[command(name = "alignedTypes", version)]
pub(super) struct AlignedTypes {
    /// Bytes in an array; what is no multiple of an element's size is left out
    #[arg(long, value_name = "BYTES", default_value_t = 400_003, value_parser = clap::value_parser!(u32).range(32..))]
    n: u32,

    #[command(flatten)]
    common: Common,
}

impl Sample for AlignedTypes {
    const NAME: &'static str = "alignedTypes";
    const PTX: &'static str = include_str!("../../kernels/alignedTypes.ptx");
    const KERNELS: &'static [&'static str] = &[
        "copyUint8",
        "copyUint16",
        "copyUint32",
        "copyUint64",
        "copyBytes4Unaligned",
        "copyWords2Unaligned",
        "copyWords3",
        "copyWords4Unaligned",
        "copyBytes4",
        "copyWords2",
        "copyWords3Aligned",
        "copyWords4",
        "copyWords8",
    ];
    type Input = Vec<u8>;
    type Output = u8;

    fn common(&self) -> &Common {
        &self.common
    }

    fn problem(&self) -> String {
        format!("{} bytes of {} types", self.n, TYPES.len())
    }

    fn input(&self, seed: u64) -> Vec<u8> {
        Random::new(seed).bytes(self.n as usize)
    }

    /// The copies by each kernel, without padding.
    fn solve(&self, lane: &mut Lane, input: &Vec<u8>) -> Result<Vec<u8>> {
        let from = lane.upload(input)?;
        let mut output = Vec::new();
        for (name, stride, bytes) in TYPES {
            let mut to = lane.zeros::<u8>(input.len())?;
            let count = input.len() / stride;
            let n = u32::try_from(count)?;
            let blocks = lane.blocks(count, THREADS_PER_BLOCK);
            lane.iterate(|lane| {
                // SAFETY: the arguments are those of all these kernels, (to, from, n), in type and order; both
                // arrays hold n elements of the kernel's size, and are aligned as every allocation is.
                unsafe { launch!(lane, name, blocks, THREADS_PER_BLOCK; &mut to, &from, &n) }?;
                Ok(())
            })?;
            output.extend(values(&lane.download(&to)?, stride, bytes));
        }
        Ok(output)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }

    fn reference(&self, input: &Vec<u8>) -> Vec<Expected> {
        TYPES
            .iter()
            .flat_map(|&(_, stride, bytes)| values(input, stride, bytes))
            .map(Expected::from)
            .collect()
    }
}

/// What of an array is not padding.
fn values(data: &[u8], stride: usize, bytes: usize) -> impl Iterator<Item = u8> {
    data.chunks_exact(stride)
        .flat_map(move |element| element.iter().take(bytes).copied())
}
