//! A private mount namespace for one command, in which other trees stand over the usual paths.
//!
//! Root needs a mount namespace only; others get it with a user namespace in which they are who they
//! are. Everything happens between fork and exec, in a process of one thread: a user namespace can be
//! entered by no other.

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::error::Error;

/// A tree that is to stand over another.
pub struct Over {
    /// What is shown.
    pub from: PathBuf,
    /// Where.
    pub at: PathBuf,
}

/// Why a command could not be started in isolation.
pub enum IsolateError {
    /// The namespace could not be made (exit status 125).
    Namespace(Error),
    /// The command could not be executed (126 or 127).
    Exec(io::Error),
}

/// A step between fork and exec, told by its number where it fails.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Step {
    Unshare = 1,
    Maps = 2,
    Propagation = 3,
    Bind = 4,
    Seen = 5,
    WorkingDirectory = 6,
}

/// Everything that the child needs, made before the fork: afterwards nothing may be allocated.
struct Plan {
    uid_map: CString,
    gid_map: CString,
    namespaces: libc::c_int,
    binds: Vec<(CString, CString)>,
    dev: u64,
    cwd: CString,
    report: RawFd,
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Starts a command in namespaces of its own, with trees of a device bound over others and the working
/// directory entered anew.
///
/// # Errors
/// [`IsolateError`] says whether the namespaces or the command are to blame.
pub fn spawn(program: &OsStr, args: &[OsString], over: &[Over], dev: u64, cwd: &Path) -> Result<Child, IsolateError> {
    let own = |error: io::Error| IsolateError::Namespace(Error::from(error));
    let (reader, writer) = io::pipe().map_err(own)?;
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let binds = over.iter().map(|over| Ok((c_string(over.from.as_os_str())?, c_string(over.at.as_os_str())?)));
    let mut plan = Plan {
        uid_map: CString::new(format!("{uid} {uid} 1\n")).unwrap_or_default(),
        gid_map: CString::new(format!("{gid} {gid} 1\n")).unwrap_or_default(),
        namespaces: if uid == 0 { libc::CLONE_NEWNS } else { libc::CLONE_NEWNS | libc::CLONE_NEWUSER },
        binds: binds.collect::<io::Result<_>>().map_err(own)?,
        dev,
        cwd: c_string(cwd.as_os_str()).map_err(own)?,
        report: writer.as_raw_fd(),
    };
    let mut command = Command::new(program);
    command.args(args);
    prepare(&mut command, move || plan.enter());
    let spawned = command.spawn();
    drop(command);
    drop(OwnedFd::from(writer));
    let error = match spawned {
        Ok(child) => return Ok(child),
        Err(error) => error,
    };
    let mut step = Vec::new();
    let mut reader = reader;
    match reader.read_to_end(&mut step).ok().and_then(|_| step.first().copied()) {
        Some(step) => Err(IsolateError::Namespace(explain(step, &error))),
        None => Err(IsolateError::Exec(error)),
    }
}

/// Has something done between fork and exec.
#[allow(unsafe_code)] // namespaces are entered between fork and exec, by a process of one thread
fn prepare(command: &mut Command, enter: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: `Plan::enter` makes system calls on memory that was allocated before the fork, and nothing else.
    unsafe {
        command.pre_exec(enter);
    }
}

impl Plan {
    /// Runs in the child: system calls only.
    fn enter(&mut self) -> io::Result<()> {
        self.step(Step::Unshare, unshare(self.namespaces))?;
        if self.namespaces & libc::CLONE_NEWUSER != 0 {
            let maps = write_file(c"/proc/self/setgroups", c"deny")
                .and_then(|()| write_file(c"/proc/self/uid_map", &self.uid_map))
                .and_then(|()| write_file(c"/proc/self/gid_map", &self.gid_map));
            self.step(Step::Maps, maps)?;
        }
        self.step(Step::Propagation, mount(None, c"/", libc::MS_REC | libc::MS_SLAVE))?;
        for (from, at) in &self.binds {
            self.step(Step::Bind, mount(Some(from), at, libc::MS_BIND))?;
            // never run on what merely looks like the transaction's view
            let seen = device_of(at).and_then(|dev| if dev == self.dev { Ok(()) } else { Err(not_seen()) });
            self.step(Step::Seen, seen)?;
        }
        self.step(Step::WorkingDirectory, chdir(&self.cwd))?;
        die_with_parent();
        Ok(())
    }

