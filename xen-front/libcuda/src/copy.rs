//! Copies between the program's memory and the device.
//!
//! Small data rides in the record; page-locked memory is named by its region; everything else goes
//! through the arena in chunks, several at once under way. Must never return from a synchronous copy
//! while the other end may still read or write the program's memory.

use crate::auto::used;
use crate::context::answer;
use crate::session::{Session, lost};
use cuda_abi::{CuResult, Handle, Stream};
use std::collections::VecDeque;
use std::ffi::c_void;
use vgpu_protocol::calls::request;
use vgpu_protocol::codec::{Bytes, Id, Payload, Range};
use vgpu_ring::{Staged, Ticket};

/// Most bytes that ride in a record.
pub const INLINE: usize = 2048;

/// What a copy is ordered by: nothing but the program, or a stream.
#[derive(Copy, Clone)]
enum Order {
    Program,
    Stream(Id<Stream>),
}

impl Order {
    fn fields(self) -> (u8, Id<Stream>) {
        match self {
            Order::Program => (0, Id::new(0)),
            Order::Stream(stream) => (1, stream),
        }
    }
}

fn copy_in(
    session: &Session,
    address: u64,
    source: *const c_void,
    bytes: usize,
    order: Order,
) -> Result<(), CuResult> {
    if bytes == 0 {
        return Ok(());
    }
    if source.is_null() || address == 0 {
        return Err(CuResult::INVALID_VALUE);
    }
    let (ordered, stream) = order.fields();
    let send = |address, data| {
        session.post(&request::CopyIn {
            address,
            ordered,
            stream,
            data,
        })
    };
    let known = session.memory.is_device(address, bytes);
    if let Some(range) = session.memory.region(source, bytes) {
        send(address, Payload::Region(range))?;
        // A synchronous copy has read the program's memory when it returns.
        return if ordered == 0 || !known {
            fence(session)
        } else {
            Ok(())
        };
    }
    if bytes <= INLINE {
        // SAFETY: the program vouches for `bytes` readable bytes at `source`.
        let data = unsafe { std::slice::from_raw_parts(source.cast::<u8>(), bytes) }.to_vec();
        send(address, Payload::Inline(Bytes(data)))?;
    } else {
        let chunk = session.channel.front.layout().max_stage();
        let mut done = 0usize;
        while done < bytes {
            let len = chunk.min(bytes.saturating_sub(done));
            let staged = session.channel.front.stage(len).map_err(lost)?;
            // SAFETY: the program vouches for `bytes` readable bytes at `source`; `done + len` is at
            // most `bytes`.
            unsafe { staged.write_from(0, source.cast::<u8>().add(done), len) }.map_err(lost)?;
            let range = Range {
                region: 0,
                offset: staged.offset(),
                len: len as u64,
            };
            let ticket = send(address.wrapping_add(done as u64), Payload::Region(range))?;
            staged.release_at(ticket);
            done = done.saturating_add(len);
        }
    }
    // Memory that the guest does not know of is for the driver to judge, and the program waits for that.
    if known { Ok(()) } else { fence(session) }
}

/// Waits until the worker has dealt with everything posted, and takes an error it may have met.
fn fence(session: &Session) -> Result<(), CuResult> {
    session.call(&request::Fence {}).map(|_| ())
}

