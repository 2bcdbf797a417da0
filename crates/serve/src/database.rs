//! SQLite files that their owner alone may read.

use rusqlite::Connection;
use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

/// How long another program may hold a file.
const BUSY: Duration = Duration::from_secs(2);

/// What a file holds.
pub(crate) struct Kind {
    /// In words.
    pub(crate) name: &'static str,
    /// Says in the file's header that it is such a file.
    pub(crate) application: i32,
    /// Version of the tables.
    pub(crate) version: i32,
    /// SQL that makes them.
    pub(crate) tables: &'static str,
}

impl Kind {
    /// Opens such a file, or makes one. What is committed is on the disk, whatever happens to the power.
    ///
    /// # Errors
    /// What is wrong with the file, above all when it is one of another kind.
    pub(crate) fn open(&self, path: &Path) -> Result<Connection, String> {
        make(path).map_err(|error| error.to_string())?;
        let connection = Connection::open(path).map_err(plain)?;
        connection.busy_timeout(BUSY).map_err(plain)?;
        let is_new = self.check(&connection)?;
        make_private(path).map_err(|error| error.to_string())?;
        self.prepare(&connection, is_new)?;
        Ok(connection)
    }

    /// Whether the file is new, and not of this kind yet.
    fn check(&self, connection: &Connection) -> Result<bool, String> {
        let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(plain);
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(plain)?;
        match (tables, number("application_id")?, number("user_version")?) {
            (0, 0, 0) => Ok(true),
            (_, application, version) if application == self.application => match version == self.version {
                true => Ok(false),
                false => Err(format!("it is of version {version} of {}s, not {}", self.name, self.version)),
            },
            _ => Err("it is a database of something else: name a new file".into()),
        }
    }

    fn prepare(&self, connection: &Connection, is_new: bool) -> Result<(), String> {
        // Readers disturb nobody, and a crash leaves whole transactions.
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(plain)?;
        if mode != "wal" {
            return Err("it can't be written ahead (is it on a network drive?)".into());
        }
        connection.pragma_update(None, "synchronous", "full").map_err(plain)?;
        if is_new {
            let Self { tables, application, version, .. } = self;
            let made = format!(
                "BEGIN IMMEDIATE; {tables} PRAGMA application_id = {application}; PRAGMA user_version = {version}; COMMIT;"
            );
            connection.execute_batch(&made).map_err(plain)?;
        }
        Ok(())
    }
}

/// Makes the file if it isn't there.
fn make(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Lets nobody but its owner read the file. SQLite gives those that it makes beside it the same permissions.
fn make_private(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(())
}

fn plain(error: rusqlite::Error) -> String {
    error.to_string()
}
