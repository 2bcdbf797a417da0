//! The audit log's file: a SQLite database that anybody's tools can read.

use crate::database::Kind;
use rusqlite::{Connection, params};
use std::path::Path;
use std::sync::Arc;

const TABLES: &str = "
    CREATE TABLE run (
        run INTEGER PRIMARY KEY, begun TEXT NOT NULL, ended TEXT, version TEXT NOT NULL, model TEXT NOT NULL
    ) STRICT;
    CREATE TABLE request (
        run INTEGER NOT NULL REFERENCES run, number INTEGER NOT NULL, begun TEXT NOT NULL, ended TEXT, key TEXT,
        route TEXT NOT NULL, model TEXT NOT NULL, input_sha256 TEXT, output_sha256 TEXT, prompt_tokens INTEGER,
        new_tokens INTEGER, status INTEGER, finish TEXT, PRIMARY KEY (run, number)
    ) STRICT, WITHOUT ROWID;
";
/// The log's file.
const LOG: Kind = Kind { name: "audit log", application: 0x6d67_616c, version: 1, tables: TABLES };

const BEGIN_RUN: &str =
    "INSERT INTO run (begun, version, model) VALUES (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), ?1, ?2)";
const END_RUN: &str = "UPDATE run SET ended = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE run = ?1";
const PROBE: &str = "UPDATE run SET ended = NULL WHERE run = ?1";
const WRITE: &str = "INSERT OR REPLACE INTO request VALUES (?1, ?2, strftime('%Y-%m-%dT%H:%M:%fZ', ?3, 'unixepoch'), \
    strftime('%Y-%m-%dT%H:%M:%fZ', ?4, 'unixepoch'), ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

/// A request's row: what isn't known yet is `None`.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) number: u64,
    /// Seconds since 1970.
    pub(super) begun: f64,
    pub(super) ended: Option<f64>,
    /// The name of the key.
    pub(super) key: Option<Arc<str>>,
    pub(super) route: Arc<str>,
    pub(super) model: Arc<str>,
    pub(super) input: Option<[u8; 32]>,
    pub(super) output: Option<[u8; 32]>,
    pub(super) prompt_tokens: Option<u64>,
    pub(super) new_tokens: Option<u64>,
    pub(super) status: Option<u16>,
    pub(super) finish: Option<String>,
}

/// An open file, and the number of this run of the server in it.
pub(super) struct Store {
    connection: Connection,
    run: i64,
}

impl Store {
    /// Opens a log, or makes one that its owner alone may read, and writes that a run has begun.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(super) fn open(path: &Path, model: &str) -> Result<Self, String> {
        let connection = LOG.open(path)?;
        let begun = connection.execute(BEGIN_RUN, params![env!("CARGO_PKG_VERSION"), model]);
        begun.map_err(|error| error.to_string())?;
        let run = connection.last_insert_rowid();
        Ok(Self { connection, run })
    }

    /// Writes rows in one transaction: all of them are on the disk afterwards, or none. A row replaces what was written
    /// of its request before.
    pub(super) fn write<'a>(&mut self, rows: impl Iterator<Item = &'a Row>) -> rusqlite::Result<()> {
        let run = self.run;
        let transaction = self.connection.transaction()?;
        {
            let mut statement = transaction.prepare(WRITE)?;
            for row in rows {
                statement.execute(params![
                    run,
                    row.number as i64,
                    row.begun,
                    row.ended,
                    row.key,
                    row.route,
                    row.model,
                    row.input.map(hex),
                    row.output.map(hex),
                    row.prompt_tokens.map(|count| count as i64),
                    row.new_tokens.map(|count| count as i64),
                    row.status,
                    row.finish,
                ])?;
            }
        }
        transaction.commit()
    }

    /// Writes something that changes nothing, to see whether it can be written.
    pub(super) fn probe(&mut self) -> rusqlite::Result<()> {
        self.connection.execute(PROBE, [self.run]).map(|_| ())
    }

    /// Writes that the run has ended as it should.
    pub(super) fn end(self) -> rusqlite::Result<()> {
        self.connection.execute(END_RUN, [self.run]).map(|_| ())
    }
}

fn hex(digest: [u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u64) -> Row {
        Row { number, begun: 1.5, route: "/v1/messages".into(), model: "demo".into(), ..Row::default() }
    }

    #[test]
    fn rows_are_completed_in_place_and_runs_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.db");
        let mut store = Store::open(&path, "demo").unwrap();
        store.write([row(0), row(1)].iter()).unwrap();
        let whole = Row { ended: Some(2.25), status: Some(200), finish: Some("stop".into()), ..row(0) };
        store.write([whole].iter()).unwrap();
        store.end().unwrap();
        let mut store = Store::open(&path, "demo").unwrap();
        store.write([row(0)].iter()).unwrap();
        let rows: Vec<(i64, i64, String, Option<String>)> = store
            .connection
            .prepare("SELECT run, number, begun, ended FROM request ORDER BY run, number")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let begun = || "1970-01-01T00:00:01.500Z".to_owned();
        let ended = Some("1970-01-01T00:00:02.250Z".to_owned());
        assert_eq!(rows, [(1, 0, begun(), ended), (1, 1, begun(), None), (2, 0, begun(), None)]);
        #[cfg(unix)]
        for name in ["audit.db", "audit.db-wal", "audit.db-shm"] {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE patients (x)").unwrap();
        assert!(Store::open(&path, "demo").is_err_and(|error| error.contains("something else")));
        std::fs::write(&path, "a text that is no database, and long enough to be told from one").unwrap();
        assert!(Store::open(&path, "demo").is_err());
        assert!(Store::open(&folder.path().join("no/such/folder"), "demo").is_err());
        assert!(Store::open(folder.path(), "demo").is_err());
    }

    #[test]
    fn a_full_disk_writes_all_rows_of_a_transaction_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("audit.db"), "demo").unwrap();
        let pages: i64 = store.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        let most = |store: &Store, pages: i64| {
            store.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
        };
        let many: Vec<Row> = (0..2000).map(row).collect();
        most(&store, pages + 2);
        let error = store.write(many.iter()).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
        let count = |store: &Store| -> i64 {
            store.connection.query_row("SELECT count(*) FROM request", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(count(&store), 0);
        most(&store, pages + 1000);
        store.write(many.iter()).unwrap();
        assert_eq!(count(&store), 2000);
    }
}
