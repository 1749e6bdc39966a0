//! What people's tools and backd say over its admin socket: one JSON object a line each way.
//!
//! Only backd's own domain reaches the socket. Nothing in here may be relied on by the other end of a
//! device; texts that came from a guest are made printable before they are put in.

use serde::{Deserialize, Serialize};

/// Where backd listens, unless told otherwise.
pub const SOCKET: &str = "/run/xen-vgpu/backd.sock";

/// A question.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// All devices: answered by a [`Listing`].
    List,
    /// What each domain has had of each GPU: answered by [`Stats`].
    Stats,
    /// Puts another policy in force: answered by [`Done`].
    Policy {
        /// The GPU; all of them if none is named.
        #[serde(default)]
        gpu: Option<u32>,
        /// The policy's name.
        policy: String,
    },
    /// Changes what a domain has of its GPUs until it ends: answered by [`Done`], or refused, and nothing
    /// changed.
    Set {
        /// The domain.
        domid: u16,
        /// What changes.
        share: ShareChange,
    },
    /// Whether a domain would be let in with this description: answered by [`Checked`].
    Check {
        /// The domain's name, or its UUID; one that is here already makes room for itself.
        name: String,
        /// What its file says.
        description: String,
    },
    /// What the GPUs do from now on: answered by a line for each batch of work, as
    /// `vgpu_sched::trace::Entry` writes it, and then by [`Recorded`].
    Record {
        /// For how long.
        seconds: u32,
    },
}

/// A change of a domain's share of its GPUs, their memory included. What is not named stays.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareChange {
    /// Its part against the others': 1 to 65,535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The most that it may use, in percent of one GPU; 0: no such bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<u32>,
    /// The wait for the GPU that it can bear, in milliseconds; 0: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u32>,
    /// The part of each GPU that it has whatever others want, in percent; 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guaranteed: Option<u32>,
    /// The most of each GPU's memory that it may have allocated, in bytes; 0: no such bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// To [`Command::List`].
    Listing(Listing),
    /// To [`Command::Stats`].
    Stats(Stats),
    /// To [`Command::Check`].
    Checked(Checked),
    /// To what changes something.
    Done(Done),
    /// The last line to [`Command::Record`].
    Recorded(Recorded),
    /// Why there is none.
    Error {
        /// What was wrong with the question.
        error: String,
    },
}

/// All devices that a backd serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// In the order of their domains.
    pub devices: Vec<DeviceInfo>,
}

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The frontend's domain.
    pub domid: u16,
    /// The domain's name.
    pub domain: String,
    /// The device's number in the domain.
    pub devid: u32,
    /// The backend's state, by name.
    pub state: String,
    /// The GPUs that it is on, in the order in which its programs see them.
    #[serde(default)]
    pub gpus: Vec<u32>,
    /// Why the domain is not let in; empty if it is.
    #[serde(default)]
    pub refused: String,
    /// Its channels, in the order of their numbers.
    pub channels: Vec<ChannelInfo>,
}

/// One channel: one process of the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelInfo {
    /// The channel's number, the frontend's choice.
    pub channel: u32,
    /// What the channel is doing: `starting`, `serving` or `ending`.
    pub phase: String,
    /// The program's process id in the guest.
    pub pid: u32,
    /// The program's user in the guest.
    pub uid: u32,
    /// The program's name.
    pub program: String,
    /// The worker's process id here.
    pub worker: u32,
    /// Pages of the guest that are mapped for the channel.
    pub pages: u32,
}

/// What the domains have had of the GPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// In the order of their numbers.
    pub gpus: Vec<GpuStats>,
    /// What asking the hypervisor has cost, if it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<HypervisorStats>,
}

/// What asking the hypervisor has cost, since backd started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HypervisorStats {
    /// For a domain's weight and cap.
    pub weights: AskStats,
    /// For the states of all virtual processors of a domain.
    pub states: AskStats,
}

/// What asking one thing of one domain has cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AskStats {
    /// How often it was asked.
    pub samples: u64,
    /// How long an answer takes, in nanoseconds: the mean.
    pub mean_ns: u64,
    /// How long the slowest took, in nanoseconds.
    pub longest_ns: u64,
}

/// One GPU, since backd started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuStats {
    /// Its number.
    pub gpu: u32,
    /// Its name, if it is known.
    pub name: String,
    /// The policy in force.
    pub policy: String,
    /// What the policy needs and does not get, in words; empty if nothing.
    pub lacks: String,
    /// Time since backd started, in nanoseconds.
    pub elapsed_ns: u64,
    /// Time in which kernels ran, of all domains.
    pub kernel_ns: u64,
    /// Time in which the copy engines worked, of all domains.
    pub copy_ns: u64,
    /// Bytes of memory, if they are known.
    #[serde(default)]
    pub memory: Option<u64>,
    /// The domain that has the GPU to itself at the moment, so that its work is not held up.
    pub alone: Option<u16>,
    /// In the order of their numbers.
    pub domains: Vec<DomainStats>,
}

