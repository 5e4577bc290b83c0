-- What a box with an owner, a member, an invitation and a token had under schema 2. The password of both is "right horse battery".
CREATE TABLE settings (
		key   TEXT PRIMARY KEY,
		value TEXT NOT NULL
	) STRICT, WITHOUT ROWID;
CREATE TABLE people (
		id       TEXT PRIMARY KEY,
		name     TEXT NOT NULL,        -- as it was typed
		key      TEXT NOT NULL UNIQUE, -- as it is compared
		role     TEXT NOT NULL CHECK (role IN ('owner', 'member')),
		password TEXT,                 -- PHC string; NULL until an invitation is taken
		created  INTEGER NOT NULL,
		seen     INTEGER NOT NULL DEFAULT 0
	) STRICT;
CREATE TABLE sessions (
		token   BLOB PRIMARY KEY,
		id      TEXT NOT NULL UNIQUE,
		kind    TEXT NOT NULL CHECK (kind IN ('person', 'setup', 'rescue')),
		person  TEXT REFERENCES people (id) ON DELETE CASCADE,
		device  TEXT NOT NULL,
		place   TEXT NOT NULL,
		created INTEGER NOT NULL,
		seen    INTEGER NOT NULL,
		expires INTEGER NOT NULL,
		CHECK ((kind = 'person') = (person IS NOT NULL))
	) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_person ON sessions (person);
CREATE UNIQUE INDEX sessions_setup ON sessions (kind) WHERE kind = 'setup';
CREATE TABLE second_factors (
		person  TEXT PRIMARY KEY REFERENCES people (id) ON DELETE CASCADE,
		secret  BLOB,                       -- as it is: it has to be; NULL until confirmed
		step    INTEGER NOT NULL DEFAULT 0, -- last 30 s step that was used
		pending BLOB                        -- a secret that waits to be confirmed
	) STRICT, WITHOUT ROWID;
CREATE TABLE recovery_codes (
		person TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
		code   BLOB NOT NULL,
		PRIMARY KEY (person, code)
	) STRICT, WITHOUT ROWID;
CREATE TABLE invites (
		id      TEXT PRIMARY KEY,
		code    BLOB NOT NULL UNIQUE,
		role    TEXT NOT NULL CHECK (role IN ('owner', 'member')),
		person  TEXT REFERENCES people (id) ON DELETE CASCADE, -- who gets a new password by it
		maker   TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
		created INTEGER NOT NULL,
		expires INTEGER NOT NULL
	) STRICT;
CREATE INDEX invites_person ON invites (person);
CREATE INDEX invites_maker ON invites (maker);
CREATE TABLE tokens (
		id      TEXT PRIMARY KEY,
		secret  BLOB NOT NULL UNIQUE,
		person  TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
		name    TEXT NOT NULL,
		scopes  TEXT NOT NULL, -- apart by blanks
		created INTEGER NOT NULL,
		used    INTEGER NOT NULL DEFAULT 0,
		expires INTEGER NOT NULL
	) STRICT;
CREATE INDEX tokens_person ON tokens (person);
CREATE TABLE audit (
		id     INTEGER PRIMARY KEY AUTOINCREMENT,
		at     INTEGER NOT NULL,
		action TEXT NOT NULL,
		who    TEXT NOT NULL,
		target TEXT NOT NULL,
		args   TEXT NOT NULL DEFAULT '', -- JSON object, or empty
		place  TEXT NOT NULL
	) STRICT;
CREATE TABLE config_changes (
		id          INTEGER PRIMARY KEY AUTOINCREMENT,
		at          INTEGER NOT NULL,
		by          TEXT NOT NULL,              -- name
		differences TEXT NOT NULL,              -- JSON
		undoes      INTEGER NOT NULL DEFAULT 0  -- id of the change that this one took back
	) STRICT;
CREATE TABLE alerts (
		id     INTEGER PRIMARY KEY AUTOINCREMENT,
		name   TEXT NOT NULL,
		target TEXT NOT NULL,
		weight TEXT NOT NULL,
		args   TEXT NOT NULL DEFAULT '', -- JSON object, or empty
		first  INTEGER NOT NULL,
		last   INTEGER NOT NULL,
		count  INTEGER NOT NULL,
		active INTEGER NOT NULL,
		seen   INTEGER NOT NULL
	) STRICT;
