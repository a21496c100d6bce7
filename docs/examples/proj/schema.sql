-- The database of the PROJ library: coordinate reference systems and the operations between them.
-- Most rows are named by an authority and its code, so keys and foreign keys have two columns each.
CREATE SCHEMA proj;

-- Declared INTEGER_OR_TEXT in SQLite: 4326 beside US_YD. In PostgreSQL every code is text.
CREATE DOMAIN proj.code AS text CHECK (length(VALUE) >= 1);

CREATE TABLE proj.authority (
    auth_name text PRIMARY KEY
);

CREATE TABLE proj.versioned_auth_name_mapping (
    versioned_auth_name text PRIMARY KEY REFERENCES proj.authority (auth_name),
    auth_name text NOT NULL,
    version text NOT NULL,
    priority integer NOT NULL,
    UNIQUE (auth_name, priority),
    UNIQUE (auth_name, version)
);

CREATE TABLE proj.authority_to_authority_preference (
    source_auth_name text,
    target_auth_name text,
    allowed_authorities text NOT NULL,
    PRIMARY KEY (source_auth_name, target_auth_name)
);

CREATE TABLE proj.metadata (
    key text PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE proj.unit_of_measure (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    type text NOT NULL,
    conv_factor double precision,
    proj_short_name text,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    CHECK (type IN ('length', 'angle', 'scale', 'time'))
);

CREATE TABLE proj.celestial_body (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    semi_major_axis double precision NOT NULL,
    PRIMARY KEY (auth_name, code),
    CHECK (semi_major_axis > 0)
);

CREATE TABLE proj.extent (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    description text NOT NULL,
    south_lat double precision,
    north_lat double precision,
    west_lon double precision,
    east_lon double precision,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    CHECK (south_lat BETWEEN -90 AND 90),
    CHECK (north_lat BETWEEN -90 AND 90),
    CHECK (west_lon BETWEEN -180 AND 180),
    CHECK (east_lon BETWEEN -180 AND 180),
    CHECK (south_lat <= north_lat)
);

CREATE TABLE proj.scope (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    scope text NOT NULL,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code)
);

CREATE TABLE proj.ellipsoid (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    description text,
    celestial_body_auth_name text NOT NULL,
    celestial_body_code proj.code NOT NULL,
    semi_major_axis double precision NOT NULL,
    uom_auth_name text NOT NULL,
    uom_code proj.code NOT NULL,
    inv_flattening double precision,
    semi_minor_axis double precision,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    FOREIGN KEY (celestial_body_auth_name, celestial_body_code)
    REFERENCES proj.celestial_body (auth_name, code),
    FOREIGN KEY (uom_auth_name, uom_code) REFERENCES proj.unit_of_measure (auth_name, code),
    CHECK ((inv_flattening IS NULL) <> (semi_minor_axis IS NULL))
);

CREATE TABLE proj.prime_meridian (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    longitude double precision NOT NULL,
    uom_auth_name text NOT NULL,
    uom_code proj.code NOT NULL,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    FOREIGN KEY (uom_auth_name, uom_code) REFERENCES proj.unit_of_measure (auth_name, code),
    CHECK (longitude BETWEEN -180 AND 180)
);

CREATE TABLE proj.geodetic_datum (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    description text,
    ellipsoid_auth_name text NOT NULL,
    ellipsoid_code proj.code NOT NULL,
    prime_meridian_auth_name text NOT NULL,
    prime_meridian_code proj.code NOT NULL,
    publication_date date,
    frame_reference_epoch double precision,
    ensemble_accuracy double precision,
    anchor text,
    anchor_epoch double precision,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    FOREIGN KEY (ellipsoid_auth_name, ellipsoid_code) REFERENCES proj.ellipsoid (auth_name, code),
    FOREIGN KEY (prime_meridian_auth_name, prime_meridian_code)
    REFERENCES proj.prime_meridian (auth_name, code)
);
CREATE INDEX ON proj.geodetic_datum (ellipsoid_auth_name, ellipsoid_code);

