//! What backd is asked over its admin socket. It may not be there, or be stuck: nothing here waits
//! long, and nothing here is needed to attach or detach.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use vgpu_protocol::admin::{Checked, Command, Done, Listing, Recorded, Reply, Stats};

/// How long backd may take between two pieces of its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes beyond which an answer is not believed.
const ANSWER_MAX: u64 = 16 << 20;

/// Bytes beyond which a line of a recording is not believed.
const LINE_MAX: u64 = 64 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum BackdError {
    /// Nobody listens, or not to us, or the answer does not come.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is none of the answers we know.
    #[error("its answer makes no sense ({0}); is it of another version?")]
    Answer(#[from] serde_json::Error),
    /// It is the answer to something else.
    #[error("it answers something else than it was asked; is it of another version?")]
    Other,
    /// It hung up in the middle of a recording.
    #[error("it ended before the recording did")]
    Ended,
    /// What it told could not be taken.
    #[error("the recording cannot be written: {0}")]
    Taken(io::Error),
    /// It answered with an error.
    #[error("it answers: {0}")]
    Refused(String),
}

/// What runs on backd's devices.
pub fn listing(socket: &Path) -> Result<Listing, BackdError> {
    match ask(socket, &Command::List)? {
        Reply::Listing(listing) => Ok(listing),
        _ => Err(BackdError::Other),
    }
}

/// What the domains have had of the GPUs.
pub fn stats(socket: &Path) -> Result<Stats, BackdError> {
    match ask(socket, &Command::Stats)? {
        Reply::Stats(stats) => Ok(stats),
        _ => Err(BackdError::Other),
    }
}

/// Whether a domain of this name would be let in with this file.
pub fn check(socket: &Path, name: &str, description: &str) -> Result<Checked, BackdError> {
    let command = Command::Check {
        name: name.to_owned(),
        description: description.to_owned(),
    };
    match ask(socket, &command)? {
        Reply::Checked(checked) => Ok(checked),
        _ => Err(BackdError::Other),
    }
}

/// Has something changed. What there is to say about it.
pub fn change(socket: &Path, command: &Command) -> Result<Done, BackdError> {
    match ask(socket, command)? {
        Reply::Done(done) => Ok(done),
        _ => Err(BackdError::Other),
    }
}

/// Has the GPUs' work recorded; each line goes to `take`, which may end it by an error.
pub fn record(
    socket: &Path,
    seconds: u32,
    mut take: impl FnMut(&str) -> io::Result<()>,
) -> Result<Recorded, BackdError> {
    let stream = question(socket, &Command::Record { seconds })?;
    // Where nothing runs there is nothing to say until the end.
    let patience = Duration::from_secs(seconds.into()).saturating_add(PATIENCE);
    stream.set_read_timeout(Some(patience))?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = String::new();
        (&mut lines).take(LINE_MAX).read_line(&mut line)?;
        if line.is_empty() {
            return Err(BackdError::Ended);
        }
        // What an entry holds is not our business; that it is one object is.
        let value: serde_json::Value = serde_json::from_str(&line)?;
        match serde_json::from_value(value) {
            Ok(Reply::Recorded(recorded)) => return Ok(recorded),
            Ok(Reply::Error { error }) => {
                return Err(BackdError::Refused(crate::printable(&error)));
            }
            _ => take(line.trim_end()).map_err(BackdError::Taken)?,
        }
    }
}

fn question(socket: &Path, command: &Command) -> Result<UnixStream, BackdError> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut question = serde_json::to_vec(command)?;
    question.push(b'\n');
    stream.write_all(&question)?;
    Ok(stream)
}

fn ask(socket: &Path, command: &Command) -> Result<Reply, BackdError> {
    let stream = question(socket, command)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_until(b'\n', &mut answer)?;
    match serde_json::from_slice(&answer)? {
        Reply::Error { error } => Err(BackdError::Refused(crate::printable(&error))),
        reply => Ok(reply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;
    use vgpu_protocol::admin::DeviceInfo;

    /// Asks a backd that reads one line and answers with this.
    fn told<T>(expected: &str, answer: &[u8], ask: impl FnOnce(&Path) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("backd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut question = String::new();
                BufReader::new(&stream).read_line(&mut question).unwrap();
                assert_eq!(question, expected);
                stream.write_all(answer).unwrap();
            });
            ask(&socket)
        })
    }

    fn answered(answer: &[u8]) -> Result<Listing, BackdError> {
        told("{\"command\":\"list\"}\n", answer, listing)
    }

    #[test]
    fn a_recording_is_taken_line_by_line() {
        let question = "{\"command\":\"record\",\"seconds\":3}\n";
        let recorded = |answer: &str| {
            let mut lines = Vec::new();
            let end = told(question, answer.as_bytes(), |socket| {
                record(socket, 3, |line| {
                    lines.push(line.to_owned());
                    Ok(())
                })
            });
            (end, lines)
        };
        let (end, lines) = recorded("{\"gpu\":0}\n{\"gpu\":1}\n{\"recorded\":2,\"dropped\":1}\n");
        let expected = Recorded {
            recorded: 2,
            dropped: 1,
        };
        assert_eq!(end.unwrap(), expected);
        assert_eq!(lines, ["{\"gpu\":0}", "{\"gpu\":1}"]);
        assert!(matches!(
            recorded("{\"error\":\"no\"}\n").0,
            Err(BackdError::Refused(_))
        ));
        assert!(matches!(
            recorded("{\"gpu\":0}\n").0,
            Err(BackdError::Ended)
        ));
        assert!(matches!(
            recorded("{\"gpu\":").0,
            Err(BackdError::Answer(_))
        ));
    }

    #[test]
    fn a_listing_is_taken() {
        let listing = Listing {
            devices: vec![DeviceInfo {
                domid: 5,
                ..DeviceInfo::default()
            }],
        };
        let mut answer = serde_json::to_vec(&Reply::Listing(listing.clone())).unwrap();
        answer.push(b'\n');
        assert_eq!(answered(&answer).unwrap(), listing);
    }

    #[test]
    fn what_is_no_listing_is_an_error() {
        let refused = answered(b"{\"error\":\"no\x1b\"}\n").unwrap_err();
        assert!(matches!(refused, BackdError::Answer(_)), "{refused}");
        let refused = answered(b"{\"error\":\"no\\u001b\"}\n").unwrap_err();
        assert_eq!(refused.to_string(), "it answers: no\u{fffd}");
        for answer in [&b""[..], b"\n", b"{", b"{\"devices\":3}\n", b"\xff\n"] {
            let error = answered(answer).unwrap_err();
            assert!(
                matches!(error, BackdError::Answer(_)),
                "{answer:?}: {error}"
            );
        }
    }

    #[test]
    fn nobody_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = listing(&folder.path().join("backd.sock")).unwrap_err();
        assert!(matches!(error, BackdError::Io(_)), "{error}");
    }
}
