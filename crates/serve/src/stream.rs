//! Replies on their way to a client, at once or as they come.

use crate::audit::Entry;
use crate::failure::Failure;
use crate::outcome::{Outcome, Piece};
use crate::places::Place;
use crate::worker::Reply;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_core::Stream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};

/// How often a stream that has nothing to say shows that it lives.
const ALIVE: Duration = Duration::from_secs(10);
/// Pieces that wait for a client which reads slowly.
const WAITING: usize = 32;

/// Replies to a request that was accepted.
pub(crate) struct Running {
    pub(crate) replies: UnboundedReceiver<(usize, Reply)>,
    /// What was received already.
    pub(crate) first: Vec<(usize, Reply)>,
    pub(crate) outcomes: Vec<Outcome>,
    /// Whether the engine failed.
    pub(crate) failed: bool,
    /// Its row in the audit log.
    pub(crate) entry: Option<Entry>,
    /// Its share of the requests that may be in flight, given back before the last of the answer is sent: who has all
    /// of it may ask again at once.
    pub(crate) place: Option<Place>,
    /// When it came, and when the last of it must have been read.
    pub(crate) time: (Instant, Instant),
    /// Turns true when the server ends, whatever runs.
    pub(crate) cut: watch::Receiver<bool>,
}

impl Running {
    /// When the request came.
    pub(crate) fn begun(&self) -> Instant {
        self.time.0
    }

    async fn next(&mut self) -> Result<(usize, Reply), Failure> {
        if !self.first.is_empty() {
            return Ok(self.first.remove(0));
        }
        let reply = tokio::select! {
            biased;
            reply = self.replies.recv() => reply,
            _ = self.cut.wait_for(|cut| *cut) => None,
        };
        self.failed |= reply.is_none();
        reply.ok_or_else(|| Failure::unavailable("the server is ending"))
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

/// Sends what comes as it comes. A client that leaves, or doesn't read in time, ends the request.
pub(crate) fn respond<W: Writer>(running: Running, writer: W) -> Response {
    let (sender, receiver) = mpsc::channel(WAITING);
    let until = running.time.1;
    tokio::spawn(async move {
        // Where this isn't sent, the stream breaks off.
        let told = timeout_at(until.into(), tell(running, writer, &sender));
        if told.await == Ok(Some(())) {
            let _ = sender.send(Sent::End).await;
        }
    });
    let mut response = Response::new(Body::from_stream(Pieces(receiver)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(W::KIND));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Writes what comes until all of it, or an error, is sent; none when the client has left before.
async fn tell<W: Writer>(mut running: Running, mut writer: W, sender: &mpsc::Sender<Sent>) -> Option<()> {
    let mut out = String::new();
    let send = async |out: &mut String| match out.is_empty() {
        true => Some(()),
        false => sender.send(Sent::Piece(Bytes::from(std::mem::take(out)))).await.ok(),
    };
    writer.begin(&mut out);
    loop {
        send(&mut out).await?;
        if running.is_done() {
            break;
        }
        let received = tokio::select! {
            received = timeout(ALIVE, running.next()) => received,
            () = sender.closed() => return None,
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
                running.place = None;
                return send(&mut out).await;
            }
        }
    }
    writer.end(&running.outcomes, &mut out);
    running.place = None;
    send(&mut out).await
}

/// What is on its way to a client.
enum Sent {
    Piece(Bytes),
    /// There is no more.
    End,
}

struct Pieces(mpsc::Receiver<Sent>);

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|sent| match sent {
            Some(Sent::Piece(bytes)) => Some(Ok(bytes)),
            Some(Sent::End) => None,
            // A stream that was cut must not look like a whole one.
            None => Some(Err(io::ErrorKind::BrokenPipe.into())),
        })
    }
}
