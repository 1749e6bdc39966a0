//! `cargo xtask setup`: what this repository needs beyond Rust and a C linker, on Debian 12 or 13.
//! Tools of the host are installed with apt-get, each named with its reason. The hypervisor, the kernel and Xen's
//! tools are never installed, since that would change how the machine boots: they are unpacked into a cache.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use xen_lab::Cache;

/// Install what the host lacks and fill the cache of Xen's own programs.
#[derive(clap::Args)]
pub struct Arguments {
    /// What to prepare for.
    #[arg(long = "for", value_enum, default_value_t = Purpose::Test)]
    purpose: Purpose,
    /// Look for newer packages even if everything is there.
    #[arg(long)]
    refresh: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Purpose {
    /// `cargo xtask demo`: Rust and a C linker are enough.
    Demo,
    /// `cargo xtask bench softcuda`: the kernels' compiler as well.
    Kernels,
    /// `cargo xtask test`, `xen-test` and `xen-shell`.
    Test,
}

/// A program that the host must have.
struct Tool {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const LINKER: Tool = Tool {
    program: "cc",
    package: "gcc libc6-dev",
    why: "links every Rust program",
};

const CLANG: Tool = Tool {
    program: "clang++-14",
    package: "clang-14",
    why: "compiles the samples' kernels, to check that the committed PTX is theirs, and what tinygrad runs on the CPU",
};

const PYTHON: Tool = Tool {
    program: "python3",
    package: "python3 python3-venv",
    why: "runs tinygrad and NVIDIA's binding of NVML, in an environment below the target folder",
};

/// What pip installs there.
const PYTHON_PACKAGES: [&str; 3] = ["tinygrad==0.14.0", "numpy>=2,<3", "nvidia-ml-py==13.615.71"];

const TEST_TOOLS: [Tool; 6] = [
    Tool {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
        why: "the CPU, in software, that real Xen runs on",
    },
    CLANG,
    PYTHON,
    Tool {
        program: "xz",
        package: "xz-utils",
        why: "unpacks Debian's kernel",
    },
    Tool {
        program: "strip",
        package: "binutils",
        why: "makes programs small for the lab's machines",
    },
    Tool {
        program: "tar",
        package: "tar",
        why: "takes two folders out of the kernel's package",
    },
];

/// What is asked of apt for the cache; their versions are Debian's choice. Only what [`belongs`] of all that they
/// depend on is fetched.
const XEN_PACKAGES: [&str; 8] = [
    "xen-system-amd64",
    "linux-image-amd64",
    "xenstore-utils",
    "libxen-dev",
    "qemu-system-xen",
    "qemu-system-data",
    "seabios",
    "busybox-static",
];

/// Raise when the same packages are to be unpacked in another way.
const FORM: u32 = 1;

/// What the cache was filled with; written when it is complete.
#[derive(Debug, Eq, PartialEq, Serialize, Deserialize)]
struct Stamp {
    form: u32,
    asked: Vec<String>,
    /// Package → version.
    packages: BTreeMap<String, String>,
}

/// A package file that apt would fetch.
#[derive(Debug, Eq, PartialEq)]
struct Fetch {
    name: String,
    version: String,
    file: String,
    bytes: u64,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let tools: Vec<&Tool> = match arguments.purpose {
        Purpose::Demo => vec![&LINKER],
        Purpose::Kernels => vec![&LINKER, &CLANG],
        Purpose::Test => std::iter::once(&LINKER).chain(&TEST_TOOLS).collect(),
    };
    install(&tools)?;
    if arguments.purpose == Purpose::Test {
        fill(&Cache::locate(), arguments.refresh)?;
    }
    Ok(())
}

/// Sets up for tests unless that was done before; for commands that need it.
pub fn ensure() -> Result<()> {
    run(&Arguments {
        purpose: Purpose::Test,
        refresh: false,
    })
}

/// Sets up for the demo: what building needs.
pub fn demo() -> Result<()> {
    run(&Arguments {
        purpose: Purpose::Demo,
        refresh: false,
    })
}

/// Sets up for compiling the samples' kernels.
pub fn kernels() -> Result<()> {
    run(&Arguments {
        purpose: Purpose::Kernels,
        refresh: false,
    })
}

/// Sets up for running third parties' Python programs: the demo's tools, Python and a C compiler. Gives the
/// interpreter of an environment below the target folder that has [`PYTHON_PACKAGES`].
pub fn python() -> Result<PathBuf> {
    install(&[&LINKER, &CLANG, &PYTHON])?;
    let folder = crate::bundle::target_folder()?.join("python");
    let python = folder.join("bin/python");
    let stamp = folder.join("xen-vgpu-packages");
    let wanted = PYTHON_PACKAGES.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
        return Ok(python);
    }
    eprintln!(
        "pip installs {} into {}",
        PYTHON_PACKAGES.join(", "),
        folder.display()
    );
    let made = Command::new(PYTHON.program)
        .args(["-m", "venv", "--clear"])
        .arg(&folder)
        .output();
    succeeded("python3 -m venv", &made.context("running python3")?)?;
    let installed = Command::new(&python)
        .args(["-m", "pip", "install", "--quiet"])
        .arg("--disable-pip-version-check")
        .args(PYTHON_PACKAGES)
        .output();
    succeeded("pip install", &installed.context("running pip")?)?;
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(python)
}

/// The program that checks licences; built from crates.io below the target folder where it is missing.
pub fn cargo_deny() -> Result<PathBuf> {
    if on_path("cargo-deny") {
        return Ok("cargo-deny".into());
    }
    let tools = crate::bundle::target_folder()?.join("tools");
    let program = tools.join("bin/cargo-deny");
    if !program.exists() {
        println!(
            "cargo-deny is not installed; cargo builds it into {}, which takes some minutes",
            tools.display()
        );
        let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["install", "--locked", "--root"])
            .arg(&tools)
            .arg(format!("cargo-deny@{CARGO_DENY}"))
            .status()
            .context("running cargo")?;
        if !status.success() {
            bail!("cargo install cargo-deny failed ({status}); with the network up, try again");
        }
    }
    Ok(program)
}

