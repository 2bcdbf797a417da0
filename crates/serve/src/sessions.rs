//! Conversations of the workbench, where the operator has them kept: the only content that the server writes to a disk.
//! Each owner has their own.

use crate::database::Kind;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most bytes of an owner's conversations, which are listed at once, and of the pictures in them.
const MOST: [i64; 2] = [32 << 20, 1 << 30];
/// Seconds that a picture may be there before a conversation shows it.
const EARLY: i64 = 3600;

const FILE: Kind = Kind {
    name: "file of conversation",
    application: 0x6d67_7365,
    version: 1,
    tables: "
        CREATE TABLE session (
            owner TEXT NOT NULL, id TEXT NOT NULL, version TEXT NOT NULL, body TEXT NOT NULL, pictures TEXT NOT NULL,
            PRIMARY KEY (owner, id)
        ) STRICT;
        CREATE TABLE picture (
            owner TEXT NOT NULL, id TEXT NOT NULL, added INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (owner, id)
        ) STRICT;
    ",
};

/// Why something can't be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// Another version is there.
    #[error("it was changed elsewhere")]
    Changed,
    /// It was there, and is no more.
    #[error("it was deleted elsewhere")]
    Gone,
    #[error("there is no room: {} MB of text and {} MB of pictures are kept for each owner, delete some", MOST[0] >> 20, MOST[1] >> 20)]
    Full,
    #[error(transparent)]
    File(#[from] rusqlite::Error),
}

/// A conversation as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) id: String,
    pub(crate) version: String,
    /// JSON.
    pub(crate) body: String,
}

/// An open file.
pub(crate) struct Sessions {
    connection: Mutex<Connection>,
    /// Most bytes of an owner's conversations, and of their pictures.
    most: [i64; 2],
}

impl Sessions {
    /// Opens or makes a file that its owner alone may read.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let connection = FILE.open(path)?;
        // What is deleted is overwritten.
        connection.pragma_update(None, "secure_delete", "on").map_err(|error| error.to_string())?;
        Ok(Self { connection: Mutex::new(connection), most: MOST })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of an owner's.
    pub(crate) fn list(&self, owner: &str) -> rusqlite::Result<Vec<Kept>> {
        let connection = self.connection();
        let mut statement = connection.prepare("SELECT id, version, body FROM session WHERE owner = ?1")?;
        let rows = statement
            .query_map([owner], |row| Ok(Kept { id: row.get(0)?, version: row.get(1)?, body: row.get(2)? }))?;
        rows.collect()
    }

    /// Keeps a conversation in place of the version that its writer has `seen`; of none, when it is new. Gives those of its
    /// pictures that aren't there.
    ///
    /// # Errors
    /// When another version is there, it was deleted, or there is no room.
    pub(crate) fn put(
        &self,
        owner: &str,
        kept: &Kept,
        pictures: &[String],
        seen: Option<&str>,
    ) -> Result<Vec<String>, Problem> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let of = [owner, &kept.id];
        let there: Option<(String, String)> = transaction
            .query_row("SELECT version, pictures FROM session WHERE owner = ?1 AND id = ?2", of, |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        match (there.as_ref().map(|(version, _)| &version[..]), seen) {
            (None, Some(_)) => return Err(Problem::Gone),
            (there, seen) if there != seen => return Err(Problem::Changed),
            _ => {}
        }
        transaction.execute(
            "INSERT OR REPLACE INTO session VALUES (?1, ?2, ?3, ?4, ?5)",
            params![owner, kept.id, kept.version, kept.body, pictures.join(" ")],
        )?;
        let forgot = forget_pictures(&transaction, owner, &there.map(|(_, shown)| shown).unwrap_or_default())?;
        let mut missing = Vec::new();
        for picture in pictures {
            let there =
                transaction.prepare("SELECT 1 FROM picture WHERE owner = ?1 AND id = ?2")?.exists([owner, picture])?;
            missing.extend((!there).then(|| picture.clone()));
        }
        commit_within(self.most, transaction, owner)?;
        if forgot {
            empty_wal(&connection)?;
        }
        Ok(missing)
    }

    /// Deletes a conversation, or all of an owner's.
    pub(crate) fn remove(&self, owner: &str, id: Option<&str>) -> rusqlite::Result<()> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        match id {
            None => {
                transaction.execute("DELETE FROM session WHERE owner = ?1", [owner])?;
                transaction.execute("DELETE FROM picture WHERE owner = ?1", [owner])?;
            }
            Some(id) => {
                let delete = "DELETE FROM session WHERE owner = ?1 AND id = ?2 RETURNING pictures";
                let shown: Option<String> = transaction.query_row(delete, [owner, id], |row| row.get(0)).optional()?;
                forget_pictures(&transaction, owner, &shown.unwrap_or_default())?;
            }
        }
        transaction.commit()?;
        empty_wal(&connection)
    }

    /// Keeps a picture, which doesn't change.
    ///
    /// # Errors
    /// When there is no room.
    pub(crate) fn put_picture(&self, owner: &str, id: &str, bytes: &[u8]) -> Result<(), Problem> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute(
            "INSERT OR REPLACE INTO picture VALUES (?1, ?2, CAST(strftime('%s', 'now') AS INTEGER), ?3)",
            params![owner, id, bytes],
        )?;
        commit_within(self.most, transaction, owner)
    }

    /// A picture's bytes.
    pub(crate) fn picture(&self, owner: &str, id: &str) -> rusqlite::Result<Option<Vec<u8>>> {
        let connection = self.connection();
        let bytes =
            connection
                .query_row("SELECT bytes FROM picture WHERE owner = ?1 AND id = ?2", [owner, id], |row| row.get(0));
        bytes.optional()
    }
}

