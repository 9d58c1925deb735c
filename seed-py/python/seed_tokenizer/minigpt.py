"""MiniGPT-v2: images among the words of a prompt, and boxes in the answers.

    from seed_tokenizer import MiniGptVision, minigpt

    vision = MiniGptVision.from_pretrained("eva_vit_g.pth", "minigptv2_checkpoint.pth")
    embeds = minigpt.inputs_embeds(
        minigpt.prompt("what colour is the cat?", task="vqa"),
        [vision.embed("cat.jpg")],
        lambda text, bos: tokenizer(text, add_special_tokens=bos).input_ids,
        lambda ids: model.get_input_embeddings()(torch.tensor(ids)),
    )
    model.generate(inputs_embeds=embeds)

The language model is transformers' LLaMA-2-7B-chat with what `lora` reads merged into its weights. A prompt's text begins with <s>, and the
tokenizer puts its own before the first piece: two of them, as the reference implementation has it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from seed_tokenizer._native import MiniGptVision
from seed_tokenizer._native import minigpt_draw_boxes as draw_boxes
from seed_tokenizer._native import minigpt_format_boxes as format_boxes
from seed_tokenizer._native import minigpt_lora as lora
from seed_tokenizer._native import minigpt_parse_boxes as parse_boxes
from seed_tokenizer._native import minigpt_parse_boxes_lenient as parse_boxes_lenient
from seed_tokenizer._native import minigpt_pieces as pieces
from seed_tokenizer._native import minigpt_prompt as prompt
from seed_tokenizer.errors import ArgumentError

__all__ = [
    "MiniGptVision",
    "draw_boxes",
    "format_boxes",
    "inputs_embeds",
    "lora",
    "parse_boxes",
    "parse_boxes_lenient",
    "pieces",
    "prompt",
]


def inputs_embeds(
    prompt: str,
    images: Sequence[Any],
    tokenize: Callable[[str, bool], Sequence[int]],
    embed: Callable[[list[int]], Any],
) -> Any:
    """A prompt as a language model reads it: embeddings of its words, with those of images in the places of <ImageHere>.

    Args:
        prompt: The prompt, with <ImageHere> for each image.
        images: Embeddings of each image, [tokens, width], as `MiniGptVision.embed` makes them.
        tokenize: Gives the ids of a text; the second argument says whether they begin with the tokenizer's BOS.
        embed: Gives the embeddings of ids, [ids, width], as a torch tensor or a numpy array.

    Returns:
        [1, length, width]: a tensor of the dtype and on the device of the words' embeddings, or an array of their dtype.

    Raises:
        ArgumentError: More or fewer images than places, or embeddings of another width than the words'.
    """
    texts = pieces(prompt)
    if len(images) != len(texts) - 1:
        raise ArgumentError(f"images = {len(images)} is not possible: the prompt has {len(texts) - 1} places for images")
    tokens = [list(tokenize(text, bos)) for text, bos in texts]
    words = [embed(ids) if ids else None for ids in tokens]
    like = next((part for part in words if part is not None), None)
    if like is None:
        raise ArgumentError("prompt = '' is not possible: it has no words")
    is_torch = hasattr(like, "new_tensor")
    library = importlib.import_module("torch" if is_torch else "numpy")
    parts = []
    for place, part in enumerate(words):
        if place > 0:
            image = images[place - 1]
            if len(image.shape) != 2 or image.shape[1] != like.shape[1]:
                message = f"an image's embeddings are [tokens, {like.shape[1]}] for this language model"
                raise ArgumentError(f"images = an array {tuple(image.shape)} is not possible: {message}")
            given = library.as_tensor(image) if is_torch else library.asarray(image)
            parts.append(given.to(like) if is_torch else given.astype(like.dtype))
        if part is not None:
            parts.append(part)
    return library.concatenate(parts)[None]
