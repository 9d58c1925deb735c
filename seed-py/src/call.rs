//! One long call: the work runs in a thread of its own without the interpreter, while the calling thread waits, tells of
//! progress and looks for Ctrl-C.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use pyo3::prelude::*;
use seed_core::{Error, Result};

use crate::errors::{Raised as _, raise};

/// How often signals are looked for.
const PATIENCE: Duration = Duration::from_millis(50);

/// As much as a main thread has.
const STACK: usize = 8 << 20;

/// The process that started threads first; 0 for none yet.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// What work that is interrupted has to lose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Nothing: the call ends at once, and the thread soon after.
    AtOnce,
    /// Something: the call ends with the work at hand; a second Ctrl-C ends it at once.
    AfterWorkAtHand,
}

/// What work knows of the call that it runs in.
pub(crate) struct Context<P> {
    stop: Arc<AtomicBool>,
    tell: Box<dyn Fn(P) + Send>,
}

impl<P> Context<P> {
    /// Set when the work shall end.
    pub(crate) fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// Holds unless the work shall end.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Tells the calling thread, if it still listens.
    pub(crate) fn tell(&self, progress: P) {
        (self.tell)(progress);
    }
}

/// What goes from the work to the calling thread.
enum Message<P, T> {
    Progress(P),
    Done(thread::Result<Result<T>>),
}

/// Does work that has nothing to lose and tells nothing.
pub(crate) fn compute<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&Context<()>) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    run(py, Ending::AtOnce, &mut |()| Ok(()), work)
}

/// Does work while the interpreter is free for other threads. `progress` is called in the calling thread; what it raises
/// ends the work, and is raised here when that has ended.
pub(crate) fn run<T: Send + 'static, P: Send + 'static>(
    py: Python<'_>,
    ending: Ending,
    progress: &mut dyn FnMut(P) -> PyResult<()>,
    work: impl FnOnce(&Context<P>) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    refuse_forks(py)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut receiver = start(py, Arc::clone(&stop), work)?;
    let mut failure: Option<PyErr> = None;
    loop {
        let message;
        (receiver, message) = py.detach(move || {
            let message = receiver.recv_timeout(PATIENCE);
            (receiver, message)
        });
        match message {
            Ok(Message::Progress(told)) if failure.is_none() => failure = progress(told).err(),
            Ok(Message::Progress(_)) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Message::Done(done)) => {
                // What came in while the work ended counts too: Ctrl-C is never lost.
                return match failure.or(py.check_signals().err()) {
                    Some(failure) => Err(failure),
                    None => done.map_err(|panic| internal(py, panic.as_ref())).and_then(|result| result.raised(py)),
                };
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(raise(py, "InternalError", "the work ended without a word"));
            }
        }
        if let Err(interrupt) = py.check_signals() {
            stop.store(true, Ordering::Relaxed);
            if ending == Ending::AtOnce || failure.is_some() {
                return Err(interrupt);
            }
            failure = Some(interrupt);
        }
        if failure.is_some() {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Starts the work in a thread of its own. It may outlive the call, so it owns what it works on.
fn start<T: Send + 'static, P: Send + 'static>(
    py: Python<'_>,
    stop: Arc<AtomicBool>,
    work: impl FnOnce(&Context<P>) -> Result<T> + Send + 'static,
) -> PyResult<Receiver<Message<P, T>>> {
    let (sender, receiver) = mpsc::channel();
    let progress: Sender<Message<P, T>> = sender.clone();
    // A closed channel is a call that has ended: there is nobody to tell.
    let tell = move |told| drop(progress.send(Message::Progress(told)));
    let context = Context { stop, tell: Box::new(tell) };
    let body = move || {
        let done = catch_unwind(AssertUnwindSafe(|| work(&context)));
        let _ = sender.send(Message::Done(done));
    };
    match thread::Builder::new().name("seed_tokenizer".to_owned()).stack_size(STACK).spawn(body) {
        Ok(_) => Ok(receiver),
        Err(error) => Err(raise(py, "InternalError", &format!("cannot start a thread: {error}"))),
    }
}

/// Refuses to compute in a process that was forked from one that did: the threads that compute were not copied, and
/// waiting for them would never end.
pub(crate) fn refuse_forks(py: Python<'_>) -> PyResult<()> {
    let own = process::id();
    match OWNER.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => Ok(()),
        Err(owner) if owner == own => Ok(()),
        Err(owner) => {
            let message = format!(
                "process {own} was forked from process {owner}, whose threads compute and were not copied; start processes with \
                 multiprocessing.get_context(\"spawn\") or \"forkserver\" (a DataLoader takes multiprocessing_context=\"spawn\"), \
                 or fork before the first call of seed_tokenizer"
            );
            Err(raise(py, "ForkError", &message))
        }
    }
}

/// The exception for a panic.
fn internal(py: Python<'_>, panic: &(dyn Any + Send)) -> PyErr {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string).or(panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "a panic without a text".to_owned());
    raise(py, "InternalError", &format!("{text}; this is a bug of seed_tokenizer, please report it"))
}
