//! What a domain is to have of the accelerators, as an administrator writes it down: V-Core's machine model,
//! in a TOML file. A description is judged as a whole, and what is wrong is told by key, line and what is
//! allowed. It must never be half taken: one wrong key, and nothing of it holds.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};
use toml::{Spanned, Value};

use crate::{DEFAULT_WEIGHT, Limits, MILLISECOND, Nanos, Share};

/// Most GPUs that a domain sees.
pub const GPU_LIMIT: usize = 16;
/// The time over which a cap holds, in milliseconds: a capped domain may have to wait so long.
const CAP_WINDOW_MS: i64 = 100;
/// The latency target of a real-time domain that names none.
const REAL_TIME_LATENCY: Nanos = 10 * MILLISECOND;

/// How a domain is treated where there is not enough for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// It gets what others leave; its quotas are limits, of which more may be given out than there is.
    #[default]
    BestEffort,
    /// Its share is guaranteed, and it has a latency target.
    RealTime,
}

/// Which GPUs a domain gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Gpus {
    /// So many, wherever there is most room.
    Count(usize),
    /// These and no others.
    These(Vec<GpuName>),
}

/// A GPU, as people name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GpuName {
    /// By its place in the driver's order.
    Ordinal(u32),
    /// By the beginning of its UUID, as `GPU-8c8a45fd`.
    Uuid(String),
}

impl Display for GpuName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GpuName::Ordinal(ordinal) => write!(f, "GPU {ordinal}"),
            GpuName::Uuid(uuid) => f.write_str(uuid),
        }
    }
}

/// What a domain is to have. Shares and memory are of each of its GPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Whether the domain gets its device.
    pub enabled: bool,
    /// The device's number in the domain.
    pub devid: u32,
    /// Its GPUs.
    pub gpus: Gpus,
    /// Its weight among those who want a GPU: 1 to 65,535. None: [`DEFAULT_WEIGHT`], or the hypervisor's.
    pub weight: Option<u32>,
    /// The most of a GPU that it may use even where nobody else wants it, in percent.
    pub cap: Option<u32>,
    /// The part of a GPU that it has whatever others want, in percent.
    pub guaranteed: Option<u32>,
    /// The most of a GPU's memory that it may have allocated, in bytes; kept free for it where its share is
    /// guaranteed.
    pub memory: Option<u64>,
    /// The wait for a GPU that it can bear when it comes back from idling.
    pub latency: Option<Nanos>,
    /// How it is treated where there is not enough.
    pub class: Class,
    /// Most channels: one for each of its CUDA processes.
    pub channels: Option<u32>,
    /// Most of its memory that is mapped here, in bytes.
    pub mapped: Option<u64>,
    /// Most launches in flight of each of its processes and GPUs.
    pub launches: Option<u32>,
}

impl Default for Description {
    fn default() -> Self {
        Self {
            enabled: true,
            devid: 0,
            gpus: Gpus::Count(1),
            weight: None,
            cap: None,
            guaranteed: None,
            memory: None,
            latency: None,
            class: Class::BestEffort,
            channels: None,
            mapped: None,
            launches: None,
        }
    }
}

/// What is wrong with a description.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    /// It is no TOML.
    #[error("{0}")]
    Syntax(String),
    /// A key that means nothing.
    #[error("line {line}: there is no key '{key}'; there are: {}", KEYS.join(", "))]
    Unknown {
        /// Where.
        line: usize,
        /// Which.
        key: String,
    },
    /// A value that a key cannot have.
    #[error("line {line}: {key} = {found} is not allowed: it is {allowed}")]
    Value {
        /// Where.
        line: usize,
        /// Which.
        key: &'static str,
        /// What stands there.
        found: String,
        /// What may.
        allowed: &'static str,
    },
    /// Keys that contradict each other.
    #[error("{}{rule}", .line.map_or_else(String::new, |line| format!("line {line}: ")))]
    Rule {
        /// Where, if it came from a file.
        line: Option<usize>,
        /// What must hold.
        rule: String,
    },
}

/// Every key.
const KEYS: [&str; 12] = [
    "enabled",
    "devid",
    "gpus",
    "weight",
    "cap",
    "guaranteed",
    "memory",
    "latency_ms",
    "class",
    "channels",
    "mapped",
    "launches",
];

type Keys = BTreeMap<Spanned<String>, Spanned<Value>>;

/// The number of the line that a byte of a text is in.
fn line(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    before.iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// The keys of a file, taken one by one.
struct File<'a> {
    text: &'a str,
    keys: Keys,
}

