//! A database in a scratch directory, mounted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use stonefs::engine::{Engine, Options};
use stonefs::fuse::{MountHandle, MountOptions, mount};
use stonefs::store::InitOptions;
use stonefs::store::sqlite::SqliteStore;
use stonefs::types::{BranchId, Caller, Clock, SystemClock, View};
use stonefs::vfs::{SessionOptions, Vfs};

/// A user that owns nothing.
pub const STRANGER: u32 = 54321;

/// A mounted database; unmounted and removed when dropped.
pub struct Stone {
    pub vfs: Arc<Vfs>,
    pub engine: Arc<Engine>,
    pub mount: MountHandle,
    others: Vec<MountHandle>,
    scratch: tempfile::TempDir,
}

/// Whose name the tests' own changes carry.
pub fn me() -> Caller {
    Caller { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw(), ..Caller::default() }
}

/// A directory for scratch that every user can enter: not always that of temporary files.
pub fn reachable() -> PathBuf {
    let is_open = |dir: &PathBuf| {
        dir.ancestors().all(|dir| fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0))
    };
    let dirs = [std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
    dirs.into_iter().find(is_open).expect("these tests need a directory for temporary files that all users can enter")
}

impl Stone {
    pub fn new() -> Stone {
        Stone::with(|options| options)
    }

    pub fn with(adjust: impl FnOnce(MountOptions) -> MountOptions) -> Stone {
        let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).try_init();
        let scratch = tempfile::Builder::new().prefix("stone-mount-").tempdir_in(reachable()).unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let db = scratch.path().join("db.stone");
        let caller = me();
        let init = InitOptions { now: SystemClock.now(), uid: caller.uid, gid: caller.gid, settings: Vec::new() };
        drop(SqliteStore::create(&db, &init).unwrap());
        let store = Arc::new(SqliteStore::open(&db).unwrap());
        let engine = Engine::open(store, Arc::new(SystemClock), Options::default()).unwrap();
        let vfs = Vfs::new(engine.clone(), Arc::new(SystemClock), None).unwrap();
        let dir = scratch.path().join("mnt");
        fs::create_dir(&dir).unwrap();
        let options = adjust(MountOptions::new(SessionOptions::live(BranchId::MAIN), &db));
        let mount = mount(&vfs, &dir, &options).expect("mounting needs /dev/fuse");
        Stone { vfs, engine, mount, others: Vec::new(), scratch }
    }

    /// A mount that other users may enter.
    pub fn shared() -> Stone {
        assert!(rustix::process::geteuid().is_root(), "this test acts as several users and must run as root");
        Stone::with(|options| MountOptions { allow_other: true, ..options })
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.mount.dir().join(below)
    }

    /// Mounts the database a second time.
    pub fn mount_again(&mut self, name: &str, adjust: impl FnOnce(MountOptions) -> MountOptions) -> PathBuf {
        let dir = self.scratch.path().join(name);
        fs::create_dir(&dir).unwrap();
        let db = self.scratch.path().join("db.stone");
        let options = adjust(MountOptions::new(SessionOptions::live(BranchId::MAIN), &db));
        self.others.push(mount(&self.vfs, &dir, &options).unwrap());
        dir
    }

    pub fn settle(&self) {
        self.mount.settle();
        for other in &self.others {
            other.settle();
        }
    }

    /// The point reached, as `e123`, sealed.
    pub fn point(&self) -> String {
        format!("e{}", self.engine.seal(None).unwrap())
    }

    pub fn fork(&self, name: &str) -> BranchId {
        self.engine.fork(Some(name.as_bytes()), View::live(BranchId::MAIN), &me()).unwrap().id
    }

    pub fn switch(&self, branch: BranchId) {
        self.mount.switch(View::live(branch)).unwrap();
    }
}

impl Drop for Stone {
    fn drop(&mut self) {
        for mount in self.others.iter().chain([&self.mount]) {
            if let Err(error) = mount.unmount() {
                eprintln!("{error}");
                let _ = mount.detach();
                mount.end();
            }
        }
        let _ = self.engine.close();
    }
}

/// Runs a shell command in a directory and returns what it printed; it must succeed.
pub fn sh(dir: &Path, script: &str) -> String {
    let output = run(dir, script, None);
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a shell command, perhaps as another user.
pub fn run(dir: &Path, script: &str, uid: Option<u32>) -> Output {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).current_dir("/").env("D", dir).env("LC_ALL", "C");
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    command.output().unwrap()
}

/// Whether a shell command succeeds for another user; `$D` is the directory.
pub fn may(dir: &Path, uid: u32, script: &str) -> bool {
    run(dir, script, Some(uid)).status.success()
}
