//! What one form of an instruction is and how it is tested: a kernel around it, inputs, and a judge that
//! says what the output should have been. It must never run anything itself.

use softcuda::exec::texture::{ChannelFormat, Sampler, Shape};

use crate::reference::float::Format;
use crate::types::{Numbers, Since, Ty, edges, random};

/// The groups that tests come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "their names say it")]
pub enum Group {
    Integer,
    Float,
    Convert,
    Compare,
    Logic,
    Memory,
    Atomic,
    Warp,
    Matrix,
    Texture,
    Video,
    Control,
}

/// An opcode with its exact modifiers and types, and its test.
pub struct Form {
    /// As PTX spells it.
    pub name: String,
    /// The group it is tested in.
    pub group: Group,
    /// Where it is first available.
    pub since: Since,
    /// Why softcuda need not have it, if so.
    pub lacks: Option<&'static str>,
    /// How it is tested.
    pub test: Test,
}

impl Form {
    /// The opcode without modifiers.
    pub fn root(&self) -> &str {
        self.name.split(['.', ' ']).next().unwrap_or_default()
    }
}

/// How a form is tested.
pub enum Test {
    /// Thread by thread, over many inputs.
    Map(Map),
    /// A kernel of its own.
    Kernel(Kernel),
}

/// What outputs are right: the bit patterns wanted, told from those got.
pub type Judge = Box<dyn Fn(&[u128], &[u128]) -> Result<(), String> + Send + Sync>;

/// An instruction that each thread executes on its own inputs.
pub struct Map {
    /// `{0}`, `{1}`, … in the code.
    pub inputs: Vec<Ty>,
    /// `{d}` (the first), `{d1}`, … in the code.
    pub outputs: Vec<Ty>,
    /// The instruction, and what it needs around it.
    pub code: String,
    /// The input that may be an immediate: the code is then tried with some as well.
    pub immediate: Option<usize>,
    /// What inputs to try beside edges.
    pub values: Values,
    /// Judges one thread's outputs.
    pub judge: Judge,
}

/// What inputs are tried.
#[derive(Debug, Clone)]
pub enum Values {
    /// Edges of the types with each other, and random patterns.
    Usual,
    /// The same, and these for the first input.
    With(Vec<u128>),
}

/// Judges a whole output: input bytes, output bytes.
pub type WholeJudge = Box<dyn Fn(&[u8], &[u8]) -> Result<(), String> + Send + Sync>;

/// A kernel of its own: `%in` and `%out` are its buffers' addresses, `%t` is the thread's number.
pub struct Kernel {
    /// Declarations of the module; `{k}` makes names unique.
    pub declarations: String,
    /// The body; `{k}` as in the declarations.
    pub body: String,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks.
    pub blocks: u32,
    /// The input buffer.
    pub input: Vec<u8>,
    /// Bytes of the output buffer, which holds zeros at first.
    pub output: usize,
    /// Whether the launch has to end with a fault.
    pub faults: bool,
    /// Texture and surface objects: their handles are the first words of the input buffer, 64 bits each,
    /// and what their memory holds after the launch follows the output.
    pub objects: Vec<Object>,
    /// Judges the output.
    pub judge: WholeJudge,
}

/// A texture or surface object: its levels lie behind one another without gaps, and so do their slices
/// or layers, and their rows.
#[derive(Debug, Clone)]
pub struct Object {
    /// Arrangement.
    pub shape: Shape,
    /// Of each channel.
    pub format: ChannelFormat,
    /// Of a texel.
    pub channels: u32,
    /// Width, height and depth of the first level.
    pub sizes: [u32; 3],
    /// Layers, or faces.
    pub layers: u32,
    /// Mip levels.
    pub levels: u32,
    /// How it is read.
    pub sampler: Sampler,
    /// All texels.
    pub texels: Vec<u8>,
}

impl Object {
    /// Sizes of a level: each half as large as the one before.
    pub fn sizes(&self, level: u32) -> [u32; 3] {
        self.sizes.map(|size| (size >> level).max(1))
    }

    /// Bytes of a texel.
    pub const fn texel(&self) -> u32 {
        self.format.bytes() * self.channels
    }

    /// Where a level begins, in bytes; also where the one after the last would.
    pub fn start(&self, level: u32) -> u64 {
        let texels = (0..level).map(|level| {
            let sizes = self.sizes(level).map(u64::from);
            sizes[0] * sizes[1] * sizes[2] * u64::from(self.layers)
        });
        texels.sum::<u64>() * u64::from(self.texel())
    }
}

/// Immediates tried per form.
const IMMEDIATES: usize = 4;

impl Map {
    /// Bytes that an input or output takes in its buffer.
    const SLOT: usize = 16;

