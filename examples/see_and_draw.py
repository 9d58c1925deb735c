"""Teaches a causal language model of transformers to caption images and to draw captions, over SEED's codes.

    seed tokenize pictures --out tokens                                                  # images and captions -> codes
    python see_and_draw.py train MODEL tokens --out adapters                             # LoRA, and the tables of tokens
    python see_and_draw.py caption MODEL adapters cat.jpg --seed-model BUNDLE
    python see_and_draw.py draw MODEL adapters "a cat on a chair" --seed-model BUNDLE --out cat.png

MODEL is a folder (or a hub's id) of any causal language model. As in SEED-LLaMA (arXiv 2310.01218): a token for each code, and one before
and after an image; each captioned image in both orders; next-token prediction with LoRA, while the input and output embeddings learn as
a whole. The loss counts what is to be predicted: the caption after an image, the image after a caption. While an image is
drawn, nothing but codes may come, exactly as many as an image has.

Training reads what `seed tokenize` writes, parquet or JSON lines, and needs torch, transformers and peft (pyarrow for parquet). Images come and
go through the package seed_tokenizer.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

# What the loss leaves out.
IGNORED = -100
# The file beside the adapters that says how images are written.
SPELLING = "images.json"


@dataclass(frozen=True)
class Images:
    """Which ids are whose: code `c` has the id `offset + c`."""

    codebook_size: int
    tokens: int
    offset: int
    begin_id: int
    end_id: int

    @classmethod
    def add(cls, tokenizer: PreTrainedTokenizerBase, codebook_size: int, tokens: int) -> Images:
        """Adds SEED-LLaMA's tokens to a tokenizer: codes as plain tokens, marks as special ones."""
        codes = [AddedToken(f"<img_{i:05}>", special=False, normalized=False) for i in range(codebook_size)]
        marks = [AddedToken(mark, special=True, normalized=False) for mark in ("<img>", "</img>")]
        added = tokenizer.add_tokens(codes) + tokenizer.add_tokens(marks, special_tokens=True)
        if added != codebook_size + 2:
            raise ValueError(f"the tokenizer has some of the {codebook_size + 2} image tokens already; take one without")
        first, last = tokenizer.convert_tokens_to_ids([codes[0].content, codes[-1].content])
        if last - first != codebook_size - 1:
            raise ValueError(f"the codes' ids, {first} to {last}, do not follow each other")
        return cls(codebook_size, tokens, first, *tokenizer.convert_tokens_to_ids([mark.content for mark in marks]))

    def block(self, codes: list[int]) -> list[int]:
        """The ids of an image. Codes never go through text."""
        if len(codes) != self.tokens or not all(0 <= code < self.codebook_size for code in codes):
            raise ValueError(f"an image has {self.tokens} codes below {self.codebook_size}, not {codes}")
        return [self.begin_id, *(self.offset + code for code in codes), self.end_id]

    def codes(self, ids: list[int]) -> list[int]:
        """The codes of the first image in ids."""
        begin = ids.index(self.begin_id)
        codes = [i - self.offset for i in ids[begin + 1 : begin + 1 + self.tokens]]
        self.block(codes)
        if ids[begin + 1 + self.tokens : begin + 2 + self.tokens] != [self.end_id]:
            raise ValueError("the image does not end after its last code")
        return codes


class WholeImages(LogitsProcessor):
    """Lets `generate` write whole images only: after the mark exactly as many codes as an image has, then the other mark."""

    def __init__(self, images: Images, may_begin: bool = True) -> None:
        self.images, self.may_begin = images, may_begin

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        images = self.images
        codes = slice(images.offset, images.offset + images.codebook_size)
        allowed = torch.zeros_like(scores, dtype=torch.bool)
        for row, ids in zip(allowed, input_ids.tolist(), strict=True):
            tail = ids[-images.tokens - 1 :]
            if images.begin_id in tail:
                drawn = len(tail) - 1 - tail.index(images.begin_id)
                row[images.end_id if drawn == images.tokens else codes] = True
            else:
                row[:] = True
                row[codes] = row[images.end_id] = False
                row[images.begin_id] = self.may_begin
        return scores.masked_fill(~allowed, -math.inf)


def read_shape(folder: Path) -> tuple[int, int]:
    """Rows of the codebook and codes of an image, from what `seed tokenize` records beside its shards."""
    manifest = folder / "__seed__" / "manifest.json"
    if not manifest.is_file():
        raise FileNotFoundError(f"there is no {manifest}; make the tokens with: seed tokenize IMAGES --out {folder}")
    shape = json.loads(manifest.read_text(encoding="utf-8"))["shape"]
    return shape["codebook_size"], shape["tokens"]


def read_tokens(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Captions and codes of the parquet files and JSON lines of `seed tokenize`; rows without a caption are left out."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".parquet", ".jsonl"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no tokens; make them with: seed tokenize IMAGES --out {folder}")
    for path in files:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path, columns=["caption", "codes"]).to_pylist()
        else:
            rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        yield from ((row["caption"], row["codes"]) for row in rows if row.get("caption"))


