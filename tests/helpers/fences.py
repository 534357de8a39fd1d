"""What stands between fences in a page of Markdown: recipes, and commands."""

import re
import shlex

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read_fences(text: str, language: str) -> str:
    """Return the page with all but its fences of a language blank, so that lines keep numbers."""
    lines = [""] * (text.count("\n") + 1)
    for fence in FENCE.finditer(text):
        if fence[1] == language:
            first = text[: fence.start(2)].count("\n")
            inside = fence[2].splitlines()
            lines[first : first + len(inside)] = inside
    return "\n".join(lines)


def read_commands(text: str) -> list[list[str]]:
    """Return the words of each ``captum-deconv`` command between fences, with a prompt or not."""
    commands = []
    for fence in FENCE.finditer(text):
        for line in fence[2].replace("\\\n", " ").splitlines():
            command = line.removeprefix("$ ")
            if fence[1] in ("", "console") and command.startswith("captum-deconv "):
                commands.append(shlex.split(command, comments=True))
    return commands
