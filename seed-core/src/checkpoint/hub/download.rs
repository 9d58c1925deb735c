//! An address -> a blob: resumed where it broke off, hashed as it arrives, and under its name only when whole and right.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use super::{
    Event, Settings, Watch,
    cache::Place,
    client::{Answer, Client, Failure, Request, Subject, shown},
    digest::{CHUNK, Digest, Hasher},
    patience::Patience,
};
use crate::error::{Error, Result};

/// A blob that is wanted.
pub(super) struct Wanted<'a> {
    /// The file's name, for messages.
    pub(super) file: &'a str,
    pub(super) url: &'a str,
    pub(super) subject: Subject<'a>,
    /// The blob's name in the cache.
    pub(super) key: &'a str,
    pub(super) size: Option<u64>,
    pub(super) digest: Option<Digest>,
    /// Whether the key names the content, so that what lies there from before is a part of the same.
    pub(super) resumable: bool,
}

/// Why a pass over the network did not bring the rest.
enum Setback {
    /// Nothing that could be used, or less than all.
    Failure(Failure),
    /// More, less or other bytes than were announced.
    Damaged(Error),
}

impl From<Failure> for Setback {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        Self::Failure(Failure::Lasting(error))
    }
}

/// Fetches a blob unless it is there, and returns its size.
///
/// # Errors
/// [`Error::Network`], [`Error::HttpStatus`] and the hub's refusals; [`Error::Damaged`] when it arrived wrong twice;
/// [`Error::Write`]; [`Error::Interrupted`]. What has arrived stays beside the blob, unless it is damaged.
pub(super) fn fetch(
    client: &Client,
    settings: &Settings,
    place: &Place,
    wanted: &Wanted<'_>,
    watch: &mut Watch<'_>,
) -> Result<u64> {
    place.create()?;
    // 1. One program at a time. Whoever waited finds the blob of the one before.
    let _lock = place.lock(wanted.key, wanted.file, watch)?;
    let blob = place.blob(wanted.key);
    if let Ok(there) = fs::metadata(&blob)
        && wanted.size.is_none_or(|size| size == there.len())
    {
        return Ok(there.len());
    }
    let mut patience = Patience::new(settings);
    let mut was_damaged = false;
    // 2. What has arrived before is hashed, not trusted.
    let mut partial = Partial::open(&place.partial(wanted.key), wanted, watch)?;
    let mut most = partial.done;
    loop {
        (watch.report)(Event::Begin { file: wanted.file, done: partial.done, size: wanted.size });
        // 3. The rest, over as many connections as it takes.
        let arrived = loop {
            watch.go_on()?;
            if wanted.size == Some(partial.done) {
                break partial.check(wanted, watch);
            }
            let passed = partial.pass(client, settings, wanted, watch);
            if partial.done > most {
                most = partial.done;
                patience.renew();
            }
            match passed {
                Ok(()) => break partial.check(wanted, watch),
                Err(Setback::Damaged(error)) => break Err(error),
                Err(Setback::Failure(failure)) => patience.wait(wanted.file, failure, watch)?,
            }
        };
        // 4. It gets its name when it is whole and right. Wrong bytes are fetched anew, once: the wrong ones may be those
        // that lay there.
        match arrived {
            Ok(()) => return partial.keep(&blob),
            Err(error @ Error::Damaged { .. }) => {
                if was_damaged {
                    partial.discard()?;
                    return Err(error);
                }
                partial.restart(wanted)?;
                (was_damaged, most) = (true, 0);
                (watch.report)(Event::Again { file: wanted.file, error: &error });
            }
            Err(error) => return Err(error),
        }
    }
}

/// What has arrived of a blob.
struct Partial {
    path: PathBuf,
    file: File,
    done: u64,
    hasher: Option<Hasher>,
}

impl Partial {
    /// Opens what lies there, or begins.
    fn open(path: &Path, wanted: &Wanted<'_>, watch: &Watch<'_>) -> Result<Self> {
        let fail = |source| Error::Write { path: path.into(), source };
        let file = File::options().create(true).append(true).open(path).map_err(fail)?;
        let done = file.metadata().map_err(fail)?.len();
        let hasher = wanted.digest.as_ref().and_then(|digest| digest.hasher(wanted.size));
        let mut partial = Self { path: path.into(), file, done, hasher };
        if done > 0 && (!wanted.resumable || wanted.size.is_some_and(|size| done > size)) {
            partial.restart(wanted)?;
        }
        if let Some(hasher) = partial.hasher.as_mut().filter(|_| partial.done > 0) {
            hasher.update_from(path, watch)?;
        }
        Ok(partial)
    }

