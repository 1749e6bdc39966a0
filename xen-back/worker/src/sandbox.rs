//! What a worker gives up once its driver is up: it needs no new programs, no other process and no
//! network, whatever a guest makes it do.
//!
//! The filter names what is denied, since what a vendor's driver needs is not ours to know. Must be
//! applied to every thread, and must never be undone.

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// Why the filter could not be put in place.
#[derive(Debug, thiserror::Error)]
#[error("the worker cannot be confined: {0}; the kernel needs CONFIG_SECCOMP_FILTER")]
pub struct SandboxError(String);

/// System calls that a worker never needs.
const DENIED: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_pidfd_getfd,
];

/// Requests to Xen's devices that backd makes for its workers. A worker has the descriptors, to mmap
/// and to notify: it must not map what another guest granted, nor bind another event channel.
const DENIED_REQUESTS: &[u64] = &[
    0x0018_4700, // IOCTL_GNTDEV_MAP_GRANT_REF
    0x0010_4708, // IOCTL_GNTDEV_GRANT_COPY
    0x0004_4500, // IOCTL_EVTCHN_BIND_VIRQ
    0x0008_4501, // IOCTL_EVTCHN_BIND_INTERDOMAIN
    0x0004_4502, // IOCTL_EVTCHN_BIND_UNBOUND_PORT
];

/// Refuses a call whose argument number `argument` is one of these values.
fn refuse(
    argument: u8,
    values: impl IntoIterator<Item = u64>,
) -> Result<Vec<SeccompRule>, SandboxError> {
    let rule = |value| {
        let condition =
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
        SeccompRule::new(vec![condition])
    };
    let rules: Result<Vec<_>, seccompiler::BackendError> = values.into_iter().map(rule).collect();
    rules.map_err(|e| SandboxError(e.to_string()))
}

/// Confines every thread of this process, for good.
pub fn confine() -> Result<(), SandboxError> {
    let fail = |e: &dyn std::fmt::Display| SandboxError(e.to_string());
    // Other workers run as the same user: none may read or write this one's memory.
    // SAFETY: changes an attribute of this process.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) } == -1 {
        return Err(fail(&std::io::Error::last_os_error()));
    }
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().map(|call| (*call, Vec::new())).collect();
    // No sockets beyond the machine.
    let families = [
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_PACKET,
        libc::AF_VSOCK,
    ];
    rules.insert(
        libc::SYS_socket,
        refuse(0, families.map(|family| family as u64))?,
    );
    rules.insert(libc::SYS_ioctl, refuse(1, DENIED_REQUESTS.iter().copied())?);
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(|e: seccompiler::BackendError| fail(&e))?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        arch,
    )
    .map_err(|e| fail(&e))?;
    let program: seccompiler::BpfProgram = filter
        .try_into()
        .map_err(|e: seccompiler::BackendError| fail(&e))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|e| fail(&e))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_confined_process_starts_no_program_and_opens_no_network() {
        // In a child, for the filter cannot be taken off again; it reports by its exit status.
        // SAFETY: the child only makes system calls before it ends, and ends by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let confined = super::confine().is_ok();
            let path = c"/bin/true".as_ptr();
            // SAFETY: valid C strings and arrays; execve is expected to fail, socket to be refused.
            let verdict = unsafe {
                let arguments = [path, std::ptr::null()];
                libc::execve(path, arguments.as_ptr(), std::ptr::null());
                let exec = *libc::__errno_location() == libc::EPERM;
                let inet = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) == -1;
                // Refused before the kernel looks at the descriptor.
                let map =
                    libc::ioctl(-1, 0x0018_4700) == -1 && *libc::__errno_location() == libc::EPERM;
                let private = libc::prctl(libc::PR_GET_DUMPABLE) == 0;
                let unix = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) >= 0;
                i32::from(confined && exec && inet && unix && map && private)
            };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(verdict) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert!(libc::WIFEXITED(status));
        assert_eq!(libc::WEXITSTATUS(status), 1);
    }
}
