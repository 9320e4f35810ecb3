"""The Penn Treebank tokenizer that every published CIDEr, BLEU, METEOR and ROUGE-L of this field rests on.

It is the jar inside pycocoevalcap with pycocoevalcap's options and its list of punctuation. Captions go in through
standard input, not through a file beside the library's code, so read-only installs and parallel trials work. The
program keeps running between calls: its start takes a hundred times as long as the captions of an epoch.
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
from medcap_core.scoring.java import ScoringFailure, build_java_environment, java_executable

_JAR = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
_PUNCTUATION = frozenset(ptbtokenizer.PUNCTUATIONS)
# Most of a first call is start-up: compile lightly, collect garbage on one thread and before it piles up.
_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx512m", "-Xmn8m")

_FILLER = "; " + "x" * 250
"""A line that no caption is. The program prints by full buffers, so lines of this push out an answer. After a caption's
last word it does what the end of the input would: a digit there could make "No." one token."""
_FILLER_LINES = 128
_SECONDS_TO_MORE_FILLER = 1.0


def tokenize_captions(captions: Sequence[str]) -> list[str]:
    """Lower-cased tokens of each caption, punctuation dropped, joined by single spaces: one string per caption.

    White space and control characters are folded first, because the tokenizer works by lines. Empty captions, and
    those of punctuation alone, give "". Brackets stay, as the tokens -lrb- and -rrb-: pycocoevalcap's list of
    punctuation holds them in upper case only. About 2 ms for 200 captions and 20 ms for 2,000; 0.2 s more at a
    process's first call, which starts the program (some 60 MB) for the time that Python runs.

    Raises ScoringFailure when the tokenizer fails or does not answer line for line.
    """
    if not captions:
        return []
    lines = [fold_white_space(caption) for caption in captions]
    return [_drop_punctuation(line) for line in _own_tokenizer(os.getpid()).tokenize(lines)]


@lru_cache(maxsize=1)
def _own_tokenizer(process_id: int) -> "PtbTokenizer":
    """This process's own: one that was forked off must not talk into its parent's."""
    return PtbTokenizer()


def _drop_punctuation(line: str) -> str:
    return " ".join(token for token in line.rstrip().split(" ") if token not in _PUNCTUATION)


class PtbTokenizer:
    """The program, started at the first call, again after it died, and ended with this object or with Python.

    Calls from several threads take turns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._program: _Program | None = None

    def tokenize(self, lines: Sequence[str]) -> list[str]:
        """The program's answer to each line, none of which may hold a line end. Raises ScoringFailure."""
        with self._lock:
            program, self._program = self._program, None  # kept only if question and answer stay in step
            if program is None or program.has_ended:
                program = _Program()
            answers = program.ask(lines)
            if len(answers) != len(lines):
                raise ScoringFailure(f"The PTB tokenizer gave {len(answers)} lines for {len(lines)} captions.")
            self._program = program
            return answers


class _Program:
    """One running Java program and a thread that reads what it prints."""

    def __init__(self) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the program
        command = [str(java_executable()), *_OPTIONS, "-cp", str(_JAR)]
        self._process = subprocess.Popen(
            [*command, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=build_java_environment(),
            start_new_session=True,  # Ctrl-C reaches Python alone, which then decides
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions = self._process.stdin
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._num_fillers = 0  # written and not yet read back
        threading.Thread(target=_read_lines, args=(self._process.stdout, self._answers), daemon=True).start()
        weakref.finalize(self, _end_process, self._process, self._complaints, os.getpid())

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self._process.poll() is not None

    def ask(self, lines: Sequence[str]) -> list[str]:
        """What it prints between the filler of the last answer and that of this one."""
        text = "\n".join([*lines, ""])
        num_stale = self._num_fillers
        try:
            self._questions.write(text.encode("utf-8", errors="replace"))  # a model can emit half of a surrogate pair
            self._write_filler()
            for _ in range(num_stale):
                self._read()
            answers = list(iter(self._read, _FILLER))
        except OSError as error:
            raise ScoringFailure(self._describe_end()) from error
        self._num_fillers -= num_stale + 1
        return answers

    def _write_filler(self) -> None:
        self._questions.write(f"{_FILLER}\n".encode() * _FILLER_LINES)
        self._questions.flush()
        self._num_fillers += _FILLER_LINES

    def _read(self) -> str:
        """The next line; OSError when there is none to come."""
        while True:
            try:
                line = self._answers.get(timeout=_SECONDS_TO_MORE_FILLER)
            except queue.Empty:  # still starting, or its buffers hold more than we know of
                self._write_filler()
                continue
            if line is None:
                raise BrokenPipeError
            return line

    def _describe_end(self) -> str:
        code = self._process.wait()
        self._complaints.seek(0)
        last_words = self._complaints.read()[-500:].decode(errors="replace").strip()
        return f"The PTB tokenizer ended with code {code}: {last_words}"


def _read_lines(stream: IO[bytes], lines: "queue.SimpleQueue[str | None]") -> None:
    """Hand on each line of the stream as it comes, then None."""
    with stream:
        for line in stream:
            lines.put(line.decode("utf-8").rstrip("\n"))
    lines.put(None)


def _end_process(process: subprocess.Popen[bytes], complaints: IO[bytes], owner: int) -> None:
    assert process.stdin is not None
    complaints.close()
    if os.getpid() != owner:  # a copy that was forked off
        return
    process.kill()
    process.wait()
    with contextlib.suppress(OSError):  # what was still to be written
        process.stdin.close()
