//! One worker process: started, spoken to, ended and reaped.
//!
//! A worker may have granted pages registered with the driver, so that it is asked to end before it is
//! killed, and nothing of its memory may be unmapped before it is reaped.

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vgpu_protocol::backend::{FromBackd, FromWorker, Probed, WORKER_FD};
use vgpu_protocol::control::{TEXT_LIMIT, printable};
use vgpu_protocol::packet::{self, PacketError};
use vgpu_protocol::wait::{is_ready, wait_any};

/// How workers are started.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// The `libcuda.so.1` that it runs calls on: a path, or a name for the loader.
    pub driver: String,
    /// Whom it runs as; `None`: as we do.
    pub user: Option<User>,
}

/// A user, as a process runs as one.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl User {
    /// The user of this name.
    ///
    /// # Errors
    /// If there is none, or the system's list of users cannot be read.
    pub fn named(name: &str) -> io::Result<User> {
        let wanted = CString::new(name)?;
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        let mut text = vec![0; 16 * 1024];
        // SAFETY: every pointer is to memory of the length that is passed with it, and outlives the call.
        let error = unsafe {
            libc::getpwnam_r(
                wanted.as_ptr(),
                entry.as_mut_ptr(),
                text.as_mut_ptr(),
                text.len(),
                &mut found,
            )
        };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        if found.is_null() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no user {name}"),
            ));
        }
        // SAFETY: found is not null, so the call has filled the entry.
        let entry = unsafe { entry.assume_init() };
        Ok(User {
            uid: entry.pw_uid,
            gid: entry.pw_gid,
        })
    }
}

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot start the worker {program}: {source}; it must be there, and its user (--worker-user) able to run it"
)]
pub struct StartError {
    program: PathBuf,
    source: io::Error,
}

/// Why the devices of the driver are not known.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The worker does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It does not tell, and what it says instead.
    #[error("{0}")]
    Silent(String),
}

/// How long a driver may take to tell its devices, and to make contexts on each.
const PROBE_PATIENCE: Duration = Duration::from_secs(60);
/// Most bytes of its answer.
const PROBE_LIMIT: usize = 64 << 10;

/// What a process writes to its standard output and standard error until it closes them or patience ends.
fn read_all(child: &mut Child) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let deadline = Instant::now().checked_add(PROBE_PATIENCE);
    let mut texts = (Vec::new(), Vec::new());
    let mut pipes = [
        child.stdout.take().map(OwnedFd::from),
        child.stderr.take().map(OwnedFd::from),
    ];
    while pipes.iter().any(Option::is_some) && deadline.is_some_and(|at| Instant::now() < at) {
        let fds: Vec<_> = pipes.iter().flatten().map(AsFd::as_fd).collect();
        wait_any(&fds, deadline)?;
        for (pipe, text) in pipes.iter_mut().zip([&mut texts.0, &mut texts.1]) {
            let Some(fd) = pipe.as_ref().filter(|fd| is_ready(fd)) else {
                continue;
            };
            let mut bytes = [0; 4096];
            let read = rustix::io::read(fd, &mut bytes)?;
            text.extend_from_slice(bytes.get(..read).unwrap_or_default());
            if read == 0 || text.len() > PROBE_LIMIT {
                *pipe = None;
            }
        }
    }
    Ok(texts)
}

/// A worker process.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    exit: OwnedFd,
    /// `None` once it was told to end, or hung up.
    socket: Option<OwnedFd>,
}

impl Launcher {
    /// Starts a worker, which then waits to be told what to serve. It sees the devices that `visible` names,
    /// as `CUDA_VISIBLE_DEVICES` does; else those that we see.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn start(&self, visible: Option<&str>) -> Result<Worker, StartError> {
        self.spawn(visible).map_err(|source| StartError {
            program: self.program.clone(),
            source,
        })
    }

    /// The devices of the driver.
    ///
    /// # Errors
    /// [`ProbeError`]
    pub fn probe(&self) -> Result<Vec<Probed>, ProbeError> {
        let failed = |source| StartError {
            program: self.program.clone(),
            source,
        };
        let mut child = self.command();
        child.arg("--probe").arg("--driver").arg(&self.driver);
        child.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().map_err(failed)?;
        let told = read_all(&mut child).map_err(failed);
        // It has ended, or is not waited for any longer.
        let _ = child.kill();
        let _ = child.wait();
        let (text, error) = told?;
        serde_json::from_slice(&text).map_err(|_| {
            let error = printable(error.trim_ascii(), TEXT_LIMIT);
            ProbeError::Silent(match error.as_str() {
                "" => format!("it says nothing within {} s", PROBE_PATIENCE.as_secs()),
                error => error.to_owned(),
            })
        })
    }

    /// The program, as the user that it runs as.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    fn spawn(&self, visible: Option<&str>) -> io::Result<Worker> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // A worker that does not listen must not hold up its device's other channels.
        fcntl_setfl(&ours, OFlags::NONBLOCK)?;
        let mut command = self.command();
        if let Some(visible) = visible {
            command.env("CUDA_VISIBLE_DEVICES", visible);
        }
        let inherited = theirs.as_raw_fd();
        // SAFETY: the closure only makes system calls, on a descriptor that is open until spawn returns.
        unsafe {
            command.pre_exec(move || {
                // dup2 to itself would leave it to be closed.
                let kept = match inherited == WORKER_FD {
                    true => libc::fcntl(inherited, libc::F_SETFD, 0),
                    false => libc::dup2(inherited, WORKER_FD),
                };
                // No program that it might start gains rights.
                let alone = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                if kept == -1 || alone == -1 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(exit) => Ok(Worker {
                child,
                exit,
                socket: Some(ours),
            }),
            Err(errno) => {
                // Nothing was mapped in it yet.
                let _ = child.kill();
                let _ = child.wait();
                Err(errno.into())
            }
        }
    }
}

