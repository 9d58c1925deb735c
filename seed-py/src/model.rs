//! A name, folder or repository -> the model that is opened.

use std::path::PathBuf;

use pyo3::prelude::*;
use seed_core::{
    DType, Device, Error, Model, Result,
    checkpoint::hub::{Event, Hub, MAIN, Repo, Selection, Settings, Token, Watch},
    pixels::{Limits, Preset},
};

use crate::{call::Context, errors::argument};

/// The name of the model that every build carries.
pub(crate) const BUNDLED: &str = "bundled";

/// What `from_pretrained` was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// `bundled`, a folder, or a repository.
    pub(crate) model: String,
    /// Whether the model can only be a folder, because it was given as a path.
    pub(crate) is_path: bool,
    pub(crate) revision: Option<String>,
    pub(crate) cache_dir: Option<PathBuf>,
    pub(crate) local_files_only: bool,
    pub(crate) device: Device,
    pub(crate) dtype: DType,
    pub(crate) preprocess: Option<Preset>,
    pub(crate) limits: Limits,
}

/// Who asks a hub.
pub(crate) enum Access {
    /// Whoever the environment says.
    Environment,
    /// Nobody.
    Anonymous,
    /// This one. It is kept nowhere.
    As(String),
}

/// What is told while files arrive: the file, bytes that are here, bytes of the whole if known.
pub(crate) type Arrived = (String, u64, Option<u64>);

/// What the name stands for.
enum Place {
    Bundled,
    Folder(PathBuf),
    Hub(Repo),
}

impl Wanted {
    fn place(&self) -> Result<Place> {
        if self.model == BUNDLED && !self.is_path {
            return Ok(Place::Bundled);
        }
        let path = PathBuf::from(&self.model);
        let is_name = !self.is_path
            && self.model.split('/').count() == 2
            && !path.is_absolute()
            && !self.model.starts_with(['.', '~'])
            && !path.exists();
        match is_name {
            true => Repo::new(&self.model, self.revision.as_deref().unwrap_or(MAIN)).map(Place::Hub),
            false => std::path::absolute(&path).map(Place::Folder).map_err(|source| Error::Read { path, source }),
        }
    }

    /// The model's files, fetched if need be, and these options so that another process finds the very same.
    ///
    /// # Errors
    /// Those of a hub; [`Error::Bundle`] for a repository that holds no bundle.
    pub(crate) fn find(mut self, access: Access, context: &Context<Arrived>) -> Result<(Model, Self)> {
        match self.place()? {
            Place::Bundled => Ok((Model::Bundled, self)),
            Place::Folder(path) => {
                self.model = path.display().to_string();
                self.is_path = true;
                Ok((Model::Folder(path), self))
            }
            Place::Hub(repo) => {
                let (folder, commit) = self.fetch(&repo, access, context)?;
                self.revision = Some(commit);
                Ok((Model::Folder(folder), self))
            }
        }
    }

    /// Fetches a bundle; its folder and commit.
    fn fetch(&self, repo: &Repo, access: Access, context: &Context<Arrived>) -> Result<(PathBuf, String)> {
        let mut settings = Settings::from_env()?;
        if let Some(folder) = &self.cache_dir {
            settings.cache.clone_from(folder);
        }
        match access {
            Access::Environment => {}
            Access::Anonymous => settings.token = None,
            Access::As(token) => settings.token = Token::new(&token)?,
        }
        settings.offline |= self.local_files_only;
        let offline = settings.offline;
        let hub = Hub::new(settings)?;
        let mut size = None;
        let mut report = |event: Event<'_>| match event {
            Event::Begin { file, done, size: whole } => {
                size = whole;
                context.tell((file.to_owned(), done, size));
            }
            Event::Bytes { file, done } => context.tell((file.to_owned(), done, size)),
            _ => {}
        };
        let mut watch = Watch { stop: context.stop(), report: &mut report };
        let no_bundle = || Error::Bundle {
            path: repo.id().into(),
            reason:
                "the repository has no config.json and model.safetensors of a bundle; official files are fetched by \
                     `seed fetch` and become a bundle by seed_tokenizer.convert"
                    .to_owned(),
        };
        // Asked first: other repositories may hold gigabytes that are of no use here.
        if !offline {
            let files = hub.list(repo, &mut watch)?.files;
            if !["config.json", "model.safetensors"].iter().all(|needed| files.iter().any(|file| file == needed)) {
                return Err(no_bundle());
            }
        }
        let fetched = hub.folder(repo, &Selection::default(), &mut watch)?;
        fetched.into_iter().next().map(|first| (first.folder, first.commit)).ok_or_else(no_bundle)
    }
}

/// A device as people name it: text, or torch's object.
pub(crate) fn device(py: Python<'_>, given: &Bound<'_, PyAny>) -> PyResult<Device> {
    use crate::errors::Raised as _;
    given.str()?.to_string().parse().raised(py)
}

/// A dtype as people name it: by this library's names, numpy's or torch's, or one of their objects.
pub(crate) fn dtype(py: Python<'_>, given: &Bound<'_, PyAny>) -> PyResult<DType> {
    let text = match given.getattr("__name__") {
        Ok(name) => name.str()?.to_string(), // numpy.float32
        Err(_) => given.str()?.to_string(),
    };
    match text.strip_prefix("torch.").unwrap_or(&text) {
        "float32" | "f32" | "fp32" | "float" => Ok(DType::F32),
        "float16" | "f16" | "fp16" | "half" => Ok(DType::F16),
        "bfloat16" | "bf16" => Ok(DType::BF16),
        "int8" | "i8" => Ok(DType::Int8),
        _ => Err(argument(py, "dtype", &text, "the dtypes are float32, float16, bfloat16 and int8")),
    }
}

/// The name of a dtype in Python.
pub(crate) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        DType::Int8 => "int8",
    }
}
