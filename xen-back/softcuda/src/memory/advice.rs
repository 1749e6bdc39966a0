//! What a program said about the use of its managed memory, page by page, so that it can be asked what it
//! said. Memory here is equally near to all, so that advice must never change what an access does.

use super::{Home, Memory};
use cuda_abi::CuResult;
use std::collections::BTreeMap;

/// Bytes of a page that advice is kept for.
const PAGE: u64 = 4096;

/// A place that memory may be near to: `CUmemLocation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// The device with this index.
    Device(usize),
    /// The host.
    Host,
    /// A node of the host's memory.
    HostNode(i32),
}

/// What was said of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advice {
    /// Mostly read, seldom written.
    pub read_mostly: bool,
    /// Where it should be.
    pub preferred: Option<Location>,
    /// Who will use it.
    pub accessed_by: Vec<Location>,
    /// Where it was prefetched to last.
    pub prefetched: Option<Location>,
}

/// Advice by first address, with the address behind it. What is not there has none.
#[derive(Debug, Default)]
pub(super) struct Advices(BTreeMap<u64, (u64, Advice)>);

impl Advices {
    /// Cuts the range that an address lies in, so that one begins there.
    fn cut(&mut self, at: u64) {
        if let Some((_, (end, advice))) = self.0.range_mut(..at).next_back()
            && *end > at
        {
            let behind = (*end, advice.clone());
            *end = at;
            self.0.insert(at, behind);
        }
    }

    fn change(&mut self, start: u64, end: u64, change: impl Fn(&mut Advice)) {
        self.cut(start);
        self.cut(end);
        let mut at = start;
        let mut gaps = Vec::new();
        for (first, (behind, advice)) in self.0.range_mut(start..end) {
            if *first > at {
                gaps.push((at, *first));
            }
            change(advice);
            at = *behind;
        }
        if at < end {
            gaps.push((at, end));
        }
        for (first, behind) in gaps {
            let mut advice = Advice::default();
            change(&mut advice);
            self.0.insert(first, (behind, advice));
        }
    }

    /// Forgets what was said of a range.
    pub(super) fn forget(&mut self, start: u64, bytes: u64) {
        self.cut(start);
        self.cut(start + bytes);
        self.0
            .retain(|first, _| !(start..start + bytes).contains(first));
    }

    /// What was said of each part of a range.
    fn of(&self, start: u64, end: u64) -> Vec<Advice> {
        let first = self.0.range(..=start).next_back();
        let first = first.filter(|(_, (behind, _))| *behind > start);
        let (mut at, mut found) = (start, Vec::new());
        for (from, (behind, advice)) in first
            .into_iter()
            .chain(self.0.range(start.saturating_add(1)..end))
        {
            if *from > at {
                found.push(Advice::default());
            }
            found.push(advice.clone());
            at = *behind;
        }
        if at < end {
            found.push(Advice::default());
        }
        found
    }
}

impl Memory {
    /// Whole pages of managed memory that hold a range.
    fn managed_pages(&self, start: u64, bytes: u64) -> Result<(u64, u64), CuResult> {
        let found = self.find(start, bytes).filter(|_| bytes > 0);
        let found = found.filter(|allocation| allocation.home == Home::Managed);
        found.ok_or(CuResult::INVALID_VALUE)?;
        Ok((start & !(PAGE - 1), (start + bytes).next_multiple_of(PAGE)))
    }

    /// Notes advice for a range of managed memory.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if it is not all in one managed allocation.
    pub fn advise(
        &self,
        start: u64,
        bytes: u64,
        change: impl Fn(&mut Advice),
    ) -> Result<(), CuResult> {
        let (start, end) = self.managed_pages(start, bytes)?;
        self.state().advices.change(start, end, change);
        Ok(())
    }

    /// What was said of each part of a range of managed memory.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if it is not all in one managed allocation.
    pub fn advice(&self, start: u64, bytes: u64) -> Result<Vec<Advice>, CuResult> {
        let (start, end) = self.managed_pages(start, bytes)?;
        Ok(self.state().advices.of(start, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_kept_for_each_part() {
        let mut advices = Advices::default();
        let said = |advices: &Advices, from, to| -> Vec<bool> {
            let of = advices.of(from, to);
            of.iter().map(|advice| advice.read_mostly).collect()
        };
        assert_eq!(said(&advices, 0, 100), [false]);
        advices.change(10, 30, |advice| advice.read_mostly = true);
        assert_eq!(said(&advices, 0, 100), [false, true, false]);
        assert_eq!(said(&advices, 10, 30), [true]);
        assert_eq!(said(&advices, 15, 20), [true]);
        advices.change(15, 50, |advice| advice.preferred = Some(Location::Host));
        assert_eq!(said(&advices, 0, 100), [false, true, true, false, false]);
        advices.change(0, 100, |advice| advice.read_mostly = false);
        assert!(said(&advices, 0, 100).iter().all(|said| !said));
        assert_eq!(advices.of(20, 40)[0].preferred, Some(Location::Host));
        advices.forget(12, 20);
        assert_eq!(advices.of(12, 32), [Advice::default()]);
        assert_eq!(advices.of(32, 33)[0].preferred, Some(Location::Host));
    }
}
