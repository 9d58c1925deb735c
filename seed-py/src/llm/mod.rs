//! Images inside language models: `Template`, `Constraint` and what `seed_tokenizer.llm` is made of.

mod streams;

use std::path::PathBuf;

use numpy::{
    PyArray1, PyArrayDescrMethods as _, PyArrayDyn, PyArrayMethods as _, PyUntypedArray, PyUntypedArrayMethods as _,
};
use pyo3::{intern, prelude::*, types::PyTuple};
use seed_core::llm::{self, Next, Prompt, Reply, TemplateConfig, grammar};

pub(crate) use streams::{_Packer, _Reader};

use crate::{
    arrays,
    call::compute,
    errors::{Raised as _, argument, because, raise},
    evaluate::{report, to_python},
};

/// How a language model writes images: an image is a block, the text before it, its codes, the text after it.
///
/// What is not given is SEED-LLaMA's, 8B and 14B: `<img><img_00012>...</img>`, with code 0 at id 32000 and the marks after the
/// codes. A template in which a text could be read as another is refused.
///
/// Args:
///     codebook_size (int): Rows of the codebook.
///     tokens (int): Codes of an image.
///     offset (int): Id of code 0; the others follow.
///     begin_id (int | None): Id of the text before an image; by default the one after the codes.
///     end_id (int | None): Id of the text after an image; by default the one after `begin_id`.
///     begin (str): Text before an image.
///     end (str): Text after an image.
///     token (str): Text of a code, with `{}` for its number; `{:05}` fills it up to five digits.
///
/// Raises:
///     ArgumentError: Sizes, ids or texts that are not possible together.
#[pyclass(name = "Template", module = "seed_tokenizer.llm", frozen)]
pub(crate) struct Template(pub(crate) llm::Template);

