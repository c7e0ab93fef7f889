//! Process entities: which program, started by whom, stands behind a request.
//!
//! A process is identified by boot, pid and start time, so that a reused pid is another process. An
//! `exec` begins a new entity of the same pid and start time, with the same parent: what was done
//! before it stays with the program that did it. It is noticed by the task's name, which `exec`
//! changes; a program that executes another of the same name is not told apart, and one that renames
//! itself counts as another program from then on.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::process::{Pid, PidfdFlags, Resource, getrlimit, pidfd_open};

use super::procfs::{Comm, Details, Guard, Stat, Status};
use crate::store::ProcessRow;
use crate::types::{Clock, ProcId, Timestamp};

/// Where process entities are recorded (the engine).
pub trait ProcessSink: Send + Sync {
    /// Takes the next number of a process entity.
    fn next_process_id(&self) -> ProcId;

    /// Queues a process entity's row, new or with more known of it.
    fn record_process(&self, row: ProcessRow);
}

/// The most tasks that are remembered at once; each holds one descriptor, and one more while watched.
const CAPACITY: usize = 4096;
/// Dead processes that are remembered, for whoever reports late how they ended; each holds a descriptor.
const DEAD_KEPT: usize = 64;
/// What `/proc` counts start times in: 100 ticks a second, whatever the kernel's own frequency.
const NANOS_PER_TICK: u32 = 10_000_000;
/// How far up a chain of parents is followed.
const DEPTH_MAX: usize = 64;
/// Tasks whose details are not read yet; past this, processes stay incomplete.
const QUEUE_MAX: usize = 65_536;

/// Tells the process entity behind a pid, and records it when it is met first.
pub struct ProcessTable {
    shared: Arc<Shared>,
}

struct Shared {
    sink: Arc<dyn ProcessSink>,
    clock: Arc<dyn Clock>,
    boot_id: String,
    host: String,
    /// Wall time of the boot.
    booted: Timestamp,
    known: Mutex<LruCache<u32, Arc<Known>>>,
    /// Held while a task is met for the first time, so that it gets one entity.
    meeting: Mutex<()>,
    labels: Mutex<HashMap<u32, Label>>,
    queue: Mutex<VecDeque<Job>>,
    wake: OwnedFd,
    watched_max: usize,
}

/// One task that was met.
struct Known {
    guard: Guard,
    comm: Comm,
    role: Role,
}

enum Role {
    Process(Arc<Entity>),
    /// A further thread of this process.
    ThreadOf(u32),
}

struct Entity {
    pid: u32,
    id: ProcId,
    row: Mutex<ProcessRow>,
}

struct Label {
    guard: Guard,
    text: String,
}

enum Job {
    Complete(Arc<Known>, Arc<Entity>),
    Settled(SyncSender<()>),
    Stop,
}

impl ProcessTable {
    /// Starts the thread that reads what no request may wait for.
    ///
    /// # Errors
    /// Where the system gives no thread or descriptor.
    pub fn new(sink: Arc<dyn ProcessSink>, clock: Arc<dyn Clock>) -> std::io::Result<ProcessTable> {
        let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let since_boot = Timestamp::from_secs_nanos(since_boot.tv_sec, since_boot.tv_nsec as u32);
        let descriptors = getrlimit(Resource::Nofile).current.and_then(|n| usize::try_from(n).ok()).unwrap_or(CAPACITY);
        let capacity = (descriptors / 4).clamp(16, CAPACITY);
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let shared = Arc::new(Shared {
            booted: Timestamp(clock.now().0.saturating_sub(since_boot.0)),
            sink,
            clock,
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            host: read("/proc/sys/kernel/hostname"),
            known: Mutex::new(LruCache::new(NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN))),
            meeting: Mutex::new(()),
            labels: Mutex::new(HashMap::new()),
            queue: Mutex::new(VecDeque::new()),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            watched_max: capacity,
        });
        let watcher = Watcher::new(Arc::clone(&shared))?;
        std::thread::Builder::new().name("stone-processes".into()).spawn(move || watcher.run())?;
        Ok(ProcessTable { shared })
    }

    /// Returns the entity of the process that a task belongs to; `uid` and `gid` are the request's.
    ///
    /// Costs one `pread` for a task that was met before. `pid` may be a thread's number. 0 is
    /// `ProcId(0)`; a task that is gone already gets a row that says no more than the request did.
    pub fn lookup(&self, pid: u32, uid: u32, gid: u32) -> ProcId {
        if pid == 0 {
            return ProcId(0);
        }
        match self.shared.entity(pid, DEPTH_MAX) {
            Some(entity) => entity.id,
            None => self.shared.record_gone(pid, uid, gid),
        }
    }

    /// Names the actor behind a process and all that it starts from now on.
    pub fn set_label(&self, pid: u32, label: &str) {
        let Some(guard) = Guard::open(pid) else { return };
        let mut labels = self.shared.labels.lock();
        labels.retain(|_, label| label.guard.comm().is_some());
        labels.insert(pid, Label { guard, text: label.to_owned() });
        drop(labels);
        // Facts once recorded do not change: with a label, it is an entity of its own.
        self.shared.known.lock().pop(&pid);
    }

    /// Records how a process ended; called by whoever waits for it.
    pub fn ended(&self, pid: u32, exit_status: i32) {
        let known = self.shared.known.lock().peek(&pid).cloned();
        if let Some(Role::Process(entity)) = known.as_deref().map(|known| &known.role) {
            self.shared.record_end(entity, Some(exit_status));
        }
    }

    /// Waits until the details of every process met so far are recorded, at most so long.
    pub fn settle(&self, timeout: Duration) {
        let (sender, receiver) = sync_channel(1);
        self.shared.enqueue(Job::Settled(sender));
        let _ = receiver.recv_timeout(timeout);
    }
}

