//! Loads and stores: every type and vector in every space with every order, bytes compared one by one.

use super::{Table, named};
use crate::form::Kernel;
use crate::types::{Numbers, Since, Ty};

const TYPES: [Ty; 15] = [
    Ty::B8,
    Ty::U8,
    Ty::S8,
    Ty::B16,
    Ty::U16,
    Ty::S16,
    Ty::B32,
    Ty::U32,
    Ty::S32,
    Ty::F32,
    Ty::B64,
    Ty::U64,
    Ty::S64,
    Ty::F64,
    Ty::B128,
];
const THREADS: u32 = 32;
/// Bytes that each thread has for itself in the buffers.
const SLOT: usize = 32;
/// Bytes of output per element.
const CELL: usize = 16;

pub(super) fn add(table: &mut Table) {
    for (vector, ty) in vectors() {
        for (order, since) in orders("acquire") {
            for (space, from) in SPACES {
                if !order.is_empty()
                    && !order.starts_with("weak")
                    && !shared_or_global(space)
                    && order != "volatile"
                {
                    continue;
                }
                if order == "volatile" && matches!(space, "const" | "param") {
                    continue;
                }
                load(
                    table,
                    &named("ld", &[&order, space, vector, ty.name()]),
                    space,
                    vector,
                    ty,
                    since.and(from),
                );
            }
        }
        for (order, since) in orders("release") {
            for (space, from) in SPACES {
                if matches!(space, "const" | "param") {
                    continue;
                }
                if !matches!(order.as_str(), "" | "weak" | "volatile") && !shared_or_global(space) {
                    continue;
                }
                store(
                    table,
                    &named("st", &[&order, space, vector, ty.name()]),
                    space,
                    vector,
                    ty,
                    since.and(from),
                );
            }
        }
        load(
            table,
            &named("ld", &["global", "nc", vector, ty.name()]),
            "global",
            vector,
            ty,
            Since::ALWAYS,
        );
        if ty != Ty::B128 {
            load(
                table,
                &named("ldu", &["global", vector, ty.name()]),
                "global",
                vector,
                ty,
                Since::ALWAYS,
            );
            load(
                table,
                &named("ldu", &[vector, ty.name()]),
                "",
                vector,
                ty,
                Since::ALWAYS,
            );
        }
    }
    hints(table);
}

fn vectors() -> Vec<(&'static str, Ty)> {
    let mut all = Vec::new();
    for ty in TYPES {
        for (vector, count) in [("", 1), ("v2", 2), ("v4", 4)] {
            if ty.bytes() * count <= 16 {
                all.push((vector, ty));
            }
        }
    }
    all
}

const SPACES: [(&str, Since); 8] = [
    ("", Since::ALWAYS),
    ("global", Since::ALWAYS),
    ("shared", Since::ALWAYS),
    ("shared::cta", Since(78, 50)),
    ("shared::cluster", Since(78, 90)),
    ("local", Since::ALWAYS),
    ("const", Since::ALWAYS),
    ("param", Since::ALWAYS),
];

fn shared_or_global(space: &str) -> bool {
    space.is_empty() || space == "global" || space.starts_with("shared")
}

/// How accesses are ordered, with the stronger of the two orders that only one kind has.
fn orders(strong: &str) -> Vec<(String, Since)> {
    let mut all = vec![
        (String::new(), Since::ALWAYS),
        ("weak".to_owned(), Since(60, 70)),
        ("volatile".to_owned(), Since::ALWAYS),
    ];
    for order in ["relaxed", strong] {
        for scope in ["cta", "cluster", "gpu", "sys"] {
            let since = if scope == "cluster" {
                Since(78, 90)
            } else {
                Since(60, 70)
            };
            all.push((format!("{order}.{scope}"), since));
        }
    }
    all
}

