//! Where to fetch from, where to keep what was fetched, and how patiently: the settings that Python's `huggingface_hub`
//! reads from the environment, by the same names and with the same precedence.
//!
//! Differs from it: an empty variable counts as unset, and `$NAME` inside a path is not expanded (`~` is).

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::client::Origin;
use crate::error::{Error, Result};

/// The hub that is asked when nothing else is said.
pub const ENDPOINT: &str = "https://huggingface.co";

/// Seconds without a word from a server until it counts as lost.
const TIMEOUT: u64 = 10;

/// Seconds until the first new attempt; each one after waits twice as long.
const FIRST_WAIT: f64 = 0.5;

/// Where to fetch from, where to keep it, and how patiently.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of the hub, without `/` in the end. [`ENDPOINT`], or `HF_ENDPOINT`.
    pub endpoint: String,
    /// Folder of what was fetched. `HF_HUB_CACHE` or `HUGGINGFACE_HUB_CACHE`; else the folder `hub` of `HF_HOME`, which
    /// is `huggingface` in `XDG_CACHE_HOME` or `~/.cache`.
    pub cache: PathBuf,
    /// Who asks. `HF_TOKEN` or `HUGGING_FACE_HUB_TOKEN`; else the file `HF_TOKEN_PATH`, which is `token` in `HF_HOME`.
    /// It is sent to the endpoint alone, never to where that redirects to.
    pub token: Option<Token>,
    /// Use what is on disk and nothing else. `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`.
    pub offline: bool,
    /// Link a snapshot's files to the blobs; where that is impossible, and with false, they are copies.
    /// `HF_HUB_DISABLE_SYMLINKS`.
    pub symlinks: bool,
    /// Whether progress may be shown. `HF_HUB_DISABLE_PROGRESS_BARS`.
    pub progress: bool,
    /// Longest silence of a server that is asked about a file. `HF_HUB_ETAG_TIMEOUT`, in seconds.
    pub metadata_timeout: Duration,
    /// Longest silence of a server that sends a file. `HF_HUB_DOWNLOAD_TIMEOUT`, in seconds.
    pub download_timeout: Duration,
    /// New attempts after a failure that may pass. Bytes that arrive make it forget the failures before.
    pub retries: u32,
    /// Time until the first new attempt; each one after waits twice as long, unless the server says how long.
    pub first_wait: Duration,
}

impl Settings {
    /// What the environment says.
    ///
    /// # Errors
    /// [`Error::Argument`] that names the variable that cannot be used, [`Error::Read`] for the file with the token.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// What the variables say that `variable` finds by their names.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    pub fn from_variables(variable: &dyn Fn(&'static str) -> Option<OsString>) -> Result<Self> {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()).map(|value| (*name, value)))
        };
        let text = |names: &[&'static str]| match first(names) {
            Some((name, value)) => match value.into_string() {
                Ok(value) => Ok(Some(value.trim().to_owned())),
                Err(_) => Err(argument(name, "(not text)", "it must be text")),
            },
            None => Ok(None),
        };
        let is_true = |names: &[&'static str]| -> Result<bool> {
            let value = text(names)?.unwrap_or_default().to_ascii_uppercase();
            Ok(["1", "ON", "YES", "TRUE"].contains(&value.as_str()))
        };
        let seconds = |name: &'static str| -> Result<Duration> {
            let Some(value) = text(&[name])? else { return Ok(Duration::from_secs(TIMEOUT)) };
            match value.parse() {
                Ok(0) => Ok(Duration::from_secs(TIMEOUT)),
                Ok(seconds) => Ok(Duration::from_secs(seconds)),
                Err(_) => Err(argument(name, &value, "it must be a whole number of seconds")),
            }
        };
        let home = first(&["HOME", "USERPROFILE"]).map(|(_, home)| PathBuf::from(home));
        let path = |names: &[&'static str]| first(names).map(|(_, path)| expand(path.into(), home.as_deref()));
        let hf_home = path(&["HF_HOME"]).or_else(|| {
            let caches = path(&["XDG_CACHE_HOME"]).or_else(|| Some(home.as_ref()?.join(".cache")));
            Some(caches?.join("huggingface"))
        });
        let cache = path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]);
        let Some(cache) = cache.or_else(|| Some(hf_home.as_ref()?.join("hub"))) else {
            return Err(argument(
                "HF_HOME",
                "",
                "there is no home folder; say where files that are fetched shall be kept",
            ));
        };
        let token = match text(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])? {
            _ if is_true(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"])? => None,
            Some(token) => Token::new(&token)?,
            None => match path(&["HF_TOKEN_PATH"]).or_else(|| Some(hf_home?.join("token"))) {
                Some(file) => Token::read(&file)?,
                None => None,
            },
        };
        let endpoint = check_endpoint(&text(&["HF_ENDPOINT"])?.unwrap_or_else(|| ENDPOINT.to_owned()))?;
        Ok(Self {
            endpoint,
            cache,
            token,
            offline: is_true(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])?,
            symlinks: !is_true(&["HF_HUB_DISABLE_SYMLINKS"])?,
            progress: !is_true(&["HF_HUB_DISABLE_PROGRESS_BARS"])?,
            metadata_timeout: seconds("HF_HUB_ETAG_TIMEOUT")?,
            download_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT")?,
            retries: 5,
            first_wait: Duration::from_secs_f64(FIRST_WAIT),
        })
    }
}

