//! check: whether domains' files are good, and whether their domains would be let in now. It needs no Xen: what
//! is there it asks backd, if one runs.

use crate::failure::Failure;
use crate::{backd, print};
use serde::Serialize;
use std::path::{Path, PathBuf};
use vgpu_protocol::admin::Checked;
use vgpu_protocol::control::printable;
use vgpu_sched::description::Description;

/// What is found of one file, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Verdict {
    /// The file.
    file: PathBuf,
    /// What is wrong with it; empty if it is good.
    error: String,
    /// What it says, if it is good; sizes in bytes, times in nanoseconds.
    description: Option<Description>,
    /// Whether its domain would be let in now, if a backd answers.
    admission: Option<Checked>,
    /// Why nothing is known of that, where it is so.
    unknown: Option<String>,
}

/// See the module.
pub fn run(socket: &Path, files: &[PathBuf], json: bool) -> Result<(), Failure> {
    let verdicts: Vec<Verdict> = files.iter().map(|file| judge(socket, file)).collect();
    if json {
        // Nothing in a verdict can fail to be written but the output itself.
        let text = serde_json::to_string_pretty(&verdicts)
            .map_err(|error| Failure::Output(error.into()))?;
        print(text)?;
    } else {
        for verdict in &verdicts {
            print(verdict.text())?;
        }
    }
    let count = |is: fn(&Verdict) -> bool| verdicts.iter().filter(|verdict| is(verdict)).count();
    let wrong = count(|verdict| verdict.description.is_none());
    let refused = count(Verdict::refused);
    match (wrong, refused) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::NoRoom { refused }),
        _ => Err(Failure::WrongFiles { wrong }),
    }
}

fn judge(socket: &Path, file: &Path) -> Verdict {
    let mut verdict = Verdict {
        file: file.to_owned(),
        error: String::new(),
        description: None,
        admission: None,
        unknown: None,
    };
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            verdict.error = format!("cannot be read: {error}");
            return verdict;
        }
    };
    match Description::parse(&text) {
        Err(error) => verdict.error = error.to_string(),
        Ok(description) => {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            match backd::check(socket, &name, &text) {
                Ok(checked) => verdict.admission = Some(checked),
                Err(error) => verdict.unknown = Some(error.to_string()),
            }
            verdict.description = Some(description);
        }
    }
    verdict
}

impl Verdict {
    fn refused(&self) -> bool {
        let admission = self.admission.as_ref();
        admission.is_some_and(|checked| !checked.missing.is_empty())
    }

    /// For people.
    fn text(&self) -> String {
        let file = self.file.display();
        let Some(description) = &self.description else {
            return format!("{file}: wrong: {}", self.error);
        };
        let off = if description.enabled {
            ""
        } else {
            " (enabled = false: the domain gets no device by itself)"
        };
        match (&self.admission, &self.unknown) {
            (Some(checked), _) if !checked.missing.is_empty() => {
                format!(
                    "{file}: good{off}; its domain would be refused now: {}",
                    printable(checked.missing.as_bytes(), 4000)
                )
            }
            (Some(checked), _) => {
                let gpus: Vec<String> = checked.would_be_on.iter().map(u32::to_string).collect();
                let on = match gpus.as_slice() {
                    [] => String::new(),
                    [gpu] => format!(", on GPU {gpu}"),
                    gpus => format!(", on GPUs {}", gpus.join(", ")),
                };
                format!("{file}: good{off}; its domain would be let in now{on}")
            }
            (None, unknown) => {
                let why = unknown.as_deref().unwrap_or_default();
                format!(
                    "{file}: good{off}; whether its domain would be let in is not known, as no vgpu-backd tells: {why}"
                )
            }
        }
    }
}
