import hashlib
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from medtl_monai.errors import WeightsError
from medtl_monai.transfer.reading import read_state
from medtl_monai.transfer.sources import resolve_source, split_hash

STATE = {"a.weight": torch.randn(3, 4), "a.bias": torch.zeros(3)}


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def write(path, value):
    torch.save(value, path)
    return path


def same(state):
    return set(state) == set(STATE) and all(torch.equal(state[k], STATE[k]) for k in STATE)


def refused(path, match, **options):
    with pytest.raises(WeightsError, match=match) as caught:
        read_state(path, **options)
    assert caught.value.where == path.name, "no folder in messages"
    assert caught.value.mend


def test_safetensors_and_its_hash(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(STATE, path)
    state, sha256 = read_state(path)
    assert same(state)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert same(read_state(path, sha256=sha256.upper())[0])


def test_torch_files_new_and_old(tmp_path):
    assert same(read_state(write(tmp_path / "w.pt", STATE))[0])
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(read_state(tmp_path / "old.pt")[0])


@pytest.mark.parametrize("name", ["state_dict", "model", "network", "encoder"])
def test_wrapped_states_are_found(tmp_path, name):
    assert same(read_state(write(tmp_path / "w.pt", {name: STATE, "epoch": 3, "optimizer": {"lr": 0.1}}))[0])


def test_a_known_wrapper_goes_before_others(tmp_path):
    assert same(read_state(write(tmp_path / "w.pt", {"state_dict": STATE, "ema": {"x": torch.ones(1)}}))[0])


def test_several_sets_are_not_guessed_between(tmp_path):
    path = write(tmp_path / "w.pt", {"teacher": STATE, "student": STATE})
    refused(path, r"several sets of weights \('student', 'teacher'\)")


def test_another_hash_is_refused_before_anything_is_parsed(tmp_path, monkeypatch):
    path = write(tmp_path / "w.pt", STATE)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("parsed"))
    refused(path, r"sha256 is [0-9a-f]{12}…, expected is 0{12}…", sha256="0" * 64)


def test_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "w.pt", {"state_dict": STATE, "bomb": Bomb()})
    refused(path, "holds Python objects")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "w.pkl", "damaged|Python objects")
    assert not (tmp_path / "exploded").exists()


def test_a_whole_model_is_not_unpickled(tmp_path):
    refused(write(tmp_path / "w.pt", torch.nn.Linear(2, 2)), "holds Python objects")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_truncated_files(tmp_path, kind, share):
    path = tmp_path / f"w.{kind}"
    state = {"a.weight": torch.randn(64, 64)}
    if kind == "pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "damaged or incomplete")


@pytest.mark.parametrize("content", [b"<html>Not found</html>", b"\x00" * 100, b"hello"])
def test_other_files(tmp_path, content):
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    refused(path, "neither safetensors nor a torch file")


@pytest.mark.parametrize("value", [[1, 2], {"epoch": 3}, torch.ones(3), {}])
def test_files_without_named_tensors(tmp_path, value):
    refused(write(tmp_path / "w.pt", value), "no tensors by name")


def test_empty_missing_and_too_large(tmp_path):
    path = write(tmp_path / "w.pt", STATE)
    refused(path, "larger than 100 bytes", max_bytes=100)
    path.write_bytes(b"")
    refused(path, "empty")
    refused(tmp_path / "none.pt", "no such weights file")
    refused(tmp_path, "cannot be read")


def test_paths_and_file_uris(tmp_path, monkeypatch):
    path = write(tmp_path / "w.pt", STATE)
    for uris in ([str(path)], [f"file:{path}"], [f"file://{path}"], ["nowhere.pt", str(path)]):
        found = resolve_source(uris)
        assert found.path == path
        assert found.origin == "w.pt", "no folder in what is recorded"
        assert not found.downloaded
    monkeypatch.chdir(tmp_path)
    assert resolve_source(["w.pt"]).path.samefile(path)


def test_a_file_inside_a_distribution():
    found = resolve_source(["package:torch/torch/version.py"])
    assert found.path.name == "version.py"
    assert found.path.is_file()
    assert found.origin == "package:torch/torch/version.py"


def test_a_file_of_an_editable_distribution():
    assert resolve_source(["package:medtl-monai/medtl_monai/py.typed"]).path.name == "py.typed"


@pytest.mark.parametrize(
    "uri", ["package:torch/torch/nothing.bin", "package:no-such-dist/x/y", "package:torch/../secret", "package:torch"]
)
def test_no_such_package_file(uri):
    with pytest.raises(WeightsError, match="no such file"):
        resolve_source([uri])


@pytest.mark.parametrize("uri", ["s3://bucket/w.pt", "gs://bucket/w.pt"])
def test_other_addresses_are_not_guessed_at(uri):
    with pytest.raises(WeightsError, match="not a kind of address medtl reads") as caught:
        resolve_source([uri], where="weights ssl")
    assert "--weights FILE" in caught.value.mend
    assert caught.value.where == "weights ssl"


def test_every_reason_is_given():
    with pytest.raises(WeightsError, match=r"s3: not a kind of .*; w\.pt: no such file"):
        resolve_source(["s3://bucket/w.pt", "/secret/folder/w.pt"])


def test_a_hash_behind_an_address():
    sha256 = "ab" * 32
    assert split_hash(f"https://example.org/w.pt#sha256={sha256.upper()}") == ("https://example.org/w.pt", sha256)
    assert split_hash("https://example.org/w.pt?a=b") == ("https://example.org/w.pt?a=b", None)
    with pytest.raises(WeightsError, match="not a SHA-256") as caught:
        split_hash("https://user:word@example.org/w.pt?token=secret#md5=1")
    assert caught.value.where == "https://example.org/w.pt"
