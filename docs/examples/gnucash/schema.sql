-- A GnuCash book in PostgreSQL: the tables that this book uses, with the keys that GnuCash leaves to its own code.
CREATE SCHEMA gnucash;

-- GnuCash names everything by 32 hexadecimal digits. They stay as they are: slots refer to rows of any table by them.
CREATE DOMAIN gnucash.guid AS text CHECK (VALUE ~ '^[0-9a-f]{32}$');

CREATE TABLE gnucash.versions (
    table_name text PRIMARY KEY,
    table_version integer NOT NULL
);

CREATE TABLE gnucash.commodities (
    guid gnucash.guid PRIMARY KEY,
    namespace text NOT NULL,
    mnemonic text NOT NULL,
    fullname text,
    cusip text,
    fraction integer NOT NULL CHECK (fraction > 0),
    quote_flag boolean NOT NULL,
    quote_source text,
    quote_tz text,
    UNIQUE (namespace, mnemonic)
);

CREATE TABLE gnucash.accounts (
    guid gnucash.guid PRIMARY KEY,
    name text NOT NULL,
    account_type text NOT NULL,
    commodity_guid gnucash.guid REFERENCES gnucash.commodities (guid),
    commodity_scu integer NOT NULL,
    non_std_scu boolean NOT NULL,
    parent_guid gnucash.guid REFERENCES gnucash.accounts (guid),
    code text,
    description text,
    hidden boolean,
    placeholder boolean,
    CHECK ((account_type = 'ROOT') = (parent_guid IS NULL))
);
CREATE INDEX ON gnucash.accounts (parent_guid);

CREATE TABLE gnucash.books (
    guid gnucash.guid PRIMARY KEY,
    root_account_guid gnucash.guid NOT NULL REFERENCES gnucash.accounts (guid),
    root_template_guid gnucash.guid NOT NULL REFERENCES gnucash.accounts (guid)
);

-- posted_at and entered_at are the moments that the texts mean, for queries; both forms of the texts give one.
CREATE TABLE gnucash.transactions (
    guid gnucash.guid PRIMARY KEY,
    currency_guid gnucash.guid NOT NULL REFERENCES gnucash.commodities (guid),
    num text NOT NULL,
    post_date text CHECK (post_date ~ '^\d{14}$' OR post_date ~ '^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$'),
    enter_date text CHECK (enter_date ~ '^\d{14}$' OR enter_date ~ '^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$'),
    description text,
    posted_at timestamp GENERATED ALWAYS AS (
        make_timestamp(
            substr(translate(post_date, '-: ', ''), 1, 4)::integer,
            substr(translate(post_date, '-: ', ''), 5, 2)::integer,
            substr(translate(post_date, '-: ', ''), 7, 2)::integer,
            substr(translate(post_date, '-: ', ''), 9, 2)::integer,
            substr(translate(post_date, '-: ', ''), 11, 2)::integer,
            substr(translate(post_date, '-: ', ''), 13, 2)::integer
        )
    ) STORED,
    entered_at timestamp GENERATED ALWAYS AS (
        make_timestamp(
            substr(translate(enter_date, '-: ', ''), 1, 4)::integer,
            substr(translate(enter_date, '-: ', ''), 5, 2)::integer,
            substr(translate(enter_date, '-: ', ''), 7, 2)::integer,
            substr(translate(enter_date, '-: ', ''), 9, 2)::integer,
            substr(translate(enter_date, '-: ', ''), 11, 2)::integer,
            substr(translate(enter_date, '-: ', ''), 13, 2)::integer
        )
    ) STORED
);
CREATE INDEX ON gnucash.transactions (posted_at);

