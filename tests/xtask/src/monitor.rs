//! `cargo xtask nvml`: NVIDIA's own Python binding of NVML reads a guest's `libnvidia-ml.so.1`, and must be told what
//! CUDA tells. Nothing of the binding is in this repository: pip fetches it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use vgpu_e2e::{Bundle, Driver, Host};

use crate::{bundle, setup};

/// Read a guest's NVML with NVIDIA's Python binding, nvidia-ml-py, and compare with CUDA.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print what was read as one JSON object.
    #[arg(long)]
    json: bool,
}

/// What monitor.py prints.
#[derive(Debug, Deserialize, Serialize)]
struct Read {
    nvml: Vec<Device>,
    cuda: Vec<Device>,
    /// The driver's, NVML's.
    versions: [String; 2],
    /// NVML's code for each question without an answer.
    unsupported: std::collections::BTreeMap<String, u32>,
    #[serde(rename = "after shutdown")]
    after_shutdown: u32,
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Device {
    name: String,
    uuid: String,
    place: String,
    total: u64,
}

/// `NVML_ERROR_UNINITIALIZED` and `NVML_ERROR_NOT_SUPPORTED`.
const UNINITIALIZED: u32 = 1;
const NOT_SUPPORTED: u32 = 3;

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::demo()?;
    let python = setup::python()?;
    let built = bundle::build()?;
    let mut host = Host::start(&Bundle::at(built.root), Driver::Softcuda)?;
    let guest = host.guest("monitored")?;
    let mut command = Command::new(&python);
    command.arg(bundle::workspace().join("tests/third-party/nvml/monitor.py"));
    host.guest_environment(&guest, &mut command);
    let output = vgpu_e2e::run(&mut command, Duration::from_secs(120))?.success()?;
    host.destroy(guest)?;
    host.check_clean()?;
    let read: Read = serde_json::from_str(output.trim())
        .with_context(|| format!("{} printed {output}", python.display()))?;
    if arguments.json {
        println!("{}", serde_json::to_string(&read)?);
    } else {
        for device in &read.nvml {
            let mib = device.total >> 20;
            println!("{} {} {} {mib} MiB", device.place, device.name, device.uuid);
        }
        println!("driver {}, NVML {}", read.versions[0], read.versions[1]);
    }
    read.judge()
}

/// The step of `cargo xtask test`.
pub fn test() -> Result<()> {
    run(&Arguments { json: false })
}

impl Read {
    fn judge(&self) -> Result<()> {
        if self.nvml.is_empty() || self.nvml != self.cuda {
            bail!(
                "NVML and CUDA differ: {:?} against {:?}",
                self.nvml,
                self.cuda
            );
        }
        if let Some((what, code)) = self
            .unsupported
            .iter()
            .find(|(_, code)| **code != NOT_SUPPORTED)
        {
            bail!("NVML answers the question for the {what} with {code}");
        }
        if self.after_shutdown != UNINITIALIZED {
            bail!("after nvmlShutdown NVML answers {}", self.after_shutdown);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_and_an_answer_too_many_are_found() {
        let device = || Device {
            name: "a GPU".into(),
            uuid: "GPU-0".into(),
            place: "0000:01:00.0".into(),
            total: 1 << 30,
        };
        let read = || Read {
            nvml: vec![device()],
            cuda: vec![device()],
            versions: [String::new(), String::new()],
            unsupported: [("power".to_owned(), NOT_SUPPORTED)].into(),
            after_shutdown: UNINITIALIZED,
        };
        assert!(read().judge().is_ok());
        let mut wrong = read();
        wrong.cuda[0].total -= 1;
        assert!(wrong.judge().is_err());
        let mut wrong = read();
        (wrong.nvml, wrong.cuda) = (Vec::new(), Vec::new());
        assert!(wrong.judge().is_err());
        let mut wrong = read();
        wrong.unsupported.insert("power".into(), 0);
        assert!(wrong.judge().is_err());
        let mut wrong = read();
        wrong.after_shutdown = 0;
        assert!(wrong.judge().is_err());
    }
}
