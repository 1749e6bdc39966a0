//! A machine without Xen, with the product installed on it.
//!
//! Everything lies in a temporary folder that any user may read, as an installation would: workers run
//! without root.

use crate::process::{Daemon, run, wait_until};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The product as `cargo xtask bundle` lays it out.
#[derive(Clone, Debug)]
pub struct Bundle(PathBuf);

impl Bundle {
    /// The bundle in this repository's target folder, or the one that `XEN_VGPU_BUNDLE` names.
    pub fn find() -> Result<Bundle> {
        let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/xen-vgpu");
        let folder = std::env::var_os("XEN_VGPU_BUNDLE").map_or_else(built, PathBuf::from);
        let folder = folder.canonicalize().with_context(|| {
            format!(
                "no bundle at {}; run `cargo xtask bundle`",
                folder.display()
            )
        })?;
        Ok(Bundle(folder))
    }

    /// The bundle in a folder.
    pub fn at(folder: PathBuf) -> Bundle {
        Bundle(folder)
    }

    /// A program of the guest's.
    pub fn guest_program(&self, name: &str) -> PathBuf {
        self.0.join("guest/bin").join(name)
    }
}

/// What the workers run calls on.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Driver {
    /// The bundle's softcuda.
    Softcuda,
    /// The machine's own, by the loader's search.
    Nvidia,
}

/// The machine's GPU driver where there is a GPU, softcuda else.
pub fn gpu() -> Driver {
    if Path::new("/dev/nvidiactl").exists() {
        Driver::Nvidia
    } else {
        Driver::Softcuda
    }
}

/// A machine with the local platform, backd and a driver.
#[derive(Debug)]
pub struct Host {
    folder: TempDir,
    driver: Driver,
    /// More of backd's command line.
    pub backd_options: Vec<String>,
    /// Variables of backd's environment, which its workers have too.
    environment: Vec<(String, String)>,
    xen: Option<Daemon>,
    backd: Option<Daemon>,
}

/// A domain with a frontd. Its processes end with it; the domain ends with [`Host::destroy`].
#[derive(Debug)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Its domid.
    pub domid: u16,
    /// Its frontd.
    pub frontd: Option<Daemon>,
    socket: PathBuf,
}

/// A device, as `xl-vgpu list --json` tells it.
#[derive(Clone, Debug, Deserialize)]
pub struct Device {
    /// The domain's name.
    pub name: String,
    /// The domain.
    pub domid: u16,
    /// The backend's state.
    pub backend_state: String,
    /// The frontend's state.
    pub frontend_state: String,
    /// One for each guest process.
    #[serde(default)]
    pub channels: Vec<Channel>,
}

/// A guest process's channel.
#[derive(Clone, Debug, Deserialize)]
pub struct Channel {
    /// The worker's process.
    pub worker: i32,
}

impl Host {
    /// Starts the platform and backd.
    pub fn start(bundle: &Bundle, driver: Driver) -> Result<Host> {
        Host::start_with(bundle, driver, &[])
    }

    /// The same, with more of backd's command line.
    pub fn start_with(bundle: &Bundle, driver: Driver, options: &[&str]) -> Result<Host> {
        Host::start_in(bundle, driver, options, &[])
    }

