//! A pool of threads that run the iterations of one loop at a time.
//!
//! Decoding one token runs hundreds of short loops, so starting one must cost little: the threads live as long as the
//! pool, look out for work for some microseconds after the last loop, and only then sleep. A loop never waits for a
//! thread that is late: one that arrives after the last iteration was taken finds the loop closed. Nothing is
//! allocated.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// Looks before a thread sleeps: tens of microseconds.
const SPINS: u32 = 2000;

/// A loop's body: the number of the iteration and of the thread that runs it (below [`Pool::threads`]).
type Body = dyn Fn(usize, usize) + Sync;

/// Threads for parallel loops.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the loop that runs.
    turn: Mutex<()>,
}

struct Shared {
    /// The loop that is, or was last, open: its number from bit [`NUMBER`] up, [`OPEN`], and below that the workers in
    /// it. One word, so that a worker enters exactly the loop it saw.
    state: AtomicU64,
    job: UnsafeCell<Job>,
    /// The next iteration nobody has taken.
    next: AtomicUsize,
    /// Whether an iteration panicked.
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Whether each worker sleeps, or is about to.
    asleep: Vec<AtomicBool>,
}

const OPEN: u64 = 1 << 16;
const WORKERS: u64 = OPEN - 1;
const NUMBER: u32 = 17;

struct Job {
    body: *const Body,
    count: usize,
    caller: Option<Thread>,
}

// SAFETY: `job` is written only by the thread that holds `turn`, while the state is closed and has no worker in it; it
// is read only by workers in the loop. The body is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is followed only while the loop's caller waits.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, the caller of a loop being one of them. Where the system refuses to start that many,
    /// those it did start must do.
    pub(crate) fn new(threads: usize) -> Self {
        let wanted = threads.clamp(1, WORKERS as usize) - 1;
        let nothing: &'static Body = &|_, _| {};
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { body: nothing, count: 0, caller: None }),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep: (0..wanted).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut workers = Vec::with_capacity(wanted);
        for index in 0..wanted {
            let shared = Arc::clone(&shared);
            let worker = thread::Builder::new().name(format!("kernels-{}", index + 1));
            match worker.spawn(move || work(&shared, index)) {
                Ok(handle) => workers.push(handle),
                Err(_) => break,
            }
        }
        Self { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads that run a loop, its caller among them.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `body(i, thread)` for every i below `count`, in any order, and returns when all are done. A body must not
    /// start a loop itself.
    pub(crate) fn run(&self, count: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        if count == 0 {
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if count == 1 || self.workers.is_empty() {
            (0..count).for_each(|i| body(i, 0));
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime is changed. The pointer is followed only by workers in the loop, and the loop is
        // closed and left by all of them before this function returns.
        let endless: *const Body = unsafe { std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync), _>(body) };
        // SAFETY: `turn` is held, the last loop was closed and left, and no new one is open: nobody reads the cell.
        unsafe { *shared.job.get() = Job { body: endless, count, caller: Some(thread::current()) } };
        shared.next.store(0, Ordering::Relaxed);
        shared.panicked.store(false, Ordering::Relaxed);
        let number = (shared.state.load(Ordering::Relaxed) >> NUMBER).wrapping_add(1);
        // Sequentially consistent with `asleep`: either this loop sees that a worker is asleep, or the worker sees the
        // new loop before it sleeps.
        shared.state.store(number << NUMBER | OPEN, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep).take(count - 1) {
            if asleep.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let mine = catch_unwind(AssertUnwindSafe(|| take(shared, body, count, 0)));
        if mine.is_err() {
            // Nobody needs the rest.
            shared.next.store(count, Ordering::Relaxed);
        }
        let mut state = shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while state & WORKERS != 0 {
            if spins < SPINS {
                spins += 1;
                spin_loop();
            } else {
                thread::park();
            }
            state = shared.state.load(Ordering::Acquire);
        }
        match mine {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => assert!(!shared.panicked.load(Ordering::Relaxed), "a kernel panicked on another thread"),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches what its iterations throw, so that it ends normally; there is nothing to report.
            let _ = worker.join();
        }
    }
}

/// Runs iterations until none is left.
fn take(shared: &Shared, body: &(dyn Fn(usize, usize) + Sync), count: usize, thread: usize) {
    loop {
        let i = shared.next.fetch_add(1, Ordering::Relaxed);
        if i >= count {
            return;
        }
        body(i, thread);
    }
}

/// The life of worker `index`, which is thread `index + 1` of the pool.
fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    while let Some(number) = enter(shared, index, seen) {
        seen = number;
        // SAFETY: this worker is in the loop, so the job stays as it is until it leaves below.
        let (body, count, caller) = unsafe {
            let job = &*shared.job.get();
            (&*job.body, job.count, job.caller.clone())
        };
        if catch_unwind(AssertUnwindSafe(|| take(shared, body, count, index + 1))).is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
            shared.next.store(count, Ordering::Relaxed);
        }
        let left = shared.state.fetch_sub(1, Ordering::AcqRel) - 1;
        if left & (OPEN | WORKERS) == 0
            && let Some(caller) = caller
        {
            caller.unpark();
        }
    }
}

/// Waits for an open loop other than number `seen` and enters it; its number, or `None` when the pool is dropped.
fn enter(shared: &Shared, index: usize, seen: u64) -> Option<u64> {
    let mut spins = 0;
    loop {
        let state = shared.state.load(Ordering::SeqCst);
        if state & OPEN != 0 && state >> NUMBER != seen {
            let entered = shared.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
            if entered.is_ok() {
                return Some(state >> NUMBER);
            }
            continue;
        }
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        if spins < SPINS {
            spins += 1;
            spin_loop();
            continue;
        }
        shared.asleep[index].store(true, Ordering::SeqCst);
        if shared.state.load(Ordering::SeqCst) == state && !shared.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        shared.asleep[index].store(false, Ordering::SeqCst);
        spins = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_iteration_runs_once_on_a_known_thread() {
        for threads in 1..5 {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for count in [0, 1, 2, 7, 100] {
                let ran: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                pool.run(count, &|i, thread| {
                    assert!(thread < threads);
                    ran[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(ran.iter().all(|r| r.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(3);
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(20));
            let met = AtomicUsize::new(0);
            // Three iterations that wait for each other need three threads awake.
            pool.run(3, &|_, _| {
                met.fetch_add(1, Ordering::SeqCst);
                while met.load(Ordering::SeqCst) < 3 {
                    thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn loops_of_several_callers_take_turns() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(5, &|i, _| {
                            sum.fetch_add(i, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 200 * 10);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for bad in 0..8 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(8, &|i, _| assert_ne!(i, bad, "on purpose"));
            }));
            assert!(result.is_err());
        }
        let count = AtomicUsize::new(0);
        pool.run(8, &|_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 8);
    }
}
