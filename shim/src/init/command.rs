//! The command: its directory, its environment, its program.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::mount::Root;
use super::user::{self, Identity};
use crate::failure::{Failure, Kind, Step};
use crate::spec::Process;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest user database that is read; a longer one is refused, not cut.
const MAX_DATABASE_BYTES: u64 = 4 << 20;
const EXECUTE_BITS: u32 = 0o111;

/// Looks up who the process is in the files of the image.
pub(crate) fn identity(process: &Process) -> Result<Identity, Failure> {
    let passwd = read_database("/etc/passwd")?;
    let group = read_database("/etc/group")?;
    user::look_up(&process.user, &process.additional_groups, &passwd, &group)
}

/// The environment, with the home directory of the user unless the process names one.
pub(crate) fn environment(process: &Process, identity: &Identity) -> Vec<CString> {
    let named = |entry: &CString| entry.as_bytes().starts_with(b"HOME=");
    let mut env: Vec<_> = process
        .env
        .iter()
        .filter(|entry| entry.as_bytes() != b"HOME=")
        .cloned()
        .collect();
    if !env.iter().any(named) {
        // The lookup reads lines of text; a NUL byte in one is no reason to fail.
        env.extend(CString::new(format!("HOME={}", identity.home)));
    }
    env
}

/// Enters the working directory, and makes it if it is missing.
pub(crate) fn enter_directory(root: &Root, cwd: &Path) -> Result<(), Failure> {
    let step = format!("enter directory {}", cwd.display());
    let directory = root.directory_at(cwd)?;
    rustix::process::fchdir(&directory).map_err(|errno| match errno {
        Errno::NOTDIR => {
            let message = format!(
                "working directory {} of the image is not a directory",
                cwd.display()
            );
            Failure::invalid(&step, message).with_errno(errno)
        }
        errno => Failure::system(&step, errno),
    })
}

/// Finds the program: a name with a slash is a path, any other is looked up in PATH.
pub(crate) fn find_program(name: &CString, env: &[CString]) -> Result<CString, Failure> {
    let candidates = candidates(name.as_bytes(), env);
    let mut refused = None;
    for candidate in &candidates {
        match is_program(candidate) {
            Ok(()) => {
                return CString::new(candidate.clone())
                    .map_err(|_nul| Failure::invalid("exec", "PATH holds a NUL byte"));
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => refused = refused.or(Some(errno)),
        }
    }
    Err(match refused {
        Some(errno) => not_executable(name, errno),
        None => not_found(name),
    })
}

/// What an exec that failed means to the user.
pub(crate) fn explain(name: &CString, errno: Errno) -> Failure {
    match errno {
        Errno::NOENT => {
            let message = format!("exec {}: its interpreter is not in the image", quoted(name));
            Failure::of(Kind::CommandNotFound, "exec", message).with_errno(errno)
        }
        Errno::ACCESS
        | Errno::NOEXEC
        | Errno::ISDIR
        | Errno::PERM
        | Errno::LOOP
        | Errno::TXTBSY => not_executable(name, errno),
        errno => Failure::system("exec", errno),
    }
}

fn candidates(name: &[u8], env: &[CString]) -> Vec<Vec<u8>> {
    if name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    let path = env
        .iter()
        .find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="));
    path.unwrap_or(DEFAULT_PATH.as_bytes())
        .split(|byte| *byte == b':')
        .map(|directory| {
            // An empty entry means the working directory, as for a shell.
            let directory = if directory.is_empty() {
                b"."
            } else {
                directory
            };
            [directory, b"/", name].concat()
        })
        .collect()
}

fn is_program(path: &[u8]) -> Result<(), Errno> {
    let stat = rustix::fs::stat(Path::new(OsStr::from_bytes(path)))?;
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Directory => Err(Errno::ISDIR),
        _ if stat.st_mode & EXECUTE_BITS == 0 => Err(Errno::ACCESS),
        _ => Ok(()),
    }
}

fn not_found(name: &CString) -> Failure {
    let place = if name.as_bytes().contains(&b'/') {
        "not in the image"
    } else {
        "not found in PATH of the image"
    };
    let message = format!("exec {}: {place}", quoted(name));
    Failure::of(Kind::CommandNotFound, "exec", message).with_errno(Errno::NOENT)
}

fn not_executable(name: &CString, errno: Errno) -> Failure {
    let reason = match errno {
        Errno::ISDIR => "is a directory".to_owned(),
        Errno::ACCESS => "not executable".to_owned(),
        Errno::NOEXEC => "not a program for this machine, and no script either".to_owned(),
        errno => errno.to_string(),
    };
    let message = format!("exec {}: {reason}", quoted(name));
    Failure::of(Kind::CommandNotExecutable, "exec", message).with_errno(errno)
}

fn quoted(name: &CString) -> String {
    format!("{:?}", name.to_string_lossy())
}

/// Reads a file of the image that may be missing, but not endless or a trap.
fn read_database(path: &str) -> Result<String, Failure> {
    let step = format!("read {path}");
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(Failure::system(step, errno)),
    };
    let metadata = rustix::fs::fstat(&file).step(&step)?;
    let regular = rustix::fs::FileType::from_raw_mode(metadata.st_mode).is_file();
    let mut bytes = Vec::new();
    let read = file.take(MAX_DATABASE_BYTES + 1).read_to_end(&mut bytes);
    if !regular || read.is_err() || bytes.len() as u64 > MAX_DATABASE_BYTES {
        return Err(Failure::invalid(
            step,
            format!("{path} of the image is not a file of at most 4 MiB"),
        ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    #[test]
    fn names_are_looked_up_and_paths_are_not() {
        let text = |list: Vec<Vec<u8>>| String::from_utf8(list.join(&b' ')).unwrap();
        let env = [c("X=1"), c("PATH=/a::/b")];
        assert_eq!(text(candidates(b"ls", &env)), "/a/ls ./ls /b/ls");
        assert_eq!(text(candidates(b"./ls", &env)), "./ls");
        assert!(text(candidates(b"ls", &[])).starts_with("/usr/local/sbin/ls "));
    }

    #[test]
    fn a_missing_program_and_one_that_cannot_run_differ() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        File::create(directory.path().join("plain")).unwrap();
        let env = [c(&format!("PATH=/nonexistent:{path}"))];
        let error = find_program(&c("nosuch"), &env).unwrap_err();
        assert_eq!(error.kind, Kind::CommandNotFound);
        assert_eq!(
            error.message,
            "exec \"nosuch\": not found in PATH of the image"
        );
        let error = find_program(&c("plain"), &env).unwrap_err();
        assert_eq!(error.kind, Kind::CommandNotExecutable);
        assert_eq!(error.message, "exec \"plain\": not executable");
        let error = find_program(&c(&path.to_string()), &env).unwrap_err();
        assert_eq!(error.kind, Kind::CommandNotExecutable);
    }

    #[test]
    fn the_home_directory_is_filled_in_unless_named() {
        let process = |env: &[&str]| {
            Process::from_wire(linkspan_proto::shim_v1::ProcessSpec {
                args: vec!["sh".into()],
                env: env.iter().map(|&entry| entry.into()).collect(),
                ..Default::default()
            })
            .unwrap()
        };
        let identity = user::look_up("", &[], "root:x:0:0::/root:/bin/sh", "").unwrap();
        assert_eq!(
            environment(&process(&["HOME="]), &identity),
            [c("HOME=/root")]
        );
        assert_eq!(
            environment(&process(&["HOME=/x"]), &identity),
            [c("HOME=/x")]
        );
    }
}