impl Drop for ProcessTable {
    fn drop(&mut self) {
        // Not joined: the thread may be waiting for a process that waits for the caller.
        self.shared.enqueue(Job::Stop);
    }
}

impl Shared {
    fn entity(&self, pid: u32, depth: usize) -> Option<Arc<Entity>> {
        match self.fresh(pid) {
            Some(known) => self.entity_of(&known, depth),
            None => {
                let _one_at_a_time = self.meeting.lock();
                self.meet(pid, depth)
            }
        }
    }

    /// As [`Shared::entity`], while `meeting` is held.
    fn entity_meeting(&self, pid: u32, depth: usize) -> Option<Arc<Entity>> {
        match self.fresh(pid).as_deref() {
            Some(Known { role: Role::Process(entity), .. }) => Some(Arc::clone(entity)),
            Some(Known { role: Role::ThreadOf(leader), .. }) if depth > 0 => self.entity_meeting(*leader, depth - 1),
            Some(Known { role: Role::ThreadOf(_), .. }) => None,
            None => self.meet(pid, depth),
        }
    }

    fn entity_of(&self, known: &Known, depth: usize) -> Option<Arc<Entity>> {
        match &known.role {
            Role::Process(entity) => Some(Arc::clone(entity)),
            Role::ThreadOf(leader) if depth > 0 => self.entity(*leader, depth - 1),
            Role::ThreadOf(_) => None,
        }
    }

    /// Returns what is known of a task if it is still that task and runs the same program.
    fn fresh(&self, pid: u32) -> Option<Arc<Known>> {
        let known = self.known.lock().get(&pid).cloned()?;
        (known.guard.comm()? == known.comm).then_some(known)
    }

    /// Looks at a task for the first time, or after it changed. Holds `meeting`.
    fn meet(&self, pid: u32, depth: usize) -> Option<Arc<Entity>> {
        if let Some(known) = self.fresh(pid) {
            return match &known.role {
                Role::Process(entity) => Some(Arc::clone(entity)),
                Role::ThreadOf(leader) => self.entity_meeting(*leader, depth.checked_sub(1)?),
            };
        }
        let guard = Guard::open(pid)?;
        let comm = guard.comm()?;
        let status = Status::read(pid)?;
        if status.tgid != pid {
            let entity = self.entity_meeting(status.tgid, depth.checked_sub(1)?)?;
            self.known.lock().put(pid, Arc::new(Known { guard, comm, role: Role::ThreadOf(status.tgid) }));
            return Some(entity);
        }
        let stat = Stat::read(pid)?;
        // Only now is it certain that stat and status were this task's.
        guard.comm()?;
        let before = self.known.lock().pop(&pid);
        let executed = before.and_then(|known| match &known.role {
            Role::Process(entity) => {
                let same = entity.row.lock().start_ticks == stat.start_ticks;
                self.record_end(entity, None);
                same.then_some(())
            }
            Role::ThreadOf(_) => None,
        });
        let leader = stat.session == pid || stat.ppid == 0;
        let parent = match (leader, depth.checked_sub(1)) {
            (false, Some(depth)) => self.entity_meeting(stat.ppid, depth),
            (true, _) | (_, None) => None,
        };
        let label = self.label_of(pid, stat.ppid, parent.as_deref());
        let row = ProcessRow {
            id: self.sink.next_process_id(),
            boot_id: self.boot_id.clone(),
            host: self.host.clone(),
            pid,
            ppid: stat.ppid,
            start_ticks: stat.start_ticks,
            parent: parent.map(|parent| parent.id),
            uid: status.uid,
            gid: status.gid,
            comm: comm.as_bytes().to_vec(),
            exe: None,
            argv: None,
            cwd: None,
            session: stat.session,
            tty: stat.tty,
            cgroup: None,
            started: if executed.is_some() { self.clock.now() } else { self.started(stat.start_ticks) },
            ended: None,
            exit_status: None,
            label,
            complete: false,
        };
        let entity = Arc::new(Entity { pid, id: row.id, row: Mutex::new(row.clone()) });
        self.sink.record_process(row);
        let known = Arc::new(Known { guard, comm, role: Role::Process(Arc::clone(&entity)) });
        self.known.lock().put(pid, Arc::clone(&known));
        self.enqueue(Job::Complete(known, Arc::clone(&entity)));
        Some(entity)
    }

