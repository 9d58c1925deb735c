"""SEED: images to 32 discrete tokens and back."""

# Made by stubs.py of the docstrings in src/; change those.

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final, overload

import numpy as np
from numpy.typing import NDArray

from seed_tokenizer.results import Report

__version__: str

__all__ = [
    "Constraint",
    "MiniGptVision",
    "SeedTokenizer",
    "Template",
    "_Packer",
    "_Reader",
    "__version__",
    "_panic",
    "_restore",
    "_restore_template",
    "convert",
    "extend_tokenizer",
    "main",
    "minigpt_draw_boxes",
    "minigpt_format_boxes",
    "minigpt_lora",
    "minigpt_parse_boxes",
    "minigpt_parse_boxes_lenient",
    "minigpt_pieces",
    "minigpt_prompt",
    "offset_for",
    "render_prompt",
    "train",
    "verify_dataset",
]

@final
class Constraint:
    """Holds a reply to a template: says which ids may come next.

    Args:
        template (Template): How images are written.
        reply (str): What a reply may be: "image", one and nothing else, or "interleaved", text and images.
        stop (Any): Ids that end a reply; "image" needs one.

    Raises:
        ArgumentError: A reply that could not end.
    """

    def __new__(cls, template: Template, reply: str = "interleaved", stop: Any = None) -> Constraint: ...

    def mask(self, next: str, vocabulary: int) -> NDArray[np.bool_]:
        """Says which ids of a vocabulary may come.

        Args:
            next (str): What `next` says.
            vocabulary (int): Ids of the vocabulary: as many as there are logits.

        Returns:
            NDArray[np.bool_]: Whether each id may come.

        Raises:
            ArgumentError: A vocabulary without the tokens of images.
        """

    def next(self, prompt: Any, reply: Any) -> str:
        """Says what may come after a prompt and the reply so far. An image may have begun in the prompt.

        Args:
            prompt (Any): Ids of the prompt.
            reply (Any): Ids of the reply so far.

        Returns:
            str: "text", any id but a code or an end mark; "begin", the begin mark; "code"; "end", the end mark; or "stop".
        """

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]: ...

@final
class MiniGptVision:
    """MiniGPT-v2's visual front end: turns images into embeddings that its language model reads among those of words.

    Made by `from_pretrained`. All methods may be called from several threads, compute without holding the interpreter, and
    end at Ctrl-C.
    """

    def accounts(self) -> list[dict[str, Any]]:
        """What became of every key of every file that the front end was read from.

        Returns:
            list[dict[str, Any]]: Of each file: "file", keys "used", keys "ignored" and why, and "no_weights", entries that are none.
        """

    @property
    def device(self) -> str:
        """Where it computes, such as "cpu"."""

    @property
    def dtype(self) -> str:
        """What weights are kept in: "float32", "float16" or "bfloat16"."""

    def embed(self, images: Any) -> NDArray[np.float32]:
        """Turns images into embeddings for the language model.

        Args:
            images (Any): As in `SeedTokenizer.encode`.

        Returns:
            NDArray[np.float32]: [images, 256, 4096] for the released model, or [256, 4096] of an image that is not in a list.
                `minigpt.inputs_embeds` puts them among the words of a prompt.

        Raises:
            InputTypeError: An object that is no image.
            ImageError: Bytes that are no image.
            ReadError: A file that cannot be read.
        """

    @classmethod
    def from_pretrained(
        cls,
        vit: str | os.PathLike[str],
        checkpoint: str | os.PathLike[str],
        *,
        ln_vision: str | os.PathLike[str] | None = None,
        config: str | os.PathLike[str] | None = None,
        device: Any = None,
        dtype: Any = None,
        max_pixels: int | None = None,
    ) -> MiniGptVision:
        """Reads the front end from the released files. Nothing in them is run.

        Args:
            vit (str | os.PathLike[str]): eva_vit_g.pth, the vision transformer as BLIP-2 publishes it, or any file that holds it under
                visual_encoder, such as model.safetensors of a bundle.
            checkpoint (str | os.PathLike[str]): MiniGPT-v2's checkpoint, with llama_proj and LoRA.
            ln_vision (str | os.PathLike[str] | None): A file with a trained norm. The released checkpoint was trained without: its norm
                is ones and zeros.
            config (str | os.PathLike[str] | None): Sizes as JSON, for models that are not of the released size.
            device (Any): As in `SeedTokenizer.from_pretrained`.
            dtype (Any): As in `SeedTokenizer.from_pretrained`.
            max_pixels (int | None): As in `SeedTokenizer.from_pretrained`.

        Returns:
            MiniGptVision: The front end.

        Raises:
            WeightsError: Files that are no weights, or not of one model. Every key is used, or known, or named here.
            ConfigError: Sizes that are not possible.
            DeviceError: The device is not there.
        """

    @property
    def image_size(self) -> int:
        """Height and width that images are resized to, in pixels."""

    @property
    def num_tokens(self) -> int:
        """Embeddings of an image; 256 in the released model."""

    @property
    def width(self) -> int:
        """Features of an embedding, as the language model's words have; 4096 in the released model."""

