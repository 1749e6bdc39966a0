//! What is wrong with a PTX text, and where. An error names the line, so that a log line is enough to
//! find the instruction; it must never hold more of the text than the offending instruction.

use thiserror::Error;

/// Why a PTX text was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PtxErrorKind {
    /// The text breaks PTX's grammar or its typing rules.
    Invalid,
    /// The text may be valid PTX, but uses an instruction, form or directive that softcuda lacks.
    Unsupported,
    /// A size or count in the text is beyond what a device offers.
    Limit,
}

/// A PTX text that cannot be compiled: what is wrong and on which line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("PTX line {line}: {message}")]
pub struct PtxError {
    /// Which of the driver's errors this is.
    pub kind: PtxErrorKind,
    /// Line of the offending token or instruction, counted from 1.
    pub line: u32,
    /// What is wrong with it.
    pub message: String,
}

impl PtxError {
    /// The text is not PTX.
    pub fn invalid(line: u32, message: impl Into<String>) -> Self {
        Self {
            kind: PtxErrorKind::Invalid,
            line,
            message: message.into(),
        }
    }

    /// The text uses what softcuda lacks.
    pub fn unsupported(line: u32, message: impl Into<String>) -> Self {
        Self {
            kind: PtxErrorKind::Unsupported,
            line,
            message: message.into(),
        }
    }

    /// The text asks for more than a device has.
    pub fn limit(line: u32, message: impl Into<String>) -> Self {
        Self {
            kind: PtxErrorKind::Limit,
            line,
            message: message.into(),
        }
    }
}
