//! The measures of fairness and waste that experiments report, each with its definition. Pure functions; an
//! empty or degenerate input gives the value of a perfectly fair system.

/// Jain's index of what each had, in units of its own entitlement: (Σx)² / (n Σx²), 1 is fair, 1/n is all
/// to one. (Jain, Chiu, Hawe: A quantitative measure of fairness and discrimination, 1984.)
pub fn jain(parts: &[f64]) -> f64 {
    let squares: f64 = parts.iter().map(|part| part * part).sum();
    if squares == 0.0 {
        return 1.0;
    }
    let sum: f64 = parts.iter().sum();
    sum * sum / (parts.len() as f64 * squares)
}

/// The least over the most of what each had, in units of its own entitlement.
pub fn min_max(parts: &[f64]) -> f64 {
    let least = parts.iter().copied().fold(f64::INFINITY, f64::min);
    let most = parts.iter().copied().fold(0.0, f64::max);
    if most == 0.0 || parts.is_empty() {
        return 1.0;
    }
    least / most
}

/// Mean over windows and domains of |part of the device had − part entitled to|, from each window's parts.
/// (Gdev's utilisation error; GPUvm uses windows of 100 ms and 500 ms.)
pub fn utilisation_error(windows: &[Vec<f64>], shares: &[f64]) -> f64 {
    let (mut sum, mut count) = (0.0, 0_usize);
    for window in windows {
        for (part, share) in window.iter().zip(shares) {
            sum += (part - share).abs();
            count += 1;
        }
    }
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// System throughput: Σ 1/slowdown. (Eyerman, Eeckhout: System-level performance metrics, 2008.)
pub fn stp(slowdowns: &[f64]) -> f64 {
    slowdowns.iter().map(|slowdown| 1.0 / slowdown).sum()
}

/// Average normalised turnaround time: the mean slowdown. (Eyerman, Eeckhout, 2008.)
pub fn antt(slowdowns: &[f64]) -> f64 {
    if slowdowns.is_empty() {
        return 1.0;
    }
    slowdowns.iter().sum::<f64>() / slowdowns.len() as f64
}

/// The value below which `part` (0 to 1) of the values lie, by the nearest rank; NaN for none.
pub fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (part * values.len() as f64).ceil() as usize;
    values
        .get(rank.clamp(1, values.len().max(1)) - 1)
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_one_and_monopoly_is_not() {
        assert_eq!(jain(&[2.0, 2.0, 2.0]), 1.0);
        assert_eq!(jain(&[3.0, 0.0, 0.0]), 1.0 / 3.0);
        assert_eq!((jain(&[]), min_max(&[]), min_max(&[0.0])), (1.0, 1.0, 1.0));
        assert_eq!(min_max(&[1.0, 2.0, 4.0]), 0.25);
    }

    #[test]
    fn errors_and_slowdowns() {
        let windows = [vec![0.5, 0.5], vec![0.7, 0.3]];
        assert!((utilisation_error(&windows, &[0.5, 0.5]) - 0.1).abs() < 1e-12);
        assert_eq!((stp(&[2.0, 2.0]), antt(&[2.0, 4.0])), (1.0, 3.0));
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.5), 50.0);
        assert_eq!(percentile(&mut values, 0.99), 99.0);
        assert_eq!(percentile(&mut values, 1.0), 100.0);
        assert!(percentile(&mut [], 0.5).is_nan());
    }
}
