//! Who gets the token, and what a hub's refusals are called.

use std::net::TcpListener;

use seed_core::{
    Error,
    checkpoint::hub::{Hub, Selection, Watch},
};

use crate::{
    client::{Count, NEVER, fetch, fetch_folder, fetch_with, repo, says, settings, token},
    fake_hub::{COMMIT, FakeHub, git, large, part},
    server::{Reply, Request},
};

const SECRET: &str = "hf_secret";

/// A hub with one small file that always answers so.
fn always(reply: Reply) -> FakeHub {
    FakeHub::tweaked(&[("a.json", b"{}")], move |_, _| reply.clone(), |_, reply| reply)
}

/// A hub that shows its file to those with the token.
fn guarded() -> FakeHub {
    let guard = |request: &Request, reply: Reply| match request.header("Authorization") {
        Some("Bearer hf_secret") => reply,
        _ => Reply::new(401),
    };
    FakeHub::tweaked(&[("a.safetensors", &large()), ("b.json", b"{}")], guard, |_, reply| reply)
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let world = guarded();
    let mut own = settings(&world);
    own.token = token(SECRET);
    fetch_with(own.clone(), "a.safetensors").0.unwrap();
    fetch_folder(own, &Selection::default()).unwrap();
    assert!(world.hub.log().len() >= 4);
    assert!(world.hub.log().iter().all(|request| request.header("Authorization").is_some()));
    let store = world.store.log();
    assert!(!store.is_empty() && store.iter().all(|request| request.header("Authorization").is_none()));
}

#[test]
fn a_hub_that_asks_for_a_token() {
    let world = guarded();
    let error = fetch(&world, "b.json").unwrap_err();
    assert!(matches!(error, Error::NeedsToken { refused: false, .. }), "{error:?}");
    let page = format!("{}/settings/tokens", world.hub.url());
    says(&error, &["asks for a token", "owner/model", &page, "HF_TOKEN", "--token"]);
    let mut other = settings(&world);
    other.token = token("hf_other");
    let error = fetch_with(other, "b.json").0.unwrap_err();
    assert!(matches!(error, Error::NeedsToken { refused: true, .. }), "{error:?}");
    assert!(!says(&error, &["refuses the token"]).contains("hf_other"));
    assert!(matches!(
        fetch_folder(settings(&world), &Selection::default()).unwrap_err(),
        Error::NeedsToken { refused: false, .. }
    ));
}

#[test]
fn a_licence_that_must_be_accepted() {
    for status in [401, 403] {
        let world = always(Reply::new(status).header("X-Error-Code", "GatedRepo"));
        let error = fetch(&world, "a.json").unwrap_err();
        assert!(matches!(error, Error::Gated { .. }), "{error:?}");
        says(&error, &["owner/model is gated", &format!("{}/owner/model", world.hub.url()), "HF_TOKEN"]);
    }
}

#[test]
fn what_is_not_there_is_named() {
    let world = always(Reply::new(404).header("X-Error-Code", "RepoNotFound"));
    says(&fetch(&world, "a.json").unwrap_err(), &["no repository owner/model"]);
    let world = always(Reply::new(404).header("X-Error-Code", "RevisionNotFound"));
    says(&fetch(&world, "a.json").unwrap_err(), &["no revision main in owner/model", "/owner/model/refs"]);
    let world = FakeHub::new(&[]);
    says(&fetch(&world, "a.json").unwrap_err(), &["no file a.json in owner/model", "/owner/model/tree/main"]);
    let world = always(Reply::new(404));
    let error = fetch_folder(settings(&world), &Selection::default()).unwrap_err();
    says(&error, &["no repository owner/model"]);
    assert_eq!(world.hub.log().len(), 1);
}

