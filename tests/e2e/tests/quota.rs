//! What a domain may have: device memory, GPUs, a guaranteed share, processes; what it is told where there is not
//! enough, and what happens when there is again.

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use vgpu_e2e::{Bundle, Driver, Guest, Host, wait_until};
use vgpu_protocol::keys;

const OK: &str = "CUDA_SUCCESS";
const FULL: &str = "CUDA_ERROR_OUT_OF_MEMORY";
const MIB: u64 = 1 << 20;

fn host(devices: u32) -> Result<Host> {
    let devices = devices.to_string();
    let environment = [("SOFTCUDA_MEMORY", "64M"), ("SOFTCUDA_DEVICES", &devices)];
    Host::start_in(&Bundle::find()?, Driver::Softcuda, &[], &environment)
}

/// A program of a guest's that does what it is told. It is killed when dropped.
struct Program {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(host: &Host, guest: &Guest) -> Result<Program> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_memory-probe"));
        command.arg(host.guest_libcuda());
        host.guest_environment(guest, &mut command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?).lines();
        let mut program = Program {
            child,
            input,
            output,
        };
        let said = program.output.next().context("it ended")??;
        ensure!(said == "ready", "{said}");
        Ok(program)
    }

    fn tell(&mut self, command: &str) -> Result<String> {
        writeln!(self.input, "{command}")?;
        let said = self.output.next();
        said.with_context(|| format!("it ended at {command:?}"))?
            .map_err(Into::into)
    }

    /// Results, each by its name: the text of one is its name first.
    fn results(&mut self, command: &str) -> Result<Vec<String>> {
        let said = self.tell(command)?;
        let words = said.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let names = words.filter(|word| word.starts_with("CUDA_"));
        Ok(names.map(str::to_owned).collect())
    }

    fn alloc(&mut self, bytes: u64) -> Result<String> {
        let results = self.results(&format!("alloc {bytes}"))?;
        results.into_iter().next().context("no result")
    }

    /// Free and total bytes.
    fn info(&mut self) -> Result<(u64, u64)> {
        let said = self.tell("info")?;
        let mut numbers = said.split_whitespace().rev();
        let mut next = || anyhow::Ok(numbers.next().context("no number")?.parse::<u64>()?);
        let (total, free) = (next()?, next()?);
        Ok((free, total))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    gpus: Vec<u32>,
    refused: String,
}

fn row(host: &Host, name: &str) -> Result<Row> {
    let listed = host.xl_vgpu(&["list", "--json"])?.success()?;
    let rows: Vec<Row> = serde_json::from_str(&listed)?;
    let mut rows = rows.into_iter();
    rows.find(|row| row.name == name)
        .with_context(|| format!("{name} is not in {listed}"))
}

#[test]
fn a_domain_has_its_quota_to_the_byte() -> Result<()> {
    let mut host = host(1)?;
    let guest = host.guest_described("small", "memory = \"8M\"\n")?;
    let other = host.guest("other")?;
    let mut free = Program::start(&host, &other)?;
    ensure!(free.info()?.1 == 64 * MIB, "{:?}", free.info()?);

    let mut a = Program::start(&host, &guest)?;
    ensure!(a.info()? == (8 * MIB, 8 * MIB), "{:?}", a.info()?);
    let total = a.tell("total")?;
    ensure!(total.ends_with(&(8 * MIB).to_string()), "{total}");
    ensure!(a.alloc(5 * MIB)? == OK);
    ensure!(a.info()? == (3 * MIB, 8 * MIB), "{:?}", a.info()?);
    // Sizes that are no sizes take nothing, whatever they add up to.
    for bytes in [u64::MAX, u64::MAX - 4096, 1 << 63, (1 << 63) - 1] {
        ensure!(a.alloc(bytes)? == FULL, "{bytes}");
    }

    // Another process of the domain has what is left, and both have no more.
    let mut b = Program::start(&host, &guest)?;
    ensure!(b.info()? == (3 * MIB, 8 * MIB), "{:?}", b.info()?);
    ensure!(b.alloc(3 * MIB + 1)? == FULL);
    ensure!(b.alloc(3 * MIB)? == OK);
    ensure!(a.alloc(1)? == FULL && b.alloc(1)? == FULL);
    // What another domain has is not touched.
    ensure!(free.alloc(40 * MIB)? == OK);
    let told = host.xl_vgpu(&["stats", "--json"])?.success()?;
    let stats: Value = serde_json::from_str(&told)?;
    let domains = stats["gpus"][0]["domains"].as_array().context("none")?;
    let small = domains.iter().find(|it| it["domain"] == "small");
    let small = small.context("it is not there")?;
    ensure!(small["memory_used"] == 8 * MIB, "{told}");
    ensure!(small["memory_quota"] == 8 * MIB, "{told}");

    // A process that is killed gives back what it had.
    drop(b);
    wait_until(
        "what the process had is free",
        || Ok(a.info()?.0 == 3 * MIB),
    )?;
    ensure!(a.alloc(3 * MIB)? == OK);
    // So does a free, at once, and the end of a context.
    ensure!(a.results("free")? == [OK, OK]);
    ensure!(a.alloc(3 * MIB)? == OK && a.alloc(1)? == FULL);
    ensure!(a.results("renew")? == [OK, OK]);
    ensure!(a.info()? == (8 * MIB, 8 * MIB), "{:?}", a.info()?);
    Ok(())
}

