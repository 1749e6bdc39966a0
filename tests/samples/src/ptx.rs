//! Compiles the kernels to the PTX that is committed beside them: the only place that knows the
//! compiler and its flags. Nothing here may depend on a CUDA toolkit, installed or not.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The compiler. Another major version would give other PTX, hence the number in the name.
const COMPILER: &str = "clang++-14";

/// What a source is compiled for unless a line in it says otherwise, as `// Target: sm_80 ptx70` does.
const TARGET: (&str, &str) = ("sm_75", "ptx63");

/// CUDA C++ with our own header in place of NVIDIA's and no contraction of
/// multiplications and additions, so that every operation is correctly rounded.
const FLAGS: &[&str] = &[
    "-x",
    "cuda",
    "-std=c++17",
    "-O2",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    // Whatever toolkit is installed must not be found.
    "-nocudainc",
    "-nocudalib",
    "--cuda-path=/nonexistent",
    "-Xclang",
    "-target-sdk-version=11.5",
    "--cuda-device-only",
    "-S",
];

/// Where kernels are: the samples' and the benchmark's, which uses the samples' header too.
fn folders() -> [PathBuf; 2] {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    [here.join("kernels"), here.join("../softbench/kernels")]
}

/// The kernels' sources, in alphabetical order by folder.
///
/// # Errors
///
/// If a directory of kernels cannot be read: it lies in the source tree this was built from.
pub fn sources() -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for folder in folders() {
        let entries = std::fs::read_dir(&folder)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.path()))
                    .collect::<io::Result<Vec<_>>>()
            })
            .with_context(|| {
                format!("the kernels' directory {} cannot be read", folder.display())
            })?;
        sources.extend(entries);
    }
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    sources.sort();
    Ok(sources)
}

/// Compiles one source and gives its PTX.
///
/// # Errors
///
/// If the compiler is missing or refuses the source.
pub fn compile(source: &Path) -> Result<String> {
    let [headers, _] = folders();
    let text = std::fs::read_to_string(source)
        .with_context(|| format!("{} cannot be read", source.display()))?;
    let (architecture, version) = text
        .lines()
        .find_map(|line| line.strip_prefix("// Target: ")?.split_once(' '))
        .unwrap_or(TARGET);
    let output = match Command::new(COMPILER)
        .args(FLAGS)
        .arg(format!("--cuda-gpu-arch={architecture}"))
        .args(["-Xclang", "-target-feature", "-Xclang"])
        .arg(format!("+{version}"))
        .arg("-I")
        .arg(headers)
        .arg(source)
        .args(["-o", "-"])
        .stdin(Stdio::null())
        .output()
    {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("{COMPILER}, which compiles the kernels, is not installed: run cargo xtask setup")
        }
        Err(error) => return Err(error).with_context(|| format!("{COMPILER} cannot be started")),
    };
    if !output.status.success() {
        bail!(
            "{COMPILER} refuses {}:\n{}",
            source.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let text = String::from_utf8(output.stdout).with_context(|| {
        format!(
            "{COMPILER} wrote PTX for {} that is not text",
            source.display()
        )
    })?;
    Ok(text)
}

/// Whether two PTX texts are the same but for lines that are comments.
pub fn same(one: &str, other: &str) -> bool {
    let code = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(str::to_owned)
            .collect()
    };
    code(one) == code(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_comment_lines_do_not_count() {
        assert!(same("// build 1\nret;\n", "// build 2\nret;\n"));
        assert!(same("\t// build 1\nret;\n", "ret;\n"));
        assert!(!same("ret;\n", "exit;\n"));
        assert!(!same("ret; // a\n", "ret; // b\n"));
        assert!(!same("ret;\n", "ret;\nret;\n"));
    }
}