/// The version that deny.toml is written for.
const CARGO_DENY: &str = "0.20.2";

fn install(tools: &[&Tool]) -> Result<()> {
    let missing: Vec<_> = tools.iter().filter(|tool| !is_there(tool)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("To be installed on this machine:");
    for tool in &missing {
        println!("  {:18} {}", tool.package, tool.why);
    }
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|tool| tool.package.split(' '))
        .collect();
    let by_hand = format!(
        "apt-get update && apt-get install --no-install-recommends {}",
        packages.join(" ")
    );
    if !on_path("apt-get") {
        bail!(
            "there is no apt-get here; install what the list above names in this system's own way"
        );
    }
    let root = rustix::process::geteuid().is_root();
    if !root && !on_path("sudo") {
        bail!("this takes root, and there is no sudo; run as root: {by_hand}");
    }
    for arguments in [
        &["update", "-q"][..],
        &[
            &["install", "-q", "-y", "--no-install-recommends"],
            &packages[..],
        ]
        .concat(),
    ] {
        let mut command = if root {
            Command::new("apt-get")
        } else {
            Command::new("sudo")
        };
        if !root {
            command.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        }
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        let status = command.status().context("running apt-get")?;
        if !status.success() {
            bail!(
                "apt-get {} failed ({status}); with the network up, run as root: {by_hand}",
                arguments.join(" ")
            );
        }
    }
    if let Some(tool) = missing.iter().find(|tool| !is_there(tool)) {
        bail!(
            "{} is installed, but {} on PATH is not complete",
            tool.package,
            tool.program
        );
    }
    Ok(())
}

