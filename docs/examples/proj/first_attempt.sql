-- Applied after schema.sql: what SQLite's declarations suggest before one knows the values, and keys that one would
-- expect. The README shows what is refused.
ALTER TABLE proj.usage DROP CONSTRAINT usage_pkey;
ALTER TABLE proj.usage ADD COLUMN auth_name text, ADD COLUMN code proj.code;
ALTER TABLE proj.usage ADD PRIMARY KEY (auth_name, code);
ALTER TABLE proj.supersession
ALTER COLUMN superseded_code TYPE integer USING NULL,
ALTER COLUMN replacement_code TYPE integer USING NULL;
ALTER TABLE proj.supersession ADD UNIQUE (
    superseded_table_name, superseded_auth_name, superseded_code,
    replacement_table_name, replacement_auth_name, replacement_code
);
ALTER TABLE proj.versioned_auth_name_mapping ADD FOREIGN KEY (auth_name) REFERENCES proj.authority (auth_name);
