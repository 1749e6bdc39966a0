//! Streams as programs hold them. What runs in them, and when, is `engine`'s business.

use crate::api::default_is_own;
use crate::context::{self, Context};
use crate::driver::Driver;
use crate::engine::Lane;
use cuda_abi::{CuResult, Handle};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// `CU_STREAM_NON_BLOCKING`, the only flag a stream can have.
pub const NON_BLOCKING: u32 = 1;
/// Priorities that a stream can have: the least and the most urgent, as NVIDIA's devices have them.
pub const PRIORITIES: (i32, i32) = (0, -5);
/// `CU_STREAM_LEGACY`: the null stream by another name.
const LEGACY: u64 = 1;
/// `CU_STREAM_PER_THREAD`: the calling thread's default stream.
const PER_THREAD: u64 = 2;

/// A stream that a program created.
#[derive(Debug)]
pub struct Stream {
    /// Where it belongs.
    pub context: Arc<Context>,
    /// What the program calls it, and the engines too.
    pub number: u64,
    /// As given at creation.
    pub flags: u32,
}

/// A stream that a call is about: one that the program created or a default one.
#[derive(Debug)]
pub struct Target {
    /// Its context.
    pub context: Arc<Context>,
    /// Its order of work.
    pub lane: Lane,
    /// Its flags.
    pub flags: u32,
}

impl Target {
    /// The stream that a handle means to the calling thread.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_CONTEXT without a current context, CUDA_ERROR_INVALID_HANDLE for a stream
    /// that is not there, or the asynchronous error of its context.
    pub fn of(driver: &Driver, stream: Handle) -> Result<Target, CuResult> {
        let current = context::current()?;
        match stream as u64 {
            0 => Target::default_of(driver, current),
            LEGACY => Ok(Target::null(current)),
            PER_THREAD => Target::own(driver, current),
            _ => {
                let found = driver.streams.get(stream).ok_or(CuResult::INVALID_HANDLE)?;
                found.context.check()?;
                Ok(Target {
                    context: Arc::clone(&found.context),
                    lane: Lane::Stream(found.number),
                    flags: found.flags,
                })
            }
        }
    }

    /// The stream that a call means which names none: the null stream, or the calling thread's own for
    /// programs that asked for that.
    ///
    /// # Errors
    /// As [`context::own_stream`].
    pub fn default_of(driver: &Driver, context: Arc<Context>) -> Result<Target, CuResult> {
        match default_is_own() {
            true => Target::own(driver, context),
            false => Ok(Target::null(context)),
        }
    }

    /// The calling thread's default stream.
    fn own(driver: &Driver, context: Arc<Context>) -> Result<Target, CuResult> {
        let own = context::own_stream(driver, &context)?;
        Ok(Target {
            context,
            lane: Lane::Stream(own),
            flags: 0,
        })
    }

    /// A number that no other stream of the process has.
    pub fn id(&self) -> u64 {
        match self.lane {
            Lane::Null => self.context.id,
            Lane::Stream(number) => number,
        }
    }

    /// The null stream of a context.
    pub fn null(context: Arc<Context>) -> Target {
        Target {
            context,
            lane: Lane::Null,
            flags: 0,
        }
    }
}

/// A `CUlaunchAttributeValue`.
pub type AttributeValue = [u8; 64];

/// The attributes that programs set on streams; they change nothing on this device but the priority,
/// which the engines keep.
#[derive(Debug, Default)]
pub struct StreamAttributes {
    set: Mutex<HashMap<(u64, Lane), BTreeMap<i32, AttributeValue>>>,
}

impl StreamAttributes {
    /// What was set, by a `CUlaunchAttributeID`.
    pub fn get(&self, target: &Target, id: i32) -> Option<AttributeValue> {
        let set = self.lock();
        set.get(&(target.context.id, target.lane))?
            .get(&id)
            .copied()
    }

    /// Sets one.
    pub fn set(&self, target: &Target, id: i32, value: AttributeValue) {
        let mut set = self.lock();
        let own = set.entry((target.context.id, target.lane)).or_default();
        own.insert(id, value);
    }

    /// Sets all as another stream has them.
    pub fn copy(&self, to: &Target, from: &Target) {
        let mut set = self.lock();
        let values = set.get(&(from.context.id, from.lane)).cloned();
        set.insert((to.context.id, to.lane), values.unwrap_or_default());
    }

    /// Forgets those of a stream, or of all of a context's (`None`).
    pub fn forget(&self, context: u64, lane: Option<Lane>) {
        self.lock()
            .retain(|(id, at), _| *id != context || lane.is_some_and(|lane| lane != *at));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, Lane), BTreeMap<i32, AttributeValue>>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