    fn started(&self, ticks: u64) -> Timestamp {
        let nanos = u128::from(ticks) * u128::from(NANOS_PER_TICK);
        Timestamp(self.booted.0.saturating_add(i64::try_from(nanos).unwrap_or(i64::MAX)))
    }

    /// Finds the label that a process has itself or inherits, past the leader of its session too.
    fn label_of(&self, pid: u32, ppid: u32, parent: Option<&Entity>) -> Option<String> {
        let labels = self.labels.lock();
        let own = |pid: u32| Some(labels.get(&pid).filter(|label| label.guard.comm().is_some())?.text.clone());
        if let Some(label) = own(pid) {
            return Some(label);
        }
        if let Some(parent) = parent {
            return parent.row.lock().label.clone();
        }
        if labels.is_empty() {
            return None;
        }
        let mut above = ppid;
        for _ in 0..DEPTH_MAX {
            if above == 0 {
                return None;
            }
            if let Some(label) = own(above) {
                return Some(label);
            }
            above = Stat::read(above)?.ppid;
        }
        None
    }

    fn record_gone(&self, pid: u32, uid: u32, gid: u32) -> ProcId {
        let row = ProcessRow {
            id: self.sink.next_process_id(),
            boot_id: self.boot_id.clone(),
            host: self.host.clone(),
            pid,
            uid,
            gid,
            started: self.clock.now(),
            ..ProcessRow::default()
        };
        let id = row.id;
        self.sink.record_process(row);
        id
    }

    fn record_end(&self, entity: &Entity, exit_status: Option<i32>) {
        let mut row = entity.row.lock();
        if row.ended.is_none() {
            row.ended = Some(self.clock.now());
            row.exit_status = exit_status;
            self.sink.record_process(row.clone());
        }
    }

