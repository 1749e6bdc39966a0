//! What the environment says about the devices: `SOFTCUDA_MEMORY`,
//! `SOFTCUDA_CONTEXT_MEMORY`, `SOFTCUDA_DEVICES`, `SOFTCUDA_ENGINE`, `SOFTCUDA_TIMEOUT` and
//! `CUDA_VISIBLE_DEVICES`, read once by cuInit. A value that makes no sense is an error that names the variable; it must never be replaced by a default in silence.

use std::path::PathBuf;
use std::sync::OnceLock;

use cuda_abi::{Uuid, uuid_text};
use std::time::Duration;

use crate::exec::Vectorise;

/// Bytes that a device must have at least.
const MIN_MEMORY: u64 = 1 << 20;
/// Bytes that a device may have at most.
const MAX_MEMORY: u64 = 1 << 42;
/// Bytes of compiled code that are kept, where nothing else is said.
const CACHE_BYTES: u64 = 256 << 20;
/// Devices that can be configured.
const MAX_DEVICES: usize = 16;

/// `SOFTCUDA_WIDE`: whether kernels are vectorised. Read when the first kernel asks, as programs that
/// never call cuInit run kernels too.
pub(crate) fn vectorise() -> Vectorise {
    static VECTORISE: OnceLock<Vectorise> = OnceLock::new();
    *VECTORISE.get_or_init(|| match std::env::var("SOFTCUDA_WIDE").as_deref() {
        Ok("0") => Vectorise::Never,
        Ok("always") => Vectorise::AtOnce,
        _ => Vectorise::WhenItPays,
    })
}
/// The file in which processes queue for the engines, unless another is named.
pub const ENGINES: &str = "/dev/shm/softcuda-engines";

/// Why the environment cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Not a size, or not one that a device can have.
    #[error(
        "SOFTCUDA_MEMORY={0:?} is not a device's memory size: write bytes or K, M, G, T, from 1M to 4T, as in SOFTCUDA_MEMORY=512M"
    )]
    Memory(String),
    /// Not a size that a context can have.
    #[error(
        "SOFTCUDA_CONTEXT_MEMORY={0:?} is not what a context can take: write bytes or K, M, G, T, from 1M to 4T, as in SOFTCUDA_CONTEXT_MEMORY=300M"
    )]
    ContextMemory(String),
    /// Not a time.
    #[error(
        "SOFTCUDA_TIMEOUT={0:?} is not a time: write seconds above 0, as in SOFTCUDA_TIMEOUT=10 or SOFTCUDA_TIMEOUT=0.5"
    )]
    Timeout(String),
    /// Not a size for the cache.
    #[error(
        "SOFTCUDA_CACHE_SIZE={0:?} is not a size for the folder of compiled code: write bytes or K, M, G, T, from 1M to 4T, as in SOFTCUDA_CACHE_SIZE=100M"
    )]
    CacheSize(String),
    /// Not a number of devices.
    #[error("SOFTCUDA_DEVICES={0:?} is not a number of devices: write a number from 1 to 16")]
    Devices(String),
    /// Neither a path nor `off`.
    #[error(
        "SOFTCUDA_ENGINE={0:?} names no file: write an absolute path, as in SOFTCUDA_ENGINE=/dev/shm/softcuda-engines, or SOFTCUDA_ENGINE=off"
    )]
    Engine(String),
}

/// The machine that softcuda pretends to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of memory of each device.
    pub memory: u64,
    /// Bytes of its device's memory that a context takes.
    pub context_memory: u64,
    /// Number of devices, before `CUDA_VISIBLE_DEVICES`.
    pub devices: usize,
    /// How long a launch may take; `None` for as long as it likes.
    pub timeout: Option<Duration>,
    /// The file in which processes queue for the devices' engines; `None` for engines of the process's
    /// own.
    pub engine: Option<PathBuf>,
    /// The folder for compiled code, if it is kept.
    pub cache: Option<PathBuf>,
    /// Bytes that the folder's files may have together.
    pub cache_size: u64,
    /// `CUDA_VISIBLE_DEVICES`, where it is set.
    pub visible: Option<String>,
}

