"""METEOR by the program inside pycocoevalcap, kept running between calls."""

import subprocess
import threading
import weakref
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from pycocoevalcap.meteor import meteor

from medcap_core.scoring.java import ScoringFailure, start_java

_JAR = Path(meteor.__file__).parent / meteor.METEOR_JAR
_SEPARATOR = "|||"


class MeteorScorer:
    """METEOR 1.5, English, normalised, as run by pycocoevalcap; the scores are the same floats.

    The program takes about 5 s to load its paraphrases and then holds some 530 MB, so it starts at the first call and
    runs until `close()`, the end of this object, or of Python. A call after `close()`, or after the program died,
    starts it again. Calls from several threads take turns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize | None = None  # type: ignore[type-arg]

    def compute_scores(
        self, references: Sequence[Sequence[str]], predictions: Sequence[str]
    ) -> tuple[float, np.ndarray, list[str]]:
        """Compute the corpus score, one score per image, both 0 to 1, and the counts of each, of tokenised captions.

        The sums of the counts determine the corpus score; `corpus_statistics.collect_meteor` parses them. Raises
        ScoringFailure when the program dies or its answer is not a number.
        """
        with self._lock:
            process = self._start()
            try:
                statistics = [
                    _ask(process, ["SCORE", *map(_clean, texts), _clean(prediction)])
                    for texts, prediction in zip(references, predictions, strict=True)
                ]
                figures = [
                    float(_ask(process, ["EVAL", *statistics])),
                    *(float(_read_line(process)) for _ in statistics),
                ]
            except BaseException as error:  # Ctrl-C between request and answer would shift all later answers
                self._stop()
                if isinstance(error, OSError | ValueError):
                    raise ScoringFailure(f"METEOR stopped answering: {error}") from error
                raise
        return figures[-1], np.array(figures[:-1]), statistics

    def close(self) -> None:
        """End the program if it is running."""
        with self._lock:
            self._stop()

    def interrupt(self) -> None:
        """End the program at once; a running call of another thread raises ScoringFailure."""
        if (process := self._process) is not None:
            process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        options = ("-XX:+UseSerialGC", "-Xmx2G", "-jar", str(_JAR))
        self._process = start_java(*options, "-", "-", "-stdio", "-l", "en", "-norm")
        self._finalizer = weakref.finalize(self, _end_process, self._process)
        return self._process

    def _stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._finalizer = self._process = None


load_meteor = lru_cache(maxsize=1)(MeteorScorer)
"""Load the process's METEOR program, shared by all who score: each would hold half a gigabyte."""


def _ask(process: subprocess.Popen[bytes], parts: list[str]) -> str:
    assert process.stdin is not None
    process.stdin.write((f" {_SEPARATOR} ".join(parts) + "\n").encode())
    process.stdin.flush()
    return _read_line(process)


def _read_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise OSError(f"its process ended with code {process.wait()}")
    return line.decode().strip()


def _clean(text: str) -> str:
    """Remove the program's separator, as pycocoevalcap does in predictions (here in references too)."""
    return text.replace(_SEPARATOR, "").replace("  ", " ")


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
