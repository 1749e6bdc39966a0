//! What the results have to be, computed from the instruction set's words alone. Nothing here may share
//! code with softcuda: floats are rounded by `rustc_apfloat` or from exact integers.

pub mod exact;
pub mod float;
