import hashlib
import hmac
import stat

import pytest

from medtl_monai.data.identity import check_key, fingerprint, key_path, key_source, load_key, pseudonym, read_key
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


def key_file(path, key="k" * 32, mode=0o600):
    path.write_text(key + "\n")
    path.chmod(mode)
    return path


def test_a_team_names_a_file_and_the_text_comes_before_it(monkeypatch, tmp_path):
    monkeypatch.delenv("MEDTL_ID_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MEDTL_ID_KEY_FILE", str(key_file(tmp_path / "team.key")))
    assert load_key() == b"k" * 32
    assert key_source() == tmp_path / "team.key"
    assert not key_path().exists()
    monkeypatch.setenv("MEDTL_ID_KEY", "x" * 16)
    assert load_key() == b"x" * 16
    assert key_source() == "MEDTL_ID_KEY"


def test_a_team_file_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.delenv("MEDTL_ID_KEY")
    monkeypatch.setenv("MEDTL_ID_KEY_FILE", str(tmp_path / "team.key"))
    with pytest.raises(ConfigError, match=r"team\.key: .*No such file.*MEDTL_ID_KEY_FILE") as caught:
        load_key()
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "mine", "refused"),
    [
        (0o600, True, False),
        (0o600, False, False),
        (0o640, False, False),
        (0o640, True, True),
        (0o644, False, True),
        (0o604, True, True),
        (0o602, False, True),
    ],
)
def test_a_key_that_others_may_read_is_no_secret(mode, mine, refused, tmp_path):
    path = key_file(tmp_path / "id.key", mode=mode)
    if not refused:
        assert read_key(path, mine=mine) == b"k" * 32
        return
    with pytest.raises(ConfigError, match=rf"others may read.*mode {mode:04o}.*chmod"):
        read_key(path, mine=mine)


def test_a_fingerprint_tells_keys_apart_and_is_not_a_plain_hash():
    key = b"k" * 32
    assert fingerprint(key) == fingerprint(b"k" * 32)
    assert len(fingerprint(key)) == 12
    assert fingerprint(key) != fingerprint(b"K" * 32)
    assert not hashlib.sha256(key).hexdigest().startswith(fingerprint(key))
    assert fingerprint(key) != pseudonym(key, "medtl id key")


def test_ids_of_another_key_are_refused_and_those_without_a_mark_are_not(monkeypatch):
    monkeypatch.setenv("MEDTL_ID_KEY", "x" * 16)
    check_key(fingerprint(b"x" * 16), where="run")
    check_key(None, where="run")
    check_key("", where="run")
    with pytest.raises(ConfigError, match=r"run: its case ids were made with another id key.*medtl key"):
        check_key(fingerprint(b"y" * 16), where="run")
