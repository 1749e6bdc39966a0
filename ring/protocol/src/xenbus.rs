//! The XenBus state machines of both ends: what an end does next, from its own state, what the other
//! end shows, and whether the device is meant to be.
//!
//! Pure functions, each one table. They never remember: whatever an end missed, and however often it
//! was restarted, the two states alone decide. They must never wait for something that an end which
//! keeps the rules will not do; for those that do not keep them there is the time-out of [`PATIENCE`].
//!
//! ```text
//! connecting   back 1 → 2        publishes what it offers
//!              front 1 → 3       shares the control ring
//!              back 2 → 4        checks, maps, binds
//!              front 3 → 4
//! closing      either → 5        back: nothing is mapped or bound any more
//!              front 5 → 6       takes its grants back
//!              back 5 → 6
//! again        front 6 → 1, back 6 → 2 while the device is online
//! ```

use std::fmt;
use std::time::{Duration, Instant};

/// How long an end that closes waits for the other before it goes on alone.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// `enum xenbus_state` of xen/include/public/io/xenbus.h.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
#[repr(u8)]
pub enum State {
    /// Absent, or not a state.
    Unknown = 0,
    /// New, or ready to begin again.
    Initialising = 1,
    /// The backend has published what it offers.
    InitWait = 2,
    /// The frontend has shared its control ring.
    Initialised = 3,
    /// In use.
    Connected = 4,
    /// On its way out. A backend that shows it has nothing mapped any more.
    Closing = 5,
    /// Out.
    Closed = 6,
    /// Of no use to this device type.
    Reconfiguring = 7,
    /// Of no use to this device type.
    Reconfigured = 8,
}

impl State {
    /// Every state.
    pub const ALL: [State; 9] = [
        State::Unknown,
        State::Initialising,
        State::InitWait,
        State::Initialised,
        State::Connected,
        State::Closing,
        State::Closed,
        State::Reconfiguring,
        State::Reconfigured,
    ];

    /// The state that a node's value says; [`State::Unknown`] for no node and for nonsense.
    pub fn of(value: Option<&[u8]>) -> State {
        match value {
            Some([digit @ b'1'..=b'8']) => {
                let number = digit.wrapping_sub(b'0');
                State::ALL
                    .into_iter()
                    .find(|state| *state as u8 == number)
                    .unwrap_or(State::Unknown)
            }
            _ => State::Unknown,
        }
    }

    /// The state's name, for people.
    pub fn name(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Initialising => "initialising",
            State::InitWait => "offered",
            State::Initialised => "initialised",
            State::Connected => "connected",
            State::Closing => "closing",
            State::Closed => "closed",
            State::Reconfiguring => "reconfiguring",
            State::Reconfigured => "reconfigured",
        }
    }
}

/// As the node holds it: the number.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (*self as u8).fmt(f)
    }
}

/// What an end sees.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct View {
    /// What this end shows.
    pub own: State,
    /// What the other end shows.
    pub peer: State,
    /// Whether the device is meant to be: `online` is 1, and this end is not about to stop.
    pub wanted: bool,
    /// This end has waited for [`PATIENCE`] in this state.
    pub late: bool,
}

/// What a frontend does next. Each names the state that it then shows.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum FrontStep {
    /// Nothing until something changes.
    Wait,
    /// Begins again: [`State::Initialising`].
    Restart,
    /// Shares the control ring: [`State::Initialised`]. Where that fails: [`State::Closed`].
    Share,
    /// Lets programs in: [`State::Connected`].
    Serve,
    /// Sends programs away: [`State::Closing`].
    Close,
    /// Takes all grants back: [`State::Closed`].
    Release,
}

/// What a backend does next. Each names the state that it then shows.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum BackStep {
    /// Nothing until something changes.
    Wait,
    /// Publishes what it offers: [`State::InitWait`].
    Offer,
    /// Checks what the frontend shared, maps and binds it: [`State::Connected`]. Where that fails:
    /// [`BackStep::Close`].
    Connect,
    /// Ends all channels, unmaps and unbinds everything: [`State::Closing`].
    Close,
    /// Has nothing more to do with this frontend: [`State::Closed`].
    Finish,
    /// The device is not wanted any more: its nodes go.
    Remove,
}

