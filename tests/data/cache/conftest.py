import pytest

from medtl_monai.data.cache import stamps


@pytest.fixture(autouse=True)
def id_key(monkeypatch):
    """No test of this room touches the user's own key."""
    monkeypatch.setenv("MEDTL_ID_KEY", "a key for the tests of this room")


@pytest.fixture
def settled(monkeypatch):
    """Files that were just written count as written long ago."""
    monkeypatch.setattr(stamps, "FRESH_NS", 0)
