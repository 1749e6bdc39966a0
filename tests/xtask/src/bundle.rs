//! `cargo xtask bundle`: the product as it is installed, under target/xen-vgpu: one folder for a guest and one for
//! the backend domain. It builds and copies; it installs nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// Build everything and lay it out under target/xen-vgpu as it is installed.
#[derive(clap::Args)]
pub struct Arguments {}

/// The two folders of the product, complete with their programs.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The folder that holds both.
    pub root: PathBuf,
    /// For a guest: libcuda.so.1, libnvidia-ml.so.1, vgpu-frontd, the sample programs and vgpu-load.
    pub guest: PathBuf,
    /// For the backend domain: vgpu-backd, vgpu-worker, xl-vgpu and softcuda's libcuda.so.1.
    pub backend: PathBuf,
}

/// What cargo built, and where it goes.
struct Part {
    /// The cargo package.
    package: &'static str,
    /// The name of the program, or of the library without `lib` and `.so`.
    target: &'static str,
    /// Below target/xen-vgpu; a folder if it ends with a slash, and then the name stays.
    to: &'static str,
}

const PARTS: [Part; 9] = [
    Part {
        package: "vgpu-libcuda",
        target: "vgpu_cuda",
        to: "guest/lib/libcuda.so.1",
    },
    Part {
        package: "vgpu-nvml",
        target: "vgpu_nvml",
        to: "guest/lib/libnvidia-ml.so.1",
    },
    Part {
        package: "vgpu-frontd",
        target: "vgpu-frontd",
        to: "guest/bin/",
    },
    Part {
        package: "vgpu-load",
        target: "vgpu-load",
        to: "guest/bin/",
    },
    Part {
        package: "vgpu-backd",
        target: "vgpu-backd",
        to: "backend/bin/",
    },
    Part {
        package: "vgpu-worker",
        target: "vgpu-worker",
        to: "backend/bin/",
    },
    Part {
        package: "xl-vgpu",
        target: "xl-vgpu",
        to: "backend/bin/",
    },
    Part {
        package: "xen",
        target: "xen-local",
        to: "backend/bin/",
    },
    Part {
        package: "softcuda",
        target: "softcuda",
        to: "backend/lib/softcuda/libcuda.so.1",
    },
];

/// Programs that run in a guest, verify their result and print their times: one binary, which goes by the
/// name it is called by.
const SAMPLES: (&str, &str) = ("cuda-samples", "samples");

/// Files that are no programs, as they lie in the repository, and the folder that each goes to.
const FILES: [(&str, &str); 5] = [
    (
        "xen-back/backd/examples/GUEST.toml",
        "backend/etc/domains.d",
    ),
    ("xen-back/backd/dist/vgpu-backd.service", "backend/systemd"),
    ("xen-front/frontd/dist/vgpu-frontd.service", "guest/systemd"),
    (
        "xen-front/frontd/dist/modules-load.d/xen-vgpu.conf",
        "guest/etc/modules-load.d",
    ),
    (
        "xen-front/frontd/dist/modprobe.d/xen-vgpu.conf",
        "guest/etc/modprobe.d",
    ),
];

pub fn run(_: &Arguments) -> Result<()> {
    let bundle = build()?;
    println!("{}\n{}", bundle.guest.display(), bundle.backend.display());
    Ok(())
}

