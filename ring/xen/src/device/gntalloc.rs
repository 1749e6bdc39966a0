//! `/dev/xen/gntalloc`: pages of this domain, granted to a peer.
//!
//! The kernel zeroes the pages and holds their memory until the peer has unmapped them. It must
//! never be asked for more than it said it has: one refused request frees nothing by itself.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;

use super::{clear_unmap_notify, ioc, ioctl, open, set_unmap_notify};
use crate::event::EventChannel;
use crate::grant::{Access, Extent, Granted, Gref, Hold};
use crate::platform::{DomId, Error, Result};

const LIMIT: &str = "/sys/module/xen_gntalloc/parameters/limit";

/// The part of `struct ioctl_gntalloc_alloc_gref` before its array of grefs.
#[repr(C)]
struct AllocGref {
    domid: u16,
    flags: u16,
    count: u32,
    index: u64,
}

const FLAG_WRITABLE: u16 = 1;
// The kernel's structure ends with one gref, padded to the alignment of its u64.
const ALLOC_GREF: u32 = ioc(b'G', 5, size_of::<AllocGref>() + 8);

/// `struct ioctl_gntalloc_dealloc_gref`.
#[repr(C)]
struct DeallocGref {
    index: u64,
    count: u32,
    pad: u32,
}

const DEALLOC_GREF: u32 = ioc(b'G', 6, size_of::<DeallocGref>());

/// Grants `pages` new zeroed pages to `peer`.
///
/// # Errors
/// [`Error::LimitReached`] over the module's limit; [`Error::NotPresent`] without the module.
pub fn grant(peer: DomId, pages: u32, access: Access) -> Result<Granted> {
    if pages == 0 {
        return Err(Error::Invalid(format!(
            "granting no pages to domain {peer}: ask for at least one"
        )));
    }
    let fd = Arc::new(open("gntalloc", OFlags::empty())?);

    // The header, then the grefs, in words of the alignment that the header needs.
    const HEADER_WORDS: usize = size_of::<AllocGref>() / size_of::<u64>();
    let mut argument = vec![0u64; HEADER_WORDS + (pages as usize).div_ceil(2)];
    let header = argument.as_mut_ptr().cast::<AllocGref>();
    // SAFETY: the buffer is longer than the header and aligned for its u64; then the ioctl reads
    // the header and writes it and `count` u32 after it, for which the buffer has room.
    unsafe {
        header.write(AllocGref {
            domid: peer.0,
            flags: match access {
                Access::ReadOnly => 0,
                Access::ReadWrite => FLAG_WRITABLE,
            },
            count: pages,
            index: 0,
        });
        ioctl(&fd, ALLOC_GREF, header.cast())
    }
    .map_err(|error| refused(peer, pages, error))?;
    // SAFETY: the ioctl filled in the header and, behind it, `pages` u32, which the buffer holds.
    let (index, grefs) = unsafe {
        (
            (*header).index,
            std::slice::from_raw_parts(header.add(1).cast::<u32>(), pages as usize)
                .iter()
                .map(|&gref| Gref(gref))
                .collect(),
        )
    };

    let extent = Extent {
        fd: fd.clone(),
        offset: index,
        pages,
    };
    Ok(Granted::new(
        Box::new(Run {
            fd,
            index,
            pages,
            notified: Mutex::new(None),
        }),
        grefs,
        vec![extent],
    ))
}

fn refused(peer: DomId, pages: u32, error: std::io::Error) -> Error {
    let operation = format!("granting {pages} pages to domain {peer}");
    if error.raw_os_error() != Some(libc::ENOSPC) {
        return Error::io(operation, error);
    }
    // ENOSPC comes from the module's limit, or from a full grant table below it.
    let limit = std::fs::read_to_string(LIMIT)
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    Error::LimitReached {
        what: match limit {
            Some(limit) => {
                format!("{operation}: this domain's limit of {limit} granted pages is reached")
            }
            None => format!("{operation}: this domain's limit of granted pages is reached"),
        },
        limit,
        advice: format!(
            "raise it by writing to {LIMIT} (for every boot: 'options xen-gntalloc limit=PAGES' in \
             /etc/modprobe.d); should it be far from used up, raise max_grant_frames in the \
             domain's xl.cfg"
        ),
    }
}

#[derive(Debug)]
struct Run {
    fd: Arc<OwnedFd>,
    index: u64,
    pages: u32,
    /// Where the unmap notification is: the kernel keeps one for each page, we one for all.
    notified: Mutex<Option<u64>>,
}

impl Hold for Run {
    fn set_unmap_notify(&self, offset: u64, event: Option<&EventChannel>) -> Result<()> {
        let mut notified = self.notified.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = notified.take() {
            clear_unmap_notify(&self.fd, before)?;
        }
        let index = self.index + offset;
        set_unmap_notify(&self.fd, index, event)?;
        *notified = Some(index);
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut argument = DeallocGref {
            index: self.index,
            count: self.pages,
            pad: 0,
        };
        // Explicitly, as another process may have a duplicate of the descriptor.
        // SAFETY: DEALLOC_GREF reads one DeallocGref.
        let result = unsafe { ioctl(&self.fd, DEALLOC_GREF, (&raw mut argument).cast()) };
        if let Err(error) = result {
            tracing::error!(pages = self.pages, %error, "cannot take back granted pages");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn encodings_are_those_of_the_kernel_headers() {
        assert_eq!(ALLOC_GREF, 0x0018_4705);
        assert_eq!(DEALLOC_GREF, 0x0010_4706);
        assert_eq!(offset_of!(AllocGref, flags), 2);
        assert_eq!(offset_of!(AllocGref, count), 4);
        assert_eq!(offset_of!(AllocGref, index), 8);
        assert_eq!(size_of::<AllocGref>(), 16);
        assert_eq!(offset_of!(DeallocGref, count), 8);
    }

    #[test]
    fn no_space_is_the_limit_and_says_how_to_raise_it() {
        let error = refused(DomId(3), 9, std::io::Error::from_raw_os_error(libc::ENOSPC));
        assert!(matches!(error, Error::LimitReached { .. }));
        assert!(error.to_string().contains(LIMIT), "{error}");
    }

    #[test]
    fn no_pages_are_refused_before_any_device_is_opened() {
        let result = grant(DomId(0), 0, Access::ReadWrite);
        assert!(matches!(result, Err(Error::Invalid(_))));
    }
}
