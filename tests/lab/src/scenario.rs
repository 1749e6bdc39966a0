//! The scenarios, and the guests they are run with.
//! A scenario is a folder below `scenarios/` with the script that dom0 runs and the one that each guest runs; both
//! may use the functions of `image/check.sh`. Adding one is a folder and a line here.

use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

/// One test on real Xen.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its folder's name.
    pub name: &'static str,
    /// What it shows, in a line.
    pub about: &'static str,
    pub(crate) dom0: &'static str,
    pub(crate) guest: &'static str,
}

macro_rules! scenarios {
    ($($name:literal: $about:literal,)*) => {
        /// Every scenario there is, in the order in which they are run.
        pub const SCENARIOS: &[Scenario] = &[$(Scenario {
            name: $name,
            about: $about,
            dom0: include_str!(concat!("../scenarios/", $name, "/dom0.sh")),
            guest: include_str!(concat!("../scenarios/", $name, "/guest.sh")),
        }),*];
    };
}

scenarios! {
    "lifecycle": "guests start at once, restart under a new domid, and end when asked to",
    "split-driver": "CUDA programs in guests through the split driver to softcuda in dom0",
    "xen-credit": "shares of the GPU follow the weights of Xen's own scheduler, and boosts are undone",
    "conformance": "the xen crate's conformance suite on real grants, event channels and XenStore",
}

/// The kinds of guest that Xen runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GuestType {
    /// Paravirtualised.
    Pv,
    /// In a hardware virtual machine, but without emulated devices.
    Pvh,
    /// A whole PC, with a device model in dom0.
    Hvm,
}

impl GuestType {
    /// As `type=` in an xl.cfg has it.
    pub fn name(self) -> &'static str {
        match self {
            GuestType::Pv => "pv",
            GuestType::Pvh => "pvh",
            GuestType::Hvm => "hvm",
        }
    }
}

impl FromStr for GuestType {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<GuestType> {
        match text {
            "pv" => Ok(GuestType::Pv),
            "pvh" => Ok(GuestType::Pvh),
            "hvm" => Ok(GuestType::Hvm),
            other => bail!("'{other}' is no type of guest; it is pv, pvh or hvm"),
        }
    }
}

/// A guest that a scenario starts.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name in xl: letters, digits and dashes.
    pub name: String,
    /// What kind it is.
    pub kind: GuestType,
}

impl Guest {
    /// One guest of each kind, named after it; of several of a kind, the second is `pv2` and so on.
    pub fn of(kinds: &[GuestType]) -> Vec<Guest> {
        let name = |at: usize, kind: GuestType| match kinds[..at]
            .iter()
            .filter(|earlier| **earlier == kind)
            .count()
        {
            0 => kind.name().to_owned(),
            earlier => format!("{}{}", kind.name(), earlier + 1),
        };
        kinds
            .iter()
            .enumerate()
            .map(|(at, &kind)| Guest {
                name: name(at, kind),
                kind,
            })
            .collect()
    }
}

/// Where busybox's applets are to be linked, by its own list.
pub(crate) fn applets(busybox: &Path) -> Result<Vec<String>> {
    let list = Command::new(busybox)
        .arg("--list-full")
        .output()
        .with_context(|| format!("running {}", busybox.display()))?;
    Ok(String::from_utf8_lossy(&list.stdout)
        .lines()
        // busybox's own init is /sbin/init; /init is the lab's.
        .filter(|applet| !["bin/busybox", "init", "linuxrc"].contains(applet))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_of_one_kind_have_names_of_their_own() {
        let names: Vec<_> = Guest::of(&[GuestType::Pv, GuestType::Pvh, GuestType::Pv])
            .into_iter()
            .map(|guest| guest.name)
            .collect();
        assert_eq!(names, ["pv", "pvh", "pv2"]);
    }

    #[test]
    fn scenarios_are_shell_scripts_the_shell_can_read() {
        for scenario in SCENARIOS {
            for text in [scenario.dom0, scenario.guest] {
                let file = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(file.path(), text).unwrap();
                let status = Command::new("sh")
                    .arg("-n")
                    .arg(file.path())
                    .status()
                    .unwrap();
                assert!(status.success(), "{}", scenario.name);
            }
        }
    }
}
