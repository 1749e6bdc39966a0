//! The pages that list grant references: how one reference names any number of pages.
//!
//! The frontend grants list pages for reading and fills them; the backend maps them one at a time,
//! copies each once and judges the copy. The backend must never read a list page twice, nor map more
//! of them than the number of pages it was told needs.
//!
//! ```text
//! 0   u32 magic "VGPL"
//! 4   u32 count of references in this page, 1 to 1020; 1020 in every page but the last
//! 8   u32 grant reference of the next list page; 0 in the last
//! 12  u32 0
//! 16  u32 reference of page 0, 1, …
//! ```

use std::sync::atomic::{AtomicU32, Ordering};
use xen::{Access, DomId, Granted, Gref, Mapping, PAGE_SIZE, Platform};

/// First word of a list page: "VGPL".
pub const MAGIC: u32 = u32::from_le_bytes(*b"VGPL");
/// References in one list page.
pub const PER_PAGE: usize = PAGE_WORDS - HEADER_WORDS;
/// Most pages that one list may name: 1 GiB and its rings.
pub const PAGES_LIMIT: u32 = 1 << 19;

const PAGE_WORDS: usize = PAGE_SIZE / 4;
const HEADER_WORDS: usize = 4;

/// Why a list of grant references could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum GrantListError {
    /// The page's contents break the format.
    #[error(
        "a list of grant references is malformed: {what} (found {found}); the frontend is of another version or broken"
    )]
    Malformed {
        /// Which rule.
        what: &'static str,
        /// What was found.
        found: u32,
    },
    /// A number of pages that no list may have.
    #[error("a list of {pages} pages asked for; it must have 1 to {PAGES_LIMIT}")]
    Size {
        /// What was asked for.
        pages: u32,
    },
    /// The list pages themselves could not be granted or mapped.
    #[error(transparent)]
    Xen(#[from] xen::Error),
}

/// The frontend's list pages. Dropping it takes them back: keep it until the backend has read them.
#[derive(Debug)]
pub struct GrantList {
    granted: Granted,
}

impl GrantList {
    /// Lists `grefs` in pages granted to `peer` for reading.
    ///
    /// # Errors
    /// [`GrantListError::Size`] for no references or too many; whatever granting the pages says.
    pub fn new(
        platform: &dyn Platform,
        peer: DomId,
        grefs: &[Gref],
    ) -> Result<GrantList, GrantListError> {
        let pages = u32::try_from(grefs.len()).unwrap_or(u32::MAX);
        if pages == 0 || pages > PAGES_LIMIT {
            return Err(GrantListError::Size { pages });
        }
        let chunks = grefs.chunks(PER_PAGE);
        let granted = platform.grant(peer, chunks.len() as u32, Access::ReadOnly)?;
        let memory = granted.mmap()?;
        for (page, chunk) in chunks.enumerate() {
            let next = granted
                .grefs()
                .get(page.saturating_add(1))
                .map_or(0, |gref| gref.0);
            write_page(&memory, page, &encode_page(chunk, next));
        }
        Ok(GrantList { granted })
    }

    /// The reference that names the whole list: the first list page's.
    pub fn gref(&self) -> Gref {
        self.granted.grefs().first().copied().unwrap_or_default()
    }
}

/// Reads a list that must name exactly `pages` pages of `peer`.
///
/// # Errors
/// [`GrantListError::Size`] before anything is mapped; [`GrantListError::Malformed`] for pages that
/// break the format; whatever mapping them says.
pub fn read_list(
    platform: &dyn Platform,
    peer: DomId,
    first: Gref,
    pages: u32,
) -> Result<Vec<Gref>, GrantListError> {
    follow_list(first, pages, |gref| {
        let map = platform.map(peer, &[gref], Access::ReadOnly)?;
        let memory = map.mmap()?;
        Ok(read_page(&memory))
    })
}

type Page = [u32; PAGE_WORDS];

fn encode_page(grefs: &[Gref], next: u32) -> Page {
    let mut page = [0; PAGE_WORDS];
    let words = [MAGIC, grefs.len() as u32, next, 0]
        .into_iter()
        .chain(grefs.iter().map(|gref| gref.0));
    page.iter_mut()
        .zip(words)
        .for_each(|(to, word)| *to = word.to_le());
    page
}

/// Follows the chain: each page is judged before the next is fetched. The length that is known
/// beforehand ends it, whatever the pages say, so that no chain is endless.
fn follow_list(
    first: Gref,
    pages: u32,
    mut fetch: impl FnMut(Gref) -> Result<Page, GrantListError>,
) -> Result<Vec<Gref>, GrantListError> {
    if pages == 0 || pages > PAGES_LIMIT {
        return Err(GrantListError::Size { pages });
    }
    let wanted = pages as usize;
    let mut grefs = Vec::with_capacity(wanted);
    let mut at = first;
    loop {
        let page = fetch(at)?;
        let left = wanted.saturating_sub(grefs.len());
        let here = left.min(PER_PAGE);
        let [magic, count, next, reserved, listed @ ..] = page.map(u32::from_le);
        let rules = [
            ("no magic number in front", magic, magic == MAGIC),
            (
                "the count is not what the number of pages asks for",
                count,
                count as usize == here,
            ),
            ("a reserved word is not 0", reserved, reserved == 0),
            (
                "the chain is longer or shorter than the number of pages asks for",
                next,
                (next == 0) == (left == here),
            ),
        ];
        if let Some((what, found, _)) = rules.into_iter().find(|(_, _, kept)| !kept) {
            return Err(GrantListError::Malformed { what, found });
        }
        grefs.extend(listed.iter().take(here).map(|gref| Gref(*gref)));
        if next == 0 {
            return Ok(grefs);
        }
        at = Gref(next);
    }
}

