//! The cache: a folder with the hypervisor, the kernel and Xen's tools, unpacked from Debian's packages.
//! Finds each by what it is, not by a version, and prepares the kernel for a quick start.
//! It never looks for any of them on the host: the host's own boot files are not ours to use.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

/// Names the unpacked root in the environment; the default is `target/xen-cache/root` of the workspace.
pub const ROOT_VARIABLE: &str = "XEN_TOOLS_ROOT";

const FILL_IT: &str = "run `cargo xtask setup` to fill the cache";

/// The kernel modules both dom0 and guests load, in this order, as paths below `drivers/xen`.
const MODULES: [&str; 5] = [
    "xen-privcmd",
    "xenfs/xenfs",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
];

/// Where the hypervisor, the kernel and Xen's tools lie.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache of this workspace, or the one that [`ROOT_VARIABLE`] names. It may still be empty.
    pub fn locate() -> Cache {
        let root = std::env::var_os(ROOT_VARIABLE)
            .filter(|root| !root.is_empty())
            .map_or_else(
                || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/xen-cache/root"),
                PathBuf::from,
            );
        Cache {
            root: fs::canonicalize(&root).unwrap_or(root),
        }
    }

    /// The folder that packages are unpacked into.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder around [`Cache::root`]: downloads, the package lists and what is derived from them.
    pub fn base(&self) -> PathBuf {
        self.root
            .parent()
            .map_or_else(|| self.root.clone(), Path::to_path_buf)
    }

    /// A file of a package, by its installed path. Absolute links lead into the cache, not to the host.
    pub fn file(&self, installed: &str) -> Result<PathBuf> {
        follow(&self.root, Path::new(installed.trim_start_matches('/')))
            .with_context(|| format!("{installed} is not in {}; {FILL_IT}", self.root.display()))
    }

    /// The hypervisor, still compressed (`boot/xen-4.NN-amd64.gz`).
    pub fn hypervisor(&self) -> Result<PathBuf> {
        self.newest("boot", |name| {
            name.starts_with("xen-") && name.ends_with("-amd64.gz")
        })
    }

    /// The hypervisor's toolstack folder, as it is installed (`/usr/lib/xen-4.NN`).
    pub fn tools(&self) -> Result<String> {
        let found = self.newest("usr/lib", |name| {
            name.strip_prefix("xen-")
                .is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
        })?;
        Ok(format!("/usr/lib/{}", file_name(&found)))
    }

    /// The kernel as it is packaged, for an HVM guest's firmware to start.
    pub fn vmlinuz(&self) -> Result<PathBuf> {
        self.newest("boot", |name| {
            name.starts_with("vmlinuz-") && name.ends_with("-amd64")
        })
    }

    /// [`Cache::vmlinuz`] as an HVM guest starts it.
    pub(crate) fn hvm_kernel(&self) -> Result<HvmKernel> {
        let path = self.vmlinuz()?;
        let image = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        HvmKernel::new(image)
            .with_context(|| format!("{} is no bzImage that the lab understands", path.display()))
    }

    /// The modules to load, in order.
    pub fn modules(&self) -> Result<Vec<PathBuf>> {
        let kernel = self.vmlinuz()?;
        let release = file_name(&kernel).trim_start_matches("vmlinuz-").to_owned();
        let folder = ["lib", "usr/lib"]
            .iter()
            .map(|lib| {
                self.root
                    .join(lib)
                    .join("modules")
                    .join(&release)
                    .join("kernel/drivers/xen")
            })
            .find(|folder| folder.is_dir())
            .with_context(|| {
                format!(
                    "no modules of kernel {release} in {}; {FILL_IT}",
                    self.root.display()
                )
            })?;
        MODULES
            .iter()
            .map(|module| {
                ["ko", "ko.xz", "ko.zst", "ko.gz"]
                    .iter()
                    .map(|end| folder.join(format!("{module}.{end}")))
                    .find(|path| path.is_file())
                    .with_context(|| {
                        format!("no module {module} in {}; {FILL_IT}", folder.display())
                    })
            })
            .collect()
    }

    /// The kernel as a plain ELF file, made once. Xen and xl would otherwise unpack it on every boot, in software
    /// emulation, which takes longer than the rest of a guest's start.
    pub fn vmlinux(&self) -> Result<PathBuf> {
        let packaged = self.vmlinuz()?;
        let plain = self
            .base()
            .join(file_name(&packaged).replace("vmlinuz", "vmlinux"));
        if !plain.is_file() {
            let image =
                fs::read(&packaged).with_context(|| format!("reading {}", packaged.display()))?;
            let (payload, size) = bzimage_payload(&image).with_context(|| {
                format!(
                    "{} is no bzImage that the lab understands",
                    packaged.display()
                )
            })?;
            let kernel = decompress(payload)?;
            if kernel.len() != size || !kernel.starts_with(b"\x7fELF") {
                bail!(
                    "the kernel inside {} is not the ELF file that its header promises",
                    packaged.display()
                );
            }
            // Another run may make it at the same moment: each writes its own file, and a rename is whole or not at all.
            let mut file = tempfile::NamedTempFile::new_in(self.base())?;
            file.write_all(&kernel)?;
            file.persist(&plain)
                .with_context(|| format!("writing {}", plain.display()))?;
        }
        Ok(plain)
    }

    /// The file in `folder` with the highest version in its name among those that `wanted` accepts.
    fn newest(&self, folder: &str, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
        let folder = self.root.join(folder);
        fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| wanted(&file_name(path)))
            .max_by_key(|path| version_key(&file_name(path)))
            .with_context(|| {
                format!(
                    "what the lab boots is not in {}; {FILL_IT}",
                    folder.display()
                )
            })
    }
}