    /// The same, with variables in backd's environment.
    pub fn start_in(
        bundle: &Bundle,
        driver: Driver,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Host> {
        let folder = tempfile::Builder::new().prefix("xen-vgpu-").tempdir()?;
        // Workers and programs of other users come in here.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        copy_tree(&bundle.0, &folder.path().join("installed"))?;
        fs::create_dir_all(folder.path().join("domains.d"))?;
        fs::create_dir_all(folder.path().join("run"))?;
        fs::create_dir_all(folder.path().join("logs"))?;
        let shared = folder.path().join("shm");
        fs::create_dir_all(&shared)?;
        // As /dev/shm is: whoever comes first makes the files in it.
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777))?;
        let mut host = Host {
            folder,
            driver,
            backd_options: options.iter().map(|option| (*option).to_owned()).collect(),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            xen: None,
            backd: None,
        };
        let mut serve = host.backend("xen-local");
        serve
            .arg("serve")
            .arg("--dir")
            .arg(host.xen_dir())
            .args(["--grant-limit", "65536"]);
        host.xen = Some(Daemon::start("xen-local", &mut serve, &host.logs())?);
        host.wait("the local platform is up", |h| {
            Ok(h.xen
                .as_ref()
                .is_some_and(|xen| xen.log().contains("ready")))
        })?;
        host.start_backd()?;
        Ok(host)
    }

    /// Starts backd.
    pub fn start_backd(&mut self) -> Result<()> {
        let driver = match self.driver {
            Driver::Softcuda => self.softcuda().join("libcuda.so.1"),
            Driver::Nvidia => "libcuda.so.1".into(),
        };
        let mut backd = self.backend("vgpu-backd");
        backd
            .arg("--platform")
            .arg(self.platform(0))
            .arg("--config-dir")
            .arg(self.folder.path().join("domains.d"))
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--driver")
            .arg(driver)
            .args(&self.backd_options)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.backd = Some(Daemon::start("vgpu-backd", &mut backd, &self.logs())?);
        self.wait("backd answers", |h| Ok(h.devices().is_ok()))
    }

    /// backd.
    pub fn backd(&mut self) -> Result<&mut Daemon> {
        self.backd.as_mut().context("backd has been stopped")
    }

    /// Takes backd out, to be stopped or killed.
    pub fn take_backd(&mut self) -> Result<Daemon> {
        self.backd.take().context("backd has been stopped")
    }

    /// Makes a domain that is named in domains.d, and starts its frontd.
    pub fn guest(&mut self, name: &str) -> Result<Guest> {
        self.guest_described(name, "")
    }

    /// The same with a description of what it is to have.
    pub fn guest_described(&mut self, name: &str, description: &str) -> Result<Guest> {
        self.describe(name, description)?;
        let mut guest = self.domain(name)?;
        self.start_frontd(&mut guest)?;
        Ok(guest)
    }

    /// Writes what a domain is to have.
    pub fn describe(&self, name: &str, description: &str) -> Result<()> {
        Ok(fs::write(self.description_file(name), description)?)
    }

    /// Where that is written.
    pub fn description_file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("domains.d/{name}.toml"))
    }

    /// Makes a domain, and nothing else.
    pub fn domain(&self, name: &str) -> Result<Guest> {
        let domid = self.toolstack(&["create"], name)?.trim().parse()?;
        let socket = self.folder.path().join(format!("run/frontd-{name}.sock"));
        Ok(Guest {
            name: name.into(),
            domid,
            frontd: None,
            socket,
        })
    }

    /// Starts a guest's frontd and waits until its device is connected.
    pub fn start_frontd(&mut self, guest: &mut Guest) -> Result<()> {
        let mut frontd = Command::new(self.installed().join("guest/bin/vgpu-frontd"));
        frontd
            .arg("--platform")
            .arg(self.platform(guest.domid))
            .arg("--socket")
            .arg(&guest.socket);
        guest.frontd = Some(Daemon::start(
            &format!("vgpu-frontd-{}", guest.name),
            &mut frontd,
            &self.logs(),
        )?);
        self.wait_connected(guest)
    }

    /// Waits until a guest's device is connected and its programs can open it.
    pub fn wait_connected(&mut self, guest: &mut Guest) -> Result<()> {
        wait_until(
            &format!("the device of {} is connected", guest.name),
            || {
                if let Some(frontd) = &mut guest.frontd {
                    frontd.check()?;
                }
                if let Some(backd) = &mut self.backd {
                    backd.check()?;
                }
                let connected = |d: &Device| {
                    d.domid == guest.domid
                        && d.backend_state == "Connected"
                        && d.frontend_state == "Connected"
                };
                Ok(guest.socket.exists() && self.devices()?.iter().any(connected))
            },
        )
        .with_context(|| self.all_logs())
    }

    /// Ends a domain as a toolstack does, with whatever runs in it.
    pub fn destroy(&self, guest: Guest) -> Result<()> {
        if let Some(frontd) = guest.frontd {
            frontd.kill()?;
        }
        self.toolstack(&["destroy"], &guest.name).map(|_| ())
    }

    /// Reboots a domain: it has a new domid, and its frontd starts again.
    pub fn reboot(&mut self, guest: &mut Guest) -> Result<()> {
        if let Some(frontd) = guest.frontd.take() {
            frontd.kill()?;
        }
        guest.domid = self.toolstack(&["reboot"], &guest.name)?.trim().parse()?;
        self.start_frontd(guest)
    }

    /// Runs xen-local against the platform.
    fn toolstack(&self, command: &[&str], domain: &str) -> Result<String> {
        let mut xen = self.backend("xen-local");
        xen.args(command)
            .arg("--dir")
            .arg(self.xen_dir())
            .arg(domain);
        run(&mut xen, Duration::from_secs(20))?.success()
    }

    /// `xl-vgpu` with arguments.
    pub fn xl_vgpu(&self, arguments: &[&str]) -> Result<crate::Output> {
        let mut xl = self.backend("xl-vgpu");
        xl.arg("--platform")
            .arg(self.platform(0))
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(arguments);
        run(&mut xl, Duration::from_secs(60))
    }

    /// backd's admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.run_dir().join("backd.sock")
    }

    /// The folder of the local platform.
    pub fn platform_folder(&self) -> PathBuf {
        self.xen_dir()
    }

    /// The devices that there are, as backd and XenStore tell.
    pub fn devices(&self) -> Result<Vec<Device>> {
        let listed = self.xl_vgpu(&["list", "--json"])?.success()?;
        serde_json::from_str(&listed).with_context(|| format!("xl-vgpu list says {listed}"))
    }

    /// A program of the bundle, to run in a guest.
    pub fn in_guest(&self, guest: &Guest, program: &str) -> Command {
        let mut command = Command::new(self.installed().join("guest/bin").join(program));
        self.guest_environment(guest, &mut command);
        command
    }

    /// Makes a command run with a guest's libcuda.
    pub fn guest_environment(&self, guest: &Guest, command: &mut Command) {
        command
            .env("LD_LIBRARY_PATH", self.installed().join("guest/lib"))
            .env("XEN_VGPU_SOCKET", &guest.socket);
    }

    /// A program of the bundle, to run on the driver itself.
    pub fn direct(&self, program: &str) -> Command {
        let mut command = Command::new(self.installed().join("guest/bin").join(program));
        self.direct_environment(&mut command);
        command
    }

    /// Makes a command run with the driver itself.
    pub fn direct_environment(&self, command: &mut Command) {
        if self.driver == Driver::Softcuda {
            command.env("LD_LIBRARY_PATH", self.softcuda());
            command.env("SOFTCUDA_ENGINE", self.engines());
        }
    }

    /// The guest's library.
    pub fn guest_libcuda(&self) -> PathBuf {
        self.installed().join("guest/lib/libcuda.so.1")
    }

    /// The driver's library.
    pub fn driver_libcuda(&self) -> PathBuf {
        match self.driver {
            Driver::Softcuda => self.softcuda().join("libcuda.so.1"),
            Driver::Nvidia => "libcuda.so.1".into(),
        }
    }

    /// A guest's socket.
    pub fn socket(&self, guest: &Guest) -> PathBuf {
        guest.socket.clone()
    }

    /// The processes that are vgpu-workers of this host.
    pub fn workers(&self) -> Result<Vec<i32>> {
        let worker = self.installed().join("backend/bin/vgpu-worker");
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // Not /proc/PID/exe: workers keep that to themselves.
            let name = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if name.split(|byte| *byte == 0).next() == Some(worker.as_os_str().as_encoded_bytes()) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// The platform as dom0 sees it.
    pub fn dom0(&self) -> Result<std::sync::Arc<dyn xen::Platform>> {
        Ok(self.platform(0).parse::<xen::PlatformSpec>()?.open()?)
    }

    /// Fails unless nothing is left of guests that are gone: no worker, no device, no node.
    pub fn check_clean(&self) -> Result<()> {
        let clean = || -> Result<bool> {
            let (workers, devices) = (self.workers()?, self.devices()?);
            if !workers.is_empty() || !devices.is_empty() {
                bail!("left: workers {workers:?}, devices {devices:?}");
            }
            let store = self.dom0()?.store()?;
            let listed = |path: &str| anyhow::Ok(store.directory(path)?.unwrap_or_default());
            let mut folders = vec!["/local/domain/0/backend/vgpu".to_owned()];
            for domain in listed("/libxl")? {
                folders.push(format!("/libxl/{domain}/device/vgpu"));
            }
            for folder in folders {
                let left = listed(&folder)?;
                if !left.is_empty() {
                    bail!("left in XenStore: {folder}: {left:?}");
                }
            }
            Ok(true)
        };
        wait_until("nothing is left", clean).with_context(|| self.all_logs())
    }

    /// Waits for a condition while the daemons run.
    pub fn wait(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&Host) -> Result<bool>,
    ) -> Result<()> {
        wait_until(what, || {
            for daemon in [&mut self.xen, &mut self.backd].into_iter().flatten() {
                daemon.check()?;
            }
            condition(self)
        })
        .with_context(|| self.all_logs())
    }

    /// What all daemons have said.
    pub fn all_logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(self.logs()).into_iter().flatten().flatten() {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            text.push_str(&format!(
                "--- {}\n{log}\n",
                entry.file_name().to_string_lossy()
            ));
        }
        text
    }

    fn backend(&self, program: &str) -> Command {
        let mut command = Command::new(self.installed().join("backend/bin").join(program));
        command.env("SOFTCUDA_ENGINE", self.engines());
        command
    }
    /// Where all processes of this host queue for softcuda's engines: each host is a machine.
    fn engines(&self) -> PathBuf {
        self.folder.path().join("shm/softcuda-engines")
    }
    fn installed(&self) -> PathBuf {
        self.folder.path().join("installed")
    }
    fn softcuda(&self) -> PathBuf {
        self.installed().join("backend/lib/softcuda")
    }
    fn xen_dir(&self) -> PathBuf {
        self.folder.path().join("xen")
    }
    fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }
    fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }
    fn platform(&self, domid: u16) -> String {
        format!(
            "local:{}",
            self.xen_dir().join(format!("dom{domid}")).display()
        )
    }
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else {
            fs::copy(&source, &target).with_context(|| format!("copying {}", source.display()))?;
        }
    }
    Ok(())
}