impl File<'_> {
    fn line_of(&self, key: &str) -> Option<usize> {
        let mut keys = self.keys.keys();
        let found = keys.find(|found| found.get_ref() == key)?;
        Some(line(self.text, found.span().start))
    }

    /// A key's value as `take` reads it, if the key is there.
    fn take<T>(
        &self,
        key: &'static str,
        allowed: &'static str,
        take: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, DescriptionError> {
        let mut keys = self.keys.iter();
        let Some((_, value)) = keys.find(|(found, _)| found.get_ref() == key) else {
            return Ok(None);
        };
        match take(value.get_ref()) {
            Some(taken) => Ok(Some(taken)),
            None => Err(DescriptionError::Value {
                line: line(self.text, value.span().start),
                key,
                found: value.get_ref().to_string(),
                allowed,
            }),
        }
    }

    fn number(
        &self,
        key: &'static str,
        allowed: &'static str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<Option<u32>, DescriptionError> {
        self.take(key, allowed, |value| {
            let number = value.as_integer().filter(|number| range.contains(number))?;
            u32::try_from(number).ok()
        })
    }

    fn size(&self, key: &'static str) -> Result<Option<u64>, DescriptionError> {
        self.take(key, SIZES, |value| match value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok().filter(|&bytes| is_size(bytes)),
            Value::String(text) => parse_size(text),
            _ => None,
        })
    }
}

/// What a quota is, in words.
pub const SIZES: &str =
    "a size from 4K to 16T: bytes, or text with K, M, G or T, as \"512M\" or \"2G\"";

/// Whether bytes are a quota: see [`SIZES`].
pub fn is_size(bytes: u64) -> bool {
    (4 << 10..=16 << 40).contains(&bytes)
}

/// A quota's size, with an optional binary suffix; `None` if it is not one: see [`SIZES`].
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, shift) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (text.get(..at)?, 10),
        (at, 'm' | 'M') => (text.get(..at)?, 20),
        (at, 'g' | 'G') => (text.get(..at)?, 30),
        (at, 't' | 'T') => (text.get(..at)?, 40),
        _ => (text, 0),
    };
    let bytes = digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift)?;
    is_size(bytes).then_some(bytes)
}

/// Bytes, for people: in the largest unit that leaves at least one.
pub fn size_text(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >> shift > 0 {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return match tenths % 10 {
                0 => format!("{} {unit}", tenths / 10),
                rest => format!("{}.{rest} {unit}", tenths / 10),
            };
        }
    }
    format!("{bytes} bytes")
}

fn gpus(value: &Value) -> Option<Gpus> {
    match value {
        Value::Integer(count) => {
            let count = usize::try_from(*count).ok()?;
            (1..=GPU_LIMIT)
                .contains(&count)
                .then_some(Gpus::Count(count))
        }
        Value::Array(names) => {
            let name = |value: &Value| match value {
                Value::Integer(ordinal) => u32::try_from(*ordinal).ok().map(GpuName::Ordinal),
                Value::String(uuid) => is_uuid(uuid).then(|| GpuName::Uuid(uuid.clone())),
                _ => None,
            };
            let names: Option<Vec<GpuName>> = names.iter().map(name).collect();
            names.filter(|names| is_list(names)).map(Gpus::These)
        }
        _ => None,
    }
}

fn is_uuid(text: &str) -> bool {
    let digits = text
        .strip_prefix("GPU-")
        .or_else(|| text.strip_prefix("MIG-"));
    digits.is_some_and(|digits| {
        (1..=64).contains(&digits.len())
            && digits.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
    })
}

fn is_list(names: &[GpuName]) -> bool {
    let mut rest = names;
    while let Some((name, after)) = rest.split_first() {
        if after.contains(name) {
            return false;
        }
        rest = after;
    }
    (1..=GPU_LIMIT).contains(&names.len())
}