@final
class SeedTokenizer:
    """Turns images into 32 discrete tokens that read left to right, and tokens into images.

    Made by `from_pretrained`. All methods may be called from several threads, compute without holding the interpreter, and
    end at Ctrl-C. A tokenizer is pickled as its name and options, never with its weights.
    """

    @property
    def codebook_size(self) -> int:
        """Rows of the codebook: every code is below it."""

    @property
    def config(self) -> dict[str, Any]:
        """The bundle's configuration, as its config.json has it."""

    def decode(
        self,
        codes: Any,
        *,
        negative_codes: Any = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        scheduler: str | None = None,
        size: int | None = None,
        keep_first: int | None = None,
        output_type: str = "pil",
        progress: Callable[[int, int], None] | None = None,
    ) -> Any:
        """Turns codes into images.

        Args:
            codes (Any): Whole numbers, [images, tokens], or [tokens] of one image, in anything that numpy reads; or a line of
                codes as the command line prints it.
            negative_codes (Any): Codes to move away from, of one image for all or of one for each.
            num_inference_steps (int | None): Sampling steps, from 1 to 999; by default as the model says.
            guidance_scale (float | None): 1 and below is no guidance and half the work; by default as the model says.
            seed (int): Seed of the random numbers. The same seed and codes give the same image in whatever batch.
            scheduler (str | None): "pndm", "ddim", "euler" or "dpm++2m"; by default as the decoder says.
            size (int | None): Height and width in pixels; by default what the decoder was trained on.
            keep_first (int | None): Decode from the first so many codes of each image.
            output_type (str): "pil" for Pillow's images, or "np" for uint8 arrays.
            progress (Callable[[int, int], None] | None): Called in this thread with the steps done and all steps; what it raises
                ends the decoding.

        Returns:
            Any: A list of PIL images that shows itself in a notebook, or [images, height, width, 3] of uint8; one PIL image or
                [height, width, 3] for codes of one dimension.

        Raises:
            CodesError: Codes that this model cannot have made.
            ArgumentError: An option that is not possible.
            MissingPartError: The model has no decoder.
        """

    def decode_image(
        self,
        indices: Any,
        negative_indices: Any = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
    ) -> list[Any]:
        """As the official SEED's `decode_image`.

        Args:
            indices (Any): Codes, [images, tokens].
            negative_indices (Any): Codes to move away from.
            guidance_scale (float | None): By default as the model says, where the official code has 10.
            num_inference_steps (int | None): By default as the model says, where the official code has 20.

        Returns:
            list[Any]: PIL images, always a list.
        """

    @property
    def device(self) -> str:
        """Where it computes, such as "cpu"."""

    @property
    def dtype(self) -> str:
        """What weights are kept in: "float32", "float16", "bfloat16" or "int8"."""

    def embed(self, images: Any, kind: str = "causal") -> NDArray[np.float32]:
        """Turns images into embeddings.

        Args:
            images (Any): As in `encode`.
            kind (str): "causal", the causal embeddings that become codes; or "generation", the embeddings that images are
                drawn from, made of the codes.

        Returns:
            NDArray[np.float32]: [images, tokens, width], or [tokens, width] of an image that is not in a list. A generation
                embedding has one token for SEED-2.

        Raises:
            ArgumentError: Another kind.
        """

    def embed_codes(self, codes: Any) -> NDArray[np.float32]:
        """Turns codes into the embeddings that images are drawn from.

        Args:
            codes (Any): As in `decode`.

        Returns:
            NDArray[np.float32]: [images, tokens, width], or [tokens, width] for codes of one dimension.

        Raises:
            CodesError: Codes that this model cannot have made.
        """

    @overload
    def encode(self, images: Any, *, return_margins: Literal[False] = False) -> NDArray[np.uint16]:
        """Turns images into codes.

        Args:
            images (Any): An image, or a list or any other iterable of images, of mixed kinds. An image is a path, the bytes of a
                file, a file object, a PIL image, a dict with "bytes" or "path", a uint8 array of height x width x 3 (grey and
                RGBA too; RGBA loses its alpha), or whatever gives such an array through the array protocol or DLPack, such as
                a tensor of torch. An array of four dimensions is several images.
            return_margins (bool): Say too how much farther the runner-up of each code is, in squared distance. Codes of small
                margin may differ on another device.

        Returns:
            NDArray[np.uint16] | tuple[NDArray[np.uint16], NDArray[np.float32]]: Codes, [images, tokens], or [tokens] of an image
                that is not in a list; and their margins, of the same shape, if asked for.

        Raises:
            InputTypeError: An object that is no image.
            ImageError: Bytes that are no image.
            ReadError: A file that cannot be read.
        """
    @overload
    def encode(
        self,
        images: Any,
        *,
        return_margins: Literal[True],
    ) -> tuple[NDArray[np.uint16], NDArray[np.float32]]: ...
    @overload
    def encode(
        self,
        images: Any,
        *,
        return_margins: bool,
    ) -> NDArray[np.uint16] | tuple[NDArray[np.uint16], NDArray[np.float32]]: ...

    def encode_image(
        self,
        image_path: Any = None,
        image_pil: Any = None,
        image_torch: Any = None,
    ) -> NDArray[np.uint16]:
        """As the official SEED's `encode_image`: exactly one of the three is given.

        Args:
            image_path (Any): A path, or anything else that `encode` takes.
            image_pil (Any): A PIL image.
            image_torch (Any): Normalised pixels, [3, size, size] or [images, 3, size, size].

        Returns:
            NDArray[np.uint16]: Codes, always [images, tokens].
        """

    @overload
    def encode_pixels(self, pixels: Any, *, return_margins: Literal[False] = False) -> NDArray[np.uint16]:
        """Turns pixels that are normalised already into codes.

        Args:
            pixels (Any): Floats [images, 3, size, size], or [3, size, size] of one image, as the model's own preprocessing makes
                them: resized, from 0 to 1, less CLIP's mean, divided by its standard deviation.
            return_margins (bool): As in `encode`.

        Returns:
            NDArray[np.uint16] | tuple[NDArray[np.uint16], NDArray[np.float32]]: As `encode`.

        Raises:
            ArgumentError: An array of another shape.
        """
    @overload
    def encode_pixels(
        self,
        pixels: Any,
        *,
        return_margins: Literal[True],
    ) -> tuple[NDArray[np.uint16], NDArray[np.float32]]: ...
    @overload
    def encode_pixels(
        self,
        pixels: Any,
        *,
        return_margins: bool,
    ) -> NDArray[np.uint16] | tuple[NDArray[np.uint16], NDArray[np.float32]]: ...

    def evaluate(
        self,
        what: str = "retrieval",
        *,
        count: int = 1000,
        scene_seed: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Report:
        """Measures the model on held-out scenes.

        Args:
            what (str): "retrieval", which caption belongs to which image; "reconstruction", whether what comes back is the same
                picture to the model; or "codes", how much of the codebook is used, and how evenly.
            count (int): Number of scenes, all with captions of their own.
            scene_seed (int): Seed of the scenes.
            num_inference_steps (int | None): For "reconstruction", as in `decode`.
            guidance_scale (float | None): For "reconstruction", as in `decode`.
            seed (int): For "reconstruction", as in `decode`.
            progress (Callable[[int, int], None] | None): For "reconstruction": called in this thread with the images done and
                all images.

        Returns:
            Report: As `seed eval --json`, with what made it under "tokenizer".

        Raises:
            MissingPartError: The model has no caption side or no decoder.
        """

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        device: Any = None,
        dtype: Any = None,
        preprocess: str | None = None,
        max_pixels: int | None = None,
        progress: Callable[[str, int, int | None], None] | None = None,
    ) -> SeedTokenizer:
        """Opens a model.

        Args:
            model (str | os.PathLike[str] | None): "bundled", the default, the tiny model that is built in; the folder of a bundle; or a repository
                OWNER/NAME of a model hub that holds a bundle. Folders win over repositories.
            revision (str | None): Branch, tag or commit of the repository; "main" by default.
            token (str | bool | None): Token of the hub; by default that of the environment (HF_TOKEN) or of its file, with False
                none at all. It is not pickled.
            cache_dir (str | os.PathLike[str] | None): Folder of what is fetched; by default where huggingface_hub keeps it.
            local_files_only (bool): Fetch nothing; use what is on disk.
            device (Any): "cpu", the default, "cuda", "wgpu", "cuda:1" and so on, or torch's device.
            dtype (Any): "float32", the default, "float16", "bfloat16" or "int8", by name or as numpy's or torch's: what weights are kept in.
            preprocess (str | None): "seed" (bicubic) or "seed-scripts" (bilinear); by default as the model says.
            max_pixels (int | None): Refuse images of more pixels than this; by default 178,956,970, as Pillow.
            progress (Callable[[str, int, int | None], None] | None): Called while files arrive, with the file, the bytes that
                are here and those of the whole.

        Returns:
            SeedTokenizer: The tokenizer. Its decoder is read when the first image is decoded.

        Raises:
            MissingFileError: There is no such folder.
            BundleError: The folder or repository is not a bundle.
            DeviceError: The device is not there.
            HubError: The hub does not give what was asked for.
        """

    @property
    def image_size(self) -> int:
        """Height and width that images are resized to, in pixels."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def num_tokens(self) -> int:
        """Codes of an image; 32 in every released model."""

    def preprocess(self, images: Any) -> NDArray[np.float32]:
        """Turns images into the pixels that the network reads: what `encode_pixels` takes.

        Args:
            images (Any): As in `encode`.

        Returns:
            NDArray[np.float32]: [images, 3, size, size], or [3, size, size] of an image that is not in a list.
        """

    def provenance(self) -> dict[str, str]:
        """What codes come from: model, hash of its weights, preprocessing, device, dtype and version. Codes of two tokenizers
        that differ in weights or preprocessing do not belong together.

        Returns:
            dict[str, str]: Names and values.
        """

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes the model as a bundle that `from_pretrained` opens: a copy of its files, decoder included.

        Args:
            folder (str | os.PathLike[str]): Folder of the bundle; made if need be.

        Raises:
            FolderInUseError: The folder holds a decoder, which the model has not.
            WriteError: The folder cannot be written.
        """

    def tokenize_dataset(
        self,
        inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        out: str | os.PathLike[str],
        *,
        format: str = "parquet",
        source: str | None = None,
        shard_size: int = 10000,
        root: str | os.PathLike[str] | None = None,
        image_column: str | None = None,
        key_column: str | None = None,
        caption_column: str | None = None,
        columns: Sequence[str] = (),
        min_side: int | None = None,
        max_aspect: float | None = None,
        min_similarity: float | None = None,
        similarity_column: str = "similarity",
        ids: tuple[int, int, int] | None = None,
        shard: tuple[int, int] | None = None,
        limit: int | None = None,
        max_errors: int | None = None,
        retry_failures: bool = False,
        batch_size: int = 64,
        dry_run: bool = False,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Report:
        """Tokenizes a dataset, shard by shard, into files that trainers read. A run that ended early is gone on with by the same
        call; Ctrl-C ends it after the shard at hand.

        Args:
            inputs (str | os.PathLike[str] | Sequence[str | os.PathLike[str]]): Files, folders, globs or brace lists: folders of
                images, lists of paths, WebDataset tars, parquet, LLaVA, OBELICS or MMC4. They are recognised by content.
            out (str | os.PathLike[str]): Folder of the output.
            format (str): "parquet", "jsonl", "seed-tar", "webdataset", "npy" or "megatron".
            source (str | None): Format of the inputs, if not by content: "folder", "list", "webdataset", "parquet", "llava",
                "obelics" or "mmc4".
            shard_size (int): Samples of an output shard, where the inputs have no shards of their own.
            root (str | os.PathLike[str] | None): Folder that relative paths start from.
            image_column (str | None): Column or field of the image.
            key_column (str | None): Column or field of the key.
            caption_column (str | None): Column or field of the caption.
            columns (Sequence[str]): Columns that travel along, as NAME or NAME:TYPE with text, int, float or bool.
            min_side (int | None): Leave out images with a side below this many pixels.
            max_aspect (float | None): Leave out images longer than this to 1.
            min_similarity (float | None): Leave out samples whose similarity is below this.
            similarity_column (str): Column of the similarity; it must be among `columns`.
            ids (tuple[int, int, int] | None): For "megatron": the offset of codes, the id before and the id after an image; by
                default those of SEED-LLaMA.
            shard (tuple[int, int] | None): Do part I of N of the shards, from 0; by default as SLURM_PROCID and SLURM_NTASKS or
                RANK and WORLD_SIZE say, else all.
            limit (int | None): Stop after this many inputs.
            max_errors (int | None): Give up after more failures than this.
            retry_failures (bool): Do shards again that have failures.
            batch_size (int): Images that are encoded at a time.
            dry_run (bool): Say what would be done, and do nothing.
            progress (Callable[[dict[str, Any]], None] | None): Called in this thread after batches, with the statistics so far;
                what it raises ends the run after the shard at hand.

        Returns:
            Report: Statistics: shards, inputs, rows, failed, filtered, seconds and so on; of a dry run, the plan.

        Raises:
            DatasetError: An input that cannot be used.
            OtherRunError: The folder was begun with other settings.
            FolderInUseError: The folder holds something else.
            TooManyFailuresError: More inputs failed than `max_errors`.
            BusyError: Another process writes the same shard.
        """

    def _repr_html_(self) -> str: ...
    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]: ...

