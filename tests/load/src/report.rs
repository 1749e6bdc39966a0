//! What vgpu-load says with `--json`. All times are nanoseconds of the guest's CLOCK_MONOTONIC; on the local
//! platform that is everybody's.

use serde::{Deserialize, Serialize};

/// A program's run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The device's name.
    pub device: String,
    /// When the load began.
    pub started_ns: u64,
    /// When the last of it had ended.
    pub ended_ns: u64,
    /// What was added to the device's clock to get these times.
    pub clock_offset_ns: i64,
    /// How far that may be off: half the width of what submissions and completions allow.
    pub clock_error_ns: u64,
    /// Processor time that the process used for the load.
    pub cpu_ns: u64,
    /// Kernels in the order of their launches.
    pub kernels: Vec<Kernel>,
    /// Copies in the order in which they were made.
    pub copies: Vec<Copy>,
}

/// A kernel: when it was launched, when the program saw its end, and when it began and ended on the device.
/// Written as four numbers, as there are many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 4]", into = "[u64; 4]")]
pub struct Kernel {
    /// Before the call that launched it.
    pub submitted: u64,
    /// After the call that waited for it.
    pub done: u64,
    /// Its first instruction, by the device's clock.
    pub start: u64,
    /// Its last.
    pub end: u64,
}

impl From<[u64; 4]> for Kernel {
    fn from([submitted, done, start, end]: [u64; 4]) -> Self {
        Self {
            submitted,
            done,
            start,
            end,
        }
    }
}

impl From<Kernel> for [u64; 4] {
    fn from(kernel: Kernel) -> Self {
        [kernel.submitted, kernel.done, kernel.start, kernel.end]
    }
}

/// A copy between host and device: when it was asked for, when it had ended, and its bytes. Written as three
/// numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 3]", into = "[u64; 3]")]
pub struct Copy {
    /// Before the call.
    pub submitted: u64,
    /// After it.
    pub done: u64,
    /// Bytes copied.
    pub bytes: u64,
}

impl From<[u64; 3]> for Copy {
    fn from([submitted, done, bytes]: [u64; 3]) -> Self {
        Self {
            submitted,
            done,
            bytes,
        }
    }
}

impl From<Copy> for [u64; 3] {
    fn from(copy: Copy) -> Self {
        [copy.submitted, copy.done, copy.bytes]
    }
}

/// Moves kernels' device times, given by the device's clock, to the host's: gives the offset and how far it
/// may be off. A kernel begins after it was submitted and ends before that is seen, which bounds the offset
/// on both sides. `usual` is taken if it is within the bounds, as it is where both clocks are the host's.
pub fn align(kernels: &mut [Kernel], usual: i64) -> (i64, u64) {
    let differ = |host: u64, device: u64| host.wrapping_sub(device).cast_signed();
    let least = kernels
        .iter()
        .map(|kernel| differ(kernel.submitted, kernel.start))
        .max();
    let most = kernels
        .iter()
        .map(|kernel| differ(kernel.done, kernel.end))
        .min();
    let (Some(least), Some(most)) = (least, most) else {
        return (usual, 0);
    };
    // A clock that drifts can leave no offset that suits all; the middle is then the best there is.
    let (offset, error) = if (least..=most).contains(&usual) {
        (usual, 0)
    } else {
        let width = most.wrapping_sub(least);
        (least.wrapping_add(width / 2), width.unsigned_abs() / 2)
    };
    for kernel in kernels {
        kernel.start = kernel.start.wrapping_add_signed(offset);
        kernel.end = kernel.end.wrapping_add_signed(offset);
    }
    (offset, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_aligned_by_what_must_come_before_what() {
        let kernel = |submitted, start: u64, end: u64, done| Kernel {
            submitted,
            done,
            start: start + 1_000,
            end: end + 1_000,
        };
        let original = [kernel(10, 15, 20, 30), kernel(40, 42, 50, 53)];
        let mut kernels = original;
        // The offset is from 40 − 1042 to 53 − 1050.
        assert_eq!(align(&mut kernels, -1_000), (-1_000, 0));
        assert_eq!((kernels[0].start, kernels[1].end), (15, 50));
        kernels = original;
        assert_eq!(align(&mut kernels, 77), (-1_000, 2));
        assert_eq!((kernels[0].start, kernels[1].end), (15, 50));
        assert_eq!(align(&mut [], 77), (77, 0));
    }

    #[test]
    fn many_kernels_are_written_as_numbers() {
        let report = Report {
            kernels: vec![Kernel::from([1, 2, 3, 4])],
            copies: vec![Copy::from([5, 6, 7])],
            ..Report::default()
        };
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.contains("[[1,2,3,4]]") && text.contains("[[5,6,7]]"));
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
