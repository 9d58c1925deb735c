//! `seed fetch`: published weights -> files on disk.

use std::{io::Write as _, path::PathBuf, time::Instant};

use anyhow::bail;
use seed_core::{
    Error,
    checkpoint::hub::{
        Check, Content, Event, Fetched, Hub, KNOWN, Known, MAIN, Repo, Selection, Settings, Token, UrlFile, Watch,
    },
};
use serde_json::{Value, json};

use crate::{interrupt, options::Global, outcome::Outcome, progress::Progress};

/// Fetch published weights.
#[derive(clap::Args, Debug)]
#[command(after_help = "Models with a name of their own:
  seed-2     the tokenizer SEED-2, and the ViT that it stands on
  seed-1     the tokenizer SEED-1, and the ViT; its repository differs by mirror: --repo
  decoder    the diffusion decoder of SEED-2 (Stable Diffusion 2.1 unCLIP), by a mirror of the withdrawn original
  decoder-1  the diffusion decoder of SEED-1 (Stable Diffusion 1.4)

Files lie where Python's huggingface_hub keeps them, and what it has fetched is found. What breaks off is continued by
the same command; what arrives is checked against the hash that the hub announces. The path of each file is printed on
standard output.

Read from the environment, as huggingface_hub does: HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HOME, HF_HUB_CACHE,
HF_HUB_OFFLINE, HF_HUB_DISABLE_PROGRESS_BARS, HF_HUB_DISABLE_SYMLINKS, HF_HUB_DOWNLOAD_TIMEOUT, HF_HUB_ETAG_TIMEOUT.

Examples:
  seed fetch seed-2
  seed fetch decoder --variant fp16
  seed fetch openai/clip-vit-base-patch32 config.json")]
pub(crate) struct Args {
    /// seed-2, seed-1, decoder, decoder-1, or a repository OWNER/NAME
    #[arg(value_name = "MODEL", value_parser = parse_model)]
    model: Model,
    /// Files of the repository [default: those that SEED reads]
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    /// Repository of a mirror that has the named model
    #[arg(long, value_name = "OWNER/NAME")]
    repo: Option<String>,
    /// Branch, tag or commit
    #[arg(long, value_name = "REVISION", default_value = MAIN)]
    revision: String,
    /// Address of the hub [default: HF_ENDPOINT, or huggingface.co]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Folder for what is fetched [default: HF_HUB_CACHE, or ~/.cache/huggingface/hub]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Token of the hub; other users of this machine can see it here, and not in HF_TOKEN
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Use what is on disk, and no network
    #[arg(long)]
    local_files_only: bool,
    /// Variant of the weights, such as fp16
    #[arg(long, value_name = "NAME", conflicts_with = "files")]
    variant: Option<String>,
    /// Print a JSON object with the folder, the files and how each is verified
    #[arg(long)]
    json: bool,
}

/// What to fetch.
#[derive(Clone, Debug)]
enum Model {
    Known(&'static Known),
    Repository(String),
}

fn parse_model(name: &str) -> Result<Model, String> {
    match Known::find(name) {
        Some(known) => Ok(Model::Known(known)),
        None if name.contains('/') => Ok(Model::Repository(name.to_owned())),
        None => {
            let names: Vec<_> = KNOWN.iter().map(|known| known.name).collect();
            Err(format!("it must be one of {}, or a repository OWNER/NAME", names.join(", ")))
        }
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let job = Job::new(args)?;
    let hub = Hub::new(settings(args)?)?;
    let licences = job.licences(&hub);
    for (of, text) in &licences {
        global.note(|| format!("licence of {of}: {text}"));
    }
    let mut watcher = Watcher { global, shown: hub.settings().progress, bar: None };
    let mut report = |event: Event<'_>| watcher.see(&event);
    let fetched = job.fetch(&hub, &mut Watch { stop: &interrupt::STOP, report: &mut report });
    drop(watcher);
    let fetched = match fetched {
        Ok(fetched) => fetched,
        Err(Error::Interrupted) => {
            eprintln!("interrupted; what has arrived is kept, the same command goes on from there");
            return Ok(Outcome::Interrupted);
        }
        Err(error) => return Err(error.into()),
    };
    for file in fetched.iter().filter(|file| matches!(file.check, Check::Size | Check::Nothing)) {
        global.note(|| format!("{} is not checksummed: its source announces no hash", file.file));
    }
    global.timed(start, || format!("{} files fetched", fetched.len()));
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&job.json(&fetched, &licences))?)?;
    } else {
        for file in &fetched {
            writeln!(out, "{}", file.path.display())?;
        }
    }
    out.flush()?;
    Ok(Outcome::Done)
}

/// The environment's settings, with what was said besides.
fn settings(args: &Args) -> seed_core::Result<Settings> {
    let mut settings = Settings::from_env()?;
    if let Some(endpoint) = &args.endpoint {
        settings.endpoint.clone_from(endpoint);
    }
    if let Some(folder) = &args.cache_dir {
        settings.cache.clone_from(folder);
    }
    if let Some(token) = &args.token {
        settings.token = Token::new(token)?;
    }
    settings.offline |= args.local_files_only;
    Ok(settings)
}

/// What to fetch, validated.
struct Job<'a> {
    known: Option<&'static Known>,
    repo: Repo,
    /// Files of the repository, one by one; or else those that are selected.
    files: Vec<&'a str>,
    selection: Option<Selection<'a>>,
    urls: Vec<UrlFile<'static>>,
}

