//! What backd tells people's tools over its admin socket: one JSON object a line each way.
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
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// What was asked for.
    Listing(Listing),
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
        let listing = Reply::Listing(Listing {
            devices: vec![DeviceInfo::default()],
        });
        let text = serde_json::to_string(&listing).unwrap();
        assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), listing);
        let error = Reply::Error { error: "no".into() };
        let text = serde_json::to_string(&error).unwrap();
        assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), error);
    }
}