@final
class Template:
    """How a language model writes images: an image is a block, the text before it, its codes, the text after it.

    What is not given is SEED-LLaMA's, 8B and 14B: `<img><img_00012>...</img>`, with code 0 at id 32000 and the marks after the
    codes. A template in which a text could be read as another is refused.

    Args:
        codebook_size (int): Rows of the codebook.
        tokens (int): Codes of an image.
        offset (int): Id of code 0; the others follow.
        begin_id (int | None): Id of the text before an image; by default the one after the codes.
        end_id (int | None): Id of the text after an image; by default the one after `begin_id`.
        begin (str): Text before an image.
        end (str): Text after an image.
        token (str): Text of a code, with `{}` for its number; `{:05}` fills it up to five digits.

    Raises:
        ArgumentError: Sizes, ids or texts that are not possible together.
    """

    def __new__(
        cls,
        codebook_size: int = 8192,
        tokens: int = 32,
        offset: int = 32000,
        *,
        begin_id: int | None = None,
        end_id: int | None = None,
        begin: str = "<img>",
        end: str = "</img>",
        token: str = "<img_{:05}>",
    ) -> Template: ...

    @property
    def block_length(self) -> int:
        """Ids of an image: its codes and two marks."""

    def chat_template(self, prompt: str = "seed-llama-8b") -> str:
        """Makes a chat template for transformers. What a message says is a text, or a list of {"type": "text", "text": ...} and
        {"type": "image", "codes": [...]}.

        Args:
            prompt (str): "seed-llama-8b" or "seed-llama-14b".

        Returns:
            str: The template, in Jinja.
        """

    def codes_to_ids(self, codes: Any) -> NDArray[np.int64]:
        """Writes images as ids, block after block.

        Args:
            codes (Any): As in `codes_to_text`.

        Returns:
            NDArray[np.int64]: The ids.

        Raises:
            CodesError: Codes of another model.
        """

    def codes_to_text(self, codes: Any) -> str:
        """Writes images as text, block after block.

        Args:
            codes (Any): Whole numbers, [images, tokens], or [tokens] of one image, in anything that numpy reads.

        Returns:
            str: The text.

        Raises:
            CodesError: Codes of another model.
        """

    @property
    def config(self) -> dict[str, Any]:
        """What was chosen, by the names of the arguments."""

    def gbnf(self, reply: str = "interleaved") -> str:
        """Makes a grammar for llama.cpp, by texts: an image has exactly as many codes as it must have.

        Args:
            reply (str): As in `llguidance`.

        Returns:
            str: The grammar, in GBNF.
        """

    def ids_to_codes(self, ids: Any) -> NDArray[np.uint16]:
        """Reads ids that are images, block after block, and nothing else; `IdParser` finds images in replies.

        Args:
            ids (Any): Whole numbers in anything that numpy reads.

        Returns:
            NDArray[np.uint16]: Codes, [images, tokens].

        Raises:
            CodesError: Ids that are no image, with their place and what is wrong.
        """

    @property
    def last_id(self) -> int:
        """The largest id of its tokens; a model's vocabulary has more rows than that."""

    def llguidance(self, reply: str = "interleaved") -> str:
        """Makes a grammar for llguidance, by ids: an image has exactly as many codes as it must have.

        Args:
            reply (str): What a reply may be: "image", one and nothing else, or "interleaved", text and images.

        Returns:
            str: The grammar, in Lark as llguidance reads it.
        """

    def text_to_codes(self, text: str) -> NDArray[np.uint16]:
        """Reads text that is images, block after block, and nothing else; `TextParser` finds images in replies.

        Args:
            text (str): The text.

        Returns:
            NDArray[np.uint16]: Codes, [images, tokens].

        Raises:
            CodesError: Text that is no image, with its place and what is wrong.
        """

    def vocabulary(self) -> list[tuple[int, str, bool]]:
        """Lists the tokens.

        Returns:
            list[tuple[int, str, bool]]: Id, text, and whether it is a mark rather than a code; by id.
        """

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]: ...

