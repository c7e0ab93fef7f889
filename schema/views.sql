-- Public views: what any SQLite program (3.40 and later) may read while the file system is mounted.
-- Made anew with every migration, so nothing may depend on their being tables.
--
-- Times are RFC 3339 in UTC with nanoseconds; paths are text, whatever bytes are in them.

DROP VIEW IF EXISTS files;
DROP VIEW IF EXISTS versions;
DROP VIEW IF EXISTS events;
DROP VIEW IF EXISTS transactions;
DROP VIEW IF EXISTS branches;
DROP VIEW IF EXISTS tags;
DROP VIEW IF EXISTS conflicts;
DROP VIEW IF EXISTS processes;
DROP VIEW IF EXISTS live_tree;
DROP VIEW IF EXISTS live_entry;
DROP VIEW IF EXISTS live_lineage;

-- The branches that make up the live tree, nearest first, each with the last event it is seen at: before a
-- commit that is still being written.
CREATE VIEW live_lineage AS
WITH RECURSIVE line (depth, branch, cut) AS (
    SELECT 0,
           coalesce((SELECT CAST(CAST(value AS TEXT) AS INTEGER) FROM setting WHERE key = 'live_branch'), 1),
           coalesce((SELECT seq - 1 FROM staged), 9223372036854775806)
    UNION ALL
    SELECT line.depth + 1, b.parent, min(line.cut, b.base)
    FROM line JOIN branch b ON b.id = line.branch
    WHERE b.parent IS NOT NULL
)
SELECT depth, branch, cut FROM line;

-- Present entries: the row that shows on its own segment and that no nearer branch hides.
CREATE VIEW live_entry AS
SELECT e.parent, e.name, e.ino, e.kind
FROM live_lineage l CROSS JOIN entry e
WHERE e.branch = l.branch AND e.valid_from <= l.cut AND e.valid_to > l.cut AND e.ino IS NOT NULL
  AND (l.depth = 0 OR NOT EXISTS (
      SELECT 1 FROM live_lineage n CROSS JOIN entry x
      WHERE n.depth < l.depth AND x.parent = e.parent AND x.name = e.name
        AND x.branch = n.branch AND x.valid_from <= n.cut));

CREATE VIEW live_tree AS
WITH RECURSIVE
    present AS MATERIALIZED (SELECT parent, name, ino, kind FROM live_entry),
    tree (path, name, parent, ino, kind) AS (
        SELECT '', '', NULL, 1, 2
        UNION ALL
        SELECT tree.path || '/' || p.name, CAST(p.name AS TEXT), p.parent, p.ino, p.kind
        FROM tree JOIN present p ON p.parent = tree.ino
        WHERE tree.kind = 2
    )
SELECT CASE path WHEN '' THEN '/' ELSE path END AS path, name, parent, ino, kind FROM tree;

