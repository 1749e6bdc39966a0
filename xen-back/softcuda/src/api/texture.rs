//! Texture and surface objects, and texture and surface references.

use super::array::{find, find_mipmap, given};
use super::module::name;
use super::{Out, call};
use crate::context::{Context, current};
use crate::driver::Driver;
use crate::texture::{Reference, Resource, Sampling, View, insert};
use cuda_abi::{CuResult, Handle};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// `CUDA_RESOURCE_DESC`: its type, a union of 32 words, flags.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct ResourceDesc {
    kind: u32,
    /// The union's first words; what they mean depends on the type.
    words: [u64; 16],
    flags: u32,
}

impl ResourceDesc {
    /// What it describes.
    fn resource(&self, driver: &Driver) -> Result<Resource, CuResult> {
        if self.flags != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let [first, formats, third, fourth, fifth, ..] = self.words;
        let (format, channels) = (formats as u32, (formats >> 32) as u32);
        Ok(match self.kind {
            0 => Resource::Array(find(driver, first as Handle)?),
            1 => Resource::Mipmap(find_mipmap(driver, first as Handle)?),
            2 => Resource::Linear {
                address: first,
                format,
                channels,
                bytes: third,
            },
            3 => Resource::Pitch {
                address: first,
                format,
                channels,
                width: third,
                height: fourth,
                pitch: fifth,
            },
            _ => return Err(CuResult::INVALID_VALUE),
        })
    }
}

/// What a program said of an object, for it to ask.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    resource: ResourceDesc,
    sampling: Option<Sampling>,
    view: Option<View>,
}

pub unsafe fn cuTexObjectCreate(
    object: *mut u64,
    resource: *const c_void,
    sampling: *const c_void,
    view: *const c_void,
) -> CuResult {
    call(|driver| {
        let context = current()?;
        // SAFETY: the C function's contract; the view is optional.
        let (out, resource, sampling, view) = unsafe {
            let view = (!view.is_null()).then(|| given::<View>(view)).transpose()?;
            let sampling = given::<Sampling>(sampling)?;
            (
                Out::new(object)?,
                given::<ResourceDesc>(resource)?,
                sampling,
                view,
            )
        };
        let found = resource.resource(driver)?;
        let descriptor = found.descriptor(driver, &sampling, view.as_ref())?;
        let handle = insert(&context, descriptor)?;
        let described = Described {
            resource,
            sampling: Some(sampling),
            view,
        };
        context.describe(handle, described);
        out.set(handle);
        Ok(())
    })
}

pub unsafe fn cuSurfObjectCreate(object: *mut u64, resource: *const c_void) -> CuResult {
    call(|driver| {
        let context = current()?;
        // SAFETY: the C function's contract.
        let (out, resource) = unsafe { (Out::new(object)?, given::<ResourceDesc>(resource)?) };
        let handle = insert(&context, resource.resource(driver)?.surface()?)?;
        let described = Described {
            resource,
            sampling: None,
            view: None,
        };
        context.describe(handle, described);
        out.set(handle);
        Ok(())
    })
}

/// What was said of an object: of a texture, or of a surface.
fn described(context: &Context, object: u64, surface: bool) -> Result<Described, CuResult> {
    let found = context.described(object);
    found
        .filter(|described| described.sampling.is_none() == surface)
        .ok_or(CuResult::INVALID_VALUE)
}

/// Ends an object, after the work that uses it.
fn destroy(driver: &'static Driver, object: u64, surface: bool) -> Result<(), CuResult> {
    let context = current()?;
    described(&context, object, surface)?;
    driver.engines.wait_context(driver, context.id);
    context.forget(object);
    context.textures.remove(object);
    context.check()
}

pub unsafe fn cuTexObjectDestroy(object: u64) -> CuResult {
    call(|driver| destroy(driver, object, false))
}

pub unsafe fn cuSurfObjectDestroy(object: u64) -> CuResult {
    call(|driver| destroy(driver, object, true))
}

