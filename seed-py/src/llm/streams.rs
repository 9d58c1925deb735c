//! What takes its input in pieces: readers of replies and the packer of documents. `seed_tokenizer.llm` gives them their faces.

use std::sync::{Mutex, PoisonError};

use numpy::PyArray1;
use pyo3::{
    prelude::*,
    types::{PyDict, PyList},
};
use seed_core::{
    Error,
    llm::{IdParser, Mode, PackOptions, Packer, Piece, Segment, Sequence, TextParser},
};

use super::{Template, from_ids, take_ids};
use crate::{
    arrays,
    errors::{Raised as _, exception},
};

enum Parser {
    Ids(IdParser),
    Text(TextParser),
}

/// Finds images in a reply; under `TextParser` and `IdParser`.
///
/// Args:
///     template (Template): How images are written.
///     ids (bool): Whether the reply comes as ids rather than as text.
///     strict (bool): Whether a broken image is an error.
#[pyclass(module = "seed_tokenizer._native", frozen)]
pub(crate) struct _Reader(Mutex<Parser>);

/// Pieces as tuples of kind, text or ids or codes, and what there is to say; and an error.
type Told<'py> = (Bound<'py, PyList>, Option<Bound<'py, PyAny>>);

#[pymethods]
impl _Reader {
    #[new]
    fn new(template: &Bound<'_, Template>, ids: bool, strict: bool) -> Self {
        let template = template.get().0.clone();
        let mode = if strict { Mode::Strict } else { Mode::Lenient };
        Self(Mutex::new(match ids {
            true => Parser::Ids(IdParser::new(template, mode)),
            false => Parser::Text(TextParser::new(template, mode)),
        }))
    }

    /// Takes the next part of a reply.
    ///
    /// Args:
    ///     part (Any): Text or ids.
    ///
    /// Returns:
    ///     tuple[list[tuple[str, Any, Any]], Exception | None]: What is complete, and an error that came after it.
    fn push<'py>(&self, part: &Bound<'py, PyAny>) -> PyResult<Told<'py>> {
        let py = part.py();
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Parser::Ids(parser) => {
                let ids = take_ids(part, "ids")?;
                let mut pieces = Vec::new();
                let done = parser.push(&ids, &mut pieces);
                tell_ids(py, pieces, done)
            }
            Parser::Text(parser) => {
                let text: String = part.extract()?;
                let mut pieces = Vec::new();
                let done = parser.push(&text, &mut pieces);
                tell(py, pieces, done)
            }
        }
    }

    /// Ends the reply.
    ///
    /// Returns:
    ///     tuple[list[tuple[str, Any, Any]], Exception | None]: As `push`.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Told<'py>> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Parser::Ids(parser) => {
                let mut pieces = Vec::new();
                let done = parser.finish(&mut pieces);
                tell_ids(py, pieces, done)
            }
            Parser::Text(parser) => {
                let mut pieces = Vec::new();
                let done = parser.finish(&mut pieces);
                tell(py, pieces, done)
            }
        }
    }

    /// Begins another reply.
    fn reset(&self) {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Parser::Ids(parser) => parser.reset(),
            Parser::Text(parser) => parser.reset(),
        }
    }
}

fn tell_ids(py: Python<'_>, pieces: Vec<Piece<Vec<u32>>>, done: Result<(), Error>) -> PyResult<Told<'_>> {
    tell(py, pieces.into_iter().map(|piece| piece.map(|ids| from_ids(py, &ids))).collect(), done)
}

fn tell<'py, T: IntoPyObject<'py>>(
    py: Python<'py>,
    pieces: Vec<Piece<T>>,
    done: Result<(), Error>,
) -> PyResult<Told<'py>> {
    let list = PyList::empty(py);
    for piece in pieces {
        match piece {
            Piece::Text(text) => list.append(("text", text, py.None()))?,
            Piece::Image { codes, tolerated } => list.append(("image", PyArray1::from_vec(py, codes), tolerated))?,
            Piece::Skipped { what, fault } => list.append(("skipped", what, fault.to_string()))?,
        }
    }
    Ok((list, done.err().map(|error| exception(py, &error).into_value(py).into_bound(py).into_any())))
}

