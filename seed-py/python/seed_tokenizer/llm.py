"""Images inside language models: their tokens as text and ids, in replies, in training data, in vocabularies, while sampling.

    template = Template()  # SEED-LLaMA's
    text = template.codes_to_text(codes)  # "<img><img_00012>...</img>"
    for piece in TextParser(template).push(reply):
        ...

    extend_tokenizer("llama-2-7b", "extended", template)
    model.generate(**inputs, logits_processor=[LogitsProcessor(template)])

Neither torch nor transformers are needed; logits may be torch's tensors or numpy's arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from seed_tokenizer._native import (
    Constraint,
    Template,
    _Packer,
    _Reader,
    extend_tokenizer,
    offset_for,
    render_prompt,
)
from seed_tokenizer.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Constraint",
    "IdParser",
    "Image",
    "LogitsProcessor",
    "Skipped",
    "Template",
    "Text",
    "TextParser",
    "VllmLogitsProcessor",
    "extend_tokenizer",
    "offset_for",
    "pack",
    "render_prompt",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Text(Generic[T]):
    """Text of a reply, or its ids."""

    text: T


@dataclass(frozen=True, eq=False)
class Image:
    """A complete image of a reply.

    Args:
        codes: Its codes, [tokens].
        tolerated: Places at which it was not spelled as the template says; 0 for a strict parser.
    """

    codes: NDArray[np.uint16]
    tolerated: int


@dataclass(frozen=True)
class Skipped(Generic[T]):
    """What is neither text nor an image; only a lenient parser gives it.

    Args:
        what: The text, or the ids.
        reason: What is wrong with it.
    """

    what: T
    reason: str


class _Parser(Generic[T]):
    def __init__(self, reader: _Reader, convert: Callable[[Any], T]) -> None:
        self._reader = reader
        self._convert = convert

    def finish(self) -> list[Text[T] | Image | Skipped[T]]:
        """Ends the reply.

        Returns:
            What was held back.

        Raises:
            CodesError: An image that is not complete.
        """
        return self._pieces(self._reader.finish())

    def reset(self) -> None:
        """Begins another reply."""
        self._reader.reset()

    def _pieces(self, told: tuple[list[tuple[str, Any, Any]], Exception | None]) -> list[Text[T] | Image | Skipped[T]]:
        pieces: list[Text[T] | Image | Skipped[T]] = []
        for kind, what, more in told[0]:
            if kind == "text":
                pieces.append(Text(self._convert(what)))
            elif kind == "image":
                pieces.append(Image(what, more))
            else:
                pieces.append(Skipped(self._convert(what), more))
        if told[1] is not None:
            told[1].pieces = pieces  # type: ignore[attr-defined]
            raise told[1]
        return pieces


class TextParser(_Parser[str]):
    """Finds images in the text of a reply, as it comes. A mark may be split over several parts.

    Args:
        template: How images are written.
        strict: Whether a broken image is a `CodesError`, whose `pieces` are what came before it. Otherwise it becomes a `Skipped`,
            and white space between an image's tokens, which tokenizers like to add, is read over.
    """

    def __init__(self, template: Template, *, strict: bool = True) -> None:
        super().__init__(_Reader(template, False, strict), str)

    def push(self, text: str) -> list[Text[str] | Image | Skipped[str]]:
        """Takes the next text.

        Args:
            text: Any part of the reply.

        Returns:
            What it completes; text is held back only while it may be the beginning of a mark.

        Raises:
            CodesError: A broken image; the parser takes nothing more until `reset`.
        """
        return self._pieces(self._reader.push(text))


class IdParser(_Parser[Any]):
    """Finds images in the ids of a reply, as they come.

    Args:
        template: How images are written.
        decode: Makes text of a list of ids, such as a tokenizer's `decode`; without it texts are arrays of ids.
        strict: As in `TextParser`.
    """

    def __init__(
        self, template: Template, decode: Callable[[list[int]], str] | None = None, *, strict: bool = True
    ) -> None:
        convert = (lambda ids: ids) if decode is None else (lambda ids: decode(ids.tolist()))
        super().__init__(_Reader(template, True, strict), convert)

    def push(self, ids: Any) -> list[Text[Any] | Image | Skipped[Any]]:
        """Takes the next ids.

        Args:
            ids: Whole numbers in anything that numpy reads.

        Returns:
            What they complete; ids of text are never held back.

        Raises:
            CodesError: A broken image; the parser takes nothing more until `reset`.
        """
        return self._pieces(self._reader.push(ids))


def pack(
    documents: Iterable[Sequence[Mapping[str, Any]]],
    template: Template,
    length: int,
    *,
    pad_id: int = 0,
    bos_id: int | None = None,
    eos_id: int | None = None,
    open: int = 8,
) -> Iterator[dict[str, Any]]:
    """Packs documents of text and images into sequences of one length. An image is never split.

    Args:
        documents: Each a list of segments: `{"ids": ..., "loss": True}` of text, `{"codes": ..., "loss": False}` of images. What
            has no loss, such as a prompt, is not learned; without "loss" a segment is.
        template: How images are written.
        length: Ids of a sequence.
        pad_id: Id that fills a sequence up.
        bos_id: Id before each document, never learned.
        eos_id: Id after each document, learned if the last segment is.
        open: Sequences that are kept open for documents that fit in.

    Yields:
        Arrays `input_ids`, `labels` (-100 where nothing is learned), `position_ids` (from 0 in each document) and `cu_seqlens` (where
        documents begin, then the padding, then the length), and `parts`: document, where in it, and how much.

    Raises:
        ArgumentError: A length that no image fits into; text that holds tokens of images.
        CodesError: Codes of another model.
    """
    packer = _Packer(template, length, pad_id, bos_id, eos_id, open)
    for document in documents:
        yield from packer.push([_segment(segment) for segment in document])
    yield from packer.finish()


def _segment(segment: Mapping[str, Any]) -> tuple[Any, Any, bool]:
    unknown = set(segment) - {"ids", "codes", "loss"}
    if unknown or ("ids" in segment) == ("codes" in segment):
        raise ArgumentError(f'a segment has "ids" or "codes", and perhaps "loss"; this one has {sorted(segment)}')
    return segment.get("ids"), segment.get("codes"), bool(segment.get("loss", True))


class _Masks:
    """Logits that may not come, set to minus infinity."""

    def __init__(self, constraint: Constraint) -> None:
        self.constraint = constraint
        self._masks: dict[tuple[Any, ...], Any] = {}

    def apply(self, next: str, logits: Any) -> Any:
        """Masks the last axis of `logits`, of which it makes a copy."""
        vocabulary = logits.shape[-1]
        key: tuple[Any, ...]
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(logits, torch.Tensor):
            key = (next, vocabulary, logits.device)
            if key not in self._masks:
                mask = torch.from_numpy(~self.constraint.mask(next, vocabulary))
                self._masks[key] = mask.to(logits.device)
            return logits.masked_fill(self._masks[key], float("-inf"))
        import numpy as np

        key = (next, vocabulary)
        if key not in self._masks:
            self._masks[key] = self.constraint.mask(next, vocabulary)
        return np.where(self._masks[key], logits, logits.dtype.type("-inf"))


class LogitsProcessor:
    """Holds `generate` of transformers to whole images: `logits_processor=[LogitsProcessor(template)]`.

    What may come follows from the ids alone, so beams may be reordered.

    Args:
        template: How images are written.
        reply: "interleaved", text and images, or "image", one image and nothing else.
        stop: Ids that end a reply; "image" needs one.
        prompt_length: Ids of the prompt. By default the first call tells, and each call that is not one id longer than the one
            before begins another reply.
    """

    def __init__(
        self,
        template: Template,
        reply: str = "interleaved",
        stop: Sequence[int] = (2,),
        *,
        prompt_length: int | None = None,
    ) -> None:
        self._masks = _Masks(Constraint(template, reply, list(stop)))
        self._before = template.block_length  # ids of a prompt that count
        self._given = prompt_length
        self._start = 0
        self._last = -2

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Masks scores.

        Args:
            input_ids: [batch, ids], prompt and reply so far.
            scores: [batch, vocabulary].

        Returns:
            The scores, with minus infinity where an id may not come.
        """
        length = input_ids.shape[1]
        if length != self._last + 1:
            self._start = length
        self._last = length
        start = self._start if self._given is None else self._given
        first = max(0, start - self._before)
        masked = [
            self._masks.apply(self._masks.constraint.next(ids[: start - first], ids[start - first :]), row)
            for ids, row in zip(input_ids[:, first:].tolist(), scores, strict=True)
        ]
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(scores, torch.Tensor):
            return torch.stack(masked)
        import numpy as np

        return np.stack(masked)


class VllmLogitsProcessor:
    """Holds a request of vLLM to whole images: a logits processor of the kind that is called for each request with the ids of its
    prompt, the ids so far and the logits.

    Args:
        template: How images are written.
        reply: As in `LogitsProcessor`.
        stop: As in `LogitsProcessor`.
    """

    def __init__(self, template: Template, reply: str = "interleaved", stop: Sequence[int] = (2,)) -> None:
        self._masks = _Masks(Constraint(template, reply, list(stop)))
        self._before = template.block_length  # ids of a prompt that count

    def __call__(self, prompt_ids: Sequence[int], output_ids: Sequence[int], logits: Any) -> Any:
        """Masks logits.

        Args:
            prompt_ids: Ids of the prompt.
            output_ids: Ids of the reply so far.
            logits: [vocabulary].

        Returns:
            The logits, with minus infinity where an id may not come.
        """
        next = self._masks.constraint.next(list(prompt_ids[-self._before :]), list(output_ids))
        return self._masks.apply(next, logits)
