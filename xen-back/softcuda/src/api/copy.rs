//! Copies and fills: of bytes, of rows and slices of bytes, of arrays. A range that devices know is checked
//! from its first byte to its last; memory of the program's own is the program's to vouch for.

use super::array;
use super::call;
use crate::context::current;
use crate::driver::Driver;
use crate::exec::texture::ArrayMemory;
use crate::memory::Home;
use crate::stream::Target;
use crate::work::{Copy, CopyRows, Fill, FillRows, Pattern, Rows, Source, Work};
use cuda_abi::{CuResult, Handle};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

/// An asynchronous copy from pageable memory of at most this many bytes is taken at once; a longer one
/// waits for its turn. CUDA documents both as allowed.
const STAGED: u64 = 64 * 1024;

/// One end of a copy.
#[derive(Clone, std::marker::Copy)]
struct End {
    address: u64,
    kind: EndKind,
}

#[derive(Clone, std::marker::Copy, PartialEq, Eq)]
enum EndKind {
    Device,
    PageLocked,
    Pageable,
}

impl End {
    /// Memory that a device knows.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if not all of it is allocated or registered.
    fn known(driver: &Driver, address: u64, bytes: u64) -> Result<End, CuResult> {
        let found = driver.memory.find(address, bytes);
        let kind = match found.ok_or(CuResult::INVALID_VALUE)?.home {
            Home::Device(_) => EndKind::Device,
            Home::Managed | Home::Host => EndKind::PageLocked,
        };
        Ok(End { address, kind })
    }

    /// Any memory: known, or else the program's own.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for null, and for device memory that is not allocated.
    fn any(driver: &Driver, address: u64, bytes: u64) -> Result<End, CuResult> {
        End::known(driver, address, bytes).or_else(|error| {
            if address == 0
                || address.checked_add(bytes).is_none()
                || driver.memory.touches(address, bytes)
            {
                return Err(error);
            }
            Ok(End {
                address,
                kind: EndKind::Pageable,
            })
        })
    }
}

/// When a copy's call may return.
#[derive(Clone, std::marker::Copy, PartialEq, Eq)]
enum Return {
    /// When it is done, unless both ends are on devices.
    Done,
    /// As soon as the program's pageable memory is not needed any more.
    Early,
}

/// Carries out a copy in a stream; one that is `detached` needs nothing of the program's pageable memory.
fn carry(
    driver: &'static Driver,
    target: Target,
    work: Work,
    detached: bool,
) -> Result<(), CuResult> {
    let Target { context, lane, .. } = target;
    // A captured copy reads and writes the program's memory when its graph is launched.
    if detached || driver.captures.has((context.id, lane)) {
        driver.engines.submit(driver, &context, lane, work, 0)?;
        return Ok(());
    }
    driver.engines.perform(driver, &context, lane, work)?;
    context.print();
    context.check()
}

/// Copies in a stream.
fn copy(
    driver: &'static Driver,
    target: Target,
    to: End,
    from: End,
    bytes: u64,
    when: Return,
) -> Result<(), CuResult> {
    let device_only = to.kind == EndKind::Device && from.kind == EndKind::Device;
    let pageable = to.kind == EndKind::Pageable || from.kind == EndKind::Pageable;
    let captured = driver.captures.has((target.context.id, target.lane));
    let staged = when == Return::Early
        && !captured
        && from.kind == EndKind::Pageable
        && to.kind != EndKind::Pageable
        && bytes <= STAGED;
    let source = if staged {
        let mut copied = vec![0; bytes as usize].into_boxed_slice();
        // SAFETY: the program vouches for its own memory, as CUDA's contract has it.
        unsafe {
            (from.address as *const u8).copy_to_nonoverlapping(copied.as_mut_ptr(), bytes as usize);
        }
        Source::Staged(copied)
    } else {
        Source::Address(from.address)
    };
    let work = Work::Copy(Copy {
        to: to.address,
        from: source,
        bytes,
        download: to.kind != EndKind::Device,
    });
    let detached = device_only || staged || when == Return::Early && !pageable;
    carry(driver, target, work, detached)
}