impl Worker {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Says something to it, without waiting.
    ///
    /// # Errors
    /// [`PacketError`], also if it does not listen.
    pub fn send(&self, message: &FromBackd, fds: &[BorrowedFd<'_>]) -> Result<(), PacketError> {
        match &self.socket {
            Some(socket) => packet::send(socket, message, fds),
            None => Err(PacketError::Closed),
        }
    }

    /// What it says, if it says something. After an error it says nothing more.
    ///
    /// # Errors
    /// [`PacketError`], also if it hung up.
    pub fn receive(&mut self) -> Result<Option<FromWorker>, PacketError> {
        let Some(socket) = &self.socket else {
            return Ok(None);
        };
        match packet::try_receive::<FromWorker>(socket) {
            Ok(message) => Ok(message.map(|(message, _)| message)),
            Err(error) => {
                self.socket = None;
                Err(error)
            }
        }
    }

    /// Asks it to end: it unregisters what is registered with the driver, and exits.
    pub fn hang_up(&mut self) {
        self.socket = None;
    }

    /// Ends it by force.
    pub fn kill(&mut self) {
        self.socket = None;
        if let Err(error) = self.child.kill() {
            tracing::warn!(worker = self.pid(), %error, "cannot kill a worker");
        }
    }

    /// Whether it has ended, and then how.
    pub fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// What becomes readable when it speaks or ends.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [
            Some(self.exit.as_fd()),
            self.socket.as_ref().map(|socket| socket.as_fd()),
        ]
        .into_iter()
        .flatten()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Only where its device's thread ends in a hurry: no worker is left behind.
        if self.ended().is_none() {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn launcher(program: &str) -> Launcher {
        Launcher {
            program: program.into(),
            driver: String::new(),
            user: None,
        }
    }

    #[test]
    fn a_worker_that_is_not_there_is_an_error_that_says_so() {
        let error = launcher("/nonexistent/vgpu-worker")
            .start(None)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nonexistent/vgpu-worker") && error.contains("--worker-user"),
            "{error}"
        );
    }

    #[test]
    fn a_worker_that_ends_is_noticed_and_reaped() {
        let mut worker = launcher("/bin/true").start(None).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let how = loop {
            if let Some(how) = worker.ended() {
                break how;
            }
            assert!(Instant::now() < deadline);
            let fds: Vec<_> = worker.descriptors().collect();
            wait_any(&fds, Some(deadline)).unwrap();
        };
        assert!(how.contains('0'), "{how}");
        // A process that another test forks holds a copy of the socket until it runs its own program.
        let closed = loop {
            match worker.receive() {
                Ok(None) => assert!(Instant::now() < deadline),
                other => break other,
            }
            let fds: Vec<_> = worker.socket.iter().map(|fd| fd.as_fd()).collect();
            wait_any(&fds, Some(deadline)).unwrap();
        };
        assert!(matches!(closed, Err(PacketError::Closed)), "{closed:?}");
        assert!(matches!(worker.receive(), Ok(None)));
    }

    #[test]
    fn a_probe_tells_devices_or_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let probe = |text: &str| {
            let script = dir.path().join("probe");
            std::fs::write(&script, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
            launcher(script.to_str().unwrap()).probe()
        };
        let device = r#"echo '[{"uuid":"GPU-1","name":"x","memory":5,"capability":[8,0]}]'; test "$1" = --probe"#;
        assert_eq!(probe(device).unwrap()[0].memory, 5);
        let error = probe("echo 'no driver' >&2; exit 1").unwrap_err();
        assert_eq!(error.to_string(), "no driver");
        assert!(probe("echo '{}'").is_err());
        let error = launcher("/nonexistent/vgpu-worker").probe().unwrap_err();
        assert!(error.to_string().contains("/nonexistent/vgpu-worker"));
    }

    #[test]
    fn a_dropped_worker_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("stays");
        std::fs::write(&script, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let mut worker = Launcher {
            program: script,
            driver: String::new(),
            user: None,
        }
        .start(None)
        .unwrap();
        assert_eq!(worker.ended(), None);
        let pid = worker.pid();
        drop(worker);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn users_are_found_by_name() {
        assert_eq!(User::named("root").unwrap(), User { uid: 0, gid: 0 });
        assert!(
            User::named("no-such-user-here")
                .unwrap_err()
                .to_string()
                .contains("no-such-user-here")
        );
    }
}
