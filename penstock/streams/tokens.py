"""Random names: of tasks whose caller gives no id, of listeners, of calls that may have to be sent again."""

from __future__ import annotations

import base64
import os


def token(size: int) -> str:
    """`size` random bytes as text for a URL. Straight from the system, hence right after a fork, too."""
    return base64.urlsafe_b64encode(os.urandom(size)).decode()
