//! Loading system call filters without setting `no_new_privs`.

use crate::SyscallError;

/// One instruction, as `struct sock_filter` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// Where to go when the condition holds.
    pub jump_true: u8,
    /// Where to go when it does not.
    pub jump_false: u8,
    /// The operand.
    pub operand: u32,
}

/// Applies a filter to the calling thread for good. Needs CAP_SYS_ADMIN or `no_new_privs`.
pub fn load(program: &[Instruction]) -> Result<(), SyscallError> {
    const CALL: &str = "seccomp(SECCOMP_SET_MODE_FILTER)";
    let length = u16::try_from(program.len())
        .map_err(|_too_long| SyscallError::new(CALL, rustix::io::Errno::INVAL))?;
    let filter = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `Instruction` has the layout of `sock_filter`, `length` is that of `program`, and the kernel
    // copies and verifies the program before it takes effect.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const filter,
        )
    };
    if result < 0 {
        return Err(SyscallError::last(CALL));
    }
    Ok(())
}
