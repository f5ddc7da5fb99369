"""Its import fails, two frames deep."""

from __future__ import annotations

import json


def read_config() -> object:
    return json.loads("{")


read_config()