#[pymethods]
impl Template {
    #[new]
    #[pyo3(signature = (
        codebook_size = 8192, tokens = 32, offset = 32000, *, begin_id = None, end_id = None, begin = "<img>", end = "</img>",
        token = "<img_{:05}>"
    ))]
    #[allow(clippy::too_many_arguments)] // Python names them
    fn new(
        py: Python<'_>,
        codebook_size: usize,
        tokens: usize,
        offset: u32,
        begin_id: Option<u32>,
        end_id: Option<u32>,
        begin: &str,
        end: &str,
        token: &str,
    ) -> PyResult<Self> {
        let own = TemplateConfig::for_codebook(codebook_size, tokens, offset);
        let begin_id = begin_id.unwrap_or(own.begin_id);
        let end_id = end_id.unwrap_or(begin_id.saturating_add(1));
        let [begin, end, token] = [begin, end, token].map(str::to_owned);
        Ok(Self(llm::Template::new(TemplateConfig { begin_id, end_id, begin, end, token, ..own }).raised(py)?))
    }

    /// What was chosen, by the names of the arguments.
    #[getter]
    fn config(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        to_python(py, self.0.config())
    }

    /// Ids of an image: its codes and two marks.
    #[getter]
    fn block_length(&self) -> usize {
        self.0.block_len()
    }

    /// The largest id of its tokens; a model's vocabulary has more rows than that.
    #[getter]
    fn last_id(&self) -> u32 {
        self.0.last_id()
    }

    /// Lists the tokens.
    ///
    /// Returns:
    ///     list[tuple[int, str, bool]]: Id, text, and whether it is a mark rather than a code; by id.
    fn vocabulary(&self) -> Vec<(u32, String, bool)> {
        self.0.vocabulary().into_iter().map(|token| (token.id, token.text, token.is_mark)).collect()
    }

    /// Writes images as text, block after block.
    ///
    /// Args:
    ///     codes (Any): Whole numbers, [images, tokens], or [tokens] of one image, in anything that numpy reads.
    ///
    /// Returns:
    ///     str: The text.
    ///
    /// Raises:
    ///     CodesError: Codes of another model.
    fn codes_to_text(&self, py: Python<'_>, codes: &Bound<'_, PyAny>) -> PyResult<String> {
        self.0.codes_to_text(&self.take(codes)?).raised(py)
    }

    /// Writes images as ids, block after block.
    ///
    /// Args:
    ///     codes (Any): As in `codes_to_text`.
    ///
    /// Returns:
    ///     NDArray[np.int64]: The ids.
    ///
    /// Raises:
    ///     CodesError: Codes of another model.
    fn codes_to_ids<'py>(&self, py: Python<'py>, codes: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Ok(from_ids(py, &self.0.codes_to_ids(&self.take(codes)?).raised(py)?))
    }

    /// Reads text that is images, block after block, and nothing else; `TextParser` finds images in replies.
    ///
    /// Args:
    ///     text (str): The text.
    ///
    /// Returns:
    ///     NDArray[np.uint16]: Codes, [images, tokens].
    ///
    /// Raises:
    ///     CodesError: Text that is no image, with its place and what is wrong.
    fn text_to_codes<'py>(&self, py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
        arrays::from_codes(py, &self.0.text_to_codes(text).raised(py)?, false)
    }

    /// Reads ids that are images, block after block, and nothing else; `IdParser` finds images in replies.
    ///
    /// Args:
    ///     ids (Any): Whole numbers in anything that numpy reads.
    ///
    /// Returns:
    ///     NDArray[np.uint16]: Codes, [images, tokens].
    ///
    /// Raises:
    ///     CodesError: Ids that are no image, with their place and what is wrong.
    fn ids_to_codes<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        arrays::from_codes(py, &self.0.ids_to_codes(&take_ids(ids, "ids")?).raised(py)?, false)
    }

    /// Makes a grammar for llguidance, by ids: an image has exactly as many codes as it must have.
    ///
    /// Args:
    ///     reply (str): What a reply may be: "image", one and nothing else, or "interleaved", text and images.
    ///
    /// Returns:
    ///     str: The grammar, in Lark as llguidance reads it.
    #[pyo3(signature = (reply = "interleaved"))]
    fn llguidance(&self, py: Python<'_>, reply: &str) -> PyResult<String> {
        Ok(grammar::llguidance(&self.0, reply.parse().raised(py)?))
    }

    /// Makes a grammar for llama.cpp, by texts: an image has exactly as many codes as it must have.
    ///
    /// Args:
    ///     reply (str): As in `llguidance`.
    ///
    /// Returns:
    ///     str: The grammar, in GBNF.
    #[pyo3(signature = (reply = "interleaved"))]
    fn gbnf(&self, py: Python<'_>, reply: &str) -> PyResult<String> {
        Ok(grammar::gbnf(&self.0, reply.parse().raised(py)?))
    }

    /// Makes a chat template for transformers. What a message says is a text, or a list of {"type": "text", "text": ...} and
    /// {"type": "image", "codes": [...]}.
    ///
    /// Args:
    ///     prompt (str): "seed-llama-8b" or "seed-llama-14b".
    ///
    /// Returns:
    ///     str: The template, in Jinja.
    #[pyo3(signature = (prompt = "seed-llama-8b"))]
    fn chat_template(&self, py: Python<'_>, prompt: &str) -> PyResult<String> {
        Ok(prompt.parse::<Prompt>().raised(py)?.chat_template(&self.0))
    }

    fn __repr__(&self) -> String {
        let TemplateConfig { codebook_size, tokens, offset, begin_id, end_id, begin, end, token } = self.0.config();
        format!(
            "Template({codebook_size}, {tokens}, {offset}, begin_id={begin_id}, end_id={end_id}, begin={begin:?}, end={end:?}, \
             token={token:?})"
        )
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let TemplateConfig { codebook_size, tokens, offset, begin_id, end_id, begin, end, token } = self.0.config();
        let restore = py.import("seed_tokenizer._native")?.getattr("_restore_template")?;
        let values = (codebook_size, tokens, offset, begin_id, end_id, begin, end, token);
        Ok((restore, values.into_pyobject(py)?))
    }
}

impl Template {
    fn take(&self, codes: &Bound<'_, PyAny>) -> PyResult<seed_core::Codes> {
        let config = self.0.config();
        Ok(arrays::take_codes(codes, config.tokens, config.codebook_size, "codes")?.codes)
    }
}

