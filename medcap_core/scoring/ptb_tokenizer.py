"""The Penn Treebank tokenizer behind the published CIDEr, BLEU, METEOR and ROUGE-L scores of captioning.

It is the jar inside pycocoevalcap with pycocoevalcap's options and list of punctuation. Captions are sent through
standard input, not a file in the library's folder, so read-only installs and parallel trials work. The program keeps
running between calls: its start takes a hundred times as long as the captions of an epoch.
"""

import contextlib
import os
import queue
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

from pycocoevalcap.tokenizer import ptbtokenizer

from medcap_core.data.records import fold_white_space
from medcap_core.scoring.java import ScoringFailure, start_java

_JAR = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
_PUNCTUATION = frozenset(ptbtokenizer.PUNCTUATIONS)
# Most of the first call is start-up: little compilation, serial garbage collection in a small heap.
_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx512m", "-Xmn8m")

_FILLER = "; " + "x" * 250
"""A line unlike any caption. The program prints full buffers only, so lines of this flush an answer. Its first mark
ends the last caption as the end of the input would; before a digit "No." would be one token."""
_FILLER_LINES = 128
_SECONDS_TO_MORE_FILLER = 1.0


def tokenize_captions(captions: Sequence[str]) -> list[str]:
    """Tokenize each caption to lower-cased tokens without punctuation, joined by single spaces.

    White space and control characters are folded first, because the tokenizer works by lines. Empty captions, and
    captions of punctuation alone, give "". Brackets stay, as the tokens -lrb- and -rrb-, which pycocoevalcap's list of
    punctuation has in upper case only. About 2 ms for 200 captions and 20 ms for 2,000; 0.2 s more at the first call
    of a process, which starts the program (some 60 MB) until Python ends.

    Raises ScoringFailure when the tokenizer fails or returns another number of lines.
    """
    if not captions:
        return []
    lines = [fold_white_space(caption) for caption in captions]
    return [
        " ".join(token for token in line.rstrip().split(" ") if token not in _PUNCTUATION)
        for line in _own_tokenizer(os.getpid()).tokenize(lines)
    ]


@lru_cache(maxsize=1)
def _own_tokenizer(process_id: int) -> "PtbTokenizer":
    """Return the tokenizer of this process: a forked child must not use its parent's."""
    return PtbTokenizer()


class PtbTokenizer:
    """The program, started at the first call and again after it died, and ended with this object or Python.

    Calls from several threads take turns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._program: _Program | None = None

    def tokenize(self, lines: Sequence[str]) -> list[str]:
        """Tokenize lines without line breaks. Raises ScoringFailure."""
        with self._lock:
            program, self._program = self._program, None  # kept only if the answer is complete
            if program is None or program.has_ended:
                program = _Program()
            answers = program.ask(lines)
            if len(answers) != len(lines):
                raise ScoringFailure(f"The PTB tokenizer gave {len(answers)} lines for {len(lines)} captions.")
            self._program = program
            return answers


class _Program:
    """One running Java program and a thread that reads its output."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the program
        command = ("-cp", str(_JAR), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase")
        self._process = start_java(*_OPTIONS, *command, errors=self._errors)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions = self._process.stdin
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._num_fillers = 0  # written and not yet read back
        threading.Thread(target=_read_lines, args=(self._process.stdout, self._answers), daemon=True).start()
        weakref.finalize(self, _end_process, self._process, self._errors, os.getpid())

    @property
    def has_ended(self) -> bool:
        """Whether the program has ended."""
        return self._process.poll() is not None

    def ask(self, lines: Sequence[str]) -> list[str]:
        """Write the lines and return the output between the previous filler and the next."""
        text = "\n".join([*lines, ""])
        num_stale = self._num_fillers
        try:
            self._questions.write(text.encode("utf-8", errors="replace"))  # a model can emit half of a surrogate pair
            self._write_filler()
            for _ in range(num_stale):
                self._read()
            answers = list(iter(self._read, _FILLER))
        except OSError as error:
            code = self._process.wait()
            self._errors.seek(0)
            ending = self._errors.read()[-500:].decode(errors="replace").strip()
            raise ScoringFailure(f"The PTB tokenizer ended with code {code}: {ending}") from error
        self._num_fillers -= num_stale + 1
        return answers

    def _write_filler(self) -> None:
        self._questions.write(f"{_FILLER}\n".encode() * _FILLER_LINES)
        self._questions.flush()
        self._num_fillers += _FILLER_LINES

    def _read(self) -> str:
        """Read the next line. Raises OSError at the end of the output."""
        while True:
            try:
                line = self._answers.get(timeout=_SECONDS_TO_MORE_FILLER)
            except queue.Empty:  # still starting, or its buffers are not full
                self._write_filler()
                continue
            if line is None:
                raise BrokenPipeError
            return line


def _read_lines(stream: IO[bytes], lines: "queue.SimpleQueue[str | None]") -> None:
    """Put each line of the stream into the queue, then None."""
    with stream:
        for line in stream:
            lines.put(line.decode("utf-8").rstrip("\n"))
    lines.put(None)


def _end_process(process: subprocess.Popen[bytes], errors: IO[bytes], owner: int) -> None:
    assert process.stdin is not None
    errors.close()
    if os.getpid() != owner:  # a forked copy
        return
    process.kill()
    process.wait()
    with contextlib.suppress(OSError):  # unwritten input
        process.stdin.close()
