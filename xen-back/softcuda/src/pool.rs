//! Memory pools: whom stream-ordered allocations belong to. All pools of a device draw on its memory and
//! give back what is freed at once, so a pool is a name, a set of attributes and a count of bytes. Must
//! never be asked where memory lies: that is `memory`'s business.

use crate::handles::Table;
use cuda_abi::{CuResult, Handle, Kind};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// `CUmemoryPool`.
pub enum PoolKind {}
impl Kind for PoolKind {
    const TAG: u8 = 0x34;
    const NAME: &'static str = "CUmemoryPool";
}

/// A pool.
#[derive(Debug)]
pub struct Pool {
    /// What programs call it.
    pub number: u64,
    /// Its device.
    pub device: usize,
    default: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Values of the attributes that can be set, by `CUmemPool_attribute` less 1: three switches for
    /// reuse and the bytes to keep.
    set: [u64; 4],
    used: u64,
    highest: u64,
    /// By device, the access that a program asked for.
    access: HashMap<usize, u64>,
}

impl Pool {
    fn new(number: u64, device: usize, default: bool) -> Arc<Pool> {
        Arc::new(Pool {
            number,
            device,
            default,
            state: Mutex::new(State {
                set: [1, 1, 1, 0],
                used: 0,
                highest: 0,
                access: HashMap::new(),
            }),
        })
    }

    /// An attribute's value, and whether it has 64 bits (32 otherwise).
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for a number that is none.
    pub fn attribute(&self, attribute: i32) -> Result<(u64, bool), CuResult> {
        let state = self.state();
        match attribute {
            1..=3 => Ok((state.set[attribute as usize - 1], false)),
            4 => Ok((state.set[3], true)),
            5 | 7 => Ok((state.used, true)),
            6 | 8 => Ok((state.highest, true)),
            _ => Err(CuResult::INVALID_VALUE),
        }
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for one that cannot be set, or not to this.
    pub fn set_attribute(&self, attribute: i32, value: u64) -> Result<(), CuResult> {
        let mut state = self.state();
        match (attribute, value) {
            (1..=3, 0 | 1) | (4, _) => state.set[attribute as usize - 1] = value,
            (6 | 8, 0) => state.highest = state.used,
            _ => return Err(CuResult::INVALID_VALUE),
        }
        Ok(())
    }

    /// The access that a device has: `CU_MEM_ACCESS_FLAGS_PROT_READWRITE` from its own.
    pub fn access(&self, device: usize) -> u64 {
        let own = if device == self.device { 3 } else { 0 };
        self.state().access.get(&device).copied().unwrap_or(own)
    }

    /// Sets the access of a device.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for its own device and less than all, CUDA_ERROR_INVALID_DEVICE for
    /// another: devices do not reach each other's memory.
    pub fn set_access(&self, device: usize, flags: u64) -> Result<(), CuResult> {
        match (device == self.device, flags) {
            (true, 3) | (false, 0) => {
                self.state().access.insert(device, flags);
                Ok(())
            }
            (true, _) => Err(CuResult::INVALID_VALUE),
            (false, _) => Err(CuResult::INVALID_DEVICE),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By first address: bytes, the pool and the context's handle of what is allocated.
type Allocated = HashMap<u64, (u64, Arc<Pool>, u64)>;

/// All pools.
pub struct Pools {
    live: Table<PoolKind, Pool>,
    devices: Mutex<Vec<Devices>>,
    allocated: Mutex<Allocated>,
}

struct Devices {
    default: Arc<Pool>,
    current: Arc<Pool>,
}

impl Pools {
    /// The default pools of this many devices.
    pub fn new(devices: usize) -> Pools {
        let live = Table::new();
        let devices = (0..devices)
            .map(|device| {
                let number = live.number();
                let default = Pool::new(number, device, true);
                live.insert(number, Arc::clone(&default));
                Devices {
                    current: Arc::clone(&default),
                    default,
                }
            })
            .collect();
        Pools {
            live,
            devices: Mutex::new(devices),
            allocated: Mutex::default(),
        }
    }

    /// The pool of a handle.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for a handle that is none.
    pub fn find(&self, pool: Handle) -> Result<Arc<Pool>, CuResult> {
        self.live.get(pool).ok_or(CuResult::INVALID_VALUE)
    }

    /// A device's default pool.
    pub fn default_of(&self, device: usize) -> Option<Arc<Pool>> {
        let devices = self.devices();
        devices.get(device).map(|own| Arc::clone(&own.default))
    }

    /// The pool that a device's allocations come from where none is named.
    pub fn current_of(&self, device: usize) -> Option<Arc<Pool>> {
        let devices = self.devices();
        devices.get(device).map(|own| Arc::clone(&own.current))
    }

    /// Sets it.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for a pool of another device.
    pub fn set_current(&self, device: usize, pool: Arc<Pool>) -> Result<(), CuResult> {
        let mut devices = self.devices();
        match devices.get_mut(device) {
            Some(own) if pool.device == device => {
                own.current = pool;
                Ok(())
            }
            _ => Err(CuResult::INVALID_VALUE),
        }
    }

    /// A new pool of a device; its handle.
    pub fn create(&self, device: usize) -> u64 {
        let number = self.live.number();
        self.live.insert(number, Pool::new(number, device, false));
        number
    }

    /// Ends a pool. What was allocated from it stays.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for a default pool and for a handle that is none.
    pub fn destroy(&self, pool: Handle) -> Result<(), CuResult> {
        if self.find(pool)?.default {
            return Err(CuResult::INVALID_VALUE);
        }
        if let Some(gone) = self.live.remove(pool)
            && let Some(own) = self.devices().get_mut(gone.device)
            && Arc::ptr_eq(&own.current, &gone)
        {
            own.current = Arc::clone(&own.default);
        }
        Ok(())
    }

    /// Counts an allocation.
    pub fn allocated(&self, start: u64, bytes: u64, pool: Arc<Pool>, context: u64) {
        let mut state = pool.state();
        state.used = state.used.saturating_add(bytes);
        state.highest = state.highest.max(state.used);
        drop(state);
        self.lock().insert(start, (bytes, pool, context));
    }

    /// Counts it off, if it came from a pool.
    pub fn released(&self, start: u64) {
        let gone = self.lock().remove(&start);
        if let Some((bytes, pool, _)) = gone {
            let mut state = pool.state();
            state.used = state.used.saturating_sub(bytes);
        }
    }

    /// The handle of the pool that an allocation came from, 0 for none.
    pub fn of(&self, start: u64) -> u64 {
        let pools = self.lock();
        pools.get(&start).map_or(0, |(_, pool, _)| pool.number)
    }

    /// Counts off what a context held.
    pub fn forget(&self, context: u64) {
        let starts: Vec<u64> = self
            .lock()
            .iter()
            .filter(|(_, (_, _, owner))| *owner == context)
            .map(|(start, _)| *start)
            .collect();
        for start in starts {
            self.released(start);
        }
    }

    fn devices(&self) -> MutexGuard<'_, Vec<Devices>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Allocated> {
        self.allocated
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
