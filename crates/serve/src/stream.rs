//! Replies on their way to a client, at once or as they come.

use crate::audit::Entry;
use crate::failure::Failure;
use crate::outcome::{Outcome, Piece};
use crate::worker::Reply;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_core::Stream;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::timeout;

/// How often a stream that has nothing to say shows that it lives.
const ALIVE: Duration = Duration::from_secs(10);
/// Pieces that wait for a client which reads slowly.
const WAITING: usize = 32;

/// Replies to a request that was accepted.
pub(crate) struct Running {
    replies: UnboundedReceiver<(usize, Reply)>,
    /// What was received already.
    first: Vec<(usize, Reply)>,
    outcomes: Vec<Outcome>,
    /// Whether the engine failed.
    failed: bool,
    /// Its row in the audit log.
    entry: Option<Entry>,
    /// Its share of the requests that may be in flight.
    _permit: OwnedSemaphorePermit,
}

impl Running {
    pub(crate) fn new(
        replies: UnboundedReceiver<(usize, Reply)>,
        first: Vec<(usize, Reply)>,
        answers: usize,
        permit: OwnedSemaphorePermit,
        entry: Option<Entry>,
    ) -> Self {
        let outcomes = (0..answers).map(|_| Outcome::default()).collect();
        Self { replies, first, outcomes, failed: false, entry, _permit: permit }
    }

    async fn next(&mut self) -> Result<(usize, Reply), Failure> {
        match self.first.is_empty() {
            true => {
                let reply = self.replies.recv().await;
                self.failed |= reply.is_none();
                reply.ok_or_else(stopped)
            }
            false => Ok(self.first.remove(0)),
        }
    }

    fn take(&mut self, index: usize, reply: Reply) -> Result<Piece, Failure> {
        let taken = match self.outcomes.get_mut(index) {
            Some(outcome) => outcome.take(reply),
            None => Ok(Piece::default()),
        };
        self.failed |= taken.is_err();
        taken
    }

    fn is_done(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.end.is_some())
    }

    /// Waits until all answers have ended.
    pub(crate) async fn gather(mut self) -> Result<Vec<Outcome>, Failure> {
        while !self.is_done() {
            let (index, reply) = self.next().await?;
            self.take(index, reply)?;
        }
        self.record();
        Ok(std::mem::take(&mut self.outcomes))
    }

    /// Tells the audit log what was answered, once.
    fn record(&mut self) {
        if let Some(entry) = self.entry.take() {
            entry.answered(&self.outcomes, self.failed);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.record();
    }
}

fn stopped() -> Failure {
    Failure::unavailable("the server is ending")
}

/// How an API writes what comes, as it comes.
pub(crate) trait Writer: Send + 'static {
    /// The media type.
    const KIND: &'static str;
    /// What is sent while there is nothing to say.
    const ALIVE: &'static str;
    /// Before anything else.
    fn begin(&mut self, out: &mut String);
    /// More of an answer.
    fn piece(&mut self, index: usize, piece: &Piece, outcome: &Outcome, out: &mut String);
    /// After everything else.
    fn end(&mut self, outcomes: &[Outcome], out: &mut String);
    /// In place of the end.
    fn fail(&mut self, failure: &Failure, out: &mut String);
}

/// The server-sent events media type.
pub(crate) const EVENTS: &str = "text/event-stream; charset=utf-8";

/// Sends what comes as it comes. A client that leaves ends the request.
pub(crate) fn respond<W: Writer>(running: Running, mut writer: W) -> Response {
    let (sender, receiver) = mpsc::channel::<Bytes>(WAITING);
    tokio::spawn(async move {
        let mut running = running;
        let mut out = String::new();
        writer.begin(&mut out);
        loop {
            if !out.is_empty() && sender.send(Bytes::from(std::mem::take(&mut out))).await.is_err() {
                return;
            }
            if running.is_done() {
                break;
            }
            let received = tokio::select! {
                received = timeout(ALIVE, running.next()) => received,
                () = sender.closed() => return,
            };
            let taken = match received {
                Err(_) => {
                    out.push_str(W::ALIVE);
                    continue;
                }
                Ok(Err(failure)) => Err(failure),
                Ok(Ok((index, reply))) => running.take(index, reply).map(|piece| (index, piece)),
            };
            match taken {
                Ok((index, piece)) => writer.piece(index, &piece, &running.outcomes[index], &mut out),
                Err(failure) => {
                    writer.fail(&failure, &mut out);
                    let _ = sender.send(Bytes::from(out)).await;
                    return;
                }
            }
        }
        writer.end(&running.outcomes, &mut out);
        let _ = sender.send(Bytes::from(out)).await;
    });
    let mut response = Response::new(Body::from_stream(Pieces(receiver)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(W::KIND));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

struct Pieces(mpsc::Receiver<Bytes>);

impl Stream for Pieces {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|piece| piece.map(Ok))
    }
}
