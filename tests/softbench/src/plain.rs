//! The same algorithms in plain Rust with rayon, as one would write them for a CPU: no intrinsics, the
//! compiler vectorises what it can. Every sum is in the kernel's order and every multiply-add is fused as
//! the kernel's is. On x86-64 they are compiled for a processor with AVX2 and FMA where this one has them.

use rayon::prelude::*;

/// A function compiled twice: for any processor, and for one with AVX2 and FMA.
macro_rules! for_this_processor {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        pub fn $name($($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn newer($($arg: $ty),*) $(-> $out)? $body
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: this processor has what the function is compiled for.
                    return unsafe { newer($($arg),*) };
                }
            }
            $body
        }
    };
}

for_this_processor! {
    /// `c` = `a` times `b`, all `n` by `n`: a row of `c` is the sum of the rows of `b`, weighted.
    matrix_mul(a: &[f32], b: &[f32], c: &mut [f32], n: usize) {
        c.par_chunks_exact_mut(n).zip(a.par_chunks_exact(n)).for_each(|(row_c, row_a)| {
            row_c.fill(0.0);
            for (&weight, row_b) in row_a.iter().zip(b.chunks_exact(n)) {
                for (sum, &element) in row_c.iter_mut().zip(row_b) {
                    *sum = weight.mul_add(element, *sum);
                }
            }
        });
    }
}

/// e^x, as the kernel's header has it.
#[inline(always)]
fn exp(x: f32) -> f32 {
    if x < -87.0 {
        return 0.0;
    }
    if x > 88.0 {
        return f32::INFINITY;
    }
    let magic = 12_582_912.0_f32;
    let n = (x * std::f32::consts::LOG2_E + magic) - magic;
    let r = n.mul_add(-1.428_606_8e-6, n.mul_add(-0.693_145_75, x));
    let mut p = 1.0 / 5040.0_f32;
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = p.mul_add(r, coefficient);
    }
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// ln x of a positive, normal x, as the kernel's header has it.
#[inline(always)]
fn ln(x: f32) -> f32 {
    let shifted = x.to_bits().wrapping_sub(0x3f35_04f3);
    let n = (shifted.cast_signed() >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007f_ffff) + 0x3f35_04f3);
    let s = (m - 1.0) / (m + 1.0);
    let t = s * s;
    let mut p = 1.0 / 9.0_f32;
    for coefficient in [1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0] {
        p = p.mul_add(t, coefficient);
    }
    n.mul_add(std::f32::consts::LN_2, 2.0 * s * p)
}

#[inline(always)]
fn cumulative_normal(d: f32) -> f32 {
    let t = 1.0 / 0.231_641_9_f32.mul_add(d.abs(), 1.0);
    let mut p = 1.330_274_5_f32;
    for coefficient in [-1.821_255_9, 1.781_477_9, -0.356_563_78, 0.319_381_54] {
        p = p.mul_add(t, coefficient);
    }
    let density = 0.398_942_3 * exp(-0.5 * d * d);
    let tail = density * (p * t);
    if d > 0.0 { 1.0 - tail } else { tail }
}

/// Options of a piece of work.
const OPTIONS: usize = 4096;

for_this_processor! {
    /// Prices of European calls and puts.
    black_scholes(
        spot: &[f32], strike: &[f32], years: &[f32], call: &mut [f32], put: &mut [f32],
        rate: f32, volatility: f32
    ) {
        let inputs = spot
            .par_chunks(OPTIONS)
            .zip(strike.par_chunks(OPTIONS))
            .zip(years.par_chunks(OPTIONS));
        let outputs = call.par_chunks_mut(OPTIONS).zip(put.par_chunks_mut(OPTIONS));
        inputs.zip(outputs).for_each(|(((spot, strike), years), (call, put))| {
            let options = spot.iter().zip(strike).zip(years).zip(call.iter_mut().zip(put));
            for (((&spot, &strike), &years), (call, put)) in options {
                let deviation = volatility * years.sqrt();
                let drift = (0.5 * volatility).mul_add(volatility, rate) * years;
                let d1 = (ln(spot / strike) + drift) / deviation;
                let d2 = d1 - deviation;
                let (n1, n2) = (cumulative_normal(d1), cumulative_normal(d2));
                let discounted = strike * exp(-rate * years);
                *call = spot * n1 - discounted * n2;
                *put = discounted * (1.0 - n2) - spot * (1.0 - n1);
            }
        });
    }
}

