//! The admin socket: what people's tools ask and are told.
//!
//! One thread answers, one connection after the other, and nobody for long; a recording has a thread of
//! its own. Whoever can connect is trusted to change what [`Service`] offers to change, and nothing else
//! can be changed here. A tool that does not read must never hold up another, nor a GPU.

use crate::Error;
use crate::gpu::Recording;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vgpu_protocol::admin::{Command, Recorded, Reply};
use vgpu_protocol::wait::{Wake, is_ready, wait_any};

/// How long a tool may take to ask, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest question, in bytes.
const QUESTION_LIMIT: u64 = 32 << 10;
/// Most recordings at once.
const RECORDINGS: usize = 4;
/// How often a recording without entries looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// What tools can have.
pub trait Service: Send {
    /// Answers all but a recording.
    fn answer(&self, command: Command) -> Reply;
    /// Begins a recording.
    ///
    /// # Errors
    /// Why there is none, in words.
    fn record(&self) -> Result<Recording, String>;
}

/// The socket; removed when dropped.
#[derive(Debug)]
pub struct Admin {
    listener: UnixListener,
    path: PathBuf,
}

impl Admin {
    /// Listens at `path`, for this user alone.
    ///
    /// # Errors
    /// [`Error::Listen`], also where another backd listens there.
    pub fn bind(path: &Path) -> Result<Admin, Error> {
        let fail = |source: std::io::Error| Error::Listen {
            path: path.to_owned(),
            source,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(fail)?;
        }
        if UnixStream::connect(path).is_ok() {
            return Err(fail(std::io::ErrorKind::AddrInUse.into()));
        }
        // Nobody answers there: what is left of a backd that was killed.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(fail)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
        Ok(Admin {
            listener,
            path: path.to_owned(),
        })
    }

