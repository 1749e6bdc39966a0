//! What happened on devices, as lines of JSON: recorded by vgpu-backd, replayed by the simulator. One line an
//! event, in the order in which they became known. Names are stable: files of today must be readable later.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use crate::sim::{Arrivals, Distribution, Workload};
use crate::{CpuState, Engine, Nanos, Share};

/// An event. Times are nanoseconds of the backend domain's monotonic clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Entry {
    /// Work ended on a device.
    Work(Work),
    /// A domain came to a device, was there when the recording began, or its share was changed.
    Share {
        /// When.
        at_ns: Nanos,
        /// Which device.
        gpu: u32,
        /// Which domain.
        domid: u32,
        /// Its name.
        domain: String,
        /// What it is entitled to from now on.
        share: Share,
    },
    /// What the hypervisor said of a domain's processors.
    Cpu {
        /// When.
        at_ns: Nanos,
        /// Which domain.
        domid: u32,
        /// What it said.
        state: CpuState,
    },
    /// A domain went from a device.
    Gone {
        /// When.
        at_ns: Nanos,
        /// Which device.
        gpu: u32,
        /// Which domain.
        domid: u32,
    },
}

/// A batch of work that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Which device.
    pub gpu: u32,
    /// Whose.
    pub domid: u32,
    /// Its name.
    pub domain: String,
    /// Which engine of the device.
    pub engine: Engine,
    /// When it was asked for.
    pub arrived_ns: Nanos,
    /// When it was on the device.
    pub start_ns: Nanos,
    /// When it had ended.
    pub end_ns: Nanos,
    /// How much of that time it kept the engine busy.
    pub busy_ns: Nanos,
    /// Kernels or copies.
    pub pieces: u32,
    /// Bytes copied.
    pub bytes: u64,
}

/// Why a trace cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("the trace cannot be read or written: {0}")]
    File(#[from] std::io::Error),
    /// A line in it.
    #[error(
        "line {line} of the trace is no event: {source}; traces are what `xl-vgpu record` writes"
    )]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Writes an event as one line.
///
/// # Errors
/// When the writer fails.
pub fn write(to: &mut impl Write, entry: &Entry) -> Result<(), Error> {
    let line = serde_json::to_string(entry).map_err(std::io::Error::from)?;
    Ok(writeln!(to, "{line}")?)
}

/// Reads all events; empty lines are skipped.
///
/// # Errors
/// When the reader fails or a line is no event.
pub fn read(from: impl BufRead) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for (index, line) in from.lines().enumerate() {
        let text = line?;
        if !text.trim().is_empty() {
            let entry = serde_json::from_str(&text).map_err(|source| Error::Line {
                line: index + 1,
                source,
            })?;
            entries.push(entry);
        }
    }
    Ok(entries)
}

/// A recorded stream of work, to be simulated.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The domain's name.
    pub domain: String,
    /// Its number when it was recorded.
    pub domid: u32,
    /// What it did. Times count from the trace's first event.
    pub workload: Workload,
}

/// The streams of work in a trace: one for each stay of a domain on a device, for each engine it used there, in
/// the order of their beginnings. A piece is asked for when it was; what a program would have done had it been
/// answered sooner, a trace cannot tell. The pieces of a batch are equally long.
pub fn workloads(entries: &[Entry]) -> Vec<Recorded> {
    let origin = entries.iter().map(Entry::first_moment).min().unwrap_or(0);
    let mut stays: BTreeMap<(u32, u32), Stay> = BTreeMap::new();
    let mut cpu: BTreeMap<u32, Vec<(Nanos, CpuState)>> = BTreeMap::new();
    let mut streams = Vec::new();
    for entry in entries {
        match entry {
            Entry::Share {
                at_ns,
                gpu,
                domid,
                domain,
                share,
            } => {
                let stay = stays.entry((*gpu, *domid)).or_default();
                stay.domain.clone_from(domain);
                stay.shares.push((at_ns - origin, *share));
            }
            Entry::Cpu {
                at_ns,
                domid,
                state,
            } => cpu
                .entry(*domid)
                .or_default()
                .push((at_ns - origin, *state)),
            Entry::Gone { at_ns, gpu, domid } => {
                if let Some(stay) = stays.remove(&(*gpu, *domid)) {
                    stay.finish(*gpu, *domid, at_ns - origin, &cpu, &mut streams);
                }
            }
            Entry::Work(work) => {
                let stay = stays.entry((work.gpu, work.domid)).or_default();
                stay.domain.clone_from(&work.domain);
                let pieces = stay.work.entry(work.engine).or_default();
                let takes = work.busy_ns / Nanos::from(work.pieces.max(1));
                for _ in 0..work.pieces {
                    pieces.push((work.arrived_ns - origin, takes));
                }
            }
        }
    }
    for ((gpu, domid), stay) in stays {
        stay.finish(gpu, domid, Nanos::MAX, &cpu, &mut streams);
    }
    streams.sort_by_key(|stream| (stream.workload.from, stream.domid, stream.workload.device));
    streams
}