pub unsafe fn cuTexObjectGetResourceDesc(place: *mut c_void, object: u64) -> CuResult {
    call(|_| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(place.cast::<ResourceDesc>()) }?;
        out.set(described(&*current()?, object, false)?.resource);
        Ok(())
    })
}

pub unsafe fn cuSurfObjectGetResourceDesc(place: *mut c_void, object: u64) -> CuResult {
    call(|_| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(place.cast::<ResourceDesc>()) }?;
        out.set(described(&*current()?, object, true)?.resource);
        Ok(())
    })
}

pub unsafe fn cuTexObjectGetTextureDesc(place: *mut c_void, object: u64) -> CuResult {
    call(|_| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(place.cast::<Sampling>()) }?;
        let sampling = described(&*current()?, object, false)?.sampling;
        out.set(sampling.ok_or(CuResult::INVALID_VALUE)?);
        Ok(())
    })
}

pub unsafe fn cuTexObjectGetResourceViewDesc(place: *mut c_void, object: u64) -> CuResult {
    call(|_| {
        // SAFETY: the C function's contract.
        let out = unsafe { Out::new(place.cast::<View>()) }?;
        let view = described(&*current()?, object, false)?.view;
        out.set(view.ok_or(CuResult::INVALID_VALUE)?);
        Ok(())
    })
}

/// The live reference of a handle.
fn reference(driver: &Driver, handle: Handle, surface: bool) -> Result<Arc<Reference>, CuResult> {
    let found = driver.references.get(handle);
    let found = found.filter(|found| found.is_surface == surface);
    let found = found.ok_or(CuResult::INVALID_HANDLE)?;
    found.context.check()?;
    Ok(found)
}

/// Finds a reference in a module: the same one each time.
///
/// # Safety
/// The pointers are the C functions'.
unsafe fn find_reference(
    place: *mut Handle,
    module: Handle,
    variable: *const c_char,
    surface: bool,
) -> CuResult {
    call(|driver| {
        // SAFETY: the caller's.
        let (out, variable) = unsafe { (Out::new(place)?, name(variable)?) };
        current()?;
        let module = driver.modules.get(module).ok_or(CuResult::INVALID_HANDLE)?;
        module.context.check()?;
        let handle = module.reference(driver, variable, surface);
        out.set(handle.ok_or(CuResult::NOT_FOUND)? as Handle);
        Ok(())
    })
}

pub unsafe fn cuModuleGetTexRef(
    place: *mut Handle,
    module: Handle,
    variable: *const c_char,
) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { find_reference(place, module, variable, false) }
}

pub unsafe fn cuModuleGetSurfRef(
    place: *mut Handle,
    module: Handle,
    variable: *const c_char,
) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { find_reference(place, module, variable, true) }
}

/// `CU_TRSA_OVERRIDE_FORMAT`, which must be given where a reference is bound to an array.
const OVERRIDE_FORMAT: u32 = 1;

pub unsafe fn cuTexRefSetArray(handle: Handle, array: Handle, flags: u32) -> CuResult {
    call(|driver| {
        if flags != OVERRIDE_FORMAT {
            return Err(CuResult::INVALID_VALUE);
        }
        let array = find(driver, array)?;
        reference(driver, handle, false)?.change(driver, |state| {
            state.format = (array.wanted.format, array.wanted.channels);
            state.resource = Some(Resource::Array(array));
            Ok(())
        })
    })
}

pub unsafe fn cuTexRefSetMipmappedArray(handle: Handle, mipmap: Handle, flags: u32) -> CuResult {
    call(|driver| {
        if flags != OVERRIDE_FORMAT {
            return Err(CuResult::INVALID_VALUE);
        }
        let mipmap = find_mipmap(driver, mipmap)?;
        reference(driver, handle, false)?.change(driver, |state| {
            state.resource = Some(Resource::Mipmap(mipmap));
            Ok(())
        })
    })
}