    /// A map of so many inputs and one output.
    pub fn new(
        inputs: &[Ty],
        output: Ty,
        code: impl Into<String>,
        judge: impl Fn(&[u128], &[u128]) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            inputs: inputs.to_vec(),
            outputs: vec![output],
            code: code.into(),
            immediate: None,
            values: Values::Usual,
            judge: Box::new(judge),
        }
    }

    /// With immediates for this input.
    pub const fn immediate(mut self, input: usize) -> Self {
        self.immediate = Some(input);
        self
    }

    /// With other outputs.
    pub fn outputs(mut self, outputs: &[Ty]) -> Self {
        self.outputs = outputs.to_vec();
        self
    }

    /// With more values for the first input.
    pub fn with(mut self, values: Vec<u128>) -> Self {
        self.values = Values::With(values);
        self
    }

    fn immediates(&self, name: &str) -> Vec<u128> {
        let Some(at) = self.immediate else {
            return Vec::new();
        };
        let ty = self.inputs[at];
        let mut numbers = Numbers::named(name);
        let edges = edges(ty);
        (0..IMMEDIATES)
            .map(|_| numbers.pick(&edges) & ty.mask())
            .collect()
    }

    fn samples(&self, name: &str) -> Vec<Vec<u128>> {
        let mut numbers = Numbers::named(name);
        let all: Vec<Vec<u128>> = self.inputs.iter().map(|&ty| edges(ty)).collect();
        let mut samples = Vec::new();
        if let Values::With(values) = &self.values {
            for &value in values {
                let mut sample: Vec<u128> = all.iter().map(|edges| numbers.pick(edges)).collect();
                sample[0] = value;
                samples.push(sample);
            }
        }
        match all.as_slice() {
            [] => samples.push(Vec::new()),
            [one] => samples.extend(one.iter().map(|&value| vec![value])),
            [a, b] => {
                for &a in a {
                    samples.extend(b.iter().map(|&b| vec![a, b]));
                }
            }
            many => {
                for _ in 0..384 {
                    samples.push(many.iter().map(|edges| numbers.pick(edges)).collect());
                }
            }
        }
        let limit = if all.len() > 1 { 448 } else { 256 };
        while samples.len() > limit {
            let out = numbers.below(samples.len());
            samples.swap_remove(out);
        }
        for index in 0..192_usize {
            samples.push(
                self.inputs
                    .iter()
                    .zip(&all)
                    .map(|(&ty, edges)| {
                        if index % 4 == 3 && numbers.bits() & 1 == 0 {
                            numbers.pick(edges)
                        } else {
                            random(ty, &mut numbers)
                        }
                    })
                    .collect(),
            );
        }
        samples
    }

    /// The kernel that does it.
    pub fn kernel(&self, name: &str) -> Prepared {
        use std::fmt::Write as _;
        let samples = self.samples(name);
        let immediates = self.immediates(name);
        let (ins, outs) = (self.inputs.len(), self.outputs.len());
        let mut body = String::new();
        // Writing to a String cannot fail.
        macro_rules! line { ($($arg:tt)*) => { let _ = writeln!(body, $($arg)*); } }
        for (index, ty) in self.inputs.iter().enumerate() {
            line!(".reg .{} %a{index};", ty.register());
        }
        let instances = 1 + immediates.len();
        line!(
            "mad.wide.u32 %in, %t, {}, %in; mad.wide.u32 %out, %t, {}, %out;",
            ins * Self::SLOT,
            outs * instances * Self::SLOT
        );
        for (index, ty) in self.inputs.iter().enumerate() {
            let at = index * Self::SLOT;
            match ty {
                Ty::Pred => {
                    line!("ld.global.u32 %t, [%in+{at}]; setp.ne.u32 %a{index}, %t, 0;");
                }
                Ty::B128 => {
                    line!(
                        "{{ .reg .b64 %lo, %hi; ld.global.v2.b64 {{%lo, %hi}}, [%in+{at}]; mov.b128 %a{index}, {{%lo, %hi}}; }}"
                    );
                }
                _ => {
                    line!("ld.global.{} %a{index}, [%in+{at}];", ty.register());
                }
            }
        }
        for instance in 0..instances {
            let mut code = self.code.clone();
            for (index, ty) in self.inputs.iter().enumerate() {
                let operand = match instance.checked_sub(1) {
                    Some(which) if self.immediate == Some(index) => ty.literal(immediates[which]),
                    _ => format!("%a{index}"),
                };
                code = code.replace(&format!("{{{index}}}"), &operand);
            }
            code = code.replace("{d}", "%d0");
            for index in 0..outs {
                code = code.replace(&format!("{{d{index}}}"), &format!("%d{index}"));
            }
            line!("{{");
            for (index, ty) in self.outputs.iter().enumerate() {
                line!(".reg .{} %d{index};", ty.register());
            }
            line!("{code}");
            for (index, ty) in self.outputs.iter().enumerate() {
                let at = (instance * outs + index) * Self::SLOT;
                match ty {
                    Ty::Pred => {
                        line!("selp.u32 %t, 1, 0, %d{index}; st.global.u32 [%out+{at}], %t;");
                    }
                    Ty::B128 => {
                        line!(
                            "{{ .reg .b64 %lo, %hi; mov.b128 {{%lo, %hi}}, %d{index}; st.global.v2.b64 [%out+{at}], {{%lo, %hi}}; }}"
                        );
                    }
                    _ => {
                        line!("st.global.{} [%out+{at}], %d{index};", ty.register());
                    }
                }
            }
            line!("}}");
        }
        let mut input = Vec::new();
        for sample in &samples {
            for value in sample {
                input.extend_from_slice(&value.to_le_bytes());
            }
        }
        Prepared {
            declarations: String::new(),
            body,
            threads: 64,
            blocks: samples.len().div_ceil(64) as u32,
            count: samples.len() as u32,
            output: samples.len() * outs * instances * Self::SLOT,
            input,
            objects: Vec::new(),
        }
    }

    /// Judges what the kernel wrote.
    ///
    /// # Errors
    /// The first inputs whose outputs are wrong, with what was wanted.
    pub fn check(&self, name: &str, output: &[u8]) -> Result<(), String> {
        let samples = self.samples(name);
        let immediates = self.immediates(name);
        let outs = self.outputs.len();
        let per = outs * (1 + immediates.len());
        for (index, sample) in samples.iter().enumerate() {
            for instance in 0..=immediates.len() {
                let mut values = sample.clone();
                if let (Some(at), Some(which)) = (self.immediate, instance.checked_sub(1)) {
                    values[at] = immediates[which];
                }
                let got: Vec<u128> = (0..outs)
                    .map(|out| {
                        let at = (index * per + instance * outs + out) * Self::SLOT;
                        let mut bytes = [0; Self::SLOT];
                        bytes.copy_from_slice(&output[at..at + Self::SLOT]);
                        u128::from_le_bytes(bytes)
                    })
                    .collect();
                (self.judge)(&values, &got).map_err(|wanted| {
                    format!(
                        "{}({}): got {}, wanted {wanted}",
                        if instance > 0 {
                            "with an immediate, "
                        } else {
                            ""
                        },
                        hex(&values),
                        hex(&got)
                    )
                })?;
            }
        }
        Ok(())
    }
}