/// A copy between ends that are looked for only if there is something to copy.
fn copy_ends(
    driver: &'static Driver,
    target: Target,
    to: impl FnOnce(&Driver) -> Result<End, CuResult>,
    from: impl FnOnce(&Driver) -> Result<End, CuResult>,
    bytes: usize,
    when: Return,
) -> Result<(), CuResult> {
    if bytes == 0 {
        return Ok(());
    }
    let (to, from) = (to(driver)?, from(driver)?);
    copy(driver, target, to, from, bytes as u64, when)
}

/// A copy in the null stream of the calling thread's context.
fn copy_now(
    to: impl FnOnce(&Driver) -> Result<End, CuResult>,
    from: impl FnOnce(&Driver) -> Result<End, CuResult>,
    bytes: usize,
) -> CuResult {
    call(|driver| {
        let target = Target::default_of(driver, current()?)?;
        copy_ends(driver, target, to, from, bytes, Return::Done)
    })
}

/// A copy in a stream.
fn copy_in(
    stream: Handle,
    to: impl FnOnce(&Driver) -> Result<End, CuResult>,
    from: impl FnOnce(&Driver) -> Result<End, CuResult>,
    bytes: usize,
) -> CuResult {
    call(|driver| {
        let target = Target::of(driver, stream)?;
        copy_ends(driver, target, to, from, bytes, Return::Early)
    })
}

/// An end in memory that devices know.
fn known(address: u64, bytes: usize) -> impl FnOnce(&Driver) -> Result<End, CuResult> {
    move |driver| End::known(driver, address, bytes as u64)
}

/// An end in any memory.
fn any(address: u64, bytes: usize) -> impl FnOnce(&Driver) -> Result<End, CuResult> {
    move |driver| End::any(driver, address, bytes as u64)
}

pub unsafe fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> CuResult {
    copy_now(known(to, bytes), any(from as u64, bytes), bytes)
}

pub unsafe fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> CuResult {
    copy_now(any(to as u64, bytes), known(from, bytes), bytes)
}

pub unsafe fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> CuResult {
    copy_now(known(to, bytes), known(from, bytes), bytes)
}

pub unsafe fn cuMemcpy(to: u64, from: u64, bytes: usize) -> CuResult {
    copy_now(any(to, bytes), any(from, bytes), bytes)
}

pub unsafe fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: Handle,
) -> CuResult {
    copy_in(stream, known(to, bytes), any(from as u64, bytes), bytes)
}

pub unsafe fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: Handle,
) -> CuResult {
    copy_in(stream, any(to as u64, bytes), known(from, bytes), bytes)
}

pub unsafe fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> CuResult {
    copy_in(stream, known(to, bytes), known(from, bytes), bytes)
}

pub unsafe fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle) -> CuResult {
    copy_in(stream, any(to, bytes), any(from, bytes), bytes)
}

/// Fills memory in a stream.
fn fill(to: u64, value: Pattern, count: usize, stream: Handle) -> CuResult {
    call(|driver| {
        let Target { context, lane, .. } = Target::of(driver, stream)?;
        let count = count as u64;
        let bytes = count
            .checked_mul(value.width())
            .ok_or(CuResult::INVALID_VALUE)?;
        if count == 0 {
            return Ok(());
        }
        if !to.is_multiple_of(value.width()) {
            return Err(CuResult::INVALID_VALUE);
        }
        End::known(driver, to, bytes)?;
        let work = Work::Fill(Fill { to, value, count });
        driver.engines.submit(driver, &context, lane, work, 0)?;
        Ok(())
    })
}

pub unsafe fn cuMemsetD8_v2(to: u64, value: u8, count: usize) -> CuResult {
    fill(to, Pattern::Byte(value), count, null_mut())
}

pub unsafe fn cuMemsetD16_v2(to: u64, value: u16, count: usize) -> CuResult {
    fill(to, Pattern::Half(value), count, null_mut())
}

pub unsafe fn cuMemsetD32_v2(to: u64, value: u32, count: usize) -> CuResult {
    fill(to, Pattern::Word(value), count, null_mut())
}

pub unsafe fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) -> CuResult {
    fill(to, Pattern::Byte(value), count, stream)
}

pub unsafe fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) -> CuResult {
    fill(to, Pattern::Half(value), count, stream)
}

pub unsafe fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) -> CuResult {
    fill(to, Pattern::Word(value), count, stream)
}