/// A kernel in parts, for an HVM guest.
///
/// Xen's device model hands a kernel and a file system to the firmware byte by byte, which takes minutes in software
/// emulation. So the firmware gets only the kernel's set-up code, followed by a few instructions that say where the
/// device model has placed the rest in the guest's memory by itself.
pub(crate) struct HvmKernel {
    /// The set-up code and the first instructions; after it the file system's size is to follow, a little-endian u32.
    pub setup: Vec<u8>,
    /// The instructions that follow the size.
    pub jump: Vec<u8>,
    /// The kernel proper, to be placed at [`HvmKernel::KERNEL_ADDRESS`].
    pub kernel: Vec<u8>,
}

impl HvmKernel {
    /// Where the kernel prefers to be, so that it need not move before it unpacks itself.
    pub const KERNEL_ADDRESS: u32 = 16 << 20;
    /// Above what the kernel needs to unpack itself, below the firmware's memory at the end of 192 MiB.
    pub const FILES_ADDRESS: u32 = 128 << 20;

    fn new(mut image: Vec<u8>) -> Option<HvmKernel> {
        let kernel = image.split_off(setup_size(&image).filter(|size| *size < image.len())?);
        // By the x86 boot protocol, the 32-bit entry has esi pointing to boot_params. There is no screen, whatever the
        // firmware says, since every character on it would be a trip to the device model:
        // mov byte [esi + screen_info.orig_video_lines], 0; mov byte [esi + screen_info.orig_video_isVGA], 0
        image.extend([0xc6, 0x46, 0x0e, 0x00, 0xc6, 0x46, 0x0f, 0x00]);
        // mov dword [esi + hdr.ramdisk_image], FILES_ADDRESS
        image.extend([0xc7, 0x86, 0x18, 0x02, 0x00, 0x00]);
        image.extend(Self::FILES_ADDRESS.to_le_bytes());
        // mov dword [esi + hdr.ramdisk_size], <what follows>
        image.extend([0xc7, 0x86, 0x1c, 0x02, 0x00, 0x00]);
        // mov eax, KERNEL_ADDRESS; jmp eax. The kernel finds out by itself where it lies.
        let jump = [
            &[0xb8][..],
            &Self::KERNEL_ADDRESS.to_le_bytes(),
            &[0xff, 0xe0],
        ]
        .concat();
        Some(HvmKernel {
            setup: image,
            jump,
            kernel,
        })
    }
}