impl<'a> Job<'a> {
    fn new(args: &'a Args) -> anyhow::Result<Self> {
        let known = match &args.model {
            Model::Known(known) => *known,
            Model::Repository(_) if args.repo.is_some() => {
                bail!("--repo is for models with a name of their own; leave one of the two repositories out")
            }
            Model::Repository(id) => {
                let repo = Repo::new(id, &args.revision)?;
                let selection = Selection { parts: &[], variant: args.variant.as_deref() };
                let selection = args.files.is_empty().then_some(selection);
                let files = args.files.iter().map(String::as_str).collect();
                return Ok(Self { known: None, repo, files, selection, urls: Vec::new() });
            }
        };
        let repo = known.repo(args.repo.as_deref(), &args.revision)?;
        let mut job = Self { known: Some(known), repo, files: Vec::new(), selection: None, urls: Vec::new() };
        if args.files.is_empty() {
            job.selection = known.selection(args.variant.as_deref())?;
            job.urls = known.urls.to_vec();
            if let Content::Files(files) = known.content {
                job.files = files.to_vec();
            }
        } else {
            let is_at_url = |file: &str| known.urls.iter().find(|url| url.file == file);
            job.urls = args.files.iter().filter_map(|file| is_at_url(file)).copied().collect();
            job.files = args.files.iter().map(String::as_str).filter(|file| is_at_url(file).is_none()).collect();
        }
        Ok(job)
    }

    /// What is under a licence, and which.
    fn licences(&self, hub: &Hub) -> Vec<(String, String)> {
        if let Some(known) = self.known {
            return known.licences.iter().map(|licence| (licence.of.to_owned(), licence.text.to_owned())).collect();
        }
        let page = format!("{}/{}", hub.settings().endpoint, self.repo.id());
        let text = match hub.license(&self.repo) {
            Some(licence) => format!("the model card says {licence}; see {page}"),
            None => format!("not known here; see {page}"),
        };
        vec![(self.repo.id().to_owned(), text)]
    }

    fn fetch(&self, hub: &Hub, watch: &mut Watch<'_>) -> seed_core::Result<Vec<Fetched>> {
        let mut fetched = Vec::new();
        if let Some(selection) = &self.selection {
            fetched = hub.folder(&self.repo, selection, watch)?;
        }
        for file in &self.files {
            fetched.push(hub.file(&self.repo, file, watch)?);
        }
        for url in &self.urls {
            fetched.push(hub.url(url, watch)?);
        }
        Ok(fetched)
    }

    fn json(&self, fetched: &[Fetched], licences: &[(String, String)]) -> Value {
        let files = fetched.iter().map(|file| {
            json!({
                "file": file.file,
                "path": file.path.display().to_string(),
                "bytes": file.bytes,
                "check": check(file.check),
            })
        });
        let licences = licences.iter().map(|(of, text)| json!({ "of": of, "text": text }));
        // The repository's files come first; a file from elsewhere lies in a folder of its own.
        let first = fetched.first().filter(|_| self.selection.is_some() || !self.files.is_empty());
        json!({
            "name": self.known.map_or(self.repo.id(), |known| known.name),
            "repo": self.repo.id(),
            "revision": self.repo.revision(),
            "commit": first.map(|file| file.commit.as_str()),
            "folder": first.map(|file| file.folder.display().to_string()),
            "files": files.collect::<Vec<_>>(),
            "licences": licences.collect::<Vec<_>>(),
        })
    }
}

/// How a file is verified, in a word.
fn check(check: Check) -> &'static str {
    match check {
        Check::OnDisk => "on disk",
        Check::Sha256 => "sha256",
        Check::Git => "git hash",
        Check::Size => "size",
        _ => "nothing",
    }
}

/// Shows how fetching goes.
struct Watcher<'a> {
    global: &'a Global,
    shown: bool,
    bar: Option<Progress>,
}

impl Watcher<'_> {
    fn see(&mut self, event: &Event<'_>) {
        match *event {
            Event::Begin { file, done, size } => {
                self.bar = None; // clears the one before
                let bar = self.shown.then(|| Progress::bytes(size, file, self.global));
                if let Some(bar) = &bar {
                    bar.start_from(usize::try_from(done).unwrap_or(usize::MAX));
                }
                self.bar = bar;
            }
            Event::Bytes { done, .. } => {
                if let Some(bar) = &self.bar {
                    bar.set(usize::try_from(done).unwrap_or(usize::MAX));
                }
            }
            Event::Ask { .. } => self.bar = None,
            Event::Locked { file } => self.say(|| format!("{file}: another program is fetching it; waiting for that")),
            Event::Retry { error, wait, .. } => {
                self.say(|| format!("{error}\n  trying again in {:.1} s", wait.as_secs_f64()));
            }
            Event::Again { file, error } => {
                self.say(|| format!("{file}: {}; fetching it once more", difference(error)))
            }
            _ => {}
        }
    }

    fn say(&self, text: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.global.note(text)),
            None => self.global.note(text),
        }
    }
}

/// What is wrong with a file that has one more chance.
fn difference(error: &Error) -> String {
    match error {
        Error::Damaged { what, expected, found, .. } => format!("its {what} is {found} where {expected} was announced"),
        other => other.to_string(),
    }
}
