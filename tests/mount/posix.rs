//! What any Linux file system does.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, FallocateFlags, RenameFlags, XattrFlags};

use crate::harness::{Stone, sh};

#[test]
fn a_file_is_what_was_written_after_a_remount_of_the_page_cache() {
    let stone = Stone::new();
    let path = stone.path("a");
    let data: Vec<u8> = (0..300_000u32).map(|n| (n * 7 % 251) as u8).collect();
    fs::write(&path, &data).unwrap();
    assert_eq!(fs::read(&path).unwrap(), data);
    // Without what the kernel remembers.
    fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    assert_eq!(fs::read(&path).unwrap(), data);
    assert_eq!(fs::metadata(&path).unwrap().len(), 300_000);
}

#[test]
fn names_can_be_moved_exchanged_linked_and_removed() {
    let stone = Stone::new();
    let p = |name: &str| stone.path(name);
    fs::create_dir(p("d")).unwrap();
    fs::write(p("d/a"), "a").unwrap();
    fs::write(p("b"), "b").unwrap();
    fs::rename(p("d/a"), p("a")).unwrap();
    assert!(!p("d/a").exists());
    fs::hard_link(p("a"), p("d/link")).unwrap();
    assert_eq!(fs::metadata(p("a")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(p("a")).unwrap().ino(), fs::metadata(p("d/link")).unwrap().ino());
    let root = File::open(p("")).unwrap();
    rustix::fs::renameat_with(&root, "a", &root, "b", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((fs::read(p("a")).unwrap(), fs::read(p("b")).unwrap()), (b"b".to_vec(), b"a".to_vec()));
    let refused = rustix::fs::renameat_with(&root, "a", &root, "b", RenameFlags::NOREPLACE);
    assert_eq!(refused, Err(rustix::io::Errno::EXIST));
    fs::remove_file(p("b")).unwrap();
    assert_eq!(fs::metadata(p("d/link")).unwrap().nlink(), 1);
    symlink("d/link", p("s")).unwrap();
    assert_eq!(fs::read(p("s")).unwrap(), b"a");
    assert_eq!(fs::remove_dir(p("d")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    fs::remove_file(p("d/link")).unwrap();
    fs::remove_dir(p("d")).unwrap();
    assert_eq!(sh(&p(""), "ls -A $D"), "a\ns\n");
}

#[test]
fn an_unlinked_file_lives_until_its_last_close() {
    let stone = Stone::new();
    let mut file = File::options().read(true).write(true).create_new(true).open(stone.path("x")).unwrap();
    fs::remove_file(stone.path("x")).unwrap();
    file.write_all(b"still here").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), file.metadata().unwrap().nlink()), ("still here", 0));
}

#[test]
fn sparse_files_have_holes_that_can_be_found_and_made() {
    let stone = Stone::new();
    let file = File::options().read(true).write(true).create_new(true).open(stone.path("x")).unwrap();
    file.write_all_at(b"end", 1 << 20).unwrap();
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert!(data > 0 && data <= 1 << 20, "{data}");
    file.write_all_at(&[1; 512 * 1024], 0).unwrap();
    let blocks = file.metadata().unwrap().blocks();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 128 * 1024, 256 * 1024).unwrap();
    assert!(file.metadata().unwrap().blocks() < blocks);
    let mut byte = [9];
    file.read_exact_at(&mut byte, 200 * 1024).unwrap();
    assert_eq!(byte, [0]);
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap(), 128 * 1024);
    file.set_len(10).unwrap();
    assert_eq!(fs::read(stone.path("x")).unwrap(), [1; 10]);
}

#[test]
fn fallocate_refuses_more_than_there_is_room_for() {
    let stone = Stone::new();
    let file = File::options().write(true).create_new(true).open(stone.path("x")).unwrap();
    for mode in [FallocateFlags::empty(), FallocateFlags::KEEP_SIZE] {
        assert_eq!(rustix::fs::fallocate(&file, mode, 0, 1 << 50), Err(rustix::io::Errno::NOSPC));
        assert_eq!(file.metadata().unwrap().len(), 0);
        rustix::fs::fallocate(&file, mode, 0, 2 << 20).unwrap();
        file.set_len(0).unwrap();
    }
}

