//! What every platform must do with grants and event channels, written once for all of them.
//!
//! A check is a pair of halves that run in two domains and keep step through XenStore: in two
//! threads on the local platform, in two domains on real Xen. A half never panics; it returns what
//! was wrong, so that the other half hears of it instead of waiting.

pub mod child;
mod events;
mod grants;
mod nodes;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use xen::store::{Permission, StoreError};
use xen::{DomId, EventChannel, Mapping, Platform, PlatformSpec, Port, Store, Watch};

/// What a half returns.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Returns an error from a half unless something holds.
macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+).into());
        }
    };
}
use ensure;

/// Returns an error from a half unless a result is an error of this kind.
macro_rules! ensure_fails {
    ($result:expr, $error:pat, $($text:tt)+) => {
        match $result {
            Err($error) => {}
            Err(other) => return Err(format!("{}: wrong error: {other:?}", format!($($text)+)).into()),
            Ok(_) => return Err(format!("{}: it succeeded", format!($($text)+)).into()),
        }
    };
}
use ensure_fails;

/// How long to wait for the other half, and for signals that must come. Generous, for a machine
/// that is emulated; no check takes it unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait for the other domain, which may still be booting.
const BOOT_PATIENCE: Duration = Duration::from_secs(300);

/// How long to wait for signals that should not come.
const QUIET: Duration = Duration::from_millis(100);

/// Which half a domain runs.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Role {
    Backend,
    Frontend,
}

/// One check.
pub struct Check {
    pub name: String,
    backend: fn(&Half) -> Outcome,
    frontend: fn(&Half) -> Outcome,
}

impl Check {
    fn new(name: &str, backend: fn(&Half) -> Outcome, frontend: fn(&Half) -> Outcome) -> Check {
        Check {
            name: name.into(),
            backend,
            frontend,
        }
    }

    /// A check whose two parts either domain can play, in both ways.
    fn both_ways(
        name: &str,
        verb: &str,
        one: fn(&Half) -> Outcome,
        other: fn(&Half) -> Outcome,
    ) -> [Check; 2] {
        [
            Check::new(&format!("{name} (frontend {verb})"), other, one),
            Check::new(&format!("{name} (backend {verb})"), one, other),
        ]
    }
}

/// All checks, in their order.
pub fn checks() -> Vec<Check> {
    let mut checks = nodes::checks();
    checks.extend(grants::checks());
    checks.extend(events::checks());
    checks
}

/// One domain's part in a run of the suite.
pub struct Session {
    spec: PlatformSpec,
    platform: Arc<dyn Platform>,
    store: Store,
    role: Role,
    me: DomId,
    peer: DomId,
    /// The program whose `child` command is a second process of this domain.
    program: PathBuf,
    own: String,
    theirs: String,
    watch: Watch,
}

/// A session at one of its checks.
pub struct Half<'a> {
    session: &'a Session,
    number: usize,
}

/// What became of a check.
pub struct Verdict {
    pub name: String,
    /// What this domain found.
    pub own: Outcome,
    /// What the other domain found; `ok` or an error's text.
    pub theirs: String,
}

impl Verdict {
    pub fn passed(&self) -> bool {
        self.own.is_ok() && self.theirs == "ok"
    }
}

impl Session {
    /// Meets the other domain.
    pub fn begin(
        spec: PlatformSpec,
        role: Role,
        peer: DomId,
        program: PathBuf,
    ) -> Outcome<Session> {
        let platform = spec.open()?;
        let store = platform.store()?;
        let me = platform.domid()?;
        // A folder for each pair, as dom0 may be in several runs at once.
        let folder =
            |of: DomId, with: DomId| format!("/local/domain/{of}/{}", scratch_folder(with));
        let (own, theirs) = (folder(me, peer), folder(peer, me));

        store.rm(&own)?;
        store.mkdir(&own)?;
        // What is created below inherits this.
        store.set_permissions(&own, &[Permission::none(me), Permission::read(peer)])?;
        let watch = store.watch(&theirs)?;
        let session = Session {
            spec,
            platform,
            store,
            role,
            me,
            peer,
            program,
            own,
            theirs,
            watch,
        };
        // Each says hello with a number of its own and repeats what it heard. Whoever repeats our
        // number is there now, and not what an earlier run left behind.
        let hello = format!("{:?} {:?}", std::process::id(), Instant::now());
        session.write("hello", &hello)?;
        let mut heard = None;
        session.wait_for(BOOT_PATIENCE, "the other domain to start", || {
            let said = session.read("hello")?;
            if said != heard {
                if let Some(said) = &said {
                    session.write("heard", said)?;
                }
                heard = said;
            }
            Ok((session.read("heard")? == Some(hello.clone())).then_some(()))
        })?;
        Ok(session)
    }

    /// Runs one check with the other domain, which must be at the same one.
    pub fn run(&self, number: usize, check: &Check) -> Outcome<Verdict> {
        let half = Half {
            session: self,
            number,
        };
        let own = match self.role {
            Role::Backend => (check.backend)(&half),
            Role::Frontend => (check.frontend)(&half),
        };
        let text = match &own {
            Ok(()) => "ok".to_owned(),
            // A node holds 2 KiB at most.
            Err(error) => error.to_string().chars().take(500).collect(),
        };
        self.write(&format!("{number}/result"), &text)?;
        let theirs = self.wait_for(PATIENCE, "the other domain's result", || {
            self.read(&format!("{number}/result"))
        })?;
        Ok(Verdict {
            name: check.name.clone(),
            own,
            theirs,
        })
    }

