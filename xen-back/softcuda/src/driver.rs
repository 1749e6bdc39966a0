//! All that a process has once cuInit succeeded: devices, memory, engines and the tables of handles. A
//! child of fork has none of it, and must never touch its parent's (locks may be held by threads that
//! the child does not have).

use crate::api::{Link, LinkKind, PhysicalHandle, PhysicalKind};
use crate::array::{Array, ArrayKind, Mipmap, MipmapKind};
use crate::cache;
use crate::capture::Captures;
use crate::context::{Context, Primary};
use crate::device::Device;
use crate::engine::Engines;
use crate::event::Event;
use crate::graph::{Exec, ExecKind, Graph, GraphKind, Node, NodeKind};
use crate::handles::Table;
use crate::library::{Kernel, KernelKind, Library, LibraryKind};
use crate::memory::Memory;
use crate::module::{Function, Module};
use crate::pool::Pools;
use crate::settings::{ENGINES, Settings};
use crate::stream::{Stream, StreamAttributes};
use crate::texture::{Reference, ReferenceKind};
use crate::turns::Turns;
use cuda_abi::CuResult;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// The process's driver.
pub struct Driver {
    /// The devices that the program sees, by its ordinals.
    pub devices: Vec<Device>,
    /// Their primary contexts.
    pub primaries: Vec<Primary>,
    /// Their memory.
    pub memory: Memory,
    /// Their engines.
    pub engines: Engines,
    /// How long a launch may take.
    pub timeout: Option<Duration>,
    /// Bytes of its device's memory that a context takes.
    pub context_memory: u64,
    /// Live contexts.
    pub contexts: Table<cuda_abi::Context, Context>,
    /// Live streams.
    pub streams: Table<cuda_abi::Stream, Stream>,
    /// Live events.
    pub events: Table<cuda_abi::Event, Event>,
    /// Live modules.
    pub modules: Table<cuda_abi::Module, Module>,
    /// Functions of live modules.
    pub functions: Table<cuda_abi::Function, Function>,
    /// Live libraries.
    pub libraries: Table<LibraryKind, Library>,
    /// Kernels of live libraries.
    pub kernels: Table<KernelKind, Kernel>,
    /// Links under way.
    pub links: Table<LinkKind, Link>,
    /// Live arrays, levels of mipmapped ones among them.
    pub arrays: Table<ArrayKind, Array>,
    /// Live mipmapped arrays.
    pub mipmaps: Table<MipmapKind, Mipmap>,
    /// Texture and surface references of live modules.
    pub references: Table<ReferenceKind, Reference>,
    /// Physical memory without an address.
    pub physical: Table<PhysicalKind, PhysicalHandle>,
    /// Live graphs.
    pub graphs: Table<GraphKind, Graph>,
    /// Their nodes.
    pub nodes: Table<NodeKind, Node>,
    /// Live executable graphs.
    pub execs: Table<ExecKind, Exec>,
    /// Streams that are being captured.
    pub captures: Captures,
    /// Memory pools.
    pub pools: Pools,
    /// Attributes that programs set on streams.
    pub stream_attributes: StreamAttributes,
}

/// cuInit has not been called.
const NEW: u8 = 0;
/// cuInit has been called.
const USED: u8 = 1;
/// This is a child of a process that called cuInit.
const FORKED: u8 = 2;

static PHASE: AtomicU8 = AtomicU8::new(NEW);
static DRIVER: OnceLock<Result<Driver, CuResult>> = OnceLock::new();

/// The driver.
///
/// # Errors
/// CUDA_ERROR_NOT_INITIALIZED before cuInit succeeded and in a child of fork.
pub fn get() -> Result<&'static Driver, CuResult> {
    if PHASE.load(Ordering::Acquire) != USED {
        return Err(CuResult::NOT_INITIALIZED);
    }
    match DRIVER.get() {
        Some(Ok(driver)) => Ok(driver),
        _ => Err(CuResult::NOT_INITIALIZED),
    }
}

/// What cuInit does.
///
/// # Errors
/// CUDA_ERROR_NO_DEVICE if the program may see none, CUDA_ERROR_SYSTEM_NOT_READY for settings that
/// make no sense, CUDA_ERROR_NOT_INITIALIZED in a child of fork.
pub fn init() -> Result<(), CuResult> {
    match PHASE.compare_exchange(NEW, USED, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            // SAFETY: the handler only stores an atomic, which a child of fork may do.
            unsafe { libc::pthread_atfork(None, None, Some(forked)) };
        }
        Err(FORKED) => return Err(CuResult::NOT_INITIALIZED),
        Err(_) => {}
    }
    match DRIVER.get_or_init(Driver::start) {
        Ok(_) => Ok(()),
        Err(error) => Err(*error),
    }
}