/// One domain on one GPU, since it has had a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainStats {
    /// The domain.
    pub domid: u16,
    /// Its name.
    pub domain: String,
    /// Its weight.
    pub weight: u32,
    /// The most that it may use, in percent of one GPU.
    pub cap: Option<u32>,
    /// The wait for the GPU that it can bear, in nanoseconds.
    pub latency_ns: Option<u64>,
    /// Memory that it has allocated, in bytes.
    #[serde(default)]
    pub memory_used: u64,
    /// The most that it may have allocated, in bytes.
    #[serde(default)]
    pub memory_quota: Option<u64>,
    /// Part of the GPU that it is guaranteed, in percent.
    #[serde(default)]
    pub guaranteed: Option<u32>,
    /// Processes that may use the GPU.
    pub channels: u32,
    /// GPU time of its kernels, in nanoseconds.
    pub kernel_ns: u64,
    /// Time of the copy engines, in nanoseconds.
    pub copy_ns: u64,
    /// Its part of the last second, kernels: 0 to 1.
    pub kernel_share: f64,
    /// Its part of the last second, copies: 0 to 1.
    pub copy_share: f64,
    /// Time in which it had kernels waiting and none on the GPU, in nanoseconds.
    pub kernel_waited_ns: u64,
    /// Time in which it had copies waiting and none on the GPU, in nanoseconds.
    pub copy_waited_ns: u64,
    /// Kernels launched.
    pub launches: u64,
    /// Copies made.
    pub copies: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Turns that it was given, kernels.
    pub kernel_turns: u64,
    /// Turns that it was given, copies.
    pub copy_turns: u64,
    /// Pieces of work that wait for a turn now.
    pub waiting: u64,
    /// Time in which it had the GPU to itself and needed no turns, in nanoseconds.
    pub alone_ns: u64,
    /// Turns that its processes did not end in time, or lied about.
    pub overdue: u64,
}

/// Whether a domain would be let in now.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// The GPUs that it would be on; none also where they are not known.
    pub would_be_on: Vec<u32>,
    /// What is missing, in words; empty if it would be let in.
    pub missing: String,
}

/// It was done.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// What to know about it, in words.
    pub done: String,
}

/// The end of a recording.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Lines before this one.
    pub recorded: u64,
    /// Entries that were left out because the tool did not take them fast enough.
    pub dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_one_object() {
        let list: Command = serde_json::from_str(r#"{"command":"list"}"#).unwrap();
        assert_eq!(list, Command::List);
        assert!(serde_json::from_str::<Command>(r#"{"command":"erase"}"#).is_err());
    }

    #[test]
    fn replies_are_told_apart() {
        let replies = [
            Reply::Listing(Listing {
                devices: vec![DeviceInfo::default()],
            }),
            Reply::Stats(Stats {
                gpus: vec![GpuStats {
                    domains: vec![DomainStats::default()],
                    ..GpuStats::default()
                }],
                hypervisor: Some(HypervisorStats::default()),
            }),
            Reply::Checked(Checked::default()),
            Reply::Done(Done::default()),
            Reply::Recorded(Recorded::default()),
            Reply::Error { error: "no".into() },
        ];
        for reply in replies {
            let text = serde_json::to_string(&reply).unwrap();
            assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), reply);
        }
    }

    #[test]
    fn a_change_names_what_changes() {
        let set: Command =
            serde_json::from_str(r#"{"command":"set","domid":3,"share":{"weight":512}}"#).unwrap();
        let share = ShareChange {
            weight: Some(512),
            ..ShareChange::default()
        };
        assert_eq!(set, Command::Set { domid: 3, share });
        let set: Command = serde_json::from_str(
            r#"{"command":"set","domid":3,"share":{"guaranteed":25,"memory":0}}"#,
        )
        .unwrap();
        let share = ShareChange {
            guaranteed: Some(25),
            memory: Some(0),
            ..ShareChange::default()
        };
        assert_eq!(set, Command::Set { domid: 3, share });
        let wrong = r#"{"command":"set","domid":3,"share":{"wieght":512}}"#;
        assert!(serde_json::from_str::<Command>(wrong).is_err());
        let policy: Command =
            serde_json::from_str(r#"{"command":"policy","policy":"fair"}"#).unwrap();
        let expected = Command::Policy {
            gpu: None,
            policy: "fair".into(),
        };
        assert_eq!(policy, expected);
    }
}
