//! The thread that owns the model.

use crate::metrics::Metrics;
use crate::places::Place;
use medgemma_engine::pipeline::{Prepared, Said};
use medgemma_engine::scheduler::Ticket;
use medgemma_engine::{Error, Finish, Serving};
use medgemma_kernels::Backend;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;

/// What is asked of it.
pub(crate) struct Order {
    pub(crate) request: Prepared,
    /// Whose it is.
    pub(crate) owner: u64,
    /// When it came, and when it must have ended.
    pub(crate) time: (Instant, Instant),
    /// Its place among the requests in flight, and among those that hold pictures, which take memory until the engine
    /// has encoded them.
    pub(crate) place: Place,
    pub(crate) pictures: Option<Place>,
    /// Which of several answers to one request this is.
    pub(crate) index: usize,
    /// Where to say what comes. Who listens no more has left, and the request ends. There is no bound, as a request's
    /// tokens are bounded; a client that reads slowly must not hold up the others.
    pub(crate) replies: UnboundedSender<(usize, Reply)>,
}

/// What is said of a request.
#[derive(Debug)]
pub(crate) enum Reply {
    /// It stands in the queue, its images are encoded.
    Accepted,
    /// What the engine says.
    Said(Said),
    /// Its time was up.
    TimedOut,
}

/// A request that was accepted.
struct Talk {
    index: usize,
    replies: UnboundedSender<(usize, Reply)>,
    /// Given back before its end is told: who has the whole answer may ask again at once.
    place: Place,
    /// When it came, and when it must have ended.
    time: (Instant, Instant),
    /// When its last token came.
    last: Option<Instant>,
}

impl Talk {
    /// Says the last of it to who still listens.
    fn end(self, reply: Reply) {
        drop(self.place);
        let _ = self.replies.send((self.index, reply));
    }
}

/// Computes orders until nobody can send any more, or `abort` says so.
pub(crate) fn run<B: Backend>(
    mut serving: Serving<B>,
    orders: &mpsc::Receiver<Order>,
    metrics: &Arc<Metrics>,
    abort: &AtomicBool,
) {
    let mut talks: HashMap<Ticket, Talk> = HashMap::new();
    while !abort.load(Ordering::Relaxed) {
        if serving.is_idle() {
            metrics.occupancy(serving.occupancy());
            match orders.recv() {
                Ok(order) => accept(&mut serving, order, &mut talks, metrics),
                Err(_) => return,
            }
        }
        while let Ok(order) = orders.try_recv() {
            let pictures = order.pictures.is_some();
            accept(&mut serving, order, &mut talks, metrics);
            // They took long: those that are being answered come first now.
            if pictures {
                break;
            }
        }
        end_the_left_and_late(&mut serving, &mut talks, metrics);
        let begun = Instant::now();
        let told = serving.step();
        metrics.step(begun.elapsed());
        // Before anybody is told: who has all of an answer no longer runs.
        metrics.occupancy(serving.occupancy());
        for (ticket, said) in told {
            tell(ticket, said, &mut talks, metrics);
        }
    }
}

fn accept<B: Backend>(serving: &mut Serving<B>, order: Order, talks: &mut HashMap<Ticket, Talk>, metrics: &Metrics) {
    let Order { request, owner, time, place, pictures, index, replies } = order;
    metrics.taken();
    if replies.is_closed() {
        metrics.ended("cancelled");
        return;
    }
    let reply = match serving.submit(request, owner) {
        Ok(ticket) => {
            talks.insert(ticket, Talk { index, replies: replies.clone(), place, time, last: None });
            Reply::Accepted
        }
        Err(error) => {
            metrics.ended("error");
            drop(place);
            Reply::Said(Said::Failed(error))
        }
    };
    drop(pictures);
    // Who left meanwhile is found before the next step.
    let _ = replies.send((index, reply));
}

fn end_the_left_and_late<B: Backend>(serving: &mut Serving<B>, talks: &mut HashMap<Ticket, Talk>, metrics: &Metrics) {
    let now = Instant::now();
    for (ticket, talk) in talks.extract_if(|_, talk| talk.replies.is_closed() || talk.time.1 <= now) {
        serving.cancel(ticket);
        metrics.ended(if talk.replies.is_closed() { "cancelled" } else { "time" });
        talk.end(Reply::TimedOut);
    }
}

fn tell(ticket: Ticket, said: Said, talks: &mut HashMap<Ticket, Talk>, metrics: &Metrics) {
    let Some(talk) = talks.get_mut(&ticket) else { return };
    let mut ended = false;
    match &said {
        Said::Begun { prompt_tokens, cached_tokens } => metrics.prompt(*prompt_tokens, *cached_tokens),
        Said::Scores(_) => {}
        Said::Token { .. } => {
            let now = Instant::now();
            match talk.last.replace(now) {
                None => metrics.first_token(now - talk.time.0),
                Some(last) => metrics.next_token(now - last),
            }
        }
        Said::Ended(ending) => {
            ended = true;
            metrics.ended(match ending.finish {
                Finish::Stop => "stop",
                Finish::Length => "length",
                Finish::Loop => "loop",
                Finish::Cancelled => "cancelled",
            });
        }
        Said::Failed(error) => {
            ended = true;
            metrics.ended(if matches!(error, Error::CacheFull { .. }) { "cache_full" } else { "error" });
        }
    }
    if !ended {
        let _ = talk.replies.send((talk.index, Reply::Said(said)));
    } else if let Some(talk) = talks.remove(&ticket) {
        talk.end(Reply::Said(said));
    }
}
