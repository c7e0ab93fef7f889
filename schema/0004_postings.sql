-- Where events are found: a row a stretch of them, instead of five index entries an event.

DROP INDEX event_branch;
DROP INDEX event_ino;
DROP INDEX event_ino2;
DROP INDEX event_process;
DROP INDEX event_at;
DROP INDEX event_at2;

-- Filled from the events by the program that applies this.
CREATE TABLE posting (
    kind   INTEGER NOT NULL,       -- 1 branch, 2 process, 3 directory of a path, 4 inodes, 64 at a time
    key    INTEGER NOT NULL,
    first  INTEGER NOT NULL,       -- the first event
    last   INTEGER NOT NULL,       -- the last one
    events BLOB,                   -- which ones (kinds 3 and 4); NULL: most of those in between
    PRIMARY KEY (kind, key, first)
) WITHOUT ROWID;
