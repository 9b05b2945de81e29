//! The system calls that a worker may make.
//!
//! Three filters, of which the kernel takes the strictest answer:
//! 1. the allow-list: what carrying bytes between existing sockets needs. Everything else fails with `EPERM`, because
//!    libraries try things (files that tune them, new system calls) and have ways to do without;
//! 2. the kill-list: calls that no library tries and every exploit wants. They end the process: its listeners are held by
//!    the agent, the next worker goes on from there;
//! 3. `clone3` answers `ENOSYS`: its arguments are out of a filter's sight; the C library falls back to `clone`, whose
//!    flags are not.

use std::collections::BTreeMap;

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::ConfineError;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Confines all threads of the process, those to come too, to the worker's system calls.
///
/// # Errors
/// [`ConfineError::Filter`]; no thread is confined then, or the process must not go on.
pub fn filter_system_calls() -> Result<(), ConfineError> {
    let errno = |number: i32| SeccompAction::Errno(number.unsigned_abs());
    let filters = [
        (allowed()?, errno(libc::EPERM), SeccompAction::Allow),
        (hostile()?, SeccompAction::Allow, SeccompAction::KillProcess),
        (
            Rules::from([(libc::SYS_clone3, Vec::new())]),
            SeccompAction::Allow,
            errno(libc::ENOSYS),
        ),
    ];
    // Compiled before the first is installed: afterwards this very code runs under it. The allow-list goes in last,
    // because it does not allow seccomp().
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(refused)?;
    let mut programs = Vec::new();
    for (rules, otherwise, matched) in filters {
        let filter =
            SeccompFilter::new(rules, otherwise, matched, architecture).map_err(refused)?;
        programs.push(seccompiler::BpfProgram::try_from(filter).map_err(refused)?);
    }
    for program in programs.iter().rev() {
        seccompiler::apply_filter_all_threads(program).map_err(refused)?;
    }
    Ok(())
}

/// Calls without a look at their arguments. The kernel keeps a bitmap of them, so they cost next to nothing.
const PLAIN: &[i64] = &[
    // Bytes, on sockets and the link. No splice, no sendfile, no io_uring.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    // Sealed payloads.
    libc::SYS_pread64,
    libc::SYS_lseek,
    // Sockets that exist already: the agent makes them.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_close,
    // Readiness and time.
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // Memory. mmap and mprotect are below: nothing becomes executable.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads and signals, of this process only.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Asked for by allocators and cryptography.
    libc::SYS_getrandom,
    libc::SYS_getcpu,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    // Answered by the third filter.
    libc::SYS_clone3,
];

#[cfg(target_arch = "x86_64")]
const PLAIN_HERE: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const PLAIN_HERE: &[i64] = &[];

/// No library of the worker makes these, not even to see whether they work.
const HOSTILE: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_capset,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_reboot,
    libc::SYS_open_by_handle_at,
];

fn allowed() -> Result<Rules, ConfineError> {
    let mut rules: Rules = PLAIN
        .iter()
        .chain(PLAIN_HERE)
        .map(|call| (*call, Vec::new()))
        .collect();
    let not_executable = vec![rule(&[masked(2, libc::PROT_EXEC, 0)])?];
    rules.insert(libc::SYS_mmap, not_executable.clone());
    rules.insert(libc::SYS_mprotect, not_executable);
    // Threads, never processes.
    let thread = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
    rules.insert(libc::SYS_clone, vec![rule(&[masked(0, thread, thread)])?]);
    let own = std::process::id().cast_signed();
    rules.insert(libc::SYS_tgkill, vec![rule(&[equal(0, own)])?]);
    rules.insert(
        libc::SYS_fcntl,
        any_of(
            1,
            &[
                libc::F_GETFD,
                libc::F_SETFD,
                libc::F_GETFL,
                libc::F_SETFL,
                libc::F_DUPFD_CLOEXEC,
                libc::F_GET_SEALS,
            ],
        )?,
    );
    let ioctls: Vec<i32> = [libc::FIONBIO, libc::FIONREAD, libc::TIOCOUTQ]
        .into_iter()
        .filter_map(|request| i32::try_from(request).ok())
        .collect();
    rules.insert(libc::SYS_ioctl, any_of(1, &ioctls)?);
    // Names of threads and of anonymous memory.
    rules.insert(
        libc::SYS_prctl,
        any_of(0, &[libc::PR_SET_NAME, libc::PR_SET_VMA])?,
    );
    Ok(rules)
}

fn hostile() -> Result<Rules, ConfineError> {
    let mut rules: Rules = HOSTILE.iter().map(|call| (*call, Vec::new())).collect();
    // Programs and protocols that run in the kernel on behalf of a socket.
    let mut options = Vec::new();
    for (level, option) in [
        (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
        (libc::SOL_SOCKET, libc::SO_ATTACH_BPF),
        (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF),
        (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_EBPF),
        (libc::IPPROTO_TCP, libc::TCP_ULP),
    ] {
        options.push(rule(&[equal(1, level), equal(2, option)])?);
    }
    rules.insert(libc::SYS_setsockopt, options);
    Ok(rules)
}

fn any_of(argument: u8, values: &[i32]) -> Result<Vec<SeccompRule>, ConfineError> {
    values
        .iter()
        .map(|value| rule(&[equal(argument, *value)]))
        .collect()
}

type Condition = Result<SeccompCondition, seccompiler::BackendError>;

fn rule(conditions: &[Condition]) -> Result<SeccompRule, ConfineError> {
    let conditions = conditions
        .iter()
        .map(|condition| match condition {
            Ok(condition) => Ok(condition.clone()),
            Err(error) => Err(refused(error.to_string())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    SeccompRule::new(conditions).map_err(refused)
}

/// Arguments of these calls are `int` or `unsigned int`: the kernel looks at the low half of the register only.
fn equal(argument: u8, value: i32) -> Condition {
    SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::from(value.cast_unsigned()),
    )
}

fn masked(argument: u8, mask: i32, value: i32) -> Condition {
    SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(u64::from(mask.cast_unsigned())),
        u64::from(value.cast_unsigned()),
    )
}

fn refused(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ConfineError {
    ConfineError::Filter(error.into())
}
