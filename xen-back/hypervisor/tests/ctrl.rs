//! The way to libxenctrl, through a library of the same interface that answers from memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use vgpu_hypervisor::ctrl::LibXenCtrl;
use vgpu_hypervisor::{Error, Hypervisor, Parameters, Scheduler, Vcpu};
use xen::DomId;

/// Builds a library with these macros and loads it. Each is another file, and so has domains of its own.
fn load(macros: &[&str]) -> (TempDir, Result<LibXenCtrl, Error>) {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libxenctrl.so.4.99");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
        .arg(&library)
        .args(macros)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fake_libxenctrl.c"
        ))
        .status()
        .unwrap();
    assert!(status.success());
    // SAFETY: its functions have libxenctrl's signatures; the compiler has just made it from those above.
    let loaded = unsafe { LibXenCtrl::load(&library) };
    (folder, loaded)
}

#[test]
fn weights_are_read_and_set_under_each_scheduler() {
    for (macros, usual, other) in [
        (&["-DUSUAL=6"], Scheduler::Credit2, Scheduler::Credit),
        (&["-DUSUAL=5"], Scheduler::Credit, Scheduler::Credit2),
    ] {
        let (_folder, loaded) = load(macros);
        let xen = loaded.unwrap();
        let of = |scheduler, weight, cap| Parameters {
            scheduler,
            weight,
            cap,
        };
        let parameters = |domid| xen.parameters(DomId(domid)).unwrap();
        assert_eq!(parameters(0), of(usual, 256, None));
        assert_eq!(parameters(1), of(usual, 256, Some(50)));
        assert_eq!(parameters(2), of(other, 512, None));
        xen.set_weight(DomId(1), 777).unwrap();
        xen.set_weight(DomId(2), 1).unwrap();
        assert_eq!(parameters(1), of(usual, 777, Some(50)), "the cap stays");
        assert_eq!(parameters(2), of(other, 1, None));
        assert!(matches!(
            xen.parameters(DomId(3)),
            Err(Error::NoWeights { domid: DomId(3) })
        ));
        assert!(matches!(
            xen.set_weight(DomId(4), 1),
            Err(Error::NoDomain { domid: DomId(4) })
        ));
    }
}

#[test]
fn virtual_processors_are_told_and_end() {
    let (_folder, loaded) = load(&[]);
    let xen = loaded.unwrap();
    let of = |running: bool, time| Vcpu {
        online: true,
        blocked: !running,
        running,
        cpu_time: Duration::from_nanos(time),
    };
    let vcpu = |domid, number| xen.vcpu(DomId(domid), number).unwrap();
    assert_eq!(vcpu(1, 0), Some(of(true, 1_000_000_007)));
    assert_eq!(vcpu(1, 1), Some(of(false, 2_000_000_014)));
    for (domid, number) in [(1, 2), (1, 3), (1, 4), (0, 1), (0, 2)] {
        assert_eq!(vcpu(domid, number), None, "{number} of {domid}");
    }
    assert!(matches!(
        xen.vcpu(DomId(9), 0),
        Err(Error::NoDomain { domid: DomId(9) })
    ));
}

#[test]
fn the_handle_is_closed() {
    let (folder, loaded) = load(&[]);
    // SAFETY: the same library, and so the same variable, an int.
    let (_library, closed) = unsafe {
        let library = libloading::Library::new(folder.path().join("libxenctrl.so.4.99")).unwrap();
        let closed: *mut i32 = *library.get(b"closed\0").unwrap();
        (library, closed)
    };
    // SAFETY: the library is still open, and no other thread uses it.
    let closed = || unsafe { *closed };
    assert_eq!(closed(), 0);
    drop(loaded.unwrap());
    assert_eq!(closed(), 1);
}

#[test]
fn each_way_to_fail_says_what_to_do() {
    // SAFETY: there is no such library.
    let none = unsafe { LibXenCtrl::load("/nowhere/libxenctrl.so.4.99".as_ref()) };
    let failures = [
        (none.unwrap_err(), "install"),
        (load(&["-DLACKING"]).1.unwrap_err(), "xc_vcpu_getinfo"),
        (load(&["-DCLOSED"]).1.unwrap_err(), "xen-privcmd"),
        (load(&["-DREFUSE=EACCES"]).1.unwrap_err(), "version"),
        (load(&["-DREFUSE=EPERM"]).1.unwrap_err(), "another policy"),
        (load(&["-DUSUAL=9"]).1.unwrap_err(), "sched=credit2"),
    ];
    for (error, says) in failures {
        assert!(error.to_string().contains(says), "{error}");
    }
}