/// The frontend's table.
pub fn front_step(view: View) -> FrontStep {
    use FrontStep::*;
    use State::*;
    match (view.own, view.peer) {
        (Initialising, InitWait) if view.wanted => Share,
        (Initialising, _) if view.wanted => Wait,
        (Initialising, _) => Release,

        (Initialised, Connected) if view.wanted => Serve,
        // The backend has not answered yet.
        (Initialised, InitWait) if view.wanted => Wait,
        (Connected, Connected) if view.wanted => Wait,
        // The backend has closed, was restarted, or this end is to stop.
        (Initialised | Connected, _) => Close,

        // A backend in these states may still have our pages mapped.
        (Closing, Connected | Initialised) if !view.late => Wait,
        (Closing, _) => Release,

        // Only a backend that has done with our last life begins another with us.
        (Closed, Initialising | InitWait | Closed) if view.wanted => Restart,
        (Closed, _) => Wait,

        // No state of ours: left by someone else, or by nobody.
        (Unknown | InitWait | Reconfiguring | Reconfigured, _) => Release,
    }
}

/// The backend's table.
pub fn back_step(view: View) -> BackStep {
    use BackStep::*;
    use State::*;
    match (view.own, view.peer) {
        // A frontend that shows one of these has not noticed that this backend is new.
        (Initialising, Initialised | Connected | Closing) if view.wanted => Close,
        (Initialising, _) if view.wanted => Offer,
        (Initialising, _) => Close,

        (InitWait, Initialised) if view.wanted => Connect,
        (InitWait, _) if view.wanted => Wait,
        (InitWait, _) => Close,

        (Connected, Initialised | Connected) if view.wanted => Wait,
        (Connected, _) => Close,

        // The frontend still has to take its grants back.
        (Closing, Initialised | Connected | Closing) if !view.late => Wait,
        (Closing, _) => Finish,

        (Closed, Initialising) if view.wanted => Offer,
        (Closed, _) if view.wanted => Wait,
        (Closed, _) => Remove,

        // Left by a backend that is gone, or by nobody.
        (Unknown | Initialised | Reconfiguring | Reconfigured, _) => Close,
    }
}

/// How an end rests between connections that fail, so that two ends that cannot agree do not spin.
#[derive(Debug, Default)]
pub struct Rest {
    pause: Duration,
    due: bool,
    until: Option<Instant>,
}

impl Rest {
    const SHORTEST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(10);
    /// A connection that lasted this long was a good one.
    const GOOD: Duration = Duration::from_secs(10);

    /// A connection has ended or was not made (`lasted`: zero). After a good one the end need not rest;
    /// after others it does, each time twice as long.
    pub fn after(&mut self, lasted: Duration) {
        self.due = lasted < Self::GOOD;
        self.pause = match self.due {
            true => self
                .pause
                .saturating_mul(2)
                .clamp(Self::SHORTEST, Self::LONGEST),
            false => Duration::ZERO,
        };
    }

