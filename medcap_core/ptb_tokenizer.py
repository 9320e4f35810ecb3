"""The Penn Treebank tokenizer that every published CIDEr, BLEU, METEOR and ROUGE-L of this field rests on.

It is the jar inside pycocoevalcap with pycocoevalcap's options and its list of punctuation. Captions go in through
standard input, not through a file beside the library's code, so read-only installs and parallel trials work.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from pycocoevalcap.tokenizer import ptbtokenizer

from medcap_core.data.records import fold_white_space
from medcap_core.java import ScoringFailure, build_java_environment, java_executable

_JAR = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
_PUNCTUATION = frozenset(ptbtokenizer.PUNCTUATIONS)
# A run lasts a few tenths of a second, most of it start-up: compile lightly, collect garbage on one thread.
_FAST_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx512m")


def tokenize_captions(captions: Sequence[str]) -> list[str]:
    """Lower-cased tokens of each caption, punctuation dropped, joined by single spaces: one string per caption.

    White space and control characters are folded first, because the tokenizer works by lines. Empty captions, and
    those of punctuation alone, give "". Brackets stay, as the tokens -lrb- and -rrb-: pycocoevalcap's list of
    punctuation holds them in upper case only. About 0.15 s for 200 captions and 0.2 s for 2,000, start-up included.

    Raises ScoringFailure when the tokenizer fails or does not answer line for line.
    """
    if not captions:
        return []
    lines = [fold_white_space(caption) for caption in captions]
    answer = _run_tokenizer("\n".join(lines)).split("\n")
    if len(answer) != len(lines):
        raise ScoringFailure(f"The PTB tokenizer gave {len(answer)} lines for {len(lines)} captions.")
    return [_drop_punctuation(line) for line in answer]


def _run_tokenizer(text: str) -> str:
    command = [str(java_executable()), *_FAST_START, "-cp", str(_JAR)]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    finished = subprocess.run(
        command,
        input=text.encode("utf-8", errors="replace"),  # a model can emit half of a surrogate pair
        capture_output=True,
        env=build_java_environment(),
        start_new_session=True,  # Ctrl-C reaches Python alone, which then decides
        check=False,
    )
    if finished.returncode:
        last_words = finished.stderr.decode(errors="replace")[-500:].strip()
        raise ScoringFailure(f"The PTB tokenizer ended with code {finished.returncode}: {last_words}")
    return finished.stdout.decode("utf-8")


def _drop_punctuation(line: str) -> str:
    return " ".join(token for token in line.rstrip().split(" ") if token not in _PUNCTUATION)
