//! The audit log: who asked, when, which model, digests of what came and went. Never content.
//!
//! A request's row is committed before its first token, and completed when it ends; so after a crash every request
//! that was answered is in the log. A thread of its own writes, many rows in a transaction, so that a slow disk holds
//! up beginnings and no tokens. When nothing can be written, nothing is answered.

mod store;
mod writer;

use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::outcome::{End, Outcome};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};
use store::{Row, Store};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use writer::Message;

/// Requests under way beyond those that may be computed or wait: their bodies are still coming.
const COMING: usize = 1024;
/// Rows a second for requests that weren't let in: strangers must not be able to fill the disk.
const STRANGERS: u32 = 10;

/// What is told when the log can't be written.
const UNWRITABLE: &str = "the audit log can't be written, and without it nothing is answered";

/// An open log, and the thread that writes it.
pub(crate) struct Log {
    pub(crate) audit: Audit,
    writer: JoinHandle<usize>,
}

impl Log {
    /// Opens or makes a log of requests to `model`, of which `in_flight` may be computed or wait.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn open(path: &Path, model: &str, in_flight: usize, metrics: &Arc<Metrics>) -> Result<Self, String> {
        let store = Store::open(path, model)?;
        let (messages, received) = mpsc::channel();
        let failing = Arc::new(AtomicBool::new(false));
        let (told, metrics) = (Arc::clone(&failing), Arc::clone(metrics));
        let writer = std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer::run(store, &received, &told, &metrics))
            .map_err(|error| error.to_string())?;
        let open = Arc::new(Semaphore::new(in_flight.saturating_add(COMING).min(Semaphore::MAX_PERMITS)));
        let audit =
            Audit { messages, open, failing, model: model.into(), next: Arc::default(), strangers: Arc::default() };
        Ok(Self { audit, writer })
    }

    /// Writes what is left and ends; gives how many rows couldn't be written.
    pub(crate) fn close(self) -> usize {
        let _ = self.audit.messages.send(Message::Close);
        self.writer.join().unwrap_or(0)
    }
}

/// Where rows are sent.
#[derive(Clone)]
pub(crate) struct Audit {
    /// At most two messages for each permit of `open` are in it.
    messages: mpsc::Sender<Message>,
    /// Requests whose rows may be incomplete at once.
    open: Arc<Semaphore>,
    failing: Arc<AtomicBool>,
    model: Arc<str>,
    next: Arc<AtomicU64>,
    /// The second, and rows in it of those who weren't let in.
    strangers: Arc<Mutex<(u64, u32)>>,
}

impl Audit {
    /// Whether the last attempt to write failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// A request that was let in, by whose key.
    pub(crate) fn admitted(&self, route: &str, key: Option<Arc<str>>) -> Result<Entry, Failure> {
        self.entry(route, key).ok_or_else(Failure::busy)
    }

    /// A request that wasn't let in, and the status it got.
    pub(crate) fn stranger(&self, route: &str, status: u16) {
        let second = seconds(SystemTime::now()) as u64;
        let allowed = {
            let mut count = lock(&self.strangers);
            if count.0 != second {
                *count = (second, 0);
            }
            count.1 += 1;
            count.1 <= STRANGERS
        };
        if allowed && let Some(entry) = self.entry(route, None) {
            entry.status(status);
        }
    }

    fn entry(&self, route: &str, key: Option<Arc<str>>) -> Option<Entry> {
        let permit = Arc::clone(&self.open).try_acquire_owned().ok()?;
        let row = Row {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            begun: seconds(SystemTime::now()),
            key,
            route: route.into(),
            model: Arc::clone(&self.model),
            ..Row::default()
        };
        let state = Mutex::new(State { row, permit: Some(permit) });
        Some(Entry(Arc::new(Open { messages: self.messages.clone(), state })))
    }
}

/// A request's row while it is under way. Once the last copy is dropped, the row is completed.
#[derive(Clone)]
pub(crate) struct Entry(Arc<Open>);

struct Open {
    messages: mpsc::Sender<Message>,
    state: Mutex<State>,
}

struct State {
    row: Row,
    permit: Option<OwnedSemaphorePermit>,
}

impl Entry {
    /// Waits until the row is on the disk, with the digest of the request's body.
    ///
    /// # Errors
    /// 503 when it can't be written.
    pub(crate) async fn begin(&self, input: [u8; 32]) -> Result<(), Failure> {
        let (done, written) = oneshot::channel();
        let row = {
            let mut state = lock(&self.0.state);
            state.row.input = Some(input);
            state.row.clone()
        };
        let sent = self.0.messages.send(Message::Begun { row, done });
        match sent.is_ok() && written.await.unwrap_or(false) {
            true => Ok(()),
            false => Err(Failure::unavailable(UNWRITABLE)),
        }
    }

    /// The status of the response.
    pub(crate) fn status(&self, status: u16) {
        lock(&self.0.state).row.status = Some(status);
    }

    /// What was answered, and how it ended.
    pub(crate) fn answered(&self, outcomes: &[Outcome], failed: bool) {
        let mut state = lock(&self.0.state);
        let row = &mut state.row;
        row.output = Some(digest_of(outcomes));
        row.prompt_tokens = Some(outcomes.iter().map(|outcome| outcome.prompt_tokens as u64).sum());
        row.new_tokens = Some(outcomes.iter().map(|outcome| outcome.new_tokens as u64).sum());
        row.finish = Some(match outcomes.iter().all(|outcome| outcome.end.is_some()) {
            _ if failed => "error".into(),
            false => "cancelled".into(),
            true => finishes(outcomes),
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut row = std::mem::take(&mut state.row);
        row.ended = Some(seconds(SystemTime::now()));
        row.finish.get_or_insert_with(|| {
            let word = match row.status {
                None => "cancelled",
                Some(..400) => "done",
                Some(..500) => "refused",
                Some(_) => "error",
            };
            word.into()
        });
        if let Some(permit) = state.permit.take() {
            // A writer that has ended was told to, after everything else.
            let _ = self.messages.send(Message::Ended { row, permit });
        }
    }
}

/// The digest of a request's body.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The digest of what the model wrote: of each answer the thought, if there is one, and the text, joined by NUL.
fn digest_of(outcomes: &[Outcome]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let texts = outcomes.iter().flat_map(|outcome| {
        let thought = Some(&outcome.thought).filter(|thought| !thought.is_empty());
        thought.into_iter().chain([&outcome.answer])
    });
    for (at, text) in texts.enumerate() {
        if at > 0 {
            hash.update([0]);
        }
        hash.update(text.as_bytes());
    }
    hash.finalize().into()
}

/// How answers ended: each way once.
fn finishes(outcomes: &[Outcome]) -> String {
    let mut words: Vec<&str> = Vec::new();
    for end in outcomes.iter().filter_map(|outcome| outcome.end) {
        let word = end.detail().unwrap_or(End::reason(end));
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(",")
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
