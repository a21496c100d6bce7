-- Applied after schema.sql: the types one would choose without knowing the values. The README shows what is refused.
ALTER TABLE gnucash.transactions
DROP COLUMN posted_at,
DROP COLUMN entered_at,
DROP CONSTRAINT transactions_post_date_check,
DROP CONSTRAINT transactions_enter_date_check,
ALTER COLUMN post_date TYPE timestamptz USING NULL,
ALTER COLUMN enter_date TYPE timestamptz USING NULL;
ALTER TABLE gnucash.prices
DROP CONSTRAINT prices_date_check,
ALTER COLUMN date TYPE timestamptz USING NULL;
ALTER TABLE gnucash.schedxactions
DROP CONSTRAINT schedxactions_start_date_check,
ALTER COLUMN start_date TYPE date USING NULL;
ALTER TABLE gnucash.slots DROP CONSTRAINT slots_gdate_val_check, ALTER COLUMN gdate_val TYPE date USING NULL;
