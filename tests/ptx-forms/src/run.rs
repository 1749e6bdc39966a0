//! Runs forms on softcuda: many in one module, each alone where the module does not compile. A form's
//! mistake must never hide another's.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use softcuda::exec::texture::{ArrayMemory, Descriptor, Level, Storage, TextureTable};
use softcuda::exec::{Fault, GRANULE, Launch, MemoryView, Program};

use crate::form::{Form, Object, Prepared, Test};
use crate::types::Since;

/// Forms in one module.
const BATCH: usize = 48;

/// What became of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The results are the reference's.
    Right,
    /// The results differ, or the launch failed.
    Wrong(String),
    /// softcuda does not compile it: the error that a user gets.
    Unsupported(String),
}

/// Device memory of a fixed size.
struct Device {
    base: *mut u8,
    layout: Layout,
    valid: Vec<u8>,
    next: usize,
}

impl Device {
    const BYTES: usize = 16 << 20;
    const ALIGN: usize = 4096;

    fn new() -> Result<Self, String> {
        let layout =
            Layout::from_size_align(Self::BYTES, Self::ALIGN).map_err(|error| error.to_string())?;
        // SAFETY: the size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            return Err("no memory for a device".into());
        }
        Ok(Self {
            base,
            layout,
            valid: vec![0; Self::BYTES / GRANULE as usize],
            next: 0,
        })
    }

    /// Forgets all allocations.
    fn reset(&mut self) {
        self.valid.fill(0);
        self.next = Self::ALIGN;
    }

    /// A new allocation that holds these bytes.
    fn upload(&mut self, bytes: &[u8]) -> Result<u64, String> {
        let start = self.next;
        let end = start + bytes.len() + MemoryView::GUARD as usize;
        if end > Self::BYTES {
            return Err("the test needs more memory than its device has".into());
        }
        self.next = end.next_multiple_of(256);
        for (index, granule) in bytes.chunks(GRANULE as usize).enumerate() {
            self.valid[start / GRANULE as usize + index] = granule.len() as u8;
        }
        // SAFETY: within the device's memory, as just checked.
        unsafe {
            self.base
                .add(start)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        Ok(self.base as u64 + start as u64)
    }

    fn download(&self, address: u64, bytes: usize) -> Vec<u8> {
        let start = (address - self.base as u64) as usize;
        assert!(start + bytes <= Self::BYTES);
        // SAFETY: within the device's memory, as just checked; no kernel runs.
        unsafe { std::slice::from_raw_parts(self.base.add(start), bytes) }.to_vec()
    }

    fn view(&self) -> MemoryView {
        // SAFETY: base and size are multiples of 4096, all of it is mapped while `self` lives, and nothing
        // refers to it while a kernel runs.
        unsafe { MemoryView::new(self.base as u64, Self::BYTES as u64, self.valid.as_ptr()) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.base, self.layout) };
    }
}

/// Runs the forms on all cores; an outcome each, in their order.
pub fn run(forms: &[&Form]) -> Vec<Outcome> {
    // Modules of one version each.
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut order: Vec<usize> = (0..forms.len()).collect();
    order.sort_by_key(|&index| (forms[index].since, forms[index].lacks.is_some(), index));
    for index in order {
        let fits = |batch: &Vec<usize>| {
            batch.len() < BATCH
                && forms[batch[0]].since == forms[index].since
                && forms[index].lacks.is_none()
        };
        match batches.last_mut() {
            Some(batch) if fits(batch) => batch.push(index),
            _ => batches.push(vec![index]),
        }
    }
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![None; forms.len()]);
    let work = || {
        let mut device = Device::new();
        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            let chosen: Vec<&Form> = batch.iter().map(|&index| forms[index]).collect();
            let results = match &mut device {
                Ok(device) => run_batch(device, &chosen),
                Err(error) => vec![Outcome::Wrong(error.clone()); chosen.len()],
            };
            let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            for (&index, outcome) in batch.iter().zip(results) {
                outcomes[index] = Some(outcome);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(|| Outcome::Wrong("not run".into())))
        .collect()
}

