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

/// Confines every thread of this process, for good.
pub fn confine() -> Result<(), SandboxError> {
    let fail = |e: &dyn std::fmt::Display| SandboxError(e.to_string());
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().map(|call| (*call, Vec::new())).collect();
    // No sockets beyond the machine: AF_INET, AF_INET6, AF_PACKET, AF_VSOCK.
    let families = [
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_PACKET,
        libc::AF_VSOCK,
    ];
    let sockets = families
        .iter()
        .map(|family| {
            let condition = SeccompCondition::new(
                0,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Eq,
                *family as u64,
            )?;
            SeccompRule::new(vec![condition])
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| fail(&e))?;
    rules.insert(libc::SYS_socket, sockets);
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
                let unix = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) >= 0;
                i32::from(confined && exec && inet && unix)
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
