//! One request: who gets the token, where redirections lead, and what a status means.

use std::{io, time::Duration};

use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, Uri},
};

use super::{Settings, names::Repo, settings::Token};
use crate::error::Error;

/// Most redirections that are followed.
const MOST_REDIRECTIONS: usize = 10;

/// Longest time that a server may ask to be left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Scheme, host and port: what a token is given to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of an address, unless it is none of the web's.
    pub(super) fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let usual = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        Some(Self { scheme, host, port: uri.port_u16().unwrap_or(usual) })
    }

    /// The host as the name of a folder.
    pub(super) fn folder(&self) -> String {
        let name = self.host.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.', "_");
        if [80, 443].contains(&self.port) { name } else { format!("{name}_{}", self.port) }
    }
}

/// What to ask for.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) url: &'a str,
    /// Ask for the headers alone.
    pub(super) head: bool,
    /// Ask for what follows this many bytes.
    pub(super) from: u64,
    /// Stop before a redirection that leaves the origin: the answer says where the content is and what it hashes to.
    pub(super) stay: bool,
    /// Longest silence.
    pub(super) timeout: Duration,
    /// What the address belongs to, for messages.
    pub(super) subject: Subject<'a>,
}

/// What an address belongs to.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    /// A file of a repository, or the repository.
    Hub { repo: &'a Repo, file: Option<&'a str> },
    /// Nothing but itself.
    Url,
}

/// An answer that is worth reading.
pub(super) struct Answer {
    pub(super) status: u16,
    headers: HeaderMap,
    pub(super) body: Body,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }

    /// The etag, of the content that is linked to before that of the link, without quotes.
    pub(super) fn etag(&self) -> Option<&str> {
        let etag = self.header("X-Linked-Etag").or(self.header("ETag"))?.trim();
        Some(etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"'))
    }

    /// Whether it is the content itself, rather than a word about where that is.
    pub(super) fn is_content(&self) -> bool {
        self.status < 300
    }
}

/// Why an attempt failed.
pub(super) enum Failure {
    /// It may pass; perhaps after a time that the server names.
    Passing(Error, Option<Duration>),
    /// It will be the same the next time.
    Lasting(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Lasting(error)
    }
}

/// Sends requests, with the token to its hub alone.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Self {
        let config = Agent::config_builder()
            // Redirections are followed here: what is sent to which host is our concern.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("seed/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), endpoint: settings.endpoint.clone(), token: settings.token.clone() }
    }

    /// Asks once, along redirections.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        let mut url = request.url.to_owned();
        for _ in 0..=MOST_REDIRECTIONS {
            let response = self.ask(&url, request).map_err(|error| refused(&url, error))?;
            let (parts, body) = response.into_parts();
            let answer = Answer { status: parts.status.as_u16(), headers: parts.headers, body };
            match (answer.status, answer.header("Location")) {
                (301 | 302 | 303 | 307 | 308, Some(location)) => {
                    let next = self.redirection(&url, location)?;
                    let leaves = Origin::of(&next) != Origin::of(&url);
                    let tells = ["X-Linked-Etag", "X-Repo-Commit"].iter().all(|name| answer.header(name).is_some());
                    if request.stay && (leaves || tells) {
                        return Ok(answer);
                    }
                    url = next;
                }
                (200..=299, _) => return Ok(answer),
                (416, _) if request.from > 0 => return Ok(answer),
                _ => return Err(self.status(&url, request.subject, &answer)),
            }
        }
        let source = io::Error::other(format!("it redirects more than {MOST_REDIRECTIONS} times"));
        Err(Failure::Lasting(Error::Network { url: shown(request.url), source }))
    }

    fn ask(&self, url: &str, request: &Request<'_>) -> Result<Response<Body>, ureq::Error> {
        let mut builder = if request.head { self.agent.head(url) } else { self.agent.get(url) };
        // Sizes and hashes are of the content as it is.
        builder = builder.header("Accept-Encoding", "identity");
        if let Some(token) = &self.token
            && matches!(request.subject, Subject::Hub { .. })
            && Origin::of(url) == Origin::of(&self.endpoint)
        {
            builder = builder.header("Authorization", token.header());
        }
        if request.from > 0 {
            builder = builder.header("Range", format!("bytes={}-", request.from));
        }
        let silence = Some(request.timeout);
        let config = builder.config().timeout_connect(silence).timeout_recv_response(silence);
        config.timeout_per_read(silence).timeout_per_write(silence).build().call()
    }

    /// Where a redirection leads to.
    fn redirection(&self, url: &str, location: &str) -> Result<String, Failure> {
        let authority = url.find("://").map_or(0, |at| at + 3);
        let path = url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at);
        let next = match location {
            _ if location.contains("://") => location.to_owned(),
            _ if location.starts_with("//") => format!("{}{location}", &url[..authority - 2]),
            _ if location.starts_with('/') => format!("{}{location}", &url[..path]),
            _ => format!(
                "{}/{location}",
                url.split(['?', '#']).next().unwrap_or(url).rsplit_once('/').map_or(url, |(folder, _)| folder)
            ),
        };
        let downgrade = url.starts_with("https:") && !next.starts_with("https:");
        if Origin::of(&next).is_none() || downgrade {
            let source = io::Error::other(format!("it redirects to {}, which is not followed", shown(&next)));
            return Err(Failure::Lasting(Error::Network { url: shown(url), source }));
        }
        Ok(next)
    }

    /// What a status that is no answer means.
    fn status(&self, url: &str, subject: Subject<'_>, answer: &Answer) -> Failure {
        let status = answer.status;
        let reason = answer.header("X-Error-Message").unwrap_or_default().chars().take(200).collect();
        let other = Error::HttpStatus { url: shown(url), status, reason };
        let at_hub = Origin::of(url) == Origin::of(&self.endpoint);
        let Subject::Hub { repo, file } = subject else {
            return if may_pass(status) { Failure::Passing(other, wait(answer)) } else { Failure::Lasting(other) };
        };
        let page = format!("{}/{}", self.endpoint, repo.id());
        let not_on_hub = |what, name: &str, page: String| {
            let name = if what == "repository" { name.to_owned() } else { format!("{name} in {}", repo.id()) };
            Error::NotOnHub { what, name, endpoint: self.endpoint.clone(), page }
        };
        match (status, answer.header("X-Error-Code"), file) {
            // Where the content is kept, addresses end after a while; the next attempt gets a new one.
            (403, ..) if !at_hub => Failure::Passing(other, None),
            (401 | 403, Some("GatedRepo"), _) | (403, ..) => {
                Failure::Lasting(Error::Gated { repo: repo.id().to_owned(), page })
            }
            (401, ..) => {
                let refused = self.token.is_some();
                let (repo, endpoint) = (repo.id().to_owned(), self.endpoint.clone());
                Failure::Lasting(Error::NeedsToken { repo, endpoint, refused })
            }
            (404, Some("RepoNotFound"), _) => {
                Failure::Lasting(not_on_hub("repository", repo.id(), self.endpoint.clone()))
            }
            (404, Some("RevisionNotFound"), _) => {
                Failure::Lasting(not_on_hub("revision", repo.revision(), format!("{page}/refs")))
            }
            (404, _, Some(file)) => {
                Failure::Lasting(not_on_hub("file", file, format!("{page}/tree/{}", repo.revision())))
            }
            (404, _, None) => Failure::Lasting(not_on_hub("repository", repo.id(), self.endpoint.clone())),
            _ if may_pass(status) => Failure::Passing(other, wait(answer)),
            _ => Failure::Lasting(other),
        }
    }
}

