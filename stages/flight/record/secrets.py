"""Passwords, tokens and keys are masked in all text that leaves the machine."""

from __future__ import annotations

import json
import os
import re
from typing import Any

MASK = "***"
_NAMES = r"(?:passphrase|password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key(?:_id)?|private_?key|credentials?|_pass\b)"
# Each pattern keeps its first group and masks the rest.
_PATTERNS = (
    re.compile(rf"(?i)({_NAMES}['\"]?\s*[:=]\s*)(?:\"[^\"\n]+\"|'[^'\n]+'|[^\s'\",]{{4,}})"),
    re.compile(rf"(?i)(--{_NAMES}[ =])[^\s'\"]+"),
    re.compile(rf"(?i)({_NAMES}['\"]?\s*:\s*[|>][+-]?\n[+-]?\s+)\S[^\n]*"),
    re.compile(r"(://[^/\s:@]*:)[^\s/]+(?=@)"),
    re.compile(r"(://)[^/\s:@]{12,}(?=@)"),
    re.compile(r"(?i)((?:bearer|basic)\s+)[a-z0-9+/._=-]{12,}"),
    re.compile(r"()\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"()\b(?:gh[pousr]_|github_pat_|glpat-|hf_|sk-|xox[abpr]-|AIza)[\w-]{16,}"),
    re.compile(r"()\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),  # JSON web tokens
    re.compile(r"(hooks\.slack\.com/services/)\S+"),
    re.compile(r"()-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"),
)


# A shorter value, such as a number, would be masked where it is no secret.
SHORTEST_SECRET = 8
FOLDERS = ("PWD", "OLDPWD")


def mask(text: str) -> str:
    """The text with what looks like a secret replaced, and with the secrets of this process's environment."""
    for value in _secrets_of_environment():
        text = text.replace(value, MASK)
    for pattern in _PATTERNS:
        text = pattern.sub(lambda found: f"{found.group(1)}{MASK}", text)
    return text


def mask_named(name: str, value: str) -> str:
    """A value whose name may tell that it is a secret."""
    return MASK if re.search(_NAMES, name, re.IGNORECASE) else mask(value)


def mask_values(value: Any) -> Any:
    """A JSON value with every string in it masked: in its written form, quotes and escapes hide where a secret begins or ends."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {name: mask_values(item) for name, item in value.items()}
    return [mask_values(item) for item in value] if isinstance(value, list) else value


def mask_lines(text: str) -> str:
    """JSON lines with their values masked; a line that is no JSON is masked as text."""
    return "".join(f"{_mask_line(line)}\n" for line in text.removesuffix("\n").split("\n"))


def _mask_line(line: str) -> str:
    try:
        return json.dumps(mask_values(json.loads(line)), ensure_ascii=False)
    except ValueError:
        return mask(line)


def _secrets_of_environment() -> list[str]:
    """The longest first, since one may hold another."""
    named = (value for name, value in os.environ.items() if name not in FOLDERS and re.search(_NAMES, name, re.IGNORECASE))
    return sorted((value for value in named if len(value) >= SHORTEST_SECRET), key=len, reverse=True)
