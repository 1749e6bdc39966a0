//! Where a device sits on the PCI bus of the machine that has it, as its driver's attributes say.
//!
//! In the guest there is no such device: the address is a name that CUDA and NVML agree on. Must never
//! be used to look for anything below /sys or /dev.

use crate::Channel;
use cuda_abi::CuResult;
use cuda_abi::sys::CUdevice_attribute as A;
use std::fmt;
use vgpu_protocol::calls::request;

/// A device's place; its function is always 0.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct PciAddress {
    /// The domain (segment).
    pub domain: u32,
    /// The bus.
    pub bus: u32,
    /// The device on the bus.
    pub device: u32,
}

impl PciAddress {
    /// The place of a device, by its ordinal.
    pub fn of(channel: &Channel, device: i32) -> Result<PciAddress, CuResult> {
        let part = |attribute: A| {
            let attribute = attribute as i32;
            let value = channel
                .once(&request::DeviceAttribute { attribute, device })?
                .value;
            u32::try_from(value).map_err(|_| CuResult::UNKNOWN)
        };
        Ok(PciAddress {
            domain: part(A::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?,
            bus: part(A::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?,
            device: part(A::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?,
        })
    }

    /// Reads `[domain:]bus:device[.function]` in hexadecimal digits; `None` for anything else, and for a
    /// function other than 0.
    pub fn parse(text: &str) -> Option<PciAddress> {
        let number = |digits: &str| {
            // from_str_radix takes a sign too.
            let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            u32::from_str_radix(digits, 16).ok().filter(|_| plain)
        };
        let (place, function) = text.split_once('.').unwrap_or((text, "0"));
        if number(function) != Some(0) {
            return None;
        }
        let mut parts = place.rsplit(':');
        let address = PciAddress {
            device: number(parts.next()?)?,
            bus: number(parts.next()?)?,
            domain: parts.next().map_or(Some(0), number)?,
        };
        parts.next().is_none().then_some(address)
    }
}

impl fmt::Display for PciAddress {
    /// As CUDA writes it: `0000:01:00.0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PciAddress {
            domain,
            bus,
            device,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_all_its_forms() {
        let at = |domain, bus, device| PciAddress {
            domain,
            bus,
            device,
        };
        for (text, address) in [
            ("0000:3b:00.0", at(0, 0x3b, 0)),
            ("00000000:3B:1F.0", at(0, 0x3b, 0x1f)),
            ("10000:01:00.0", at(0x10000, 1, 0)),
            ("3b:2", at(0, 0x3b, 2)),
            ("1:2:3", at(1, 2, 3)),
        ] {
            assert_eq!(PciAddress::parse(text), Some(address), "{text}");
        }
        for text in [
            "",
            ":",
            "1",
            "1:",
            ":1",
            "1:2:3:4",
            "1:2.1",
            "1:2.",
            "+1:2",
            "1:2.x",
            "123456789:1:1",
        ] {
            assert_eq!(PciAddress::parse(text), None, "{text}");
        }
        let address = at(0x10, 0xab, 3);
        assert_eq!(address.to_string(), "0010:ab:03.0");
        assert_eq!(PciAddress::parse(&address.to_string()), Some(address));
    }
}