    fn enqueue(&self, job: Job) {
        let mut queue = self.queue.lock();
        if queue.len() < QUEUE_MAX || !matches!(job, Job::Complete(..)) {
            queue.push_back(job);
        }
        drop(queue);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Reads what may wait, records it, and says whether the process is still there.
    fn complete(&self, known: &Known, entity: &Entity) -> bool {
        let details = Details::read(entity.pid);
        let alive = match known.guard.comm() {
            // Another program by now: what was read may be that one's.
            Some(comm) if comm != known.comm => return true,
            Some(_) => true,
            None => false,
        };
        let mut row = entity.row.lock();
        if row.ended.is_none() && (alive || details.complete()) {
            row.complete = alive && details.complete();
            if alive {
                row.exe = details.exe;
                row.argv = details.argv;
                row.cwd = details.cwd;
                row.cgroup = details.cgroup;
                self.sink.record_process(row.clone());
            }
        }
        drop(row);
        if !alive {
            self.record_end(entity, None);
        }
        alive
    }
}

/// The thread that completes rows and sees processes end.
struct Watcher {
    shared: Arc<Shared>,
    epoll: OwnedFd,
    watched: HashMap<u64, (OwnedFd, Arc<Entity>)>,
    /// Those that ended last.
    dead: VecDeque<Arc<Entity>>,
}

/// The epoll key of the queue's eventfd; entities are numbered from 1.
const WAKE: u64 = 0;

impl Watcher {
    fn new(shared: Arc<Shared>) -> std::io::Result<Watcher> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &shared.wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Watcher { shared, epoll, watched: HashMap::new(), dead: VecDeque::new() })
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    log::error!("processes are no longer watched: {error}");
                    return;
                }
            }
            for event in &events {
                let key = event.data.u64();
                if key == WAKE {
                    let _ = rustix::io::read(&self.shared.wake, &mut [0u8; 8]);
                } else if let Some((_pidfd, entity)) = self.watched.remove(&key) {
                    // Closing the descriptor takes it out of the epoll set.
                    self.shared.record_end(&entity, None);
                    self.bury(entity);
                }
            }
            loop {
                let Some(job) = self.shared.queue.lock().pop_front() else { break };
                match job {
                    Job::Complete(known, entity) => {
                        if self.shared.complete(&known, &entity) {
                            self.watch(&known, &entity);
                        } else {
                            self.bury(entity);
                        }
                    }
                    Job::Settled(sender) => drop(sender.send(())),
                    Job::Stop => return,
                }
            }
        }
    }

    /// Forgets the process that has been dead for longest where too many are.
    fn bury(&mut self, entity: Arc<Entity>) {
        self.dead.push_back(entity);
        if self.dead.len() <= DEAD_KEPT {
            return;
        }
        let Some(oldest) = self.dead.pop_front() else { return };
        let mut known = self.shared.known.lock();
        // Its number may be another process's by now.
        let is_its = matches!(known.peek(&oldest.pid).map(|known| &known.role),
            Some(Role::Process(entity)) if Arc::ptr_eq(entity, &oldest));
        if is_its {
            known.pop(&oldest.pid);
        }
    }

    fn watch(&mut self, known: &Known, entity: &Arc<Entity>) {
        if self.watched.len() >= self.shared.watched_max {
            return;
        }
        let Some(pid) = i32::try_from(entity.pid).ok().and_then(Pid::from_raw) else { return };
        let pidfd = pidfd_open(pid, PidfdFlags::empty());
        // The guard is of the process that was met: while it answers, the number is still that one's.
        if known.guard.comm().is_none() {
            self.shared.record_end(entity, None);
            self.bury(Arc::clone(entity));
            return;
        }
        let Ok(pidfd) = pidfd else { return };
        let key = entity.id.0;
        if epoll::add(&self.epoll, &pidfd, epoll::EventData::new_u64(key), epoll::EventFlags::IN).is_ok() {
            self.watched.insert(key, (pidfd, Arc::clone(entity)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::types::SystemClock;

    #[derive(Default)]
    struct Recorder {
        next: AtomicU64,
        rows: Mutex<HashMap<ProcId, ProcessRow>>,
    }

    impl ProcessSink for Recorder {
        fn next_process_id(&self) -> ProcId {
            ProcId(self.next.fetch_add(1, Ordering::SeqCst) + 1)
        }
        fn record_process(&self, row: ProcessRow) {
            self.rows.lock().insert(row.id, row);
        }
    }

    impl Recorder {
        fn row(&self, id: ProcId) -> ProcessRow {
            self.rows.lock().get(&id).cloned().unwrap()
        }
        fn eventually(&self, id: ProcId, what: impl Fn(&ProcessRow) -> bool) -> ProcessRow {
            for _ in 0..500 {
                let row = self.row(id);
                if what(&row) {
                    return row;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("never came: {:?}", self.row(id));
        }
    }

    fn table() -> (Arc<Recorder>, ProcessTable) {
        let recorder = Arc::new(Recorder::default());
        let table = ProcessTable::new(recorder.clone(), Arc::new(SystemClock)).unwrap();
        (recorder, table)
    }

    struct Shell(Child, BufReader<std::process::ChildStdout>);

    impl Shell {
        fn start() -> Shell {
            let mut child =
                Command::new("bash").arg("-s").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let out = BufReader::new(child.stdout.take().unwrap());
            Shell(child, out)
        }
        fn say(&mut self, line: &str) -> String {
            writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
            let mut answer = String::new();
            self.1.read_line(&mut answer).unwrap();
            answer.trim().to_owned()
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_process_is_met_once_and_completed_later() {
        let (recorder, table) = table();
        let me = std::process::id();
        let id = table.lookup(me, 0, 0);
        assert_eq!(table.lookup(me, 0, 0), id);
        table.settle(Duration::from_secs(10));
        let row = recorder.row(id);
        assert!(row.complete, "{row:?}");
        assert_eq!(row.pid, me);
        assert!(row.exe.unwrap().ends_with(std::env::current_exe().unwrap().file_name().unwrap().as_encoded_bytes()));
        assert!(!row.argv.unwrap().is_empty());
        assert_eq!(row.cwd.unwrap(), std::env::current_dir().unwrap().as_os_str().as_encoded_bytes());
        assert_eq!(table.lookup(0, 0, 0), ProcId(0));
    }

    #[test]
    fn a_child_has_its_parent_and_its_end_is_seen() {
        let (recorder, table) = table();
        let mut shell = Shell::start();
        let pid: u32 = shell.say("echo $$").parse().unwrap();
        let id = table.lookup(pid, 0, 0);
        let row = recorder.row(id);
        assert_eq!(row.comm, b"bash");
        assert_eq!(recorder.row(row.parent.unwrap()).pid, std::process::id());
        shell.0.kill().unwrap();
        shell.0.wait().unwrap();
        let row = recorder.eventually(id, |row| row.ended.is_some());
        assert!(row.ended.unwrap() >= row.started);
        let gone = table.lookup(pid, 7, 8);
        assert_ne!(gone, id);
        let gone = recorder.row(gone);
        assert_eq!((gone.pid, gone.uid, gone.gid, gone.complete), (pid, 7, 8, false));
    }

    #[test]
    fn the_dead_are_forgotten_but_for_the_last() {
        let (recorder, table) = table();
        let mut last = ProcId(0);
        for _ in 0..DEAD_KEPT + 20 {
            let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            last = table.lookup(child.id(), 0, 0);
            drop(child.stdin.take());
            child.wait().unwrap();
            recorder.eventually(last, |row| row.ended.is_some());
        }
        // A child met before it executed is one more than it seems; the test and its parents live.
        let dead = || table.shared.known.lock().iter().filter(|(_, known)| known.guard.comm().is_none()).count();
        for _ in 0..500 {
            if dead() <= DEAD_KEPT {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(dead() <= DEAD_KEPT, "{} are remembered", dead());
        assert!(recorder.row(last).ended.is_some());
    }

    #[test]
    fn an_exec_begins_an_entity_of_the_same_pid() {
        let (recorder, table) = table();
        let mut shell = Shell::start();
        let pid: u32 = shell.say("echo $$").parse().unwrap();
        let before = table.lookup(pid, 0, 0);
        shell.say("echo go; exec sleep 30");
        let mut after = before;
        for _ in 0..500 {
            after = table.lookup(pid, 0, 0);
            if after != before {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let (old, new) = (recorder.row(before), recorder.row(after));
        assert_eq!((old.comm.as_slice(), new.comm.as_slice()), (&b"bash"[..], &b"sleep"[..]));
        assert_eq!((old.pid, old.start_ticks, old.parent), (new.pid, new.start_ticks, new.parent));
        assert!(old.ended.is_some());
        let new = recorder.eventually(after, |row| row.complete);
        assert_eq!(new.argv.unwrap(), b"sleep\x0030\0");
    }

    #[test]
    fn a_label_is_inherited_by_what_is_started_later_across_sessions() {
        let (recorder, table) = table();
        let mut shell = Shell::start();
        let pid: u32 = shell.say("echo $$").parse().unwrap();
        table.set_label(pid, "robot");
        let child: u32 = shell.say("sleep 30 & echo $!").parse().unwrap();
        assert_eq!(recorder.row(table.lookup(child, 0, 0)).label.as_deref(), Some("robot"));
        let mut other = Command::new("sleep").arg("30").spawn().unwrap();
        assert_eq!(recorder.row(table.lookup(other.id(), 0, 0)).label, None);
        let leader: u32 = shell.say("setsid sleep 31 & sleep 0.3; echo $!").parse().unwrap();
        let row = recorder.row(table.lookup(leader, 0, 0));
        assert_eq!(row.label.as_deref(), Some("robot"), "{row:?}");
        shell.say("kill $(jobs -p); echo done");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_thread_is_its_process() {
        let (recorder, table) = table();
        let leader = table.lookup(std::process::id(), 0, 0);
        let (tid, entity) = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
                    (tid, table.lookup(tid, 0, 0))
                })
                .join()
                .unwrap()
        });
        assert_ne!(tid, std::process::id());
        assert_eq!(entity, leader);
        assert_eq!(recorder.row(leader).pid, std::process::id());
    }
}
