//! The sample programs' kernels, as clang compiled them, against plain Rust.

mod ptx_common;

use ptx_common::{Args, Device, Numbers};
use softcuda::exec::Program;

const VECTOR_ADD: &str = include_str!("../../../tests/samples/kernels/vectorAdd.ptx");
const MATRIX_MUL: &str = include_str!("../../../tests/samples/kernels/matrixMul.ptx");
const BLACK_SCHOLES: &str = include_str!("../../../tests/samples/kernels/BlackScholes.ptx");
const SCALAR_PROD: &str = include_str!("../../../tests/samples/kernels/scalarProd.ptx");
const HISTOGRAM: &str = include_str!("../../../tests/samples/kernels/histogram.ptx");

fn program(ptx: &str) -> Program {
    ptx_common::compiled(ptx)
}

#[test]
fn vector_add() {
    let program = program(VECTOR_ADD);
    let mut device = Device::new(1 << 20);
    let mut numbers = Numbers(1);
    let count = 10_007;
    let a: Vec<f32> = (0..count).map(|_| numbers.unit()).collect();
    let b: Vec<f32> = (0..count).map(|_| numbers.unit()).collect();
    let (pa, pb, pc) = (
        device.upload(&a),
        device.upload(&b),
        device.zeros::<f32>(count),
    );
    let args = Args::new().add(pa).add(pb).add(pc).add(count as u64);
    let name = program.kernels()[0].name.clone();
    device.launch(&program, &name, 40, 256, &args).unwrap();
    let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!(device.download::<f32>(pc, count), want);
}

#[test]
fn matrix_mul() {
    let program = program(MATRIX_MUL);
    let mut numbers = Numbers(2);
    for (name, tile) in [("matrixMul16", 16), ("matrixMul32", 32)] {
        let mut device = Device::new(4 << 20);
        let (rows, columns, inner) = (67_u32, 45_u32, 83_u32);
        let a: Vec<f32> = (0..rows * inner).map(|_| numbers.unit() - 0.5).collect();
        let b: Vec<f32> = (0..inner * columns).map(|_| numbers.unit() - 0.5).collect();
        let (pa, pb) = (device.upload(&a), device.upload(&b));
        let pc = device.zeros::<f32>((rows * columns) as usize);
        let args = Args::new()
            .add(pa)
            .add(pb)
            .add(pc)
            .add(rows)
            .add(columns)
            .add(inner);
        device
            .launch(
                &program,
                name,
                [columns.div_ceil(tile), rows.div_ceil(tile)],
                [tile, tile],
                &args,
            )
            .unwrap();
        let got = device.download::<f32>(pc, (rows * columns) as usize);
        for row in 0..rows {
            for column in 0..columns {
                let mut sum = 0.0_f32;
                for k in 0..inner {
                    sum = a[(row * inner + k) as usize]
                        .mul_add(b[(k * columns + column) as usize], sum);
                }
                assert_eq!(
                    got[(row * columns + column) as usize],
                    sum,
                    "{name} at {row}, {column}"
                );
            }
        }
    }
}

