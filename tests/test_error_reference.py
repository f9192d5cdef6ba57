"""The reference of errors: every one the code can raise is in it, says something, and says how to mend it."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from helpers_dicom import Recipe

from medtl_monai import errors
from medtl_monai.config import DataConfig, load_config, parse_set
from medtl_monai.data.cases import load_cases
from medtl_monai.data.table import read_table
from medtl_monai.dicom import read_volume
from medtl_monai.dicom.select import Rules
from medtl_monai.host import Host
from medtl_monai.specs import Stage

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "medtl_monai"
CLASSES = [n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.MedtlError)]
PLACEHOLDER = re.compile(r"‹[^›]*›")


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return sys.modules["generator.raised"].raised()


@pytest.fixture(scope="module")
def page(reference):
    return sys.modules["generator.errorpage"].page()


def test_every_place_that_makes_an_error_is_covered(reference):
    made = re.compile(rf"(?<!class )(?<![\w.:`])({'|'.join(CLASSES)})\((?!\w*Error\))")
    found = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if made.search(line) and not line.startswith("class "):
                found.add((module, number))
    assert len(found) > 250
    assert {(entry.module, entry.line) for entry in reference} == found


def test_every_error_says_something_and_how_to_mend_it(reference):
    empty = [e for e in reference if not re.search(r"[A-Za-z]{2}", PLACEHOLDER.sub("", e.what))]
    assert empty == []
    unmended = [e for e in reference if not re.search(r"[A-Za-z]{3}", e.mend)]
    assert unmended == []
    assert len(reference) > 400


def test_texts_hold_words_not_code(reference):
    # An error built by a helper that no caller gives words to would read so.
    blind = [e for e in reference if not re.search(r"[A-Za-z]{3}", PLACEHOLDER.sub("", e.mend))]
    assert [(e.module, e.what) for e in blind] == []


def test_everything_is_on_the_page(reference, page):
    plain = page.replace("\\", "")
    for entry in reference:
        assert " ".join(entry.what.replace("\\", "").split()).replace("|", "") in plain.replace("|", ""), entry
    assert plain.count("\n| ") >= len({(e.what, e.mend, e.error, e.module) for e in reference})


def provoke_gap(folder):
    Recipe(keep=(0, 1, 3)).write(folder / "gap")
    read_volume(folder / "gap")


def provoke_torn(folder):
    Recipe().write(folder / "torn")
    path = folder / "torn" / "IM0002"
    path.write_bytes(path.read_bytes()[:-10])
    read_volume(folder / "torn")


def provoke_ragged(folder):
    (folder / "labels.csv").write_text("a,b\n1\n")
    read_table(folder / "labels.csv")


def provoke_no_key(folder):
    Recipe(slices=3).write(folder / "studies")
    (folder / "labels.csv").write_text("name,kind\nx,a\ny,b\n")
    load_cases(DataConfig(studies=folder / "studies", labels=folder / "labels.csv", target=["kind"]), "class")


def provoke_unmatched(folder):
    Recipe(slices=3).write(folder / "studies")
    (folder / "labels.csv").write_text("PatientID,kind\nx,a\ny,b\n")
    load_cases(DataConfig(studies=folder / "studies", labels=folder / "labels.csv", target=["kind"]), "class")


@pytest.mark.parametrize(
    "provoke",
    [
        provoke_gap,
        provoke_torn,
        provoke_ragged,
        provoke_no_key,
        provoke_unmatched,
        lambda folder: read_volume(folder / "absent"),
        lambda folder: read_volume(folder),
        lambda folder: Rules.of({"modlity": "MR"}),
        lambda folder: load_config(None, {"training.epochs": "many"}),
        lambda folder: parse_set(["training.epochs"]),
        lambda folder: Host.load(environ={"MEDTL_PLUGINS": ""}).resolve("backbone", "resnet18-3"),
        lambda folder: Stage(name="s", channels=0, stride=(1, 1)),
    ],
)
def test_what_users_see_is_found_in_the_reference(provoke, reference, tmp_path):
    with pytest.raises(errors.MedtlError) as caught:
        provoke(tmp_path)
    said = caught.value
    assert said.mend
    named = type(said).__name__
    hits = [e for e in reference if e.error == named and matches(e.what, said.what)]
    assert hits, said.what


def matches(template, text):
    parts = [re.escape(part) for part in PLACEHOLDER.split(template)]
    return len("".join(parts)) > 8 and re.fullmatch(".+?".join(parts), text, re.DOTALL) is not None