/// Cache operators and hints change no result: with some types only.
fn hints(table: &mut Table) {
    const SOME: [(&str, Ty); 3] = [("", Ty::B32), ("v4", Ty::F32), ("v2", Ty::B64)];
    const PREFETCH: [&str; 4] = ["", "L2::64B", "L2::128B", "L2::256B"];
    const EVICTION: [&str; 5] = [
        "L1::evict_normal",
        "L1::evict_unchanged",
        "L1::evict_first",
        "L1::evict_last",
        "L1::no_allocate",
    ];
    for (vector, ty) in SOME {
        for (space, from) in SPACES {
            for hint in ["ca", "cg", "cs", "lu", "cv"] {
                let name = named("ld", &[space, hint, vector, ty.name()]);
                load(table, &name, space, vector, ty, from);
            }
            if matches!(space, "const" | "param") {
                continue;
            }
            for hint in ["wb", "cg", "cs", "wt"] {
                let name = named("st", &[space, hint, vector, ty.name()]);
                store(table, &name, space, vector, ty, from);
            }
        }
        for space in ["", "global"] {
            for hint in EVICTION {
                for prefetch in PREFETCH {
                    let since = if prefetch == "L2::256B" {
                        Since(74, 80)
                    } else {
                        Since(74, 75)
                    };
                    let name = named("ld", &[space, hint, prefetch, vector, ty.name()]);
                    load(table, &name, space, vector, ty, since);
                }
                let name = named("st", &[space, hint, vector, ty.name()]);
                store(table, &name, space, vector, ty, Since(74, 70));
            }
            for prefetch in &PREFETCH[1..] {
                let since = if *prefetch == "L2::256B" {
                    Since(74, 80)
                } else {
                    Since(74, 75)
                };
                for order in ["", "weak", "volatile", "relaxed.gpu", "acquire.sys"] {
                    let name = named("ld", &[order, space, prefetch, vector, ty.name()]);
                    load(table, &name, space, vector, ty, since);
                }
            }
        }
        for cache in ["ca", "cg", "cs"] {
            let name = named("ld", &["global", cache, "nc", vector, ty.name()]);
            load(table, &name, "global", vector, ty, Since::ALWAYS);
        }
        for hint in EVICTION {
            let name = named("ld", &["global", "nc", hint, vector, ty.name()]);
            load(table, &name, "global", vector, ty, Since(74, 70));
        }
    }
}

/// The register for an element: 8 and 16 bits in a wider one, so that the extension shows.
fn register(ty: Ty) -> &'static str {
    match ty.bits() {
        8 | 16 => "b32",
        _ => ty.register(),
    }
}

fn count(vector: &str) -> usize {
    match vector {
        "v2" => 2,
        "v4" => 4,
        _ => 1,
    }
}

fn operand(vector: &str) -> String {
    if vector.is_empty() {
        return "%e0".to_owned();
    }
    let list: Vec<String> = (0..count(vector))
        .map(|index| format!("%e{index}"))
        .collect();
    format!("{{{}}}", list.join(", "))
}

fn bytes(name: &str) -> Vec<u8> {
    let mut numbers = Numbers::named(name);
    (0..THREADS as usize * SLOT)
        .map(|_| numbers.bits() as u8)
        .collect()
}

/// Puts the thread's bytes where the space is; `%rd9` is then their address.
fn place(space: &str) -> (String, String) {
    let copy = |space: &str| {
        (0..SLOT / 8)
            .map(|word| {
                let at = word * 8;
                format!("ld.global.b64 %rd1, [%rd0+{at}]; st.{space}.b64 [%rd9+{at}], %rd1;\n")
            })
            .collect::<String>()
    };
    let start = format!("mad.wide.u32 %rd0, %t, {SLOT}, %in;\n");
    match space {
        "" | "global" => (String::new(), start + "mov.u64 %rd9, %rd0;\n"),
        "local" => (
            String::new(),
            start
                + &format!(".local .align 16 .b8 own[{SLOT}]; mov.u64 %rd9, own;\n")
                + &copy("local"),
        ),
        _ => (
            format!(
                ".shared .align 16 .b8 {{k}}s[{}];\n",
                SLOT * THREADS as usize
            ),
            start
                + &format!("mov.u64 %rd9, {{k}}s; mad.wide.u32 %rd9, %t, {SLOT}, %rd9;\n")
                + &copy("shared"),
        ),
    }
}