CREATE TABLE proj.geodetic_datum_ensemble_member (
    ensemble_auth_name text,
    ensemble_code proj.code,
    member_auth_name text NOT NULL,
    member_code proj.code NOT NULL,
    sequence integer,
    PRIMARY KEY (ensemble_auth_name, ensemble_code, sequence),
    FOREIGN KEY (ensemble_auth_name, ensemble_code)
    REFERENCES proj.geodetic_datum (auth_name, code),
    FOREIGN KEY (member_auth_name, member_code) REFERENCES proj.geodetic_datum (auth_name, code)
);

CREATE TABLE proj.vertical_datum (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    description text,
    publication_date date,
    frame_reference_epoch double precision,
    ensemble_accuracy double precision,
    anchor text,
    anchor_epoch double precision,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code)
);

CREATE TABLE proj.vertical_datum_ensemble_member (
    ensemble_auth_name text,
    ensemble_code proj.code,
    member_auth_name text NOT NULL,
    member_code proj.code NOT NULL,
    sequence integer,
    PRIMARY KEY (ensemble_auth_name, ensemble_code, sequence),
    FOREIGN KEY (ensemble_auth_name, ensemble_code)
    REFERENCES proj.vertical_datum (auth_name, code),
    FOREIGN KEY (member_auth_name, member_code) REFERENCES proj.vertical_datum (auth_name, code)
);

CREATE TABLE proj.coordinate_system (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    type text NOT NULL,
    dimension smallint NOT NULL,
    PRIMARY KEY (auth_name, code),
    CHECK (type IN ('Cartesian', 'vertical', 'ellipsoidal', 'spherical', 'ordinal')),
    CHECK (dimension BETWEEN 1 AND 3)
);

CREATE TABLE proj.axis (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    abbrev text NOT NULL,
    orientation text NOT NULL,
    coordinate_system_auth_name text NOT NULL,
    coordinate_system_code proj.code NOT NULL,
    coordinate_system_order smallint NOT NULL,
    uom_auth_name text,
    uom_code proj.code,
    PRIMARY KEY (auth_name, code),
    FOREIGN KEY (coordinate_system_auth_name, coordinate_system_code)
    REFERENCES proj.coordinate_system (auth_name, code),
    FOREIGN KEY (uom_auth_name, uom_code) REFERENCES proj.unit_of_measure (auth_name, code),
    CHECK (coordinate_system_order BETWEEN 1 AND 3)
);

CREATE TABLE proj.geodetic_crs (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    description text,
    type text NOT NULL,
    coordinate_system_auth_name text,
    coordinate_system_code proj.code,
    datum_auth_name text,
    datum_code proj.code,
    text_definition text,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    FOREIGN KEY (coordinate_system_auth_name, coordinate_system_code)
    REFERENCES proj.coordinate_system (auth_name, code),
    FOREIGN KEY (datum_auth_name, datum_code) REFERENCES proj.geodetic_datum (auth_name, code),
    CHECK (type IN ('geographic 2D', 'geographic 3D', 'geocentric', 'other')),
    CHECK ((coordinate_system_code IS NULL) <> (text_definition IS NULL))
);
CREATE INDEX ON proj.geodetic_crs (datum_auth_name, datum_code);

CREATE TABLE proj.vertical_crs (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    description text,
    coordinate_system_auth_name text NOT NULL,
    coordinate_system_code proj.code NOT NULL,
    datum_auth_name text NOT NULL,
    datum_code proj.code NOT NULL,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    FOREIGN KEY (coordinate_system_auth_name, coordinate_system_code)
    REFERENCES proj.coordinate_system (auth_name, code),
    FOREIGN KEY (datum_auth_name, datum_code) REFERENCES proj.vertical_datum (auth_name, code)
);

CREATE TABLE proj.compound_crs (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    description text,
    horiz_crs_auth_name text NOT NULL,
    horiz_crs_code proj.code NOT NULL,
    vertical_crs_auth_name text NOT NULL,
    vertical_crs_code proj.code NOT NULL,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    FOREIGN KEY (vertical_crs_auth_name, vertical_crs_code)
    REFERENCES proj.vertical_crs (auth_name, code)
);

CREATE TABLE proj.conversion_method (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    PRIMARY KEY (auth_name, code)
);

CREATE TABLE proj.conversion_param (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    PRIMARY KEY (auth_name, code)
);