/// The endpoint without `/` in the end.
///
/// # Errors
/// [`Error::Argument`] unless it is an address that begins with `http://` or `https://` and has no query.
pub(super) fn check_endpoint(endpoint: &str) -> Result<String> {
    let trimmed = endpoint.trim_end_matches('/');
    if Origin::of(trimmed).is_none() || trimmed.contains(['?', '#', '@']) {
        return Err(argument("endpoint", endpoint, "it must be an address such as https://huggingface.co"));
    }
    Ok(trimmed.to_owned())
}

/// `~` at the beginning is the home folder.
fn expand(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

fn argument(name: &'static str, value: &str, reason: &str) -> Error {
    Error::Argument { name, value: value.to_owned(), reason: reason.to_owned() }
}

/// A secret that says who asks. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token, or none when there is only white space.
    ///
    /// # Errors
    /// [`Error::Argument`]: characters that no token has.
    pub fn new(text: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(argument("token", "(not shown)", "it must be one word of ASCII characters"));
        }
        Ok((!text.is_empty()).then(|| Self(text.to_owned())))
    }

    /// The token in a file, if there is such a file.
    fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::new(&text),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(source) => Err(Error::Read { path: path.into(), source }),
        }
    }

    /// What the header says.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&'static str, &str)]) -> Result<Settings> {
        let find = |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        Settings::from_variables(&find)
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cases: [(&[_], &str); 7] = [
            (&[("HOME", "/h")], "/h/.cache/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/hf")], "/hf/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "~/hf")], "/h/hf/hub"),
            (&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
            (&[("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/new"),
            (&[("HF_HUB_CACHE", ""), ("HF_HOME", "/hf")], "/hf/hub"),
        ];
        for (variables, cache) in cases {
            assert_eq!(read(variables).unwrap().cache, Path::new(cache), "{variables:?}");
        }
        assert!(read(&[]).unwrap_err().to_string().contains("HF_HOME"));
    }

    #[test]
    fn the_token_is_found_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let token = |variables: &[_]| read(&[&[("HF_HOME", home)], variables].concat()).unwrap().token;
        let header = |variables: &[_]| token(variables).map(|token| token.header());
        assert_eq!(header(&[]), None);
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(folder.path().join("other"), " hf_other\r\n").unwrap();
        let other = folder.path().join("other");
        assert_eq!(header(&[]).unwrap(), "Bearer hf_file");
        assert_eq!(header(&[("HF_TOKEN_PATH", other.to_str().unwrap())]).unwrap(), "Bearer hf_other");
        assert_eq!(header(&[("HUGGING_FACE_HUB_TOKEN", "hf_old")]).unwrap(), "Bearer hf_old");
        assert_eq!(header(&[("HUGGING_FACE_HUB_TOKEN", "hf_old"), ("HF_TOKEN", "hf_new")]).unwrap(), "Bearer hf_new");
        assert_eq!(header(&[("HF_TOKEN", "hf_new"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert!(!format!("{:?}", token(&[])).contains("hf_"));
        assert!(!Token::new("hf_a\nX: b").unwrap_err().to_string().contains("hf_a"));
    }

    #[test]
    fn switches_and_numbers() {
        let read = |name, value| read(&[("HOME", "/h"), (name, value)]);
        assert!(!read("HF_HUB_OFFLINE", "0").unwrap().offline);
        assert!(read("HF_HUB_OFFLINE", "yes").unwrap().offline && read("TRANSFORMERS_OFFLINE", "1").unwrap().offline);
        assert!(!read("HF_HUB_DISABLE_PROGRESS_BARS", "True").unwrap().progress);
        assert_eq!(read("HF_HUB_DOWNLOAD_TIMEOUT", "30").unwrap().download_timeout, Duration::from_secs(30));
        assert!(read("HF_HUB_ETAG_TIMEOUT", "soon").unwrap_err().to_string().contains("HF_HUB_ETAG_TIMEOUT"));
        assert_eq!(read("HF_ENDPOINT", "http://a:1/hf/").unwrap().endpoint, "http://a:1/hf");
        for wrong in ["a.com", "ftp://a", "https://", "http://u@a", "https://a?b"] {
            assert!(read("HF_ENDPOINT", wrong).unwrap_err().to_string().contains("endpoint"), "{wrong}");
        }
    }
}