fn fill(cache: &Cache, refresh: bool) -> Result<()> {
    let base = cache.base();
    let stamp_file = base.join("stamp.json");
    let asked: Vec<String> = XEN_PACKAGES.map(str::to_owned).to_vec();
    let done: Option<Stamp> = fs::read(&stamp_file)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    if !refresh
        && done
            .as_ref()
            .is_some_and(|done| done.form == FORM && done.asked == asked)
    {
        return Ok(());
    }
    for needed in ["apt-get", "dpkg-deb"] {
        if !on_path(needed) {
            bail!(
                "there is no {needed} here: on another system, unpack Debian's packages {} below one folder and set {} to it",
                XEN_PACKAGES.join(", "),
                xen_lab::ROOT_VARIABLE
            );
        }
    }
    fs::create_dir_all(cache.root())
        .with_context(|| format!("making {}", cache.root().display()))?;
    let apt = Apt::new(&base)?;
    let wanted = apt.closure(&XEN_PACKAGES)?;
    let packages: BTreeMap<_, _> = wanted
        .iter()
        .map(|fetch| (fetch.name.clone(), fetch.version.clone()))
        .collect();
    let stamp = Stamp {
        form: FORM,
        asked,
        packages,
    };
    if done.as_ref() == Some(&stamp) {
        println!("the cache has the newest packages already");
        return Ok(());
    }
    let bytes: u64 = wanted.iter().map(|fetch| fetch.bytes).sum();
    println!(
        "To be unpacked into {} ({} packages, {} MB to fetch; none of it is installed):",
        cache.root().display(),
        wanted.len(),
        bytes / 1_000_000
    );
    for fetch in wanted.iter().filter(|fetch| !fetch.name.starts_with("lib")) {
        println!("  {:28} {}", fetch.name, fetch.version);
    }
    let libraries = wanted
        .iter()
        .filter(|fetch| fetch.name.starts_with("lib"))
        .count();
    println!("  and {libraries} libraries that these need");

    let folder = base.join("fetched");
    fs::create_dir_all(&folder)?;
    apt.download(&wanted, &folder)?;
    let bar = bar("{bar:40} {pos}/{len} unpacked: {msg}", wanted.len() as u64);
    for fetch in &wanted {
        bar.set_message(fetch.name.clone());
        unpack(&folder.join(&fetch.file), &fetch.name, cache.root())?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    // The lab's own finders are the test of completeness.
    cache.hypervisor()?;
    cache.tools()?;
    cache.modules()?;
    cache.vmlinux()?;
    fs::write(&stamp_file, serde_json::to_vec_pretty(&stamp)?)
        .with_context(|| format!("writing {}", stamp_file.display()))?;
    // Unpacked, they are only in the way.
    fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    println!("the cache is complete");
    Ok(())
}

/// apt with lists, archives and a package database of its own, so that it takes no root, changes nothing and counts
/// nothing on this machine as installed. Its sources and keys are the machine's.
struct Apt {
    base: PathBuf,
}

impl Apt {
    fn new(base: &Path) -> Result<Apt> {
        let base = base.join("apt");
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(base.join(folder))
                .with_context(|| format!("making {}", base.join(folder).display()))?;
        }
        fs::write(base.join("status"), "")?;
        let apt = Apt { base };
        let spinner = bar("{spinner} fetching Debian's package lists", 0);
        let updated = apt.command("apt-get").args(["update", "-q"]).output();
        spinner.finish_and_clear();
        succeeded("apt-get update", &updated.context("running apt-get")?)?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let base = self.base.display();
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        for option in [
            format!("Dir::State={base}/state"),
            format!("Dir::Cache={base}/cache"),
            format!("Dir::State::status={base}/status"),
            // Files that only this user may read are fetched by this user.
            "APT::Sandbox::User=root".to_owned(),
            "APT::Get::List-Cleanup=false".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// The packages and all that they depend on, as far as it belongs in the cache.
    fn closure(&self, packages: &[&str]) -> Result<Vec<Fetch>> {
        let output = self
            .command("apt-get")
            .args([
                "install",
                "--print-uris",
                "-y",
                "-q",
                "--no-install-recommends",
            ])
            .args(packages)
            .output()
            .context("running apt-get")?;
        succeeded("apt-get install --print-uris", &output)?;
        let wanted: Vec<_> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(fetch_line)
            .filter(|fetch| belongs(&fetch.name))
            .collect();
        if wanted.is_empty() {
            bail!(
                "apt-get names no package to fetch for {}; check /etc/apt/sources.list",
                packages.join(", ")
            );
        }
        Ok(wanted)
    }

    fn download(&self, wanted: &[Fetch], folder: &Path) -> Result<()> {
        let bar = bar(
            "{bar:40} {bytes}/{total_bytes} fetched",
            wanted.iter().map(|fetch| fetch.bytes).sum(),
        );
        let mut child = self
            .command("apt-get")
            .args(["download", "-q"])
            .args(
                wanted
                    .iter()
                    .map(|fetch| format!("{}={}", fetch.name, fetch.version)),
            )
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("running apt-get")?;
        while child.try_wait()?.is_none() {
            bar.set_position(bytes_below(folder));
            std::thread::sleep(Duration::from_millis(200));
        }
        bar.finish_and_clear();
        succeeded("apt-get download", &child.wait_with_output()?)?;
        if let Some(lost) = wanted
            .iter()
            .find(|fetch| !folder.join(&fetch.file).is_file())
        {
            bail!("apt-get said nothing, but did not fetch {}", lost.file);
        }
        Ok(())
    }
}

/// What of the closure is unpacked: the programs that are run in the lab's machines and the libraries they load.
/// Interpreters, init systems and package tools, which Debian's packages need only to be configured, are not.
fn belongs(package: &str) -> bool {
    const PREFIXES: [&str; 7] = [
        "xen-hypervisor-4",
        "xen-utils-4",
        "xen-utils-common",
        "linux-image-",
        "lib",
        "zlib1g",
        "qemu-system-",
    ];
    const NOT: [&str; 4] = ["libpython", "libpam-", "libnss-", "liblocale"];
    (PREFIXES.iter().any(|prefix| package.starts_with(prefix)) || XEN_PACKAGES.contains(&package))
        && !NOT.iter().any(|prefix| package.starts_with(prefix))
}

/// A line of `apt-get --print-uris`: 'URL' FILE BYTES [CHECKSUM].
fn fetch_line(line: &str) -> Option<Fetch> {
    let rest = line.strip_prefix('\'')?.split_once("' ")?.1;
    let mut words = rest.split(' ');
    let (file, bytes) = (words.next()?, words.next()?.parse().ok()?);
    let mut parts = file.split('_');
    let (name, version) = (parts.next()?.to_owned(), parts.next()?.replace("%3a", ":"));
    Some(Fetch {
        name,
        version,
        file: file.to_owned(),
        bytes,
    })
}

/// Unpacks one package. Of a kernel, which is hundreds of megabytes of drivers, only the image and Xen's drivers.
fn unpack(file: &Path, package: &str, root: &Path) -> Result<()> {
    let what = || format!("unpacking {}", file.display());
    if !package.starts_with("linux-image-") {
        let output = Command::new("dpkg-deb")
            .arg("-x")
            .arg(file)
            .arg(root)
            .output()
            .with_context(what)?;
        return succeeded("dpkg-deb -x", &output).with_context(what);
    }
    let mut files = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(file)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(what)?;
    let stdin = files.stdout.take().context("a piped stdout")?;
    let output = Command::new("tar")
        .arg("-x")
        .arg("-C")
        .arg(root)
        .args([
            "--wildcards",
            "--no-wildcards-match-slash",
            "--exclude=*/System.map*",
        ])
        .args([
            "./boot/*",
            "./lib/modules/*/kernel/drivers/xen",
            "./usr/lib/modules/*/kernel/drivers/xen",
        ])
        .stdin(stdin)
        .output()
        .with_context(what)?;
    let whole = files.wait()?;
    // A package that only points to the kernel's has neither; the finders notice a real lack.
    let nothing_there = String::from_utf8_lossy(&output.stderr).contains("Not found in archive");
    if !whole.success() || (!output.status.success() && !nothing_there) {
        bail!(
            "{}: {}",
            what(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn succeeded(what: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let hint = if ["resolve", "onnect", "timed out", "Failed to fetch"]
        .iter()
        .any(|sign| said.contains(sign))
    {
        "; check the network, and http_proxy if there is a proxy"
    } else {
        ""
    };
    bail!("{what} failed ({}){hint}:\n{}", output.status, said.trim())
}

fn bar(template: &str, length: u64) -> ProgressBar {
    let bar = if length == 0 {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::new(length)
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn bytes_below(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| Some(file.metadata().ok()?.len()))
        .sum()
}

fn is_there(tool: &Tool) -> bool {
    // Debian's Python comes without what makes an environment.
    let complete = || {
        tool.program != PYTHON.program
            || Command::new(tool.program)
                .args(["-c", "import ensurepip, venv"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
    };
    on_path(tool.program) && complete()
}

/// True if a program of this name can be started. Debian's users may lack the sbin folders on PATH; root's tools are there.
fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_print_uris_is_read() {
        let line = "'http://deb.debian.org/debian/pool/main/q/qemu/qemu-system-xen_7.2_amd64.deb' \
                    qemu-system-xen_1%3a7.2+dfsg-7+b3_amd64.deb 2764220 MD5Sum:00";
        let fetch = fetch_line(line).unwrap();
        assert_eq!(
            (fetch.name.as_str(), fetch.version.as_str()),
            ("qemu-system-xen", "1:7.2+dfsg-7+b3")
        );
        assert_eq!(
            (fetch.file.as_str(), fetch.bytes),
            ("qemu-system-xen_1%3a7.2+dfsg-7+b3_amd64.deb", 2_764_220)
        );
        assert_eq!(fetch_line("Reading package lists..."), None);
        assert_eq!(fetch_line("'http://x' "), None);
    }

    #[test]
    fn what_the_machines_run_belongs_and_what_configures_a_host_does_not() {
        for package in [
            "xen-hypervisor-4.17-amd64",
            "xen-utils-4.20",
            "linux-image-6.1.0-56-amd64",
            "libc6",
            "zlib1g",
            "seabios",
        ] {
            assert!(belongs(package), "{package}");
        }
        for package in [
            "systemd",
            "python3.11",
            "libpython3.11-stdlib",
            "dpkg",
            "xen-system-amd64x",
            "udev",
            "initramfs-tools",
        ] {
            assert!(!belongs(package), "{package}");
        }
    }
}