impl Description {
    /// What a file says.
    ///
    /// # Errors
    /// [`DescriptionError`]: the first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Description, DescriptionError> {
        let keys: Keys = toml::from_str(text)
            .map_err(|error| DescriptionError::Syntax(error.to_string().trim_end().to_owned()))?;
        for key in keys.keys() {
            if !KEYS.contains(&key.get_ref().as_str()) {
                return Err(DescriptionError::Unknown {
                    line: line(text, key.span().start),
                    key: key.get_ref().clone(),
                });
            }
        }
        let file = File { text, keys };
        let percent = "a whole number of percent from 1 to 100";
        let count = "a whole number from 1 to 65535";
        let description = Description {
            enabled: file
                .take("enabled", "true or false", Value::as_bool)?
                .unwrap_or(true),
            devid: file
                .number("devid", "a whole number from 0 to 255", 0..=255)?
                .unwrap_or(0),
            gpus: file
                .take(
                    "gpus",
                    "a number of GPUs from 1 to 16, or a list of different ones by ordinal or UUID, as \
                     [0, \"GPU-8c8a45fd\"]",
                    gpus,
                )?
                .unwrap_or(Gpus::Count(1)),
            weight: file.number("weight", count, 1..=65_535)?,
            cap: file.number("cap", percent, 1..=100)?,
            guaranteed: file.number("guaranteed", percent, 1..=100)?,
            memory: file.size("memory")?,
            latency: file
                .number("latency_ms", "milliseconds from 1 to 60000", 1..=60_000)?
                .map(|ms| Nanos::from(ms) * MILLISECOND),
            class: file
                .take("class", "\"real-time\" or \"best-effort\"", |value| {
                    match value.as_str()? {
                        "real-time" => Some(Class::RealTime),
                        "best-effort" => Some(Class::BestEffort),
                        _ => None,
                    }
                })?
                .unwrap_or_default(),
            channels: file.number("channels", "a whole number from 1 to 1024", 1..=1024)?,
            mapped: file.size("mapped")?,
            launches: file.number("launches", count, 1..=65_535)?,
        };
        match description.broken_rule() {
            None => Ok(description),
            Some((key, rule)) => Err(DescriptionError::Rule {
                line: file.line_of(key),
                rule,
            }),
        }
    }

    /// Judges a description that did not come from a file.
    ///
    /// # Errors
    /// [`DescriptionError::Rule`]
    pub fn check(&self) -> Result<(), DescriptionError> {
        let within = |value: Option<u32>, range: std::ops::RangeInclusive<u32>| {
            value.is_none_or(|value| range.contains(&value))
        };
        let gpus = match &self.gpus {
            Gpus::Count(count) => (1..=GPU_LIMIT).contains(count),
            Gpus::These(names) => {
                is_list(names)
                    && names.iter().all(|name| match name {
                        GpuName::Ordinal(_) => true,
                        GpuName::Uuid(uuid) => is_uuid(uuid),
                    })
            }
        };
        let ranges = [
            ("gpus", gpus),
            ("weight", within(self.weight, 1..=65_535)),
            ("cap", within(self.cap, 1..=100)),
            ("guaranteed", within(self.guaranteed, 1..=100)),
            ("memory", self.memory.is_none_or(is_size)),
            ("channels", within(self.channels, 1..=1024)),
            ("mapped", self.mapped.is_none_or(is_size)),
            ("launches", within(self.launches, 1..=65_535)),
        ];
        let wrong = ranges.iter().find(|(_, good)| !good).map(|(key, _)| {
            format!("{key} is out of its range; xl-vgpu check FILE says what is allowed")
        });
        match wrong.or_else(|| self.broken_rule().map(|(_, rule)| rule)) {
            None => Ok(()),
            Some(rule) => Err(DescriptionError::Rule { line: None, rule }),
        }
    }

    /// The first rule between keys that does not hold, and the key to change.
    fn broken_rule(&self) -> Option<(&'static str, String)> {
        if self.class == Class::RealTime && self.guaranteed.is_none() {
            let rule = "class = \"real-time\" needs a guaranteed share; add guaranteed = PERCENT, or make it \
                        \"best-effort\"";
            return Some(("class", rule.to_owned()));
        }
        if let (Some(guaranteed), Some(cap)) = (self.guaranteed, self.cap)
            && guaranteed > cap
        {
            let rule = format!(
                "guaranteed = {guaranteed} is more than cap = {cap}: a domain cannot be sure of what it may \
                 not use; raise the cap or lower the guarantee"
            );
            return Some(("guaranteed", rule));
        }
        if let (Some(latency), Some(cap)) = (self.latency(), self.cap)
            && cap < 100
            && latency < CAP_WINDOW_MS.unsigned_abs() * MILLISECOND
        {
            let key = match self.latency {
                Some(_) => "latency_ms",
                None => "cap",
            };
            let rule = format!(
                "a latency target of {} ms cannot be kept with cap = {cap}: a cap holds over {CAP_WINDOW_MS} \
                 ms, so a domain that has used it up waits as long; leave out the cap, or set latency_ms to \
                 {CAP_WINDOW_MS} or more",
                latency / MILLISECOND
            );
            return Some((key, rule));
        }
        None
    }

    /// The latency target: its own, or that of its class.
    pub fn latency(&self) -> Option<Nanos> {
        let of_class = (self.class == Class::RealTime).then_some(REAL_TIME_LATENCY);
        self.latency.or(of_class)
    }

    /// What it is entitled to on each of its GPUs, its guarantee aside.
    pub fn share(&self) -> Share {
        Share {
            weight: self.weight.unwrap_or(DEFAULT_WEIGHT),
            cap: self.cap,
            latency: self.latency(),
        }
    }

    /// Memory of each GPU that is kept free for it, in bytes.
    pub fn reserved_memory(&self) -> u64 {
        match self.guaranteed {
            Some(_) => self.memory.unwrap_or(0),
            None => 0,
        }
    }

    /// Its bounds.
    pub fn limits(&self) -> Limits {
        Limits {
            memory: self.memory,
            channels: self.channels,
            mapped: self.mapped,
            launches: self.launches,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wrong(text: &str) -> String {
        Description::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Description::parse("").unwrap(), Description::default());
        assert_eq!(Description::default().share().weight, crate::DEFAULT_WEIGHT);
    }

    #[test]
    fn every_key_is_taken() {
        let text = "enabled = false\ndevid = 2\ngpus = [0, \"GPU-8c8a45fd\"]\nweight = 512\ncap = 80\n\
                    guaranteed = 25\nmemory = \"2G\"\nlatency_ms = 200\nclass = \"real-time\"\n\
                    channels = 8\nmapped = 1048576\nlaunches = 64\n";
        let description = Description::parse(text).unwrap();
        let names = vec![GpuName::Ordinal(0), GpuName::Uuid("GPU-8c8a45fd".into())];
        assert_eq!(
            description,
            Description {
                enabled: false,
                devid: 2,
                gpus: Gpus::These(names),
                weight: Some(512),
                cap: Some(80),
                guaranteed: Some(25),
                memory: Some(2 << 30),
                latency: Some(200 * MILLISECOND),
                class: Class::RealTime,
                channels: Some(8),
                mapped: Some(1 << 20),
                launches: Some(64),
            }
        );
        assert_eq!(description.reserved_memory(), 2 << 30);
        assert_eq!(description.check(), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_told_by_key_line_and_what_is_allowed() {
        for (text, parts) in [
            ("\nweihgt = 3", ["line 2", "weihgt", "weight"]),
            ("weight = 0", ["line 1", "weight = 0", "1 to 65535"]),
            ("weight = 65536", ["line 1", "65536", "1 to 65535"]),
            ("\n\ncap = 101", ["line 3", "cap = 101", "1 to 100"]),
            ("cap = \"x\"", ["line 1", "\"x\"", "1 to 100"]),
            ("memory = \"2X\"", ["line 1", "\"2X\"", "2G"]),
            ("memory = -1", ["line 1", "-1", "2G"]),
            (
                "memory = \"99999999999G\"",
                ["line 1", "99999999999G", "16T"],
            ),
            ("gpus = 0", ["line 1", "gpus = 0", "1 to 16"]),
            ("gpus = [0, 0]", ["line 1", "[0, 0]", "different"]),
            ("gpus = [\"../x\"]", ["line 1", "../x", "UUID"]),
            ("class = \"fast\"", ["line 1", "fast", "best-effort"]),
            ("channels = 0", ["line 1", "channels", "1 to 1024"]),
            ("devid = -1", ["line 1", "devid = -1", "0 to 255"]),
            ("latency_ms = 0", ["line 1", "latency_ms", "60000"]),
            ("weight = ", ["line 1", "", ""]),
            ("a = 1\na = 2", ["line 2", "duplicate", ""]),
            (
                "\nclass = \"real-time\"",
                ["line 2", "guaranteed", "best-effort"],
            ),
            ("cap = 20\nguaranteed = 30", ["line 2", "30", "cap = 20"]),
            ("latency_ms = 5\ncap = 50", ["line 1", "5 ms", "cap = 50"]),
            (
                "guaranteed = 10\nclass = \"real-time\"\ncap = 50",
                ["line 3", "10 ms", "cap = 50"],
            ),
        ] {
            let told = wrong(text);
            for part in parts {
                assert!(told.contains(part), "{text:?}: {told}");
            }
        }
    }

    #[test]
    fn sizes_are_told_in_units() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (2 << 30, "2 GiB"),
            (1536 << 20, "1.5 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
    }

    proptest! {
        /// Any text is taken or refused; what is taken is good by itself, and survives being told.
        #[test]
        fn any_text(lines in proptest::collection::vec(
            (proptest::sample::select(KEYS.to_vec()), "[0-9]{1,6}|\"[0-9]{1,3}[KMGTx]\"|true|\"real-time\"|\\[[01](, [01])?\\]"),
            0..8,
        )) {
            let text: String = lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
            if let Ok(description) = Description::parse(&text) {
                prop_assert_eq!(description.check(), Ok(()));
                let told = serde_json::to_string(&description).unwrap();
                prop_assert_eq!(serde_json::from_str::<Description>(&told).unwrap(), description);
            }
        }
    }
}
