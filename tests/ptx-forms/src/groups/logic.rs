//! Logic, shifts, bit fields, permutations and moves: exact.

use super::{Table, plain};
use crate::form::{Map, exact, exact_all};
use crate::types::{Since, Ty};

const ALWAYS: Since = Since::ALWAYS;

pub(super) fn add(table: &mut Table) {
    bitwise(table);
    lop3(table);
    shifts(table);
    counts(table);
    fields(table);
    permutations(table);
    moves(table);
}

fn bitwise(table: &mut Table) {
    for ty in [Ty::Pred, Ty::B16, Ty::B32, Ty::B64] {
        for opcode in ["and", "or", "xor"] {
            let name = format!("{opcode}.{}", ty.name());
            let judge = exact(move |x| match opcode {
                "and" => x[0] & x[1],
                "or" => x[0] | x[1],
                _ => x[0] ^ x[1],
            });
            let map = Map::new(&[ty, ty], ty, plain(&name, 2), judge);
            let map = if ty == Ty::Pred {
                map
            } else {
                map.immediate(1)
            };
            table.map(name, ALWAYS, map);
        }
        let name = format!("not.{}", ty.name());
        let judge = exact(move |x| !x[0] & ty.mask());
        table.map(&name, ALWAYS, Map::new(&[ty], ty, plain(&name, 1), judge));
        if ty != Ty::Pred {
            let name = format!("cnot.{}", ty.name());
            let judge = exact(|x| u128::from(x[0] == 0));
            table.map(&name, ALWAYS, Map::new(&[ty], ty, plain(&name, 1), judge));
        }
    }
}

/// `lop3`'s table applied bit by bit.
fn look_up(x: &[u128], table: u32) -> u128 {
    (0..32).fold(0, |result, bit| {
        let at = |index: usize| (x[index] >> bit & 1) as u32;
        let row = at(0) << 2 | at(1) << 1 | at(2);
        result | u128::from(table >> row & 1) << bit
    })
}

fn lop3(table: &mut Table) {
    // All 256 tables, in kernels of 16.
    let mut code = String::new();
    for lut in 0..256 {
        code += &format!("lop3.b32 {{d{lut}}}, {{0}}, {{1}}, {{2}}, 0x{lut:x};\n");
    }
    let judge = exact_all(|x| (0..256).map(|lut| look_up(x, lut)).collect());
    let map = Map::new(&[Ty::B32; 3], Ty::B32, code, judge).outputs(&[Ty::B32; 256]);
    table.map("lop3.b32", ALWAYS, map);
    for combine in ["or", "and"] {
        let mut code = String::new();
        const TABLES: [u32; 6] = [0x00, 0xff, 0x80, 0x96, 0xe8, 0x1b];
        for (index, lut) in TABLES.into_iter().enumerate() {
            code += &format!(
                "lop3.{combine}.b32 {{d{}}}|{{d{}}}, {{0}}, {{1}}, {{2}}, 0x{lut:x}, {{3}};\n",
                2 * index,
                2 * index + 1
            );
        }
        let judge = exact_all(move |x| {
            TABLES
                .into_iter()
                .flat_map(|lut| {
                    let value = look_up(x, lut);
                    let any = u128::from(value != 0);
                    [
                        value,
                        if combine == "or" {
                            any | x[3]
                        } else {
                            any & x[3]
                        },
                    ]
                })
                .collect()
        });
        let outputs = [[Ty::B32, Ty::Pred]; TABLES.len()].concat();
        let map = Map::new(&[Ty::B32, Ty::B32, Ty::B32, Ty::Pred], Ty::B32, code, judge);
        table.map(
            format!("lop3.{combine}.b32"),
            Since(82, 70),
            map.outputs(&outputs),
        );
    }
}

fn shifts(table: &mut Table) {
    for ty in [Ty::B16, Ty::B32, Ty::B64] {
        let name = format!("shl.{}", ty.name());
        let judge = exact(move |x| {
            if x[1] >= u128::from(ty.bits()) {
                0
            } else {
                x[0] << x[1] & ty.mask()
            }
        });
        let map = Map::new(&[ty, Ty::U32], ty, plain(&name, 2), judge);
        table.map(name, ALWAYS, map.immediate(1));
    }
    for ty in [
        Ty::B16,
        Ty::B32,
        Ty::B64,
        Ty::U16,
        Ty::U32,
        Ty::U64,
        Ty::S16,
        Ty::S32,
        Ty::S64,
    ] {
        let name = format!("shr.{}", ty.name());
        let judge = exact(move |x| ty.wrap(ty.value(x[0]) >> x[1].min(127)));
        let map = Map::new(&[ty, Ty::U32], ty, plain(&name, 2), judge);
        table.map(name, ALWAYS, map.immediate(1));
    }
    for direction in ["l", "r"] {
        for mode in ["clamp", "wrap"] {
            let name = format!("shf.{direction}.{mode}.b32");
            let judge = exact(move |x| {
                // b is the upper half.
                let both = x[1] << 32 | x[0];
                let by = if mode == "clamp" {
                    x[2].min(32)
                } else {
                    x[2] & 31
                };
                if direction == "l" {
                    both << by >> 32 & 0xffff_ffff
                } else {
                    both >> by & 0xffff_ffff
                }
            });
            let map = Map::new(
                &[Ty::B32, Ty::B32, Ty::U32],
                Ty::B32,
                plain(&name, 3),
                judge,
            );
            table.map(name, ALWAYS, map.immediate(2));
        }
    }
}

