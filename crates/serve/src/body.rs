//! Reading requests' bodies: bounded in bytes, in time, in what all of them take together, and in how many values they
//! hold.

use crate::failure::Failure;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_core::Stream;
use std::collections::HashMap;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long a body may take to come.
const TIME: Duration = Duration::from_secs(120);
/// Bodies of the largest size that there is room for at once; half of it for one owner.
const ROOM: usize = 8;
/// The least room, in bytes.
const LEAST: usize = 512 << 20;
/// Most values in a body.
const VALUES: usize = 1 << 19;
/// What a value, and an object, takes in memory beside its text, in bytes: lists of small ones take many times their text.
const VALUE: usize = 80;
const OBJECT: usize = 400;
/// Bytes that are handed over at once.
const PIECE: usize = 1 << 16;

/// Room for what all requests hold of their bodies.
#[derive(Clone)]
pub(crate) struct Room(Arc<Inner>);

struct Inner {
    whole: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    /// By owner, those who hold any.
    of: HashMap<u64, usize>,
}

/// A share of the room, as long as it is kept.
pub(crate) struct Share {
    room: Room,
    owner: u64,
    bytes: usize,
}

impl Room {
    /// For bodies of `largest` bytes.
    pub(crate) fn new(largest: usize) -> Self {
        Self::of(largest.saturating_mul(ROOM).max(LEAST))
    }

    fn of(whole: usize) -> Self {
        Self(Arc::new(Inner { whole, taken: Mutex::default() }))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A share of nothing, for an owner.
    pub(crate) fn share(&self, owner: u64) -> Share {
        Share { room: self.clone(), owner, bytes: 0 }
    }

    /// A body of at most `largest` bytes. It takes room as it comes, so that one who sends slowly takes no more than
    /// what was sent.
    ///
    /// # Errors
    /// 413 when it is larger, 408 when it doesn't come in time, 429 when there is no room for it.
    pub(crate) async fn read(&self, body: Body, largest: usize, owner: u64) -> Result<(Vec<u8>, Share), Failure> {
        timeout(TIME, self.collect(body, largest, owner)).await.map_err(|_| Failure::too_slow())?
    }

    async fn collect(&self, body: Body, largest: usize, owner: u64) -> Result<(Vec<u8>, Share), Failure> {
        let mut pieces = pin!(body.into_data_stream());
        let (mut bytes, mut share): (Vec<u8>, Share) = (Vec::new(), self.share(owner));
        while let Some(piece) = next(pieces.as_mut()).await {
            let piece = piece.map_err(|_| Failure::bad("the body breaks off"))?;
            if piece.len() > largest - bytes.len() {
                return Err(Failure::too_large(largest));
            }
            share.take(piece.len())?;
            bytes.extend_from_slice(&piece);
        }
        Ok((bytes, share))
    }
}

impl Share {
    /// Takes more.
    ///
    /// # Errors
    /// 429 when there isn't so much, or its owner would have more than half of all.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Failure> {
        let whole = self.room.0.whole;
        let mut taken = self.room.taken();
        let own = taken.of.get(&self.owner).copied().unwrap_or(0);
        if bytes > whole - taken.all || bytes > (whole / 2).saturating_sub(own) {
            return Err(Failure::busy());
        }
        taken.all += bytes;
        taken.of.insert(self.owner, own + bytes);
        drop(taken);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.all -= self.bytes;
        if let Some(own) = taken.of.get_mut(&self.owner) {
            *own -= self.bytes;
            if *own == 0 {
                taken.of.remove(&self.owner);
            }
        }
    }
}

/// An answer that takes room for as long as it is sent, and breaks off where it isn't read in time. Small ones, and streams,
/// which watch over themselves, stay as they are.
///
/// # Errors
/// 429 when there is no room for it.
pub(crate) async fn in_time(response: Response, mut share: Share, time: Duration) -> Result<Response, Failure> {
    let length = response.body().size_hint().exact().filter(|length| *length > PIECE as u64);
    let Some(length) = length.and_then(|length| usize::try_from(length).ok()) else { return Ok(response) };
    share.take(length)?;
    let (mut head, body) = response.into_parts();
    let bytes = to_bytes(body, length).await.map_err(|_| Failure::engine("the answer is lost"))?;
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    let sending = Sending { bytes, until: Instant::now() + time, _share: share };
    Ok(Response::from_parts(head, Body::from_stream(sending)))
}

