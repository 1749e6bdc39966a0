//! The fairness experiments: domains that share an accelerator, for real and in the simulator.
//!
//! An experiment is a list of domains and what must come of it; it runs under every policy, in the simulator and as
//! real programs through the split driver, and ends in tables, plots and one HTML report. Must measure by
//! clocks that the scheduler has no part in: kernels write down themselves when they ran.

pub mod analysis;
pub mod campaign;
mod domain;
pub mod experiment;
pub mod experiments;
mod machine;
mod plot;
mod real;
pub mod report;
mod run;
pub mod simulate;

pub use domain::{Domain, time};
pub use machine::Machine;
pub use real::{Real, Setup};
pub use run::{Counted, Had, Piece, Place, Run};