/// Statuses of servers that have too much to do or too little to do it with.
fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// How long the server asks to wait, in seconds. As a date, it is left to our own patience.
fn wait(answer: &Answer) -> Option<Duration> {
    Some(Duration::from_secs(answer.number("Retry-After")?).min(LONGEST_WAIT))
}

/// Why there is no answer.
fn refused(url: &str, error: ureq::Error) -> Failure {
    use ureq::Error as E;
    let lasting = matches!(error, E::BadUri(_) | E::Http(_) | E::InvalidProxyUrl | E::Tls(_) | E::Rustls(_));
    let error = Error::Network { url: shown(url), source: error.into_io() };
    if lasting { Failure::Lasting(error) } else { Failure::Passing(error, None) }
}

/// An address as messages show it: its query may hold a signature, which is a secret.
pub(super) fn shown(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_scheme_host_and_port() {
        let same = |a, b| Origin::of(a).is_some() && Origin::of(a) == Origin::of(b);
        assert!(same("https://A.com/x?y", "https://a.com:443/"));
        assert!(!same("https://a.com", "http://a.com") && !same("http://a:1", "http://a:2"));
        assert!(!same("https://a.com", "https://a.com.b.com") && !same("https://a.com", "https://a.com@b.com"));
        assert!(Origin::of("file:///etc/passwd").is_none() && Origin::of("/a").is_none());
        assert_eq!(Origin::of("http://[::1]:80/").unwrap().folder(), "___1_");
    }

    #[test]
    fn redirections_are_relative_or_not() {
        let settings = Settings::from_variables(&|name| (name == "HF_HOME").then(|| "/h".into())).unwrap();
        let client = Client::new(&settings);
        let to = |url, location| client.redirection(url, location).ok();
        assert_eq!(to("https://a.com/b/c?d", "https://e.com/f").unwrap(), "https://e.com/f");
        assert_eq!(to("https://a.com/b/c?d", "/e").unwrap(), "https://a.com/e");
        assert_eq!(to("https://a.com/b/c?d=/", "e").unwrap(), "https://a.com/b/e");
        assert_eq!(to("https://a.com/b", "//e.com/f").unwrap(), "https://e.com/f");
        assert!(to("https://a.com/b", "http://a.com/b").is_none() && to("https://a.com/b", "ftp://a.com").is_none());
    }
}
