-- Applied after schema.sql: the types one would choose without knowing the values. The README shows what is refused.
ALTER TABLE n8n_nodes.nodes ALTER COLUMN properties_schema TYPE jsonb USING NULL;
ALTER TABLE n8n_nodes.node_versions ALTER COLUMN properties_schema TYPE jsonb USING NULL;
