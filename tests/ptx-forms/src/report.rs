//! The coverage table: what the forms' tests found, opcode by opcode, for people, for programs and for
//! docs/ptx-coverage.md. It must never call a form tested whose test did not run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::form::{Form, Group};
use crate::run::{self, Outcome};
use crate::types::Since;

/// What was found about the forms of one opcode.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Opcode {
    /// Forms in the table.
    pub forms: usize,
    /// Forms whose results are the reference's.
    pub right: usize,
    /// Forms whose results are not.
    pub wrong: Vec<Finding>,
    /// Forms that softcuda compiles although the table says that it lacks them, so that nothing tests them.
    pub untested: Vec<String>,
    /// Forms that softcuda does not compile, and does not have to.
    pub lacking: Vec<Finding>,
    /// Forms that softcuda does not compile although it has to.
    pub missing: Vec<Finding>,
}

/// A form and what is to be said about it.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The form's name.
    pub form: String,
    /// What differs, or the error that a user gets.
    pub message: String,
}

/// All opcodes' findings, by name.
pub type Findings = BTreeMap<String, Opcode>;

/// Runs the forms and sorts what was found.
pub fn findings(forms: &[&Form]) -> Findings {
    let mut all = Findings::new();
    for (form, outcome) in forms.iter().zip(run::run(forms)) {
        let opcode = all.entry(form.root().to_owned()).or_default();
        opcode.forms += 1;
        let finding = |message| Finding {
            form: form.name.clone(),
            message,
        };
        match outcome {
            Outcome::Right if form.lacks.is_some() => opcode.untested.push(form.name.clone()),
            Outcome::Right => opcode.right += 1,
            Outcome::Wrong(_) if form.lacks.is_some() => opcode.untested.push(form.name.clone()),
            Outcome::Wrong(why) => opcode.wrong.push(finding(why)),
            Outcome::Unsupported(error) if form.lacks.is_some() => {
                opcode.lacking.push(finding(error));
            }
            Outcome::Unsupported(error) => opcode.missing.push(finding(error)),
        }
    }
    all
}

impl Opcode {
    /// Whether every form is as the table says.
    pub const fn good(&self) -> bool {
        self.wrong.is_empty() && self.missing.is_empty() && self.untested.is_empty()
    }
}

/// Whether a group has forms of the table at all, and which.
pub fn of_group(forms: &[Form], group: Group) -> Vec<&Form> {
    forms.iter().filter(|form| form.group == group).collect()
}

/// The instruction set's opcodes, up to PTX 8.8.
const OPCODES: &str = "abs activemask add addc alloca and applypriority atom bar barrier bfe bfi bfind bmsk bra brev \
    brkpt brx call clusterlaunchcontrol clz cnot copysign cos cp createpolicy cvt cvta discard div dp2a dp4a elect ex2 \
    exit fence fma fns getctarank griddepcontrol isspacep istypep ld ldmatrix ldu lg2 lop3 mad mad24 madc mapa match max \
    mbarrier membar min mma mov movmatrix mul mul24 multimem nanosleep neg not or pmevent popc prefetch prefetchu prmt rcp \
    red redux rem ret rsqrt sad selp set setmaxnreg setp shf shfl shl shr sin slct sqrt st stackrestore stacksave stmatrix \
    sub subc suld suq sured sust szext tanh tcgen05 tensormap testp tex tld4 trap txq vabsdiff vabsdiff2 vabsdiff4 vadd \
    vadd2 vadd4 vavrg2 vavrg4 vmad vmax vmax2 vmax4 vmin vmin2 vmin4 vote vset vset2 vset4 vshl vshr vsub vsub2 vsub4 \
    wgmma wmma xor";

/// Opcodes that softcuda knows and the table has no form of.
pub fn without_forms(forms: &[Form]) -> Vec<&'static str> {
    let tested = |opcode: &str| forms.iter().any(|form| form.root() == opcode);
    OPCODES
        .split_whitespace()
        .filter(|opcode| !tested(opcode) && run::knows(opcode))
        .collect()
}

/// The whole of docs/ptx-coverage.md. Only the forms that softcuda lacks are compiled for it: the others
/// are there because the tests of this crate pass.
pub fn document(forms: &[Form]) -> String {
    let mut opcodes: BTreeMap<(Group, &str), (usize, usize, Since)> = BTreeMap::new();
    for form in forms {
        let entry = opcodes
            .entry((form.group, form.root()))
            .or_insert((0, 0, form.since));
        entry.0 += 1;
        entry.1 += usize::from(form.lacks.is_some());
        entry.2 = entry.2.min(form.since);
    }
    let lacking: Vec<&Form> = forms.iter().filter(|form| form.lacks.is_some()).collect();
    let mut text = format!(
        "<!-- Written by `cargo xtask ptx-coverage --write` from the table of tests/ptx-forms. Do not edit. -->\n\n\
         # PTX on softcuda\n\n\
         Every form (opcode, modifiers, types) of the PTX instructions for sm_50 to sm_90, PTX 6.0 and later: {} \
         forms, of which {} are tested. A test runs the form on edge values and others and compares each result \
         with a reference that shares no code with softcuda: exact integers, `rustc_apfloat`, true values to \
         some hundred bits with the error that the instruction set allows. `cargo test --release -p ptx-forms` \
         runs all of them and fails where one differs; `cargo xtask ptx-coverage` prints what it found.\n\n\
         Immediate operands are tried beside registers. Hints that change no result (cache operators, eviction \
         priorities, prefetch sizes) are combined with some types only.\n\n\
         | group | opcode | forms | tested | not supported | since |\n|---|---|---:|---:|---:|---|\n",
        forms.len(),
        forms.len() - lacking.len(),
    );
    for ((group, opcode), (count, lacks, since)) in &opcodes {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | `{opcode}` | {count} | {} | {} | PTX {}.{}, sm_{} |",
            format!("{group:?}").to_lowercase(),
            count - lacks,
            if *lacks == 0 {
                String::new()
            } else {
                lacks.to_string()
            },
            since.0 / 10,
            since.0 % 10,
            since.1,
        );
    }
    text.push_str("\n## Supported, but not tested here\n\n");
    match without_forms(forms).as_slice() {
        [] => text.push_str("No opcode.\n"),
        opcodes => {
            let _ = writeln!(text, "`{}`", opcodes.join("`, `"));
        }
    }
    text.push_str(
        "\n## Not supported\n\nA module with one of these does not load; the error is what the log says.\n\n\
         | forms | why | error |\n|---|---|---|\n",
    );
    // One line for forms that differ only in what the error repeats.
    let mut lines: BTreeMap<(&str, String, String), usize> = BTreeMap::new();
    for (form, outcome) in lacking.iter().zip(run::run(&lacking)) {
        let error = match outcome {
            Outcome::Unsupported(error) => error.replace(&form.name, form.root()),
            _ => "compiles, but is not tested".to_owned(),
        };
        let why = form.lacks.unwrap_or_default();
        *lines
            .entry((why, form.root().to_owned(), error))
            .or_default() += 1;
    }
    for ((why, opcode, error), count) in lines {
        let _ = writeln!(
            text,
            "| `{opcode}`: {count} | {why} | {} |",
            error.replace('|', "\\|")
        );
    }
    text
}