    /// Takes leave: the frontend's nodes go first, which tells the backend that it has seen all.
    pub fn end(self) -> Outcome {
        match self.role {
            Role::Frontend => {
                self.wait_for(PATIENCE, "the backend to finish", || self.read("bye"))?;
                self.store.rm(&self.own)?;
            }
            Role::Backend => {
                self.write("bye", "")?;
                self.wait_for(PATIENCE, "the frontend to finish", || {
                    Ok(self.read("hello")?.is_none().then_some(()))
                })?;
                self.store.rm(&self.own)?;
            }
        }
        Ok(())
    }

    fn write(&self, key: &str, value: &str) -> Outcome {
        Ok(self.store.write(&format!("{}/{key}", self.own), value)?)
    }

    /// Reads the other domain's node.
    fn read(&self, key: &str) -> Outcome<Option<String>> {
        match self.store.read(&format!("{}/{key}", self.theirs)) {
            // Until it has let us read its folder, we may not know what is in it.
            Err(StoreError::Refused {
                errno: Errno::ACCESS,
                ..
            }) => Ok(None),
            result => Ok(result?),
        }
    }

    /// Waits until something is there, looking whenever the other domain has written.
    fn wait_for<T>(
        &self,
        patience: Duration,
        what: &str,
        mut look: impl FnMut() -> Outcome<Option<T>>,
    ) -> Outcome<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "waited {patience:?} for {what}");
            // What became readable only later may have fired no watch of ours: look now and then.
            self.watch.next(Some(left.min(Duration::from_secs(1))))?;
        }
    }
}

impl Half<'_> {
    fn platform(&self) -> &dyn Platform {
        &*self.session.platform
    }

    fn store(&self) -> &Store {
        &self.session.store
    }

    fn me(&self) -> DomId {
        self.session.me
    }

    fn peer(&self) -> DomId {
        self.session.peer
    }

    /// Tells the other half something. A step is part of a XenStore path: no spaces.
    fn tell(&self, step: &str, value: impl ToString) -> Outcome {
        let key = format!("{}/{step}", self.number);
        self.session.write(&key, &value.to_string())
    }

    /// Waits for what the other half tells.
    fn hear(&self, step: &str) -> Outcome<String> {
        let key = format!("{}/{step}", self.number);
        self.session.wait_for(PATIENCE, step, || {
            // The result is written last: when it is there, nothing more comes.
            let ended = self.session.read(&format!("{}/result", self.number))?;
            match (self.session.read(&key)?, ended) {
                (Some(value), _) => Ok(Some(value)),
                (None, Some(result)) => {
                    Err(format!("the other half ended before '{step}': {result}").into())
                }
                (None, None) => Ok(None),
            }
        })
    }

    /// Offers an event channel and says so.
    fn offer(&self) -> Outcome<EventChannel> {
        let event = self.platform().bind_unbound(self.peer())?;
        self.tell("port", event.port())?;
        Ok(event)
    }

    /// Hears which port the other half offers.
    fn offered(&self) -> Outcome<Port> {
        Ok(self.hear("port")?.parse()?)
    }

    /// Binds what the other half offers.
    fn bind(&self) -> Outcome<EventChannel> {
        let port = self.offered()?;
        Ok(self.platform().bind_interdomain(self.peer(), port)?)
    }
}

/// Where a domain writes in a run with this peer, relative to its own `/local/domain/N`.
pub fn scratch_folder(peer: DomId) -> String {
    format!("data/conformance-{peer}")
}

/// The half of a check in which a domain does nothing.
fn idle(_: &Half) -> Outcome {
    Ok(())
}

/// A domain that is not there.
const NOBODY: DomId = DomId(0x6fff);

/// Takes the signals that are there, which may have no cause.
fn quieten(event: &EventChannel) -> Outcome {
    while event.wait(Some(QUIET))? {}
    Ok(())
}

fn await_signal(event: &EventChannel) -> Outcome {
    ensure!(
        event.wait(Some(PATIENCE))?,
        "port {}: no signal came",
        event.port()
    );
    Ok(())
}

fn byte(mapping: &Mapping, at: usize) -> Outcome<u8> {
    ensure!(at < mapping.len(), "byte {at} of {}", mapping.len());
    // SAFETY: within the mapping; the read is volatile, as the other domain may write.
    Ok(unsafe { mapping.as_ptr().add(at).read_volatile() })
}

fn set_byte(mapping: &Mapping, at: usize, value: u8) -> Outcome {
    ensure!(at < mapping.len(), "byte {at} of {}", mapping.len());
    // SAFETY: within the mapping, which was made for writing; the write is volatile, as the other
    // domain may read.
    unsafe { mapping.as_ptr().add(at).write_volatile(value) };
    Ok(())
}

/// Waits until the other domain has changed a byte, for changes that no signal follows.
fn await_byte(mapping: &Mapping, at: usize, value: u8) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    while byte(mapping, at)? != value {
        ensure!(
            Instant::now() < deadline,
            "byte {at} stayed {} and did not become {value}",
            byte(mapping, at)?
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
