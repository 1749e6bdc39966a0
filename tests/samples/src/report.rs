//! What a program found and how long it took, as text or JSON. Whoever runs the programs parses the
//! JSON: no field may be renamed, removed or change its unit; new ones may come.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The outcome of one program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The program's name.
    pub program: String,
    /// The device's name, as CUDA gives it.
    pub device: String,
    /// The problem's size in words; each thread solves one problem of this size.
    pub problem: String,
    /// Host threads, each with its own stream and its own data.
    pub threads: u32,
    /// How often each thread ran the program's kernels over its data.
    pub iterations: u32,
    /// Whether every element of every thread's result is within the tolerance.
    pub ok: bool,
    /// The largest error, in the program's own measure (its `--help` says which). A result that is not a
    /// finite number counts as `f64::MAX`.
    pub max_error: f64,
    /// The largest error that still counts as right, in the same measure; 0 asks for exact equality.
    pub tolerance: f64,
    /// 64-bit FNV-1a over the bits of all the result's elements, 16 hexadecimal digits. Equal options give
    /// equal checksums on every device.
    pub checksum: String,
    /// Where the time went.
    pub times_ms: TimesMs,
    /// What else the program measured, in its first thread; most programs measure nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub figures: Vec<Figure>,
}

/// Something that a program measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is.
    pub what: String,
    /// Its unit.
    pub unit: String,
    /// How much it is.
    pub value: f64,
}

/// Times in milliseconds. Where several threads ran, `h2d`, `kernel` and `d2h` are those of the thread
/// that took longest in that phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimesMs {
    /// Loading libcuda, initialising it, making a context and loading the module, by the host's clock.
    pub setup: f64,
    /// Copies from host to device until they are done, by the host's clock.
    pub h2d: f64,
    /// All iterations of the kernels, between two CUDA events.
    pub kernel: f64,
    /// Copies from device to host until they are done, by the host's clock.
    pub d2h: f64,
    /// From before the setup until all results are on the host, by the host's clock; neither making the
    /// input nor computing the reference is in it.
    pub total: f64,
}

impl TimesMs {
    /// The longer of two threads' times, phase by phase.
    pub(crate) fn longest(self, other: Self) -> Self {
        Self {
            setup: self.setup.max(other.setup),
            h2d: self.h2d.max(other.h2d),
            kernel: self.kernel.max(other.kernel),
            d2h: self.d2h.max(other.d2h),
            total: self.total.max(other.total),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            program,
            device,
            problem,
            threads,
            iterations,
            ..
        } = self;
        let TimesMs {
            setup,
            h2d,
            kernel,
            d2h,
            total,
        } = self.times_ms;
        let verdict = if self.ok { "right" } else { "WRONG" };
        writeln!(f, "{program} on {device}")?;
        writeln!(
            f,
            "  problem         {problem}; threads: {threads}; iterations: {iterations}"
        )?;
        writeln!(
            f,
            "  result          {verdict}: max error {:.3e}, tolerance {:.3e}",
            self.max_error, self.tolerance
        )?;
        writeln!(f, "  checksum        {}", self.checksum)?;
        writeln!(f, "  setup           {setup:10.3} ms (context and module)")?;
        writeln!(f, "  host to device  {h2d:10.3} ms")?;
        writeln!(f, "  kernel          {kernel:10.3} ms (CUDA events)")?;
        writeln!(f, "  device to host  {d2h:10.3} ms")?;
        write!(f, "  total           {total:10.3} ms")?;
        for Figure { what, unit, value } in &self.figures {
            write!(f, "\n  {what:15} {value:10.3} {unit}")?;
        }
        Ok(())
    }
}

/// 64-bit FNV-1a, fed in pieces.
#[derive(Clone, Copy)]
pub(crate) struct Checksum(u64);

impl Checksum {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn hex(self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_fnv_1a() {
        let mut checksum = Checksum::new();
        assert_eq!(checksum.hex(), "cbf29ce484222325");
        // The published value.
        checksum.add(b"foobar");
        assert_eq!(checksum.hex(), "85944171f73967e8");
    }

    #[test]
    fn the_json_has_the_documented_fields_and_reads_back() {
        let report = Report {
            program: "vectorAdd".into(),
            device: "a device".into(),
            problem: "3 elements".into(),
            threads: 2,
            iterations: 1,
            ok: false,
            max_error: f64::MAX,
            tolerance: 0.0,
            checksum: Checksum::new().hex(),
            times_ms: TimesMs {
                setup: 1.0,
                h2d: 2.0,
                kernel: 3.0,
                d2h: 4.0,
                total: 10.5,
            },
            figures: vec![Figure {
                what: "copying".into(),
                unit: "GB/s".into(),
                value: 1.5,
            }],
        };
        let json = serde_json::to_value(&report).unwrap();
        let fields: Vec<_> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut documented = vec![
            "program",
            "device",
            "problem",
            "threads",
            "iterations",
            "ok",
            "max_error",
            "tolerance",
            "checksum",
            "times_ms",
            "figures",
        ];
        documented.sort_unstable();
        let mut fields = fields;
        fields.sort_unstable();
        assert_eq!(fields, documented);
        assert_eq!(json["times_ms"]["d2h"], 4.0);
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }
}
