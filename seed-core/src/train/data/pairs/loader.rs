//! Samples of a [`Stream`], decoded and augmented ahead of whoever learns from them.
//!
//! One thread reads, some decode, and what they make is given out in the order of its positions, whatever their number.
//! Reading waits while as many images are on their way as the loader may be ahead, which bounds the memory.
//!
//! A batch from a position on holds the images of the positions from there; for each that cannot be decoded, one more
//! from behind its end, which the next batch holds too. So a batch does not depend on what came before it, and what is
//! broken need not be known to find a position again.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::ControlFlow,
    panic::resume_unwind,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rayon::ThreadPoolBuilder;

use crate::{
    dataset::{Skipped, prepare},
    error::{Error, Result},
    pixels::{Filter, Limits, RgbImage, resize},
};

use super::{
    augment::Augment,
    stream::{Drawn, Stream},
};

/// How often a wait looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// What a loader makes of the samples.
#[derive(Clone, Copy, Debug)]
pub(super) struct Making {
    /// Pixels of an image's side.
    pub(super) size: u32,
    /// How images are changed, if they are.
    pub(super) augment: Option<Augment>,
    /// Threads that decode.
    pub(super) workers: usize,
    /// Images that may be on their way.
    pub(super) ahead: usize,
}

/// An image with its caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Tells it from others of the data.
    pub key: String,
    /// What it shows, in words.
    pub caption: String,
    /// Its pixels, square.
    pub image: RgbImage,
}

/// What became of a position.
struct Made {
    position: u64,
    epoch: u64,
    /// Nothing where the image is broken.
    pair: Option<Pair>,
}

/// The threads of one sequence.
pub(super) struct Loader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Given out by the threads, and not passed by the batches yet.
    window: VecDeque<Made>,
    /// The position after the window.
    next: u64,
}

struct Shared {
    stream: Stream,
    making: Making,
    state: Mutex<State>,
    /// Something in the state is not as before.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Read, to be decoded: number on the way and sample.
    waiting: VecDeque<(u64, Drawn)>,
    /// Decoded, to be given out.
    made: BTreeMap<u64, Result<Made>>,
    /// How many were read and how many given out.
    read: u64,
    given: u64,
    /// Why there is no more to read.
    failed: Option<Error>,
    /// A thread broke off.
    broken: bool,
    stop: bool,
}

impl Loader {
    /// Starts the threads at the position `first`.
    pub(super) fn start(stream: Stream, making: Making, first: u64) -> Self {
        let shared = Arc::new(Shared { stream, making, state: Mutex::default(), changed: Condvar::new() });
        let start = |work: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = shared.clone();
            std::thread::spawn(move || {
                let _watch = Watch(&shared);
                work(&shared);
            })
        };
        let mut threads = vec![start(Box::new(move |shared| shared.read(first)))];
        threads.extend((0..making.workers).map(|_| start(Box::new(Shared::decode))));
        Self { shared, threads, window: VecDeque::new(), next: first }
    }

    /// Whether a batch may still begin at `first`, and need not wait for what lies before it.
    pub(super) fn reaches(&self, first: u64) -> bool {
        (self.window.front().map_or(self.next, |made| made.position)..=self.next).contains(&first)
    }

    /// `count` images from the position `first` on, which no batch has passed. `stop` ends the wait for the first of all, before
    /// anything has been learned that could be lost.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; [`Error::Input`] when a whole epoch holds no image that can be decoded; what reading says.
    pub(super) fn batch(&mut self, first: u64, count: usize, stop: &AtomicBool) -> Result<Vec<Pair>> {
        while self.window.front().is_some_and(|made| made.position < first) {
            self.window.pop_front();
        }
        let mut batch = Vec::with_capacity(count);
        let mut place = 0;
        while batch.len() < count {
            if place == self.window.len() {
                let made = self.shared.next(stop)?;
                self.next = made.position + 1;
                self.window.push_back(made);
            }
            let (begin, made) = (self.window[0].epoch, &self.window[place]);
            if batch.is_empty() && made.epoch > begin + 1 {
                return Err(self.shared.stream.record.unusable("a whole epoch holds no image that can be used"));
            }
            batch.extend(made.pair.clone());
            place += 1;
        }
        Ok(batch)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join()
                && !std::thread::panicking()
            {
                resume_unwind(panic);
            }
        }
    }
}

/// Says so when the thread that it stands in breaks off.
struct Watch<'a>(&'a Shared);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().broken = true;
            self.0.changed.notify_all();
        }
    }
}

impl Shared {
    /// The state changes in single steps: a thread that broke off has left it whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread that reads.
    fn read(&self, first: u64) {
        let outcome = self.stream.read(first, &mut |drawn| {
            let mut state = self.lock();
            while !state.stop && state.read - state.given >= self.making.ahead as u64 {
                state = self.wait(state);
            }
            if state.stop {
                return ControlFlow::Break(());
            }
            let number = state.read;
            state.waiting.push_back((number, drawn));
            state.read += 1;
            self.changed.notify_all();
            ControlFlow::Continue(())
        });
        if let Err(error) = outcome {
            self.lock().failed = Some(error);
            self.changed.notify_all();
        }
    }

    /// A thread that decodes. What it calls works in parallel where it can; here it has this thread alone, so that it neither
    /// waits for the network nor keeps it waiting.
    fn decode(&self) {
        let pool = ThreadPoolBuilder::new().num_threads(1).build().expect("a thread can be started");
        let mut state = self.lock();
        while !state.stop {
            let Some((number, drawn)) = state.waiting.pop_front() else {
                state = self.wait(state);
                continue;
            };
            drop(state);
            let made = pool.install(|| self.make(drawn));
            state = self.lock();
            state.made.insert(number, made);
            self.changed.notify_all();
        }
    }

    fn make(&self, drawn: Drawn) -> Result<Made> {
        let Drawn { position, epoch, key, caption, image } = drawn;
        let pair = match prepare::load(image, &key, &Limits::default()) {
            Ok(image) => {
                let size = self.making.size;
                let image = match &self.making.augment {
                    Some(augment) => augment.apply(&image, size, self.stream.seed, position),
                    None => resize(&image, size, size, Filter::Bicubic),
                };
                Some(Pair { key, caption, image })
            }
            Err(error) => {
                self.stream.record.skip(&Skipped::failed(key, error))?;
                None
            }
        };
        Ok(Made { position, epoch, pair })
    }

    /// What became of the next position.
    fn next(&self, stop: &AtomicBool) -> Result<Made> {
        let mut state = self.lock();
        loop {
            let number = state.given;
            if let Some(made) = state.made.remove(&number) {
                state.given += 1;
                self.changed.notify_all();
                return made;
            }
            let (complete, nothing_yet) = (number == state.read, number == 0);
            assert!(!state.broken, "a thread that loads images broke off");
            if complete && let Some(error) = state.failed.take() {
                return Err(error);
            }
            if nothing_yet && stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
