"""Makes `_native.pyi` of the compiled module: signatures from what it says of itself, types from its docstrings.

    python stubs.py            # writes the stub beside the package's sources
    python stubs.py --check    # fails unless the stub is current

Docstrings are in Google's style: every argument is a line `name (type): ...`, a result `type: ...`.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path

from seed_tokenizer import _native

STUB = Path(__file__).parent / "python" / "seed_tokenizer" / "_native.pyi"

HEADER = '''"""SEED: images to 32 discrete tokens and back."""

# Made by stubs.py of the docstrings in src/; change those.

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final, overload

import numpy as np
from numpy.typing import NDArray

from seed_tokenizer.results import Report

__version__: str
'''

# Longest line that is not broken.
LONGEST = 110

CODES, MARGINS = "NDArray[np.uint16]", "NDArray[np.float32]"
# Results that depend on an argument: method -> (argument, its type, the result) of each form.
FORMS: dict[str, list[tuple[str, str, str]]] = {
    name: [
        ("return_margins", "Literal[False] = False", CODES),
        ("return_margins", "Literal[True]", f"tuple[{CODES}, {MARGINS}]"),
        ("return_margins", "bool", f"{CODES} | tuple[{CODES}, {MARGINS}]"),
    ]
    for name in ("encode", "encode_pixels")
}


def section(doc: str, name: str) -> str:
    """The text of a section of a docstring, without its indentation."""
    found = re.search(rf"^{name}:\n((?:    .*\n|\n)+)", doc + "\n", re.MULTILINE)
    return textwrap.dedent(found[1]) if found else ""


def argument_types(doc: str) -> dict[str, str]:
    """Types by argument."""
    return dict(re.findall(r"^(\w+) \(((?:[^()]|\([^()]*\))+)\): ", section(doc, "Args"), re.MULTILINE))


def result_type(doc: str) -> str:
    """The type of the result; None for what returns nothing."""
    text = section(doc, "Returns")
    if not text:
        return "None"
    depth = 0
    for index, letter in enumerate(text):
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == ":" and depth == 0:
            return text[:index]
    raise SystemExit(f"a result without a type: {text!r}")


def quoted(doc: str, indent: str) -> str:
    """A docstring as source."""
    lines = textwrap.indent(doc.replace("\\", "\\\\"), indent).strip().splitlines()
    end = f"\n{indent}" if len(lines) > 1 else ""
    return f'{indent}"""' + "\n".join(lines) + f'{end}"""\n'


def parameters(function: object, types: dict[str, str], where: str) -> list[tuple[str, str]]:
    """Name and declaration of each parameter."""
    made, starred = [], False
    for parameter in inspect.signature(function).parameters.values():  # type: ignore[arg-type]
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            made.append(("*", "*"))
            starred = True
        name = parameter.name
        if name in ("self", "cls"):
            made.append((name, name))
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise SystemExit(f"{where}: {name} cannot be given by name")
        if name not in types:
            raise SystemExit(f"{where}: the docstring has no line `{name} (type): ...`")
        default = "" if parameter.default is parameter.empty else f" = {literal(parameter.default)}"
        made.append((name, f"{name}: {types[name]}{default}"))
    return made


def literal(value: object) -> str:
    """A default as source."""
    return '"' + value + '"' if isinstance(value, str) else repr(value)


def declare(name: str, declared: list[str], result: str, indent: str) -> str:
    """The first line of a definition, or its first lines."""
    line = f"{indent}def {name}({', '.join(declared)}) -> {result}:"
    if len(line) > LONGEST:
        lines = "".join(f"{indent}    {part},\n" for part in declared)
        line = f"{indent}def {name}(\n{lines}{indent}) -> {result}:"
    return line


def define(name: str, function: object, indent: str, *, is_class_method: bool = False) -> str:
    """The definition of a function."""
    doc = inspect.getdoc(function)
    if not doc:
        raise SystemExit(f"{name} has no docstring")
    made = parameters(function, argument_types(doc), name)
    if is_class_method:
        made = [("cls", "cls"), *(parameter for parameter in made if parameter[0] != "cls")]
    forms = FORMS.get(name, [])
    text = ""
    for index, form in enumerate(forms or [None]):
        declared = [f"{name}: {form[1]}" if form and name == form[0] else text for name, text in made]
        result = form[2] if form else result_type(doc)
        text += f"{indent}@overload\n" if form else ""
        text += f"{indent}@classmethod\n" if is_class_method else ""
        text += declare(name, declared, result, indent)
        text += f"\n{quoted(doc, indent + '    ')}" if index == 0 else " ...\n"
    return text


def define_class(name: str, class_: type) -> str:
    """The definition of a class."""
    doc = inspect.getdoc(class_) or ""
    text = f"@final\nclass {name}:\n{quoted(doc, '    ')}"
    if class_.__text_signature__:  # it can be made
        made = [("cls", "cls"), *parameters(class_, argument_types(doc), name)]
        text += "\n" + declare("__new__", [declared for _, declared in made], name, "    ") + " ...\n"
    for member, value in sorted(class_.__dict__.items()):  # the module's order is the linker's
        if member.startswith("_"):
            continue
        if inspect.isgetsetdescriptor(value):
            text += f"\n    @property\n    def {member}(self) -> {PROPERTIES[member]}:\n{quoted(inspect.getdoc(value) or '', '        ')}"
        else:
            is_class_method = isinstance(value, (classmethod, type(dict.__dict__["fromkeys"])))
            text += "\n" + define(member, getattr(class_, member), "    ", is_class_method=is_class_method)
    own = {member: declared for member, declared in PRIVATE.items() if member in class_.__dict__}
    return text + ("\n" + "".join(f"    def {member}{declared}: ...\n" for member, declared in own.items()) if own else "")


# Members that have no docstring, with their signatures.
PRIVATE = {"_repr_html_": "(self) -> str", "__reduce__": "(self) -> tuple[Any, tuple[Any, ...]]"}

# Types of properties, which have no signature.
PROPERTIES = {
    "block_length": "int",
    "last_id": "int",
    "name": "str",
    "num_tokens": "int",
    "codebook_size": "int",
    "image_size": "int",
    "width": "int",
    "device": "str",
    "dtype": "str",
    "config": "dict[str, Any]",
}


def stub() -> str:
    """The whole stub."""
    names = "".join(f"    {literal(name)},\n" for name in sorted(_native.__all__))
    text = f"{HEADER}\n__all__ = [\n{names}]\n"
    for name, value in sorted(vars(_native).items()):
        if inspect.isclass(value):
            text += "\n" + define_class(name, value)
        elif callable(value) and not name.startswith("__"):
            text += "\n" + define(name, value, "")
    return text


def main() -> None:
    """Writes or checks the stub."""
    made = stub()
    if sys.argv[1:] == ["--check"]:
        if STUB.read_text() != made:
            raise SystemExit(f"{STUB} is not current; run `make stubs`")
    else:
        STUB.write_text(made)


if __name__ == "__main__":
    main()
