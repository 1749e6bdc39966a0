//! The scheduler by hand: what a caller can tell it and what it must answer.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vgpu_sched::{
    CpuState, Decision, DomainId, Engine, Grant, MICROSECOND, MILLISECOND, Nanos, PolicyKind,
    SECOND, Scheduler, Settings, Share, Used,
};

const A: DomainId = DomainId(0);
const B: DomainId = DomainId(1);

fn scheduler(kind: PolicyKind) -> Scheduler {
    let mut scheduler = Scheduler::new(kind.make(), Settings::default());
    scheduler.insert(0, A, Share::default());
    scheduler.insert(0, B, Share::default());
    scheduler
}

/// Whom it lets on, now or after a wait.
fn grant(scheduler: &mut Scheduler, mut now: Nanos) -> Grant {
    loop {
        match scheduler.decide(now) {
            Decision::Run(grant) => return grant,
            Decision::At(when) => now = when,
            Decision::Idle => unreachable!("somebody has work"),
        }
    }
}

#[test]
fn fifo_runs_what_arrived_together_together_and_lets_nobody_overtake() {
    let mut scheduler = scheduler(PolicyKind::Fifo);
    scheduler.arrived(0, A, 3);
    scheduler.arrived(1, A, 4);
    scheduler.arrived(2, B, 1);
    scheduler.arrived(3, A, 5);
    let mut now = 10;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let grant = grant(&mut scheduler, now);
        assert_eq!(grant.turn, Nanos::MAX);
        seen.push((grant.id, grant.pieces));
        let start = now;
        now += MILLISECOND;
        scheduler.complete(now, grant.number, Used::span(start, now, grant.pieces));
    }
    assert_eq!(seen, [(A, 7), (B, 1), (A, 5)]);
    assert_eq!(scheduler.decide(now), Decision::Idle);
}

#[test]
fn pieces_that_never_were_are_taken_back() {
    for kind in PolicyKind::ALL {
        let mut scheduler = scheduler(kind);
        scheduler.arrived(0, A, 10);
        scheduler.arrived(0, B, 1);
        scheduler.withdraw(5, A, 10);
        assert_eq!(scheduler.account(A).unwrap().waited, 5, "{kind}");
        let on = grant(&mut scheduler, 6);
        assert_eq!((on.id, on.pieces), (B, 1), "{kind}");
        scheduler.set_waiting(7, A, 3);
        scheduler.set_waiting(7, A, 2);
        assert_eq!(scheduler.waiting(A), 2, "{kind}");
        // A turn may end unused.
        scheduler.complete(8, on.number, Used::span(8, 8, 0));
        assert_eq!(scheduler.account(B).unwrap().launches, 0, "{kind}");
        let on = grant(&mut scheduler, 8);
        assert_eq!(on.id, A, "{kind}");
        // Those whose slices are time polled keep the device for B for a while.
        let end = SECOND;
        scheduler.complete(end, on.number, Used::span(end - 1, end, 2));
        scheduler.set_waiting(end, A, 0);
        assert_eq!(scheduler.decide(end), Decision::Idle, "{kind}");
        assert_eq!(scheduler.account(A).unwrap().launches, 2, "{kind}");
    }
}

#[test]
fn pieces_taken_back_keep_no_place_in_the_queue() {
    let mut scheduler = scheduler(PolicyKind::Fifo);
    scheduler.arrived(0, A, 10);
    scheduler.arrived(1, B, 2);
    scheduler.withdraw(2, A, 10);
    scheduler.arrived(3, A, 1);
    scheduler.arrived(4, B, 1);
    scheduler.withdraw(5, B, 2);
    // B's youngest went, and one of the two that came together.
    let seen = [6, 7].map(|now| {
        let on = grant(&mut scheduler, now);
        scheduler.complete(now, on.number, Used::span(now, now, on.pieces));
        (on.id, on.pieces)
    });
    assert_eq!(seen, [(B, 1), (A, 1)]);
}

