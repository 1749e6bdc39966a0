//! Xen's libxenctrl, loaded when it is needed: it must match the running hypervisor, and a machine without it must do
//! without its policies and nothing else. It is LGPL-2.1 and never linked.
//!
//! Only functions whose structures are small and have stayed as they are: declared here from `xenctrl.h` and
//! `xen/include/public/domctl.h`, the same in 4.17 to 4.21. What the library fills in gets room for all that a
//! `domctl` can carry, so that a structure that grows is no overrun.

use std::ffi::{c_int, c_uint, c_void};
use std::io;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::time::Duration;

use xen::DomId;

use crate::{Error, Hypervisor, Parameters, Scheduler, Vcpu};

/// Where Linux says which Xen runs.
const VERSION: &str = "/sys/hypervisor/version";

/// `xc_interface *`: libxenctrl's handle.
type Interface = *mut c_void;

/// Bytes of a `struct xen_domctl`'s union, which is what any of its structures can grow to (`uint8_t pad[128]`).
const DOMCTL_ROOM: usize = 128;

/// `struct xen_domctl_sched_credit` and `struct xen_domctl_sched_credit2`, which are alike.
#[repr(C)]
#[derive(Clone, Copy)]
struct SchedCredit {
    weight: u16,
    cap: u16,
    room: [u8; DOMCTL_ROOM],
}

impl SchedCredit {
    const EMPTY: SchedCredit = SchedCredit {
        weight: 0,
        cap: 0,
        room: [0; DOMCTL_ROOM],
    };
}

/// `struct xen_domctl_getvcpuinfo`.
#[repr(C)]
#[derive(Clone, Copy)]
struct VcpuInfo {
    vcpu: u32,
    online: u8,
    blocked: u8,
    running: u8,
    /// Nanoseconds.
    cpu_time: u64,
    cpu: u32,
    room: [u8; DOMCTL_ROOM],
}

impl VcpuInfo {
    const EMPTY: VcpuInfo = VcpuInfo {
        vcpu: 0,
        online: 0,
        blocked: 0,
        running: 0,
        cpu_time: 0,
        cpu: 0,
        room: [0; DOMCTL_ROOM],
    };
}

/// `XEN_SCHEDULER_CREDIT`.
const CREDIT: c_int = 5;
/// `XEN_SCHEDULER_CREDIT2`.
const CREDIT2: c_int = 6;

type Open = unsafe extern "C" fn(*mut c_void, *mut c_void, c_uint) -> Interface;
type Close = unsafe extern "C" fn(Interface) -> c_int;
type SchedId = unsafe extern "C" fn(Interface, *mut c_int) -> c_int;
type Sched = unsafe extern "C" fn(Interface, u32, *mut SchedCredit) -> c_int;
type GetVcpu = unsafe extern "C" fn(Interface, u32, u32, *mut VcpuInfo) -> c_int;

/// The functions that are used, under their own names.
#[derive(Debug)]
#[allow(
    clippy::struct_field_names,
    reason = "the library's names, all of which begin alike"
)]
struct Functions {
    xc_interface_open: Open,
    xc_interface_close: Close,
    xc_sched_id: SchedId,
    xc_sched_credit_domain_get: Sched,
    xc_sched_credit_domain_set: Sched,
    xc_sched_credit2_domain_get: Sched,
    xc_sched_credit2_domain_set: Sched,
    xc_vcpu_getinfo: GetVcpu,
}

/// libxenctrl and a handle of it.
#[derive(Debug)]
pub struct LibXenCtrl {
    name: String,
    functions: Functions,
    interface: NonNull<c_void>,
    /// The scheduler of the first pool of processors, in which domains are unless somebody moved them.
    usual: Scheduler,
    /// Keeps the code mapped: `functions` points into it. Dropped last.
    _library: libloading::Library,
}

// SAFETY: a handle may be used by any thread (xenctrl.h: unless it was opened with XC_OPENFLAG_NON_REENTRANT, which it
// is not); what the library keeps for a thread is only the text of its last error, which is not asked for.
unsafe impl Send for LibXenCtrl {}

impl LibXenCtrl {
    /// Loads the one that matches the running Xen, by the names that its packages give it.
    ///
    /// # Errors
    /// There is no Xen, no library, or the hypervisor refuses: [`Error`] says which.
    pub fn open() -> Result<LibXenCtrl, Error> {
        let names = running_version(Path::new(VERSION)).map(names)?;
        let mut said = Vec::new();
        for name in &names {
            // SAFETY: a library of this name is Xen's: its constructors set up its own state and nothing else. Whoever
            // can put another one on the loader's path of a root daemon is root.
            match unsafe { libloading::Library::new(name) } {
                Ok(library) => return Self::of(library, name.clone()),
                Err(error) => said.push(error.to_string()),
            }
        }
        let [library, _] = names;
        Err(Error::NoLibrary {
            library,
            reason: said.join("; "),
        })
    }

