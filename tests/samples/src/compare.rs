//! Judges a result element by element against a reference. It must never let through what is not a
//! number, and remembers where the worst element is, for the message.

use std::fmt;

/// What an element of a result should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// The reference's value.
    pub value: f64,
    /// What the difference is divided by to give the error; 0 asks for the value itself.
    pub scale: f64,
}

impl Expected {
    /// The error is the difference divided by `scale`.
    pub fn relative(value: f64, scale: f64) -> Self {
        Self { value, scale }
    }
}

/// The error is the absolute difference.
impl<T: Into<f64>> From<T> for Expected {
    fn from(value: T) -> Self {
        Self {
            value: value.into(),
            scale: 1.0,
        }
    }
}

/// The errors of the elements seen so far.
#[derive(Clone, Debug)]
pub struct Comparison {
    tolerance: f64,
    max_error: f64,
    seen: u64,
    wrong: u64,
    worst: Option<Worst>,
}

#[derive(Clone, Debug)]
struct Worst {
    index: u64,
    got: f64,
    want: f64,
}

impl Comparison {
    /// Elements whose error is above `tolerance` will count as wrong.
    pub fn new(tolerance: f64) -> Self {
        Self {
            tolerance,
            max_error: 0.0,
            seen: 0,
            wrong: 0,
            worst: None,
        }
    }

    /// The next element is `got`.
    pub fn see(&mut self, got: f64, expected: Expected) {
        let Expected { value: want, scale } = expected;
        let difference = (got - want).abs();
        let error = if difference == 0.0 {
            0.0
        } else {
            difference / scale
        };
        // JSON has no infinity.
        let error = if error.is_finite() { error } else { f64::MAX };
        if error > self.max_error {
            self.max_error = error;
            self.worst = Some(Worst {
                index: self.seen,
                got,
                want,
            });
        }
        if error > self.tolerance {
            self.wrong += 1;
        }
        self.seen += 1;
    }

    /// Whether something was compared and all of it was right.
    pub fn ok(&self) -> bool {
        self.seen > 0 && self.wrong == 0
    }

    /// The largest error; `f64::MAX` stands for one that is not finite.
    pub fn max_error(&self) -> f64 {
        self.max_error
    }

    /// The largest error that still counts as right.
    pub fn tolerance(&self) -> f64 {
        self.tolerance
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tolerance,
            max_error,
            seen,
            wrong,
            worst,
        } = self;
        write!(f, "{wrong} of {seen} elements are wrong")?;
        if let Some(Worst { index, got, want }) = worst {
            write!(
                f,
                "; the worst is element {index}: {got} instead of {want}, error {max_error:.3e}, \
                 tolerance {tolerance:.3e}"
            )?;
        }
        Ok(())
    }
}

/// The largest error that rounding to single precision can make in a scalar product, relative to the
/// product of the two vectors' norms, where no summand goes through more than `operations` roundings:
/// n u / (1 - n u) with u = 2^-24 (N. Higham, "Accuracy and stability of numerical algorithms", chapter 3).
pub fn rounding_bound(operations: u32) -> f64 {
    let roundings = f64::from(operations) * f64::from(f32::EPSILON) / 2.0;
    roundings / (1.0 - roundings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_up_to_the_tolerance_are_right() {
        let mut comparison = Comparison::new(0.5);
        comparison.see(1.0, 1.5.into());
        comparison.see(100.0, Expected::relative(104.0, 8.0));
        assert!(comparison.ok());
        assert_eq!(comparison.max_error(), 0.5);
        comparison.see(-3.0, (-2.0).into());
        assert!(!comparison.ok());
        assert_eq!(
            comparison.to_string(),
            "1 of 3 elements are wrong; the worst is element 2: -3 instead of -2, error 1.000e0, tolerance 5.000e-1"
        );
    }

    #[test]
    fn what_is_not_finite_is_wrong_however_large_the_tolerance() {
        for got in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut comparison = Comparison::new(1e300);
            comparison.see(got, 0.0.into());
            assert!(!comparison.ok(), "{got}");
            assert_eq!(comparison.max_error(), f64::MAX);
        }
    }

    #[test]
    fn a_scale_of_zero_asks_for_equality() {
        let mut comparison = Comparison::new(0.1);
        comparison.see(0.0, Expected::relative(0.0, 0.0));
        assert!(comparison.ok());
        comparison.see(1e-30, Expected::relative(0.0, 0.0));
        assert!(!comparison.ok());
    }

    #[test]
    fn nothing_compared_is_not_right() {
        assert!(!Comparison::new(1.0).ok());
    }

    #[test]
    fn the_rounding_bound_is_half_a_unit_for_one_operation() {
        assert!((rounding_bound(1) - 2f64.powi(-24)).abs() < 1e-14);
        assert!(rounding_bound(1000) > 1000.0 * rounding_bound(1));
    }
}