/// A domain that could not be waited for, again and again, is not owed all that it missed.
#[test]
fn what_a_domain_missed_while_away_is_soon_forgotten() {
    let mut scheduler = scheduler(PolicyKind::Fair);
    let (short, long) = (100 * MICROSECOND, 5 * MILLISECOND);
    let mut now = 0;
    // When A asks again: soon after each of its kernels has ended, whatever runs then.
    let mut asks = 0;
    let mut had = [0, 0];
    scheduler.arrived(0, B, 10);
    while now < 5 * SECOND {
        if asks <= now {
            scheduler.arrived(now, A, 1);
            asks = Nanos::MAX;
        }
        match scheduler.decide(now) {
            Decision::Run(on) => {
                let start = now;
                now += if on.id == A { short } else { long };
                had[on.id.0 as usize] += now - start;
                if asks < now {
                    scheduler.arrived(asks, A, 1);
                    asks = Nanos::MAX;
                }
                scheduler.complete(now, on.number, Used::span(start, now, 1));
                match on.id {
                    A => asks = now + 60 * MICROSECOND,
                    _ => scheduler.arrived(now, B, 1),
                }
            }
            Decision::At(when) => now = when.min(asks),
            Decision::Idle => unreachable!("B always has work"),
        }
    }
    // It missed seconds.
    assert!(had[0] * 10 < had[1], "{had:?}");
    scheduler.set_waiting(now, A, 100_000);
    let since = now;
    loop {
        let on = grant(&mut scheduler, now);
        if on.id == B {
            break;
        }
        let start = now;
        now += short * Nanos::from(on.pieces);
        scheduler.complete(now, on.number, Used::span(start, now, on.pieces));
    }
    // It keeps the longest that anybody had at once; B is ahead by the one that it has just had; and a turn.
    assert!(now - since <= 2 * long + MILLISECOND, "{}", now - since);
}

#[test]
fn work_without_a_grant_is_charged_and_owed() {
    let mut scheduler = scheduler(PolicyKind::Fair);
    let used = Used::span(0, 5 * MILLISECOND, 5);
    assert_eq!(scheduler.charge(5 * MILLISECOND, A, used), 5 * MILLISECOND);
    // Overlapping work is charged for what is left of its time.
    let late = Used::span(3 * MILLISECOND, 6 * MILLISECOND, 1);
    assert_eq!(scheduler.charge(6 * MILLISECOND, A, late), MILLISECOND);
    assert_eq!(scheduler.busy(), 6 * MILLISECOND);
    let account = scheduler.account(A).unwrap();
    assert_eq!((account.kernels, account.launches), (6 * MILLISECOND, 6));
    assert_eq!(scheduler.charge(9, DomainId(9), used), 0);

    // B was there all the while and asks now: A, which had the device alone, owes nothing for that.
    let mut now = 6 * MILLISECOND;
    scheduler.arrived(now, A, 100);
    scheduler.arrived(now, B, 100);
    // But what it takes beside its grants from now on, it pays by waiting.
    let ride = Used::span(now, now + 20 * MILLISECOND, 1);
    now += 20 * MILLISECOND;
    scheduler.charge(now, A, ride);
    for turn in 0..19 {
        let on = grant(&mut scheduler, now);
        assert_eq!(on.id, B, "turn {turn}");
        let start = now;
        now += MILLISECOND;
        scheduler.complete(now, on.number, Used::span(start, now, on.pieces));
    }
}

#[test]
fn a_device_busy_with_foreign_work_is_waited_for() {
    for kind in PolicyKind::ALL {
        let mut scheduler = scheduler(kind);
        let one = scheduler.foreign(0, A, 5 * MILLISECOND);
        let two = scheduler.foreign(0, A, 5 * MILLISECOND);
        scheduler.arrived(1, B, 1);
        let from = 10 * MILLISECOND - Settings::default().lead;
        assert_eq!(scheduler.decide(1), Decision::At(from), "{kind}");
        assert_eq!(scheduler.decide(from), Decision::Idle, "{kind}");
        let end = 5 * MILLISECOND;
        scheduler.complete(end, one, Used::span(0, end, 3));
        assert_eq!(scheduler.decide(end), Decision::At(from), "{kind}");
        assert_eq!(grant(&mut scheduler, from).id, B, "{kind}");
        scheduler.complete(2 * end, two, Used::span(end, 2 * end, 3));
        assert_eq!(scheduler.account(A).unwrap().kernels, 2 * end, "{kind}");
    }
}

#[test]
fn copies_and_kernels_are_accounted_apart() {
    let settings = Settings {
        engine: Engine::Copy,
        ..Settings::default()
    };
    let mut scheduler = Scheduler::new(PolicyKind::Fair.make(), settings);
    scheduler.insert(0, A, Share::default());
    let used = Used {
        bytes: 4096,
        ..Used::span(0, 10, 2)
    };
    scheduler.charge(10, A, used);
    let mut account = scheduler.account(A).unwrap();
    assert_eq!((account.kernels, account.launches), (0, 0));
    assert_eq!(
        (account.copies, account.transfers, account.bytes),
        (10, 2, 4096)
    );
    account += account;
    assert_eq!(
        (account.copies, account.transfers, account.bytes),
        (20, 4, 8192)
    );
}

