//! Connections that end, bytes that are wrong, and more than one program at a time.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use seed_core::{
    Error,
    checkpoint::hub::{Check, Event, Hub, UrlFile, Watch},
};

use crate::{
    client::{Count, NEVER, fetch, fetch_with, repo, says, settings},
    fake_hub::{FakeHub, git, large, part, sha256},
    server::{Manner, Reply, Request, Server},
};

const FILE: &str = "model.safetensors";

/// A hub with one large file, whose store is changed by `tweak`.
fn with_store(tweak: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> FakeHub {
    FakeHub::tweaked(&[(FILE, &large()), ("config.json", b"{}")], |_, reply| reply, tweak)
}

impl FakeHub {
    /// The large file is whole, verified and without a rest.
    fn holds_the_file(&self) {
        assert!(fs::read(self.path("blobs").join(sha256(&large()))).unwrap() == large());
        assert!(!self.partial().exists());
    }

    fn partial(&self) -> std::path::PathBuf {
        self.path("blobs").join(format!("{}.incomplete", sha256(&large())))
    }

    /// Leaves a part of the file there, as a program that was killed does.
    fn leave(&self, bytes: &[u8]) {
        fs::create_dir_all(self.path("blobs")).unwrap();
        fs::write(self.partial(), bytes).unwrap();
    }

    /// First bytes that were asked of the store.
    fn asked(&self) -> Vec<usize> {
        self.store.gets().iter().map(|request| request.from().unwrap_or(0)).collect()
    }
}

#[test]
fn a_connection_that_is_cut_is_continued() {
    // More cuts than retries: what arrives between makes it forget them.
    let world = with_store(|_, reply| match reply.body.len() {
        0..=100_000 => reply,
        _ => reply.manner(Manner::Cut(100_000)),
    });
    let fetched = fetch(&world, FILE).unwrap();
    assert_eq!((fetched.check, fetched.bytes), (Check::Sha256, large().len() as u64));
    world.holds_the_file();
    assert_eq!(world.asked(), (0..16).map(|i| i * 100_000).collect::<Vec<_>>());
}

#[test]
fn a_server_that_always_cuts_is_given_up() {
    let world = with_store(|_, reply| reply.manner(Manner::Cut(0)));
    let (error, events) = fetch_with(settings(&world), FILE);
    assert!(matches!(error.as_ref().unwrap_err(), Error::Network { .. }), "{error:?}");
    says(&error.unwrap_err(), &["cannot fetch", &world.hub.url(), "check the network", "--endpoint"]);
    assert_eq!(world.asked().len(), 6);
    assert_eq!(events.iter().filter(|event| event.starts_with("Retry")).count(), 5);
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let count = Count::default();
    let world = with_store(move |_, reply| match count.next() {
        0 => reply.manner(Manner::Stall(1234)),
        _ => reply,
    });
    let mut settings = settings(&world);
    settings.download_timeout = Duration::from_millis(500);
    settings.retries = 100; // a busy machine may be silent for longer than that
    let (fetched, _) = fetch_with(settings, FILE);
    fetched.unwrap();
    world.holds_the_file();
    assert_eq!(world.asked()[..2], [0, 1234]);
}

#[test]
fn a_part_that_a_killed_program_left_is_continued() {
    let world = with_store(|_, reply| reply);
    world.leave(&large()[..777_777]);
    fetch(&world, FILE).unwrap();
    world.holds_the_file();
    assert_eq!(world.asked(), [777_777]);
    // All of it was there already.
    let world = with_store(|_, reply| reply);
    world.leave(&large());
    fetch(&world, FILE).unwrap();
    world.holds_the_file();
    assert!(world.asked().is_empty());
}

#[test]
fn a_part_of_something_else_is_found_out() {
    let world = with_store(|_, reply| reply);
    world.leave(&[7; 1000]);
    let (fetched, events) = fetch_with(settings(&world), FILE);
    fetched.unwrap();
    world.holds_the_file();
    assert_eq!(world.asked(), [1000, 0]);
    assert!(events.iter().any(|event| event.starts_with("Again")), "{events:?}");
    // Longer than the whole.
    let world = with_store(|_, reply| reply);
    world.leave(&[large(), vec![0]].concat());
    fetch(&world, FILE).unwrap();
    world.holds_the_file();
    assert_eq!(world.asked(), [0]);
}

#[test]
fn a_server_that_ignores_ranges_sends_it_anew() {
    let world = with_store(|_, _| Reply::new(200).body(&large()));
    world.leave(&large()[..1000]);
    fetch(&world, FILE).unwrap();
    world.holds_the_file();
    assert_eq!(world.asked(), [1000]);
}

#[test]
fn a_server_that_sends_another_range_is_asked_anew() {
    let world = with_store(|request, reply| match request.from() {
        Some(_) => reply.header("Content-Range", format!("bytes 5-{}/{}", large().len() - 1, large().len())),
        None => reply,
    });
    world.leave(&large()[..1000]);
    fetch(&world, FILE).unwrap();
    world.holds_the_file();
    assert_eq!(world.asked(), [1000, 0]);
}

#[test]
fn a_range_that_the_server_does_not_have_is_dropped() {
    let world = with_store(|request, reply| match request.from() {
        Some(_) => Reply::new(416).header("Content-Range", "bytes */10"),
        None => reply,
    });
    world.leave(&large()[..1000]);
    fetch(&world, FILE).unwrap();
    world.holds_the_file();
    assert_eq!(world.asked(), [1000, 0]);
}

/// The content with one byte changed.
fn wrong() -> Vec<u8> {
    let mut bytes = large();
    bytes[500_000] ^= 1;
    bytes
}

#[test]
fn wrong_bytes_are_fetched_again_once() {
    let count = Count::default();
    let world = with_store(move |request, reply| match count.next() {
        0 => part(request, &wrong()),
        _ => reply,
    });
    fetch(&world, FILE).unwrap();
    world.holds_the_file();
    let world = with_store(|request, _| part(request, &wrong()));
    let error = fetch(&world, FILE).unwrap_err();
    assert!(matches!(error, Error::Damaged { what: "sha256", .. }), "{error:?}");
    says(&error, &[FILE, &sha256(&large()), &sha256(&wrong()), "deleted"]);
    assert_eq!(world.asked().len(), 2);
    assert!(!world.partial().exists() && !world.path("blobs").join(sha256(&large())).exists());
    assert!(!world.path("snapshots").exists());
}

#[test]
fn wrong_bytes_of_a_small_file_are_refused() {
    let get_other = |request: &Request, reply: Reply| if request.is_get() { reply.body(b"[]") } else { reply };
    let world = FakeHub::tweaked(&[("config.json", b"{}")], get_other, |_, reply| reply);
    let error = fetch(&world, "config.json").unwrap_err();
    assert!(matches!(error, Error::Damaged { what: "git hash", .. }), "{error:?}");
    says(&error, &["config.json", &git(b"{}"), &git(b"[]")]);
}

#[test]
fn sizes_that_do_not_agree_are_errors() {
    // The hub announces less than the store has.
    let less = |_: &Request, reply: Reply| match reply.status {
        302 => reply.header("X-Linked-Size", 1000),
        _ => reply,
    };
    let world = FakeHub::tweaked(&[(FILE, &large())], less, |_, reply| reply);
    let error = fetch(&world, FILE).unwrap_err();
    assert!(matches!(error, Error::Damaged { what: "size", .. }), "{error:?}");
    says(&error, &[FILE, "1000 bytes", "1600000 bytes"]);
    // The same, and the store does not say how much it has.
    let world = FakeHub::tweaked(&[(FILE, &large())], less, |_, reply| reply.manner(Manner::Chunked));
    assert!(matches!(fetch(&world, FILE).unwrap_err(), Error::Damaged { what: "size", .. }));
    assert!(!world.partial().exists());
    // The store announces more than it sends.
    let world =
        FakeHub::tweaked(&[("a.json", b"{}")], |_, reply| reply.header("Content-Length", 100), |_, reply| reply);
    let error = fetch(&world, "a.json").unwrap_err();
    assert!(matches!(error, Error::Network { .. }), "{error:?}");
}

#[test]
fn content_without_a_length_is_taken_and_verified() {
    let chunked = |_: &Request, reply: Reply| match reply.status {
        200 | 206 => reply.manner(Manner::Chunked),
        _ => reply,
    };
    let world = FakeHub::tweaked(&[(FILE, &large()), ("config.json", b"{}")], chunked, chunked);
    fetch(&world, FILE).unwrap();
    world.holds_the_file();
    // Nobody says how long this is, so its hash is known only in the end.
    let fetched = fetch(&world, "config.json").unwrap();
    assert_eq!((fetched.check, fs::read(fetched.path).unwrap().as_slice()), (Check::Git, &b"{}"[..]));
}

#[test]
fn many_at_a_time_fetch_once() {
    let world = Arc::new(with_store(|_, reply| reply));
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let world = Arc::clone(&world);
            thread::spawn(move || fetch(&world, FILE).unwrap().path)
        })
        .collect();
    for thread in threads {
        assert!(fs::read(thread.join().unwrap()).unwrap() == large());
    }
    world.holds_the_file();
    assert_eq!(world.asked().len(), 1);
}

