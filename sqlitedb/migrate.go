package sqlitedb

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
)

//go:embed schema/*.sql
var schema embed.FS

// applicationID marks the file as ours: "HEIR".
const applicationID = 0x48454952

// migrate brings the schema up to date, one version after another, each in a
// transaction of its own, so that an interrupted migration goes on where it was.
func migrate(c *conn, path string, versions fs.FS) error {
	files, err := fs.Glob(versions, "schema/*.sql")
	if err != nil || len(files) == 0 {
		return fmt.Errorf("schema of this program: %d files, %v", len(files), err)
	}
	slices.Sort(files) // 0001_…, 0002_…
	version, err := c.number("PRAGMA user_version")
	if err != nil {
		return err
	}
	app, err := c.number("PRAGMA application_id")
	if err != nil {
		return err
	}
	if app != applicationID {
		tables, err := c.number("SELECT count(*) FROM sqlite_schema")
		if err != nil {
			return err
		}
		if app != 0 || version != 0 || tables != 0 {
			return fmt.Errorf("%s is another program's SQLite file: give the store a file of its own", path)
		}
	}
	if version > int64(len(files)) {
		return fmt.Errorf("%s has schema version %d, this program knows up to %d: start the newer program that wrote it, or restore the backup from before its upgrade",
			path, version, len(files))
	}
	// Outside of transactions; durable in the file, and kept when it is there already.
	if err := c.script("PRAGMA journal_mode = WAL"); err != nil {
		return err
	}
	for i := int(version); i < len(files); i++ {
		text, err := fs.ReadFile(versions, files[i])
		if err != nil {
			return err
		}
		// The version is part of the transaction, so a half-done migration is no version.
		err = c.script(fmt.Sprintf("BEGIN IMMEDIATE;\n%s\nPRAGMA application_id = %d;\nPRAGMA user_version = %d;\nCOMMIT;",
			text, applicationID, i+1))
		if err != nil {
			_ = c.script("ROLLBACK") // an error only if SQLite has done so itself
			return fmt.Errorf("migrate %s to version %d: %w", path, i+1, err)
		}
	}
	return nil
}