@final
class _Packer:
    """Packs documents into sequences; under `pack`.

    Args:
        template (Template): How images are written.
        length (int): Ids of a sequence.
        pad_id (int): Id that fills a sequence up.
        bos_id (int | None): Id before each document.
        eos_id (int | None): Id after each document.
        open (int): Sequences that are kept open for what fits in.
    """

    def __new__(
        cls,
        template: Template,
        length: int,
        pad_id: int,
        bos_id: int | None,
        eos_id: int | None,
        open: int,
    ) -> _Packer: ...

    def finish(self) -> list[dict[str, Any]]:
        """Ends the last sequences.

        Returns:
            list[dict[str, Any]]: They, filled up.
        """

    def push(self, document: Sequence[tuple[Any, Any, bool]]) -> list[dict[str, Any]]:
        """Takes a document.

        Args:
            document (Sequence[tuple[Any, Any, bool]]): For each segment ids or None, codes or None, and whether it is learned.

        Returns:
            list[dict[str, Any]]: Sequences that are complete.
        """

@final
class _Reader:
    """Finds images in a reply; under `TextParser` and `IdParser`.

    Args:
        template (Template): How images are written.
        ids (bool): Whether the reply comes as ids rather than as text.
        strict (bool): Whether a broken image is an error.
    """

    def __new__(cls, template: Template, ids: bool, strict: bool) -> _Reader: ...

    def finish(self) -> tuple[list[tuple[str, Any, Any]], Exception | None]:
        """Ends the reply.

        Returns:
            tuple[list[tuple[str, Any, Any]], Exception | None]: As `push`.
        """

    def push(self, part: Any) -> tuple[list[tuple[str, Any, Any]], Exception | None]:
        """Takes the next part of a reply.

        Args:
            part (Any): Text or ids.

        Returns:
            tuple[list[tuple[str, Any, Any]], Exception | None]: What is complete, and an error that came after it.
        """

    def reset(self) -> None:
        """Begins another reply."""