    /// Uses this library.
    ///
    /// # Safety
    /// It is a libxenctrl: its constructors run, and its functions are taken to have libxenctrl's signatures.
    ///
    /// # Errors
    /// As [`LibXenCtrl::open`].
    pub unsafe fn load(path: &Path) -> Result<LibXenCtrl, Error> {
        // SAFETY: the caller vouches for the library.
        let library =
            unsafe { libloading::Library::new(path) }.map_err(|error| Error::NoLibrary {
                library: path.display().to_string(),
                reason: error.to_string(),
            })?;
        Self::of(library, path.display().to_string())
    }

    fn of(library: libloading::Library, name: String) -> Result<LibXenCtrl, Error> {
        macro_rules! function {
            ($symbol:ident) => {
                // SAFETY: in a libxenctrl, which `open` has by its name and `load` by its caller's word, the function
                // of this name has the signature that the field of `Functions` declares.
                match unsafe { library.get(concat!(stringify!($symbol), "\0").as_bytes()) } {
                    Ok(symbol) => *symbol,
                    Err(_) => {
                        return Err(Error::NoFunction {
                            library: name,
                            symbol: stringify!($symbol),
                        });
                    }
                }
            };
        }
        let functions = Functions {
            xc_interface_open: function!(xc_interface_open),
            xc_interface_close: function!(xc_interface_close),
            xc_sched_id: function!(xc_sched_id),
            xc_sched_credit_domain_get: function!(xc_sched_credit_domain_get),
            xc_sched_credit_domain_set: function!(xc_sched_credit_domain_set),
            xc_sched_credit2_domain_get: function!(xc_sched_credit2_domain_get),
            xc_sched_credit2_domain_set: function!(xc_sched_credit2_domain_set),
            xc_vcpu_getinfo: function!(xc_vcpu_getinfo),
        };
        // SAFETY: null loggers are allowed and mean standard error; no flags.
        let interface =
            unsafe { (functions.xc_interface_open)(ptr::null_mut(), ptr::null_mut(), 0) };
        let Some(interface) = NonNull::new(interface) else {
            return Err(Error::NoInterface {
                library: name,
                source: io::Error::last_os_error(),
            });
        };
        let mut ctrl = LibXenCtrl {
            name,
            functions,
            interface,
            usual: Scheduler::Credit2,
            _library: library,
        };
        let mut scheduler = 0;
        // SAFETY: the handle is open, and the integer is there for the call.
        let answered = unsafe { (ctrl.functions.xc_sched_id)(interface.as_ptr(), &mut scheduler) };
        ctrl.judge("xc_sched_id", DomId(0), answered)?;
        if scheduler == CREDIT {
            ctrl.usual = Scheduler::Credit;
        } else if scheduler != CREDIT2 {
            return Err(Error::NoWeights { domid: DomId(0) });
        }
        // The other of the two interfaces that have versions of their own: of domain 0, which there always is.
        ctrl.vcpu(DomId(0), 0)?;
        Ok(ctrl)
    }

    /// What an answer of the library's means; `errno` is still that of the call.
    fn judge(&self, call: &'static str, domid: DomId, answer: c_int) -> Result<(), Error> {
        if answer >= 0 {
            return Ok(());
        }
        let source = io::Error::last_os_error();
        Err(match source.raw_os_error() {
            Some(EACCES) => Error::OtherVersion {
                library: self.name.clone(),
            },
            Some(EPERM) => Error::Denied { call },
            Some(ESRCH) => Error::NoDomain { domid },
            _ => Error::Call {
                call,
                domid,
                source,
            },
        })
    }

    fn get(&self, scheduler: Scheduler, domid: DomId) -> Result<SchedCredit, Error> {
        let (call, function) = match scheduler {
            Scheduler::Credit => (
                "xc_sched_credit_domain_get",
                self.functions.xc_sched_credit_domain_get,
            ),
            Scheduler::Credit2 => (
                "xc_sched_credit2_domain_get",
                self.functions.xc_sched_credit2_domain_get,
            ),
        };
        let mut credit = SchedCredit::EMPTY;
        // SAFETY: the handle is open, and the structure is there for the call, with room for whatever it is filled with.
        let answer = unsafe { function(self.interface.as_ptr(), domid.0.into(), &mut credit) };
        self.judge(call, domid, answer)?;
        Ok(credit)
    }