/// The place of the highest bit that is not the sign (for negative numbers: the highest zero).
fn highest(ty: Ty, x: u128) -> Option<u32> {
    let value = ty.value(x);
    let value = if value < 0 { !value } else { value };
    (value as u128).checked_ilog2()
}

fn counts(table: &mut Table) {
    for ty in [Ty::B32, Ty::B64] {
        let name = format!("popc.{}", ty.name());
        let judge = exact(|x| u128::from(x[0].count_ones()));
        table.map(
            &name,
            ALWAYS,
            Map::new(&[ty], Ty::U32, plain(&name, 1), judge),
        );
        let name = format!("clz.{}", ty.name());
        let judge = exact(move |x| u128::from(x[0].leading_zeros() - (128 - ty.bits())));
        table.map(
            &name,
            ALWAYS,
            Map::new(&[ty], Ty::U32, plain(&name, 1), judge),
        );
        let name = format!("brev.{}", ty.name());
        let judge = exact(move |x| x[0].reverse_bits() >> (128 - ty.bits()));
        table.map(&name, ALWAYS, Map::new(&[ty], ty, plain(&name, 1), judge));
    }
    for ty in [Ty::U32, Ty::U64, Ty::S32, Ty::S64] {
        let name = format!("bfind.{}", ty.name());
        let judge = exact(move |x| highest(ty, x[0]).unwrap_or(u32::MAX).into());
        table.map(
            &name,
            ALWAYS,
            Map::new(&[ty], Ty::U32, plain(&name, 1), judge),
        );
        let name = format!("bfind.shiftamt.{}", ty.name());
        let judge = exact(move |x| {
            highest(ty, x[0])
                .map_or(u32::MAX, |place| ty.bits() - 1 - place)
                .into()
        });
        table.map(
            &name,
            ALWAYS,
            Map::new(&[ty], Ty::U32, plain(&name, 1), judge),
        );
    }
    // The offset-th set bit from the base, which counts as the first; 0 asks for the base itself.
    let judge = exact(|x| {
        let (mask, base, offset) = (x[0] as u32, x[1] as u32, x[2] as i32);
        let set = |place: i64| (0..32).contains(&place) && mask >> place & 1 == 1;
        let base = i64::from(base);
        let found = if offset == 0 {
            set(base).then_some(base)
        } else {
            let step = i64::from(offset.signum());
            let mut left = offset.unsigned_abs();
            let mut place = base;
            loop {
                if !(0..32).contains(&place) {
                    break None;
                }
                if set(place) {
                    left -= 1;
                    if left == 0 {
                        break Some(place);
                    }
                }
                place += step;
            }
        };
        found.map_or(0xffff_ffff, |place| place as u128)
    });
    // The base is a bit's place.
    let code = "and.b32 %r9, {1}, 31; shl.b32 %r8, {2}, 26; shr.s32 %r8, %r8, 26; fns.b32 {d}, {0}, %r9, %r8;";
    let judge = move |x: &[u128], got: &[u128]| {
        let offset = ((x[2] as u32) << 26) as i32 >> 26;
        judge(&[x[0], x[1] & 31, u128::from(offset as u32)], got)
    };
    let map = Map::new(&[Ty::B32, Ty::B32, Ty::S32], Ty::B32, code, judge);
    table.map("fns.b32", ALWAYS, map);
}