    fn step(&self, step: Step, done: io::Result<()>) -> io::Result<()> {
        if done.is_err() {
            tell(self.report, step as u8);
        }
        done
    }
}

fn result(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[allow(unsafe_code)] // rustix has no unshare that is sound to call in a library; here one thread is left
fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers.
    result(unsafe { libc::unshare(flags) })
}

#[allow(unsafe_code)] // no allocation is allowed here, which the safe wrappers do not promise
fn mount(from: Option<&CString>, at: &std::ffi::CStr, flags: libc::c_ulong) -> io::Result<()> {
    let source = from.map_or(std::ptr::null(), |from| from.as_ptr());
    // SAFETY: all pointers are null or NUL-terminated strings that outlive the call.
    result(unsafe { libc::mount(source, at.as_ptr(), std::ptr::null(), flags, std::ptr::null()) })
}

fn not_seen() -> io::Error {
    io::Error::from_raw_os_error(libc::ENODEV)
}

#[allow(unsafe_code)] // as for mount
fn device_of(path: &std::ffi::CStr) -> io::Result<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the path is NUL-terminated; the buffer is read only where the call has filled it.
    unsafe {
        result(libc::stat(path.as_ptr(), stat.as_mut_ptr()))?;
        Ok(stat.assume_init().st_dev)
    }
}

#[allow(unsafe_code)] // as for mount
fn chdir(dir: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: a NUL-terminated string that outlives the call.
    result(unsafe { libc::chdir(dir.as_ptr()) })
}

#[allow(unsafe_code)] // as for mount
fn write_file(path: &std::ffi::CStr, content: &std::ffi::CStr) -> io::Result<()> {
    let bytes = content.to_bytes();
    // SAFETY: the path is NUL-terminated, the buffer is as long as said, the descriptor is ours.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        let written = libc::write(file, bytes.as_ptr().cast(), bytes.len());
        let error = io::Error::last_os_error();
        libc::close(file);
        if written < 0 { Err(error) } else { Ok(()) }
    }
}

#[allow(unsafe_code)] // as for mount
fn tell(report: RawFd, step: u8) {
    // SAFETY: one byte from a live variable to a descriptor that stays open until exec.
    unsafe {
        libc::write(report, (&raw const step).cast(), 1);
    }
}

#[allow(unsafe_code)] // as for mount
fn die_with_parent() {
    // SAFETY: takes no pointers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
}

/// Says which permission is missing and how to give it.
fn explain(step: u8, error: &io::Error) -> Error {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text).to_owned();
    let what = match step {
        1 | 2 => "cannot make the namespaces that isolate the command",
        3 | 4 => "cannot bind the transaction's view over the mount",
        5 => {
            return Error::failed(
                "the transaction's view cannot be seen from here: inside of another `stone run`, mounts must be \
                 shared (mount --make-rshared / outside of it)",
            );
        }
        _ => "cannot enter the working directory in the transaction's view",
    };
    let advice = match step {
        1..=3 => namespace_advice(),
        _ => String::new(),
    };
    Error::failed(format!("{what}: {text}{advice}"))
}

/// Looks which switch forbids namespaces.
fn namespace_advice() -> String {
    let value = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    if rustix::process::geteuid().is_root() {
        return "; it needs CAP_SYS_ADMIN: in a container, allow it (--cap-add SYS_ADMIN)".to_owned();
    }
    if value("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        return "; allow user namespaces: sysctl kernel.unprivileged_userns_clone=1".to_owned();
    }
    if value("/proc/sys/user/max_user_namespaces") == "0" {
        return "; allow user namespaces: sysctl user.max_user_namespaces=10000".to_owned();
    }
    if value("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        return "; allow user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor \
                profile for stone with `userns,`"
            .to_owned();
    }
    "; user namespaces must be allowed: sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0, \
     and no AppArmor or seccomp rule against them"
        .to_owned()
}
