//! Boots the real Xen hypervisor, a dom0 with xl and PV, PVH and HVM guests on a machine without Xen, for tests.
//!
//! Everything runs under QEMU's software CPU: no KVM, no Xen host, no GPU. The hypervisor, the kernel and Xen's tools
//! come from a cache that `cargo xtask setup` fills; nothing of the host is changed.
//!
//! A run has [`Lab::dom0`] and [`Lab::guest`] images to add files and programs to, and scenarios: pairs of shell
//! scripts under `scenarios/`, one for dom0 and one for the guests, whose `ok - …` and `not ok - …` lines are counted.
//! It must never be part of the product: only tests and `cargo xtask` use it.

mod cache;
mod cpio;
mod elf;
mod image;
mod qemu;
mod scenario;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

pub use cache::{Cache, ROOT_VARIABLE};
pub use image::Image;
pub use qemu::{Outcome, Show};
pub use scenario::{Guest, GuestType, SCENARIOS, Scenario};

/// Where the product is laid out in dom0 and in guests.
pub const PRODUCT: &str = "/opt/xen-vgpu";

/// What Xen's toolstack needs in dom0, below its own folder.
const XEN_PROGRAMS: [&str; 7] = [
    "xl",
    "xenstored",
    "xenconsoled",
    "xen-init-dom0",
    "libxl-save-helper",
    "xenconsole",
    "lsevtchn",
];
const XENSTORE_PROGRAMS: [&str; 7] = ["ls", "read", "write", "rm", "chmod", "watch", "list"];

/// The machine and how to show it.
#[derive(Clone, Debug)]
pub struct Options {
    /// CPUs of the machine and of dom0. With more than one, QEMU 7.2 now and then delivers an interrupt that Xen has
    /// injected into a PVH or HVM guest twice, or saves Xen's own registers as the guest's, and the guest dies or stands
    /// still: of 24 starts of PVH guests four with two CPUs on one thread, one with a thread for each (without CX16), none with
    /// one CPU. A run takes no longer with one: the second mostly waits for the first.
    pub cpus: u32,
    /// Memory of the machine, in MiB.
    pub memory_mib: u32,
    /// Of which dom0's, in MiB.
    pub dom0_memory_mib: u32,
    /// After so long a run has failed.
    pub timeout: Duration,
    /// What to print while it runs.
    pub show: Show,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cpus: 1,
            memory_mib: 3072,
            dom0_memory_mib: 1280,
            timeout: Duration::from_secs(420),
            show: Show::Checks,
        }
    }
}

/// One machine with Xen on it, not yet started.
#[derive(Debug)]
pub struct Lab {
    cache: Cache,
    options: Options,
    /// dom0's root file system, complete but for what a test adds.
    pub dom0: Image,
    /// Every guest's root file system.
    pub guest: Image,
    overlays: Vec<(String, Image)>,
    environment: Vec<(String, String)>,
}

impl Lab {
    /// A machine with Xen's toolstack in dom0 and a bare guest image.
    ///
    /// # Errors
    /// The cache lacks something: the error says what, and how to fill it.
    pub fn new(options: Options) -> Result<Lab> {
        let cache = Cache::locate();
        let mut guest = base(&cache)?;
        guest.script("lab/start", include_str!("../image/guest.sh"));
        for tool in ["read", "ls", "write"] {
            let program = format!("/usr/bin/xenstore-{tool}");
            guest.program(&program, &cache.file(&program)?)?;
        }
        let dom0 = dom0(&cache)?;
        Ok(Lab {
            cache,
            options,
            dom0,
            guest,
            overlays: Vec::new(),
            environment: Vec::new(),
        })
    }

    /// Files that only the guest of this name has, over those that all have.
    pub fn only_in(&mut self, guest: &str) -> &mut Image {
        let at = self
            .overlays
            .iter()
            .position(|(name, _)| name == guest)
            .unwrap_or_else(|| {
                self.overlays
                    .push((guest.to_owned(), Image::new(&self.cache)));
                self.overlays.len() - 1
            });
        &mut self.overlays[at].1
    }

    /// A variable for the scripts in dom0.
    pub fn variable(&mut self, name: &str, value: impl Into<String>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Lays a folder of the host's out as the product, in dom0 or in guests.
    ///
    /// # Errors
    /// The folder cannot be read, or a program in it needs a library that is nowhere.
    pub fn install(&mut self, backend: &Path, frontend: &Path) -> Result<()> {
        self.dom0
            .tree(PRODUCT, backend)
            .context("the backend's part of the bundle")?;
        self.guest
            .tree(PRODUCT, frontend)
            .context("the guest's part of the bundle")
    }

    /// Boots, runs the scenarios one after the other with these guests, and counts the checks.
    ///
    /// # Errors
    /// The machine did not start, or did not come to an end within [`Options::timeout`]. A failed check is no error.
    pub fn run(mut self, scenarios: &[Scenario], guests: &[Guest]) -> Result<Outcome> {
        for scenario in scenarios {
            for (image, file, text) in [
                (&mut self.dom0, "dom0.sh", scenario.dom0),
                (&mut self.guest, "guest.sh", scenario.guest),
            ] {
                image.script(&format!("lab/scenarios/{}/{file}", scenario.name), text);
            }
        }
        let names: Vec<_> = scenarios.iter().map(|scenario| scenario.name).collect();
        let machine = self.machine(&names.join(" "), guests)?;
        machine.run(&self.options)
    }

    /// Boots and gives dom0's prompt to the terminal that this process has, with these guests running, until the
    /// person leaves with Ctrl-a x.
    ///
    /// # Errors
    /// The machine did not start.
    pub fn shell(mut self, guests: &[Guest]) -> Result<()> {
        if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdin())
            && size.ws_row > 0
        {
            self.variable(
                "LAB_SIZE",
                format!("rows {} cols {}", size.ws_row, size.ws_col),
            );
        }
        self.dom0
            .script("lab/shell.sh", include_str!("../image/shell.sh"));
        self.machine("shell", guests)?.interact(&self.options)
    }