#[test]
fn extended_attributes_are_set_listed_and_removed() {
    let stone = Stone::new();
    let path = stone.path("x");
    fs::write(&path, "").unwrap();
    rustix::fs::setxattr(&path, "user.mime", b"text/plain", XattrFlags::CREATE).unwrap();
    let again = rustix::fs::setxattr(&path, "user.mime", b"", XattrFlags::CREATE);
    assert_eq!(again, Err(rustix::io::Errno::EXIST));
    let mut value = [0u8; 64];
    let length = rustix::fs::getxattr(&path, "user.mime", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"text/plain");
    let length = rustix::fs::listxattr(&path, &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"user.mime\0");
    rustix::fs::removexattr(&path, "user.mime").unwrap();
    let gone = rustix::fs::getxattr(&path, "user.mime", &mut value[..]);
    assert_eq!(gone, Err(rustix::io::Errno::NODATA));
}

#[test]
fn access_control_lists_are_inherited_in_place_of_the_umask() {
    let stone = Stone::new();
    sh(&stone.path(""), "mkdir $D/d && setfacl -d -m u:12345:rw $D/d && umask 077 && touch $D/d/f");
    let shown = sh(&stone.path(""), "getfacl -cn $D/d/f 2>/dev/null");
    assert!(shown.contains("user:12345:rw-"), "{shown}");
    let mode = fs::metadata(stone.path("d/f")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o664, "{mode:o}");
}

#[test]
fn the_umask_and_setgid_directories_decide_about_new_files() {
    let stone = Stone::new();
    sh(&stone.path(""), "cd $D && mkdir d && chgrp 4321 d && chmod 2775 d && umask 027 && touch d/f && mkdir d/s");
    let file = fs::metadata(stone.path("d/f")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.gid()), (0o640, 4321));
    let dir = fs::metadata(stone.path("d/s")).unwrap();
    assert_eq!((dir.mode() & 0o7777, dir.gid()), (0o2750, 4321));
}

#[test]
fn a_write_through_a_mapping_reaches_the_file() {
    let stone = Stone::new();
    let path = stone.path("m");
    fs::write(&path, vec![b'.'; 8192]).unwrap();
    sh(
        &stone.path(""),
        "python3 - <<'END'\nimport mmap, os\nf = open(os.environ['D'] + '/m', 'r+b')\nm = mmap.mmap(f.fileno(), 0)\nm[4096:4099] = b'abc'\nm.flush()\nEND",
    );
    assert_eq!(&fs::read(&path).unwrap()[4094..4101], b"..abc..");
}

#[test]
fn locks_exclude_each_other() {
    let stone = Stone::new();
    fs::write(stone.path("l"), "").unwrap();
    let out = sh(&stone.path(""), "flock $D/l sh -c 'flock -n $D/l true && echo both || echo one'");
    assert_eq!(out, "one\n");
}

#[test]
fn a_listing_is_complete_and_stable_while_entries_go() {
    let stone = Stone::new();
    for n in 0..2000 {
        fs::write(stone.path(&format!("f{n:04}")), "").unwrap();
    }
    let mut seen = 0;
    for entry in fs::read_dir(stone.path("")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
        seen += 1;
    }
    assert_eq!(seen, 2000);
    assert_eq!(fs::read_dir(stone.path("")).unwrap().count(), 0);
    assert_eq!(sh(&stone.path(""), "ls -A $D"), "");
}

#[test]
fn times_are_kept_to_the_nanosecond_and_link_counts_follow_directories() {
    let stone = Stone::new();
    fs::create_dir_all(stone.path("d/e")).unwrap();
    assert_eq!(fs::metadata(stone.path("d")).unwrap().nlink(), 3);
    let file = File::create(stone.path("d/f")).unwrap();
    let time = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, stone.path("d/f"), &times, AtFlags::empty()).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 123_456_789));
    fs::remove_dir(stone.path("d/e")).unwrap();
    assert_eq!(fs::metadata(stone.path("d")).unwrap().nlink(), 2);
}