/// Bytes on their way to a client, which keep a share of the room until they are handed over, for so long at most.
struct Sending {
    bytes: Bytes,
    until: Instant,
    _share: Share,
}

impl Stream for Sending {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // In pieces: whoever sends takes one at a time, and asks for the next when the client has read.
        let piece = self.bytes.len().min(PIECE);
        Poll::Ready((piece > 0).then(|| match Instant::now() > self.until {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(self.bytes.split_to(piece)),
        }))
    }
}

async fn next(mut pieces: Pin<&mut axum::body::BodyDataStream>) -> Option<Result<Bytes, axum::Error>> {
    std::future::poll_fn(|context| pieces.as_mut().poll_next(context)).await
}

/// About what the values of JSON will take in memory beside their texts, counted before they take it.
///
/// # Errors
/// 400 when there are more than any request needs.
pub(crate) fn weigh(json: &[u8]) -> Result<usize, Failure> {
    let (mut values, mut objects, mut text, mut escaped) = (1, 0, false, false);
    for byte in json {
        match (text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => text = !text,
            // Each value but the first stands behind one of these.
            (false, b',' | b'[') => values += 1,
            (false, b'{') => (values, objects) = (values + 1, objects + 1),
            _ => {}
        }
    }
    match values > VALUES {
        true => Err(Failure::bad(format!("the body holds more than {VALUES} values"))),
        false => Ok(values * VALUE + objects * OBJECT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_where_they_are_values() {
        let many = |inner: &str| format!("{{\"a\": [{}0]}}", inner.repeat(VALUES));
        assert!(weigh(many("0,").as_bytes()).is_err());
        assert!(weigh(many("[],").as_bytes()).is_err());
        assert!(weigh(many("").as_bytes()).is_ok());
        let text = format!("{{\"a\": \"{}\", \"b\": \"\\\\\"}}", "[,{\\\",".repeat(VALUES));
        assert_eq!(weigh(text.as_bytes()).unwrap(), 3 * VALUE + OBJECT);
    }

    #[tokio::test]
    async fn bodies_take_room_as_long_as_they_are_kept() {
        let room = Room::of(800);
        let body = |bytes: usize| Body::from(vec![b'x'; bytes]);
        let (bytes, mut one) = room.read(body(300), 300, 1).await.unwrap();
        assert_eq!(bytes.len(), 300);
        assert_eq!(room.read(body(101), 300, 1).await.map(drop).unwrap_err().status, 429, "half is for others");
        one.take(100).unwrap();
        let other = room.read(body(300), 300, 2).await.unwrap();
        assert_eq!(room.read(body(101), 300, 3).await.map(drop).unwrap_err().status, 429, "it is full");
        drop(one);
        assert!(room.read(body(300), 300, 1).await.is_ok());
        assert_eq!(room.read(body(301), 300, 1).await.map(drop).unwrap_err().status, 413);
        drop(other);
        let taken = room.taken();
        assert_eq!((taken.all, taken.of.len()), (0, 0));
    }

    #[tokio::test]
    async fn answers_take_room_until_they_are_read_which_must_be_in_time() {
        let room = Room::of(4 * PIECE);
        let sent =
            async |bytes: usize, time| in_time(Response::new(Body::from(vec![7; bytes])), room.share(3), time).await;
        let (minute, large) = (Duration::from_secs(60), PIECE + 1);
        let response = sent(large, minute).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_LENGTH], HeaderValue::from(large));
        assert_eq!(sent(large, minute).await.err().unwrap().status, 429, "half is for others");
        assert_eq!(to_bytes(response.into_body(), large).await.unwrap().len(), large);
        let late = sent(large, Duration::ZERO).await.unwrap();
        assert!(to_bytes(late.into_body(), large).await.is_err());
        let small = sent(PIECE, Duration::ZERO).await.unwrap();
        assert_eq!(to_bytes(small.into_body(), PIECE).await.unwrap().len(), PIECE, "it is sent at once");
        assert_eq!(room.taken().all, 0);
    }
}
