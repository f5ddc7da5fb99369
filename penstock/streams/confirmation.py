"""What a producer asks for beside the write: that replicas, or the disk, have it."""

from __future__ import annotations

import msgspec

from penstock.settings import Durability, Settings
from penstock.streams.calls import Arg, ms


class Confirmation(msgspec.Struct, frozen=True):
    """What to ask after a write, and what the answer means."""

    durability: Durability
    replicas: int
    timeout: float

    @classmethod
    def by(cls, durability: Durability, settings: Settings) -> Confirmation:
        """As the settings say."""
        return cls(durability, settings.replicas, settings.command_timeout)

    @property
    def probe(self) -> tuple[Arg, ...] | None:
        """Fails, and changes nothing, where `command` would; None: it cannot fail."""
        return ("WAITAOF", 1, 0, 1) if self.durability == "fsync" else None

    @property
    def command(self) -> tuple[Arg, ...]:
        """To be sent after the write."""
        if self.durability == "fsync":
            return ("WAITAOF", 1, 0, ms(self.timeout))
        return ("WAIT", self.replicas, ms(self.timeout))