#[test]
fn setuid_goes_when_somebody_else_writes() {
    let stone = Stone::shared();
    let path = stone.path("s");
    fs::write(&path, "some text").unwrap();
    fs::write(stone.path("t"), "x").unwrap();
    // What exec(2) goes by, which is not asked for again when only times and size are out of date.
    let mode = || {
        let statx = rustix::fs::statx(rustix::fs::CWD, &path, AtFlags::empty(), rustix::fs::StatxFlags::MODE).unwrap();
        statx.stx_mode & 0o7777
    };
    for how in [
        "echo y >> $D/s",
        "printf y | dd of=$D/s conv=notrunc status=none",
        "dd if=/dev/zero of=$D/s bs=4096 count=1 oflag=direct conv=notrunc status=none",
        "echo new > $D/s",
        "truncate -s 1 $D/s",
        "fallocate -l 9999 $D/s",
        "fallocate -l 1 $D/s",
        "fallocate -n -l 1 $D/s",
        "cp $D/t $D/s",
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        assert_eq!(mode(), 0o6777);
        assert!(crate::harness::may(&stone.path(""), crate::harness::STRANGER, how), "{how}");
        assert_eq!(mode(), 0o777, "{how}");
    }
}

#[test]
fn special_files_are_created_with_their_numbers() {
    let stone = Stone::new();
    sh(&stone.path(""), "cd $D && mkfifo p && mknod n c 1 3 && mknod b b 259 300000");
    assert_eq!(
        sh(&stone.path(""), "stat -c '%F %t:%T' $D/p $D/n $D/b"),
        "fifo 0:0\ncharacter special file 1:3\nblock special file 103:493e0\n"
    );
    assert_eq!(sh(&stone.path(""), "head -c 3 /dev/zero > $D/n; stat -c %s $D/n"), "0\n");
}

#[test]
fn names_are_bytes_up_to_255() {
    use std::os::unix::ffi::OsStrExt;
    let stone = Stone::new();
    let name = std::ffi::OsStr::from_bytes(&[0xff; 255]);
    fs::write(stone.path("").join(name), "x").unwrap();
    assert_eq!(fs::read_dir(stone.path("")).unwrap().next().unwrap().unwrap().file_name(), name);
    let long = stone.path(&"a".repeat(256));
    assert_eq!(fs::write(long, "").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
}

#[test]
fn opening_with_truncation_and_appending_do_what_they_say() {
    let stone = Stone::new();
    let path = stone.path("x");
    fs::write(&path, "long content").unwrap();
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"+").unwrap();
    let mut other = OpenOptions::new().append(true).open(&path).unwrap();
    other.write_all(b"1").unwrap();
    file.write_all(b"2").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"long content+12");
    let file = OpenOptions::new().write(true).custom_flags(libc::O_TRUNC).open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
}

/// What a file handle of name_to_handle_at(2) is made of.
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

#[allow(unsafe_code)] // no crate of the project has the two calls
fn handle_of(path: &Path) -> FileHandle {
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let mut handle = FileHandle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount = 0;
    // SAFETY: a path that ends with NUL, and as much room as `bytes` says.
    let done =
        unsafe { libc::name_to_handle_at(libc::AT_FDCWD, name.as_ptr(), (&raw mut handle).cast(), &raw mut mount, 0) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    handle
}

#[allow(unsafe_code)] // as above
fn open_by_handle(mount: &File, handle: &FileHandle) -> std::io::Result<File> {
    // SAFETY: a handle that the kernel has filled; it is not changed.
    let fd =
        unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw const *handle).cast_mut().cast(), libc::O_RDONLY) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}

#[test]
fn file_handles_outlive_the_kernels_caches() {
    let stone = Stone::new();
    fs::create_dir_all(stone.path("d/e")).unwrap();
    fs::write(stone.path("d/e/f"), "text").unwrap();
    let paths = ["", "d/e", "d/e/f"].map(|path| stone.path(path));
    let handles = paths.each_ref().map(|path| (handle_of(path), fs::metadata(path).unwrap().ino()));
    let gone = handle_of(&stone.path("d/e/f"));
    let root = File::open(stone.path("")).unwrap();
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    for ((handle, ino), path) in handles.iter().zip(&paths) {
        let file = open_by_handle(&root, handle).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(file.metadata().unwrap().ino(), *ino, "{}", path.display());
    }
    fs::remove_file(stone.path("d/e/f")).unwrap();
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    assert_eq!(open_by_handle(&root, &gone).unwrap_err().raw_os_error(), Some(libc::ESTALE));
}