def _panic(text: str) -> None:
    """Panics with `text` where the core would: for the test that no panic crosses into Python.

    Args:
        text (str): What the panic says.

    Raises:
        InternalError: Always.
    """

def _restore(model: str, options: dict[str, Any]) -> SeedTokenizer:
    """Opens the model of a pickled tokenizer.

    Args:
        model (str): As `from_pretrained` takes it.
        options (dict[str, Any]): Its other arguments.

    Returns:
        SeedTokenizer: The same tokenizer.
    """

def _restore_template(
    codebook_size: int,
    tokens: int,
    offset: int,
    begin_id: int,
    end_id: int,
    begin: str,
    end: str,
    token: str,
) -> Template:
    """Makes the template of a pickle.

    Args:
        codebook_size (int): As in `Template`.
        tokens (int): As in `Template`.
        offset (int): As in `Template`.
        begin_id (int): As in `Template`.
        end_id (int): As in `Template`.
        begin (str): As in `Template`.
        end (str): As in `Template`.
        token (str): As in `Template`.

    Returns:
        Template: The same template.
    """

def convert(
    quantizer: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    vit: str | os.PathLike[str] | None = None,
    qformer: str | os.PathLike[str] | None = None,
    decoder: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    dtype: Any = None,
    name: str | None = None,
) -> Report:
    """Makes a bundle of the official files, and accounts for every key in them. Nothing in the files is run. Ctrl-C ends it with
    the tensor at hand; the folder is no bundle then, and the same call makes it one.

    Args:
        quantizer (str | os.PathLike[str]): seed_quantizer.pt (SEED-2) or seed_tokenizer.pth (SEED-1), or one file with everything.
        out (str | os.PathLike[str]): Folder of the bundle.
        vit (str | os.PathLike[str] | None): eva_vit_g.pth, the vision transformer of SEED-2.
        qformer (str | os.PathLike[str] | None): causal_qformer.pth of SEED-1.
        decoder (str | os.PathLike[str] | None): Folder of a diffusion decoder in diffusers' layout.
        config (str | os.PathLike[str] | None): Sizes as JSON, for models that are not of a released size.
        image_size (int | None): Side of the images, if another than the files are for.
        dtype (Any): Element type on disk; "float16" by default.
        name (str | None): Name of the model; by default that of the folder.

    Returns:
        Report: Sizes of the model, and what became of every key of every file.

    Raises:
        WeightsError: Files that are no weights, or not of one model.
        PickleRefusedError: A checkpoint that could run code.
        ConfigError: Sizes that are not possible.
    """

