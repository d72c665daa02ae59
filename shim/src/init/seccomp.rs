//! The system call filter: which calls a container may make.
//!
//! Two programs, because one has a single answer for what it does not list. The first
//! allows what is known to be harmless and answers `ENOSYS` to the rest, so that a C
//! library newer than this list falls back instead of failing. The second answers `EPERM`
//! to what is known to be dangerous. A foreign architecture is killed by both. Where two
//! filters answer with an error, the kernel takes that of the one loaded last.

use std::collections::BTreeMap;

use linkspan_sys::seccomp::Instruction;
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::syscalls::{self, DANGEROUS, OF_ADMIN};
use crate::failure::Failure;

/// Namespace flags of `clone`: none may be made, and user namespaces above all not.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// ioctls that put input into somebody's terminal.
const TERMINAL_INJECTION: [u64; 2] = [libc::TIOCSTI, 0x541c];
/// Execution domains: Linux, 32-bit addresses, uname 2.6, both, and the query.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The programs in the order to load them.
#[derive(Debug)]
pub(crate) struct Filter([Vec<Instruction>; 2]);

impl Filter {
    /// Compiles the filter for processes with these capabilities.
    pub(crate) fn compile(capabilities: CapabilitySet) -> Result<Self, Failure> {
        let compile = |rules, otherwise, listed| {
            compile(rules, otherwise, listed)
                .map_err(|error| Failure::system(format!("compile seccomp: {error}"), Errno::INVAL))
        };
        let errno = |errno: Errno| SeccompAction::Errno(errno.raw_os_error().unsigned_abs());
        Ok(Self([
            compile(
                allowed(capabilities),
                errno(Errno::NOSYS),
                SeccompAction::Allow,
            )?,
            compile(
                dangerous(capabilities),
                SeccompAction::Allow,
                errno(Errno::PERM),
            )?,
        ]))
    }

    /// Applies it to the calling process for good.
    pub(crate) fn load(&self) -> Result<(), linkspan_sys::SyscallError> {
        self.0
            .iter()
            .try_for_each(|program| linkspan_sys::seccomp::load(program))
    }
}

fn compile(
    rules: Result<Rules, seccompiler::BackendError>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<Vec<Instruction>, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let program: BpfProgram = SeccompFilter::new(rules?, otherwise, listed, arch)?.try_into()?;
    Ok(program
        .iter()
        .map(|instruction| Instruction {
            code: instruction.code,
            jump_true: instruction.jt,
            jump_false: instruction.jf,
            operand: instruction.k,
        })
        .collect())
}

/// The allow list: by number, and by argument where that is enough to tell.
fn allowed(capabilities: CapabilitySet) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = syscalls::allowed()
        .map(|number| (number, Vec::new()))
        .collect();
    rules.insert(libc::SYS_clone, Vec::new());
    if capabilities.contains(CapabilitySet::SYS_ADMIN) {
        rules.extend(OF_ADMIN.iter().map(|number| (*number, Vec::new())));
    }
    let equal = |value: &u64| SeccompRule::new(vec![condition(0, Len::Dword, Op::Eq, *value)?]);
    let personalities = PERSONALITIES.iter().map(equal).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_personality, personalities);
    Ok(rules)
}

/// What gets `EPERM`: the dangerous calls, and the dangerous arguments of allowed ones.
fn dangerous(capabilities: CapabilitySet) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = DANGEROUS
        .iter()
        .map(|number| (*number, Vec::new()))
        .collect();
    let equal = |index, value| SeccompRule::new(vec![condition(index, Len::Dword, Op::Eq, value)?]);
    if !capabilities.contains(CapabilitySet::SYS_ADMIN) {
        rules.extend(OF_ADMIN.iter().map(|number| (*number, Vec::new())));
        let mut flags = Vec::new();
        for bit in (0..32)
            .map(|bit| 1 << bit)
            .filter(|bit| NEW_NAMESPACES & bit != 0)
        {
            let set = condition(0, Len::Qword, Op::MaskedEq(bit), bit)?;
            flags.push(SeccompRule::new(vec![set])?);
        }
        rules.insert(libc::SYS_clone, flags);
    }
    // AF_ALG opens the kernel's cryptography, AF_VSOCK the host of a virtual machine.
    let mut families = vec![
        equal(0, libc::AF_ALG as u64)?,
        equal(0, libc::AF_VSOCK as u64)?,
    ];
    if !capabilities.contains(CapabilitySet::NET_RAW) {
        families.push(equal(0, libc::AF_PACKET as u64)?);
    }
    rules.insert(libc::SYS_socket, families);
    // Compared in 32 bits, as the kernel does: the upper half would hide the number.
    let injection = TERMINAL_INJECTION.iter().map(|request| equal(1, *request));
    rules.insert(libc::SYS_ioctl, injection.collect::<Result<_, _>>()?);
    Ok(rules)
}

fn condition(
    index: u8,
    length: Len,
    operator: Op,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, length, operator, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_dangerous() {
        for number in DANGEROUS.iter().chain(OF_ADMIN) {
            assert!(
                syscalls::allowed().all(|other| other != *number),
                "{number}"
            );
        }
    }

    #[test]
    fn the_list_has_what_common_programs_need_and_not_what_escapes() {
        for number in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_futex,
            libc::SYS_socketpair,
        ] {
            assert!(syscalls::allowed().any(|other| other == number), "{number}");
        }
        for number in [
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_keyctl,
            libc::SYS_kexec_load,
        ] {
            assert!(DANGEROUS.contains(&number), "{number}");
        }
        for number in [
            libc::SYS_clone3,
            libc::SYS_vmsplice,
            libc::SYS_name_to_handle_at,
        ] {
            let known = syscalls::allowed().any(|other| other == number);
            assert!(!known && !DANGEROUS.contains(&number), "{number}");
        }
    }

    #[test]
    fn calls_of_an_administrator_need_the_capability() {
        let without = allowed(CapabilitySet::empty()).unwrap();
        let with = allowed(CapabilitySet::SYS_ADMIN).unwrap();
        for number in OF_ADMIN {
            assert!(
                !without.contains_key(number) && with.contains_key(number),
                "{number}"
            );
        }
        assert!(
            dangerous(CapabilitySet::empty())
                .unwrap()
                .contains_key(&libc::SYS_clone)
        );
    }

    #[test]
    fn packet_sockets_need_the_capability_for_raw_ones() {
        let families = |set| dangerous(set).unwrap()[&libc::SYS_socket].len();
        assert_eq!(
            families(CapabilitySet::empty()),
            families(CapabilitySet::NET_RAW) + 1
        );
    }

    #[test]
    fn the_programs_fit_in_the_kernels_limit() {
        let filter = Filter::compile(CapabilitySet::empty()).unwrap();
        assert!(
            filter
                .0
                .iter()
                .all(|program| (100..4096).contains(&program.len()))
        );
    }
}
