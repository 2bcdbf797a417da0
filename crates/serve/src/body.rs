//! Reading requests' bodies: bounded in bytes, in time, in what all of them take together, and in how many values they
//! hold.

use crate::failure::Failure;
use axum::body::{Body, Bytes};
use futures_core::Stream;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a body may take to come.
const TIME: Duration = Duration::from_secs(120);
/// Bodies of the largest size that there is room for at once.
const ROOM: usize = 8;
/// What room is counted in, in bytes.
const UNIT: usize = 4096;
/// Most values in a body: lists and objects of small values take many times their text's bytes.
const VALUES: usize = 1 << 20;

/// Room for the bodies of all requests that are being read.
#[derive(Clone)]
pub(crate) struct Room(Arc<Semaphore>);

/// A body's share of the room, as long as it is kept.
pub(crate) type Share = Option<OwnedSemaphorePermit>;

impl Room {
    /// For bodies of `largest` bytes.
    pub(crate) fn new(largest: usize) -> Self {
        let units = largest.div_ceil(UNIT).saturating_mul(ROOM).min(u32::MAX as usize >> 1);
        Self(Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))))
    }

    /// A body of at most `largest` bytes. It takes room as it comes, so that one who sends slowly takes no more than
    /// what was sent.
    ///
    /// # Errors
    /// 413 when it is larger, 408 when it doesn't come in time, 429 when there is no room for it.
    pub(crate) async fn read(&self, body: Body, largest: usize) -> Result<(Vec<u8>, Share), Failure> {
        timeout(TIME, self.collect(body, largest)).await.map_err(|_| Failure::too_slow())?
    }

    async fn collect(&self, body: Body, largest: usize) -> Result<(Vec<u8>, Share), Failure> {
        let mut pieces = pin!(body.into_data_stream());
        let (mut bytes, mut share): (Vec<u8>, Share) = (Vec::new(), None);
        let mut units = 0;
        while let Some(piece) = next(pieces.as_mut()).await {
            let piece = piece.map_err(|_| Failure::bad("the body breaks off"))?;
            if piece.len() > largest - bytes.len() {
                return Err(Failure::too_large(largest));
            }
            bytes.extend_from_slice(&piece);
            let wanted = bytes.len().div_ceil(UNIT);
            if wanted > units {
                let more = (wanted - units) as u32;
                let more = Arc::clone(&self.0).try_acquire_many_owned(more).map_err(|_| Failure::busy())?;
                match &mut share {
                    Some(share) => share.merge(more),
                    None => share = Some(more),
                }
                units = wanted;
            }
        }
        Ok((bytes, share))
    }
}

async fn next(mut pieces: Pin<&mut axum::body::BodyDataStream>) -> Option<Result<Bytes, axum::Error>> {
    std::future::poll_fn(|context| pieces.as_mut().poll_next(context)).await
}

/// Refuses JSON of more values than any request needs, before memory is taken for them.
///
/// # Errors
/// 400.
pub(crate) fn check_values(json: &[u8]) -> Result<(), Failure> {
    let (mut values, mut text, mut escaped) = (1usize, false, false);
    for byte in json {
        match (text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => text = !text,
            // Each value but the first stands behind one of these.
            (false, b',' | b'[' | b'{') => values += 1,
            _ => {}
        }
    }
    match values > VALUES {
        true => Err(Failure::bad(format!("the body holds more than {VALUES} values"))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_where_they_are_values() {
        let many = |inner: &str| format!("{{\"a\": [{}0]}}", inner.repeat(VALUES));
        assert!(check_values(many("0,").as_bytes()).is_err());
        assert!(check_values(many("[],").as_bytes()).is_err());
        assert!(check_values(many("").as_bytes()).is_ok());
        let text = format!("{{\"a\": \"{}\", \"b\": \"\\\\\"}}", "[,{\\\",".repeat(VALUES));
        assert!(check_values(text.as_bytes()).is_ok());
    }

    #[tokio::test]
    async fn bodies_take_room_as_long_as_they_are_kept() {
        let room = Room::new(UNIT);
        let body = || Body::from(vec![b'x'; UNIT]);
        let mut kept = Vec::new();
        for _ in 0..ROOM {
            let (bytes, share) = room.read(body(), UNIT).await.unwrap();
            assert_eq!(bytes.len(), UNIT);
            kept.push(share);
        }
        assert_eq!(room.read(body(), UNIT).await.unwrap_err().status, 429);
        kept.pop();
        assert!(room.read(body(), UNIT).await.is_ok());
        assert_eq!(room.read(Body::from(vec![b'x'; UNIT + 1]), UNIT).await.unwrap_err().status, 413);
        assert!(room.read(Body::empty(), UNIT).await.unwrap().1.is_none());
    }
}