INSERT INTO settings VALUES ('copied', '1795271464');
INSERT INTO settings VALUES ('schema', '2');
INSERT INTO settings VALUES ('setup', 'done');
INSERT INTO people VALUES ('KUGFTGQXJTBKRZKK', 'Ada <b>Lovelace</b>', 'ada <b>lovelace</b>', 'owner', '$argon2id$v=19$m=19456,t=2,p=1$mm6s8hYFXwOrqRbeT5gERA$UBfNEErOXlCv9OUkD/HNoDx3Oo9kdJNDXh0EuTplYrs', 1795269600, 1795269600);
INSERT INTO people VALUES ('FY6NEXDMNA4KGVKH', 'Grace', 'grace', 'member', '$argon2id$v=19$m=19456,t=2,p=1$ofcPLKE1ncei1BjVWmOK8Q$v9e+fSsl1VltfbYRa6OGhpv8RYWuEqL1ysrcLSOTGQE', 1795269600, 1795269600);
INSERT INTO sessions VALUES (X'4ABF18B227DB5D3BCFA9637C8F2AFB36239F912C707437F2CE4FC2D48B99F701', 'CL33N2P6GZG5KN5E', 'person', 'FY6NEXDMNA4KGVKH', 'Safari, iPhone', '192.0.2.7', 1795269600, 1795269600, 1803045600);
INSERT INTO sessions VALUES (X'A8A3E24B60A343E8038D41FB93E2C36789A637651E9E51D06FB9E6F94A985CEA', 'WNXQHVERPI2ZPKD2', 'person', 'KUGFTGQXJTBKRZKK', 'Safari, iPhone', '192.0.2.7', 1795269600, 1795269600, 1803045600);
INSERT INTO second_factors VALUES ('KUGFTGQXJTBKRZKK', X'DC4EBD8EF6E5C5421F1FAFFDB82ABE46022E72A4', 59842320, NULL);
INSERT INTO recovery_codes VALUES ('KUGFTGQXJTBKRZKK', X'02425BB33F3870188C7092419A3D560E80D85610C6FEFDEFF023879878D788B9');
INSERT INTO recovery_codes VALUES ('KUGFTGQXJTBKRZKK', X'0CF0D6176A659757BBC037D1ABCC0841862C5C42364D5BACAC043ADAF6D44622');
INSERT INTO recovery_codes VALUES ('KUGFTGQXJTBKRZKK', X'16A19271AA505D5017157571F5DC20429EC57265869D999D522A21585AD1383B');
INSERT INTO recovery_codes VALUES ('KUGFTGQXJTBKRZKK', X'38ADEC35D86DD43B612520E02BB8F996EB8D8B8C498ABD29068522454A9E7482');
INSERT INTO recovery_codes VALUES ('KUGFTGQXJTBKRZKK', X'57392DB4BD1DE16B8A426F5BF5FE379245D65D47A6058E4E5224CBEFFDB3E207');
INSERT INTO recovery_codes VALUES ('KUGFTGQXJTBKRZKK', X'79B593CBB3B53A5E4D43F900217326E46D6BF5186F4092DED93F9B04CD976FF5');
INSERT INTO recovery_codes VALUES ('KUGFTGQXJTBKRZKK', X'7F08CC81ED1160C63C87364F7BF6842678C6288FEA7F2A2921FBDDA2C8C3C0C1');
INSERT INTO recovery_codes VALUES ('KUGFTGQXJTBKRZKK', X'B5F5E09F22CBA514D5F43C1AABE1EFE8A91FA5AF130E13D70A1E0561CEE85045');
INSERT INTO recovery_codes VALUES ('KUGFTGQXJTBKRZKK', X'CA5FF55A7B4CC1CACB1F7DC4D6C2DFB4640813D193398F46E9B8BFFDF2A71325');
INSERT INTO recovery_codes VALUES ('KUGFTGQXJTBKRZKK', X'F2B8F7A160080829CE33F8E3AF552DEAF499B4BF23D90C69BC687F0175ADF1F2');
INSERT INTO invites VALUES ('PS6KOKZIEO5VKGDT', X'D54ED716FBF9D7272544615C1125E2118C2CA15F1ADD103EC7EB37F650CFFC87', 'member', NULL, 'KUGFTGQXJTBKRZKK', 1795269600, 1795629600);
INSERT INTO tokens VALUES ('GXW4KAV3YXU6LWHE', X'C57D06BF78641121EAA76AED61766F72EC61384E1449AA981DADD004060F1C2F', 'KUGFTGQXJTBKRZKK', 'Backup', 'box logs', 1795269600, 0, 1821189600);
INSERT INTO audit VALUES (1, 1795269600, 'claimed', '', '', '{"device":"Safari, iPhone"}', '192.0.2.7');
INSERT INTO audit VALUES (2, 1795269600, 'account-made', 'Ada <b>Lovelace</b>', 'Ada <b>Lovelace</b>', '{"role":"owner"}', '192.0.2.7');
INSERT INTO audit VALUES (3, 1795269600, 'setup-done', 'Ada <b>Lovelace</b>', '', '', '192.0.2.7');
INSERT INTO audit VALUES (4, 1795269600, 'invited', 'Ada <b>Lovelace</b>', '', '{"role":"member"}', '192.0.2.7');
INSERT INTO audit VALUES (5, 1795269600, 'joined', 'Grace', 'Ada <b>Lovelace</b>', '{"role":"member"}', '192.0.2.7');
INSERT INTO audit VALUES (6, 1795269600, 'second-factor-on', 'Ada <b>Lovelace</b>', 'Ada <b>Lovelace</b>', '', '192.0.2.7');
INSERT INTO audit VALUES (7, 1795269600, 'invited', 'Ada <b>Lovelace</b>', '', '{"role":"member"}', '192.0.2.7');
INSERT INTO audit VALUES (8, 1795269600, 'token-made', 'Ada <b>Lovelace</b>', 'Backup', '{"scopes":"box logs"}', '192.0.2.7');
INSERT INTO config_changes VALUES (1, 1795269600, 'Ada', '[]', 0);
INSERT INTO alerts VALUES (1, 'hot', '', 'warn', '', 1795269600, 1795269600, 1, 0, 0);
PRAGMA user_version=2;