/// Decompresses a file of a package by its magic number, with the host's tool for it.
pub(crate) fn decompress(data: &[u8]) -> Result<Vec<u8>> {
    let tool = match data {
        [0x1f, 0x8b, ..] => "gzip",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        _ => return Ok(data.to_vec()),
    };
    let mut child = Command::new(tool)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| {
            format!("cannot run {tool}, which unpacks Debian's kernel: install it with apt-get")
        })?;
    let stdin = child.stdin.take().context("a piped stdin")?;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut stdin = stdin;
            // A tool that stops reading says why itself, below.
            let _ = stdin.write_all(data);
        });
        child.wait_with_output()
    })?;
    if !output.status.success() {
        return Err(anyhow!(
            "{tool} -dc failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    Ok(output.stdout)
}

/// The compressed kernel in a bzImage and its size when unpacked, by the setup header of the x86 boot protocol.
fn bzimage_payload(image: &[u8]) -> Option<(&[u8], usize)> {
    let long =
        |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let start = setup_size(image)? + long(0x248)?;
    let end = start + long(0x24c)?;
    // The build appends the unpacked size to the compressed stream.
    Some((image.get(start..end.checked_sub(4)?)?, long(end - 4)?))
}

/// The size of a bzImage's set-up code, after which the kernel proper begins.
fn setup_size(image: &[u8]) -> Option<usize> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let sectors = match *image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    Some((sectors + 1) * 512)
}

/// `path` below `root`, every symbolic link followed as if `root` were `/`.
pub(crate) fn follow(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..16 {
        let here = root.join(&path);
        match fs::read_link(&here) {
            Ok(target) if target.is_absolute() => {
                path = target.strip_prefix("/").ok()?.to_path_buf()
            }
            Ok(target) => path = path.parent()?.join(target),
            Err(_) => return here.exists().then_some(here),
        }
    }
    None
}

/// Orders names by the numbers in them: 6.1.0-9 before 6.1.0-56.
fn version_key(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

pub(crate) fn file_name(path: &Path) -> String {
    path.file_name()
        .map(OsStr::to_string_lossy)
        .unwrap_or_default()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let mut names = [
            "vmlinuz-6.1.0-9-amd64",
            "vmlinuz-6.12.1-amd64",
            "vmlinuz-6.1.0-56-amd64",
        ];
        names.sort_by_key(|name| version_key(name));
        assert_eq!(
            names,
            [
                "vmlinuz-6.1.0-9-amd64",
                "vmlinuz-6.1.0-56-amd64",
                "vmlinuz-6.12.1-amd64"
            ]
        );
    }

    #[test]
    fn absolute_links_lead_into_the_cache() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/real"), "x").unwrap();
        std::os::unix::fs::symlink("/a/real", root.path().join("absolute")).unwrap();
        std::os::unix::fs::symlink("real", root.path().join("a/relative")).unwrap();
        std::os::unix::fs::symlink("loop", root.path().join("loop")).unwrap();
        let real = Some(root.path().join("a/real"));
        assert_eq!(follow(root.path(), Path::new("absolute")), real);
        assert_eq!(follow(root.path(), Path::new("a/relative")), real);
        assert_eq!(follow(root.path(), Path::new("loop")), None);
        assert_eq!(follow(root.path(), Path::new("none")), None);
    }

    #[test]
    fn the_payload_of_a_bzimage_is_found() {
        let mut image = vec![0u8; 0x400];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&9u32.to_le_bytes());
        image.extend([0; 16]);
        image.extend(*b"hello");
        image.extend(77u32.to_le_bytes());
        assert_eq!(bzimage_payload(&image), Some((&b"hello"[..], 77)));
        assert_eq!(bzimage_payload(&image[..0x410]), None);
        let hvm = HvmKernel::new(image.clone()).unwrap();
        assert_eq!(hvm.kernel, image[0x400..]);
        assert_eq!(hvm.setup[..0x400], image[..0x400]);
        assert_eq!(bzimage_payload(&[0; 64]), None);
    }
}
