//! Any byte string as a module gives an error or a program, never a crash or a hang: the fuzz target's
//! corpus, mutated the same way every time. `SOFTCUDA_FUZZ_SECONDS` makes it go on for that long with new
//! mutations; the input at hand is in `fuzz-last.ptx` in cargo's folder for test files, so that a crash
//! leaves it there.

#![allow(clippy::expect_used, clippy::panic, reason = "a test")]

mod exercise;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use exercise::exercise;

/// Cases of one ordinary run: some seconds.
const CASES: usize = if cfg!(debug_assertions) { 400 } else { 4000 };

/// Words that a mutation may put in: what modules consist of, and extremes.
const WORDS: &[&str] = &[
    ".version",
    "8.0",
    ".target",
    "sm_90",
    ".entry",
    ".func",
    ".visible",
    ".extern",
    ".weak",
    ".param",
    ".reg",
    ".local",
    ".shared",
    ".global",
    ".const",
    ".align",
    ".b8",
    ".b16",
    ".b32",
    ".b64",
    ".b128",
    ".pred",
    ".u8",
    ".u16",
    ".u32",
    ".u64",
    ".s32",
    ".s64",
    ".f16",
    ".f32",
    ".f64",
    ".v2",
    ".v4",
    ".v8",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "<",
    ">",
    ";",
    ",",
    "=",
    "+",
    "-",
    "|",
    "@%p0",
    "@!%p1",
    "%r0",
    "%r1",
    "%y0",
    "%f0",
    "%p0",
    "%tid.x",
    "%ctaid.x",
    "%envreg2",
    "0",
    "1",
    "-1",
    "4096",
    "2147483648",
    "18446744073709551615",
    "99999999999999999999999",
    "0x",
    "0f7FC00000",
    "0d7FF0000000000000",
    "1e999",
    "mov",
    "add",
    "mul.lo",
    "mad.wide",
    "ld",
    "st",
    "ld.volatile",
    "atom.add",
    "atom.cas",
    "bra",
    "bra.uni",
    "brx.idx",
    "call",
    "ret",
    "exit",
    "trap",
    "bar.sync",
    "bar.arrive",
    "bar.red.popc",
    "barrier.sync",
    "shfl.sync.idx",
    "vote.sync.ballot",
    "match.any.sync",
    "redux.sync.add",
    "activemask",
    "elect.sync",
    "setp.lt",
    "selp",
    "cvt",
    "cvta",
    "cvta.to",
    "div",
    "rem",
    "fma.rn",
    "sqrt.approx",
    "prmt",
    "lop3",
    "bfe",
    "bfi",
    "addc.cc",
    "membar.gl",
    "nanosleep",
    "isspacep",
    "vprintf",
    "malloc",
    "free",
    ".maxntid",
    ".reqntid",
    ".noreturn",
    ".branchtargets",
    ".callprototype",
    ".section",
    ".loc",
    ".file",
    ".pragma",
    "\"nounroll\"",
    "_",
    "a",
    "k",
    "//",
    "/*",
    "*/",
    "\"",
    "\\",
    "\0",
    "\u{e9}",
    "\n",
    "$L",
];

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) as usize >> 1
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() % end.max(1)
    }
}

/// Where words begin and end: names with their dots, numbers, and marks.
fn tokens(text: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"_%$".contains(&byte);
    while at < text.len() {
        let start = at;
        at += 1;
        if inside(text[start]) || text[start] == b'.' {
            while at < text.len() && inside(text[at]) {
                at += 1;
            }
        }
        if !text[start].is_ascii_whitespace() {
            found.push((start, at));
        }
    }
    found
}

/// A module with some changes.
fn mutated(seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut text = seeds[numbers.below(seeds.len())].clone();
    if numbers.below(2) == 0 {
        // Gently: words of one kind change places, so that the module may still compile.
        for _ in 0..=numbers.below(3) {
            let places = tokens(&text);
            let (start, end) = places[numbers.below(places.len())];
            let kind = |&(start, _): &(usize, usize)| match text[start] {
                b'0'..=b'9' => 0,
                byte @ (b'%' | b'.') => byte,
                byte if byte.is_ascii_alphabetic() => 1,
                _ => 2,
            };
            let alike: Vec<_> = places
                .iter()
                .filter(|place| kind(place) == kind(&(start, end)))
                .collect();
            let &(from, to) = alike[numbers.below(alike.len())];
            let word = text[from..to].to_vec();
            text.splice(start..end, word);
        }
        return text;
    }
    for _ in 0..=numbers.below(4) {
        let places = tokens(&text);
        let place = |numbers: &mut Numbers| {
            places
                .get(numbers.below(places.len()))
                .copied()
                .unwrap_or((0, 0))
        };
        match numbers.below(10) {
            0 if !text.is_empty() => {
                let at = numbers.below(text.len());
                text[at] ^= 1 << numbers.below(8);
            }
            1 => {
                let at = numbers.below(text.len() + 1);
                text.truncate(at);
            }
            2 => {
                // A piece of another seed.
                let other = &seeds[numbers.below(seeds.len())];
                let (start, at) = (numbers.below(other.len()), numbers.below(text.len() + 1));
                let end = (start + numbers.below(200)).min(other.len());
                text.splice(at..at, other[start..end].iter().copied());
            }
            3 => {
                let (start, end) = place(numbers);
                text.drain(start..end);
            }
            4 => {
                // A word again, perhaps very often.
                let (start, end) = place(numbers);
                let times = [1, 1, 2, 300][numbers.below(4)];
                let mut word = text[start..end].repeat(times);
                word.push(b' ');
                text.splice(start..start, word);
            }
            5 | 6 => {
                let ((a, b), (c, d)) = (place(numbers), place(numbers));
                let word = text[c..d].to_vec();
                text.splice(a..b, word);
            }
            7 => {
                // A line goes elsewhere.
                let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
                let mut lines: Vec<Vec<u8>> = lines.into_iter().map(<[u8]>::to_vec).collect();
                let line = lines.remove(numbers.below(lines.len()));
                let to = numbers.below(lines.len() + 1);
                lines.insert(to, line);
                text = lines.join(&b'\n');
            }
            _ => {
                let (start, end) = place(numbers);
                let word = WORDS[numbers.below(WORDS.len())].bytes();
                text.splice(start..end, word);
            }
        }
        text.truncate(1 << 16);
    }
    text
}

