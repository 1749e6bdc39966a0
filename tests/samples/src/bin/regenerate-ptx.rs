//! Compiles every kernel anew and writes its PTX beside the source.

use anyhow::{Context, Result};
use cuda_samples::ptx;

fn main() -> Result<()> {
    for source in ptx::sources()? {
        let target = source.with_extension("ptx");
        std::fs::write(&target, ptx::compile(&source)?)
            .with_context(|| format!("{} cannot be written", target.display()))?;
        println!("{}", target.display());
    }
    Ok(())
}
