//! The scheduler by hand: what a caller can tell it and what it must answer.

use vgpu_sched::{
    Decision, DomainId, Engine, Grant, MILLISECOND, Nanos, PolicyKind, SECOND, Scheduler, Settings,
    Share, Used,
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
    for turn in 0..2 {
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