pub unsafe fn cuMemcpyPeer(
    to: u64,
    to_context: Handle,
    from: u64,
    from_context: Handle,
    bytes: usize,
) -> CuResult {
    let checked = call(|driver| contexts(driver, to_context, from_context));
    match checked {
        CuResult::SUCCESS => copy_now(known(to, bytes), known(from, bytes), bytes),
        error => error,
    }
}

pub unsafe fn cuMemcpyPeerAsync(
    to: u64,
    to_context: Handle,
    from: u64,
    from_context: Handle,
    bytes: usize,
    stream: Handle,
) -> CuResult {
    let checked = call(|driver| contexts(driver, to_context, from_context));
    match checked {
        CuResult::SUCCESS => copy_in(stream, known(to, bytes), known(from, bytes), bytes),
        error => error,
    }
}

/// Checks the contexts of the two ends of a copy: an address tells its device by itself.
fn contexts(driver: &Driver, to: Handle, from: Handle) -> Result<(), CuResult> {
    for context in [to, from] {
        let found = driver.contexts.get(context);
        found.ok_or(CuResult::INVALID_CONTEXT)?.check()?;
    }
    Ok(())
}

/// `CU_MEMORYTYPE_HOST`.
const HOST: u32 = 1;
/// `CU_MEMORYTYPE_DEVICE`.
const DEVICE: u32 = 2;
/// `CU_MEMORYTYPE_ARRAY`.
const ARRAY: u32 = 3;
/// `CU_MEMORYTYPE_UNIFIED`.
const UNIFIED: u32 = 4;

/// One end of a `CUDA_MEMCPY2D`, as C lays it out.
#[repr(C)]
#[derive(Clone, std::marker::Copy)]
struct Side2D {
    x_bytes: usize,
    y: usize,
    kind: u32,
    host: *const c_void,
    device: u64,
    array: Handle,
    pitch: usize,
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, std::marker::Copy)]
struct Memcpy2D {
    from: Side2D,
    to: Side2D,
    width_bytes: usize,
    height: usize,
}