/// Builds the product as users run it, and lays it out anew. Whoever uses what is there already sees all of the old or
/// all of the new, and two that build at once wait for each other.
pub fn build() -> Result<Bundle> {
    let packages: Vec<_> = PARTS
        .iter()
        .map(|part| part.package)
        .chain([SAMPLES.0])
        .collect();
    let built = cargo_build(&packages)?;
    let last = target_folder()?.join("xen-vgpu");
    let [folder, old, lock] = ["new", "old", "lock"].map(|kind| last.with_extension(kind));
    let lock = File::create(&lock).with_context(|| format!("making {}", lock.display()))?;
    lock.lock().context("waiting for another build's end")?;
    for left in [&folder, &old] {
        if left.exists() {
            fs::remove_dir_all(left).with_context(|| format!("removing {}", left.display()))?;
        }
    }
    for Part { target, to, .. } in &PARTS {
        let from = find(&built, target)?;
        let to = if to.ends_with('/') {
            format!("{to}{target}")
        } else {
            (*to).to_owned()
        };
        copy(from, &folder.join(to))?;
    }
    let samples = folder.join("guest/bin").join(SAMPLES.1);
    copy(find(&built, SAMPLES.1)?, &samples)?;
    let names = Command::new(&samples)
        .arg("--names")
        .output()
        .with_context(|| format!("running {}", samples.display()))?;
    for name in String::from_utf8_lossy(&names.stdout).lines() {
        std::os::unix::fs::symlink(SAMPLES.1, samples.with_file_name(name))?;
    }
    // The name that programs are linked to, and the one they load.
    for (library, name) in [
        ("guest/lib", "libcuda.so"),
        ("guest/lib", "libnvidia-ml.so"),
        ("backend/lib/softcuda", "libcuda.so"),
    ] {
        let link = folder.join(library).join(name);
        std::os::unix::fs::symlink(format!("{name}.1"), link)?;
    }
    for (from, to) in FILES {
        let from = workspace().join(from);
        let name = from.file_name().context("a file without a name")?;
        copy(&from, &folder.join(to).join(name))?;
    }
    if last.exists() {
        fs::rename(&last, &old).with_context(|| format!("renaming {}", last.display()))?;
    }
    fs::rename(&folder, &last).with_context(|| format!("making {}", last.display()))?;
    if old.exists() {
        fs::remove_dir_all(&old).with_context(|| format!("removing {}", old.display()))?;
    }
    Ok(Bundle {
        guest: last.join("guest"),
        backend: last.join("backend"),
        root: last,
    })
}

/// A program or a shared library that cargo built.
#[derive(Clone, Debug)]
pub struct Artifact {
    pub target: String,
    pub file: PathBuf,
}

/// Builds these packages of the workspace in the release profile; what came of them.
pub fn cargo_build(packages: &[&str]) -> Result<Vec<Artifact>> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        #[serde(default)]
        manifest_path: PathBuf,
        target: Option<Target>,
        #[serde(default)]
        filenames: Vec<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
        crate_types: Vec<String>,
    }
    let mut command = cargo();
    command.args([
        "build",
        "--release",
        "--message-format=json-render-diagnostics",
    ]);
    for package in packages {
        command.args(["--package", package]);
    }
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo")?;
    if !output.status.success() {
        bail!("cargo build failed; its errors are above");
    }
    let mut artifacts = Vec::new();
    for line in output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| line.starts_with(b"{"))
    {
        let message: Message =
            serde_json::from_slice(line).context("reading what cargo says it built")?;
        let Some(target) = message.target else {
            continue;
        };
        let runs = target
            .crate_types
            .iter()
            .any(|kind| ["bin", "cdylib"].contains(&kind.as_str()));
        if message.reason != "compiler-artifact"
            || !runs
            || !message.manifest_path.starts_with(workspace())
        {
            continue;
        }
        // A crate that is also a Rust library names that file too.
        let file = message
            .filenames
            .into_iter()
            .find(|file| file.extension().is_none_or(|end| end == "so"));
        artifacts.extend(file.map(|file| Artifact {
            target: target.name,
            file,
        }));
    }
    Ok(artifacts)
}

/// The file that `target` became.
pub fn find<'a>(artifacts: &'a [Artifact], target: &str) -> Result<&'a Path> {
    let found = artifacts.iter().find(|artifact| artifact.target == target);
    Ok(&found
        .with_context(|| format!("cargo built no {target}; its crate's Cargo.toml must name it"))?
        .file)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The root of this repository.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Where cargo builds, which the person's settings may have moved.
pub fn target_folder() -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .context("running cargo")?;
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
    Ok(metadata.target_directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_comes_from_a_package_of_this_workspace() {
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .output()
            .unwrap();
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let names: Vec<_> = metadata["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|package| package["name"].clone())
            .collect();
        for part in PARTS {
            assert!(names.contains(&part.package.into()), "{}", part.package);
        }
        assert!(names.contains(&SAMPLES.0.into()));
    }
}