fn write_page(memory: &Mapping, page: usize, words: &Page) {
    for (index, word) in words.iter().enumerate() {
        if let Some(shared) = shared_word(memory, page, index) {
            shared.store(*word, Ordering::Relaxed);
        }
    }
}

/// The one copy of the first page of `memory`.
fn read_page(memory: &Mapping) -> Page {
    std::array::from_fn(|index| {
        shared_word(memory, 0, index).map_or(0, |word| word.load(Ordering::Relaxed))
    })
}

/// A word of shared memory; `None` outside of it.
fn shared_word(memory: &Mapping, page: usize, index: usize) -> Option<&AtomicU32> {
    let offset = page
        .checked_mul(PAGE_SIZE)?
        .checked_add(index.checked_mul(4)?)?;
    if offset.checked_add(4)? > memory.len() {
        return None;
    }
    // SAFETY: the word lies in the mapping, which the returned reference borrows; the mapping is
    // page-aligned and the offset a multiple of 4. List pages are only ever reached here, as atomics.
    // Pages mapped for reading alone are only loaded from.
    Some(unsafe { AtomicU32::from_ptr(memory.as_ptr().as_ptr().add(offset).cast()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn list(grefs: &[Gref], first: u32) -> HashMap<u32, Page> {
        let chunks: Vec<_> = grefs.chunks(PER_PAGE).collect();
        let last = chunks.len() - 1;
        (0u32..)
            .zip(chunks)
            .map(|(at, chunk)| {
                (
                    first + at,
                    encode_page(
                        chunk,
                        if at as usize == last {
                            0
                        } else {
                            first + at + 1
                        },
                    ),
                )
            })
            .collect()
    }

    fn read(
        list: &HashMap<u32, Page>,
        first: u32,
        pages: u32,
    ) -> Result<Vec<Gref>, GrantListError> {
        follow_list(Gref(first), pages, |gref| {
            list.get(&gref.0).copied().ok_or(GrantListError::Malformed {
                what: "not granted",
                found: gref.0,
            })
        })
    }

    fn grefs(count: usize) -> Vec<Gref> {
        (0..count as u32).map(|n| Gref(n * 3 + 8)).collect()
    }

    #[test]
    fn a_list_page_holds_1020_references() {
        assert_eq!(PER_PAGE, 1020);
        let page = encode_page(&grefs(2), 77);
        assert_eq!(page[..7], [0x4c50_4756, 2, 77, 0, 8, 11, 0].map(u32::to_le));
    }

    #[test]
    fn lists_of_any_length_are_read_back() {
        for count in [1, 2, 1019, 1020, 1021, 2040, 2041, 5000] {
            let grefs = grefs(count);
            let pages = list(&grefs, 100);
            assert_eq!(pages.len(), count.div_ceil(PER_PAGE));
            assert_eq!(read(&pages, 100, count as u32).unwrap(), grefs, "{count}");
        }
    }

    #[test]
    fn wrong_lengths_are_refused_before_too_much_is_mapped() {
        let pages = list(&grefs(2041), 100);
        for wrong in [1, 1019, 1020, 1021, 2040, 2042, 4000] {
            assert!(
                matches!(
                    read(&pages, 100, wrong),
                    Err(GrantListError::Malformed { .. })
                ),
                "{wrong}"
            );
        }
        let untouched = |_| -> Result<Page, GrantListError> { panic!("nothing may be mapped") };
        for size in [0, PAGES_LIMIT + 1, u32::MAX] {
            assert!(matches!(
                follow_list(Gref(1), size, untouched),
                Err(GrantListError::Size { .. })
            ));
        }
    }

    #[test]
    fn a_chain_in_a_circle_ends() {
        let mut pages = list(&grefs(PER_PAGE * 3), 100);
        pages.get_mut(&102).unwrap()[2] = 100u32.to_le();
        let mut mapped = 0;
        let result = follow_list(Gref(100), PER_PAGE as u32 * 3, |gref| {
            mapped += 1;
            Ok(pages[&gref.0])
        });
        assert!(matches!(result, Err(GrantListError::Malformed { .. })));
        assert_eq!(mapped, 3);
    }

    proptest! {
        #[test]
        fn hostile_pages_never_panic(
            words in proptest::collection::vec(any::<u32>(), 4..40),
            count in 0u32..1100,
            pages in 0u32..3000,
            honest_magic: bool,
        ) {
            let mut page = [0; PAGE_WORDS];
            page[..words.len()].copy_from_slice(&words);
            page[1] = count;
            if honest_magic {
                page[0] = MAGIC;
            }
            let mut mapped = 0;
            if let Ok(grefs) = follow_list(Gref(1), pages, |_| { mapped += 1; Ok(page) }) {
                prop_assert_eq!(grefs.len(), pages as usize);
            }
            prop_assert!(mapped <= (pages as usize).div_ceil(PER_PAGE));
        }
    }
}
