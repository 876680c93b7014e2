"""One pipeline folder for all tests here."""

from pathlib import Path

import pytest

from tests.policy.small_pipeline import write_pipeline


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    write_pipeline(folder)
    return folder
