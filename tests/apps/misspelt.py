"""An app with a setting that does not exist."""

from __future__ import annotations

from penstock import App

app = App("misspelt", leese=3)
not_an_app = {"app": "shop"}
