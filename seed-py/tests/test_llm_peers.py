"""Tokenizers and grammars, as tokenizers, llguidance and Jinja have them; and transformers, where it is installed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from llguidance import LLMatcher, LLTokenizer, gbnf_to_lark, grammar_from
from seed_tokenizer.errors import VocabularyError
from seed_tokenizer.llm import Constraint, LogitsProcessor, Template, extend_tokenizer, offset_for, render_prompt
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

README = Path(__file__).parents[2] / "README.md"


def llama_like() -> Tokenizer:
    """Pieces of SentencePiece with bytes to fall back on, as LLaMA has them."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": byte + 3 for byte in range(256)}
    for letter in sorted(set(README.read_text()) | {"▁"}):
        vocab.setdefault(letter, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(spaces)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def gpt_like() -> Tokenizer:
    """Bytes with merges, as GPT-2, LLaMA 3 and Qwen have them; the end of text is an added token beyond the model's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train([str(README)], trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def lower_case() -> Tokenizer:
    """Words in lower case: what a normalizer would do to tokens that are not kept from it."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "cat": 2}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def extended(tokenizer: Tokenizer, folder: Path, **arguments: str) -> tuple[Template, Tokenizer]:
    """A template of 100 codes and the tokenizer with its tokens."""
    tokenizer.save(str(folder / "tokenizer.json"))
    template = Template(100, 32, offset_for(folder), **arguments)
    report = extend_tokenizer(folder, folder / "out", template)
    assert report["added"] == 102 and report["vocabulary"] == template.last_id + 1
    return template, Tokenizer.from_file(str(folder / "out" / "tokenizer.json"))


@pytest.mark.parametrize("make", [llama_like, gpt_like, lower_case])
def test_the_file_is_what_tokenizers_writes(make: object, tmp_path: Path) -> None:
    own = make()  # type: ignore[operator]
    arguments = {"begin": "<IMG>", "end": "</IMG>", "token": "<IMG {:03}>"} if make is lower_case else {}
    size = own.get_vocab_size()
    template, tokenizer = extended(own, tmp_path, **arguments)
    assert tokenizer.get_vocab_size() == size + 102
    for id, text, is_mark in template.vocabulary():
        assert tokenizer.token_to_id(text) == id and tokenizer.id_to_token(id) == text
        add = own.add_special_tokens if is_mark else own.add_tokens
        add([AddedToken(text, single_word=False, lstrip=False, rstrip=False, normalized=False, special=is_mark)])
    own.save(str(tmp_path / "theirs.json"))
    theirs = json.loads((tmp_path / "theirs.json").read_text())
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text()) == theirs


@pytest.mark.parametrize("make", [llama_like, gpt_like])
def test_text_and_ids_are_the_templates(make: object, tmp_path: Path) -> None:
    template, tokenizer = extended(make(), tmp_path)  # type: ignore[operator]
    codes = np.arange(64).reshape(2, 32)
    text, ids = template.codes_to_text(codes), template.codes_to_ids(codes).tolist()
    assert tokenizer.encode(text, add_special_tokens=False).ids == ids
    assert tokenizer.decode(ids, skip_special_tokens=False).replace(" ", "") == text
    without_marks = tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "")
    assert without_marks == text.replace("<img>", "").replace("</img>", ""), "codes are not special, marks are"
    # In the middle of a word, and beside spaces, which stay.
    around = tokenizer.encode(f"a cat{text} \nyes", add_special_tokens=False).ids
    start = around.index(ids[0])
    assert around[start : start + len(ids)] == ids
    for id in around[:start] + around[start + len(ids) :]:
        assert id < template.config["offset"]
    assert tokenizer.decode(around[:start]) == "a cat" and tokenizer.decode(around[start + len(ids) :]).endswith(" \nyes")


