-- What the record is asked for most: by whom, and at which path.

CREATE INDEX event_process ON event (process);
CREATE INDEX event_at ON event (dir, coalesce(leaf, name));
CREATE INDEX event_at2 ON event (dir2, coalesce(leaf2, name2)) WHERE dir2 IS NOT NULL;
CREATE INDEX event_failed ON event (seq) WHERE result <> 0;
