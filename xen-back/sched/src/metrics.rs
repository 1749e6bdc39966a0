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

/// The harmonic mean of the normalised progress of all: n / Σ slowdown, which falls if even one is slowed down
/// much. (Luo, Gummaraju, Franklin: Balancing throughput and fairness in SMT processors, 2001.)
pub fn harmonic_speedup(slowdowns: &[f64]) -> f64 {
    let sum: f64 = slowdowns.iter().sum();
    match sum > 0.0 {
        true => slowdowns.len() as f64 / sum,
        false => 1.0,
    }
}

/// The greatest slowdown over the least: 1 if sharing costs all the same. (Mutlu, Moscibroda: Stall-time fair
/// memory access scheduling, 2007.)
pub fn unfairness(slowdowns: &[f64]) -> f64 {
    1.0 / min_max(slowdowns)
}

/// What sharing does to the rare long waits: a percentile of times shared over the same of times alone. NaN if
/// there are none.
pub fn tail_inflation(shared: &mut [f64], alone: &mut [f64], part: f64) -> f64 {
    percentile(shared, part) / percentile(alone, part)
}

/// The part of the values that are at most `target`; 1 for none.
pub fn attainment(values: &[f64], target: f64) -> f64 {
    let met = values.iter().filter(|value| **value <= target).count();
    match values.is_empty() {
        true => 1.0,
        false => met as f64 / values.len() as f64,
    }
}

/// The part of the time in which a device was idle although somebody wanted it; from the time so lost, and the
/// length of the experiment.
pub fn work_conservation_loss(lost: f64, duration: f64) -> f64 {
    match duration > 0.0 {
        true => lost / duration,
        false => 0.0,
    }
}

/// Time added by what is measured, as a part of the time without it.
pub fn overhead(with: f64, without: f64) -> f64 {
    match without > 0.0 {
        true => with / without - 1.0,
        false => 0.0,
    }
}

/// The shares of a device that domains of these weights are entitled to while they all want it.
pub fn shares(weights: &[f64]) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// What each had per unit of its weight, in the windows in which all wanted the device from beginning to end:
/// only then can they be compared. From each domain's device time and backlogged time per window, and the
/// window's length; `None` if there is no such window. The last window is to be left out by the caller if the
/// experiment ended within it.
pub fn backlogged(
    had: &[&[u64]],
    wanted: &[&[u64]],
    window: u64,
    weights: &[f64],
) -> Option<Vec<f64>> {
    let count = had
        .iter()
        .chain(wanted)
        .map(|windows| windows.len())
        .min()?;
    let common: Vec<usize> = (0..count)
        .filter(|index| wanted.iter().all(|windows| windows[*index] >= window))
        .collect();
    let sum = |windows: &&[u64]| {
        common
            .iter()
            .map(|index| windows[*index] as f64)
            .sum::<f64>()
    };
    let parts = had
        .iter()
        .zip(weights)
        .map(|(windows, weight)| sum(windows) / weight);
    (!common.is_empty()).then(|| parts.collect())
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
        assert_eq!(
            (harmonic_speedup(&[1.0, 3.0]), unfairness(&[2.0, 5.0])),
            (0.5, 2.5)
        );
        assert_eq!(
            (harmonic_speedup(&[]), unfairness(&[]), antt(&[])),
            (1.0, 1.0, 1.0)
        );
    }

    #[test]
    fn losses_tails_and_overheads() {
        assert_eq!(
            tail_inflation(&mut [1.0, 8.0, 2.0], &mut [2.0, 1.0], 0.99),
            4.0
        );
        assert_eq!(
            (attainment(&[1.0, 2.0, 3.0, 4.0], 3.0), attainment(&[], 1.0)),
            (0.75, 1.0)
        );
        assert_eq!(
            (
                work_conservation_loss(2.0, 8.0),
                work_conservation_loss(1.0, 0.0)
            ),
            (0.25, 0.0)
        );
        assert_eq!((overhead(5.0, 4.0), overhead(5.0, 0.0)), (0.25, 0.0));
        assert_eq!(shares(&[1.0, 3.0]), [0.25, 0.75]);
    }

    #[test]
    fn only_windows_that_all_wanted_count() {
        let had: [&[u64]; 2] = [&[10, 4, 6, 0], &[0, 6, 4, 10]];
        let wanted: [&[u64]; 2] = [&[10, 10, 10, 3], &[5, 10, 10, 10]];
        assert_eq!(
            backlogged(&had, &wanted, 10, &[1.0, 2.0]),
            Some(vec![10.0, 5.0])
        );
        assert_eq!(backlogged(&had, &wanted, 11, &[1.0, 2.0]), None);
        assert_eq!(backlogged(&[], &[], 10, &[]), None);
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
