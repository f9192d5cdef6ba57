import pytest


@pytest.fixture(autouse=True)
def id_key(monkeypatch):
    """No test of this room touches the user's own key."""
    monkeypatch.setenv("MEDTL_ID_KEY", "a key for the tests of this room")
