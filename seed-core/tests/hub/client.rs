//! What the tests do with the library.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use seed_core::{
    Error, Result,
    checkpoint::hub::{Event, Fetched, Hub, MAIN, Repo, Selection, Settings, Token, Watch},
};

use crate::fake_hub::{FakeHub, REPO};

pub(crate) static NEVER: AtomicBool = AtomicBool::new(false);

/// The settings of a world, without the environment's.
pub(crate) fn settings(world: &FakeHub) -> Settings {
    let cache = world.cache();
    let mut settings =
        Settings::from_variables(&|name| (name == "HF_HUB_CACHE").then(|| cache.clone().into_os_string())).unwrap();
    settings.endpoint = world.hub.url();
    settings.first_wait = Duration::from_millis(1);
    // Generous: a busy machine may be silent for a while.
    settings.metadata_timeout = Duration::from_secs(60);
    settings.download_timeout = Duration::from_secs(60);
    settings
}

pub(crate) fn token(text: &str) -> Option<Token> {
    Token::new(text).unwrap()
}

pub(crate) fn repo() -> Repo {
    Repo::new(REPO, MAIN).unwrap()
}

/// Fetches a file and returns what was reported on the way.
pub(crate) fn fetch_with(settings: Settings, file: &str) -> (Result<Fetched>, Vec<String>) {
    let mut events = Vec::new();
    let mut report = |event: Event<'_>| {
        if !matches!(event, Event::Bytes { .. }) {
            events.push(format!("{event:?}"));
        }
    };
    let hub = Hub::new(settings).unwrap();
    let fetched = hub.file(&repo(), file, &mut Watch { stop: &NEVER, report: &mut report });
    (fetched, events)
}

pub(crate) fn fetch(world: &FakeHub, file: &str) -> Result<Fetched> {
    fetch_with(settings(world), file).0
}

pub(crate) fn fetch_folder(settings: Settings, selection: &Selection<'_>) -> Result<Vec<Fetched>> {
    let mut watch = Watch { stop: &NEVER, report: &mut |_| {} };
    Hub::new(settings).unwrap().folder(&repo(), selection, &mut watch)
}

/// The message of an error, which must hold all of `words`.
pub(crate) fn says(error: &Error, words: &[&str]) -> String {
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
    message
}

/// Counts how often it was asked.
#[derive(Default)]
pub(crate) struct Count(AtomicUsize);

impl Count {
    /// How often it was asked before.
    pub(crate) fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}
