//! Places of requests: so many may be in flight, and so many may be prepared at once. Where several keys let in, those who
//! have places already leave an eighth of them to others: who asks a little gets in beside who asks for as much as there
//! is.

use crate::failure::Failure;
use crate::keys::Keys;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests that may be prepared at once: each may hold many pictures.
const PREPARING: usize = 2;

/// A place: free again when the last copy is dropped.
#[derive(Clone)]
pub(crate) struct Place {
    /// Of all places, and of its owner's.
    _permits: Arc<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)>,
}

/// All of them.
pub(crate) struct Places {
    in_flight: usize,
    /// Most of one owner.
    most: usize,
    /// Held while places are counted and taken.
    taking: Mutex<()>,
    all: Free,
    /// What each owner may have of them.
    own: HashMap<u64, Free>,
}

struct Free {
    in_flight: Arc<Semaphore>,
    preparing: Arc<Semaphore>,
}

impl Free {
    fn new(in_flight: usize, preparing: usize) -> Self {
        Self { in_flight: Arc::new(Semaphore::new(in_flight)), preparing: Arc::new(Semaphore::new(preparing)) }
    }
}

impl Places {
    /// So many, for those who have `keys`, or anybody.
    pub(crate) fn new(in_flight: usize, keys: Option<&Keys>) -> Self {
        let owners = keys.map(Keys::ids).unwrap_or_default();
        let most = keys.map_or(in_flight, |keys| keys.share(in_flight));
        let preparing = if owners.len() > 1 { PREPARING - 1 } else { PREPARING };
        let own = owners.into_iter().map(|owner| (owner, Free::new(most, preparing))).collect();
        Self { in_flight, most, taking: Mutex::new(()), all: Free::new(in_flight, PREPARING), own }
    }

    /// The most that an owner, and so a request, can have in flight.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// How many are taken by requests in flight.
    pub(crate) fn taken(&self) -> usize {
        self.in_flight - self.all.in_flight.available_permits()
    }

    /// Those of a request that wants so many answers.
    ///
    /// # Errors
    /// 400 when there will never be so many, 429 when there aren't now.
    pub(crate) fn in_flight(&self, owner: u64, answers: usize) -> Result<Place, Failure> {
        if answers > self.most {
            return Err(Failure::bad(format!("a request can have {} answers at most", self.most)));
        }
        let take = |free: &Free| Arc::clone(&free.in_flight).try_acquire_many_owned(answers as u32);
        let own = self.own.get(&owner);
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.all.in_flight.available_permits();
        let has_some = own.is_some_and(|own| own.in_flight.available_permits() < self.most);
        if has_some && free < answers + (self.in_flight - self.most) {
            return Err(Failure::busy());
        }
        let own = own.map(take).transpose();
        let permits = own.and_then(|own| Ok((take(&self.all)?, own))).map_err(|_| Failure::busy())?;
        Ok(Place { _permits: Arc::new(permits) })
    }

    /// Waits until there is one to be prepared.
    ///
    /// # Errors
    /// None that is expected.
    pub(crate) async fn preparing(&self, owner: u64) -> Result<Place, Failure> {
        let take = async |free: &Free| Arc::clone(&free.preparing).acquire_owned().await.map_err(|_| Failure::busy());
        // What waits for its owner's turn isn't in the way of others.
        let own = match self.own.get(&owner) {
            Some(own) => Some(take(own).await?),
            None => None,
        };
        Ok(Place { _permits: Arc::new((take(&self.all).await?, own)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    /// So many keys, one of them twice, and their ids.
    fn keys(count: usize) -> (Keys, Vec<u64>) {
        let text: String = (0..count).chain([0]).map(|at| format!("the key of ward {at}\n")).collect();
        let keys = Keys::parse(&text).unwrap();
        let ids = (0..count).map(|at| keys.holder(&format!("the key of ward {at}")).unwrap().id);
        let ids = ids.collect();
        (keys, ids)
    }

    #[test]
    fn one_of_several_owners_leaves_places_to_the_others() {
        let (keys, ids) = keys(3);
        let places = Places::new(16, Some(&keys));
        assert_eq!(places.in_flight(ids[0], 15).err().unwrap().status, 400);
        let one = places.in_flight(ids[0], 14).unwrap();
        let two = places.in_flight(ids[1], 1).unwrap();
        for id in &ids[..2] {
            assert_eq!(places.in_flight(*id, 1).err().unwrap().status, 429, "it has some");
        }
        let three = places.in_flight(ids[2], 1).unwrap();
        assert_eq!(places.taken(), 16);
        let again = three.clone();
        drop((two, three));
        assert_eq!(places.taken(), 15);
        drop(one);
        let one = (0..13).map(|_| places.in_flight(ids[0], 1)).collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(places.in_flight(ids[0], 1).err().unwrap().status, 429, "two are left to others");
        drop((one, again));
        assert_eq!(places.taken(), 0);
        for keys in [Some(self::keys(1).0), None] {
            let places = Places::new(16, keys.as_ref());
            assert!(places.in_flight(0, 15).is_ok_and(|_place| places.in_flight(0, 1).is_ok()));
        }
        assert!(Places::new(1, Some(&keys)).in_flight(ids[0], 1).is_ok());
    }

    #[tokio::test]
    async fn what_one_prepares_is_not_in_the_way_of_others() {
        let (keys, ids) = keys(2);
        let places = Places::new(16, Some(&keys));
        let soon = Duration::from_millis(20);
        let one = places.preparing(ids[0]).await.unwrap();
        assert!(timeout(soon, places.preparing(ids[0])).await.is_err());
        let other = timeout(soon, places.preparing(ids[1])).await.unwrap().unwrap();
        drop((one, other));
        let alone = Places::new(16, None);
        let _both = [alone.preparing(0).await.unwrap(), alone.preparing(0).await.unwrap()];
        assert!(timeout(soon, alone.preparing(0)).await.is_err());
    }
}
