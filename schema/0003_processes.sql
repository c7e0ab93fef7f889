-- Processes by what they are asked for.

CREATE INDEX process_comm ON process (comm);
CREATE INDEX process_label ON process (label) WHERE label IS NOT NULL;
CREATE INDEX process_parent ON process (parent) WHERE parent IS NOT NULL;