def test_seed_llamas_ids(tmp_path: Path) -> None:
    vocab = {f"w{id}": id for id in range(32000)}
    Tokenizer(models.BPE(vocab=vocab, merges=[])).save(str(tmp_path / "tokenizer.json"))
    assert offset_for(tmp_path) == 32000
    assert extend_tokenizer(tmp_path, tmp_path / "out", Template())["vocabulary"] == 40194
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert [tokenizer.token_to_id(text) for text in ("<img_00000>", "<img_08191>", "<img>", "</img>")] == [
        32000,
        40191,
        40192,
        40193,
    ]
    added = json.loads((tmp_path / "out" / "added_tokens.json").read_text())
    assert len(added) == 8194 and added["<img_00012>"] == 32012
    again = extend_tokenizer(tmp_path / "out", tmp_path / "again", Template())
    assert (again["added"], again["present"]) == (0, 8194)
    with pytest.raises(VocabularyError, match="is taken by \"w31999\"; its free ids begin at 32000"):
        extend_tokenizer(tmp_path, tmp_path / "no", Template(offset=31999))
    with pytest.raises(VocabularyError, match="the next free id is 32000"):
        extend_tokenizer(tmp_path, tmp_path / "no", Template(offset=32001))


class Lark:
    """A grammar in llguidance, over a tokenizer."""

    def __init__(self, tokenizer: LLTokenizer, text: str) -> None:
        self.tokenizer = tokenizer
        self.grammar = grammar_from("lark", text)
        assert LLMatcher.validate_grammar(self.grammar, tokenizer) == ""

    def accepts(self, ids: list[int]) -> bool:
        matcher = LLMatcher(self.tokenizer, self.grammar)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    def allowed(self, ids: list[int]) -> list[int]:
        """Ids that may come after `ids`."""
        matcher = LLMatcher(self.tokenizer, self.grammar)
        assert not ids or matcher.consume_tokens(ids), matcher.get_error()
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        return np.flatnonzero(bits).tolist()


class Gbnf:
    """A grammar as llguidance's parser of GBNF has it, matched letter by letter in all ways, as llama.cpp does."""

    def __init__(self, text: str) -> None:
        self.rules = gbnf_to_lark.GrammarParser().parse(text)

    def accepts(self, text: str) -> bool:
        return len(text) in self.ends(self.rules["root"].alternatives, text, 0)

    def ends(self, node: object, text: str, start: int) -> Iterator[int]:
        """Where what `node` matches from `start` on may end."""
        match node:
            case gbnf_to_lark.LiteralNode(value):
                literal = re.sub(r"\\(.)", r"\1", value)
                if text.startswith(literal, start):
                    yield start + len(literal)
            case gbnf_to_lark.RegexNode(rx):
                if start < len(text) and re.fullmatch(rx, text[start], re.DOTALL):
                    yield start + 1
            case gbnf_to_lark.RuleRefNode(name) if name.startswith("text"):
                yield from self.texts(name, text, start)
            case gbnf_to_lark.RuleRefNode(name):
                yield from self.ends(self.rules[name].alternatives, text, start)
            case gbnf_to_lark.RepetitionNode(inner, least, most):
                ends, times = {start}, 0
                while ends:
                    if times >= least:
                        yield from ends
                    if times == most:
                        return
                    ends = {end for at in ends for end in self.ends(inner, text, at) if end > at}
                    times += 1
            case gbnf_to_lark.SequenceNode(nodes):
                ends = {start}
                for inner in nodes:
                    ends = {end for at in ends for end in self.ends(inner, text, at)}
                yield from ends
            case gbnf_to_lark.AlternativeNode(alternatives):
                for inner in alternatives:
                    yield from self.ends(inner, text, start)

    def texts(self, name: str, text: str, start: int) -> Iterator[int]:
        """As `ends`, for a rule whose alternatives are nothing, or a letter and such a rule: without recursion."""
        names = {name}
        while names:
            yield start
            letter = text[start : start + 1]
            ways = [way.nodes for name in names for way in self.rules[name].alternatives.alternatives if len(way.nodes) == 2]
            names = {rule.name for rx, rule in ways if letter and re.fullmatch(rx.rx, letter, re.DOTALL)}
            start += 1