    /// Asked before the end begins another connection: until when it rests, or `None` to go ahead.
    pub fn before(&mut self, now: Instant) -> Option<Instant> {
        if std::mem::take(&mut self.due) {
            self.until = now.checked_add(self.pause);
        }
        self.until = self.until.filter(|until| *until > now);
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::*;
    use std::collections::HashSet;

    fn front_after(step: FrontStep, own: State) -> State {
        match step {
            FrontStep::Wait => own,
            FrontStep::Restart => Initialising,
            FrontStep::Share => Initialised,
            FrontStep::Serve => Connected,
            FrontStep::Close => Closing,
            FrontStep::Release => Closed,
        }
    }

    /// `None`: the nodes are gone.
    fn back_after(step: BackStep, own: State) -> Option<State> {
        match step {
            BackStep::Wait => Some(own),
            BackStep::Offer => Some(InitWait),
            BackStep::Connect => Some(Connected),
            BackStep::Close => Some(Closing),
            BackStep::Finish => Some(Closed),
            BackStep::Remove => None,
        }
    }

    fn views() -> impl Iterator<Item = View> {
        State::ALL.into_iter().flat_map(|own| {
            State::ALL.into_iter().flat_map(move |peer| {
                [(true, false), (true, true), (false, false), (false, true)]
                    .into_iter()
                    .map(move |(wanted, late)| View {
                        own,
                        peer,
                        wanted,
                        late,
                    })
            })
        })
    }

    /// Every state in every state, for the frontend, stated from what each step is allowed to assume
    /// rather than from the table.
    #[test]
    fn every_state_in_every_state_front() {
        for view in views() {
            let step = front_step(view);
            let own_state = matches!(
                view.own,
                Initialising | Initialised | Connected | Closing | Closed
            );
            let expected: &[FrontStep] = match step {
                _ if !own_state => &[FrontStep::Release],
                // Shares only with a backend that offers, and serves only with one that has connected.
                FrontStep::Share => {
                    assert_eq!(
                        (view.own, view.peer, view.wanted),
                        (Initialising, InitWait, true),
                        "{view:?}"
                    );
                    &[FrontStep::Share]
                }
                FrontStep::Serve => {
                    assert_eq!(
                        (view.own, view.peer, view.wanted),
                        (Initialised, Connected, true),
                        "{view:?}"
                    );
                    &[FrontStep::Serve]
                }
                // Never begins again while the backend is still about the last connection.
                FrontStep::Restart => {
                    assert!(view.own == Closed && view.wanted, "{view:?}");
                    assert!(
                        !matches!(view.peer, Connected | Initialised | Closing | Unknown),
                        "{view:?}"
                    );
                    &[FrontStep::Restart]
                }
                // Never takes grants back from a backend that may use them, unless it is out of patience.
                FrontStep::Release => {
                    assert!(matches!(view.own, Initialising | Closing), "{view:?}");
                    assert!(
                        view.own != Closing
                            || view.late
                            || !matches!(view.peer, Connected | Initialised),
                        "{view:?}"
                    );
                    &[FrontStep::Release]
                }
                FrontStep::Close => {
                    assert!(matches!(view.own, Initialised | Connected), "{view:?}");
                    assert!(!(view.wanted && view.peer == Connected), "{view:?}");
                    &[FrontStep::Close]
                }
                // An unwanted device never rests in use.
                FrontStep::Wait => {
                    assert!(
                        view.wanted || matches!(view.own, Closing | Closed),
                        "{view:?}"
                    );
                    assert!(!(view.late && view.own == Closing), "{view:?}");
                    &[FrontStep::Wait]
                }
            };
            assert!(expected.contains(&step), "{view:?}: {step:?}");
        }
    }

    #[test]
    fn every_state_in_every_state_back() {
        for view in views() {
            let step = back_step(view);
            match step {
                _ if matches!(
                    view.own,
                    Unknown | Initialised | Reconfiguring | Reconfigured
                ) =>
                {
                    assert_eq!(step, BackStep::Close, "{view:?}");
                }
                // Maps only what a frontend says that it has shared.
                BackStep::Connect => {
                    assert_eq!(
                        (view.own, view.peer, view.wanted),
                        (InitWait, Initialised, true),
                        "{view:?}"
                    );
                }
                // Never offers to a frontend that thinks it is connected.
                BackStep::Offer => {
                    assert!(
                        view.wanted && matches!(view.own, Initialising | Closed),
                        "{view:?}"
                    );
                    assert!(
                        !matches!(view.peer, Initialised | Connected | Closing),
                        "{view:?}"
                    );
                }
                // A frontend that goes back, vanishes or writes nonsense loses its connection.
                BackStep::Wait if view.own == Connected => {
                    assert!(
                        view.wanted && matches!(view.peer, Initialised | Connected),
                        "{view:?}"
                    );
                }
                // Never rests in an unwanted device but to let the frontend close.
                BackStep::Wait => {
                    assert!(
                        view.wanted || (view.own == Closing && !view.late),
                        "{view:?}"
                    );
                }
                BackStep::Finish => assert_eq!(view.own, Closing, "{view:?}"),
                BackStep::Remove => assert!(view.own == Closed && !view.wanted, "{view:?}"),
                BackStep::Close => assert!(!matches!(view.own, Closing | Closed), "{view:?}"),
            }
        }
    }

    /// Both ends step whenever they like, each seeing the other's state of that moment, until neither
    /// has anything to do; patience runs out only when both wait. Every order of steps is explored.
    /// Returns the states in which they come to rest; the backend's is `None` where the nodes went.
    fn rests(
        front: State,
        back: State,
        front_wanted: bool,
        back_wanted: bool,
    ) -> HashSet<(State, Option<State>)> {
        let mut seen = HashSet::new();
        let mut rests = HashSet::new();
        let mut open = vec![(front, Some(back))];
        while let Some((front, back)) = open.pop() {
            if !seen.insert((front, back)) {
                continue;
            }
            let Some(back_state) = back else {
                rests.insert((front, back));
                continue;
            };
            let mut moved = false;
            for late in [false, true] {
                if late && moved {
                    break;
                }
                let view = View {
                    own: front,
                    peer: back_state,
                    wanted: front_wanted,
                    late,
                };
                let next = front_after(front_step(view), front);
                if next != front {
                    open.push((next, back));
                    moved = true;
                }
                let view = View {
                    own: back_state,
                    peer: front,
                    wanted: back_wanted,
                    late,
                };
                let next = back_after(back_step(view), back_state);
                if next != back {
                    open.push((front, next));
                    moved = true;
                }
            }
            if !moved {
                rests.insert((front, back));
            }
        }
        rests
    }

    /// No order of steps goes in a circle for ever without a chance to rest, and every rest is the one
    /// wanted: connected, from any two states that two ends may ever be left in.
    #[test]
    fn two_ends_that_keep_the_rules_meet() {
        for front in State::ALL {
            for back in State::ALL {
                let rests = rests(front, back, true, true);
                assert_eq!(
                    rests,
                    HashSet::from([(Connected, Some(Connected))]),
                    "from {front:?}, {back:?}"
                );
            }
        }
    }

    #[test]
    fn an_unwanted_device_is_removed_whatever_the_frontend_does() {
        for back in State::ALL {
            for front in State::ALL {
                for front_wanted in [true, false] {
                    let rests = rests(front, back, front_wanted, false);
                    assert!(
                        rests.iter().all(|(_, back)| back.is_none()),
                        "from {front:?}, {back:?}: {rests:?}"
                    );
                }
                // A frontend that does not move at all (its domain hangs, or it writes nonsense).
                let mut state = Some(back);
                for _ in 0..8 {
                    let Some(own) = state else { break };
                    state = back_after(
                        back_step(View {
                            own,
                            peer: front,
                            wanted: false,
                            late: true,
                        }),
                        own,
                    );
                }
                assert_eq!(state, None, "from {front:?}, {back:?}");
            }
        }
    }

    #[test]
    fn a_frontend_that_stops_ends_closed() {
        for front in State::ALL {
            for back in State::ALL {
                let rests = rests(front, back, false, true);
                assert!(
                    rests.iter().all(|(front, _)| *front == Closed),
                    "from {front:?}, {back:?}: {rests:?}"
                );
                assert!(
                    rests.iter().all(|(_, back)| *back != Some(Connected)),
                    "from {front:?}, {back:?}: {rests:?}"
                );
            }
        }
    }

    #[test]
    fn ends_that_cannot_agree_rest_longer_and_longer() {
        let mut rest = Rest::default();
        let mut now = Instant::now();
        assert_eq!(rest.before(now), None);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            rest.after(Duration::from_secs(1));
            let until = rest.before(now).unwrap();
            assert_eq!(rest.before(now), Some(until));
            pauses.push(until - now);
            now = until;
            assert_eq!(rest.before(now), None);
        }
        assert_eq!(pauses[..3], [250, 500, 1000].map(Duration::from_millis));
        assert_eq!(pauses[11], Duration::from_secs(10));
        rest.after(Duration::from_secs(60));
        assert_eq!(rest.before(now), None);
    }

    #[test]
    fn states_are_single_digits() {
        for state in State::ALL.into_iter().skip(1) {
            assert_eq!(State::of(Some(state.to_string().as_bytes())), state);
        }
        for bad in [&b""[..], b"0", b"9", b"44", b" 4", b"4\n", b"\xff"] {
            assert_eq!(State::of(Some(bad)), Unknown, "{bad:?}");
        }
        assert_eq!(State::of(None), Unknown);
    }
}
