"""Captions as BERT's tokenizer of transformers cuts them, with a vocabulary of 85 tokens.

Writes, beside this file, vocab.txt, the vocabulary; tokenizer.json, the same tokenizer in the format of `tokenizers`; and
cases.json, a list of {"text", "length", "ids", "mask"}: `ids` and `mask` [length] of a text, called as BLIP-2 calls it:
tokenizer(text, padding="max_length", truncation=True, max_length=length).

Needs transformers (written with 5.24.0, tokenizers 0.23.3). `make.py --check` writes nothing and compares instead.
"""
import json
import sys
import tempfile
from pathlib import Path

from transformers import BertTokenizer

FOLDER = Path(__file__).parent
# Not at the ids of bert-base-uncased, so that ids come from the file.
SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = (
    "a the of on in with and two red green blue dog cat photo play un ##play ##ing ##s ##ed ##able ##ground ##dog "
    "##a ##b ##c ##ra cafe cafes naive strasse uber istanbul angstrom x ##x 1 2 3 ##1 ##2 19 ##99 ##00 . , ! ? - ' \" "
    "( ) : ; / & # % $ € … \u2014 \u4e2d \u56fd \u65e5 \u672c \u30ab \u30b7 ##\u30b7 \u0434\u043e\u043c ##\u0430 \ud55c\uad6d "
    "\u03c3 ##\u03c2 \u03bf\u03b4\u03bf\u03c3 \U0001f600 fi ##n"
).split()
TEXTS = [
    "", " ", "a photo of a dog", "A Photo of TWO dogs playing on the playground.", "unplayable", "unplayed dogs",
    "a cat, a dog and a café!", "cafés naïve Straße Über", "İstanbul istanbul ISTANBUL", "Ångström",
    "e\u0301 cafe\u0301", "\u00a0a\u2003dog\u3000cat\tred\nblue\rgreen", "a\u200bdog a\u200ddog", "dog\x00cat dog\x07cat",
    "dog\ufffdcat", "dog\u00adcat", "中国", "日本カシ", "a中国dog", "カシシ", "дома", "한국", "ΟΔΟΣ σς", "😀 a dog 😀😀", "❤️ a cat",
    "1999 2000 123", "don't (a dog): \"red\"; blue/green & #1 50% $3 €2…", "a—dog a-cat", "ﬁn", "x" * 100, "x" * 101,
    "xxxx", "[CLS] a dog [SEP] a cat", "[MASK]", "a [UNK] dog", "[cls]", "[PAD]", "[ SEP ]", "a dog" * 30,
    "a dog a cat " * 20, "the unknownword of a dog", "##ing", "dog##s", "a\u0307\u0323 dog", "ＡＢ ｄｏｇ", "\u202edog", "a\ue000dog",
    "dog\u0378cat", "\U00020000 dog", "..., !!! ???", "´ ` ~ ^ ¨ dog", "½ dog²", "\x85a\x1fdog", "A" * 3 + "bcra",
]
LENGTHS = [32, 8, 3]


def tokenizer():
    vocabulary = SPECIAL + PIECES
    assert len(vocabulary) == len(set(vocabulary)) == 85, len(vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vocab.txt")
        path.write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
        made = BertTokenizer.from_pretrained(folder)
        assert made.convert_tokens_to_ids(vocabulary) == list(range(len(vocabulary)))
        return path.read_text(encoding="utf-8"), made


def files():
    vocabulary, made = tokenizer()
    cases = []
    for text in TEXTS:
        for length in LENGTHS:
            got = made(text, padding="max_length", truncation=True, max_length=length)
            cases.append({"text": text, "length": length, "ids": got["input_ids"], "mask": got["attention_mask"]})
    made.backend_tokenizer.no_padding()
    made.backend_tokenizer.no_truncation()
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    return {
        "vocab.txt": vocabulary,
        "tokenizer.json": made.backend_tokenizer.to_str() + "\n",
        "cases.json": f"[\n{lines}\n]\n",
    }


def main():
    for name, text in files().items():
        path = FOLDER / name
        if sys.argv[1:] != ["--check"]:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            sys.exit(f"{name} differs")


if __name__ == "__main__":
    main()