#[test]
fn memory_in_stream_order_and_of_contexts_counts() -> Result<()> {
    let mut host = host(1)?;
    let guest = host.guest_described("small", "memory = \"8M\"\n")?;
    let mut a = Program::start(&host, &guest)?;
    // What a stream has freed it may have again, however far it has come.
    ensure!(a.results(&format!("async {} 50", 8 * MIB))? == [OK]);
    ensure!(a.results(&format!("async {} 1", 8 * MIB + 1))? == [FULL]);
    // And others once it has come so far.
    ensure!(a.results(&format!("across {}", 8 * MIB))? == [OK, OK, OK]);
    wait_until("all is free", || Ok(a.info()?.0 == 8 * MIB))?;
    // The heap of kernels is memory of the device; a smaller one gives back.
    ensure!(a.results(&format!("limit 2 {}", 16 * MIB))? == [FULL]);
    ensure!(a.results(&format!("limit 2 {}", 3 * MIB))? == [OK]);
    ensure!(a.info()?.0 == 5 * MIB, "{:?}", a.info()?);
    ensure!(a.results(&format!("limit 2 {MIB}"))? == [OK]);
    ensure!(a.info()?.0 == 7 * MIB, "{:?}", a.info()?);
    // So are variables of modules.
    ensure!(a.results(&format!("module {}", 8 * MIB))? == [FULL]);
    ensure!(a.results(&format!("module {}", 3 * MIB))? == [OK]);
    ensure!(a.info()?.0 == 4 * MIB, "{:?}", a.info()?);
    ensure!(a.results("renew")? == [OK, OK]);
    ensure!(a.info()?.0 == 8 * MIB, "{:?}", a.info()?);
    // In fat binaries too, compressed or not.
    for packed in 0..3u64 {
        ensure!(a.results(&format!("module {} {packed}", 8 * MIB + 1))? == [FULL]);
        ensure!(a.results(&format!("module {} {packed}", 2 * MIB))? == [OK]);
        let left = 8 * MIB - (packed + 1) * 2 * MIB;
        ensure!(a.info()?.0 == left, "{:?}", a.info()?);
    }
    ensure!(a.results("renew")? == [OK, OK]);
    ensure!(a.info()?.0 == 8 * MIB, "{:?}", a.info()?);
    Ok(())
}

