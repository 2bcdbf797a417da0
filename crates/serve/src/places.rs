//! Places of requests: so many may be in flight, and so many may be prepared at once. Where several keys let in, none of
//! them has all of the places: who asks a little gets in beside who asks for as much as there is.

use crate::failure::Failure;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests that may be prepared at once: each may hold many pictures.
const PREPARING: usize = 2;
/// The share of the places that is left to others.
const OTHERS: usize = 8;

/// A place: free again when the last copy is dropped.
#[derive(Clone)]
pub(crate) struct Place {
    /// Of all places, and of its owner's.
    _permits: Arc<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)>,
}

/// All of them.
pub(crate) struct Places {
    in_flight: usize,
    most: usize,
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
    /// So many, for these owners.
    pub(crate) fn new(in_flight: usize, owners: impl Iterator<Item = u64>) -> Self {
        let mut own: HashMap<u64, Free> = owners.map(|owner| (owner, Free::new(0, 0))).collect();
        let (most, preparing) = match own.len() {
            0 | 1 => (in_flight, PREPARING),
            _ => (in_flight.saturating_sub((in_flight / OTHERS).max(1)).max(1), PREPARING - 1),
        };
        own.values_mut().for_each(|free| *free = Free::new(most, preparing));
        Self { in_flight, most, all: Free::new(in_flight, PREPARING), own }
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
        let own = self.own.get(&owner).map(take).transpose();
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

    #[test]
    fn one_of_several_owners_leaves_places_to_the_others() {
        let places = Places::new(16, [1, 2, 1].into_iter());
        assert_eq!(places.in_flight(1, 15).err().unwrap().status, 400);
        let one = places.in_flight(1, 14).unwrap();
        assert_eq!(places.in_flight(1, 1).err().unwrap().status, 429);
        let two = [places.in_flight(2, 1).unwrap(), places.in_flight(2, 1).unwrap()];
        assert_eq!(places.in_flight(2, 1).err().unwrap().status, 429);
        assert_eq!(places.taken(), 16);
        let again = two[0].clone();
        drop(two);
        assert_eq!(places.taken(), 15);
        drop((one, again));
        assert_eq!(places.taken(), 0);
        assert!(Places::new(16, std::iter::once(1)).in_flight(1, 16).is_ok());
        assert!(Places::new(16, std::iter::empty()).in_flight(0, 16).is_ok());
        assert!(Places::new(1, [1, 2].into_iter()).in_flight(1, 1).is_ok());
    }

    #[tokio::test]
    async fn what_one_prepares_is_not_in_the_way_of_others() {
        let places = Places::new(16, [1, 2].into_iter());
        let soon = Duration::from_millis(20);
        let one = places.preparing(1).await.unwrap();
        assert!(timeout(soon, places.preparing(1)).await.is_err());
        let other = timeout(soon, places.preparing(2)).await.unwrap().unwrap();
        drop((one, other));
        let alone = Places::new(16, std::iter::empty());
        let _both = [alone.preparing(0).await.unwrap(), alone.preparing(0).await.unwrap()];
        assert!(timeout(soon, alone.preparing(0)).await.is_err());
    }
}
