//! The admin socket: what people's tools are told.
//!
//! One thread answers, one connection after the other, and nobody for long. It must never change
//! anything.

use crate::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use vgpu_protocol::admin::{Command, Listing, Reply};
use vgpu_protocol::wait::{Wake, is_ready, wait_any};

/// How long a tool may take to ask, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest question, in bytes.
const QUESTION_LIMIT: u64 = 4096;

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

    /// Answers until `stop` is woken. `list` says what there is.
    pub fn serve(self, stop: &Wake, list: impl Fn() -> Listing) {
        loop {
            if let Err(error) = wait_any(&[self.listener.as_fd(), stop.as_fd()], None) {
                tracing::error!(%error, "cannot wait for tools");
                return;
            }
            if is_ready(stop) {
                return;
            }
            let answered = self
                .listener
                .accept()
                .and_then(|(stream, _)| answer(&stream, &list));
            if let Err(error) = answered {
                tracing::debug!(%error, "a tool was not answered");
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

fn answer(stream: &UnixStream, list: impl Fn() -> Listing) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut question = String::new();
    BufReader::new(stream.take(QUESTION_LIMIT)).read_line(&mut question)?;
    let reply = match serde_json::from_str(&question) {
        Ok(Command::List) => Reply::Listing(list()),
        Err(error) => Reply::Error {
            error: error.to_string(),
        },
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    (&*stream).write_all(&line)
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
