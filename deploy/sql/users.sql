-- The user of the flow in docker-compose.yml, behind roles.sql; elsewhere, give it a way to say who it
-- is.
CREATE ROLE flow LOGIN IN ROLE riffle_writer;