for_this_processor! {
    /// Accelerations of bodies (x, y, z, mass) under each other's gravity.
    nbody(bodies: &[f32], accelerations: &mut [f32]) {
        accelerations.par_chunks_exact_mut(4).zip(bodies.par_chunks_exact(4)).for_each(|(out, own)| {
            let &[x, y, z, _] = own else { return };
            let (mut ax, mut ay, mut az) = (0.0_f32, 0.0_f32, 0.0_f32);
            for other in bodies.chunks_exact(4) {
                let &[ox, oy, oz, mass] = other else { return };
                let (dx, dy, dz) = (ox - x, oy - y, oz - z);
                let square = dz.mul_add(dz, dy.mul_add(dy, dx.mul_add(dx, 1e-3)));
                let inverse = 1.0 / square.sqrt();
                let weight = mass * (inverse * inverse * inverse);
                ax = dx.mul_add(weight, ax);
                ay = dy.mul_add(weight, ay);
                az = dz.mul_add(weight, az);
            }
            out.copy_from_slice(&[ax, ay, az, 0.0]);
        });
    }
}

/// How often each byte occurs.
pub fn histogram(data: &[u8]) -> [u32; 256] {
    let add = |mut one: [u32; 256], other: [u32; 256]| {
        one.iter_mut()
            .zip(other)
            .for_each(|(one, other)| *one += other);
        one
    };
    data.par_chunks(1 << 20)
        .map(|part| {
            let mut bins = [0; 256];
            for &byte in part {
                bins[usize::from(byte)] += 1;
            }
            bins
        })
        .reduce(|| [0; 256], add)
}

/// Inclusive prefix sums: parts are scanned, then raised by what lies before them.
pub fn scan(values: &[u32], result: &mut [u32], part: usize) {
    let mut sums: Vec<u32> = result
        .par_chunks_mut(part)
        .zip(values.par_chunks(part))
        .map(|(result, values)| {
            let mut sum = 0_u32;
            for (result, &value) in result.iter_mut().zip(values) {
                sum = sum.wrapping_add(value);
                *result = sum;
            }
            sum
        })
        .collect();
    let mut before = 0_u32;
    for sum in &mut sums {
        let own = *sum;
        *sum = before;
        before = before.wrapping_add(own);
    }
    result
        .par_chunks_mut(part)
        .zip(sums)
        .for_each(|(result, before)| {
            for value in result {
                *value = value.wrapping_add(before);
            }
        });
}

for_this_processor! {
    /// One step of heat diffusion on a cube of `n` points a side; the border stays.
    stencil(grid: &[f32], result: &mut [f32], n: usize, centre: f32, side: f32) {
        let plane = n * n;
        result.par_chunks_exact_mut(plane).enumerate().for_each(|(z, out)| {
            if z == 0 || z == n - 1 {
                return;
            }
            for y in 1..n - 1 {
                let row = z * plane + y * n;
                let line = |start: usize| &grid[start + 1..start + n - 1];
                let (left, here, right) = (&grid[row..row + n - 2], line(row), &grid[row + 2..row + n]);
                let (front, back) = (line(row - n), line(row + n));
                let (below, above) = (line(row - plane), line(row + plane));
                let out = &mut out[y * n + 1..y * n + n - 1];
                for (i, out) in out.iter_mut().enumerate() {
                    let sides = left[i] + right[i] + front[i] + back[i] + below[i] + above[i];
                    *out = centre.mul_add(here[i], side * sides);
                }
            }
        });
    }
}
