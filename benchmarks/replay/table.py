"""The table of real trials that searches are replayed over."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medcap_core.config import TrialConfig

TABLE = Path(__file__).parent / "table.csv"
KNOBS = ("freeze", "learning_rate", "lora_targets", "num_epochs")


@dataclass(frozen=True)
class RecordedTrial:
    """One trial of the table: CIDEr and seconds of each epoch."""

    ciders: tuple[float, ...]
    seconds: tuple[float, ...]


Table = dict[tuple[Any, ...], RecordedTrial]


def load_table() -> Table:
    """Trials by (freeze, learning rate, LoRA targets, epochs)."""
    table = pd.read_csv(TABLE, keep_default_na=False)
    return {
        key: RecordedTrial(tuple(epochs["cider"]), tuple(epochs["seconds"]))
        for key, epochs in table.groupby(list(KNOBS), sort=False)
    }


def find_nearest(table: Table, config: TrialConfig) -> RecordedTrial:
    """Find the trial of the table that a config stands for."""
    targets = "" if config.freeze != "lora" else str(config.lora_targets).replace("attention_mlp", "attention")

    def distance(key: tuple[Any, ...]) -> float:
        freeze, rate, key_targets, num_epochs = key
        if (freeze, key_targets.replace("attention_mlp", "attention")) != (str(config.freeze), targets):
            return float("inf")
        return abs(np.log(rate / config.learning_rate)) + abs(num_epochs - config.num_epochs)

    return table[min(table, key=distance)]