CREATE TABLE proj.conversion (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    description text,
    method_auth_name text,
    method_code proj.code,
    param1_auth_name text,
    param1_code proj.code,
    param1_value double precision,
    param1_uom_auth_name text,
    param1_uom_code proj.code,
    param2_auth_name text,
    param2_code proj.code,
    param2_value double precision,
    param2_uom_auth_name text,
    param2_uom_code proj.code,
    param3_auth_name text,
    param3_code proj.code,
    param3_value double precision,
    param3_uom_auth_name text,
    param3_uom_code proj.code,
    param4_auth_name text,
    param4_code proj.code,
    param4_value double precision,
    param4_uom_auth_name text,
    param4_uom_code proj.code,
    param5_auth_name text,
    param5_code proj.code,
    param5_value double precision,
    param5_uom_auth_name text,
    param5_uom_code proj.code,
    param6_auth_name text,
    param6_code proj.code,
    param6_value double precision,
    param6_uom_auth_name text,
    param6_uom_code proj.code,
    param7_auth_name text,
    param7_code proj.code,
    param7_value double precision,
    param7_uom_auth_name text,
    param7_uom_code proj.code,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    FOREIGN KEY (method_auth_name, method_code) REFERENCES proj.conversion_method (auth_name, code),
    FOREIGN KEY (param1_uom_auth_name, param1_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (param2_uom_auth_name, param2_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (param3_uom_auth_name, param3_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (param4_uom_auth_name, param4_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (param5_uom_auth_name, param5_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (param6_uom_auth_name, param6_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (param7_uom_auth_name, param7_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code)
);

CREATE TABLE proj.projected_crs (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    description text,
    coordinate_system_auth_name text,
    coordinate_system_code proj.code,
    geodetic_crs_auth_name text,
    geodetic_crs_code proj.code,
    conversion_auth_name text,
    conversion_code proj.code,
    text_definition text,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    FOREIGN KEY (coordinate_system_auth_name, coordinate_system_code)
    REFERENCES proj.coordinate_system (auth_name, code),
    FOREIGN KEY (geodetic_crs_auth_name, geodetic_crs_code)
    REFERENCES proj.geodetic_crs (auth_name, code),
    FOREIGN KEY (conversion_auth_name, conversion_code) REFERENCES proj.conversion (auth_name, code)
);

CREATE TABLE proj.coordinate_metadata (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    description text,
    crs_auth_name text,
    crs_code proj.code,
    crs_text_definition text,
    coordinate_epoch double precision,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    FOREIGN KEY (crs_auth_name, crs_code) REFERENCES proj.geodetic_crs (auth_name, code)
);

CREATE TABLE proj.coordinate_operation_method (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    PRIMARY KEY (auth_name, code)
);

CREATE TABLE proj.grid_alternatives (
    original_grid_name text PRIMARY KEY,
    proj_grid_name text NOT NULL,
    old_proj_grid_name text,
    proj_grid_format text NOT NULL,
    proj_method text NOT NULL,
    inverse_direction boolean NOT NULL,
    url text,
    direct_download boolean,
    open_license boolean,
    directory text,
    CHECK (proj_grid_format IN ('GTiff', 'GTX', 'NTv2', 'JSON'))
);
CREATE INDEX ON proj.grid_alternatives (old_proj_grid_name);
CREATE INDEX ON proj.grid_alternatives (proj_grid_name);

CREATE TABLE proj.helmert_transformation (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    description text,
    method_auth_name text NOT NULL,
    method_code proj.code NOT NULL,
    source_crs_auth_name text NOT NULL,
    source_crs_code proj.code NOT NULL,
    target_crs_auth_name text NOT NULL,
    target_crs_code proj.code NOT NULL,
    accuracy double precision,
    tx double precision NOT NULL,
    ty double precision NOT NULL,
    tz double precision NOT NULL,
    translation_uom_auth_name text NOT NULL,
    translation_uom_code proj.code NOT NULL,
    rx double precision,
    ry double precision,
    rz double precision,
    rotation_uom_auth_name text,
    rotation_uom_code proj.code,
    scale_difference double precision,
    scale_difference_uom_auth_name text,
    scale_difference_uom_code proj.code,
    rate_tx double precision,
    rate_ty double precision,
    rate_tz double precision,
    rate_translation_uom_auth_name text,
    rate_translation_uom_code proj.code,
    rate_rx double precision,
    rate_ry double precision,
    rate_rz double precision,
    rate_rotation_uom_auth_name text,
    rate_rotation_uom_code proj.code,
    rate_scale_difference double precision,
    rate_scale_difference_uom_auth_name text,
    rate_scale_difference_uom_code proj.code,
    epoch double precision,
    epoch_uom_auth_name text,
    epoch_uom_code proj.code,
    px double precision,
    py double precision,
    pz double precision,
    pivot_uom_auth_name text,
    pivot_uom_code proj.code,
    operation_version text,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    FOREIGN KEY (source_crs_auth_name, source_crs_code)
    REFERENCES proj.geodetic_crs (auth_name, code),
    FOREIGN KEY (target_crs_auth_name, target_crs_code)
    REFERENCES proj.geodetic_crs (auth_name, code),
    FOREIGN KEY (method_auth_name, method_code)
    REFERENCES proj.coordinate_operation_method (auth_name, code),
    FOREIGN KEY (translation_uom_auth_name, translation_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (rotation_uom_auth_name, rotation_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (scale_difference_uom_auth_name, scale_difference_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (rate_translation_uom_auth_name, rate_translation_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (rate_rotation_uom_auth_name, rate_rotation_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (rate_scale_difference_uom_auth_name, rate_scale_difference_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (epoch_uom_auth_name, epoch_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (pivot_uom_auth_name, pivot_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    CHECK (accuracy >= 0)
);
CREATE INDEX ON proj.helmert_transformation (
    source_crs_auth_name,
    source_crs_code,
    target_crs_auth_name,
    target_crs_code
);

CREATE TABLE proj.grid_transformation (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    description text,
    method_auth_name text NOT NULL,
    method_code proj.code NOT NULL,
    method_name text NOT NULL,
    source_crs_auth_name text NOT NULL,
    source_crs_code proj.code NOT NULL,
    target_crs_auth_name text NOT NULL,
    target_crs_code proj.code NOT NULL,
    accuracy double precision,
    grid_param_auth_name text NOT NULL,
    grid_param_code proj.code NOT NULL,
    grid_param_name text NOT NULL,
    grid_name text NOT NULL,
    grid2_param_auth_name text,
    grid2_param_code proj.code,
    grid2_param_name text,
    grid2_name text,
    interpolation_crs_auth_name text,
    interpolation_crs_code proj.code,
    operation_version text,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    FOREIGN KEY (interpolation_crs_auth_name, interpolation_crs_code)
    REFERENCES proj.geodetic_crs (auth_name, code),
    CHECK (accuracy >= 0)
);
CREATE INDEX ON proj.grid_transformation (
    source_crs_auth_name,
    source_crs_code,
    target_crs_auth_name,
    target_crs_code
);

CREATE TABLE proj.other_transformation (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    description text,
    method_auth_name text NOT NULL,
    method_code proj.code NOT NULL,
    method_name text NOT NULL,
    source_crs_auth_name text NOT NULL,
    source_crs_code proj.code NOT NULL,
    target_crs_auth_name text NOT NULL,
    target_crs_code proj.code NOT NULL,
    accuracy double precision,
    param1_auth_name text,
    param1_code proj.code,
    param1_name text,
    param1_value double precision,
    param1_uom_auth_name text,
    param1_uom_code proj.code,
    param2_auth_name text,
    param2_code proj.code,
    param2_name text,
    param2_value double precision,
    param2_uom_auth_name text,
    param2_uom_code proj.code,
    param3_auth_name text,
    param3_code proj.code,
    param3_name text,
    param3_value double precision,
    param3_uom_auth_name text,
    param3_uom_code proj.code,
    param4_auth_name text,
    param4_code proj.code,
    param4_name text,
    param4_value double precision,
    param4_uom_auth_name text,
    param4_uom_code proj.code,
    param5_auth_name text,
    param5_code proj.code,
    param5_name text,
    param5_value double precision,
    param5_uom_auth_name text,
    param5_uom_code proj.code,
    param6_auth_name text,
    param6_code proj.code,
    param6_name text,
    param6_value double precision,
    param6_uom_auth_name text,
    param6_uom_code proj.code,
    param7_auth_name text,
    param7_code proj.code,
    param7_name text,
    param7_value double precision,
    param7_uom_auth_name text,
    param7_uom_code proj.code,
    interpolation_crs_auth_name text,
    interpolation_crs_code proj.code,
    operation_version text,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    FOREIGN KEY (param1_uom_auth_name, param1_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (param2_uom_auth_name, param2_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (param3_uom_auth_name, param3_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (param4_uom_auth_name, param4_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (param5_uom_auth_name, param5_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (param6_uom_auth_name, param6_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (param7_uom_auth_name, param7_uom_code)
    REFERENCES proj.unit_of_measure (auth_name, code),
    FOREIGN KEY (interpolation_crs_auth_name, interpolation_crs_code)
    REFERENCES proj.geodetic_crs (auth_name, code),
    CHECK (accuracy >= 0)
);
CREATE INDEX ON proj.other_transformation (
    source_crs_auth_name,
    source_crs_code,
    target_crs_auth_name,
    target_crs_code
);

CREATE TABLE proj.concatenated_operation (
    auth_name text REFERENCES proj.authority (auth_name),
    code proj.code,
    name text NOT NULL,
    description text,
    source_crs_auth_name text NOT NULL,
    source_crs_code proj.code NOT NULL,
    target_crs_auth_name text NOT NULL,
    target_crs_code proj.code NOT NULL,
    accuracy double precision,
    operation_version text,
    deprecated boolean NOT NULL,
    PRIMARY KEY (auth_name, code),
    CHECK (accuracy >= 0)
);
CREATE INDEX ON proj.concatenated_operation (
    source_crs_auth_name,
    source_crs_code,
    target_crs_auth_name,
    target_crs_code
);

CREATE TABLE proj.concatenated_operation_step (
    operation_auth_name text,
    operation_code proj.code,
    step_number integer,
    step_auth_name text NOT NULL,
    step_code proj.code NOT NULL,
    PRIMARY KEY (operation_auth_name, operation_code, step_number),
    FOREIGN KEY (operation_auth_name, operation_code)
    REFERENCES proj.concatenated_operation (auth_name, code),
    CHECK (step_number >= 1)
);

CREATE TABLE proj.geoid_model (
    name text,
    operation_auth_name text,
    operation_code proj.code,
    PRIMARY KEY (name, operation_auth_name, operation_code),
    FOREIGN KEY (operation_auth_name, operation_code)
    REFERENCES proj.grid_transformation (auth_name, code)
);

-- The key of this table in SQLite, (auth_name, code), is NULL in every row, which SQLite allows.
-- What a usage says is its key.
CREATE TABLE proj.usage (
    object_table_name text,
    object_auth_name text,
    object_code proj.code,
    extent_auth_name text,
    extent_code proj.code,
    scope_auth_name text,
    scope_code proj.code,
    PRIMARY KEY (
        object_table_name,
        object_auth_name,
        object_code,
        extent_auth_name,
        extent_code,
        scope_auth_name,
        scope_code
    ),
    FOREIGN KEY (extent_auth_name, extent_code) REFERENCES proj.extent (auth_name, code),
    FOREIGN KEY (scope_auth_name, scope_code) REFERENCES proj.scope (auth_name, code)
);

-- No key in SQLite, and source may be NULL; NULLS NOT DISTINCT lets the rows be told apart all the same.
CREATE TABLE proj.alias_name (
    table_name text NOT NULL,
    auth_name text NOT NULL,
    code proj.code NOT NULL,
    alt_name text NOT NULL,
    source text,
    UNIQUE NULLS NOT DISTINCT (table_name, auth_name, code, alt_name, source)
);
CREATE INDEX ON proj.alias_name (code);

CREATE TABLE proj.deprecation (
    table_name text,
    deprecated_auth_name text,
    deprecated_code proj.code,
    replacement_auth_name text,
    replacement_code proj.code,
    source text,
    PRIMARY KEY (
        table_name,
        deprecated_auth_name,
        deprecated_code,
        replacement_auth_name,
        replacement_code
    )
);

-- No key: five pairs stand there twice, in SQLite too.
CREATE TABLE proj.supersession (
    superseded_table_name text NOT NULL,
    superseded_auth_name text NOT NULL,
    superseded_code proj.code NOT NULL,
    replacement_table_name text NOT NULL,
    replacement_auth_name text NOT NULL,
    replacement_code proj.code NOT NULL,
    source text,
    same_source_target_crs boolean NOT NULL
);
