//! The command line of vgpu-load, in both directions: experiments say what a domain does with the same type.

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use vgpu_sched::sim::Distribution;

/// Keeps a CUDA device busy with kernels of a known length, or with copies
///
/// Durations are microseconds: a number, `A-B` for anything evenly between, or `~M` for an exponential
/// distribution with that mean.
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(name = "vgpu-load", version)]
pub struct Options {
    /// How long each kernel takes on the device
    #[arg(long, value_name = "TIME", value_parser = micros, default_value = "1000", conflicts_with = "copy")]
    pub kernel_us: Distribution,

    /// Kernels launched and not yet seen to end; 1 waits for each
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub depth: u32,

    /// Sleep so long between the end of a kernel or copy and the next; with a depth of 1
    #[arg(long, value_name = "TIME", value_parser = micros, default_value = "0")]
    pub think_us: Distribution,

    /// Compute so long on the processor between the end of a kernel or copy and the next; with a depth of 1
    #[arg(long, value_name = "TIME", value_parser = micros, default_value = "0")]
    pub compute_us: Distribution,

    /// Launch a kernel each so often, whatever has become of those before
    #[arg(long, value_name = "TIME", value_parser = micros, conflicts_with_all = ["copy", "depth", "think_us", "compute_us"])]
    pub every_us: Option<Distribution>,

    /// Copy so many bytes at a time instead of launching kernels
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub copy: Option<u64>,

    /// Which way to copy
    #[arg(long, value_enum, default_value_t = Direction::Both, requires = "copy")]
    pub direction: Direction,

    /// Copy from and to page-locked memory
    #[arg(long, requires = "copy")]
    pub pinned: bool,

    /// Go on for so long
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,

    /// Stop after so many kernels or copies
    #[arg(long, value_name = "COUNT")]
    pub count: Option<u64>,

    /// Start at this time of CLOCK_MONOTONIC, in nanoseconds
    #[arg(long, value_name = "NS", conflicts_with = "hold")]
    pub start_at: Option<u64>,

    /// When ready, print `ready` and wait for a line with the start and the end as times of CLOCK_MONOTONIC,
    /// in nanoseconds
    #[arg(long)]
    pub hold: bool,

    /// Equal seeds draw equal times
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// The device's number
    #[arg(long, value_name = "ORDINAL", default_value_t = 0)]
    pub device: u16,

    /// Print every kernel and copy as one JSON object instead of a summary
    #[arg(long)]
    pub json: bool,
}

/// Which way to copy.
#[derive(Clone, std::marker::Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// To the device.
    In,
    /// From the device.
    Out,
    /// In turns.
    Both,
}

impl Options {
    /// What the command line cannot say by itself.
    ///
    /// # Errors
    ///
    /// If a pause between kernels is asked for although several are in flight.
    pub fn check(&self) -> Result<()> {
        let none = Distribution::Constant(0);
        if self.depth > 1 && (self.think_us != none || self.compute_us != none) {
            bail!("--think-us and --compute-us are pauses between kernels: they need --depth 1");
        }
        if !self.seconds.is_finite() || self.seconds < 0.0 {
            bail!("--seconds takes a number of seconds");
        }
        Ok(())
    }

    /// As a command line, without what says when.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        match (self.copy, self.every_us) {
            (Some(bytes), _) => {
                add("copy", bytes.to_string());
                let direction = match self.direction {
                    Direction::In => "in",
                    Direction::Out => "out",
                    Direction::Both => "both",
                };
                add("direction", direction.into());
            }
            (None, Some(every)) => add("every-us", text(every)),
            (None, None) => add("depth", self.depth.to_string()),
        }
        if self.copy.is_none() {
            add("kernel-us", text(self.kernel_us));
        }
        if self.every_us.is_none() {
            add("think-us", text(self.think_us));
            add("compute-us", text(self.compute_us));
        }
        add("seed", self.seed.to_string());
        add("device", self.device.to_string());
        if self.pinned {
            arguments.push("--pinned".into());
        }
        arguments
    }
}

/// Reads a duration in microseconds, or a distribution of them.
///
/// # Errors
///
/// If it is none of the three forms.
pub fn micros(text: &str) -> Result<Distribution> {
    let number = |text: &str| -> Result<u64> {
        let micros: f64 = text
            .parse()
            .with_context(|| format!("{text:?} is no number of microseconds"))?;
        if !(0.0..=1e9).contains(&micros) {
            bail!("{text} µs is not between 0 and 1000 seconds");
        }
        Ok((micros * 1e3).round() as u64)
    };
    if let Some(mean) = text.strip_prefix('~') {
        return Ok(Distribution::Exponential(number(mean)?));
    }
    match text.split_once('-') {
        Some((low, high)) => {
            let (low, high) = (number(low)?, number(high)?);
            if high <= low {
                bail!("{text}: the second must be greater than the first");
            }
            Ok(Distribution::Uniform(low, high))
        }
        None => Ok(Distribution::Constant(number(text)?)),
    }
}

/// What [`micros`] reads.
fn text(distribution: Distribution) -> String {
    let micros = |nanos: u64| format!("{}", nanos as f64 / 1e3);
    match distribution {
        Distribution::Constant(value) => micros(value),
        Distribution::Uniform(low, high) => format!("{}-{}", micros(low), micros(high)),
        Distribution::Exponential(mean) => format!("~{}", micros(mean)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_three_forms() {
        assert_eq!(micros("2.5").unwrap(), Distribution::Constant(2_500));
        assert_eq!(micros("1-3").unwrap(), Distribution::Uniform(1_000, 3_000));
        assert_eq!(micros("~10").unwrap(), Distribution::Exponential(10_000));
        for bad in ["", "x", "3-1", "-1", "~", "1e99", "nan"] {
            assert!(micros(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_survive_the_command_line() {
        for line in [
            "--depth 4 --kernel-us 1000-2000.5",
            "--kernel-us ~20 --think-us 3 --compute-us 1",
            "--every-us ~5000 --kernel-us 7",
            "--copy 4096 --direction out --pinned --think-us 50 --seed 9",
        ] {
            let parse = |arguments: Vec<String>| {
                Options::try_parse_from(std::iter::once("vgpu-load".to_owned()).chain(arguments))
                    .unwrap()
            };
            let options = parse(line.split(' ').map(str::to_owned).collect());
            options.check().unwrap();
            assert_eq!(parse(options.arguments()), options, "{line}");
        }
        let wrong = Options::try_parse_from(["vgpu-load", "--depth", "2", "--think-us", "1"]);
        assert!(wrong.unwrap().check().is_err());
    }
}