#[test]
fn contexts_count() -> Result<()> {
    let environment = [
        ("SOFTCUDA_MEMORY", "64M"),
        ("SOFTCUDA_CONTEXT_MEMORY", "4M"),
    ];
    let mut host = Host::start_in(&Bundle::find()?, Driver::Softcuda, &[], &environment)?;
    let guest = host.guest_described("small", "memory = \"10M\"\n")?;
    let other = host.guest("other")?;
    let mut free = Program::start(&host, &other)?;
    ensure!(free.info()? == (60 * MIB, 64 * MIB), "{:?}", free.info()?);

    let mut a = Program::start(&host, &guest)?;
    let see = |a: &mut Program, left: u64| -> Result<()> {
        let info = a.info()?;
        ensure!(info == (left * MIB, 10 * MIB), "{info:?}");
        let told = host.xl_vgpu(&["stats", "--json"])?.success()?;
        let stats: Value = serde_json::from_str(&told)?;
        let domains = stats["gpus"][0]["domains"].as_array().context("none")?;
        let used =
            |name: &str| domains.iter().find(|it| it["domain"] == name)?["memory_used"].as_u64();
        ensure!(used("small") == Some((10 - left) * MIB), "{told}");
        ensure!(used("other") == Some(4 * MIB), "{told}");
        Ok(())
    };
    see(&mut a, 6)?;
    ensure!(a.results("context")? == [OK]);
    see(&mut a, 2)?;
    // There is no room for a third, whatever its kind and its process.
    ensure!(a.results("context")? == [FULL] && a.results("retain")? == [FULL]);
    ensure!(Program::start(&host, &guest).is_err(), "it has a context");
    see(&mut a, 2)?;
    ensure!(a.results("destroy")? == [OK]);
    see(&mut a, 6)?;
    // A primary context counts once, until the last release or a reset.
    ensure!(a.results("release")? == ["CUDA_ERROR_INVALID_CONTEXT"]);
    ensure!(a.results("retain")? == [OK] && a.results("retain")? == [OK]);
    see(&mut a, 2)?;
    ensure!(a.results("release")? == [OK]);
    see(&mut a, 2)?;
    ensure!(a.results("release")? == [OK]);
    see(&mut a, 6)?;
    ensure!(a.results("retain")? == [OK]);
    see(&mut a, 2)?;
    ensure!(a.results("reset")? == [OK]);
    see(&mut a, 6)?;
    // What others have is no room either.
    ensure!(a.alloc(6 * MIB)? == OK && a.results("context")? == [FULL]);
    ensure!(a.results("renew")? == [OK, OK]);
    see(&mut a, 6)?;
    Ok(())
}

#[test]
fn a_changed_file_holds_while_programs_run() -> Result<()> {
    let mut host = host(1)?;
    let guest = host.guest_described("web", "memory = \"8M\"\nchannels = 1\n")?;
    let mut a = Program::start(&host, &guest)?;
    ensure!(a.alloc(6 * MIB)? == OK);
    ensure!(Program::start(&host, &guest).is_err(), "two processes");
    host.describe("web", "memory = \"16M\"\nchannels = 2\n")?;
    wait_until("the quota is larger", || {
        Ok(a.info()? == (10 * MIB, 16 * MIB))
    })?;
    let mut b = Program::start(&host, &guest)?;
    ensure!(b.alloc(10 * MIB)? == OK);
    // Smaller than what is held: nothing is taken away, nothing more is given.
    host.describe("web", "memory = \"4M\"\n")?;
    wait_until("the quota is smaller", || Ok(b.info()? == (0, 4 * MIB)))?;
    ensure!(a.alloc(1)? == FULL);
    // A file that is wrong changes nothing.
    host.describe("web", "memory = 12 parsecs\n")?;
    host.wait("the log names the line", |host| {
        Ok(host.all_logs().contains("what held before holds on"))
    })?;
    ensure!(b.info()? == (0, 4 * MIB), "{:?}", b.info()?);
    Ok(())
}