fn copy_out(
    session: &Session,
    target: *mut c_void,
    address: u64,
    bytes: usize,
    order: Order,
) -> Result<(), CuResult> {
    if bytes == 0 {
        return Ok(());
    }
    if target.is_null() || address == 0 {
        return Err(CuResult::INVALID_VALUE);
    }
    let (ordered, stream) = order.fields();
    let ask = |address: u64, len: usize, into| {
        session.start(&request::CopyOut {
            address,
            bytes: len as u64,
            ordered,
            stream,
            into,
        })
    };
    let finish = |ticket| session.finish::<request::CopyOut>(ticket);
    if let Some(into) = session.memory.region(target, bytes) {
        if let Order::Stream(stream) = order {
            return session
                .post(&request::CopyOutAsync {
                    address,
                    stream,
                    into,
                })
                .map(|_| ());
        }
        return finish(ask(address, bytes, into)?).map(|_| ());
    }
    if bytes <= INLINE {
        let data = finish(ask(address, bytes, Range::default())?)?.data.0;
        if data.len() != bytes {
            return Err(CuResult::SYSTEM_DRIVER_MISMATCH);
        }
        // SAFETY: the program vouches for `bytes` writable bytes at `target`.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), target.cast(), bytes) };
        return Ok(());
    }
    // Chunks on their way, oldest first: where each goes, and the answer that says it has come.
    let mut under_way: VecDeque<(Staged<'_>, Ticket, usize)> = VecDeque::new();
    let take = |(staged, ticket, at): (Staged<'_>, Ticket, usize)| -> Result<(), CuResult> {
        finish(ticket)?;
        // SAFETY: the program vouches for `bytes` writable bytes at `target`; the chunk ends within.
        unsafe { staged.read_into(0, target.cast::<u8>().add(at), staged.len()) }.map_err(lost)
    };
    let chunk = session.channel.front.layout().max_stage();
    let (mut asked, mut result) = (0usize, Ok(()));
    while asked < bytes && result.is_ok() {
        let len = chunk.min(bytes.saturating_sub(asked));
        let staged = if under_way.is_empty() {
            Some(session.channel.front.stage(len).map_err(lost)?)
        } else {
            session.channel.front.try_stage(len).map_err(lost)?
        };
        match staged {
            Some(staged) => {
                let into = Range {
                    region: 0,
                    offset: staged.offset(),
                    len: len as u64,
                };
                match ask(address.wrapping_add(asked as u64), len, into) {
                    Ok(ticket) => under_way.push_back((staged, ticket, asked)),
                    Err(error) => result = Err(error),
                }
                asked = asked.saturating_add(len);
            }
            None => {
                if let Some(oldest) = under_way.pop_front() {
                    result = take(oldest);
                }
            }
        }
    }
    // Every answer is taken, also after an error: the worker may still write to the arena until then.
    for chunk in under_way {
        let taken = take(chunk);
        result = result.and(taken);
    }
    result
}

pub unsafe fn cuMemcpyHtoD_v2(
    dstDevice: u64,
    srcHost: *const c_void,
    ByteCount: usize,
) -> CuResult {
    answer(|session| copy_in(session, dstDevice, srcHost, ByteCount, Order::Program))
}

pub unsafe fn cuMemcpyDtoH_v2(dstHost: *mut c_void, srcDevice: u64, ByteCount: usize) -> CuResult {
    answer(|session| copy_out(session, dstHost, srcDevice, ByteCount, Order::Program))
}

pub unsafe fn cuMemcpyHtoDAsync_v2(
    dstDevice: u64,
    srcHost: *const c_void,
    ByteCount: usize,
    hStream: Handle,
) -> CuResult {
    answer(|session| {
        let stream = used::<Stream>(hStream, session)?;
        copy_in(
            session,
            dstDevice,
            srcHost,
            ByteCount,
            Order::Stream(stream),
        )
    })
}

pub unsafe fn cuMemcpyDtoHAsync_v2(
    dstHost: *mut c_void,
    srcDevice: u64,
    ByteCount: usize,
    hStream: Handle,
) -> CuResult {
    answer(|session| {
        let stream = used::<Stream>(hStream, session)?;
        copy_out(
            session,
            dstHost,
            srcDevice,
            ByteCount,
            Order::Stream(stream),
        )
    })
}

/// Copies between two places that only their addresses tell apart.
fn copy(session: &Session, dst: u64, src: u64, bytes: usize, order: Order) -> Result<(), CuResult> {
    let is_device = |address| session.memory.device_block(address).is_some();
    match (is_device(dst), is_device(src)) {
        (true, true) => match order {
            Order::Program => session
                .post(&request::cuMemcpyDtoD_v2 {
                    dstDevice: dst,
                    srcDevice: src,
                    ByteCount: bytes,
                })
                .map(|_| ()),
            Order::Stream(hStream) => session
                .post(&request::cuMemcpyDtoDAsync_v2 {
                    dstDevice: dst,
                    srcDevice: src,
                    ByteCount: bytes,
                    hStream,
                })
                .map(|_| ()),
        },
        (true, false) => copy_in(session, dst, src as *const c_void, bytes, order),
        (false, true) => copy_out(session, dst as *mut c_void, src, bytes, order),
        (false, false) => {
            if let Order::Stream(hStream) = order {
                session.call(&request::cuStreamSynchronize { hStream })?;
            } else {
                session.call(&request::cuCtxSynchronize {})?;
            }
            // SAFETY: the program vouches for both places, which are its own memory.
            unsafe { std::ptr::copy(src as *const u8, dst as *mut u8, bytes) };
            Ok(())
        }
    }
}

pub unsafe fn cuMemcpy(dst: u64, src: u64, ByteCount: usize) -> CuResult {
    answer(|session| copy(session, dst, src, ByteCount, Order::Program))
}

pub unsafe fn cuMemcpyAsync(dst: u64, src: u64, ByteCount: usize, hStream: Handle) -> CuResult {
    answer(|session| {
        let stream = used::<Stream>(hStream, session)?;
        copy(session, dst, src, ByteCount, Order::Stream(stream))
    })
}
