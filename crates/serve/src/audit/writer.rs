//! The thread that writes the audit log.

use super::store::{Row, Store};
use crate::metrics::Metrics;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Messages that are written in one transaction, at most.
const TOGETHER: usize = 512;
/// How long after a failure it tries again.
const AGAIN: Duration = Duration::from_secs(1);

/// What it is told.
pub(super) enum Message {
    /// A request has begun, and waits for its row to be on the disk.
    Begun { row: Row, done: oneshot::Sender<bool> },
    /// A request has ended. Its place is free when the row is on the disk.
    Ended { row: Row, permit: OwnedSemaphorePermit },
    /// The server ends; there is nothing after this.
    Close,
}

/// Writes until it is told to close; gives how many rows couldn't be written. A row that completes a request is kept
/// until it can be written, one that begins a request is refused, and with it the request.
pub(super) fn run(mut store: Store, messages: &Receiver<Message>, failing: &AtomicBool, metrics: &Metrics) -> usize {
    let mut ended: Vec<(Row, OwnedSemaphorePermit)> = Vec::new();
    let mut begun: Vec<(Row, oneshot::Sender<bool>)> = Vec::new();
    let mut closing = false;
    while !closing {
        let mut next = match ended.is_empty() && !failing.load(Ordering::Relaxed) {
            true => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => messages.recv_timeout(AGAIN),
        };
        loop {
            match next {
                Ok(Message::Begun { row, done }) => begun.push((row, done)),
                Ok(Message::Ended { row, permit }) => ended.push((row, permit)),
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => closing = true,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if closing || begun.len() + ended.len() >= TOGETHER {
                break;
            }
            match messages.try_recv() {
                Ok(message) => next = Ok(message),
                Err(_) => break,
            }
        }
        // A request that ended at once comes after its beginning, and replaces it.
        let rows = begun.iter().map(|(row, _)| row).chain(ended.iter().map(|(row, _)| row));
        let written = match begun.is_empty() && ended.is_empty() {
            true => store.probe(),
            false => store.write(rows),
        };
        let written = written.is_ok();
        failing.store(!written, Ordering::Relaxed);
        // Counted before anybody is told.
        match written {
            true => ended.clear(),
            false => metrics.audit_failed(),
        }
        for (_, done) in begun.drain(..) {
            // Who left meanwhile is told nothing.
            let _ = done.send(written);
        }
    }
    let left = ended.len();
    // Without this the run looks as if it had been cut off, which is no harm.
    let _ = store.end();
    left
}

#[cfg(test)]
mod tests {
    use super::super::{Log, digest};
    use super::*;
    use rusqlite::Connection;
    use std::sync::Arc;

    #[test]
    fn while_nothing_can_be_written_nothing_begins_and_no_ending_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.db");
        let metrics = Arc::new(Metrics::default());
        let log = Log::open(&path, "demo", 4, &metrics).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let begin = |route: &str| {
            let entry = log.audit.admitted(route, Some("archive".into())).unwrap();
            let begun = runtime.block_on(entry.begin(digest(b"{}")));
            (entry, begun)
        };
        let (one, begun) = begin("/one");
        assert!(begun.is_ok() && !log.audit.is_failing());
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let (two, begun) = begin("/two");
        assert_eq!(begun.unwrap_err().status, 503);
        assert!(log.audit.is_failing());
        one.status(200);
        two.status(503);
        drop((one, two));
        other.execute_batch("COMMIT").unwrap();
        let (_, begun) = begin("/three");
        assert!(begun.is_ok() && !log.audit.is_failing());
        log.audit.stranger("other", 401);
        assert_eq!(log.close(), 0);
        let mut statement = other.prepare("SELECT route, status, finish, key FROM request ORDER BY number").unwrap();
        let rows: Vec<String> = statement
            .query_map([], |row| {
                let key: Option<String> = row.get(3)?;
                let status: Option<u16> = row.get(1)?;
                Ok(format!("{} {status:?} {} {key:?}", row.get::<_, String>(0)?, row.get::<_, String>(2)?))
            })
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let archive = "Some(\"archive\")";
        assert_eq!(
            rows,
            [
                format!("/one Some(200) done {archive}"),
                format!("/two Some(503) error {archive}"),
                format!("/three None cancelled {archive}"),
                "other Some(401) refused None".to_owned()
            ]
        );
    }

    #[test]
    fn strangers_cannot_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.db");
        let log = Log::open(&path, "demo", 4, &Arc::default()).unwrap();
        for _ in 0..10_000 {
            log.audit.stranger("other", 401);
        }
        log.close();
        let count: i64 =
            Connection::open(&path).unwrap().query_row("SELECT count(*) FROM request", [], |row| row.get(0)).unwrap();
        assert!((10..200).contains(&count), "{count}");
    }
}