impl Settings {
    /// Reads the settings through `variable`; `ram` is the machine's memory in bytes.
    ///
    /// # Errors
    /// The variable whose value cannot be used.
    pub fn read(
        variable: impl Fn(&str) -> Option<String>,
        ram: u64,
    ) -> Result<Settings, SettingsError> {
        let memory = match variable("SOFTCUDA_MEMORY") {
            Some(text) => size(&text).ok_or(SettingsError::Memory(text))?,
            None => (ram / 4).clamp(MIN_MEMORY, MAX_MEMORY),
        };
        let context_memory = match variable("SOFTCUDA_CONTEXT_MEMORY") {
            Some(text) => size(&text).ok_or(SettingsError::ContextMemory(text))?,
            None => 0,
        };
        let devices = match variable("SOFTCUDA_DEVICES") {
            Some(text) => text
                .trim()
                .parse()
                .ok()
                .filter(|n| (1..=MAX_DEVICES).contains(n))
                .ok_or(SettingsError::Devices(text))?,
            None => 1,
        };
        let timeout = match variable("SOFTCUDA_TIMEOUT") {
            Some(text) => {
                let seconds = text.trim().parse().ok();
                let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                Some(
                    time.filter(|time| !time.is_zero())
                        .ok_or(SettingsError::Timeout(text))?,
                )
            }
            None => None,
        };
        let engine = match variable("SOFTCUDA_ENGINE") {
            Some(text) if text == "off" => None,
            Some(text) if text.starts_with('/') => Some(text.into()),
            Some(text) => return Err(SettingsError::Engine(text)),
            None => Some(ENGINES.into()),
        };
        let cache_size = match variable("SOFTCUDA_CACHE_SIZE") {
            Some(text) => size(&text).ok_or(SettingsError::CacheSize(text))?,
            None => CACHE_BYTES,
        };
        Ok(Settings {
            engine,
            timeout,
            memory: memory & !0xfff,
            context_memory,
            devices,
            cache: cache_folder(&variable),
            cache_size,
            visible: variable("CUDA_VISIBLE_DEVICES"),
        })
    }

    /// The physical ordinals that programs see, in their order.
    pub fn visible_devices(&self, uuids: &[Uuid]) -> Vec<usize> {
        match &self.visible {
            None => (0..uuids.len()).collect(),
            Some(list) => visible_devices(list, uuids),
        }
    }
}

/// The folder for compiled code: none where the environment says so, or names no place for it.
fn cache_folder(variable: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(folder) = variable("SOFTCUDA_CACHE") {
        return (!matches!(folder.as_str(), "" | "0")).then(|| PathBuf::from(folder));
    }
    // A relative path there is to be ignored, says the XDG specification.
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    caches.map(|caches| caches.join("softcuda"))
}

/// A size in bytes, with an optional binary suffix; `None` if it is none, or none for a device.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, shift) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'm' | 'M') => (&text[..at], 20),
        (at, 'g' | 'G') => (&text[..at], 30),
        (at, 't' | 'T') => (&text[..at], 40),
        _ => (text, 0),
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (MIN_MEMORY..=MAX_MEMORY).contains(&bytes).then_some(bytes)
}