pub unsafe fn cuSurfRefSetArray(handle: Handle, array: Handle, flags: u32) -> CuResult {
    call(|driver| {
        if flags != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let array = find(driver, array)?;
        reference(driver, handle, true)?.change(driver, |state| {
            state.resource = Some(Resource::Array(array));
            Ok(())
        })
    })
}

pub unsafe fn cuTexRefSetAddress_v2(
    offset: *mut usize,
    handle: Handle,
    address: u64,
    bytes: usize,
) -> CuResult {
    call(|driver| {
        let reference = reference(driver, handle, false)?;
        // An address between alignments is bound at the one before, and the program adds the offset.
        let before = address & !(crate::texture::ALIGNMENT.min(256) - 1);
        let ahead = address - before;
        // SAFETY: the C function's contract; without this output no offset can be told.
        let out = unsafe { Out::new(offset) };
        if ahead != 0 && out.is_err() {
            return Err(CuResult::INVALID_VALUE);
        }
        reference.change(driver, |state| {
            state.resource = (address != 0).then_some(Resource::Linear {
                address: before,
                format: state.format.0,
                channels: state.format.1,
                bytes: (bytes as u64)
                    .checked_add(ahead)
                    .ok_or(CuResult::INVALID_VALUE)?,
            });
            Ok(())
        })?;
        if let Ok(out) = out {
            out.set(ahead as usize);
        }
        Ok(())
    })
}

/// `CUDA_ARRAY_DESCRIPTOR`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ArrayDescriptor {
    width: usize,
    height: usize,
    format: u32,
    channels: u32,
}

pub unsafe fn cuTexRefSetAddress2D_v3(
    handle: Handle,
    descriptor: *const c_void,
    address: u64,
    pitch: usize,
) -> CuResult {
    call(|driver| {
        // SAFETY: the C function's contract.
        let descriptor = unsafe { given::<ArrayDescriptor>(descriptor) }?;
        reference(driver, handle, false)?.change(driver, |state| {
            state.format = (descriptor.format, descriptor.channels);
            state.resource = Some(Resource::Pitch {
                address,
                format: descriptor.format,
                channels: descriptor.channels,
                width: descriptor.width as u64,
                height: descriptor.height as u64,
                pitch: pitch as u64,
            });
            Ok(())
        })
    })
}

pub unsafe fn cuTexRefSetFormat(handle: Handle, format: u32, channels: i32) -> CuResult {
    call(|driver| {
        let channels = u32::try_from(channels).map_err(|_| CuResult::INVALID_VALUE)?;
        let kind = crate::array::channel_format(format)?;
        crate::array::texel_bytes(kind, channels)?;
        reference(driver, handle, false)?.change(driver, |state| {
            state.format = (format, channels);
            if let Some(
                Resource::Linear {
                    format: own,
                    channels: own_channels,
                    ..
                }
                | Resource::Pitch {
                    format: own,
                    channels: own_channels,
                    ..
                },
            ) = &mut state.resource
            {
                (*own, *own_channels) = (format, channels);
            }
            Ok(())
        })
    })
}

/// Changes how a texture reference is read. What makes no sense without a resource is found when one is
/// bound, as CUDA does.
fn sample(handle: Handle, change: impl FnOnce(&mut Sampling) -> Result<(), CuResult>) -> CuResult {
    call(|driver| {
        reference(driver, handle, false)?.change(driver, |state| change(&mut state.sampling))
    })
}

pub unsafe fn cuTexRefSetAddressMode(handle: Handle, dimension: i32, mode: u32) -> CuResult {
    sample(handle, |sampling| {
        let dimension = usize::try_from(dimension).unwrap_or(usize::MAX);
        match sampling.address_modes.get_mut(dimension) {
            Some(place) if mode <= 3 => *place = mode,
            _ => return Err(CuResult::INVALID_VALUE),
        }
        Ok(())
    })
}

pub unsafe fn cuTexRefSetFilterMode(handle: Handle, mode: u32) -> CuResult {
    sample(handle, |sampling| {
        if mode > 1 {
            return Err(CuResult::INVALID_VALUE);
        }
        sampling.filter = mode;
        Ok(())
    })
}