fn run_batch(device: &mut Device, forms: &[&Form]) -> Vec<Outcome> {
    let Some(first) = forms.first() else {
        return Vec::new();
    };
    let prepared: Vec<Prepared> = forms
        .iter()
        .map(|form| form.test.prepare(&form.name))
        .collect();
    let all: Vec<(usize, &Prepared)> = prepared.iter().enumerate().collect();
    if let Ok(program) = Program::compile(&module(first.since, &all)) {
        return launch(device, &program, forms, &all);
    }
    let mut outcomes = Vec::new();
    for (form, prepared) in forms.iter().zip(&prepared) {
        let alone = [(0, prepared)];
        let text = module(form.since, &alone);
        outcomes.extend(match Program::compile(&text) {
            Ok(program) => launch(device, &program, &[form], &alone),
            Err(error) => {
                let line = text
                    .lines()
                    .nth(error.line.saturating_sub(1) as usize)
                    .unwrap_or_default();
                // An error about anything but the form is the test's.
                let about = line.contains(&form.name) || error.message.contains(form.root());
                vec![if about {
                    Outcome::Unsupported(error.message)
                } else {
                    Outcome::Unsupported(format!("{} (at: {})", error.message, line.trim()))
                }]
            }
        });
    }
    outcomes
}

/// Whether softcuda knows an opcode at all: what it says of one without operands is not that it lacks it.
pub fn knows(opcode: &str) -> bool {
    let kernel = format!(".visible .entry k() {{ {opcode}; ret; }}");
    match Program::compile(&(Since(87, 90).header() + &kernel)) {
        Ok(_) => true,
        Err(error) => !error.message.contains("lacks this instruction"),
    }
}

/// The text of a form's module, for people.
pub fn text(form: &Form) -> String {
    module(form.since, &[(0, &form.test.prepare(&form.name))])
}

fn module(since: Since, kernels: &[(usize, &Prepared)]) -> String {
    let mut text = since.header();
    for (index, kernel) in kernels {
        let name = format!("x{index}");
        text += &kernel.declarations.replace("{k}", &name);
        text += &format!(
            "\n.visible .entry k{index}(.param .u64 pin, .param .u64 pout, .param .u32 pcount) {{
.reg .b64 %in, %out, %rd<24>; .reg .b32 %t, %count, %r<64>; .reg .pred %end, %p<16>; .reg .b16 %h<24>;
.reg .f32 %f<24>; .reg .f64 %g<24>;
ld.param.u64 %in, [pin]; ld.param.u64 %out, [pout]; ld.param.u32 %count, [pcount];
mov.u32 %t, %ctaid.x; mov.u32 %r0, %ntid.x; mov.u32 %r1, %tid.x; mad.lo.u32 %t, %t, %r0, %r1;
setp.ge.u32 %end, %t, %count;
@%end bra done;
{}
done: ret;
}}\n",
            kernel.body.replace("{k}", &name)
        );
    }
    text
}

fn launch(
    device: &mut Device,
    program: &Program,
    forms: &[&Form],
    kernels: &[(usize, &Prepared)],
) -> Vec<Outcome> {
    device.reset();
    let bound = bind(device, program);
    let watermark = device.next;
    forms
        .iter()
        .zip(kernels)
        .map(|(form, (index, kernel))| {
            let outcome = bound.clone().and_then(|()| {
                device.next = watermark;
                let from = (watermark / GRANULE as usize).min(device.valid.len());
                device.valid[from..].fill(0);
                let wants_fault = matches!(&form.test, Test::Kernel(kernel) if kernel.faults);
                match launch_one(device, program, *index, kernel) {
                    Err(_) if wants_fault => Ok(()),
                    Ok(_) if wants_fault => Err("the launch ended without a fault".into()),
                    Ok(output) => form.test.check(&form.name, kernel, &output),
                    Err(fault) => Err(fault),
                }
            });
            match outcome {
                Ok(()) => Outcome::Right,
                Err(why) => Outcome::Wrong(why),
            }
        })
        .collect()
}