#[test]
fn a_policy_put_in_force_knows_what_is_in_flight() {
    let mut scheduler = scheduler(PolicyKind::Fair);
    scheduler.arrived(0, A, 100);
    let on = grant(&mut scheduler, 0);
    scheduler.switch(0, PolicyKind::Fair.make());
    scheduler.arrived(0, B, 100);
    scheduler.complete(
        3 * MILLISECOND,
        on.number,
        Used::span(0, 3 * MILLISECOND, 3),
    );
    // A has had 3 ms of the new policy's time, B nothing.
    for turn in 0..3 {
        let now = (3 + turn) * MILLISECOND;
        let on = grant(&mut scheduler, now);
        assert_eq!(on.id, B, "turn {turn}");
        scheduler.complete(
            now + MILLISECOND,
            on.number,
            Used::span(now, now + MILLISECOND, 1),
        );
    }
}

/// Something that a caller may do.
#[derive(Clone, Debug)]
enum Call {
    Insert(u32, Share),
    Update(u32, Share),
    Remove(u32),
    Cpu(u32, CpuState),
    Arrived(u32, u32),
    Withdraw(u32, u32),
    SetWaiting(u32, u32),
    Foreign(u32, Nanos),
    Charge(u32, Used),
    /// Of what is in flight, the oldest ends, used so.
    Complete(Used),
    Decide,
    Switch(PolicyKind),
    Pass(Nanos),
}

/// Numbers that a worker may tell: mostly sensible, sometimes anything.
fn used() -> impl Strategy<Value = Used> {
    let time = || prop_oneof![8 => 0..10 * SECOND, 1 => any::<Nanos>()];
    let pieces = prop_oneof![8 => 0..100_u32, 1 => any::<u32>()];
    (time(), time(), time(), pieces, any::<u64>()).prop_map(|(start, end, busy, pieces, bytes)| {
        Used {
            start,
            end,
            busy,
            pieces,
            bytes,
        }
    })
}

fn calls() -> impl Strategy<Value = Call> {
    let id = || 0..4_u32;
    let share = || {
        let cap = prop::option::weighted(0.3, 1..120_u32);
        (any::<u32>(), cap, prop::option::of(any::<Nanos>())).prop_map(|(weight, cap, latency)| {
            Share {
                weight,
                cap,
                latency,
            }
        })
    };
    let cpu = (
        any::<u32>(),
        prop::option::of(any::<u32>()),
        any::<bool>(),
        any::<Nanos>(),
    );
    let cpu = cpu.prop_map(|(weight, cap, running, used)| CpuState {
        weight,
        cap,
        running,
        used,
    });
    let pieces = || prop_oneof![8 => 0..20_u32, 1 => any::<u32>()];
    let estimate = prop_oneof![8 => 0..20 * MILLISECOND, 1 => any::<Nanos>()];
    prop_oneof![
        1 => (id(), share()).prop_map(|(id, share)| Call::Insert(id, share)),
        1 => (id(), share()).prop_map(|(id, share)| Call::Update(id, share)),
        1 => id().prop_map(Call::Remove),
        1 => (id(), cpu).prop_map(|(id, state)| Call::Cpu(id, state)),
        4 => (id(), pieces()).prop_map(|(id, pieces)| Call::Arrived(id, pieces)),
        1 => (id(), pieces()).prop_map(|(id, pieces)| Call::Withdraw(id, pieces)),
        1 => (id(), pieces()).prop_map(|(id, pieces)| Call::SetWaiting(id, pieces)),
        1 => (id(), estimate).prop_map(|(id, estimate)| Call::Foreign(id, estimate)),
        1 => (id(), used()).prop_map(|(id, used)| Call::Charge(id, used)),
        4 => used().prop_map(Call::Complete),
        8 => Just(Call::Decide),
        1 => prop::sample::select(PolicyKind::ALL.to_vec()).prop_map(Call::Switch),
        4 => (0..50 * MILLISECOND).prop_map(Call::Pass),
    ]
}

/// What the scheduler should know, kept simply.
#[derive(Default)]
struct Model {
    now: Nanos,
    waiting: BTreeMap<u32, u32>,
    in_flight: Vec<(u64, u32)>,
    charged: Nanos,
}