#[test]
fn black_scholes() {
    let program = program(BLACK_SCHOLES);
    let mut device = Device::new(1 << 20);
    let mut numbers = Numbers(3);
    let count = 4_001_usize;
    let prices: Vec<f32> = (0..count).map(|_| 5.0 + 25.0 * numbers.unit()).collect();
    let strikes: Vec<f32> = (0..count).map(|_| 1.0 + 99.0 * numbers.unit()).collect();
    let years: Vec<f32> = (0..count).map(|_| 0.25 + 9.75 * numbers.unit()).collect();
    let (rate, volatility) = (0.02_f32, 0.30_f32);
    let (call, put) = (device.zeros::<f32>(count), device.zeros::<f32>(count));
    let (p, s, y) = (
        device.upload(&prices),
        device.upload(&strikes),
        device.upload(&years),
    );
    let args = Args::new()
        .add(call)
        .add(put)
        .add(p)
        .add(s)
        .add(y)
        .add(rate)
        .add(volatility)
        .add(count as u32);
    device
        .launch(&program, "BlackScholes", 12, 128, &args)
        .unwrap();
    let (calls, puts) = (
        device.download::<f32>(call, count),
        device.download::<f32>(put, count),
    );
    let normal = |d: f64| {
        let k = 1.0 / (1.0 + 0.231_641_9 * d.abs());
        let poly = k
            * (0.319_381_530
                + k * (-0.356_563_782
                    + k * (1.781_477_937 + k * (-1.821_255_978 + k * 1.330_274_429))));
        let tail = 0.398_942_280_401_432_7 * (-0.5 * d * d).exp() * poly;
        if d > 0.0 { 1.0 - tail } else { tail }
    };
    for i in 0..count {
        let (s, x, t) = (
            f64::from(prices[i]),
            f64::from(strikes[i]),
            f64::from(years[i]),
        );
        let (r, v) = (f64::from(rate), f64::from(volatility));
        let d1 = ((s / x).ln() + (r + 0.5 * v * v) * t) / (v * t.sqrt());
        let d2 = d1 - v * t.sqrt();
        let discounted = x * (-r * t).exp();
        let want_call = s * normal(d1) - discounted * normal(d2);
        let want_put = discounted * (1.0 - normal(d2)) - s * (1.0 - normal(d1));
        assert!(
            (f64::from(calls[i]) - want_call).abs() < 2e-5 * s.max(x),
            "call {i}: {} {want_call}",
            calls[i]
        );
        assert!(
            (f64::from(puts[i]) - want_put).abs() < 2e-5 * s.max(x),
            "put {i}: {} {want_put}",
            puts[i]
        );
    }
}

#[test]
fn scalar_product_by_tree_and_by_shuffles() {
    let program = program(SCALAR_PROD);
    let mut numbers = Numbers(4);
    for name in ["scalarProdTree", "scalarProdShuffle"] {
        let mut device = Device::new(4 << 20);
        let (vectors, length) = (37_usize, 1003_usize);
        let a: Vec<f32> = (0..vectors * length)
            .map(|_| numbers.unit() - 0.5)
            .collect();
        let b: Vec<f32> = (0..vectors * length)
            .map(|_| numbers.unit() - 0.5)
            .collect();
        let (pa, pb) = (device.upload(&a), device.upload(&b));
        let pc = device.zeros::<f32>(vectors);
        let args = Args::new()
            .add(pa)
            .add(pb)
            .add(pc)
            .add(vectors as u32)
            .add(length as u32);
        device.launch(&program, name, 8, 256, &args).unwrap();
        let got = device.download::<f32>(pc, vectors);
        for (vector, &got) in got.iter().enumerate() {
            let range = vector * length..(vector + 1) * length;
            let want: f64 = a[range.clone()]
                .iter()
                .zip(&b[range])
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum();
            assert!(
                (f64::from(got) - want).abs() < 1e-4,
                "{name}, vector {vector}: {got} {want}"
            );
        }
    }
}

#[test]
fn histogram() {
    let program = program(HISTOGRAM);
    let mut numbers = Numbers(5);
    let bytes: Vec<u8> = (0..100_003).map(|_| (numbers.next() >> 50) as u8).collect();
    for (name, bins, shift) in [("histogram256", 256_usize, 0), ("histogram64", 64, 2)] {
        let mut device = Device::new(4 << 20);
        let blocks = 6_u32;
        let data = device.upload(&bytes);
        let partial = device.zeros::<u32>(blocks as usize * bins);
        let total = device.zeros::<u32>(bins);
        let args = Args::new().add(data).add(bytes.len() as u64).add(partial);
        device.launch(&program, name, blocks, 256, &args).unwrap();
        let args = Args::new().add(partial).add(blocks).add(total);
        device
            .launch(&program, "mergeTables", 4, bins as u32, &args)
            .unwrap();
        let mut want = vec![0_u32; bins];
        for &byte in &bytes {
            want[usize::from(byte >> shift)] += 1;
        }
        assert_eq!(device.download::<u32>(total, bins), want, "{name}");
    }
}