    /// A domain's parameters with the scheduler that it is under: the usual one, or the other if it was moved to a pool
    /// that has another. Xen answers EINVAL for a scheduler that is not the domain's.
    fn find(&self, domid: DomId) -> Result<(Scheduler, SchedCredit), Error> {
        let other = match self.usual {
            Scheduler::Credit => Scheduler::Credit2,
            Scheduler::Credit2 => Scheduler::Credit,
        };
        for scheduler in [self.usual, other] {
            match self.get(scheduler, domid) {
                Ok(credit) => return Ok((scheduler, credit)),
                Err(Error::Call { source, .. }) if source.raw_os_error() == Some(EINVAL) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::NoWeights { domid })
    }
}

impl Hypervisor for LibXenCtrl {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn parameters(&self, domid: DomId) -> Result<Parameters, Error> {
        let (scheduler, credit) = self.find(domid)?;
        Ok(Parameters {
            scheduler,
            weight: credit.weight,
            cap: Some(credit.cap).filter(|cap| *cap != 0),
        })
    }

    fn set_weight(&self, domid: DomId, weight: u16) -> Result<(), Error> {
        let (scheduler, mut credit) = self.find(domid)?;
        let (call, function) = match scheduler {
            Scheduler::Credit => (
                "xc_sched_credit_domain_set",
                self.functions.xc_sched_credit_domain_set,
            ),
            Scheduler::Credit2 => (
                "xc_sched_credit2_domain_set",
                self.functions.xc_sched_credit2_domain_set,
            ),
        };
        // The cap as it was found: both schedulers take it from the same structure.
        credit.weight = weight;
        // SAFETY: the handle is open, and the structure is there for the call.
        let answer = unsafe { function(self.interface.as_ptr(), domid.0.into(), &mut credit) };
        self.judge(call, domid, answer)
    }

    fn vcpu(&self, domid: DomId, vcpu: u32) -> Result<Option<Vcpu>, Error> {
        let mut info = VcpuInfo::EMPTY;
        // SAFETY: the handle is open, and the structure is there for the call, with room for whatever it is filled with.
        let answer = unsafe {
            (self.functions.xc_vcpu_getinfo)(
                self.interface.as_ptr(),
                domid.0.into(),
                vcpu,
                &mut info,
            )
        };
        match self.judge("xc_vcpu_getinfo", domid, answer) {
            Ok(()) => Ok(Some(Vcpu {
                online: info.online != 0,
                blocked: info.blocked != 0,
                running: info.running != 0,
                cpu_time: Duration::from_nanos(info.cpu_time),
            })),
            // Beyond the last: EINVAL up to Xen 4.21, ENOENT since.
            Err(Error::Call { source, .. })
                if matches!(source.raw_os_error(), Some(EINVAL | ENOENT)) =>
            {
                Ok(None)
            }
            // One that was never made.
            Err(Error::NoDomain { .. }) if vcpu > 0 => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for LibXenCtrl {
    fn drop(&mut self) {
        // SAFETY: the handle is open, is closed only here, and nothing uses it afterwards.
        unsafe { (self.functions.xc_interface_close)(self.interface.as_ptr()) };
    }
}

/// Linux's numbers of the errors that are told apart.
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;

/// The running Xen's version, as Linux tells it.
fn running_version(folder: &Path) -> Result<(u32, u32), Error> {
    let number = |name| {
        let path = folder.join(name);
        let read = std::fs::read_to_string(&path).and_then(|text| {
            let number = text.trim().parse();
            number.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a number"))
        });
        read.map_err(|source| Error::NoXen { path, source })
    };
    Ok((number("major")?, number("minor")?))
}

/// libxenctrl's names for a version of Xen, the most exact first. That without a version is a package's for compilers;
/// its version shows when it is asked.
fn names((major, minor): (u32, u32)) -> [String; 2] {
    [
        format!("libxenctrl.so.{major}.{minor}"),
        "libxenctrl.so".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_begin_as_xen_declares_them() {
        // By the C rules for public/domctl.h on x86-64, where uint64_aligned_t is aligned to 8 bytes.
        assert_eq!(std::mem::offset_of!(VcpuInfo, online), 4);
        assert_eq!(std::mem::offset_of!(VcpuInfo, running), 6);
        assert_eq!(std::mem::offset_of!(VcpuInfo, cpu_time), 8);
        assert_eq!(std::mem::offset_of!(VcpuInfo, cpu), 16);
        assert_eq!(std::mem::offset_of!(SchedCredit, cap), 2);
    }

    #[test]
    fn a_machine_without_xen_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let error = running_version(folder.path()).unwrap_err().to_string();
        assert!(error.contains("major"), "{error}");
        std::fs::write(folder.path().join("major"), "4\n").unwrap();
        std::fs::write(folder.path().join("minor"), "17\n").unwrap();
        assert_eq!(running_version(folder.path()).unwrap(), (4, 17));
        assert_eq!(names((4, 17))[0], "libxenctrl.so.4.17");
    }
}