fn fields(table: &mut Table) {
    for ty in [Ty::U32, Ty::U64, Ty::S32, Ty::S64] {
        let name = format!("bfe.{}", ty.name());
        let extract = move |x: &[u128]| {
            let bits = ty.bits();
            let (place, length) = ((x[1] & 0xff) as u32, (x[2] & 0xff) as u32);
            let bit = |at: u32| x[0] >> at & 1;
            let fill = if !ty.signed() || length == 0 {
                0
            } else {
                bit((place + length - 1).min(bits - 1))
            };
            (0..bits).fold(0, |result, at| {
                let value = if at < length && place + at < bits {
                    bit(place + at)
                } else {
                    fill
                };
                result | value << at
            })
        };
        let map = Map::new(&[ty, Ty::U32, Ty::U32], ty, plain(&name, 3), exact(extract));
        table.map(&name, ALWAYS, map.immediate(2));
        // Both as immediates take another way through a compiler.
        let mut code = String::new();
        const FIELDS: [(u32, u32); 10] = [
            (0, 0),
            (0, 8),
            (4, 1),
            (8, 24),
            (31, 1),
            (31, 5),
            (32, 8),
            (0, 64),
            (40, 200),
            (255, 255),
        ];
        for (index, (place, length)) in FIELDS.into_iter().enumerate() {
            code += &format!("{name} {{d{index}}}, {{0}}, {place}, {length};\n");
        }
        let judge = exact_all(move |x| {
            FIELDS
                .map(|(place, length)| extract(&[x[0], place.into(), length.into()]))
                .to_vec()
        });
        let map = Map::new(&[ty], ty, code, judge).outputs(&[ty; FIELDS.len()]);
        table.map(format!("{name} (immediates)"), ALWAYS, map);
    }
    for ty in [Ty::B32, Ty::B64] {
        let name = format!("bfi.{}", ty.name());
        let judge = exact(move |x| {
            let (place, length) = ((x[2] & 0xff) as u32, (x[3] & 0xff) as u32);
            (0..length).fold(x[1], |result, at| {
                if place + at < ty.bits() {
                    result & !(1 << (place + at)) | (x[0] >> at & 1) << (place + at)
                } else {
                    result
                }
            })
        });
        let map = Map::new(&[ty, ty, Ty::U32, Ty::U32], ty, plain(&name, 4), judge);
        table.map(name, ALWAYS, map.immediate(3));
    }
    for mode in ["clamp", "wrap"] {
        let name = format!("bmsk.{mode}.b32");
        let judge = exact(move |x| {
            let (place, length) = if mode == "clamp" {
                (x[0].min(32), x[1].min(32))
            } else {
                (x[0] & 31, x[1] & 31)
            };
            let ones = (1_u128 << length) - 1;
            ones << place & 0xffff_ffff
        });
        let map = Map::new(&[Ty::U32, Ty::U32], Ty::B32, plain(&name, 2), judge);
        table.map(name, Since(76, 70), map.immediate(1));
        for ty in [Ty::U32, Ty::S32] {
            let name = format!("szext.{mode}.{}", ty.name());
            let judge = exact(move |x| {
                let length = if mode == "clamp" {
                    x[1].min(32)
                } else {
                    x[1] & 31
                } as u32;
                if length == 0 {
                    return 0;
                }
                let kept = x[0] & ((1 << length) - 1);
                if ty.signed() && kept >> (length - 1) & 1 == 1 {
                    (kept | u128::MAX << length) & 0xffff_ffff
                } else {
                    kept
                }
            });
            let map = Map::new(&[ty, Ty::U32], ty, plain(&name, 2), judge);
            table.map(name, Since(76, 70), map.immediate(1));
        }
    }
}

fn permutations(table: &mut Table) {
    for mode in ["", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"] {
        let name = super::named("prmt", &["b32", mode]);
        let judge = exact(move |x| {
            let bytes: Vec<u128> = (0..8)
                .map(|i| {
                    let word = if i < 4 { x[0] } else { x[1] };
                    word >> (8 * (i % 4)) & 0xff
                })
                .collect();
            let selector = x[2] as usize;
            let low = selector & 3;
            let pick: [usize; 4] = match mode {
                "" => {
                    return (0..4).fold(0, |result, i| {
                        let select = selector >> (4 * i) & 15;
                        let byte = bytes[select & 7];
                        let byte = if select & 8 != 0 {
                            // The sign, in all bits.
                            if byte & 0x80 != 0 { 0xff } else { 0 }
                        } else {
                            byte
                        };
                        result | byte << (8 * i)
                    });
                }
                // Forward 4 extract, backward 4 extract.
                "f4e" => [low, low + 1, low + 2, low + 3],
                "b4e" => [low, (low + 7) % 8, (low + 6) % 8, (low + 5) % 8],
                "rc8" => [low; 4],
                // Edge clamp to the left, to the right.
                "ecl" => [0, 1, 2, 3].map(|i| i.max(low)),
                "ecr" => [0, 1, 2, 3].map(|i| i.min(low)),
                _ => {
                    let half = (low & 1) * 2;
                    [half, half + 1, half, half + 1]
                }
            };
            (0..4).fold(0, |result, i| result | bytes[pick[i]] << (8 * i))
        });
        let map = Map::new(&[Ty::B32; 3], Ty::B32, plain(&name, 3), judge);
        table.map(name, ALWAYS, map.immediate(2));
    }
}