/// The devices that a `CUDA_VISIBLE_DEVICES` list names, by ordinal or by the beginning of a UUID. As
/// CUDA's programming guide has it, the list ends at the first entry that names no device; so it does
/// at one named before or not unique.
fn visible_devices(list: &str, uuids: &[Uuid]) -> Vec<usize> {
    let mut visible = Vec::new();
    for entry in list.split(',').map(str::trim) {
        let device = match entry.strip_prefix("GPU-") {
            Some(prefix) => {
                let prefix = prefix.to_ascii_lowercase();
                let mut found = uuids
                    .iter()
                    .enumerate()
                    .filter(|(_, uuid)| uuid_text(uuid).starts_with(&prefix))
                    .map(|(ordinal, _)| ordinal);
                found.next().filter(|_| found.next().is_none())
            }
            None => entry.parse().ok().filter(|n| *n < uuids.len()),
        };
        match device {
            Some(device) if !visible.contains(&device) => visible.push(device),
            _ => break,
        }
    }
    visible
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(memory: Option<&str>, devices: Option<&str>) -> Result<Settings, SettingsError> {
        Settings::read(
            |name| match name {
                "SOFTCUDA_MEMORY" => memory.map(str::to_owned),
                "SOFTCUDA_DEVICES" => devices.map(str::to_owned),
                _ => None,
            },
            8 << 30,
        )
    }

    #[test]
    fn defaults_are_one_device_with_a_quarter_of_ram() {
        let settings = read(None, None).unwrap();
        assert_eq!((settings.memory, settings.devices), (2 << 30, 1));
    }

    #[test]
    fn sizes_have_binary_suffixes_and_limits() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("3g", 3 << 30),
            ("1048576", 1 << 20),
            (" 2048K ", 2 << 20),
            ("4T", 4 << 40),
        ] {
            assert_eq!(read(Some(text), None).unwrap().memory, bytes, "{text}");
        }
        for text in [
            "",
            "G",
            "-1G",
            "1.5G",
            "10",
            "5T",
            "99999999999T",
            "1Gé",
            "é",
        ] {
            assert_eq!(
                read(Some(text), None),
                Err(SettingsError::Memory(text.to_owned()))
            );
        }
    }

    #[test]
    fn contexts_take_what_is_said() {
        let read = |text: Option<&'static str>| {
            let variable = |name: &str| text.filter(|_| name == "SOFTCUDA_CONTEXT_MEMORY");
            Settings::read(|name| variable(name).map(str::to_owned), 8 << 30)
        };
        assert_eq!(read(None).unwrap().context_memory, 0);
        assert_eq!(read(Some("300M")).unwrap().context_memory, 300 << 20);
        assert_eq!(
            read(Some("much")),
            Err(SettingsError::ContextMemory("much".to_owned()))
        );
    }

    #[test]
    fn timeouts_are_seconds() {
        let read = |text: &str| {
            let variable = |name: &str| (name == "SOFTCUDA_TIMEOUT").then(|| text.to_owned());
            Settings::read(variable, 8 << 30)
        };
        let timeout = |text| read(text).unwrap().timeout;
        assert_eq!(timeout("10"), Some(Duration::from_secs(10)));
        assert_eq!(timeout(" 0.25 "), Some(Duration::from_millis(250)));
        for text in ["", "0", "-1", "nan", "inf", "1e300", "1s"] {
            assert_eq!(read(text), Err(SettingsError::Timeout(text.to_owned())));
        }
    }

    #[test]
    fn the_engines_file_is_named_or_off() {
        let read = |text: Option<&'static str>| {
            let variable = |name: &str| text.filter(|_| name == "SOFTCUDA_ENGINE");
            Settings::read(|name| variable(name).map(str::to_owned), 8 << 30)
        };
        assert_eq!(read(None).unwrap().engine, Some(ENGINES.into()));
        assert_eq!(read(Some("off")).unwrap().engine, None);
        assert_eq!(read(Some("/run/x")).unwrap().engine, Some("/run/x".into()));
        for text in ["", "on", "x/y", "Off"] {
            assert_eq!(
                read(Some(text)),
                Err(SettingsError::Engine(text.to_owned()))
            );
        }
    }

    #[test]
    fn compiled_code_has_its_place() {
        let folder = |set: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = set.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            Settings::read(variable, 8 << 30).unwrap().cache
        };
        let home = ("HOME", "/home/a");
        let at = |path: &str| Some(PathBuf::from(path));
        assert_eq!(folder(&[]), None);
        assert_eq!(folder(&[home]), at("/home/a/.cache/softcuda"));
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "/c")]), at("/c/softcuda"));
        assert_eq!(
            folder(&[home, ("XDG_CACHE_HOME", "c")]),
            at("/home/a/.cache/softcuda")
        );
        assert_eq!(folder(&[home, ("SOFTCUDA_CACHE", "/d")]), at("/d"));
        assert_eq!(folder(&[home, ("SOFTCUDA_CACHE", "")]), None);
        assert_eq!(folder(&[home, ("SOFTCUDA_CACHE", "0")]), None);
        let wrong = |name: &str| (name == "SOFTCUDA_CACHE_SIZE").then(|| "10".to_owned());
        assert_eq!(
            Settings::read(wrong, 8 << 30),
            Err(SettingsError::CacheSize("10".to_owned()))
        );
    }

    #[test]
    fn device_counts_have_limits() {
        assert_eq!(read(None, Some("4")).unwrap().devices, 4);
        for text in ["0", "17", "two", ""] {
            assert_eq!(
                read(None, Some(text)),
                Err(SettingsError::Devices(text.to_owned()))
            );
        }
    }

    #[test]
    fn visible_devices_end_at_the_first_that_is_none() {
        let uuids = [[0x11; 16], [0x12; 16], [0x22; 16]];
        for (list, expected) in [
            ("", vec![]),
            ("-1", vec![]),
            ("2,0", vec![2, 0]),
            ("1, 7, 0", vec![1]),
            ("1,1", vec![1]),
            ("GPU-22", vec![2]),
            ("GPU-1", vec![]),
            ("GPU-11111111-1111-1111-1111-111111111111,2", vec![0, 2]),
            ("NoDevFiles", vec![]),
        ] {
            assert_eq!(visible_devices(list, &uuids), expected, "{list:?}");
        }
    }
}