-- An amount is an exact fraction. Its quotient is for queries: PostgreSQL computes it, GnuCash never stored it.
CREATE TABLE gnucash.splits (
    guid gnucash.guid PRIMARY KEY,
    tx_guid gnucash.guid NOT NULL REFERENCES gnucash.transactions (guid),
    account_guid gnucash.guid NOT NULL REFERENCES gnucash.accounts (guid),
    memo text NOT NULL,
    action text NOT NULL,
    reconcile_state char(1) NOT NULL CHECK (reconcile_state IN ('n', 'c', 'y', 'f', 'v')),
    reconcile_date timestamptz,
    value_num bigint NOT NULL,
    value_denom bigint NOT NULL CHECK (value_denom > 0),
    quantity_num bigint NOT NULL,
    quantity_denom bigint NOT NULL CHECK (quantity_denom > 0),
    lot_guid gnucash.guid,
    value numeric GENERATED ALWAYS AS (value_num::numeric / value_denom) STORED
);
CREATE INDEX ON gnucash.splits (tx_guid);
CREATE INDEX ON gnucash.splits (account_guid);

CREATE TABLE gnucash.prices (
    guid gnucash.guid PRIMARY KEY,
    commodity_guid gnucash.guid NOT NULL REFERENCES gnucash.commodities (guid),
    currency_guid gnucash.guid NOT NULL REFERENCES gnucash.commodities (guid),
    date text NOT NULL CHECK (date ~ '^\d{14}$' OR date ~ '^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$'),
    source text,
    type text,
    value_num bigint NOT NULL,
    value_denom bigint NOT NULL CHECK (value_denom > 0)
);

CREATE TABLE gnucash.customers (
    guid gnucash.guid PRIMARY KEY,
    name text NOT NULL,
    customer_number text NOT NULL UNIQUE,
    notes text NOT NULL,
    active boolean NOT NULL,
    discount_num bigint NOT NULL,
    discount_denom bigint NOT NULL,
    credit_num bigint NOT NULL,
    credit_denom bigint NOT NULL,
    currency gnucash.guid NOT NULL REFERENCES gnucash.commodities (guid),
    tax_override boolean NOT NULL,
    addr_name text,
    addr_addr1 text,
    addr_addr2 text,
    addr_addr3 text,
    addr_addr4 text,
    addr_phone text,
    addr_fax text,
    addr_email text,
    tax_included smallint CHECK (tax_included BETWEEN 1 AND 3)
);

-- A day is eight digits in this file: 20140101. PostgreSQL would print 2014-01-01.
CREATE TABLE gnucash.schedxactions (
    guid gnucash.guid PRIMARY KEY,
    name text,
    enabled boolean NOT NULL,
    start_date text CHECK (start_date ~ '^\d{8}$'),
    end_date text CHECK (end_date ~ '^\d{8}$'),
    last_occur text CHECK (last_occur ~ '^\d{8}$'),
    num_occur integer NOT NULL,
    rem_occur integer NOT NULL,
    auto_create boolean NOT NULL,
    auto_notify boolean NOT NULL,
    adv_creation integer NOT NULL,
    adv_notify integer NOT NULL,
    instance_count integer NOT NULL,
    template_act_guid gnucash.guid NOT NULL REFERENCES gnucash.accounts (guid)
);

CREATE TABLE gnucash.recurrences (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    obj_guid gnucash.guid NOT NULL REFERENCES gnucash.schedxactions (guid),
    recurrence_mult integer NOT NULL,
    recurrence_period_type text NOT NULL,
    recurrence_period_start text NOT NULL CHECK (recurrence_period_start ~ '^\d{8}$'),
    recurrence_weekend_adjust text NOT NULL
);

-- Further attributes of any row of any table, so that no foreign key is possible.
CREATE TABLE gnucash.slots (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    obj_guid gnucash.guid NOT NULL,
    name text NOT NULL,
    slot_type smallint NOT NULL,
    int64_val bigint,
    string_val text,
    double_val double precision,
    timespec_val timestamptz,
    guid_val gnucash.guid,
    numeric_val_num bigint,
    numeric_val_denom bigint,
    gdate_val text CHECK (gdate_val ~ '^\d{8}$')
);
CREATE INDEX ON gnucash.slots (obj_guid);