/// Bit patterns as people compare them.
pub fn hex(values: &[u128]) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("{value:#x}")).collect();
    values.join(", ")
}

/// A kernel ready to be put into a module.
#[derive(Debug)]
pub struct Prepared {
    /// Declarations of the module.
    pub declarations: String,
    /// The body.
    pub body: String,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks.
    pub blocks: u32,
    /// Threads that do anything.
    pub count: u32,
    /// The input buffer.
    pub input: Vec<u8>,
    /// Bytes of the output buffer.
    pub output: usize,
    /// Texture and surface objects.
    pub objects: Vec<Object>,
}

impl Test {
    /// The kernel that does it.
    pub fn prepare(&self, name: &str) -> Prepared {
        match self {
            Self::Map(map) => map.kernel(name),
            Self::Kernel(kernel) => Prepared {
                declarations: kernel.declarations.clone(),
                body: kernel.body.clone(),
                threads: kernel.threads,
                blocks: kernel.blocks,
                count: kernel.threads * kernel.blocks,
                input: kernel.input.clone(),
                output: kernel.output,
                objects: kernel.objects.clone(),
            },
        }
    }

    /// Judges what the kernel wrote.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, name: &str, prepared: &Prepared, output: &[u8]) -> Result<(), String> {
        match self {
            Self::Map(map) => map.check(name, output),
            Self::Kernel(kernel) => (kernel.judge)(&prepared.input, output),
        }
    }
}

/// Exactly these bits.
pub fn exact(
    wanted: impl Fn(&[u128]) -> u128 + Send + Sync + 'static,
) -> impl Fn(&[u128], &[u128]) -> Result<(), String> + Send + Sync + 'static {
    move |inputs, got| {
        let wanted = wanted(inputs);
        if got[0] == wanted {
            Ok(())
        } else {
            Err(hex(&[wanted]))
        }
    }
}

/// Exactly these bits in each output.
pub fn exact_all(
    wanted: impl Fn(&[u128]) -> Vec<u128> + Send + Sync + 'static,
) -> impl Fn(&[u128], &[u128]) -> Result<(), String> + Send + Sync + 'static {
    move |inputs, got| {
        let wanted = wanted(inputs);
        if got == wanted {
            Ok(())
        } else {
            Err(hex(&wanted))
        }
    }
}

/// This number, or any NaN where it is one; element by element for pairs.
pub fn number(
    format: Format,
    pair: bool,
    wanted: impl Fn(&[u128]) -> u128 + Send + Sync + 'static,
) -> impl Fn(&[u128], &[u128]) -> Result<(), String> + Send + Sync + 'static {
    move |inputs, got| {
        let result = if pair {
            let elements = [0, 16].map(|shift| {
                let part: Vec<u128> = inputs.iter().map(|x| x >> shift & 0xffff).collect();
                wanted(&part)
            });
            let same = (0..2).all(|index| {
                format.same(got[0] >> (16 * index) & 0xffff, elements[index as usize])
            });
            (same && got[0] >> 32 == 0, elements[1] << 16 | elements[0])
        } else {
            let wanted = wanted(inputs);
            (format.same(got[0], wanted), wanted)
        };
        match result {
            (true, _) => Ok(()),
            (false, wanted) => Err(hex(&[wanted])),
        }
    }
}
