-- The commit whose rows are being written ahead of its event. They begin after the last event, and nobody sees them
-- until the counters reach it; what a crash leaves of them is taken away when the database is opened.

CREATE TABLE staged (
    branch INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    PRIMARY KEY (branch, seq)
) WITHOUT ROWID;
