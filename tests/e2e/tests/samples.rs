//! Every sample program on the driver itself and through the split driver: right in both, and the same bits.

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::process::Command;
use std::time::Duration;
use vgpu_e2e::{Bundle, Driver, Host, run};

const LIMIT: Duration = Duration::from_secs(120);

/// What the split driver does not carry, each with why: these run on the driver itself only.
const DIRECT_ONLY: [(&str, &str); 3] = [
    (
        "reductionMultiBlockCG",
        "cooperative launches are not carried",
    ),
    (
        "simplePrintf",
        "the worker, not the program, has the output",
    ),
    (
        "simpleTexture",
        "arrays and texture objects are not carried",
    ),
];

#[derive(Deserialize, Debug, PartialEq)]
struct Report {
    ok: bool,
    checksum: String,
}

fn report(mut command: Command) -> Result<Report> {
    let output = run(command.arg("--json"), LIMIT)?.success()?;
    serde_json::from_str(&output).with_context(|| output)
}

fn names(host: &Host) -> Result<Vec<String>> {
    let listed = run(host.direct("samples").arg("--names"), LIMIT)?.success()?;
    Ok(listed.lines().map(str::to_owned).collect())
}

#[test]
fn every_program_computes_the_same_bits() -> Result<()> {
    let mut host = Host::start(&Bundle::find()?, Driver::Softcuda)?;
    let guest = host.guest("samples")?;
    let names = names(&host)?;
    ensure!(names.len() > 30, "few programs: {names:?}");
    let mut wrong = Vec::new();
    for name in &names {
        let direct = report(host.direct(name));
        if !direct.as_ref().is_ok_and(|report| report.ok) {
            wrong.push(format!("{name} on softcuda: {direct:#?}"));
            continue;
        }
        if DIRECT_ONLY.iter().any(|(program, _)| program == name) {
            continue;
        }
        let split = report(host.in_guest(&guest, name));
        if !split
            .as_ref()
            .is_ok_and(|split| direct.is_ok_and(|direct| direct == *split))
        {
            wrong.push(format!("{name} through the split driver: {split:#?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\n{}",
        wrong.join("\n"),
        host.all_logs()
    );
    for (program, why) in DIRECT_ONLY {
        assert!(names.iter().any(|name| name == program), "{program}: {why}");
    }
    host.destroy(guest)?;
    host.check_clean()
}

#[test]
fn an_assertion_that_fails_ends_the_program_and_says_where() -> Result<()> {
    let host = Host::start(&Bundle::find()?, Driver::Softcuda)?;
    let output = run(host.direct("simpleAssert").arg("--fail"), LIMIT)?;
    assert!(!output.status.success());
    for part in [
        "CUDA_ERROR_ASSERT",
        "simpleAssert.cu",
        "i < n",
        "block: [3,0,0]",
    ] {
        assert!(
            output.stderr.contains(part),
            "{part} is not in\n{}",
            output.stderr
        );
    }
    Ok(())
}