    fn machine(&mut self, scenarios: &str, guests: &[Guest]) -> Result<qemu::Machine> {
        // At the prompt, a person may start one of any kind.
        if scenarios == "shell" || guests.iter().any(|guest| guest.kind == GuestType::Hvm) {
            device_model(&mut self.dom0, &self.cache)?;
        }
        let listed: Vec<_> = guests
            .iter()
            .map(|guest| format!("{}:{}", guest.name, guest.kind.name()))
            .collect();
        self.variable("LAB_SCENARIOS", scenarios);
        self.variable("LAB_GUESTS", listed.join(" "));
        self.variable("LAB_KERNEL", qemu::KERNEL_OPTIONS);
        self.variable(
            "LAB_HVM_KERNEL",
            cache::HvmKernel::KERNEL_ADDRESS.to_string(),
        );
        self.variable("LAB_HVM_FILES", cache::HvmKernel::FILES_ADDRESS.to_string());
        self.variable("LAB_TOOLS", self.cache.tools()?);
        let environment: String = self
            .environment
            .iter()
            .map(|(name, value)| format!("{name}='{}'\n", value.replace('\'', r"'\''")))
            .collect();
        self.dom0.file("lab/env", 0o644, environment.into_bytes());
        self.dom0.file("lab/guest.cpio", 0o644, self.guest.pack()?);
        for (name, overlay) in &self.overlays {
            self.dom0
                .file(&format!("lab/guest-{name}.cpio"), 0o644, overlay.pack()?);
        }
        qemu::Machine::new(&self.cache, &self.dom0)
    }
}

/// What dom0 and guests have in common: busybox, Xen's drivers, an init.
fn base(cache: &Cache) -> Result<Image> {
    let mut image = Image::new(cache);
    for folder in [
        "dev", "proc", "sys", "tmp", "run", "root", "etc", "sbin", "var/log", "usr/sbin",
    ] {
        image.directory(folder);
    }
    image.link("lib", "usr/lib");
    image.link("lib64", "usr/lib/x86_64-linux-gnu");
    image.link("var/run", "/run");
    image.link("var/lock", "/run/lock");
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find_map(|path| cache.file(path).ok())
        .map_or_else(|| cache.file("/bin/busybox"), Ok)?;
    image.program("bin/busybox", &busybox)?;
    for applet in scenario::applets(&busybox)? {
        image.link(&applet, "/bin/busybox");
    }
    for module in cache.modules()? {
        let name = cache::file_name(&module);
        let name = name
            .split_once(".ko")
            .map_or(name.as_str(), |(name, _)| name);
        image.unpacked(&format!("usr/lib/modules/{name}.ko"), &module)?;
    }
    // The C library loads it by name when a thread is cancelled.
    image.shared_library("libgcc_s.so.1")?;
    image.script("init", include_str!("../image/init.sh"));
    image.file("etc/inittab", 0o644, *include_bytes!("../image/inittab"));
    image.file(
        "etc/passwd",
        0o644,
        *b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    );
    image.file("etc/group", 0o644, *b"root:x:0:\nnogroup:x:65534:\n");
    image.file("etc/hosts", 0o644, *b"127.0.0.1 localhost\n");
    image.file("lab/check.sh", 0o644, *include_bytes!("../image/check.sh"));
    Ok(image)
}

fn dom0(cache: &Cache) -> Result<Image> {
    let mut image = base(cache)?;
    let tools = cache.tools()?;
    for program in XEN_PROGRAMS {
        let path = format!("{tools}/bin/{program}");
        image.program(&path, &cache.file(&path)?)?;
    }
    for tool in XENSTORE_PROGRAMS {
        let path = format!("/usr/bin/xenstore-{tool}");
        image.program(&path, &cache.file(&path)?)?;
    }
    for folder in [
        "etc/xen",
        "etc/xen-vgpu/domains.d",
        "var/log/xen",
        "var/lib/xen",
        "var/lib/xenstored",
    ] {
        image.directory(folder);
    }
    // xl reads it; empty means its defaults.
    image.file("etc/xen/xl.conf", 0o644, []);
    image.file("lab/vmlinux", 0o644, std::fs::read(cache.vmlinux()?)?);
    image.script("lab/start", include_str!("../image/dom0.sh"));
    image.script("usr/bin/guest", include_str!("../image/guest-command.sh"));
    Ok(image)
}

/// What an HVM guest needs in dom0: its firmware, its device model and a kernel that the firmware can start.
fn device_model(dom0: &mut Image, cache: &Cache) -> Result<()> {
    let loader = format!("{}/boot/hvmloader", cache.tools()?);
    dom0.file(&loader, 0o644, std::fs::read(cache.file(&loader)?)?);
    for path in [
        "/usr/libexec/xen-qemu-system-i386",
        "/usr/share/seabios/bios-256k.bin",
        "/usr/share/qemu/linuxboot.bin",
    ] {
        dom0.program(path, &cache.file(path)?)?;
    }
    dom0.tree(
        "usr/share/qemu/keymaps",
        &cache.file("/usr/share/qemu/keymaps")?,
    )?;
    let kernel = cache.hvm_kernel()?;
    dom0.file("lab/hvm-setup", 0o644, kernel.setup);
    dom0.file("lab/hvm-jump", 0o644, kernel.jump);
    dom0.file("lab/hvm-kernel", 0o644, kernel.kernel);
    Ok(())
}
