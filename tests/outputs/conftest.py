import pytest


@pytest.fixture(autouse=True)
def id_key(monkeypatch):
    """No test of this room touches the user's own key."""
    monkeypatch.setenv("MEDTL_ID_KEY", "a key for the tests of this room")


@pytest.fixture
def undrawn(monkeypatch):
    """Build figures without rendering them, which is what takes time."""

    def savefig(_, file, **options):
        file.write('<svg width="1pt" height="1pt" viewBox="0 0 1 1"></svg>')

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
