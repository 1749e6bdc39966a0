//! The whole product on the local platform: what programs get, and what is left when things end.
//!
//! Every test has a host of its own, so that any of them can break anything.

use anyhow::{Context as _, Result, ensure};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Deserialize;
use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use vgpu_e2e::{Bundle, Driver, Guest, Host, run, wait_until};
use vgpu_protocol::guest::{AddRegion, FromFrontd, FromProgram, Hello, MAGIC};
use vgpu_protocol::packet;

const LIMIT: Duration = Duration::from_secs(120);

fn host() -> Result<Host> {
    Host::start(&Bundle::find()?, Driver::Softcuda)
}

fn probe(library: &std::path::Path, parts: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_api-probe"));
    command.arg(library).args(parts);
    command
}

fn probe_in_guest(host: &Host, guest: &Guest, parts: &[&str]) -> Command {
    let mut command = probe(&host.guest_libcuda(), parts);
    host.guest_environment(guest, &mut command);
    command
}

/// A program that hangs in a kernel, once it does.
fn hanging(host: &Host, guest: &Guest) -> Result<Child> {
    let mut child = probe_in_guest(host, guest, &["hang"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let out = child.stdout.take().context("no output")?;
    let mut lines = BufReader::new(out).lines();
    let reached = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.starts_with("hanging: (CUDA_SUCCESS"));
    ensure!(
        reached,
        "the program did not launch its kernel:\n{}",
        host.all_logs()
    );
    // Its last line comes when its wait has failed: not to be lost in a closed pipe.
    thread::spawn(move || lines.for_each(drop));
    Ok(child)
}

/// A short program runs as it should.
fn works(host: &Host, guest: &Guest) -> Result<()> {
    let output = run(&mut probe_in_guest(host, guest, &["modules"]), LIMIT)?;
    let text = output.success().with_context(|| host.all_logs())?;
    ensure!(text.contains("scaled: true"), "{text}\n{}", host.all_logs());
    Ok(())
}

/// As [`works`], once the ends have found each other again: just after a daemon's death XenStore still
/// shows the states that it left.
fn works_again(host: &Host, guest: &Guest) -> Result<()> {
    wait_until("programs run again", || works(host, guest).map(|()| true))
}

#[derive(Deserialize, Debug, PartialEq)]
struct Report {
    ok: bool,
    checksum: String,
}

fn report(mut command: Command) -> Result<Report> {
    Ok(serde_json::from_str(
        &run(command.arg("--json"), LIMIT)?.success()?,
    )?)
}

#[test]
fn every_function_answers_as_the_driver_itself_does() -> Result<()> {
    let mut host = host()?;
    let guest = host.guest("probed")?;
    let direct = run(&mut probe(&host.driver_libcuda(), &[]), LIMIT)?.success()?;
    let split = run(&mut probe_in_guest(&host, &guest, &[]), LIMIT)?.success()?;
    for (mine, theirs) in split.lines().zip(direct.lines()) {
        assert_eq!(
            mine,
            theirs,
            "split driver (left) against the driver itself\n{}",
            host.all_logs()
        );
    }
    assert_eq!(split.lines().count(), direct.lines().count());
    // Equal and wrong would be equal too: some of what must be there.
    for line in [
        "count before init: (CUDA_ERROR_NOT_INITIALIZED (3), -1)",
        "export table: CUDA_ERROR_NOT_FOUND (500)",
        "alloc without context: CUDA_ERROR_INVALID_CONTEXT (201)",
        "there and back: (3145728, [CUDA_SUCCESS (0), CUDA_SUCCESS (0), CUDA_SUCCESS (0)], true)",
        "as before: true",
        "garbage: Some(CUDA_ERROR_INVALID_PTX (218))",
        "broken PTX: CUDA_ERROR_INVALID_PTX (218)",
        "its log names the line: true",
        "scaled: true",
        "a stream that is no more: CUDA_ERROR_INVALID_HANDLE (400)",
        "count in a forked child: CUDA_ERROR_NOT_INITIALIZED (3)",
        "rounds of each thread: [20, 20, 20, 20, 20, 20, 20, 20]",
        "synchronise again: CUDA_ERROR_ILLEGAL_ADDRESS (700)",
    ] {
        assert!(
            split.lines().any(|l| l == line),
            "{line} is not in\n{split}"
        );
    }
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn the_papers_programs_compute_the_same_bits() -> Result<()> {
    let mut host = host()?;
    let guest = host.guest("papers")?;
    let programs: [(&str, &[&str]); 6] = [
        ("vectorAdd", &["--n", "100003"]),
        (
            "matrixMul",
            &["--m", "100", "--n", "90", "--k", "70", "--tile", "16"],
        ),
        (
            "matrixMul",
            &["--m", "65", "--n", "64", "--k", "63", "--tile", "32"],
        ),
        ("BlackScholes", &["--n", "50001"]),
        ("scalarProd", &["--pairs", "33", "--length", "1025"]),
        ("histogram", &["--n", "1000003"]),
    ];
    for (program, options) in programs {
        let with = |mut command: Command| {
            command.args(options);
            report(command)
        };
        let (direct, split) = (
            with(host.direct(program))?,
            with(host.in_guest(&guest, program))?,
        );
        assert!(direct.ok && split.ok, "{program}: {direct:?} {split:?}");
        assert_eq!(direct, split, "{program}");
    }
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn several_guests_processes_threads_and_users_at_once() -> Result<()> {
    let mut host = host()?;
    let guests = [host.guest("first")?, host.guest("second")?];
    let results = thread::scope(|scope| {
        let mut running = Vec::new();
        for (n, guest) in guests.iter().cycle().take(6).enumerate() {
            let mut command = host.in_guest(guest, "vectorAdd");
            command.args(["--n", "20000", "--threads", "4", "--iterations", "5"]);
            if rustix::process::geteuid().is_root() {
                command.uid(30_000 + n as u32).gid(30_000);
            }
            running.push(scope.spawn(|| report(command)));
        }
        running
            .into_iter()
            .map(|run| run.join())
            .collect::<Vec<_>>()
    });
    let mut sums = HashSet::new();
    for result in results {
        let report = result.expect("no panic").with_context(|| host.all_logs())?;
        assert!(report.ok);
        sums.insert(report.checksum);
    }
    assert_eq!(sums.len(), 1, "the same work gave different results");
    for guest in guests {
        host.destroy(guest)?;
    }
    host.check_clean()
}

#[test]
fn a_killed_program_leaves_nothing() -> Result<()> {
    let mut host = host()?;
    let guest = host.guest("mortal")?;
    let mut program = hanging(&host, &guest)?;
    assert_eq!(host.workers()?.len(), 1);
    let device = host.devices()?.into_iter().next().context("no device")?;
    assert_eq!(
        device.channels.iter().map(|c| c.worker).collect::<Vec<_>>(),
        host.workers()?
    );
    program.kill()?;
    program.wait()?;
    wait_until("the worker is gone", || Ok(host.workers()?.is_empty()))
        .with_context(|| host.all_logs())?;
    wait_until("the channel is gone", || {
        Ok(host.devices()?.iter().all(|d| d.channels.is_empty()))
    })?;
    // What it had is there for others: many programs, one after the other.
    for _ in 0..3 {
        works(&host, &guest)?;
    }
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn a_dead_worker_is_an_error_for_its_program_alone() -> Result<()> {
    let mut host = host()?;
    let guest = host.guest("unlucky")?;
    let mut program = hanging(&host, &guest)?;
    let worker = host.workers()?[0];
    // SAFETY: a signal to a worker of this test's host.
    unsafe { libc::kill(worker, libc::SIGKILL) };
    wait_until("the program has been told", || {
        Ok(program.try_wait()?.is_some())
    })
    .with_context(|| host.all_logs())?;
    works(&host, &guest)?;
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn a_domain_that_ends_takes_its_own_along_and_nothing_else() -> Result<()> {
    let mut host = host()?;
    let (first, second) = (host.guest("going")?, host.guest("staying")?);
    let mut gone = hanging(&host, &first)?;
    let mut stays = hanging(&host, &second)?;
    assert_eq!(host.workers()?.len(), 2);
    host.destroy(first)?;
    wait_until("one worker is left", || Ok(host.workers()?.len() == 1))
        .with_context(|| host.all_logs())?;
    wait_until("one device is left", || Ok(host.devices()?.len() == 1))?;
    assert!(stays.try_wait()?.is_none());
    stays.kill()?;
    stays.wait()?;
    works(&host, &second)?;
    gone.kill()?;
    gone.wait()?;
    host.destroy(second)?;
    host.check_clean()
}

#[test]
fn a_rebooted_domain_has_its_device_again() -> Result<()> {
    let mut host = host()?;
    let mut guest = host.guest("phoenix")?;
    works(&host, &guest)?;
    let before = guest.domid;
    host.reboot(&mut guest)?;
    assert_ne!(guest.domid, before);
    works(&host, &guest)?;
    wait_until("the old device is gone", || Ok(host.devices()?.len() == 1))?;
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn frontd_may_die_and_come_back() -> Result<()> {
    let mut host = host()?;
    let mut guest = host.guest("fickle")?;
    let mut program = hanging(&host, &guest)?;
    guest.frontd.take().context("no frontd")?.kill()?;
    wait_until("the worker is gone", || Ok(host.workers()?.is_empty()))
        .with_context(|| host.all_logs())?;
    wait_until("the program has been told", || {
        Ok(program.try_wait()?.is_some())
    })
    .with_context(|| host.all_logs())?;
    host.start_frontd(&mut guest)?;
    works_again(&host, &guest)?;
    // And orderly.
    assert!(guest.frontd.take().context("no frontd")?.stop()?.success());
    host.start_frontd(&mut guest)?;
    works_again(&host, &guest)?;
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn backd_may_die_and_come_back() -> Result<()> {
    let mut host = host()?;
    let mut guest = host.guest("patient")?;
    let mut program = hanging(&host, &guest)?;
    host.take_backd()?.kill()?;
    wait_until("the program has been told", || {
        Ok(program.try_wait()?.is_some())
    })
    .with_context(|| host.all_logs())?;
    wait_until("the worker is gone", || Ok(host.workers()?.is_empty()))?;
    host.start_backd()?;
    host.wait_connected(&mut guest)?;
    works_again(&host, &guest)?;
    // And orderly.
    assert!(host.take_backd()?.stop()?.success());
    host.start_backd()?;
    host.wait_connected(&mut guest)?;
    works_again(&host, &guest)?;
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn a_device_is_attached_and_detached_by_hand() -> Result<()> {
    let mut host = host()?;
    let mut guest = host.domain("manual")?;
    assert!(host.devices()?.is_empty());
    let unknown = host.xl_vgpu(&["attach", "nobody-of-that-name"])?;
    assert!(!unknown.status.success());
    assert!(
        unknown.stderr.contains("manual"),
        "it does not say which domains there are: {}",
        unknown.stderr
    );
    host.xl_vgpu(&["attach", "manual"])?.success()?;
    host.start_frontd(&mut guest)?;
    works(&host, &guest)?;
    assert!(
        !host.xl_vgpu(&["attach", "manual"])?.status.success(),
        "attached twice"
    );
    let mut program = hanging(&host, &guest)?;
    host.xl_vgpu(&["detach", "manual"])?.success()?;
    wait_until("the program has been told", || {
        Ok(program.try_wait()?.is_some())
    })
    .with_context(|| host.all_logs())?;
    host.check_clean()?;
    host.xl_vgpu(&["attach", "manual"])?.success()?;
    host.wait_connected(&mut guest)?;
    works_again(&host, &guest)?;
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn programs_that_break_the_rules_hurt_themselves_only() -> Result<()> {
    let mut host = host()?;
    let guest = host.guest("rude")?;
    let socket = host.socket(&guest);
    let dial = || -> Result<std::os::fd::OwnedFd> {
        let socket_fd = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::connect(&socket_fd, &SocketAddrUnix::new(&socket)?)?;
        Ok(socket_fd)
    };
    let hello = |version| {
        FromProgram::Hello(Hello {
            magic: MAGIC,
            version,
        })
    };
    // Nonsense instead of a greeting.
    for garbage in [&b""[..], b"\0", b"GET / HTTP/1.0\r\n\r\n", &[0xff; 60_000]] {
        let fd = dial()?;
        let _ = rustix::net::send(&fd, garbage, rustix::net::SendFlags::NOSIGNAL);
    }
    // Another version of the protocol.
    let fd = dial()?;
    packet::send(&fd, &hello(77), &[])?;
    let (answer, _) = packet::receive::<FromFrontd>(&fd)?;
    let FromFrontd::Refused(refused) = answer else {
        panic!("{answer:?}")
    };
    let reason = String::from_utf8_lossy(&refused.reason.0).into_owned();
    assert!(reason.contains("77"), "{reason}");
    // Absurd wishes.
    let fd = dial()?;
    packet::send(&fd, &hello(vgpu_protocol::PROTOCOL_VERSION), &[])?;
    assert!(matches!(
        packet::receive::<FromFrontd>(&fd)?.0,
        FromFrontd::Opened(_)
    ));
    for bytes in [0, u64::MAX, 1 << 50] {
        packet::send(&fd, &FromProgram::AddRegion(AddRegion { bytes }), &[])?;
        assert!(
            matches!(
                packet::receive::<FromFrontd>(&fd)?.0,
                FromFrontd::Refused(_)
            ),
            "{bytes}"
        );
    }
    drop(fd);
    // Garbage in every page of a channel, with the doorbell rung: the worker ends, not more.
    for seed in 1..=5u8 {
        let fd = dial()?;
        packet::send(&fd, &hello(vgpu_protocol::PROTOCOL_VERSION), &[])?;
        let (FromFrontd::Opened(opened), fds) = packet::receive::<FromFrontd>(&fd)? else {
            panic!("no channel")
        };
        let fds: Vec<_> = fds.into_iter().map(Arc::new).collect();
        let extents = packet::take_extents(&opened.memory, &fds)?;
        let event = packet::take_event(&opened.event, &fds)?;
        let mapping = xen::Mapping::from_extents(&extents, xen::Access::ReadWrite)?;
        let before = host.workers()?.len();
        assert!(before >= 1);
        for n in 0..mapping.len() {
            let byte = (n as u32)
                .wrapping_mul(2_654_435_761)
                .wrapping_add(u32::from(seed))
                >> 11;
            // SAFETY: within the mapping, whose other end expects anything.
            unsafe { mapping.as_ptr().add(n).write_volatile(byte as u8) };
        }
        event.notify()?;
        wait_until(
            "its worker has ended",
            || Ok(host.workers()?.len() < before),
        )
        .with_context(|| host.all_logs())?;
    }
    host.backd()?.check()?;
    works(&host, &guest)?;
    wait_until("no channel is left", || {
        Ok(host.devices()?.iter().all(|d| d.channels.is_empty()))
    })
    .with_context(|| host.all_logs())?;
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn without_frontd_a_program_is_told_what_to_do() -> Result<()> {
    let host = host()?;
    let mut command = probe(&host.guest_libcuda(), &["devices"]);
    command.env("XEN_VGPU_SOCKET", "/nonexistent/frontd.sock");
    let output = run(&mut command, LIMIT)?;
    assert!(
        output
            .stdout
            .contains("cuInit(0): CUDA_ERROR_NO_DEVICE (100)"),
        "{}",
        output.stdout
    );
    assert!(
        output.stderr.contains("start vgpu-frontd"),
        "{}",
        output.stderr
    );
    Ok(())
}
