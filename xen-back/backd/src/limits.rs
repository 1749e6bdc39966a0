//! How much one domain, and all together, may have mapped and open here.
//!
//! What is reserved is given back when the reservation is dropped. Linux limits what a backend maps by
//! nothing but Xen's own tables, which all guests share: so nothing may be mapped unreserved.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The limits of one domain, or of all.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Open channels, each of which has a worker process.
    pub channels: u32,
    /// Mapped pages of 4 KiB.
    pub pages: u32,
}

/// Which limit is reached.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the limit of {limit} {what} for {whose} is reached; close some, or raise {option}")]
pub struct LimitReached {
    limit: u32,
    what: &'static str,
    whose: &'static str,
    option: &'static str,
}

#[derive(Debug)]
struct Counter {
    used: AtomicU32,
    limit: AtomicU32,
    what: &'static str,
    whose: &'static str,
    option: &'static str,
}

impl Counter {
    fn take(self: &Arc<Self>, count: u32) -> Result<Taken, LimitReached> {
        let limit = self.limit.load(Ordering::Relaxed);
        // Whoever has more than a limit that was lowered may still ask for other things.
        let more = |used: u32| {
            let sum = used.checked_add(count)?;
            (count == 0 || sum <= limit).then_some(sum)
        };
        match self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        {
            Ok(_) => Ok(Taken {
                counter: self.clone(),
                count,
            }),
            Err(_) => Err(LimitReached {
                limit,
                what: self.what,
                whose: self.whose,
                option: self.option,
            }),
        }
    }
}

#[derive(Debug)]
struct Taken {
    counter: Arc<Counter>,
    count: u32,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.counter.used.fetch_sub(self.count, Ordering::Relaxed);
    }
}

/// What one domain has, counted against its own limits and those of all.
#[derive(Clone, Debug)]
pub struct Account {
    channels: [Arc<Counter>; 2],
    pages: [Arc<Counter>; 2],
}

/// Reserved channels and pages.
#[derive(Debug)]
pub struct Reservation {
    _taken: Vec<Taken>,
}

impl Account {
    /// The account of the first domain.
    pub fn new(domain: Limits, all: Limits) -> Account {
        let counter = |limit, what, whose, option| {
            Arc::new(Counter {
                used: AtomicU32::new(0),
                limit: AtomicU32::new(limit),
                what,
                whose,
                option,
            })
        };
        Account {
            channels: [
                counter(
                    domain.channels,
                    "channels",
                    "a domain",
                    "channels in its file or vgpu-backd's --max-channels",
                ),
                counter(
                    all.channels,
                    "channels",
                    "all domains together",
                    "vgpu-backd's --max-channels-total",
                ),
            ],
            pages: [
                counter(
                    domain.pages,
                    "mapped pages",
                    "a domain",
                    "mapped in its file or vgpu-backd's --max-pages",
                ),
                counter(
                    all.pages,
                    "mapped pages",
                    "all domains together",
                    "vgpu-backd's --max-pages-total",
                ),
            ],
        }
    }

    /// The account of another domain.
    pub fn of_another(&self) -> Account {
        let fresh = |[own, all]: &[Arc<Counter>; 2]| {
            let own = Counter {
                used: AtomicU32::new(0),
                limit: AtomicU32::new(own.limit.load(Ordering::Relaxed)),
                ..**own
            };
            [Arc::new(own), all.clone()]
        };
        Account {
            channels: fresh(&self.channels),
            pages: fresh(&self.pages),
        }
    }

    /// The domain's own limits.
    pub fn limits(&self) -> Limits {
        let [channels, _] = &self.channels;
        let [pages, _] = &self.pages;
        Limits {
            channels: channels.limit.load(Ordering::Relaxed),
            pages: pages.limit.load(Ordering::Relaxed),
        }
    }

    /// Gives the domain other limits. What it has beyond them stays.
    pub fn set_limits(&self, limits: Limits) {
        let [channels, _] = &self.channels;
        let [pages, _] = &self.pages;
        channels.limit.store(limits.channels, Ordering::Relaxed);
        pages.limit.store(limits.pages, Ordering::Relaxed);
    }

    /// Reserves all of it or nothing.
    ///
    /// # Errors
    /// [`LimitReached`]
    pub fn reserve(&self, channels: u32, pages: u32) -> Result<Reservation, LimitReached> {
        let mut taken = Vec::with_capacity(4);
        for counter in &self.channels {
            taken.push(counter.take(channels)?);
        }
        for counter in &self.pages {
            taken.push(counter.take(pages)?);
        }
        Ok(Reservation { _taken: taken })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_cannot_use_up_what_others_have() {
        let a = Account::new(
            Limits {
                channels: 2,
                pages: 10,
            },
            Limits {
                channels: 3,
                pages: 15,
            },
        );
        let b = a.of_another();
        let first = a.reserve(1, 10).unwrap();
        let error = a.reserve(1, 1).unwrap_err();
        assert_eq!((error.limit, error.whose), (10, "a domain"));
        // What failed halfway gave back what it had taken.
        let second = a.reserve(1, 0).unwrap();
        assert_eq!(a.reserve(1, 0).unwrap_err().limit, 2);
        let third = b.reserve(1, 5).unwrap();
        assert_eq!(b.reserve(1, 0).unwrap_err().whose, "all domains together");
        assert_eq!(b.reserve(0, 1).unwrap_err().limit, 15);
        drop((first, second, third));
        let more = b.reserve(2, 10).unwrap();
        assert!(a.reserve(0, u32::MAX).is_err());
        // Another limit holds from then on, for that domain alone.
        b.set_limits(Limits {
            channels: 1,
            pages: 12,
        });
        assert_eq!(b.reserve(1, 0).unwrap_err().limit, 1);
        assert_eq!(b.reserve(0, 3).unwrap_err().limit, 12);
        b.reserve(0, 2).unwrap();
        drop(more);
        b.reserve(1, 12).unwrap();
        assert_eq!(a.limits().channels, 2);
    }
}