impl Entry {
    fn first_moment(&self) -> Nanos {
        match self {
            Self::Work(work) => work.arrived_ns.min(work.start_ns),
            Self::Share { at_ns, .. } | Self::Cpu { at_ns, .. } | Self::Gone { at_ns, .. } => {
                *at_ns
            }
        }
    }
}

/// A domain's stay on a device.
#[derive(Default)]
struct Stay {
    domain: String,
    shares: Vec<(Nanos, Share)>,
    work: BTreeMap<Engine, Vec<(Nanos, Nanos)>>,
}

impl Stay {
    fn finish(
        self,
        gpu: u32,
        domid: u32,
        until: Nanos,
        cpu: &BTreeMap<u32, Vec<(Nanos, CpuState)>>,
        streams: &mut Vec<Recorded>,
    ) {
        let came = self.shares.first();
        for (engine, mut pieces) in self.work {
            pieces.sort_unstable();
            let asked = pieces.first().map_or(0, |&(when, _)| when);
            let from = came.map_or(asked, |&(when, _)| when.min(asked));
            for (when, _) in &mut pieces {
                *when -= from;
            }
            let workload = Workload {
                share: came.map(|&(_, share)| share).unwrap_or_default(),
                piece: Distribution::Constant(0),
                arrivals: Arrivals::Trace(pieces),
                from,
                until,
                device: gpu,
                engine,
                shares: self.shares.iter().skip(1).copied().collect(),
                cpu: cpu.get(&domid).cloned().unwrap_or_default(),
            };
            streams.push(Recorded {
                domain: self.domain.clone(),
                domid,
                workload,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Experiment, run};
    use crate::{MILLISECOND, PolicyKind, SECOND};

    fn work(domid: u32, engine: Engine, arrived: Nanos, pieces: u32) -> Entry {
        Entry::Work(Work {
            gpu: 1,
            domid,
            domain: format!("guest{domid}"),
            engine,
            arrived_ns: arrived,
            start_ns: arrived + 5,
            end_ns: arrived + 5 + MILLISECOND * Nanos::from(pieces),
            busy_ns: MILLISECOND * Nanos::from(pieces),
            pieces,
            bytes: 0,
        })
    }

    fn share(domid: u32, at_ns: Nanos, weight: u32) -> Entry {
        Entry::Share {
            at_ns,
            gpu: 1,
            domid,
            domain: format!("guest{domid}"),
            share: Share {
                weight,
                ..Share::default()
            },
        }
    }

    fn sample() -> Vec<Entry> {
        vec![
            share(7, 1000, 512),
            work(7, Engine::Compute, 3000, 4),
            work(8, Engine::Compute, 2000, 2),
            work(7, Engine::Copy, 2500, 1),
            Entry::Cpu {
                at_ns: 4000,
                domid: 7,
                state: CpuState {
                    weight: 300,
                    ..CpuState::default()
                },
            },
            share(7, 5000, 128),
            Entry::Gone {
                at_ns: SECOND,
                gpu: 1,
                domid: 7,
            },
            work(7, Engine::Compute, 2 * SECOND, 1),
        ]
    }

    #[test]
    fn lines_go_both_ways_and_a_bad_one_is_named() {
        let mut file = Vec::new();
        for entry in sample() {
            write(&mut file, &entry).unwrap();
        }
        file.extend_from_slice(b"\n");
        assert_eq!(read(file.as_slice()).unwrap(), sample());
        file.extend_from_slice(b"{\"event\":\"work\"}\n");
        let error = read(file.as_slice()).unwrap_err().to_string();
        assert!(error.contains("line 10"), "{error}");
    }

    #[test]
    fn a_trace_becomes_its_streams_and_they_replay() {
        let streams = workloads(&sample());
        let seen: Vec<_> = streams
            .iter()
            .map(|stream| {
                let workload = &stream.workload;
                (stream.domid, workload.engine, workload.from, workload.until)
            })
            .collect();
        assert_eq!(
            seen,
            [
                (7, Engine::Compute, 0, SECOND - 1000),
                (7, Engine::Copy, 0, SECOND - 1000),
                (8, Engine::Compute, 1000, Nanos::MAX),
                // The same number came again, without a line that says so.
                (7, Engine::Compute, 2 * SECOND - 1000, Nanos::MAX),
            ]
        );
        let first = &streams[0].workload;
        assert_eq!((first.share.weight, first.shares[0].0), (512, 4000));
        assert_eq!(first.cpu[0].0, 3000);

        let domains = streams.into_iter().map(|stream| stream.workload).collect();
        let results = run(&Experiment::new(PolicyKind::Fair, domains, 3 * SECOND));
        let kernels: Vec<_> = results
            .domains
            .iter()
            .map(|had| had.account.kernels)
            .collect();
        assert_eq!(kernels, [4, 0, 2, 1].map(|count| count * MILLISECOND));
        assert_eq!(results.domains[1].account.copies, MILLISECOND);
    }
}
