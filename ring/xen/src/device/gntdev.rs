//! `/dev/xen/gntdev`: a peer's granted pages, mapped here.
//!
//! One descriptor stands for one batch. The ioctl only names the grants; Xen is asked for them by
//! mmap, once, and gives them back when the mapping and every duplicate of the descriptor are gone.
//! It must never unmap by ioctl: the extents may be in use in another process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::{ioc, ioctl, open, set_unmap_notify};
use crate::event::EventChannel;
use crate::grant::{Access, Extent, GrantMap, Gref, Hold};
use crate::platform::{DomId, Error, Result};

/// The part of `struct ioctl_gntdev_map_grant_ref` before its array of references.
#[repr(C)]
struct MapGrantRef {
    count: u32,
    pad: u32,
    index: u64,
}

/// `struct ioctl_gntdev_grant_ref`.
#[repr(C)]
#[derive(Clone)]
struct GrantRef {
    domid: u32,
    reference: u32,
}

const MAP_GRANT_REF: u32 = ioc(b'G', 0, size_of::<MapGrantRef>() + size_of::<GrantRef>());

/// Names pages that `peer` granted, to be mapped by [`GrantMap::mmap`] or by the process that gets
/// the extent.
///
/// # Errors
/// [`Error::LimitReached`] for more pages than the module maps at once; [`Error::NotPresent`]
/// without the module.
pub fn map(peer: DomId, grefs: &[Gref], access: Access) -> Result<GrantMap> {
    let pages = u32::try_from(grefs.len())
        .ok()
        .filter(|&pages| pages > 0)
        .ok_or_else(|| {
            Error::Invalid(format!(
                "mapping {} pages of domain {peer}: at least one, and at most 2^32 - 1",
                grefs.len()
            ))
        })?;
    let fd = Arc::new(open("gntdev", OFlags::empty())?);

    // The header, then the references: both are made of units of the same size and alignment.
    const HEADER_WORDS: usize = size_of::<MapGrantRef>() / size_of::<u64>();
    let mut argument = vec![0u64; HEADER_WORDS + grefs.len()];
    let header = argument.as_mut_ptr().cast::<MapGrantRef>();
    // SAFETY: the buffer holds a header and `grefs.len()` references and is aligned for both; the
    // ioctl reads them and writes the header.
    let index = unsafe {
        header.write(MapGrantRef {
            count: pages,
            pad: 0,
            index: 0,
        });
        let references = header.add(1).cast::<GrantRef>();
        for (at, gref) in grefs.iter().enumerate() {
            references.add(at).write(GrantRef {
                domid: peer.0.into(),
                reference: gref.0,
            });
        }
        ioctl(&fd, MAP_GRANT_REF, header.cast()).map(|_| (*header).index)
    }
    .map_err(|error| refused(peer, pages, error))?;

    let extent = Extent {
        fd: fd.clone(),
        offset: index,
        pages,
    };
    Ok(GrantMap::new(
        Box::new(Batch { fd, index }),
        access,
        vec![extent],
    ))
}

fn refused(peer: DomId, pages: u32, error: std::io::Error) -> Error {
    let what = format!("mapping {pages} pages of domain {peer}");
    match error.raw_os_error() {
        Some(libc::EINVAL) => Error::LimitReached {
            what: format!("{what}: more than xen-gntdev maps at once"),
            limit: None,
            advice: "map fewer at once, or raise /sys/module/xen_gntdev/parameters/limit".into(),
        },
        _ => Error::io(what, error),
    }
}

#[derive(Debug)]
struct Batch {
    fd: Arc<OwnedFd>,
    index: u64,
}

impl Hold for Batch {
    fn set_unmap_notify(&self, offset: u64, event: Option<&EventChannel>) -> Result<()> {
        set_unmap_notify(&self.fd, self.index + offset, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn encodings_are_those_of_the_kernel_headers() {
        assert_eq!(MAP_GRANT_REF, 0x0018_4700);
        assert_eq!(offset_of!(MapGrantRef, index), 8);
        assert_eq!(size_of::<MapGrantRef>(), 16);
        assert_eq!(size_of::<GrantRef>(), 8);
        assert_eq!(offset_of!(GrantRef, reference), 4);
    }

    #[test]
    fn no_pages_are_refused_before_any_device_is_opened() {
        let result = map(DomId(0), &[], Access::ReadOnly);
        assert!(matches!(result, Err(Error::Invalid(_))));
    }
}