#[test]
fn a_busy_hub_is_asked_again() {
    for status in [429, 503] {
        let count = Count::default();
        let busy = move |_: &Request, reply: Reply| match count.next() {
            // Between the answers of use, more refusals than are borne in a row.
            3 | 7 => reply,
            _ => Reply::new(status).header("Retry-After", 0),
        };
        let world = FakeHub::tweaked(&[("a.json", b"{}")], busy, |_, reply| reply);
        let mut own = settings(&world);
        own.first_wait = std::time::Duration::from_secs(3600); // the server's word counts
        fetch_with(own, "a.json").0.unwrap();
        assert_eq!(world.hub.log().len(), 8);
    }
    let world = always(Reply::new(429).header("Retry-After", 0).header("X-Error-Message", "too many"));
    let error = fetch(&world, "a.json").unwrap_err();
    assert!(matches!(error, Error::HttpStatus { status: 429, .. }), "{error:?}");
    says(&error, &["429 (too many)", "later"]);
    assert_eq!(world.hub.log().len(), 6);
    let world = always(Reply::new(418));
    assert!(matches!(fetch(&world, "a.json").unwrap_err(), Error::HttpStatus { status: 418, .. }));
    assert_eq!(world.hub.log().len(), 1);
}

#[test]
fn an_address_that_has_ended_is_asked_for_anew() {
    let count = Count::default();
    let expired = move |_: &Request, reply: Reply| if count.next() == 0 { Reply::new(403) } else { reply };
    let world = FakeHub::tweaked(&[("a.safetensors", &large())], |_, reply| reply, expired);
    fetch(&world, "a.safetensors").unwrap();
    assert_eq!(world.hub.gets().len(), 2);
    // The signature in the address is nobody's business.
    let world = FakeHub::tweaked(&[("a.safetensors", &large())], |_, reply| reply, |_, _| Reply::new(403));
    let error = fetch(&world, "a.safetensors").unwrap_err();
    assert!(!says(&error, &[&world.store.url(), "403"]).contains("secret"));
}

#[test]
fn redirections_within_the_hub_are_followed() {
    let moved = |request: &Request, _: Reply| match request.path.starts_with("/moved/") {
        true => part(request, b"{}").header("X-Repo-Commit", COMMIT).header("ETag", git(b"{}")),
        false => Reply::new(307).header("Location", format!("/moved{}", request.path)),
    };
    let world = FakeHub::tweaked(&[], moved, |_, reply| reply);
    let mut own = settings(&world);
    own.token = token(SECRET);
    fetch_with(own, "a.json").0.unwrap();
    assert!(world.hub.log().iter().all(|request| request.header("Authorization").is_some()));
    assert_eq!(world.hub.log().len(), 4);
    // Nobody is sent in circles, or out of the web.
    let circle = always(Reply::new(302).header("Location", "/owner/model/resolve/main/a.json"));
    says(&fetch(&circle, "a.json").unwrap_err(), &["redirects more than 10 times"]);
    let outside = always(Reply::new(302).header("Location", "file:///etc/passwd"));
    says(&fetch(&outside, "a.json").unwrap_err(), &["file:///etc/passwd", "not followed"]);
}

#[test]
fn what_is_no_hub_is_said_to_be_none() {
    let world = always(Reply::new(200).body(b"<html>hello</html>"));
    let error = fetch_folder(settings(&world), &Selection::default()).unwrap_err();
    says(&error, &["is not the answer of a model hub", "not a list of files", "--endpoint"]);
    says(&fetch(&world, "a.json").unwrap_err(), &["is not the answer of a model hub", "X-Repo-Commit"]);
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let mut own = settings(&world);
    own.endpoint = format!("http://{address}");
    own.retries = 1;
    let (error, events) = fetch_with(own, "a.json");
    assert!(matches!(error, Err(Error::Network { .. })), "{error:?}");
    assert_eq!(events.len(), 2, "{events:?}"); // asked, tried again
}

#[test]
fn the_licence_is_that_of_the_card() {
    let world = FakeHub::new(&[]);
    let hub = Hub::new(settings(&world)).unwrap();
    assert_eq!(hub.license(&repo()).as_deref(), Some("mit"));
    let cards = [
        (r#""cardData": {"license": "other", "license_name": "own"}"#, Some("own")),
        (r#""cardData": {"license": ["mit", "apache-2.0"]}"#, Some("mit, apache-2.0")),
        (r#""cardData": {"tags": []}"#, None),
        (r#""cardData": null"#, None),
    ];
    for (card, licence) in cards {
        let world = always(Reply::new(200).body(format!("{{\"sha\": \"{}\", {card}}}", "a".repeat(40)).as_bytes()));
        let hub = Hub::new(settings(&world)).unwrap();
        let listing = hub.list(&repo(), &mut Watch { stop: &NEVER, report: &mut |_| {} }).unwrap();
        assert_eq!(listing.license.as_deref(), licence);
    }
}
