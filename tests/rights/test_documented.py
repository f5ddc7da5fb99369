"""docs/security.md shows the rules that the tests prove. `python -m tests.rights.test_documented` writes them anew."""

from __future__ import annotations

import re

from penstock.streams.rights import _TRY, ON_CLUSTER, ROLES, rules
from tests.source import ROOT

PAGE = ROOT / "docs" / "security.md"
_RULES = re.compile(r"(<!-- rules:[^\n]*-->\n)(.*?)(<!-- end of rules -->)", re.DOTALL)
_WIDTH = 110


def block() -> str:
    """One ``ACL SETUSER`` for each role, for the namespace ``penstock``."""
    lines = ["```text"]
    for role in ROLES.values():
        line = f"ACL SETUSER {role.name} on >PASSWORD"
        for rule in rules("penstock", role):
            if len(line) + len(rule) > _WIDTH:
                lines.append(f"{line} \\")
                line = "   "
            line += f" {rule}"
        lines += [line, ""]
    return "\n".join([*lines[:-1], "```"]) + "\n"


def test_the_rules_of_the_page_are_those_of_the_code() -> None:
    match = _RULES.search(PAGE.read_text("utf-8"))
    assert match is not None
    assert match[2] == block(), "run `python -m tests.rights.test_documented`"


def test_the_page_says_what_a_cluster_takes() -> None:
    assert f"On Cluster redis-py also needs `{' '.join(f'+{each}' for each in ON_CLUSTER)}`" in PAGE.read_text("utf-8")


def test_every_command_can_be_tried_and_none_is_listed_in_vain() -> None:
    assert sorted(_TRY) == sorted({command for role in ROLES.values() for command in role.commands})


if __name__ == "__main__":
    text = PAGE.read_text("utf-8")
    PAGE.write_text(_RULES.sub(lambda match: match[1] + block() + match[3], text), "utf-8")
