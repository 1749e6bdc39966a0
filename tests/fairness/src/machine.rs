//! The machine that the numbers come from, as far as it matters to whoever reads them.

use std::fs;

use serde::Serialize;

/// A machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in GB.
    pub memory_gb: f64,
    /// The kernel's version.
    pub kernel: String,
    /// What else ran: the load average of the last minute before the first and after the last run.
    pub load: (f64, f64),
    /// Seconds since 1970 at the end.
    pub when: u64,
}

impl Machine {
    /// This one, now.
    pub fn look() -> Self {
        let of = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let line = |text: &str, key: &str| {
            let mut lines = text.lines();
            let line = lines.find(|line| line.starts_with(key));
            let value = line.and_then(|line| line.split_once(':'));
            value.map(|(_, value)| value.trim().to_owned())
        };
        let memory = line(&of("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kilobytes: f64 = memory
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0.0);
        let load = load();
        Self {
            processor: line(&of("/proc/cpuinfo"), "model name")
                .unwrap_or_else(|| "an unknown processor".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gb: kilobytes * 1024.0 / 1e9,
            kernel: of("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: (load, load),
            when: 0,
        }
    }

    /// The same after the work.
    pub fn and_now(mut self) -> Self {
        self.load.1 = load();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.when = now.map_or(0, |now| now.as_secs());
        self
    }
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0.0)
}