-- The live tree: one row a name.
CREATE VIEW files AS
SELECT t.path, t.name, t.parent, t.ino AS inode,
       CASE i.kind WHEN 1 THEN 'file' WHEN 2 THEN 'dir' WHEN 3 THEN 'symlink' WHEN 4 THEN 'fifo' WHEN 5 THEN 'socket'
                   WHEN 6 THEN 'char' WHEN 7 THEN 'block' END AS type,
       i.perm AS mode, i.uid, i.gid, i.size, i.nlink,
       strftime('%Y-%m-%dT%H:%M:%S', (i.mtime - (i.mtime % 1000000000 + 1000000000) % 1000000000) / 1000000000,
                'unixepoch') || printf('.%09dZ', (i.mtime % 1000000000 + 1000000000) % 1000000000) AS mtime,
       strftime('%Y-%m-%dT%H:%M:%S', (coalesce(i.ctime, i.mtime)
                - (coalesce(i.ctime, i.mtime) % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (coalesce(i.ctime, i.mtime) % 1000000000 + 1000000000) % 1000000000) AS ctime,
       CASE i.kind WHEN 3 THEN CAST(i.content AS TEXT) END AS target,
       -- BLAKE3 of files that are one stored chunk; NULL for others, which `stone sql` hashes.
       CASE WHEN i.kind = 1 AND i.content IS NULL AND i.chunks = 1 AND i.size <= 131072 THEN
           (SELECT lower(hex(c.hash)) FROM live_lineage xl CROSS JOIN extent x JOIN chunk c ON c.id = x.chunk
            WHERE x.ino = i.ino AND x.idx = 0 AND x.branch = xl.branch AND x.valid_from <= xl.cut AND x.valid_to > xl.cut
              AND x.valid_from >= i.data_from AND c.size = i.size
            ORDER BY xl.depth LIMIT 1) END AS content_hash
FROM live_tree t CROSS JOIN live_lineage l CROSS JOIN inode i
WHERE i.ino = t.ino AND i.branch = l.branch AND i.valid_from <= l.cut AND i.valid_to > l.cut AND i.kind IS NOT NULL
  AND (l.depth = 0 OR NOT EXISTS (
      SELECT 1 FROM live_lineage n CROSS JOIN inode x
      WHERE n.depth < l.depth AND x.ino = i.ino AND x.branch = n.branch AND x.valid_from <= n.cut));

-- Every version of everything; valid_to is NULL for the present. The path is the one that the
-- event of the version was about; NULL where the version came with a commit or a directory's times.
CREATE VIEW versions AS
SELECT CASE WHEN e.ino = i.ino AND e.dir IS NOT NULL
            THEN coalesce(d.path, '') || '/' || coalesce(e.leaf, e.name, '') END AS path,
       i.ino AS inode, i.branch, i.valid_from,
       CASE WHEN i.valid_to <> 9223372036854775807 AND i.valid_to IS NOT s.seq THEN i.valid_to END AS valid_to,
       strftime('%Y-%m-%dT%H:%M:%S', (e.time - (e.time % 1000000000 + 1000000000) % 1000000000) / 1000000000,
                'unixepoch') || printf('.%09dZ', (e.time % 1000000000 + 1000000000) % 1000000000) AS time,
       i.size, NULL AS content_hash, i.process
FROM inode i LEFT JOIN event e ON e.seq = i.valid_from LEFT JOIN path d ON d.id = e.dir
     LEFT JOIN staged s ON s.branch = i.branch
WHERE i.kind IS NOT NULL AND i.valid_from IS NOT s.seq;

CREATE VIEW events AS
SELECT e.seq,
       strftime('%Y-%m-%dT%H:%M:%S', (e.time - (e.time % 1000000000 + 1000000000) % 1000000000) / 1000000000,
                'unixepoch') || printf('.%09dZ', (e.time % 1000000000 + 1000000000) % 1000000000) AS time,
       e.branch, e.txn,
       CASE e.op WHEN 1 THEN 'create' WHEN 2 THEN 'mkdir' WHEN 3 THEN 'mknod' WHEN 4 THEN 'symlink' WHEN 5 THEN 'link'
           WHEN 6 THEN 'unlink' WHEN 7 THEN 'rmdir' WHEN 8 THEN 'rename' WHEN 9 THEN 'exchange' WHEN 10 THEN 'write'
           WHEN 11 THEN 'truncate' WHEN 12 THEN 'fallocate' WHEN 13 THEN 'copy' WHEN 14 THEN 'chmod' WHEN 15 THEN 'chown'
           WHEN 16 THEN 'utimens' WHEN 17 THEN 'setxattr' WHEN 18 THEN 'removexattr' WHEN 19 THEN 'open'
           WHEN 32 THEN 'branch' WHEN 33 THEN 'tag' WHEN 34 THEN 'switch' WHEN 35 THEN 'begin' WHEN 36 THEN 'commit'
           WHEN 37 THEN 'rollback' WHEN 38 THEN 'merge' WHEN 39 THEN 'prune' END AS op,
       e.ino AS inode,
       CASE WHEN e.dir IS NOT NULL THEN d.path || '/' || coalesce(e.leaf, e.name, '') END AS path,
       CASE WHEN e.dir2 IS NOT NULL THEN d2.path || '/' || coalesce(e.leaf2, e.name2, '') END AS path2,
       e.offset, e.length, CAST(e.old AS TEXT) AS old, CAST(e.new AS TEXT) AS new, e.result, e.uid, e.gid, e.pid,
       e.process
FROM event e LEFT JOIN path d ON d.id = e.dir LEFT JOIN path d2 ON d2.id = e.dir2;

CREATE VIEW transactions AS
SELECT id, branch, target, base,
       CASE kind WHEN 1 THEN 'begin' WHEN 2 THEN 'run' WHEN 3 THEN 'merge' WHEN 4 THEN 'undo' WHEN 5 THEN 'redo'
                 WHEN 6 THEN 'restore' END AS kind,
       CASE state WHEN 1 THEN 'open' WHEN 2 THEN 'interrupted' WHEN 3 THEN 'conflicted' WHEN 4 THEN 'committed'
                  WHEN 5 THEN 'rolledback' END AS state,
       serializable, "outer", uid, begun, ended,
       strftime('%Y-%m-%dT%H:%M:%S', begun_time / 1000000000, 'unixepoch')
           || printf('.%09dZ', begun_time % 1000000000) AS begun_time,
       strftime('%Y-%m-%dT%H:%M:%S', ended_time / 1000000000, 'unixepoch')
           || printf('.%09dZ', ended_time % 1000000000) AS ended_time,
       message, label
FROM txn;

CREATE VIEW branches AS
SELECT id, CAST(name AS TEXT) AS name, parent, base, created,
       strftime('%Y-%m-%dT%H:%M:%S', created_time / 1000000000, 'unixepoch')
           || printf('.%09dZ', created_time % 1000000000) AS created_time,
       dropped, uid
FROM branch WHERE name IS NOT NULL;

CREATE VIEW tags AS
SELECT CAST(name AS TEXT) AS name, branch, seq,
       strftime('%Y-%m-%dT%H:%M:%S', time / 1000000000, 'unixepoch') || printf('.%09dZ', time % 1000000000) AS time,
       uid, message
FROM tag;

-- Transactions that met conflicts; `stone conflicts` works out the paths.
CREATE VIEW conflicts AS
SELECT id AS txn, target, detail FROM txn WHERE state = 3;

CREATE VIEW processes AS
SELECT id, pid, ppid, parent, uid, gid, CAST(comm AS TEXT) AS comm, CAST(exe AS TEXT) AS exe,
       CASE WHEN argv IS NOT NULL THEN rtrim(replace(CAST(argv AS TEXT), char(0), ' ')) END AS argv,
       CAST(cwd AS TEXT) AS cwd,
       strftime('%Y-%m-%dT%H:%M:%S', started / 1000000000, 'unixepoch') || printf('.%09dZ', started % 1000000000)
           AS started,
       strftime('%Y-%m-%dT%H:%M:%S', ended / 1000000000, 'unixepoch') || printf('.%09dZ', ended % 1000000000) AS ended,
       exit_status, label, session, tty, CAST(cgroup AS TEXT) AS cgroup, boot_id, host, complete
FROM process;