def image_of(template: Template, count: int) -> list[int]:
    """An image of so many codes, as ids."""
    config = template.config
    codes = [config["offset"] + (7 * i) % config["codebook_size"] for i in range(count)]
    return [config["begin_id"], *codes, config["end_id"]]


@pytest.mark.parametrize("make", [llama_like, gpt_like])
def test_grammars_accept_exactly_whole_images(make: object, tmp_path: Path) -> None:
    template, tokenizer = extended(make(), tmp_path)  # type: ignore[operator]
    config = template.config
    offset, begin, end = config["offset"], config["begin_id"], config["end_id"]
    ll_tokenizer = LLTokenizer((tmp_path / "out" / "tokenizer.json").read_text())
    texts = {id: text for id, text, _ in template.vocabulary()}

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def image(count: int) -> list[int]:
        return image_of(template, count)

    spelled = [tokenizer.token_to_id(letter) for letter in "<img>"]
    cases = [  # ids, whether they are one image, whether they are text and images
        (image(32), True, True),
        (image(31), False, False),
        (image(33), False, False),
        (image(32)[:-1], False, False),
        (image(32)[1:], False, False),
        ([begin, *image(32)], False, False),
        ([*image(31)[:-1], spelled[1], end], False, False),
        ([*image(31)[:-1], begin, end], False, False),
        ([], False, True),
        (ids("so <i>it</i> is\nü"), False, True),
        (ids("see ") + image(32) + ids(" and <") + image(32) + ids("img>"), False, True),
        (image(32) + image(32), False, True),
        ([offset], False, False),
        ([end], False, False),
        (spelled, False, False),
        (ids("a") + spelled + image(32)[1:], False, False),
    ]
    one, mixed = Lark(ll_tokenizer, template.llguidance("image")), Lark(ll_tokenizer, template.llguidance())
    for given, is_image, is_mixed in cases:
        assert (one.accepts(given), mixed.accepts(given)) == (is_image, is_mixed), given
    one_text, mixed_text = Gbnf(template.gbnf("image")), Gbnf(template.gbnf())
    for given, is_image, is_mixed in cases[:-1]:  # in the last one marks are spelled out, which as text are marks
        text = "".join(texts.get(id) or tokenizer.id_to_token(id) for id in given)
        assert (one_text.accepts(text), mixed_text.accepts(text)) == (is_image, is_mixed), text
    block = template.codes_to_text(np.arange(32))
    for broken in (block.replace("<img_00007>", "<img_00100>"), block.replace("<img_00007>", "<img_7>"), f"{block}<img_"):
        assert not one_text.accepts(broken) and not mixed_text.accepts(broken), broken


@pytest.mark.parametrize("make", [llama_like, gpt_like])
def test_a_grammar_and_the_mask_say_the_same(make: object, tmp_path: Path) -> None:
    template, tokenizer = extended(make(), tmp_path)  # type: ignore[operator]
    eos = 2 if make is llama_like else tokenizer.token_to_id("<|endoftext|>")
    begin = template.config["begin_id"]
    ll_tokenizer = LLTokenizer((tmp_path / "out" / "tokenizer.json").read_text(), eos_token=eos)
    one, mixed = Lark(ll_tokenizer, template.llguidance("image")), Lark(ll_tokenizer, template.llguidance())
    held = {reply: Constraint(template, reply, [eos]) for reply in ("image", "interleaved")}
    for length in range(35):
        before = image_of(template, 32)[:length]
        allowed = {
            reply: np.flatnonzero(constraint.mask(constraint.next([], before), template.last_id + 1)).tolist()
            for reply, constraint in held.items()
        }
        assert one.allowed(before) == allowed["image"], length
        if 0 < length < 34:
            assert mixed.allowed(before) == allowed["interleaved"], length
        else:
            # In text the grammar has fewer: special tokens are no text.
            assert set(mixed.allowed(before)) <= set(allowed["interleaved"])
            assert {begin, eos, tokenizer.token_to_id("c")} <= set(mixed.allowed(before))