fn load(table: &mut Table, name: &str, space: &str, vector: &str, ty: Ty, since: Since) {
    let elements = count(vector);
    let input = bytes(name);
    let mut declarations = String::new();
    let mut body;
    match space {
        "const" => {
            let values: Vec<String> = input.iter().map(u8::to_string).collect();
            declarations = format!(
                ".const .align 16 .b8 {{k}}c[{}] = {{{}}};\n",
                input.len(),
                values.join(",")
            );
            body = format!("mov.u64 %rd9, {{k}}c; mad.wide.u32 %rd9, %t, {SLOT}, %rd9;\n");
        }
        "param" => {
            // The addresses of the buffers are what can be read there; they come out as well.
            if ty.bytes() * elements > 8 {
                return;
            }
            body = String::new();
        }
        _ => (declarations, body) = place(space),
    }
    let from = if space == "param" { "pin" } else { "%rd9" };
    body += &format!(
        ".reg .{} %e<4>;\n{name} {}, [{from}];\n",
        register(ty),
        operand(vector)
    );
    let width = elements * CELL + CELL;
    body += &format!("mad.wide.u32 %out, %t, {width}, %out;\n");
    for element in 0..elements {
        let at = element * CELL;
        body += &if ty == Ty::B128 {
            format!(
                "mov.b128 {{%rd1, %rd2}}, %e{element}; st.global.v2.b64 [%out+{at}], {{%rd1, %rd2}};\n"
            )
        } else {
            format!("st.global.{} [%out+{at}], %e{element};\n", register(ty))
        };
    }
    if space == "param" {
        body += &format!(
            "ld.param.b64 %rd1, [pin]; st.global.b64 [%out+{}], %rd1;\n",
            elements * CELL
        );
    }
    let is_param = space == "param";
    table.kernel(name, since, Kernel {
        declarations,
        body,
        threads: THREADS,
        blocks: 1,
        input,
        output: THREADS as usize * width,
        faults: false,
        objects: Vec::new(),
        judge: Box::new(move |input, output| {
            for thread in 0..THREADS as usize {
                let out = &output[thread * width..][..width];
                let source = if is_param { &out[elements * CELL..][..8] } else { &input[thread * SLOT..] };
                for element in 0..elements {
                    let mut bits = [0; 16];
                    bits[..ty.bytes()].copy_from_slice(&source[element * ty.bytes()..][..ty.bytes()]);
                    let mut wanted = u128::from_le_bytes(bits);
                    if ty.bits() < 32 {
                        wanted = ty.value(wanted) as u128 & 0xffff_ffff;
                    }
                    let mut got = [0; CELL];
                    got.copy_from_slice(&out[element * CELL..][..CELL]);
                    let got = u128::from_le_bytes(got);
                    if got != wanted {
                        return Err(format!("thread {thread}, element {element}: got {got:#x}, wanted {wanted:#x}"));
                    }
                }
            }
            Ok(())
        }),
    });
}

fn store(table: &mut Table, name: &str, space: &str, vector: &str, ty: Ty, since: Since) {
    let elements = count(vector);
    let input = bytes(name);
    let size = ty.bytes();
    let mut body = format!(
        ".reg .{} %e<4>;\nmad.wide.u32 %rd0, %t, {SLOT}, %in;\n",
        register(ty)
    );
    body += &format!("mad.wide.u32 %out, %t, {SLOT}, %out;\n");
    for element in 0..elements {
        let at = element * size;
        body += &match ty {
            Ty::B128 => format!(
                "ld.global.v2.b64 {{%rd1, %rd2}}, [%rd0+{at}]; mov.b128 %e{element}, {{%rd1, %rd2}};\n"
            ),
            // The rest of the register must not be stored.
            _ if ty.bits() < 32 => format!(
                "ld.global.b{} %e{element}, [%rd0+{at}]; or.b32 %e{element}, %e{element}, {};\n",
                ty.bits(),
                0xa5a5_a5a5_u32 << ty.bits()
            ),
            _ => format!("ld.global.{} %e{element}, [%rd0+{at}];\n", ty.register()),
        };
    }
    let mut declarations = String::new();
    let (address, back) = match space {
        "" | "global" => ("mov.u64 %rd9, %out;\n".to_owned(), ""),
        "local" => (
            format!(".local .align 16 .b8 own[{SLOT}]; mov.u64 %rd9, own; mov.b64 %rd1, 0;\n"),
            "local",
        ),
        _ => {
            declarations = format!(
                ".shared .align 16 .b8 {{k}}s[{}];\n",
                SLOT * THREADS as usize
            );
            (
                format!(
                    "mov.u64 %rd9, {{k}}s; mad.wide.u32 %rd9, %t, {SLOT}, %rd9; mov.b64 %rd1, 0;\n"
                ),
                "shared",
            )
        }
    };
    body += &address;
    if !back.is_empty() {
        for word in 0..SLOT / 8 {
            body += &format!("st.{back}.b64 [%rd9+{}], %rd1;\n", word * 8);
        }
    }
    body += &format!("{name} [%rd9], {};\n", operand(vector));
    if !back.is_empty() {
        for word in 0..SLOT / 8 {
            let at = word * 8;
            body += &format!("ld.{back}.b64 %rd1, [%rd9+{at}]; st.global.b64 [%out+{at}], %rd1;\n");
        }
    }
    table.kernel(
        name,
        since,
        Kernel {
            declarations,
            body,
            threads: THREADS,
            blocks: 1,
            input,
            output: THREADS as usize * SLOT,
            faults: false,
            objects: Vec::new(),
            judge: Box::new(move |input, output| {
                for thread in 0..THREADS as usize {
                    let mut wanted = [0; SLOT];
                    let written = elements * size;
                    wanted[..written].copy_from_slice(&input[thread * SLOT..][..written]);
                    let got = &output[thread * SLOT..][..SLOT];
                    if got != wanted {
                        return Err(format!(
                            "thread {thread}: got {got:02x?}, wanted {wanted:02x?}"
                        ));
                    }
                }
                Ok(())
            }),
        },
    );
}