pub unsafe fn cuTexRefSetMipmapFilterMode(handle: Handle, mode: u32) -> CuResult {
    sample(handle, |sampling| {
        if mode > 1 {
            return Err(CuResult::INVALID_VALUE);
        }
        sampling.mip_filter = mode;
        Ok(())
    })
}

pub unsafe fn cuTexRefSetMipmapLevelBias(handle: Handle, bias: f32) -> CuResult {
    sample(handle, |sampling| {
        sampling.mip_bias = bias;
        Ok(())
    })
}

pub unsafe fn cuTexRefSetMipmapLevelClamp(handle: Handle, min: f32, max: f32) -> CuResult {
    sample(handle, |sampling| {
        (sampling.mip_min, sampling.mip_max) = (min, max);
        Ok(())
    })
}

pub unsafe fn cuTexRefSetMaxAnisotropy(handle: Handle, anisotropy: u32) -> CuResult {
    sample(handle, |sampling| {
        sampling.max_anisotropy = anisotropy;
        Ok(())
    })
}

pub unsafe fn cuTexRefSetBorderColor(handle: Handle, color: *mut f32) -> CuResult {
    sample(handle, |sampling| {
        // SAFETY: the C function's contract.
        sampling.border = unsafe { given::<[f32; 4]>(color.cast::<c_void>()) }?;
        Ok(())
    })
}

pub unsafe fn cuTexRefSetFlags(handle: Handle, flags: u32) -> CuResult {
    sample(handle, |sampling| {
        if flags & !0x33 != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        sampling.flags = flags;
        Ok(())
    })
}

/// Answers something of a texture reference.
///
/// # Safety
/// `place` is null or can be written.
unsafe fn tell<T>(
    place: *mut T,
    handle: Handle,
    what: impl FnOnce(&crate::texture::ReferenceState) -> Result<T, CuResult>,
) -> CuResult {
    call(|driver| {
        // SAFETY: the caller's.
        let out = unsafe { Out::new(place) }?;
        let reference = reference(driver, handle, false)?;
        out.set(what(&reference.state())?);
        Ok(())
    })
}

pub unsafe fn cuTexRefGetAddress_v2(address: *mut u64, handle: Handle) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe {
        tell(address, handle, |state| match state.resource {
            Some(Resource::Linear { address, .. } | Resource::Pitch { address, .. }) => Ok(address),
            _ => Err(CuResult::INVALID_VALUE),
        })
    }
}

pub unsafe fn cuTexRefGetAddressMode(mode: *mut u32, handle: Handle, dimension: i32) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe {
        tell(mode, handle, |state| {
            let dimension = usize::try_from(dimension).unwrap_or(usize::MAX);
            let mode = state.sampling.address_modes.get(dimension);
            mode.copied().ok_or(CuResult::INVALID_VALUE)
        })
    }
}

pub unsafe fn cuTexRefGetFilterMode(mode: *mut u32, handle: Handle) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { tell(mode, handle, |state| Ok(state.sampling.filter)) }
}

pub unsafe fn cuTexRefGetFlags(flags: *mut u32, handle: Handle) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { tell(flags, handle, |state| Ok(state.sampling.flags)) }
}

pub unsafe fn cuTexRefGetFormat(format: *mut u32, channels: *mut i32, handle: Handle) -> CuResult {
    // SAFETY: the C function's contract.
    let first = unsafe { tell(format, handle, |state| Ok(state.format.0)) };
    if first != CuResult::SUCCESS || channels.is_null() {
        return first;
    }
    // SAFETY: the C function's contract.
    unsafe { tell(channels, handle, |state| Ok(state.format.1 as i32)) }
}

pub unsafe fn cuTexRefGetBorderColor(color: *mut f32, handle: Handle) -> CuResult {
    let place = color.cast::<[f32; 4]>();
    // SAFETY: the C function's contract.
    unsafe { tell(place, handle, |state| Ok(state.sampling.border)) }
}