fn bind(device: &mut Device, program: &Program) -> Result<(), String> {
    let mut addresses = Vec::new();
    for variable in program.variables() {
        addresses.push(device.upload(&vec![0; variable.bytes as usize])?);
    }
    program
        .bind_variables(&addresses)
        .map_err(|fault| fault.to_string())?;
    for (index, &address) in addresses.iter().enumerate() {
        let image = program.image(index);
        let start = (address - device.base as u64) as usize;
        // SAFETY: the allocation at this address is at least as long as the variable's image.
        unsafe {
            device
                .base
                .add(start)
                .copy_from_nonoverlapping(image.as_ptr(), image.len());
        }
    }
    Ok(())
}

fn launch_one(
    device: &mut Device,
    program: &Program,
    index: usize,
    kernel: &Prepared,
) -> Result<Vec<u8>, String> {
    let textures = TextureTable::new();
    let mut bytes = kernel.input.clone();
    let mut memories = Vec::new();
    for (index, object) in kernel.objects.iter().enumerate() {
        let (descriptor, memory) = descriptor(object)?;
        let handle = textures
            .insert(descriptor)
            .map_err(|error| error.to_string())?;
        bytes[index * 8..][..8].copy_from_slice(&handle.to_le_bytes());
        memories.push(memory);
    }
    let input = device.upload(&bytes)?;
    let output = device.upload(&vec![0; kernel.output])?;
    let name = format!("k{index}");
    let place = program
        .kernels()
        .iter()
        .position(|info| info.name == name)
        .ok_or("the kernel is missing from the compiled module")?;
    let mut params = Vec::new();
    params.extend_from_slice(&input.to_le_bytes());
    params.extend_from_slice(&output.to_le_bytes());
    params.extend_from_slice(&kernel.count.to_le_bytes());
    params.resize(params.len().next_multiple_of(8), 0);
    program
        .launch(&Launch {
            textures: Some(&textures),
            ..Launch::new(
                place,
                [kernel.blocks, 1, 1],
                [kernel.threads, 1, 1],
                &params,
                device.view(),
            )
        })
        .map_err(|fault: Fault| fault.to_string())?;
    let mut result = device.download(output, kernel.output);
    for memory in memories {
        // SAFETY: an array's memory is as long as it says, and no kernel runs.
        result.extend_from_slice(unsafe {
            std::slice::from_raw_parts(memory.address() as *const u8, memory.bytes() as usize)
        });
    }
    Ok(result)
}

/// An object as softcuda takes it, and its memory.
fn descriptor(object: &Object) -> Result<(Descriptor, Arc<ArrayMemory>), String> {
    let bytes = object.texels.len();
    let memory = ArrayMemory::new(bytes as u64).ok_or("no memory for an array")?;
    // SAFETY: the memory has as many bytes, and nothing else uses it yet.
    unsafe {
        (memory.address() as *mut u8).copy_from_nonoverlapping(object.texels.as_ptr(), bytes);
    }
    let memory = Arc::new(memory);
    let levels = (0..object.levels).map(|level| {
        let [width, height, depth] = object.sizes(level);
        let row_pitch = u64::from(width) * u64::from(object.texel());
        Level {
            offset: object.start(level),
            width,
            height,
            depth,
            row_pitch,
            slice_pitch: row_pitch * u64::from(height),
        }
    });
    let descriptor = Descriptor {
        shape: object.shape,
        format: object.format,
        channels: object.channels,
        storage: Storage::Array(Arc::clone(&memory)),
        levels: levels.collect(),
        layers: object.layers,
        sampler: object.sampler,
    };
    Ok((descriptor, memory))
}
