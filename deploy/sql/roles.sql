-- The roles of Riffle's tables, with the least that each needs:
--
--   riffle_owner    makes and changes the tables: `riffle apply`
--   riffle_writer   writes vectors and progress: `riffle live`
--   riffle_reader   reads: training, dashboards, `riffle verify`
--
-- Run once per database, as a superuser or as its owner with CREATEROLE, before the first
-- `riffle apply`; it may be run again. Then give each role a user, or the right to log in:
--
--   psql -d features -f deploy/sql/roles.sql
--   psql -d features -c "CREATE ROLE flow LOGIN PASSWORD '...' IN ROLE riffle_writer"
--
-- Another schema than `riffle`: psql -v schema=lab -f deploy/sql/roles.sql

\set ON_ERROR_STOP on
\if :{?schema}
\else
\set schema riffle
\endif
SELECT current_database() AS database \gset

BEGIN;

-- TimescaleDB compresses and drops chunks in the name of their owner, which must be able to log in
-- for that. Without a password nobody else can, where users need one.
SELECT format('CREATE ROLE %I %s', name, kind)
FROM (VALUES ('riffle_owner', 'LOGIN'), ('riffle_writer', ''), ('riffle_reader', '')) AS r(name, kind)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

-- To give the schema away, one must be able to become its new owner.
SELECT 'GRANT riffle_owner TO CURRENT_USER'
WHERE NOT pg_has_role('riffle_owner', 'MEMBER') \gexec
CREATE SCHEMA IF NOT EXISTS :"schema";
ALTER SCHEMA :"schema" OWNER TO riffle_owner;
REVOKE ALL ON SCHEMA :"schema" FROM PUBLIC;
GRANT USAGE ON SCHEMA :"schema" TO riffle_writer, riffle_reader;
GRANT CONNECT ON DATABASE :"database" TO riffle_owner, riffle_writer, riffle_reader;
-- Vectors that meet older ones are staged in a temporary table.
GRANT TEMPORARY ON DATABASE :"database" TO riffle_writer;

-- What the owner will make.
ALTER DEFAULT PRIVILEGES FOR ROLE riffle_owner IN SCHEMA :"schema"
    GRANT SELECT, INSERT, UPDATE ON TABLES TO riffle_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE riffle_owner IN SCHEMA :"schema"
    GRANT SELECT ON TABLES TO riffle_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE riffle_owner IN SCHEMA :"schema"
    GRANT EXECUTE ON FUNCTIONS TO riffle_writer;

-- What is there already, if these roles come later.
SELECT format('ALTER TABLE %I.%I OWNER TO riffle_owner', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :'schema' AND c.relkind IN ('r', 'p', 'v')
    AND pg_get_userbyid(c.relowner) <> 'riffle_owner' \gexec
SELECT format('ALTER FUNCTION %s OWNER TO riffle_owner', p.oid::regprocedure)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = :'schema' AND pg_get_userbyid(p.proowner) <> 'riffle_owner' \gexec
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA :"schema" TO riffle_writer;
GRANT SELECT ON ALL TABLES IN SCHEMA :"schema" TO riffle_reader;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA :"schema" TO riffle_writer;

COMMIT;