const MOVED: [Ty; 13] = [
    Ty::Pred,
    Ty::B16,
    Ty::B32,
    Ty::B64,
    Ty::U16,
    Ty::U32,
    Ty::U64,
    Ty::S16,
    Ty::S32,
    Ty::S64,
    Ty::F32,
    Ty::F64,
    Ty::B128,
];

fn moves(table: &mut Table) {
    for ty in MOVED {
        let name = format!("mov.{}", ty.name());
        let map = Map::new(&[ty], ty, plain(&name, 1), exact(|x| x[0]));
        let map = if matches!(ty, Ty::Pred | Ty::B128) {
            map
        } else {
            map.immediate(0)
        };
        table.map(name, ALWAYS, map);
        if matches!(ty, Ty::Pred | Ty::B128) {
            continue;
        }
        let name = format!("selp.{}", ty.name());
        let judge = exact(|x| if x[2] == 1 { x[0] } else { x[1] });
        let map = Map::new(&[ty, ty, Ty::Pred], ty, plain(&name, 3), judge);
        table.map(name, ALWAYS, map.immediate(1));
        let name = format!("slct.{}.s32", ty.name());
        let judge = exact(|x| if Ty::S32.value(x[2]) >= 0 { x[0] } else { x[1] });
        let map = Map::new(&[ty, ty, Ty::S32], ty, plain(&name, 3), judge);
        table.map(name, ALWAYS, map.immediate(1));
        for ftz in ["", "ftz"] {
            let name = super::named("slct", &[ftz, ty.name(), "f32"]);
            let flushes = !ftz.is_empty();
            let judge = exact(move |x| {
                let format = crate::reference::float::Format::F32;
                let by = if flushes { format.flush(x[2]) } else { x[2] };
                // Of NaN the second is chosen; -0 is 0.
                let first = !format.is_nan(by) && (format.is_zero(by) || !format.is_negative(by));
                if first { x[0] } else { x[1] }
            });
            let map = Map::new(&[ty, ty, Ty::F32], ty, plain(&name, 3), judge);
            table.map(name, ALWAYS, map.immediate(1));
        }
    }
    // Vectors of parts into a whole, and back.
    for (whole, part, count) in [
        (Ty::B16, Ty::B8, 2),
        (Ty::B32, Ty::B8, 4),
        (Ty::B32, Ty::B16, 2),
        (Ty::B64, Ty::B16, 4),
        (Ty::B64, Ty::B32, 2),
        (Ty::B128, Ty::B64, 2),
    ] {
        let since = if whole == Ty::B128 {
            Since(83, 70)
        } else {
            ALWAYS
        };
        let list = |mark: &str| {
            let parts: Vec<String> = (0..count)
                .map(|index| {
                    if part == Ty::B8 {
                        format!("%{mark}{index}")
                    } else if mark == "a" {
                        format!("{{{index}}}")
                    } else {
                        format!("{{d{index}}}")
                    }
                })
                .collect();
            parts.join(", ")
        };
        // 8-bit registers hold the parts of vectors of bytes.
        let declare = if part == Ty::B8 {
            ".reg .b8 %pa0, %pa1, %pa2, %pa3; .reg .b8 %pb0, %pb1, %pb2, %pb3;"
        } else {
            ""
        };
        let name = format!("mov.{} (of {count} {})", whole.name(), part.name());
        let code = if part == Ty::B8 {
            let from: Vec<String> = (0..count)
                .map(|i| format!("cvt.u8.u32 %pa{i}, {{{i}}};"))
                .collect();
            let parts = list("pa");
            format!(
                "{declare} {} mov.{} {{d}}, {{{parts}}};",
                from.join(" "),
                whole.name()
            )
        } else {
            format!("mov.{} {{d}}, {{{}}};", whole.name(), list("a"))
        };
        let judge = exact(move |x| {
            x.iter().enumerate().fold(0, |all, (index, &x)| {
                all | (x & part.mask()) << (index as u32 * part.bits())
            })
        });
        table.map(
            name,
            since,
            Map::new(&vec![part; count], whole, code, judge),
        );
        let name = format!("mov.{} (to {count} {})", whole.name(), part.name());
        let code = if part == Ty::B8 {
            let to: Vec<String> = (0..count)
                .map(|i| format!("cvt.u32.u8 {{d{i}}}, %pb{i};"))
                .collect();
            let parts = list("pb");
            format!(
                "{declare} mov.{} {{{parts}}}, {{0}}; {}",
                whole.name(),
                to.join(" ")
            )
        } else {
            format!("mov.{} {{{}}}, {{0}};", whole.name(), list("d"))
        };
        let judge = exact_all(move |x| {
            (0..count)
                .map(|index| x[0] >> (index as u32 * part.bits()) & part.mask())
                .collect()
        });
        let map = Map::new(&[whole], part, code, judge).outputs(&vec![part; count]);
        table.map(name, since, map);
    }
}