def sequences(
    tokenizer: PreTrainedTokenizerBase, images: Images, caption: str, codes: list[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """Ids and labels of a captioned image, in both orders."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    words = tokenizer(caption, add_special_tokens=False).input_ids
    block = images.block(codes)
    for given, wanted in ((block, words), (words, block)):
        ids = [*begin, *given, *wanted, tokenizer.eos_token_id]
        labels = [IGNORED] * (len(begin) + len(given)) + ids[len(begin) + len(given) :]
        yield ids, labels


def batches(
    data: list[tuple[list[int], list[int]]], size: int, steps: int, device: torch.device, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Random batches, padded on the right."""
    rng = random.Random(seed)
    for _ in range(steps):
        rows = rng.choices(data, k=size)
        longest = max(len(ids) for ids, _ in rows)

        def padded(values: list[list[int]], fill: int, longest: int = longest) -> torch.Tensor:
            return torch.tensor([value + [fill] * (longest - len(value)) for value in values], device=device)

        yield {
            "input_ids": padded([ids for ids, _ in rows], 0),
            "attention_mask": padded([[1] * len(ids) for ids, _ in rows], 0),
            "labels": padded([labels for _, labels in rows], IGNORED),
        }


def adapted(model: PreTrainedModel, vocabulary: int, rank: int) -> PeftModel:
    """The model with rows for the new tokens and LoRA on all its linear layers; both embeddings learn as a whole."""
    model.resize_token_embeddings(vocabulary)
    names = {id(module): name.split(".")[-1] for name, module in model.named_modules()}
    embeddings = {names[id(module)] for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        modules_to_save=sorted(embeddings),
        ensure_weight_tying=bool(model.config.tie_word_embeddings),
    )
    return get_peft_model(model, config)


def train(
    base: str,
    tokens: Path,
    out: Path,
    *,
    rank: int = 16,
    steps: int = 1000,
    batch_size: int = 16,
    learning_rate: float = 2e-4,
    seed: int = 0,
    report_every: int = 10,
) -> list[float]:
    """Trains adapters for the model `base`, writes them to `out`, and returns the losses."""
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = list(read_tokens(tokens))
    if not rows:
        raise ValueError(f"no row of {tokens} has a caption")
    tokenizer = AutoTokenizer.from_pretrained(base)
    images = Images.add(tokenizer, *read_shape(tokens))
    data = [both for caption, codes in rows for both in sequences(tokenizer, images, caption, codes)]
    model = adapted(AutoModelForCausalLM.from_pretrained(base), len(tokenizer), rank).to(device).train()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.03)
    losses = []
    for step, batch in enumerate(batches(data, batch_size, steps, device, seed), start=1):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.item())
        if step % report_every == 0:
            print(f"step {step}/{steps}  loss {losses[-1]:.4f}", flush=True)
    model.save_pretrained(out, save_embedding_layers=True)
    tokenizer.save_pretrained(out)
    (out / SPELLING).write_text(json.dumps(asdict(images)))
    return losses


@dataclass
class SeesAndDraws:
    """A language model with adapters."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    images: Images

    @classmethod
    def load(cls, base: str, adapters: Path) -> SeesAndDraws:
        """Reads a base model and what `train` wrote for it."""
        tokenizer = AutoTokenizer.from_pretrained(adapters)
        model = AutoModelForCausalLM.from_pretrained(base)
        model.resize_token_embeddings(len(tokenizer))
        images = Images(**json.loads((adapters / SPELLING).read_text()))
        return cls(PeftModel.from_pretrained(model, adapters).eval(), tokenizer, images)

    def caption(self, codes: list[int], max_new_tokens: int = 64) -> str:
        """What an image shows."""
        ids = self._generate(self.images.block(codes), max_new_tokens, may_begin=False, do_sample=False)
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def draw(self, caption: str, temperature: float = 0.7, seed: int = 0) -> list[int]:
        """The codes of an image of a caption."""
        torch.manual_seed(seed)
        words = self.tokenizer(caption, add_special_tokens=False).input_ids
        sampling = {"do_sample": temperature > 0} | ({"temperature": temperature} if temperature > 0 else {})
        ids = self._generate([*words, self.images.begin_id], self.images.tokens + 1, may_begin=True, **sampling)
        return self.images.codes([self.images.begin_id, *ids])

    def _generate(self, prompt: list[int], count: int, may_begin: bool, **sampling: object) -> list[int]:
        begin = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        ids = torch.tensor([begin + prompt], device=self.model.device)
        reply = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id,
            logits_processor=[WholeImages(self.images, may_begin)],
            **sampling,
        )
        return reply[0, ids.shape[1] :].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("train", "caption", "draw"):
        command = commands.add_parser(name)
        command.add_argument("model", help="folder of a causal language model")
        if name == "train":
            command.add_argument("tokens", type=Path, help="folder that seed tokenize wrote")
            command.add_argument("--out", type=Path, required=True, help="folder for the adapters")
            command.add_argument("--rank", type=int, default=16)
            command.add_argument("--steps", type=int, default=1000)
            command.add_argument("--batch-size", type=int, default=16)
            command.add_argument("--learning-rate", type=float, default=2e-4)
            command.add_argument("--seed", type=int, default=0)
            continue
        command.add_argument("adapters", type=Path, help="what train wrote")
        command.add_argument("input", help="an image" if name == "caption" else "a caption")
        command.add_argument("--seed-model", default="bundled", help="the tokenizer that made the tokens")
        if name == "draw":
            command.add_argument("--out", type=Path, required=True, help="where to write the image")
            command.add_argument("--temperature", type=float, default=0.7)
            command.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    command, base = options.pop("command"), options.pop("model")
    if command == "train":
        train(base, **options)
        return
    from seed_tokenizer import SeedTokenizer

    seed, model = SeedTokenizer.from_pretrained(options["seed_model"]), SeesAndDraws.load(base, options["adapters"])
    if command == "caption":
        print(model.caption(seed.encode(options["input"])[0].tolist()))
    else:
        codes = model.draw(options["input"], options["temperature"], options["seed"])
        print(*codes)
        seed.decode([codes], seed=options["seed"])[0].save(options["out"])


if __name__ == "__main__":
    main()