/// Runs in a child of fork.
extern "C" fn forked() {
    PHASE.store(FORKED, Ordering::Release);
}

impl Driver {
    fn start() -> Result<Driver, CuResult> {
        log();
        let ram = ram();
        let settings = Settings::read(|name| std::env::var(name).ok(), ram).map_err(|error| {
            // Without a log the program would only know that the system is not ready.
            eprintln!("softcuda: {error}");
            CuResult::SYSTEM_NOT_READY
        })?;
        if let Some(folder) = settings.cache.clone() {
            cache::use_folder(folder, settings.cache_size);
        }
        let machine = machine();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let all: Vec<Device> = (0..settings.devices)
            .map(|index| Device::new(index, &machine, cores as u32, settings.memory))
            .collect();
        let uuids: Vec<_> = all.iter().map(|device| device.uuid).collect();
        let devices: Vec<Device> = settings
            .visible_devices(&uuids)
            .into_iter()
            .map(|index| all[index].clone())
            .collect();
        if devices.is_empty() {
            tracing::error!("CUDA_VISIBLE_DEVICES names no device");
            return Err(CuResult::NO_DEVICE);
        }
        let contexts = Table::new();
        let primaries = (0..devices.len())
            .map(|device| Primary::new(device, contexts.number()))
            .collect();
        let engine = settings.engine.as_deref().filter(|path| {
            let folder = path.parent().is_some_and(std::path::Path::is_dir);
            let used = folder || *path != std::path::Path::new(ENGINES);
            if !used {
                tracing::warn!(
                    "there is no folder for {ENGINES}: this process has engines of its own; name a file in SOFTCUDA_ENGINE to share them"
                );
            }
            used
        });
        let turns = engine.map(Turns::join).transpose();
        let turns = turns.map_err(|error| {
            eprintln!("softcuda: {error}");
            CuResult::SYSTEM_NOT_READY
        })?;
        let pools = Pools::new(devices.len());
        tracing::info!(devices = devices.len(), memory = settings.memory, "ready");
        Ok(Driver {
            memory: Memory::reserve(devices.len(), settings.memory, ram & !0xfff)?,
            engines: Engines::new(devices.iter().map(|device| device.index).collect(), turns),
            timeout: settings.timeout,
            context_memory: settings.context_memory,
            devices,
            primaries,
            contexts,
            streams: Table::new(),
            events: Table::new(),
            modules: Table::new(),
            functions: Table::new(),
            libraries: Table::new(),
            kernels: Table::new(),
            links: Table::new(),
            arrays: Table::new(),
            mipmaps: Table::new(),
            references: Table::new(),
            physical: Table::new(),
            graphs: Table::new(),
            nodes: Table::new(),
            execs: Table::new(),
            captures: Captures::default(),
            pools,
            stream_attributes: StreamAttributes::default(),
        })
    }

    /// Destroys a context and all that it holds. What has started runs to its end first, the rest
    /// never runs.
    pub fn destroy_context(&'static self, context: &Context) {
        if !context.end() {
            return;
        }
        self.captures.forget(context.id, None);
        self.engines.wait_context(self, context.id);
        context.print();
        self.stream_attributes.forget(context.id, None);
        self.pools.forget(context.handle);
        self.contexts.remove(context.handle as _);
        self.streams
            .remove_if(|stream| stream.context.id == context.id);
        self.events
            .remove_if(|event| event.context.id == context.id);
        self.functions
            .remove_if(|function| function.context.id == context.id);
        self.modules
            .remove_if(|module| module.context.id == context.id);
        self.references
            .remove_if(|reference| reference.context.id == context.id);
        self.mipmaps.remove_if(|mipmap| {
            let first = mipmap.arrays.first();
            first.is_none_or(|array| array.context().id == context.id)
        });
        self.arrays
            .remove_if(|array| array.context().id == context.id);
        self.memory.release_context(context.handle);
        self.engines.remove_context(context.id);
        context.give_memory();
    }
}

/// Writes what happens to standard error, as far as `SOFTCUDA_LOG` asks for it.
fn log() {
    if let Ok(filter) = std::env::var("SOFTCUDA_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        // Fails where the program has a subscriber of its own, which then gets the events.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .try_init();
    }
}

/// The machine's memory in bytes.
fn ram() -> u64 {
    // SAFETY: sysconf reads no memory of ours.
    let (pages, page) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    u64::try_from(pages).unwrap_or(0) * u64::try_from(page).unwrap_or(0)
}

/// What distinguishes this machine from others, from one start to the next.
fn machine() -> Vec<u8> {
    std::fs::read("/etc/machine-id")
        .or_else(|_| std::fs::read("/proc/sys/kernel/hostname"))
        .unwrap_or_default()
}
