"""The run, told once for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.observability.programs import missing
from tests.observability.stage import Stage
from tests.observability.story import Story


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The run, when it is over; all but the killed worker is still up."""
    if lacking := missing():
        pytest.skip(f"not installed: {', '.join(lacking)}; see `make test-observability`")
    with pytest.MonkeyPatch.context() as patch:
        for variable in list(os.environ):
            if variable.startswith(("PENSTOCK_", "REDIS_")):
                patch.delenv(variable)
        stage = Stage(tmp_path_factory.mktemp("observability"))
        try:
            stage.open()
            story = Story(stage)
            story.tell()
            yield story
        finally:
            stage.close()


@pytest.fixture
def stage(story: Story) -> Stage:
    """Who took part in it."""
    return story.stage