impl Model {
    fn decide(&mut self, scheduler: &mut Scheduler) -> Result<Decision, TestCaseError> {
        let decision = scheduler.decide(self.now);
        match decision {
            Decision::Run(grant) => {
                prop_assert!(self.in_flight.len() < 2, "a third is let on");
                let Some(waiting) = self.waiting.get_mut(&grant.id.0) else {
                    return Err(TestCaseError::fail("a domain that is not there is let on"));
                };
                prop_assert!((1..=*waiting).contains(&grant.pieces));
                *waiting -= grant.pieces;
                self.in_flight.push((grant.number, grant.id.0));
            }
            Decision::At(when) => prop_assert!(when > self.now, "asked again at once"),
            Decision::Idle => {}
        }
        Ok(decision)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a caller does, with whatever numbers: nothing panics, nothing that waits is forgotten or invented, time
    /// is charged once; and when all is quiet, what waits gets on.
    #[test]
    fn no_order_of_calls_loses_work(
        kind in prop::sample::select(PolicyKind::ALL.to_vec()),
        calls in prop::collection::vec(calls(), 0..200),
    ) {
        let mut scheduler = Scheduler::new(kind.make(), Settings::default());
        let mut model = Model::default();
        for call in calls {
            let now = model.now;
            match call {
                Call::Insert(id, share) => {
                    scheduler.insert(now, DomainId(id), share);
                    model.waiting.insert(id, 0);
                    model.in_flight.retain(|&(_, of)| of != id);
                }
                Call::Update(id, share) => scheduler.update(now, DomainId(id), share),
                Call::Remove(id) => {
                    scheduler.remove(now, DomainId(id));
                    model.waiting.remove(&id);
                    model.in_flight.retain(|&(_, of)| of != id);
                }
                Call::Cpu(id, state) => scheduler.cpu(now, DomainId(id), state),
                Call::Arrived(id, pieces) => {
                    scheduler.arrived(now, DomainId(id), pieces);
                    if let Some(waiting) = model.waiting.get_mut(&id) {
                        *waiting = waiting.saturating_add(pieces);
                    }
                }
                Call::Withdraw(id, pieces) => {
                    scheduler.withdraw(now, DomainId(id), pieces);
                    if let Some(waiting) = model.waiting.get_mut(&id) {
                        *waiting = waiting.saturating_sub(pieces);
                    }
                }
                Call::SetWaiting(id, pieces) => {
                    scheduler.set_waiting(now, DomainId(id), pieces);
                    if let Some(waiting) = model.waiting.get_mut(&id) {
                        *waiting = pieces;
                    }
                }
                Call::Foreign(id, estimate) => {
                    let number = scheduler.foreign(now, DomainId(id), estimate);
                    model.in_flight.push((number, id));
                }
                Call::Charge(id, used) => {
                    model.charged += scheduler.charge(now, DomainId(id), used);
                }
                Call::Complete(used) => {
                    if !model.in_flight.is_empty() {
                        let (number, _) = model.in_flight.remove(0);
                        model.charged += scheduler.complete(now, number, used);
                        prop_assert_eq!(scheduler.complete(now, number, used), 0);
                    }
                }
                Call::Decide => {
                    model.decide(&mut scheduler)?;
                }
                Call::Switch(kind) => scheduler.switch(now, kind.make()),
                Call::Pass(time) => model.now += time,
            }
            for (&id, &waiting) in &model.waiting {
                prop_assert_eq!(scheduler.waiting(DomainId(id)), waiting);
            }
            prop_assert_eq!(scheduler.is_busy(), !model.in_flight.is_empty());
            prop_assert_eq!(scheduler.busy(), model.charged);
            prop_assert!(model.charged <= model.now);
        }
        // Quiet: what is in flight ends, and what waits is let on, a few pieces of each domain.
        for &id in model.waiting.keys() {
            scheduler.set_waiting(model.now, DomainId(id), 3);
            scheduler.update(model.now, DomainId(id), Share::default());
        }
        model.waiting.values_mut().for_each(|waiting| *waiting = 3);
        for _ in 0..1000 {
            if !model.in_flight.is_empty() {
                let (number, _) = model.in_flight.remove(0);
                let start = model.now;
                model.now += 100;
                scheduler.complete(model.now, number, Used::span(start, model.now, 1));
            }
            match model.decide(&mut scheduler)? {
                Decision::At(when) if model.in_flight.is_empty() => model.now = when,
                Decision::Idle if model.in_flight.is_empty() => break,
                _ => {}
            }
        }
        for (id, waiting) in &model.waiting {
            prop_assert_eq!(*waiting, 0, "domain {} under {}", id, scheduler.policy());
        }
    }
}
