//! list: the devices as XenStore shows them, with what backd tells about the guest processes on them.

use crate::device::{self, Ends};
use crate::failure::Failure;
use crate::{Context, backd, note, print, printable};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use vgpu_protocol::admin::{ChannelInfo, Listing};
use xen::{DomId, PAGE_SIZE};

/// A device, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Row {
    /// The domain's name; empty where it has none.
    name: String,
    /// The domain.
    domid: DomId,
    /// The device's number among the domain's.
    devid: u32,
    /// The backend's domain.
    backend: DomId,
    /// A state's name, or `absent`.
    backend_state: String,
    /// A state's name, or `absent`.
    frontend_state: String,
    /// The GPUs that it is on; none where backd does not tell.
    gpus: Vec<u32>,
    /// Why its domain is not let in; empty if it is, or where backd does not tell.
    refused: String,
    /// The guest processes on it; none where backd does not tell.
    channels: Vec<ChannelInfo>,
}

/// See the module.
pub fn run(context: &Context, json: bool) -> Result<(), Failure> {
    let listing = backd::listing(&context.socket).unwrap_or_else(|error| {
        note(format_args!(
            "no vgpu-backd answers at {} ({error}): what runs on the devices is not shown",
            context.socket.display()
        ));
        Listing::default()
    });
    let rows = rows(context, listing)?;
    if json {
        // Nothing in a row can fail to be written but the output itself.
        let text =
            serde_json::to_string_pretty(&rows).map_err(|error| Failure::Output(error.into()))?;
        return print(text);
    }
    if rows.is_empty() {
        return print("no vgpu devices");
    }
    print(table(&rows))?;
    for row in rows.iter().filter(|row| !row.refused.is_empty()) {
        note(format_args!(
            "{} is refused for now: {}",
            printable(&row.name),
            printable_long(&row.refused)
        ));
    }
    Ok(())
}

/// A text of backd's, which names all GPUs.
fn printable_long(text: &str) -> String {
    vgpu_protocol::control::printable(text.as_bytes(), 4000)
}

fn rows(context: &Context, mut listing: Listing) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for device in device::list(context)? {
        let ends = Ends::read(&context.store, device)?;
        let name = device::domain_name(context, device)?;
        if !device::exists(&context.store, device)? {
            continue;
        }
        // The backd that answered is that of this domain.
        let mut told = listing.devices.iter_mut().find(|told| {
            device.backend == context.here
                && (told.domid, told.devid) == (device.frontend.0, device.devid)
        });
        rows.push(Row {
            name,
            domid: device.frontend,
            devid: device.devid,
            backend: device.backend,
            backend_state: device::name(ends.backend),
            frontend_state: device::name(ends.frontend),
            gpus: told
                .as_ref()
                .map_or_else(Vec::new, |told| told.gpus.clone()),
            refused: told
                .as_ref()
                .map_or_else(String::new, |told| told.refused.clone()),
            channels: told
                .as_mut()
                .map(|told| std::mem::take(&mut told.channels))
                .unwrap_or_default(),
        });
    }
    Ok(rows)
}

/// For people: one row a device, in it one line a guest process.
fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "DOMAIN", "DOMID", "DEVID", "BACKEND", "FRONTEND", "GPUS", "PROGRAM", "PID", "UID",
        "WORKER", "KIB",
    ]);
    for row in rows {
        let lines = |of: &dyn Fn(&ChannelInfo) -> String| {
            let lines: Vec<String> = row.channels.iter().map(of).collect();
            lines.join("\n")
        };
        let kib = |channel: &ChannelInfo| {
            let bytes = u64::from(channel.pages).saturating_mul(PAGE_SIZE as u64);
            (bytes / 1024).to_string()
        };
        table.add_row([
            printable(&row.name),
            row.domid.to_string(),
            row.devid.to_string(),
            row.backend_state.clone(),
            row.frontend_state.clone(),
            gpus(&row.gpus),
            lines(&|channel| printable(&channel.program)),
            lines(&|channel| channel.pid.to_string()),
            lines(&|channel| channel.uid.to_string()),
            lines(&|channel| channel.worker.to_string()),
            lines(&kib),
        ]);
    }
    for column in [1, 2, 7, 8, 9, 10] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// GPUs by their numbers.
fn gpus(gpus: &[u32]) -> String {
    let gpus: Vec<String> = gpus.iter().map(u32::to_string).collect();
    match gpus.as_slice() {
        [] => "-".to_owned(),
        gpus => gpus.join(","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(channels: Vec<ChannelInfo>) -> Row {
        Row {
            name: "db\x1b[2J".into(),
            domid: DomId(5),
            devid: 0,
            backend: DomId(0),
            backend_state: "Connected".into(),
            frontend_state: "absent".into(),
            gpus: vec![0, 1],
            refused: String::new(),
            channels,
        }
    }

    fn channel(program: &str) -> ChannelInfo {
        ChannelInfo {
            channel: 1,
            phase: "serving".into(),
            pid: 77,
            uid: 1000,
            program: program.into(),
            worker: 4242,
            pages: 1024,
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_process() {
        let shown = table(&[
            row(vec![channel("matrix\x07"), channel("vector")]),
            row(vec![]),
        ]);
        assert!(!shown.contains(['\x1b', '\x07']), "{shown:?}");
        let words: Vec<Vec<&str>> = shown
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(words.len(), 4, "{shown}");
        assert_eq!(
            words[1],
            [
                "db\u{fffd}[2J",
                "5",
                "0",
                "Connected",
                "absent",
                "0,1",
                "matrix\u{fffd}",
                "77",
                "1000",
                "4242",
                "4096"
            ]
        );
        assert_eq!(words[2], ["vector", "77", "1000", "4242", "4096"]);
        assert_eq!(
            words[3],
            ["db\u{fffd}[2J", "5", "0", "Connected", "absent", "0,1"]
        );
    }

    #[test]
    fn json_says_what_scripts_read() {
        let value = serde_json::to_value([row(vec![channel("matrix")])]).unwrap();
        let expected = serde_json::json!([{
            "name": "db\u{1b}[2J", "domid": 5, "devid": 0, "backend": 0,
            "backend_state": "Connected", "frontend_state": "absent", "gpus": [0, 1], "refused": "",
            "channels": [{
                "channel": 1, "phase": "serving", "pid": 77, "uid": 1000,
                "program": "matrix", "worker": 4242, "pages": 1024,
            }],
        }]);
        assert_eq!(value, expected);
    }
}
