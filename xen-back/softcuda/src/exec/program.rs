//! A compiled module: its kernels, its variables and its machine code.

use super::{Fault, KernelInfo, Launch, VariableInfo};
use crate::ptx::PtxError;

/// A compiled module; owns its machine code.
#[derive(Debug)]
pub struct Program {
    kernels: Vec<KernelInfo>,
    variables: Vec<VariableInfo>,
}

impl Program {
    /// Compiles a PTX text (any text after a NUL byte is ignored).
    ///
    /// # Errors
    /// What is wrong with the text, or what in it softcuda lacks.
    pub fn compile(ptx: &str) -> Result<Self, PtxError> {
        let _ = ptx;
        Err(PtxError::unsupported(1, "the compiler is being written"))
    }

    /// The module's kernels, in the text's order.
    pub fn kernels(&self) -> &[KernelInfo] {
        &self.kernels
    }

    /// The module's `.global` and `.const` variables.
    pub fn variables(&self) -> &[VariableInfo] {
        &self.variables
    }

    /// Tells the program where its variables are: one device address each, in the order of
    /// [`Program::variables`], each valid and aligned. Must come before `image` and `launch`.
    ///
    /// # Errors
    /// [`Fault::InvalidLaunch`] if there are too few addresses or they were given before.
    pub fn bind_variables(&self, addresses: &[u64]) -> Result<(), Fault> {
        let _ = addresses;
        Ok(())
    }

    /// The initial bytes of a variable, with the addresses of other variables filled in; what follows
    /// them in the variable is zero.
    pub fn image(&self, variable: usize) -> Vec<u8> {
        let _ = variable;
        Vec::new()
    }

    /// Runs a kernel over a grid to its end, on the calling thread and the pool.
    ///
    /// # Errors
    /// The first fault of any thread; the memory then holds whatever was written until it.
    pub fn launch(&self, launch: &Launch<'_>) -> Result<(), Fault> {
        let _ = launch;
        Ok(())
    }
}
