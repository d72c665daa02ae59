//! Giving up: ids, groups and capabilities of the process to be.

use linkspan_sys::SyscallError;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::seccomp::Filter;
use super::user::Identity;
use crate::failure::{Failure, Step};
use crate::spec::Profile;

/// Becomes who the process is to run as. Afterwards nothing can be mounted any more.
pub(crate) fn become_identity(
    identity: &Identity,
    profile: Profile,
    filter: Option<&Filter>,
) -> Result<(), Failure> {
    let load = |filter: Option<&Filter>| -> Result<(), SyscallError> {
        filter.map_or(Ok(()), Filter::load)
    };
    // Without no_new_privs only an administrator may load a filter, so it comes before the fall.
    if !profile.no_new_privileges {
        load(filter).step("load seccomp filter")?;
    }
    drop_bounding(profile.capabilities).step("drop capabilities")?;
    set_keep_capabilities(true).step("keep capabilities")?;
    let groups: Vec<_> = identity
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    set_thread_groups(&groups).step("set groups")?;
    let gid = Gid::from_raw(identity.gid);
    set_thread_res_gid(gid, gid, gid).step("set group")?;
    let uid = Uid::from_raw(identity.uid);
    set_thread_res_uid(uid, uid, uid).step("set user")?;
    clear_ambient_capability_set().step("drop capabilities")?;
    let sets = CapabilitySets {
        effective: profile.capabilities,
        permitted: profile.capabilities,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).step("set capabilities")?;
    set_keep_capabilities(false).step("keep capabilities")?;
    if profile.no_new_privileges {
        set_no_new_privs(true).step("set no_new_privs")?;
        load(filter).step("load seccomp filter")?;
    }
    Ok(())
}

/// Removes all capabilities that the kernel knows, but those kept.
fn drop_bounding(kept: CapabilitySet) -> Result<(), Errno> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Past the last one of this kernel.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