def extend_tokenizer(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    template: Template,
    *,
    chat: str | None = None,
) -> Report:
    """Adds the tokens of images to the tokenizer of a language model: tokenizer.json, tokenizer_config.json and
    special_tokens_map.json, if they are there. Done twice it adds nothing.

    Args:
        folder (str | os.PathLike[str]): Folder of the tokenizer.
        out (str | os.PathLike[str]): Folder for the result; another one.
        template (Template): Its tokens.
        chat (str | None): Add a chat template: "seed-llama-8b" or "seed-llama-14b".

    Returns:
        Report: Tokens that were added and that were there, ids of the tokenizer now, and files.

    Raises:
        VocabularyError: Files that are no tokenizer's, or tokens that would not get their ids.
    """

def main(arguments: Sequence[str]) -> int:
    """Runs the command line `seed`, the program's name first. The process is the command's from then on: it listens for
    signals itself.

    Args:
        arguments (Sequence[str]): The program's name and its arguments.

    Returns:
        int: The exit code.
    """

def minigpt_draw_boxes(image: Any, text: str, *, lenient: bool = False) -> Any:
    """Draws the boxes of an answer on its image, a colour for each phrase.

    Args:
        image (Any): One image, as in `SeedTokenizer.encode`.
        text (str): The answer.
        lenient (bool): Draw what is well formed and leave out the rest.

    Returns:
        Any: A PIL image, of the size of the given one.

    Raises:
        BoxesError: As in `parse_boxes`.
    """