def test_grammars_of_other_spellings(tmp_path: Path) -> None:
    spelling = {"begin": "<|image/[start]|>", "end": "\"end\\", "token": "<|v-{}^|>"}
    template, _ = extended(gpt_like(), tmp_path, **spelling)
    ll_tokenizer = LLTokenizer((tmp_path / "out" / "tokenizer.json").read_text())
    block = template.codes_to_ids(np.arange(68, 100)).tolist()
    lark = Lark(ll_tokenizer, template.llguidance())
    assert lark.accepts(block * 2) and not lark.accepts(block[:5] + block[6:])
    gbnf, text = Gbnf(template.gbnf()), template.codes_to_text(np.arange(68, 100))
    assert gbnf.accepts(f'a "{text}" {text}|-') and not gbnf.accepts(text.replace("<|v-70^|>", "<|v-070^|>"))


def messages(turns: list[str], system: str) -> list[dict[str, object]]:
    said: list[dict[str, object]] = [{"role": "system", "content": system}] if system else []
    return said + [
        {"role": ("user", "assistant")[number % 2], "content": turn} for number, turn in enumerate(turns)
    ]


def test_chat_templates_render_the_prompts() -> None:
    template = Template()
    block = template.codes_to_text(np.arange(32))

    def refuse(reason: str) -> None:
        raise ValueError(reason)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    for prompt in ("seed-llama-8b", "seed-llama-14b"):
        chat = environment.from_string(template.chat_template(prompt))

        def render(said: list[dict[str, object]], chat: object = chat) -> str:
            return chat.render(messages=said, bos_token="<s>", add_generation_prompt=True)  # type: ignore[attr-defined]

        for turns in ([f"{block}What is it?"], ["Who?", " A dog. ", "Draw\nit's \"tail\"."]):
            for system in ("", "Be kind."):
                assert render(messages(turns, system)) == render_prompt(prompt, turns, system=system), prompt
        parts = [{"type": "image", "codes": np.arange(32)}, {"type": "text", "text": "What is it?"}]
        said = [{"role": "user", "content": parts}]
        assert render(said) == render_prompt(prompt, [f"{block}What is it?"])
        for wrong in ({"role": "tool", "content": ""}, {"role": "user", "content": [{"type": "video"}]}):
            with pytest.raises(ValueError, match="(roles|parts) are"):
                render([wrong])


def test_transformers_opens_the_tokenizer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    llama_like().save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    template = Template(100, 32, offset_for(tmp_path))
    extend_tokenizer(tmp_path, tmp_path / "out", template, chat="seed-llama-8b")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == template.last_id + 1
    block = template.codes_to_text(np.arange(32))
    ids = template.codes_to_ids(np.arange(32)).tolist()
    assert tokenizer(block, add_special_tokens=False)["input_ids"] == ids
    assert {"<img>", "</img>"} <= set(tokenizer.all_special_tokens)
    assert "<img_00001>" not in tokenizer.all_special_tokens
    said = [{"role": "user", "content": f"{block}What?"}]
    prompt = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    assert prompt == render_prompt("seed-llama-8b", [f"{block}What?"])
    tokenizer.save_pretrained(tmp_path / "saved")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(block, add_special_tokens=False)["input_ids"] == ids


def test_transformers_generates_whole_images() -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    template = Template(100, 32, 50)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=160, **sizes))
    prompts = torch.tensor([[1, 5, 150], [1, 5, 6]])
    for options in ({"do_sample": True}, {"num_beams": 3}):
        held = LogitsProcessor(template, "image")
        made = model.generate(prompts, max_new_tokens=40, pad_token_id=0, eos_token_id=2, logits_processor=[held], **options)
        rows = made.tolist()
        assert template.ids_to_codes(rows[0][2:36]).shape == (1, 32), "begun in the prompt"
        assert template.ids_to_codes(rows[1][3:37]).shape == (1, 32)
        assert rows[0][36] == 2 and rows[1][37] == 2
