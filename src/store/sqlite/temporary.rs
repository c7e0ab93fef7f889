//! Temporary files of queries, with a bound: sorting what is large must not fill the disk.
//!
//! A VFS that is the default one but for the files that it opens: writes that let them grow are
//! counted, and refused (`SQLITE_FULL`) beyond what the thread's query may use. A query runs on one
//! thread, and opens nothing but temporary files.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use rusqlite::ffi;

/// The name that connections of queries are opened with.
pub(super) const VFS: &CStr = c"stone-queries";

thread_local! {
    /// Bytes that the query of this thread may still write.
    static LEFT: Cell<i64> = const { Cell::new(i64::MAX) };
}

/// Says how many bytes the files of this thread's next query may take together.
pub(super) fn allow(bytes: u64) {
    LEFT.set(i64::try_from(bytes).unwrap_or(i64::MAX));
}

/// What SQLite was built with, and what stands in for it; made once, and never changed.
struct Vfs {
    usual: *mut ffi::sqlite3_vfs,
    ours: *mut ffi::sqlite3_vfs,
}

// Written before it is shared, and read from then on.
#[allow(unsafe_code)]
unsafe impl Send for Vfs {}
// As above.
#[allow(unsafe_code)]
unsafe impl Sync for Vfs {}

/// The methods of temporary files, and ours in front of them.
struct Methods {
    usual: *const ffi::sqlite3_io_methods,
    ours: ffi::sqlite3_io_methods,
}

// As above.
#[allow(unsafe_code)]
unsafe impl Send for Methods {}
// As above.
#[allow(unsafe_code)]
unsafe impl Sync for Methods {}

static INSTALLED: OnceLock<Option<Vfs>> = OnceLock::new();
static METHODS: OnceLock<Methods> = OnceLock::new();

/// Makes the VFS known to SQLite, once; `false` where that is not possible.
pub(super) fn install() -> bool {
    let installed = INSTALLED.get_or_init(|| {
        // SQLite's own functions; the structure is copied whole, and lives as long as the program.
        #[allow(unsafe_code)]
        unsafe {
            let usual = ffi::sqlite3_vfs_find(std::ptr::null());
            if usual.is_null() {
                return None;
            }
            let mut ours = *usual;
            ours.zName = VFS.as_ptr();
            ours.pNext = std::ptr::null_mut();
            ours.xOpen = Some(open);
            let ours = Box::into_raw(Box::new(ours));
            (ffi::sqlite3_vfs_register(ours, 0) == ffi::SQLITE_OK).then_some(Vfs { usual, ours })
        }
    });
    installed.as_ref().is_some_and(|vfs| !vfs.ours.is_null())
}

// Called by SQLite with a file of `szOsFile` bytes, which the usual VFS fills in.
#[allow(unsafe_code)]
unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let Some(Some(vfs)) = INSTALLED.get() else { return ffi::SQLITE_CANTOPEN };
    unsafe {
        let Some(usual) = (*vfs.usual).xOpen else { return ffi::SQLITE_CANTOPEN };
        let code = usual(vfs.usual, name, file, flags, out);
        let methods = (*file).pMethods;
        if code == ffi::SQLITE_OK && !methods.is_null() {
            let counted = METHODS.get_or_init(|| {
                let mut ours = *methods;
                ours.xWrite = Some(write);
                ours.xTruncate = Some(truncate);
                ours.xClose = Some(close);
                Methods { usual: methods, ours }
            });
            if counted.usual == methods {
                (*file).pMethods = &counted.ours;
            }
        }
        code
    }
}

/// The size of a file that was opened here.
#[allow(unsafe_code)]
unsafe fn size(methods: &Methods, file: *mut ffi::sqlite3_file) -> i64 {
    let mut size = 0;
    unsafe {
        match (*methods.usual).xFileSize {
            Some(ask) if ask(file, &raw mut size) == ffi::SQLITE_OK => size,
            _ => 0,
        }
    }
}

// Called by SQLite with a file that `open` has opened.
#[allow(unsafe_code)]
unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, bytes: *const c_void, count: c_int, offset: i64) -> c_int {
    let Some(methods) = METHODS.get() else { return ffi::SQLITE_IOERR_WRITE };
    unsafe {
        let Some(usual) = (*methods.usual).xWrite else { return ffi::SQLITE_IOERR_WRITE };
        let grows = offset.saturating_add(i64::from(count)).saturating_sub(size(methods, file)).max(0);
        if grows > LEFT.get() {
            return ffi::SQLITE_FULL;
        }
        LEFT.set(LEFT.get() - grows);
        usual(file, bytes, count, offset)
    }
}

// Called by SQLite with a file that `open` has opened.
#[allow(unsafe_code)]
unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, to: i64) -> c_int {
    let Some(methods) = METHODS.get() else { return ffi::SQLITE_IOERR_TRUNCATE };
    unsafe {
        let Some(usual) = (*methods.usual).xTruncate else { return ffi::SQLITE_IOERR_TRUNCATE };
        LEFT.set(LEFT.get().saturating_add(size(methods, file).saturating_sub(to).max(0)));
        usual(file, to)
    }
}

// Called by SQLite with a file that `open` has opened.
#[allow(unsafe_code)]
unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let Some(methods) = METHODS.get() else { return ffi::SQLITE_IOERR_CLOSE };
    unsafe {
        let Some(usual) = (*methods.usual).xClose else { return ffi::SQLITE_IOERR_CLOSE };
        LEFT.set(LEFT.get().saturating_add(size(methods, file)));
        usual(file)
    }
}