def minigpt_format_boxes(
    groups: Sequence[tuple[str | None, Sequence[Sequence[float]]]],
    size: tuple[int, int],
) -> str:
    """Writes boxes as MiniGPT-v2 does: whole hundredths of the image's width and height, truncated.

    Args:
        groups (Sequence[tuple[str | None, Sequence[Sequence[float]]]]): A phrase, or None, and its boxes: left, top, right and
            bottom in pixels.
        size (tuple[int, int]): Width and height of the image in pixels.

    Returns:
        str: Such as "<p>a dog</p> {<10><20><55><80>}<delim>{<60><1><99><40>}".

    Raises:
        ArgumentError: A box that reaches out of the image or is turned around, a phrase without boxes.
    """

def minigpt_lora(
    checkpoint: str | os.PathLike[str],
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Reads what MiniGPT-v2's checkpoint changes in the language model. The merged weight is W + alpha / rank * B @ A; the released
    model has alpha 16, and its rank, 64, is that of the matrices.

    Args:
        checkpoint (str | os.PathLike[str]): MiniGPT-v2's checkpoint, with keys of older or newer versions of peft.

    Returns:
        dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]: By the name of the weight in transformers' LlamaForCausalLM, A
            [rank, input] and B [output, rank].

    Raises:
        WeightsError: A file that is no weights, a matrix without its partner, or a key that is not of MiniGPT-v2.
    """

def minigpt_parse_boxes(text: str, size: tuple[int, int]) -> list[tuple[str | None, list[list[float]]]]:
    """Reads the boxes of an answer.

    Args:
        text (str): The answer.
        size (tuple[int, int]): Width and height of the image in pixels; with (100, 100) boxes are as in the text.

    Returns:
        list[tuple[str | None, list[list[float]]]]: Phrases, None for boxes without one, and their boxes: left, top, right and
            bottom in pixels.

    Raises:
        BoxesError: Something begins like a box or its phrase and is none; where and why is in the message.
    """

def minigpt_parse_boxes_lenient(
    text: str,
    size: tuple[int, int],
) -> tuple[list[tuple[str | None, list[list[float]]]], list[tuple[str, str]]]:
    """As `parse_boxes`, of an answer that may break off or miscount.

    Args:
        text (str): The answer.
        size (tuple[int, int]): As in `parse_boxes`.

    Returns:
        tuple[list[tuple[str | None, list[list[float]]]], list[tuple[str, str]]]: What is well formed, as from `parse_boxes`; and what
            is not, as the part of the text and what is wrong with it.
    """

def minigpt_pieces(prompt: str) -> list[tuple[str, bool]]:
    """The pieces of a prompt, one more than it has images; each is tokenized by itself.

    Args:
        prompt (str): A prompt, with <ImageHere> for each image.

    Returns:
        list[tuple[str, bool]]: The texts, and whether the tokenizer begins a piece with its BOS: only the first.
    """

def minigpt_prompt(text: str, *, task: str | None = None, verbatim: bool = False) -> str:
    """The prompt about one image.

    Args:
        text (str): The question, the thing to find, the box to name, or whatever else the task is about.
        task (str | None): "vqa", "caption", "grounding", "refer", "identify" or "detection"; by default none, free conversation.
        verbatim (bool): Take the text as it is; otherwise the sentence that MiniGPT-v2 is evaluated with is put around a question
            ("vqa") or a thing ("refer").

    Returns:
        str: The prompt, with <ImageHere> for the image.

    Raises:
        ArgumentError: Another task, an empty text, or one with signs that separate the parts of a prompt.
    """

def offset_for(folder: str | os.PathLike[str], token: str = "<img_{:05}>") -> int:
    """Says which id code 0 has in a tokenizer, or would get.

    Args:
        folder (str | os.PathLike[str]): Folder of the tokenizer.
        token (str): Text of a code, as in `Template`.

    Returns:
        int: The offset for a `Template`.

    Raises:
        VocabularyError: Files that are no tokenizer's.
    """

def render_prompt(prompt: str, turns: Sequence[str], *, system: str = "") -> str:
    """Writes a conversation as SEED-LLaMA was tuned on it, from the beginning mark of a text to where the reply begins.

    Args:
        prompt (str): "seed-llama-8b" or "seed-llama-14b".
        turns (Sequence[str]): What is said in turn, a question first; images as the text of a template.
        system (str): What is said before all; nothing by default.

    Returns:
        str: The text.

    Raises:
        ArgumentError: Another prompt.
    """

def train(
    recipe: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    until: str = "decoder",
    tokenizer: str | os.PathLike[str] | None = None,
    decoder: str | os.PathLike[str] | None = None,
    autoencoder: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, bool | int | float | str | list[Any]] | None = None,
    resume: bool = False,
    device: Any = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> str:
    """Trains a model by a recipe. Ctrl-C ends it after the step at hand, with a checkpoint; `resume=True` goes on from there as if
    nothing had happened.

    Args:
        recipe (str | os.PathLike[str]): The recipe, a TOML file.
        out (str | os.PathLike[str] | None): Folder of the run; runs/NAME by default, after the recipe's name.
        until (str): Stage to end with: "vision", "stage1", "stage2", "vae" or "decoder". Those it stands on are trained too.
        tokenizer (str | os.PathLike[str] | None): Bundle whose tokenizer is taken as it is, so that only a decoder is trained.
        decoder (str | os.PathLike[str] | None): Decoder in diffusers' layout to begin with.
        autoencoder (str | os.PathLike[str] | None): Autoencoder in diffusers' layout that is taken as it is.
        overrides (Mapping[str, bool | int | float | str | list[Any]] | None): Other values for keys of the recipe; a key within a
            table is "table.key", as in {"stage1.steps": 100}.
        resume (bool): Go on with a run that was interrupted.
        device (Any): As in `SeedTokenizer.from_pretrained`.
        progress (Callable[[dict[str, Any]], None] | None): Called in this thread after every step, with stage, step, steps, loss
            and so on; what it raises ends the run after the step at hand, with a checkpoint.

    Returns:
        str: The bundle; for a run that ends before there is one, the folder of its last stage.

    Raises:
        FolderInUseError: The folder holds a run, and `resume` was not asked for.
        ConfigError: A recipe that is not possible.
        DivergedError: The loss is not finite.
    """

def verify_dataset(
    folder: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Proves that an output of `SeedTokenizer.tokenize_dataset` is whole: checksums, counts, codes, keys.

    Args:
        folder (str | os.PathLike[str]): Folder of the output.
        progress (Callable[[int, int], None] | None): Called in this thread with the shards looked at and all shards.

    Returns:
        Report: What was found; `whole` says whether everything is there and right, `first_problems` what is not.

    Raises:
        DatasetError: The folder is no such output.
    """