/// A segment: ids, or codes, and whether it is learned.
type Given<'py> = (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>, bool);

/// Packs documents into sequences; under `pack`.
///
/// Args:
///     template (Template): How images are written.
///     length (int): Ids of a sequence.
///     pad_id (int): Id that fills a sequence up.
///     bos_id (int | None): Id before each document.
///     eos_id (int | None): Id after each document.
///     open (int): Sequences that are kept open for what fits in.
#[pyclass(module = "seed_tokenizer._native", frozen)]
pub(crate) struct _Packer {
    packer: Mutex<Packer>,
    /// Codes of an image, rows of the codebook.
    sizes: (usize, usize),
}

#[pymethods]
impl _Packer {
    #[new]
    #[pyo3(signature = (template, length, pad_id, bos_id, eos_id, open))]
    fn new(
        template: &Bound<'_, Template>,
        length: usize,
        pad_id: u32,
        bos_id: Option<u32>,
        eos_id: Option<u32>,
        open: usize,
    ) -> PyResult<Self> {
        let py = template.py();
        let template = template.get().0.clone();
        let sizes = (template.config().tokens, template.config().codebook_size);
        let packer = Packer::new(template, PackOptions { length, pad_id, bos_id, eos_id, open }).raised(py)?;
        Ok(Self { packer: Mutex::new(packer), sizes })
    }

    /// Takes a document.
    ///
    /// Args:
    ///     document (Sequence[tuple[Any, Any, bool]]): For each segment ids or None, codes or None, and whether it is learned.
    ///
    /// Returns:
    ///     list[dict[str, Any]]: Sequences that are complete.
    fn push<'py>(&self, py: Python<'py>, document: Vec<Given<'py>>) -> PyResult<Bound<'py, PyList>> {
        let segment = |(ids, codes, loss): &Given<'_>| {
            Ok(match codes {
                Some(codes) => {
                    let codes = arrays::take_codes(codes, self.sizes.0, self.sizes.1, "codes")?.codes;
                    Segment::Images { codes, loss: *loss }
                }
                None => {
                    let ids = ids.as_ref().map_or_else(|| Ok(Vec::new()), |ids| take_ids(ids, "ids"))?;
                    Segment::Text { ids, loss: *loss }
                }
            })
        };
        let document: Vec<Segment> = document.iter().map(segment).collect::<PyResult<_>>()?;
        let complete = self.packer.lock().unwrap_or_else(PoisonError::into_inner).push(&document).raised(py)?;
        sequences(py, complete)
    }

    /// Ends the last sequences.
    ///
    /// Returns:
    ///     list[dict[str, Any]]: They, filled up.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        sequences(py, self.packer.lock().unwrap_or_else(PoisonError::into_inner).finish())
    }
}

/// Sequences by the names that models of transformers have for them.
fn sequences(py: Python<'_>, sequences: Vec<Sequence>) -> PyResult<Bound<'_, PyList>> {
    let list = PyList::empty(py);
    for sequence in sequences {
        let dict = PyDict::new(py);
        dict.set_item("input_ids", from_ids(py, &sequence.ids))?;
        let labels = sequence.labels.iter().map(|&label| i64::from(label)).collect();
        dict.set_item("labels", PyArray1::from_vec(py, labels))?;
        dict.set_item("position_ids", from_ids(py, &sequence.position_ids))?;
        let cu_seqlens = sequence.cu_seqlens.iter().map(|&end| end as i32).collect();
        dict.set_item("cu_seqlens", PyArray1::from_vec(py, cu_seqlens))?;
        let parts: Vec<(u64, usize, usize)> =
            sequence.parts.iter().map(|part| (part.document, part.start, part.len)).collect();
        dict.set_item("parts", parts)?;
        list.append(dict)?;
    }
    Ok(list)
}