#[test]
fn guarantees_are_kept_and_who_is_refused_comes_in_later() -> Result<()> {
    let mut host = host(2)?;
    let sure = "guaranteed = 60\nmemory = \"40M\"\n";
    let first = host.guest_described("first", sure)?;
    let second = host.guest_described("second", sure)?;
    ensure!(row(&host, "first")?.gpus == [0] && row(&host, "second")?.gpus == [1]);
    let (mut a, mut b) = (
        Program::start(&host, &first)?,
        Program::start(&host, &second)?,
    );
    let (one, other) = (a.tell("devices")?, b.tell("devices")?);
    ensure!(
        one.contains(" 1 [") && other.contains(" 1 [") && one != other,
        "{one} {other}"
    );

    // There is no room for a third such one, and people can see why.
    host.describe("third", sure)?;
    let mut third = host.domain("third")?;
    let refused = |host: &Host| Ok(row(host, "third").is_ok_and(|row| !row.refused.is_empty()));
    host.wait("the third is refused", refused)?;
    let why = row(&host, "third")?.refused;
    for part in [
        "GPU 0 (GPU-",
        "GPU 1 (GPU-",
        "40 % of its time",
        "60 % is asked for",
        "24 MiB of memory",
    ] {
        ensure!(why.contains(part), "{part}: {why}");
    }
    ensure!(host.all_logs().contains(&why), "the log does not say {why}");
    let node = format!("/local/domain/0/error/backend/vgpu/{}/0/error", third.domid);
    let store = host.dom0()?.store()?;
    let said = keys::value(&store, &node)?.context("no error node")?;
    ensure!(String::from_utf8_lossy(&said).contains(&why), "{said:?}");
    let file = host.description_file("third");
    let file = file.to_str().context("not UTF-8")?;
    let checked = host.xl_vgpu(&["check", "--json", file])?;
    ensure!(checked.status.code() == Some(6), "{checked:?}");
    let verdicts: Value = serde_json::from_str(&checked.stdout)?;
    ensure!(verdicts[0]["admission"]["missing"] == why, "{verdicts}");
    // Best effort may come all the same.
    let plain = host.guest("plain")?;
    let mut d = Program::start(&host, &plain)?;
    ensure!(d.tell("devices")?.contains(" 1 ["));

    // When the first has gone, the third is let in, where the first was.
    drop(a);
    host.destroy(first)?;
    host.start_frontd(&mut third)?;
    let now = row(&host, "third")?;
    ensure!(now.gpus == [0] && now.refused.is_empty(), "{now:?}");
    let mut c = Program::start(&host, &third)?;
    ensure!(c.tell("devices")? == one, "{one}");
    ensure!(c.info()?.1 == 40 * MIB);
    let checked = host.xl_vgpu(&["check", file])?.success()?;
    ensure!(checked.contains("let in now, on GPU"), "{checked}");

    // By hand it can be given more or less while its program runs, but not what is not there.
    ensure!(c.alloc(20 * MIB)? == OK);
    let set = |percent: &str, memory: &str| {
        host.xl_vgpu(&["set", "third", "--guaranteed", percent, "--memory", memory])
    };
    let refused = set("100", "80M")?;
    let missing = "64 MiB of memory left to guarantee and 80 MiB is asked for";
    ensure!(
        refused.status.code() == Some(1) && refused.stderr.contains(missing),
        "{refused:?}"
    );
    ensure!(c.info()? == (20 * MIB, 40 * MIB));
    ensure!(set("100", "2X")?.status.code() == Some(2));
    set("100", "48M")?.success()?;
    ensure!(c.info()? == (28 * MIB, 48 * MIB));
    set("60", "10M")?.success()?;
    ensure!(c.info()? == (0, 10 * MIB) && c.alloc(MIB)? == FULL);
    set("60", "40M")?.success()?;
    ensure!(c.info()? == (20 * MIB, 40 * MIB));

    // A guarantee that is not there is not given while the domain runs either.
    host.describe("third", "guaranteed = 100\nmemory = \"80M\"\n")?;
    host.wait("the change is refused", |host| {
        Ok(host.all_logs().contains("what it asks is not there"))
    })?;
    ensure!(c.info()?.1 == 40 * MIB);
    Ok(())
}

#[test]
fn a_domain_can_have_several_gpus() -> Result<()> {
    let mut host = host(3)?;
    let guest = host.guest_described("two", "gpus = [2, 0]\nmemory = \"8M\"\n")?;
    ensure!(row(&host, "two")?.gpus == [2, 0]);
    let mut a = Program::start(&host, &guest)?;
    let both = a.tell("devices")?;
    ensure!(both.contains(" 2 ["), "{both}");
    ensure!(a.alloc(8 * MIB)? == OK && a.alloc(1)? == FULL);
    let named = host.guest_described("three", "gpus = 1\n")?;
    // Where nobody is.
    ensure!(row(&host, "three")?.gpus == [1]);
    let mut b = Program::start(&host, &named)?;
    ensure!(b.tell("devices")?.contains(" 1 ["));
    Ok(())
}
