"""Every exception has its base, a place where it is raised, and a test that reaches it."""

import inspect
import pickle
import re
from pathlib import Path

from seed_tokenizer import SeedError, errors

SOURCES = Path(__file__).parents[1]

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and value is not SeedError]


def test_all_derive_from_the_base_and_from_a_native_exception() -> None:
    assert len(CLASSES) > 20
    for class_ in CLASSES:
        native = [base for base in class_.__mro__ if base.__module__ == "builtins"]
        assert issubclass(class_, SeedError) and native[0] is not Exception and class_.__doc__, class_


def test_every_error_of_the_core_is_mapped_by_name() -> None:
    """The enum may grow, so the compiler cannot say what the match lacks."""
    enum = (SOURCES.parent / "seed-core" / "src" / "error.rs").read_text().split("pub enum Error {")[1].split("\n}\n")[0]
    variants = set(re.findall(r"^    ([A-Z]\w+)(?: \{|,)$", enum, re.MULTILINE))
    assert {"Read", "Interrupted"} <= variants
    source = (SOURCES / "src" / "errors.rs").read_text()
    assert variants == set(re.findall(r"Error::([A-Z]\w+)", source)) - {"SeedError"}


def test_a_test_reaches_every_one() -> None:
    tests = [path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path.name != Path(__file__).name]
    raised = {class_.__name__ for class_ in CLASSES if not class_.__subclasses__() or class_ is errors.HubError}
    for name in sorted(raised):
        pattern = rf"raises\(\(?[\w, ]*\b{name}\b|fails\({name}\b|{name}\.__name__"
        assert any(re.search(pattern, text) for text in tests), f"no test expects {name}"


def test_exceptions_travel_between_processes() -> None:
    for class_ in CLASSES:
        again = pickle.loads(pickle.dumps(class_("a text")))
        assert type(again) is class_ and str(again) == "a text"
