"""A model of one queue, and random histories that compare the scripts with it."""

import pytest

# Else a failed comparison in them does not say what was compared.
pytest.register_assert_rewrite("tests.model.bench", "tests.model.world", "tests.model.snapshot")