/// Leaves nothing that was deleted in the file of what is written ahead; where a reader holds that, it goes later.
fn empty_wal(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// Deletes an owner's pictures that no conversation shows any more: of those that one did `show`, and of those that came
/// long ago. Gives whether there were any.
fn forget_pictures(transaction: &Transaction<'_>, owner: &str, show: &str) -> rusqlite::Result<bool> {
    let texts = |sql: &str| -> rusqlite::Result<Vec<String>> {
        let mut statement = transaction.prepare(sql)?;
        statement.query_map([owner], |row| row.get(0))?.collect()
    };
    let shown = texts("SELECT pictures FROM session WHERE owner = ?1")?;
    let shown: HashSet<&str> = shown.iter().flat_map(|list| list.split(' ')).collect();
    let old =
        format!("SELECT id FROM picture WHERE owner = ?1 AND added < CAST(strftime('%s', 'now') AS INTEGER) - {EARLY}");
    let mut forgot = 0;
    for id in texts(&old)?.iter().map(String::as_str).chain(show.split(' ')).filter(|id| !shown.contains(id)) {
        forgot += transaction.execute("DELETE FROM picture WHERE owner = ?1 AND id = ?2", [owner, id])?;
    }
    Ok(forgot > 0)
}

fn commit_within(most: [i64; 2], transaction: Transaction<'_>, owner: &str) -> Result<(), Problem> {
    let bytes = |sql: &str| -> rusqlite::Result<i64> { transaction.query_row(sql, [owner], |row| row.get(0)) };
    let texts =
        "SELECT coalesce(sum(octet_length(body) + octet_length(pictures) + 256), 0) FROM session WHERE owner = ?1";
    let texts = bytes(texts)?;
    let pictures = bytes("SELECT coalesce(sum(length(bytes) + 256), 0) FROM picture WHERE owner = ?1")?;
    match texts > most[0] || pictures > most[1] {
        true => Err(Problem::Full),
        false => Ok(transaction.commit()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(id: &str, version: &str) -> Kept {
        Kept { id: id.into(), version: version.into(), body: format!("{{\"text\": \"of {id}\"}}") }
    }

    #[test]
    fn nobody_overwrites_what_they_have_not_seen() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = Sessions::open(&folder.path().join("sessions.db")).unwrap();
        sessions.put("ward 3", &kept("a", "1"), &[], None).unwrap();
        sessions.put("ward 3", &kept("a", "2"), &[], Some("1")).unwrap();
        for seen in [None, Some("1")] {
            assert!(matches!(sessions.put("ward 3", &kept("a", "3"), &[], seen), Err(Problem::Changed)));
        }
        assert!(matches!(sessions.put("ward 3", &kept("b", "1"), &[], Some("0")), Err(Problem::Gone)));
        assert_eq!(sessions.list("ward 3").unwrap(), [kept("a", "2")]);
        assert!(sessions.list("ward 4").unwrap().is_empty(), "another owner's");
        sessions.remove("ward 4", None).unwrap();
        assert_eq!(sessions.list("ward 3").unwrap().len(), 1);
        sessions.remove("ward 3", Some("a")).unwrap();
        assert!(sessions.list("ward 3").unwrap().is_empty());
    }

    #[test]
    fn pictures_go_with_their_conversations_and_leave_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions.db");
        let sessions = Sessions::open(&path).unwrap();
        let secret = b"the pixels of somebody's chest".repeat(100);
        sessions.put_picture("ward 3", "p", &secret).unwrap();
        sessions.put_picture("ward 3", "q", b"other").unwrap();
        sessions.put("ward 3", &kept("a", "1"), &["p".into()], None).unwrap();
        assert!(sessions.picture("ward 4", "p").unwrap().is_none());
        sessions.put("ward 3", &kept("b", "1"), &["p".into()], None).unwrap();
        assert!(sessions.picture("ward 3", "q").unwrap().is_some(), "a conversation may show it soon");
        sessions.connection().execute("UPDATE picture SET added = 0 WHERE id = 'q'", []).unwrap();
        sessions.put("ward 3", &kept("b", "2"), &[], Some("1")).unwrap();
        assert!(sessions.picture("ward 3", "q").unwrap().is_none(), "nobody shows it");
        assert_eq!(sessions.picture("ward 3", "p").unwrap().as_deref(), Some(&secret[..]), "the other one does");
        sessions.remove("ward 3", Some("a")).unwrap();
        assert!(sessions.picture("ward 3", "p").unwrap().is_none());
        let holds = |name: &str| {
            let bytes = std::fs::read(folder.path().join(name)).unwrap_or_default();
            bytes.windows(30).any(|window| window == &secret[..30])
        };
        assert!(!holds("sessions.db") && !holds("sessions.db-wal"));
    }

    #[test]
    fn an_owner_has_so_much_room_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut sessions = Sessions::open(&folder.path().join("sessions.db")).unwrap();
        sessions.most = [300, 400];
        sessions.put_picture("ward 3", "p", &[1; 90]).unwrap();
        sessions.put("ward 3", &kept("a", "1"), &[], None).unwrap();
        assert!(matches!(sessions.put("ward 3", &kept("b", "1"), &[], None), Err(Problem::Full)));
        assert_eq!(sessions.list("ward 3").unwrap().len(), 1);
        assert!(matches!(sessions.put_picture("ward 3", "q", &[1; 11]), Err(Problem::Full)), "rows take room, too");
        assert!(sessions.picture("ward 3", "q").unwrap().is_none());
        sessions.put_picture("ward 4", "q", b"x").unwrap();
    }
}