/// One end of a `CUDA_MEMCPY3D` or `CUDA_MEMCPY3D_PEER`, as C lays it out.
#[repr(C)]
#[derive(Clone, std::marker::Copy)]
struct Side3D {
    x_bytes: usize,
    y: usize,
    z: usize,
    level: usize,
    kind: u32,
    host: *const c_void,
    device: u64,
    array: Handle,
    /// Reserved where no peers are concerned.
    context: Handle,
    pitch: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER`.
#[repr(C)]
#[derive(Clone, std::marker::Copy)]
pub(super) struct Memcpy3D {
    from: Side3D,
    to: Side3D,
    width_bytes: usize,
    height: usize,
    depth: usize,
}

impl From<Side2D> for Side3D {
    fn from(side: Side2D) -> Side3D {
        Side3D {
            x_bytes: side.x_bytes,
            y: side.y,
            z: 0,
            level: 0,
            kind: side.kind,
            host: side.host,
            device: side.device,
            array: side.array,
            context: null_mut(),
            pitch: side.pitch,
            height: 0,
        }
    }
}

/// One end of a copy of rows, found and checked.
struct Place {
    rows: Rows,
    kind: EndKind,
    array: Option<Arc<ArrayMemory>>,
}

impl Side3D {
    /// Finds what it means for a box of this extent.
    ///
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE for rows or slices that overlap, and for memory that is not there.
    fn place(&self, driver: &Driver, extent: [u64; 3]) -> Result<Place, CuResult> {
        let [width, height, depth] = extent;
        let [x, y, z] = [self.x_bytes, self.y, self.z].map(|offset| offset as u64);
        if self.level != 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        if self.kind == ARRAY {
            let array = array::find(driver, self.array)?;
            let rows = array.rows([x, y, z], extent)?;
            return Ok(Place {
                rows,
                kind: EndKind::Device,
                array: Some(Arc::clone(array.memory())),
            });
        }
        let sum = |a: u64, b: u64| a.checked_add(b).ok_or(CuResult::INVALID_VALUE);
        let product = |a: u64, b: u64| a.checked_mul(b).ok_or(CuResult::INVALID_VALUE);
        let row = sum(x, width)?;
        let pitch = match self.pitch as u64 {
            0 if height == 1 && depth == 1 && y == 0 && z == 0 => row,
            pitch if pitch >= row => pitch,
            _ => return Err(CuResult::INVALID_VALUE),
        };
        let rows = match self.height as u64 {
            _ if depth == 1 && z == 0 => sum(y, height)?,
            rows if rows >= sum(y, height)? => rows,
            _ => return Err(CuResult::INVALID_VALUE),
        };
        let slice = product(pitch, rows)?;
        let base = match self.kind {
            HOST => self.host as u64,
            DEVICE | UNIFIED => self.device,
            _ => return Err(CuResult::INVALID_VALUE),
        };
        let first = sum(sum(x, product(y, pitch)?)?, product(z, slice)?)?;
        let span = sum(
            sum(product(depth - 1, slice)?, product(height - 1, pitch)?)?,
            width,
        )?;
        let address = sum(base, first)?;
        if base == 0 {
            return Err(CuResult::INVALID_VALUE);
        }
        let end = match self.kind {
            DEVICE => End::known(driver, address, span)?,
            _ => End::any(driver, address, span)?,
        };
        Ok(Place {
            rows: Rows {
                address,
                pitch,
                slice,
            },
            kind: end.kind,
            array: None,
        })
    }
}

/// The copy of a box, whether it stays on devices, and whether it needs pageable memory.
///
/// # Errors
/// As [`Side3D::place`].
fn box_copy(
    driver: &Driver,
    params: &Memcpy3D,
    extent: [u64; 3],
) -> Result<(CopyRows, bool, bool), CuResult> {
    let to = params.to.place(driver, extent)?;
    let from = params.from.place(driver, extent)?;
    let device_only = to.kind == EndKind::Device && from.kind == EndKind::Device;
    let pageable = to.kind == EndKind::Pageable || from.kind == EndKind::Pageable;
    let copy = CopyRows {
        to: to.rows,
        from: from.rows,
        extent,
        download: to.kind != EndKind::Device,
        _arrays: [to.array, from.array],
    };
    Ok((copy, device_only, pageable))
}

/// A graph's copy of a box: `None` where one of its sides has no length.
///
/// # Errors
/// CUDA_ERROR_INVALID_VALUE for places that are none.
pub(super) fn node_copy(driver: &Driver, params: &Memcpy3D) -> Result<Option<CopyRows>, CuResult> {
    let extent = [params.width_bytes, params.height, params.depth].map(|side| side as u64);
    if extent.contains(&0) {
        return Ok(None);
    }
    box_copy(driver, params, extent).map(|(copy, ..)| Some(copy))
}

/// Copies a box; nothing where one of its sides has no length.
fn copy_box(
    driver: &'static Driver,
    target: Target,
    params: &Memcpy3D,
    when: Return,
) -> Result<(), CuResult> {
    let extent = [params.width_bytes, params.height, params.depth].map(|side| side as u64);
    if extent.contains(&0) {
        return Ok(());
    }
    let (work, device_only, pageable) = box_copy(driver, params, extent)?;
    let detached = device_only || when == Return::Early && !pageable;
    carry(driver, target, Work::CopyRows(Box::new(work)), detached)
}

/// Copies a box in the null stream, or in a stream.
///
/// # Safety
/// `params` is null or can be read.
unsafe fn copy_boxes<T: std::marker::Copy>(
    params: *const c_void,
    stream: Option<Handle>,
    peers: bool,
    read: impl FnOnce(T) -> Memcpy3D,
) -> CuResult {
    call(|driver| {
        let target = match stream {
            None => Target::default_of(driver, current()?)?,
            Some(stream) => Target::of(driver, stream)?,
        };
        if params.is_null() {
            return Err(CuResult::INVALID_VALUE);
        }
        // SAFETY: not null, so the caller's.
        let params = read(unsafe { params.cast::<T>().read_unaligned() });
        if peers {
            contexts(driver, params.to.context, params.from.context)?;
        }
        let when = match stream {
            None => Return::Done,
            Some(_) => Return::Early,
        };
        copy_box(driver, target, &params, when)
    })
}

fn flat(params: Memcpy2D) -> Memcpy3D {
    Memcpy3D {
        from: params.from.into(),
        to: params.to.into(),
        width_bytes: params.width_bytes,
        height: params.height,
        depth: 1,
    }
}

pub unsafe fn cuMemcpy2D_v2(params: *const c_void) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { copy_boxes(params, None, false, flat) }
}

/// No pitch is too narrow here.
pub unsafe fn cuMemcpy2DUnaligned_v2(params: *const c_void) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { copy_boxes(params, None, false, flat) }
}

pub unsafe fn cuMemcpy2DAsync_v2(params: *const c_void, stream: Handle) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { copy_boxes(params, Some(stream), false, flat) }
}

pub unsafe fn cuMemcpy3D_v2(params: *const c_void) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { copy_boxes(params, None, false, |params: Memcpy3D| params) }
}

pub unsafe fn cuMemcpy3DAsync_v2(params: *const c_void, stream: Handle) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { copy_boxes(params, Some(stream), false, |params: Memcpy3D| params) }
}

pub unsafe fn cuMemcpy3DPeer(params: *const c_void) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { copy_boxes(params, None, true, |params: Memcpy3D| params) }
}

pub unsafe fn cuMemcpy3DPeerAsync(params: *const c_void, stream: Handle) -> CuResult {
    // SAFETY: the C function's contract.
    unsafe { copy_boxes(params, Some(stream), true, |params: Memcpy3D| params) }
}

/// One end of a copy of bytes that count through an array.
enum Bytes {
    Array(Handle, usize),
    Device(u64),
    Host(u64),
}

/// Copies bytes from or to an array, or both.
fn copy_bytes(to: Bytes, from: Bytes, bytes: usize, stream: Option<Handle>) -> CuResult {
    call(|driver| {
        let target = match stream {
            None => Target::default_of(driver, current()?)?,
            Some(stream) => Target::of(driver, stream)?,
        };
        if bytes == 0 {
            return Ok(());
        }
        let bytes = bytes as u64;
        let place = |end: Bytes| {
            let plain = |end: End| Place {
                rows: Rows {
                    address: end.address,
                    pitch: bytes,
                    slice: bytes,
                },
                kind: end.kind,
                array: None,
            };
            Ok::<_, CuResult>(match end {
                Bytes::Device(address) => plain(End::known(driver, address, bytes)?),
                Bytes::Host(address) => plain(End::any(driver, address, bytes)?),
                Bytes::Array(array, offset) => {
                    let array = array::find(driver, array)?;
                    let address = array.bytes(offset as u64, bytes)?;
                    Place {
                        array: Some(Arc::clone(array.memory())),
                        ..plain(End {
                            address,
                            kind: EndKind::Device,
                        })
                    }
                }
            })
        };
        let (to, from) = (place(to)?, place(from)?);
        let device_only = to.kind == EndKind::Device && from.kind == EndKind::Device;
        let pageable = to.kind == EndKind::Pageable || from.kind == EndKind::Pageable;
        let work = CopyRows {
            to: to.rows,
            from: from.rows,
            extent: [bytes, 1, 1],
            download: to.kind != EndKind::Device,
            _arrays: [to.array, from.array],
        };
        let detached = device_only || stream.is_some() && !pageable;
        carry(driver, target, Work::CopyRows(Box::new(work)), detached)
    })
}

pub unsafe fn cuMemcpyAtoD_v2(to: u64, array: Handle, offset: usize, bytes: usize) -> CuResult {
    copy_bytes(Bytes::Device(to), Bytes::Array(array, offset), bytes, None)
}

pub unsafe fn cuMemcpyDtoA_v2(array: Handle, offset: usize, from: u64, bytes: usize) -> CuResult {
    copy_bytes(
        Bytes::Array(array, offset),
        Bytes::Device(from),
        bytes,
        None,
    )
}

pub unsafe fn cuMemcpyHtoA_v2(
    array: Handle,
    offset: usize,
    from: *const c_void,
    bytes: usize,
) -> CuResult {
    let from = Bytes::Host(from as u64);
    copy_bytes(Bytes::Array(array, offset), from, bytes, None)
}

pub unsafe fn cuMemcpyAtoH_v2(
    to: *mut c_void,
    array: Handle,
    offset: usize,
    bytes: usize,
) -> CuResult {
    let to = Bytes::Host(to as u64);
    copy_bytes(to, Bytes::Array(array, offset), bytes, None)
}

pub unsafe fn cuMemcpyAtoA_v2(
    to: Handle,
    to_offset: usize,
    from: Handle,
    from_offset: usize,
    bytes: usize,
) -> CuResult {
    copy_bytes(
        Bytes::Array(to, to_offset),
        Bytes::Array(from, from_offset),
        bytes,
        None,
    )
}

pub unsafe fn cuMemcpyHtoAAsync_v2(
    array: Handle,
    offset: usize,
    from: *const c_void,
    bytes: usize,
    stream: Handle,
) -> CuResult {
    let from = Bytes::Host(from as u64);
    copy_bytes(Bytes::Array(array, offset), from, bytes, Some(stream))
}

pub unsafe fn cuMemcpyAtoHAsync_v2(
    to: *mut c_void,
    array: Handle,
    offset: usize,
    bytes: usize,
    stream: Handle,
) -> CuResult {
    let to = Bytes::Host(to as u64);
    copy_bytes(to, Bytes::Array(array, offset), bytes, Some(stream))
}

/// A fill of rows of memory; `None` where a side has no length.
///
/// # Errors
/// CUDA_ERROR_INVALID_VALUE for rows that overlap or are misaligned, and for memory that is not there.
pub(super) fn row_fill(
    driver: &Driver,
    to: u64,
    pitch: usize,
    value: Pattern,
    width: usize,
    height: usize,
) -> Result<Option<FillRows>, CuResult> {
    let (pitch, width, height) = (pitch as u64, width as u64, height as u64);
    if width == 0 || height == 0 {
        return Ok(None);
    }
    let row = width.checked_mul(value.width());
    let row = row.ok_or(CuResult::INVALID_VALUE)?;
    let aligned = |number: u64| number.is_multiple_of(value.width());
    if !aligned(to) || height > 1 && (pitch < row || !aligned(pitch)) {
        return Err(CuResult::INVALID_VALUE);
    }
    let span = (height - 1)
        .checked_mul(pitch)
        .and_then(|rows| rows.checked_add(row))
        .ok_or(CuResult::INVALID_VALUE)?;
    End::known(driver, to, span)?;
    Ok(Some(FillRows {
        to,
        pitch,
        value,
        width,
        height,
    }))
}

/// Fills rows of memory in a stream.
fn fill_rows(
    to: u64,
    pitch: usize,
    value: Pattern,
    width: usize,
    height: usize,
    stream: Handle,
) -> CuResult {
    call(|driver| {
        let Target { context, lane, .. } = Target::of(driver, stream)?;
        if let Some(fill) = row_fill(driver, to, pitch, value, width, height)? {
            let work = Work::FillRows(fill);
            driver.engines.submit(driver, &context, lane, work, 0)?;
        }
        Ok(())
    })
}

pub unsafe fn cuMemsetD2D8_v2(
    to: u64,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
) -> CuResult {
    fill_rows(to, pitch, Pattern::Byte(value), width, height, null_mut())
}

pub unsafe fn cuMemsetD2D16_v2(
    to: u64,
    pitch: usize,
    value: u16,
    width: usize,
    height: usize,
) -> CuResult {
    fill_rows(to, pitch, Pattern::Half(value), width, height, null_mut())
}

pub unsafe fn cuMemsetD2D32_v2(
    to: u64,
    pitch: usize,
    value: u32,
    width: usize,
    height: usize,
) -> CuResult {
    fill_rows(to, pitch, Pattern::Word(value), width, height, null_mut())
}

pub unsafe fn cuMemsetD2D8Async(
    to: u64,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
    stream: Handle,
) -> CuResult {
    fill_rows(to, pitch, Pattern::Byte(value), width, height, stream)
}

pub unsafe fn cuMemsetD2D16Async(
    to: u64,
    pitch: usize,
    value: u16,
    width: usize,
    height: usize,
    stream: Handle,
) -> CuResult {
    fill_rows(to, pitch, Pattern::Half(value), width, height, stream)
}

pub unsafe fn cuMemsetD2D32Async(
    to: u64,
    pitch: usize,
    value: u32,
    width: usize,
    height: usize,
    stream: Handle,
) -> CuResult {
    fill_rows(to, pitch, Pattern::Word(value), width, height, stream)
}
