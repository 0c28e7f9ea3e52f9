"""What a stage writes to standard error, passed on without TensorFlow's notes; the last lines are kept."""

from __future__ import annotations

import os
import re
import threading
from collections import deque

# TensorFlow 2.21 prints these whatever TF_CPP_MIN_LOG_LEVEL says (tensorflow/tensorflow#100442): level, date, thread, file.cc:line].
# So does its conversion to int8, with the last.
NOTE = re.compile(
    rb"^(?:[IWE]\d{4} \d\d:\d\d:[\d.]+ +\d+ [\w./]+\.cc:\d+\]"
    rb"|WARNING: All log messages before absl::InitializeLog"
    rb"|To enable the following instructions:"
    rb"|fully_quantize: \d)"
)
# A line that may yet become a note is held back until it is whole or longer than this.
LONGEST_START = 80
KEPT_LINES, LONGEST_KEPT = 40, 10_000


class StageStderr:
    """The writing end for the stage, and a thread that passes on what comes until every writer has closed it."""

    def __init__(self) -> None:
        reading, self.writing_end = os.pipe()
        self._lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._is_read = True
        self._thread = threading.Thread(target=self._pass_on, args=(reading,), daemon=True)
        self._thread.start()

    def finish(self, timeout_s: float) -> str:
        """Close our writing end, wait for what is still to come, and return the last lines (notes included)."""
        os.close(self.writing_end)
        self._thread.join(timeout_s)
        return b"\n".join(self._lines).decode("utf-8", "replace")

    def _forward(self, text: bytes) -> None:
        """Write all of it; once nobody reads any more, only drain, so that the stage does not block."""
        while text and self._is_read:
            try:
                text = text[os.write(2, text) :]
            except OSError:
                self._is_read = False

    def _pass_on(self, reading: int) -> None:
        held = passed = b""  # of the present line: what is held back, and what has been forwarded
        while chunk := os.read(reading, 1 << 16):
            *lines, rest = (held + chunk).split(b"\n")
            for line in lines:
                if passed or not NOTE.match(line):
                    self._forward(line + b"\n")
                self._keep(passed + line)
                passed = b""
            may_become_note = not passed and len(rest) < LONGEST_START and rest[:1] in (b"I", b"W", b"E", b"T", b"f")
            is_note = not passed and NOTE.match(rest)
            held = rest if may_become_note or is_note else b""
            if rest and not held:
                self._forward(rest)
                passed = (passed + rest)[-LONGEST_KEPT:]
        self._forward(held)
        self._keep(passed + held)
        os.close(reading)

    def _keep(self, line: bytes) -> None:
        """The line as a terminal shows it at last: a progress bar returns to its beginning again and again."""
        if line:
            self._lines.append(line.rsplit(b"\r", 1)[-1][-LONGEST_KEPT:])
