import pytest


@pytest.fixture(scope="session", autouse=True)
def own_user_folder(tmp_path_factory):
    """No test reads or writes the user's own key, places, settings and caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in (
            "MEDTL_ID_KEY",
            "MEDTL_ID_KEY_FILE",
            "MEDTL_REDACT_PATHS",
            "MEDTL_PLUGINS",
            "MEDTL_BLOCK",
            "MEDTL_STRICT",
            "MEDTL_CACHE",
            "MEDTL_WEIGHTS",
            "MEDTL_OFFLINE",
            "HF_HUB_OFFLINE",
        ):
            patch.delenv(name, raising=False)
        yield