    /// Answers until `stop` is woken.
    pub fn serve(self, stop: &Wake, service: &dyn Service) {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut recordings: Vec<JoinHandle<()>> = Vec::new();
        loop {
            if let Err(error) = wait_any(&[self.listener.as_fd(), stop.as_fd()], None) {
                tracing::error!(%error, "cannot wait for tools");
                break;
            }
            if is_ready(stop) {
                break;
            }
            recordings.retain(|recording| !recording.is_finished());
            let room = recordings.len() < RECORDINGS;
            let answered = self
                .listener
                .accept()
                .and_then(|(stream, _)| answer(stream, service, room, &stopping));
            match answered {
                Ok(recording) => recordings.extend(recording),
                Err(error) => tracing::debug!(%error, "a tool was not answered"),
            }
        }
        stopping.store(true, Ordering::Relaxed);
        for recording in recordings {
            if recording.join().is_err() {
                tracing::error!("a recording's thread has failed");
            }
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // Nothing to do about a failure: the next backd removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers one tool; a recording goes on in the thread that is returned.
fn answer(
    stream: UnixStream,
    service: &dyn Service,
    room: bool,
    stopping: &Arc<AtomicBool>,
) -> std::io::Result<Option<JoinHandle<()>>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut question = String::new();
    BufReader::new((&stream).take(QUESTION_LIMIT)).read_line(&mut question)?;
    let reply = match serde_json::from_str(&question) {
        Ok(Command::Record { .. }) if !room => Reply::Error {
            error: format!("{RECORDINGS} recordings go on already; end one"),
        },
        Ok(Command::Record { seconds }) => match service.record() {
            Ok(recording) => {
                let stopping = stopping.clone();
                let length = Duration::from_secs(seconds.into());
                let thread =
                    std::thread::Builder::new()
                        .name("recording".into())
                        .spawn(move || {
                            if let Err(error) = stream_out(&stream, &recording, length, &stopping) {
                                tracing::debug!(%error, "a recording has ended early");
                            }
                        })?;
                return Ok(Some(thread));
            }
            Err(error) => Reply::Error { error },
        },
        Ok(command) => service.answer(command),
        Err(error) => Reply::Error {
            error: error.to_string(),
        },
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    (&stream).write_all(&line)?;
    Ok(None)
}

/// Writes what is recorded until the time is over or the tool has hung up.
fn stream_out(
    stream: &UnixStream,
    recording: &Recording,
    length: Duration,
    stopping: &AtomicBool,
) -> std::io::Result<()> {
    let begun = Instant::now();
    let mut out = BufWriter::with_capacity(1 << 16, stream);
    let mut recorded = 0u64;
    while !stopping.load(Ordering::Relaxed) {
        let Some(left) = length.checked_sub(begun.elapsed()) else {
            break;
        };
        match recording.next(left.min(LOOK)) {
            Some(entry) => {
                serde_json::to_writer(&mut out, &entry)?;
                out.write_all(b"\n")?;
                recorded = recorded.saturating_add(1);
            }
            None => {
                out.flush()?;
                // A tool has nothing more to say: whatever is readable is its end.
                if is_ready(stream) {
                    return Ok(());
                }
            }
        }
    }
    let end = Reply::Recorded(Recorded {
        recorded,
        dropped: recording.dropped(),
    });
    serde_json::to_writer(&mut out, &end)?;
    out.write_all(b"\n")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_protocol::admin::Listing;

    /// Lists nothing and has two events to record.
    struct Nothing;

    impl Service for Nothing {
        fn answer(&self, command: Command) -> Reply {
            match command {
                Command::List => Reply::Listing(Listing::default()),
                other => Reply::Error {
                    error: format!("{other:?}"),
                },
            }
        }

        fn record(&self) -> Result<Recording, String> {
            let (recorder, recording) = crate::gpu::recording();
            for domid in [1, 2] {
                let at_ns = 0;
                recorder.record(&vgpu_sched::trace::Entry::Gone {
                    at_ns,
                    gpu: 0,
                    domid,
                });
            }
            Ok(recording)
        }
    }

    fn connect(path: &Path, question: &str) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(question.as_bytes()).unwrap();
        BufReader::new(stream)
    }

    fn ask(path: &Path, question: &str) -> String {
        let mut line = String::new();
        connect(path, question).read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn questions_are_answered_line_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/backd.sock");
        let admin = Admin::bind(&path).unwrap();
        assert!(matches!(Admin::bind(&path), Err(Error::Listen { .. })));
        let stop = Arc::new(Wake::new().unwrap());
        let thread = {
            let stop = stop.clone();
            std::thread::spawn(move || admin.serve(&stop, &Nothing))
        };
        assert_eq!(ask(&path, "{\"command\":\"list\"}\n"), "{\"devices\":[]}\n");
        assert!(ask(&path, "{\"command\":\"erase\"}\n").contains("\"error\""));
        assert!(ask(&path, &"x".repeat(40_000)).contains("\"error\""));
        // A recording's lines, and its end.
        let lines: Vec<String> = connect(&path, "{\"command\":\"record\",\"seconds\":0}\n")
            .lines()
            .map(Result::unwrap)
            .collect();
        assert_eq!(lines, ["{\"recorded\":0,\"dropped\":0}"]);
        // As many as there may be, none of which ends by itself; others are answered meanwhile.
        let forever = "{\"command\":\"record\",\"seconds\":100000}\n";
        let mut going: Vec<_> = (0..RECORDINGS).map(|_| connect(&path, forever)).collect();
        for recording in &mut going {
            for domid in [1, 2] {
                let mut line = String::new();
                recording.read_line(&mut line).unwrap();
                assert!(line.contains(&format!("\"domid\":{domid}")), "{line}");
            }
        }
        assert!(ask(&path, forever).contains("\"error\""));
        assert_eq!(ask(&path, "{\"command\":\"list\"}\n"), "{\"devices\":[]}\n");
        stop.wake();
        thread.join().unwrap();
        for mut recording in going {
            let mut line = String::new();
            recording.read_line(&mut line).unwrap();
            assert_eq!(line, "{\"recorded\":2,\"dropped\":0}\n");
        }
        assert!(!path.exists());
    }
}