/// Makes the template of a pickle.
///
/// Args:
///     codebook_size (int): As in `Template`.
///     tokens (int): As in `Template`.
///     offset (int): As in `Template`.
///     begin_id (int): As in `Template`.
///     end_id (int): As in `Template`.
///     begin (str): As in `Template`.
///     end (str): As in `Template`.
///     token (str): As in `Template`.
///
/// Returns:
///     Template: The same template.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // Python names them
pub(crate) fn _restore_template(
    py: Python<'_>,
    codebook_size: usize,
    tokens: usize,
    offset: u32,
    begin_id: u32,
    end_id: u32,
    begin: &str,
    end: &str,
    token: &str,
) -> PyResult<Template> {
    Template::new(py, codebook_size, tokens, offset, Some(begin_id), Some(end_id), begin, end, token)
}

/// Holds a reply to a template: says which ids may come next.
///
/// Args:
///     template (Template): How images are written.
///     reply (str): What a reply may be: "image", one and nothing else, or "interleaved", text and images.
///     stop (Any): Ids that end a reply; "image" needs one.
///
/// Raises:
///     ArgumentError: A reply that could not end.
#[pyclass(name = "Constraint", module = "seed_tokenizer.llm", frozen)]
pub(crate) struct Constraint {
    core: llm::Constraint,
    template: Py<Template>,
    reply: Reply,
    stop: Vec<u32>,
}

#[pymethods]
impl Constraint {
    #[new]
    #[pyo3(signature = (template, reply = "interleaved", stop = None))]
    fn new(template: Bound<'_, Template>, reply: &str, stop: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let py = template.py();
        let reply: Reply = reply.parse().raised(py)?;
        let stop = stop.map_or_else(|| Ok(Vec::new()), |stop| take_ids(stop, "stop"))?;
        let core = llm::Constraint::new(template.get().0.clone(), reply, stop.clone()).raised(py)?;
        Ok(Self { core, template: template.unbind(), reply, stop })
    }

    /// Says what may come after a prompt and the reply so far. An image may have begun in the prompt.
    ///
    /// Args:
    ///     prompt (Any): Ids of the prompt.
    ///     reply (Any): Ids of the reply so far.
    ///
    /// Returns:
    ///     str: "text", any id but a code or an end mark; "begin", the begin mark; "code"; "end", the end mark; or "stop".
    fn next(&self, prompt: &Bound<'_, PyAny>, reply: &Bound<'_, PyAny>) -> PyResult<&'static str> {
        let next = self.core.next(&take_ids(prompt, "prompt")?, &take_ids(reply, "reply")?);
        Ok(NEXT.iter().find(|(own, _)| *own == next).map_or("text", |(_, name)| name))
    }

    /// Says which ids of a vocabulary may come.
    ///
    /// Args:
    ///     next (str): What `next` says.
    ///     vocabulary (int): Ids of the vocabulary: as many as there are logits.
    ///
    /// Returns:
    ///     NDArray[np.bool_]: Whether each id may come.
    ///
    /// Raises:
    ///     ArgumentError: A vocabulary without the tokens of images.
    fn mask<'py>(&self, py: Python<'py>, next: &str, vocabulary: usize) -> PyResult<Bound<'py, PyAny>> {
        let Some((next, _)) = NEXT.iter().find(|(_, name)| *name == next) else {
            return Err(argument(py, "next", next, "it is text, begin, code, end or stop"));
        };
        Ok(PyArray1::from_vec(py, self.core.mask(*next, vocabulary).raised(py)?).into_any())
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let values = (self.template.clone_ref(py), self.reply.to_string(), self.stop.clone());
        Ok((py.get_type::<Self>().into_any(), values.into_pyobject(py)?))
    }
}

const NEXT: [(Next, &str); 5] =
    [(Next::Text, "text"), (Next::Begin, "begin"), (Next::Code, "code"), (Next::End, "end"), (Next::Stop, "stop")];

