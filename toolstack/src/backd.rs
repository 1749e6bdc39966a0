//! What backd tells about the devices it serves. It may not be there, or be stuck: nothing here waits
//! long, and nothing here is needed to attach or detach.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use vgpu_protocol::admin::{Command, Listing, Reply};

/// How long backd may take between two pieces of its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes beyond which an answer is not believed.
const ANSWER_MAX: u64 = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum BackdError {
    /// Nobody listens, or not to us, or the answer does not come.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is none of the answers we know.
    #[error("its answer makes no sense ({0}); is it of another version?")]
    Answer(#[from] serde_json::Error),
    /// It answered with an error.
    #[error("it answers: {0}")]
    Refused(String),
}

/// What runs on backd's devices.
pub fn listing(socket: &Path) -> Result<Listing, BackdError> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut question = serde_json::to_vec(&Command::List)?;
    question.push(b'\n');
    stream.write_all(&question)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_until(b'\n', &mut answer)?;
    match serde_json::from_slice(&answer)? {
        Reply::Listing(listing) => Ok(listing),
        Reply::Error { error } => Err(BackdError::Refused(crate::printable(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;
    use vgpu_protocol::admin::DeviceInfo;

    /// Asks a backd that reads one line and answers with this.
    fn answered(answer: &[u8]) -> Result<Listing, BackdError> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("backd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut question = String::new();
                BufReader::new(&stream).read_line(&mut question).unwrap();
                assert_eq!(question, "{\"command\":\"list\"}\n");
                stream.write_all(answer).unwrap();
            });
            listing(&socket)
        })
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