#[test]
fn a_blob_that_another_program_fetches_is_waited_for() {
    let world = with_store(|_, reply| reply);
    let locks = world.cache().join(".locks/models--owner--model");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(format!("{}.lock", sha256(&large())))).unwrap();
    lock.lock().unwrap();
    let mut lock = Some(lock);
    let mut waited = false;
    let mut report = |event: Event<'_>| {
        if matches!(event, Event::Locked { .. }) {
            waited = true;
            // The other program is done: it leaves the whole, and nothing is asked of the store.
            fs::create_dir_all(world.path("blobs")).unwrap();
            fs::write(world.path("blobs").join(sha256(&large())), large()).unwrap();
            lock = None;
        }
    };
    let hub = Hub::new(settings(&world)).unwrap();
    hub.file(&repo(), FILE, &mut Watch { stop: &NEVER, report: &mut report }).unwrap();
    assert!(waited && world.asked().is_empty());
}

#[test]
fn an_interrupt_keeps_what_has_arrived() {
    let world = with_store(|_, reply| reply);
    let stop = AtomicBool::new(false);
    let mut report = |event: Event<'_>| {
        if matches!(event, Event::Bytes { .. }) {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let hub = Hub::new(settings(&world)).unwrap();
    let stopped = hub.file(&repo(), FILE, &mut Watch { stop: &stop, report: &mut report });
    assert!(matches!(stopped, Err(Error::Interrupted)));
    let kept = fs::read(world.partial()).unwrap();
    assert!(!kept.is_empty() && large().starts_with(&kept));
    fetch(&world, FILE).unwrap();
    world.holds_the_file();
    assert_eq!(world.asked(), [0, kept.len()]);
}

fn fetch_url(world: &FakeHub, wanted: &UrlFile<'_>) -> seed_core::Result<seed_core::checkpoint::hub::Fetched> {
    let mut settings = settings(world);
    settings.token = crate::client::token("hf_secret");
    Hub::new(settings).unwrap().url(wanted, &mut Watch { stop: &NEVER, report: &mut |_| {} })
}

#[test]
fn plain_addresses_are_verified_by_what_is_known() {
    let count = Count::default();
    let server = Server::start(move |request| match (request.is_get(), count.next()) {
        (true, 1) => part(request, &large()).manner(Manner::Cut(1000)).header("ETag", "\"tag-1\""),
        _ => part(request, &large()).header("ETag", "\"tag-1\""),
    });
    let world = FakeHub::new(&[]);
    let url = format!("{}/dir/vit.pth", server.url());
    let mut wanted = UrlFile { url: &url, file: "vit.pth", size: None, sha256: None };
    let fetched = fetch_url(&world, &wanted).unwrap();
    assert_eq!((fetched.check, fetched.bytes), (Check::Size, 1_600_000));
    assert!(fs::read(&fetched.path).unwrap() == large());
    assert_eq!(server.gets().iter().map(Request::from).collect::<Vec<_>>(), [None, Some(1000)]);
    assert!(server.log().iter().all(|request| request.header("Authorization").is_none()));
    let before = server.log().len();
    assert_eq!(fetch_url(&world, &wanted).unwrap().check, Check::OnDisk);
    assert_eq!(server.log().len(), before);
    // In another cache, with a hash that is right and one that is not.
    let world = FakeHub::new(&[]);
    let hash = sha256(b"something else");
    wanted.sha256 = Some(&hash);
    says(&fetch_url(&world, &wanted).unwrap_err(), &["vit.pth", &hash, &sha256(&large())]);
    let hash = sha256(&large());
    wanted.sha256 = Some(&hash);
    assert_eq!(fetch_url(&world, &wanted).unwrap().check, Check::Sha256);
    wanted.size = Some(7);
    says(&fetch_url(&world, &wanted).unwrap_err(), &["size", "7 bytes", "1600000 bytes"]);
}