/// Writes a conversation as SEED-LLaMA was tuned on it, from the beginning mark of a text to where the reply begins.
///
/// Args:
///     prompt (str): "seed-llama-8b" or "seed-llama-14b".
///     turns (Sequence[str]): What is said in turn, a question first; images as the text of a template.
///     system (str): What is said before all; nothing by default.
///
/// Returns:
///     str: The text.
///
/// Raises:
///     ArgumentError: Another prompt.
#[pyfunction]
#[pyo3(signature = (prompt, turns, *, system = ""))]
pub(crate) fn render_prompt(py: Python<'_>, prompt: &str, turns: Vec<String>, system: &str) -> PyResult<String> {
    let turns: Vec<&str> = turns.iter().map(String::as_str).collect();
    Ok(prompt.parse::<Prompt>().raised(py)?.render(system, &turns))
}

/// Adds the tokens of images to the tokenizer of a language model: tokenizer.json, tokenizer_config.json and
/// special_tokens_map.json, if they are there. Done twice it adds nothing.
///
/// Args:
///     folder (str | os.PathLike[str]): Folder of the tokenizer.
///     out (str | os.PathLike[str]): Folder for the result; another one.
///     template (Template): Its tokens.
///     chat (str | None): Add a chat template: "seed-llama-8b" or "seed-llama-14b".
///
/// Returns:
///     Report: Tokens that were added and that were there, ids of the tokenizer now, and files.
///
/// Raises:
///     VocabularyError: Files that are no tokenizer's, or tokens that would not get their ids.
#[pyfunction]
#[pyo3(signature = (folder, out, template, *, chat = None))]
pub(crate) fn extend_tokenizer(
    py: Python<'_>,
    folder: PathBuf,
    out: PathBuf,
    template: &Bound<'_, Template>,
    chat: Option<&str>,
) -> PyResult<Py<PyAny>> {
    let chat = chat.map(str::parse).transpose().raised(py)?;
    let template = template.get().0.clone();
    let done = compute(py, move |_| llm::extend_tokenizer(&folder, &out, &template, chat))?;
    report(py, &done)
}

/// Says which id code 0 has in a tokenizer, or would get.
///
/// Args:
///     folder (str | os.PathLike[str]): Folder of the tokenizer.
///     token (str): Text of a code, as in `Template`.
///
/// Returns:
///     int: The offset for a `Template`.
///
/// Raises:
///     VocabularyError: Files that are no tokenizer's.
#[pyfunction]
#[pyo3(signature = (folder, token = "<img_{:05}>"))]
pub(crate) fn offset_for(py: Python<'_>, folder: PathBuf, token: &str) -> PyResult<u32> {
    let config = TemplateConfig { token: token.to_owned(), ..TemplateConfig::seed_llama() };
    compute(py, move |_| llm::offset_for(&folder, &config))
}

/// Ids as `int64`.
fn from_ids<'py>(py: Python<'py>, ids: &[u32]) -> Bound<'py, PyAny> {
    PyArray1::from_vec(py, ids.iter().map(|&id| i64::from(id)).collect()).into_any()
}

/// Takes ids: whole numbers [ids] in anything that numpy reads.
fn take_ids(given: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Vec<u32>> {
    let py = given.py();
    let read = py.import(intern!(py, "numpy"))?.call_method1(intern!(py, "asarray"), (given,));
    let array = read
        .and_then(|array| Ok(array.cast_into::<PyUntypedArray>()?))
        .map_err(|error| because(py, error, argument(py, name, "no array", "ids are whole numbers")))?;
    if array.shape().len() != 1 {
        return Err(argument(py, name, format!("an array {:?}", array.shape()), "ids are of one dimension"));
    }
    if !matches!(array.dtype().kind(), b'i' | b'u') && array.shape() != [0] {
        return Err(raise(
            py,
            "InputTypeError",
            &format!("{name} is an array of {}; ids are whole numbers", array.dtype()),
        ));
    }
    let wide = array.call_method1(intern!(py, "astype"), ("int64",))?.cast_into::<PyArrayDyn<i64>>()?;
    let ids = wide.readonly();
    let id = |&id: &i64| u32::try_from(id).map_err(|_| argument(py, name, id, "ids are from 0 to 4294967295"));
    ids.as_array().iter().map(id).collect()
}
