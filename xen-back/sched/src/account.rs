//! What each domain used: device time, kernels and copies apart, and what it waited. Bookkeeping only: it must
//! never decide anything, and time counted here is measured, never estimated.

use crate::Nanos;

/// What a domain has had of a device so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Account {
    /// Device time of its kernels.
    pub kernels: Nanos,
    /// Time of the copy engines.
    pub copies: Nanos,
    /// Kernels launched.
    pub launches: u64,
    /// Copies made.
    pub transfers: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Time in which it had work waiting and none on the device.
    pub waited: Nanos,
    /// Turns it was given.
    pub turns: u64,
}

impl std::ops::AddAssign for Account {
    /// Puts together what a domain had of several engines or devices.
    fn add_assign(&mut self, other: Self) {
        self.kernels = self.kernels.saturating_add(other.kernels);
        self.copies = self.copies.saturating_add(other.copies);
        self.launches = self.launches.saturating_add(other.launches);
        self.transfers = self.transfers.saturating_add(other.transfers);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.waited = self.waited.saturating_add(other.waited);
        self.turns = self.turns.saturating_add(other.turns);
    }
}

/// Holes that are remembered.
const HOLES: usize = 8;

/// Device time as it is handed out: work of several domains may overlap on the device, but no moment of it
/// is counted twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timeline {
    /// All before this moment is attributed, but for the holes.
    attributed: Nanos,
    /// The newest stretches before it that are nobody's: the device was idle, or the end of the work that it
    /// did then is not known yet.
    holes: [(Nanos, Nanos); HOLES],
    next_hole: usize,
    /// Time in which the device had work.
    pub busy: Nanos,
}

impl Timeline {
    /// Attributes work that was on the device from `start` to `end` and kept it busy for `busy` of that: the
    /// part of it which no other work has been charged for. Work is given in the order in which it ended; an
    /// end that becomes known a little late finds what was left to it.
    pub fn attribute(&mut self, start: Nanos, end: Nanos, busy: Nanos) -> Nanos {
        let start = start.min(end);
        let mut used = 0;
        for hole in &mut self.holes {
            let (from, to) = (start.max(hole.0), end.min(hole.1));
            if from < to {
                used += to - from;
                // The longer rest of it stays.
                *hole = match from - hole.0 > hole.1 - to {
                    true => (hole.0, from),
                    false => (to, hole.1),
                };
            }
        }
        if end > self.attributed {
            let from = start.max(self.attributed);
            used += end - from;
            if from > self.attributed {
                if let Some(hole) = self.holes.get_mut(self.next_hole) {
                    *hole = (self.attributed, from);
                }
                self.next_hole = (self.next_hole + 1) % HOLES;
            }
            self.attributed = end;
        }
        let used = used.min(busy);
        self.busy += used;
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_work_is_counted_once() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.attribute(0, 10, 10), 10);
        // On the device since 2, but the first had it until 10.
        assert_eq!(timeline.attribute(2, 15, 13), 5);
        assert_eq!(timeline.attribute(20, 25, 5), 5);
        // Its end became known late: what was left is its.
        assert_eq!(timeline.attribute(3, 25, 22), 5);
        assert_eq!(timeline.attribute(3, 25, 22), 0);
        // A batch with a gap in it.
        assert_eq!(timeline.attribute(30, 40, 4), 4);
        assert_eq!(timeline.busy, 29);
    }

    #[test]
    fn a_long_kernel_whose_end_is_told_after_a_short_ones_is_charged_all_the_same() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.attribute(0, 100, 100), 100);
        // Submitted while the long one ran, and told first.
        assert_eq!(timeline.attribute(590, 610, 20), 20);
        assert_eq!(timeline.attribute(95, 600, 505), 490);
        assert_eq!(timeline.busy, 610);
    }
}
