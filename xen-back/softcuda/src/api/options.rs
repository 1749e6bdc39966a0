//! Options of a load or link: `CUjit_option` numbers with values beside them. What tunes a compiler that
//! this is not is taken and ignored; logs and times are written where the program asks for them.

use crate::exec::Program;
use crate::module::LoadFailure;
use cuda_abi::CuResult;
use std::cell::Cell;
use std::ffi::c_void;
use std::fmt::Write as _;
use std::time::Instant;

/// The options that mean something here, by number.
mod option {
    /// Threads of a block that are to fit; the answer is how many do.
    pub const THREADS_PER_BLOCK: i32 = 1;
    pub const WALL_TIME: i32 = 2;
    pub const INFO_LOG_BUFFER: i32 = 3;
    pub const INFO_LOG_BYTES: i32 = 4;
    pub const ERROR_LOG_BUFFER: i32 = 5;
    pub const ERROR_LOG_BYTES: i32 = 6;
    /// 0 to 4.
    pub const OPTIMIZATION_LEVEL: i32 = 7;
    /// The compute capability to compile for: 75 for 7.5.
    pub const TARGET: i32 = 9;
    pub const LOG_VERBOSE: i32 = 12;
    /// The first number that CUDA 12.8 does not define.
    pub const END: i32 = 36;
}

/// The options of one load or link.
pub struct Options {
    names: *mut i32,
    values: *mut *mut c_void,
    count: usize,
    /// Bytes that the log buffers hold, as the program said: the answers overwrite it.
    rooms: [usize; 2],
    milliseconds: Cell<f32>,
}

impl Options {
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if the arrays are missing, name an option that does not exist, or give
    /// one a value that it cannot have.
    ///
    /// # Safety
    /// The arrays are null or have `count` entries, of the types that CUDA documents, for as long as the
    /// options live.
    pub unsafe fn new(
        count: u32,
        names: *mut i32,
        values: *mut *mut c_void,
    ) -> Result<Options, CuResult> {
        let mut options = Options {
            names,
            values,
            count: count as usize,
            ..Options::none()
        };
        if count > 0 && (names.is_null() || values.is_null()) {
            return Err(CuResult::INVALID_VALUE);
        }
        for at in 0..options.count {
            // SAFETY: within the array.
            let name = unsafe { names.add(at).read() };
            if !(0..option::END).contains(&name) {
                return Err(CuResult::INVALID_VALUE);
            }
        }
        if options
            .number(option::OPTIMIZATION_LEVEL)
            .is_some_and(|level| level > 4)
            || options
                .number(option::TARGET)
                .is_some_and(|target| target < 10)
        {
            return Err(CuResult::INVALID_VALUE);
        }
        let room = |name| options.number(name).unwrap_or(0) as usize;
        options.rooms = [room(option::ERROR_LOG_BYTES), room(option::INFO_LOG_BYTES)];
        Ok(options)
    }

    /// No options.
    pub fn none() -> Options {
        Options {
            names: std::ptr::null_mut(),
            values: std::ptr::null_mut(),
            count: 0,
            rooms: [0; 2],
            milliseconds: Cell::new(0.0),
        }
    }

    /// The place of an option's value.
    fn place(&self, name: i32) -> Option<*mut *mut c_void> {
        // SAFETY: within the arrays that `new`'s caller vouches for.
        (0..self.count)
            .find(|at| unsafe { self.names.add(*at).read() } == name)
            .map(|at| unsafe { self.values.add(at) })
    }

    /// An option's value where that is a 32-bit number, in the value itself.
    fn number(&self, name: i32) -> Option<u32> {
        // SAFETY: within the arrays that `new`'s caller vouches for.
        self.place(name)
            .map(|place| unsafe { place.read() } as usize as u32)
    }

    /// Writes a log into the program's buffer, as much as fits with a NUL byte, and says how much.
    fn log(&self, buffer: i32, bytes: i32, room: usize, text: &str) {
        let (Some(buffer), Some(bytes)) = (self.place(buffer), self.place(bytes)) else {
            return;
        };
        // SAFETY: the program says that the buffer holds so many bytes.
        unsafe {
            let to = buffer.read().cast::<u8>();
            let mut written = 0;
            if room > 0 && !to.is_null() {
                written = text.len().min(room - 1);
                to.copy_from_nonoverlapping(text.as_ptr(), written);
                to.add(written).write(0);
            }
            bytes.write(written as *mut c_void);
        }
    }

    /// Does something and counts the time that it takes.
    pub fn time<R>(&self, body: impl FnOnce() -> R) -> R {
        let started = Instant::now();
        let result = body();
        let took = started.elapsed().as_secs_f32() * 1e3;
        self.milliseconds.set(self.milliseconds.get() + took);
        result
    }

    /// Tells the program, and whoever reads our log, how it went.
    ///
    /// # Errors
    /// The failure's code.
    pub fn tell(&self, outcome: Result<&Program, &LoadFailure>) -> Result<(), CuResult> {
        let mut info = String::new();
        if let (Ok(program), Some(1..)) = (outcome, self.number(option::LOG_VERBOSE)) {
            for kernel in program.kernels() {
                // Writing to a String cannot fail.
                let _ = writeln!(
                    info,
                    "{}: {} registers, {} bytes of shared memory, {} of local memory, {} of parameters",
                    kernel.name,
                    kernel.registers,
                    kernel.shared_bytes,
                    kernel.local_bytes,
                    kernel.param_bytes
                );
            }
        }
        let errors = outcome.err().map_or("", |failure| failure.log.as_str());
        let [error_room, info_room] = self.rooms;
        self.log(
            option::ERROR_LOG_BUFFER,
            option::ERROR_LOG_BYTES,
            error_room,
            errors,
        );
        self.log(
            option::INFO_LOG_BUFFER,
            option::INFO_LOG_BYTES,
            info_room,
            &info,
        );
        if let Some(place) = self.place(option::WALL_TIME) {
            // SAFETY: the option's value itself is the place for a float.
            unsafe { place.cast::<f32>().write(self.milliseconds.get()) };
        }
        if let (Ok(program), Some(place)) = (outcome, self.place(option::THREADS_PER_BLOCK)) {
            let fits = program
                .kernels()
                .iter()
                .map(crate::module::max_threads)
                .min();
            let fits = fits.unwrap_or(crate::exec::MAX_BLOCK_THREADS);
            // SAFETY: the option's value itself is the place for the answer.
            unsafe { place.write(fits as usize as *mut c_void) };
        }
        match outcome {
            Ok(_) => Ok(()),
            Err(failure) => {
                tracing::error!(code = %failure.code, "module not loaded: {}", failure.log);
                Err(failure.code)
            }
        }
    }
}