    /// One connection's worth. `Ok` when the server has sent all that it has.
    fn pass(
        &mut self,
        client: &Client,
        settings: &Settings,
        wanted: &Wanted<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<(), Setback> {
        let request = Request {
            url: wanted.url,
            head: false,
            from: self.done,
            stay: false,
            timeout: settings.download_timeout,
            subject: wanted.subject,
        };
        let mut answer = client.send(&request)?;
        let broken = |reason: String| {
            let source = io::Error::new(io::ErrorKind::UnexpectedEof, reason);
            Setback::Failure(Failure::Passing(Error::Network { url: shown(wanted.url), source }, None))
        };
        let (start, total) = range(&answer);
        match answer.status {
            // The server has nothing after what is here: it is all, or it is of something else.
            416 if wanted.size.is_none() && total == Some(self.done) => return Ok(()),
            416 => {
                self.restart(wanted)?;
                return Err(broken("it has less than what is on disk, which was deleted".to_owned()));
            }
            206 if start == Some(self.done) => {}
            206 => {
                self.restart(wanted)?;
                return Err(broken("it sent another part than was asked for".to_owned()));
            }
            _ if self.done > 0 => {
                self.restart(wanted)?; // it sends all of it, whatever was asked for
                (watch.report)(Event::Begin { file: wanted.file, done: 0, size: wanted.size });
            }
            _ => {}
        }
        let total = if answer.status == 206 { total } else { answer.number("Content-Length") };
        if let (Some(size), Some(total)) = (wanted.size, total)
            && size != total
        {
            return Err(Setback::Damaged(damaged_size(wanted, size, total)));
        }
        self.receive(&mut answer, wanted, watch)?;
        match wanted.size.or(total) {
            Some(size) if self.done < size => Err(broken(format!("it broke off after {} of {size} bytes", self.done))),
            _ => Ok(()),
        }
    }

    /// Writes down what comes until it ends.
    fn receive(&mut self, answer: &mut Answer, wanted: &Wanted<'_>, watch: &mut Watch<'_>) -> Result<(), Setback> {
        let mut reader = answer.body.as_reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            watch.go_on()?;
            let count = match reader.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(Failure::Passing(Error::Network { url: shown(wanted.url), source }, None).into());
                }
            };
            let done = self.done + count as u64;
            if let Some(size) = wanted.size.filter(|size| done > *size) {
                return Err(Setback::Damaged(damaged_size(wanted, size, done)));
            }
            let fail = |source| Error::Write { path: self.path.clone(), source };
            self.file.write_all(&chunk[..count]).map_err(fail)?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&chunk[..count]);
            }
            self.done = done;
            (watch.report)(Event::Bytes { file: wanted.file, done });
        }
    }

    /// Compares what arrived with what was announced.
    fn check(&mut self, wanted: &Wanted<'_>, watch: &Watch<'_>) -> Result<()> {
        if let Some(size) = wanted.size.filter(|size| *size != self.done) {
            return Err(damaged_size(wanted, size, self.done));
        }
        let Some(digest) = &wanted.digest else { return Ok(()) };
        let found = match self.hasher.take() {
            Some(hasher) => hasher.finish(),
            None => {
                // Git's hash begins with the size, which is known only now.
                let Some(mut hasher) = digest.hasher(Some(self.done)) else { return Ok(()) };
                hasher.update_from(&self.path, watch)?;
                hasher.finish()
            }
        };
        if found == digest.value() {
            return Ok(());
        }
        let (what, expected) = (digest.name(), digest.value().to_owned());
        Err(Error::Damaged { file: wanted.file.to_owned(), what, expected, found })
    }

    /// Gives it its name.
    fn keep(self, blob: &Path) -> Result<u64> {
        let fail = |source| Error::Write { path: blob.into(), source };
        self.file.sync_all().map_err(fail)?;
        fs::rename(&self.path, blob).map_err(fail)?;
        Ok(self.done)
    }

    /// Begins from nothing.
    fn restart(&mut self, wanted: &Wanted<'_>) -> Result<()> {
        self.file.set_len(0).map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.done = 0;
        self.hasher = wanted.digest.as_ref().and_then(|digest| digest.hasher(wanted.size));
        Ok(())
    }

    fn discard(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

/// First byte and whole size, of the header `Content-Range: bytes 5-9/10` or `bytes */10`.
fn range(answer: &Answer) -> (Option<u64>, Option<u64>) {
    let parts = || {
        let text = answer.header("Content-Range")?.trim().strip_prefix("bytes")?.trim_start();
        text.split_once('/')
    };
    let Some((range, total)) = parts() else { return (None, None) };
    (range.split_once('-').and_then(|(start, _)| start.trim().parse().ok()), total.trim().parse().ok())
}

fn damaged_size(wanted: &Wanted<'_>, expected: u64, found: u64) -> Error {
    let (expected, found) = (format!("{expected} bytes"), format!("{found} bytes"));
    Error::Damaged { file: wanted.file.to_owned(), what: "size", expected, found }
}
