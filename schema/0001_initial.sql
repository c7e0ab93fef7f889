-- The first schema. README.md explains every table and every period rule.
-- 9223372036854775807 is "still valid": partial indexes and queries use this literal.

CREATE TABLE counters (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    seq          INTEGER NOT NULL,
    time         INTEGER NOT NULL,
    next_ino     INTEGER NOT NULL,
    next_branch  INTEGER NOT NULL,
    next_txn     INTEGER NOT NULL,
    next_process INTEGER NOT NULL
);

CREATE TABLE setting (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

-- ---- temporal tables ---------------------------------------------------------------------------

CREATE TABLE inode (
    ino         INTEGER NOT NULL,
    branch      INTEGER NOT NULL,
    valid_from  INTEGER NOT NULL,
    valid_to    INTEGER NOT NULL,
    kind        INTEGER,           -- NULL: tombstone; 1 file 2 dir 3 symlink 4 fifo 5 socket 6 char 7 block
    perm        INTEGER,
    uid         INTEGER,
    gid         INTEGER,
    nlink       INTEGER,
    size        INTEGER,
    chunks      INTEGER,
    rdev        INTEGER,
    atime       INTEGER,           -- NULL: the same as mtime
    mtime       INTEGER,
    ctime       INTEGER,           -- NULL: the same as mtime
    btime       INTEGER,           -- NULL: the same as mtime
    data_from   INTEGER,
    content_seq INTEGER,
    attr_seq    INTEGER,
    predecessor INTEGER,
    process     INTEGER,
    content     BLOB,              -- NULL: in extents
    PRIMARY KEY (ino, branch, valid_from)
) WITHOUT ROWID;

CREATE TABLE entry (
    parent     INTEGER NOT NULL,
    name       BLOB    NOT NULL,
    branch     INTEGER NOT NULL,
    valid_from INTEGER NOT NULL,
    valid_to   INTEGER NOT NULL,
    ino        INTEGER,            -- NULL: tombstone
    kind       INTEGER,
    PRIMARY KEY (parent, name, branch, valid_from)
) WITHOUT ROWID;

-- What is in a directory now, tombstones too; covers a listing.
CREATE INDEX entry_now ON entry (parent, branch, name, ino, kind)
    WHERE valid_to = 9223372036854775807;
CREATE INDEX entry_ino ON entry (ino) WHERE ino IS NOT NULL;

CREATE TABLE xattr (
    ino        INTEGER NOT NULL,
    name       BLOB    NOT NULL,
    branch     INTEGER NOT NULL,
    valid_from INTEGER NOT NULL,
    valid_to   INTEGER NOT NULL,
    value      BLOB,               -- NULL: tombstone
    PRIMARY KEY (ino, name, branch, valid_from)
) WITHOUT ROWID;

CREATE TABLE extent (
    ino        INTEGER NOT NULL,
    idx        INTEGER NOT NULL,   -- offset / 131072
    branch     INTEGER NOT NULL,
    valid_from INTEGER NOT NULL,
    valid_to   INTEGER NOT NULL,
    chunk      INTEGER,            -- NULL: tombstone, a hole
    PRIMARY KEY (ino, idx, branch, valid_from)
) WITHOUT ROWID;

CREATE TABLE chunk (
    id       INTEGER PRIMARY KEY,
    prefix   INTEGER NOT NULL,     -- the first 8 bytes of hash, big endian, as a signed integer
    size     INTEGER NOT NULL,     -- bytes once decoded
    encoding INTEGER NOT NULL,     -- 0 raw, 1 zstd, 2 one range over another chunk
    base     INTEGER,              -- that other chunk
    hash     BLOB    NOT NULL,     -- BLAKE3 of the decoded bytes
    data     BLOB    NOT NULL
);
CREATE INDEX chunk_prefix ON chunk (prefix);
CREATE INDEX chunk_base ON chunk (base) WHERE base IS NOT NULL;

CREATE TABLE orphan (
    branch INTEGER NOT NULL,
    ino    INTEGER NOT NULL,
    PRIMARY KEY (branch, ino)
) WITHOUT ROWID;

-- ---- lines of history --------------------------------------------------------------------------

CREATE TABLE branch (
    id           INTEGER PRIMARY KEY,
    name         BLOB,             -- NULL: a transaction's hidden branch
    parent       INTEGER,
    base         INTEGER NOT NULL,
    created      INTEGER NOT NULL,
    created_time INTEGER NOT NULL,
    dropped      INTEGER,
    uid          INTEGER NOT NULL
);

CREATE TABLE tag (
    name    BLOB PRIMARY KEY,
    branch  INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    time    INTEGER NOT NULL,
    uid     INTEGER NOT NULL,
    message TEXT    NOT NULL
) WITHOUT ROWID;

CREATE TABLE txn (
    id           INTEGER PRIMARY KEY,
    branch       INTEGER NOT NULL,
    target       INTEGER NOT NULL,
    base         INTEGER NOT NULL,
    kind         INTEGER NOT NULL, -- 1 begin 2 run 3 merge 4 undo 5 redo 6 restore
    state        INTEGER NOT NULL, -- 1 open 2 interrupted 3 conflicted 4 committed 5 rolled back
    serializable INTEGER NOT NULL,
    "outer"      INTEGER,
    uid          INTEGER NOT NULL,
    begun        INTEGER NOT NULL,
    begun_time   INTEGER NOT NULL,
    ended        INTEGER,
    ended_time   INTEGER,
    message      TEXT    NOT NULL,
    label        TEXT    NOT NULL,
    detail       TEXT    NOT NULL
);

CREATE TABLE merge (
    target     INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    source     INTEGER NOT NULL,
    source_seq INTEGER NOT NULL,
    PRIMARY KEY (target, seq, source)
) WITHOUT ROWID;

-- ---- the record --------------------------------------------------------------------------------

-- Directory paths as they were, each once.
CREATE TABLE path (
    id   INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE
);

CREATE TABLE event (
    seq      INTEGER PRIMARY KEY,
    time     INTEGER NOT NULL,
    raw_time INTEGER,              -- NULL: the same as time
    branch   INTEGER NOT NULL,
    txn      INTEGER,
    op       INTEGER NOT NULL,
    ino      INTEGER,
    parent   INTEGER,
    name     BLOB,
    parent2  INTEGER,
    name2    BLOB,
    dir      INTEGER,              -- path = path(dir) || '/' || leaf
    leaf     BLOB,                 -- NULL: the same as name
    dir2     INTEGER,
    leaf2    BLOB,                 -- NULL: the same as name2
    ino2     INTEGER,
    offset   INTEGER,
    length   INTEGER,
    old      BLOB,
    new      BLOB,
    result   INTEGER NOT NULL,
    uid      INTEGER NOT NULL,
    gid      INTEGER NOT NULL,
    pid      INTEGER NOT NULL,
    process  INTEGER NOT NULL
);
CREATE INDEX event_branch ON event (branch);
CREATE INDEX event_ino ON event (ino);
CREATE INDEX event_ino2 ON event (ino2) WHERE ino2 IS NOT NULL;

-- What changed at an event beyond the inodes and names that the event itself says.
CREATE TABLE change (
    branch INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    ino    INTEGER NOT NULL,
    name   BLOB    NOT NULL,       -- empty: the inode; else the entry of that name in it
    PRIMARY KEY (branch, seq, ino, name)
) WITHOUT ROWID;

CREATE TABLE process (
    id          INTEGER PRIMARY KEY,
    boot_id     TEXT    NOT NULL,
    host        TEXT    NOT NULL,
    pid         INTEGER NOT NULL,
    ppid        INTEGER NOT NULL,
    start_ticks INTEGER NOT NULL,
    parent      INTEGER,
    uid         INTEGER NOT NULL,
    gid         INTEGER NOT NULL,
    comm        BLOB    NOT NULL,
    exe         BLOB,
    argv        BLOB,
    cwd         BLOB,
    session     INTEGER NOT NULL,
    tty         INTEGER NOT NULL,
    cgroup      BLOB,
    started     INTEGER NOT NULL,
    ended       INTEGER,
    exit_status INTEGER,
    label       TEXT,
    complete    INTEGER NOT NULL
);

CREATE TABLE digest (
    number  INTEGER PRIMARY KEY,
    seq     INTEGER NOT NULL,
    digest  BLOB    NOT NULL,
    records BLOB    NOT NULL
);
