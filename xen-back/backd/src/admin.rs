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
const QUESTION_LIMIT: u64 = 4096;
/// Most recordings at once.
const RECORDINGS: usize = 4;
/// How often a recording without entries looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// What tools can have.
pub trait Service: Send {
    /// Answers all but a recording.
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
                let thread = std::thread::Builder::new()
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
    use std::sync::Arc;

    fn ask(path: &Path, question: &str) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(question.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
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
            std::thread::spawn(move || admin.serve(&stop, Listing::default))
        };
        assert_eq!(ask(&path, "{\"command\":\"list\"}\n"), "{\"devices\":[]}\n");
        assert!(ask(&path, "{\"command\":\"erase\"}\n").contains("\"error\""));
        assert!(ask(&path, &"x".repeat(10_000)).contains("\"error\""));
        stop.wake();
        thread.join().unwrap();
        assert!(!path.exists());
    }
}
