import hashlib
import hmac
import stat

import pytest

from medtl_monai.data.identity import key_path, load_key, pseudonym
from medtl_monai.errors import ConfigError, StorageError


def test_a_pseudonym_is_an_hmac_of_the_uid():
    expected = hmac.new(b"k" * 20, b"1.2.3", hashlib.sha256).hexdigest()[:12]
    assert pseudonym(b"k" * 20, "1.2.3") == expected
    assert pseudonym(b"K" * 20, "1.2.3") != expected


def test_parts_cannot_be_confused():
    assert pseudonym(b"k" * 20, "ab", "c") != pseudonym(b"k" * 20, "a", "bc")


def test_the_environment_comes_first(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MEDTL_ID_KEY", "x" * 16)
    assert load_key() == b"x" * 16
    assert not key_path().exists()


def test_a_short_key_is_refused(monkeypatch):
    monkeypatch.setenv("MEDTL_ID_KEY", "short")
    with pytest.raises(ConfigError, match="5 characters"):
        load_key()


def test_the_key_file_is_made_once_and_private(monkeypatch, tmp_path):
    monkeypatch.delenv("MEDTL_ID_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    first = load_key()
    assert len(first) == 64
    assert load_key() == first
    assert key_path() == tmp_path / "medtl" / "id.key"
    assert stat.S_IMODE(key_path().stat().st_mode) == 0o600
    assert [p.name for p in key_path().parent.iterdir()] == ["id.key"]


def test_a_relative_config_home_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert key_path() == tmp_path / ".config" / "medtl" / "id.key"


def test_a_key_file_that_cannot_be_made_says_how_to_mend_it(monkeypatch, tmp_path):
    monkeypatch.delenv("MEDTL_ID_KEY")
    (tmp_path / "medtl").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(StorageError, match="MEDTL_ID_KEY"):
        load_key()
