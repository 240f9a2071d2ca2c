-- Which server, on which timeline, this database has been: a restored or promoted one is another life (R22).
CREATE TABLE fleet.database_lives (
    system_identifier bigint NOT NULL,
    timeline_id integer NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    begun_by text NOT NULL CHECK (length(begun_by) BETWEEN 1 AND 100),
    PRIMARY KEY (system_identifier, timeline_id)
);