fn seeds() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/module");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the corpus")
        .map(|entry| entry.expect("the corpus").path())
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| std::fs::read(path).expect("a file of the corpus"))
        .collect()
}

#[test]
fn the_corpus_breaks_nothing() {
    let good = seeds().iter().filter(|seed| exercise(seed)).count();
    // Some of it are inputs that once broke something, and are no modules.
    assert!(good >= 6, "{good} of the corpus compile");
}

#[test]
fn mutated_modules_break_nothing() {
    let seeds = seeds();
    let seconds = std::env::var("SOFTCUDA_FUZZ_SECONDS").ok();
    let seconds: Option<u64> = seconds.map(|text| text.parse().expect("seconds"));
    let seed = match seconds {
        None => 1,
        Some(_) => std::process::id().into(),
    };
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let last = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fuzz-last.ptx");
    let mut numbers = Numbers(seed);
    let (mut cases, mut good) = (0, 0);
    while if seconds.is_some() {
        Instant::now() < until
    } else {
        cases < CASES
    } {
        let text = mutated(&seeds, &mut numbers);
        std::fs::write(&last, &text).expect("a place for the input");
        let started = Instant::now();
        good += usize::from(exercise(&text));
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "it took {:?}",
            started.elapsed()
        );
        cases += 1;
    }
    eprintln!("{cases} cases, of which {good} compile");
    assert!(
        good * 20 > cases,
        "{good} of {cases} cases compile: the mutations are too wild"
    );
}

#[test]
fn extremes_are_refused_in_no_time() {
    let header = ".version 8.0\n.target sm_90\n.address_size 64\n";
    let many = |text: &str, times: usize| text.repeat(times);
    let body = |text: String| {
        format!("{header}.entry k() {{ .reg .b32 %r<9>; .reg .pred %p<3>; {text} ret; }}")
    };
    for text in [
        many("{", 100_000),
        format!("{header}{}", many("(", 100_000)),
        body(many("{", 100_000)),
        format!("{header}.global .u32 x = {};", many("(", 100_000)),
        format!("{header}.global .u32 x = {}1;", many("-", 100_000)),
        format!("{header}.global .u32 x = {}1;", many("1+", 100_000)),
        format!("{header}.global .u32 x[2] = {};", many("{", 100_000)),
        format!("{header}.global .b8 x[999999999999999];"),
        format!("{header}.global .b8 x[1099511627776];"),
        format!("{header}.global .b8 x{};", many("[65536]", 10)),
        format!(
            "{header}.shared .align 4096 .b8 x[4294967296]; .entry k() {{ .reg .b32 %r; mov.u32 %r, x; ret; }}"
        ),
        format!("{header}.global .align 9223372036854775808 .b8 x;"),
        body(".reg .b32 %q<4294967295>; mov.u32 %q4294967294, 1;".into()),
        body(".reg .b32 %q<18446744073709551615>; mov.u32 %q7, 1;".into()),
        body(".local .b8 x[4000000000];".into()),
        body(format!("mov.u32 %r0, {{{}}};", many("%r0,", 100_000))),
        body(format!("add{} %r0, %r1, %r2;", many(".u32", 50_000))),
        body(many("bra a; a: ", 1)),
        body(format!(
            "a: {} bra a;",
            many("add.u32 %r0, %r0, 1; @%p0 bra a; ", 2_000)
        )),
        body(many("bar.sync 0; ", 3_000)),
        body(many("@%p0 exit; ld.volatile.shared.u32 %r0, [0]; ", 2_000)),
        format!(
            "{header}{}",
            (0..3_000)
                .map(|i| format!(".func f{i}() {{ ret; }}\n"))
                .collect::<String>()
        ),
        format!(
            "{header}.func f0() {{ ret; }}\n{}.entry k() {{ call f500, (); ret; }}",
            (1..=500)
                .map(|i| format!(
                    ".func f{i}() {{ call f{}, (); call f{}, (); ret; }}\n",
                    i - 1,
                    i - 1
                ))
                .collect::<String>()
        ),
        format!(
            "{header}{}",
            (0..20_000)
                .map(|i| format!(".global .u32 v{i};\n"))
                .collect::<String>()
        ),
        body(
            (0..5_000)
                .map(|i| format!(".reg .f32 %x{i}; mov.f32 %x{i}, 0f00000000; bar.sync 0; "))
                .collect(),
        ),
        "\0".into(),
        "\u{feff}.version 8.0".into(),
        header.into(),
        many("//", 1 << 20),
        many("/*", 1 << 20),
        many(".version 8.0\n", 100_000),
        many("\"", 99_999),
        many("9", 1 << 20),
        format!("{header}{}", many(".", 1 << 20)),
    ] {
        let started = Instant::now();
        exercise(text.as_bytes());
        let limit = Duration::from_secs(if cfg!(debug_assertions) { 120 } else { 30 });
        let start: String = text.chars().take(120).collect();
        assert!(
            started.elapsed() < limit,
            "{start}: {:?}",
            started.elapsed()
        );
    }
}
