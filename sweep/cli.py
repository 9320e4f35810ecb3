"""All commands in one: `medcap run`, `medcap status`, `medcap report`, `medcap explain`, `medcap best`,
`medcap caption`.

medcap run lora
medcap caption IMAGE... --model runs/lora-001/best

Each is the typer command of its module, which is imported when it is called: most of them take seconds to import.
"""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

COMMANDS = {
    "run": ("sweep.run", "Search hyperparameters, and evaluate the best model once on the test split."),
    "status": ("sweep.status", "Print how a run stands: state, best trial so far, running trials, time left."),
    "report": ("sweep.report.__main__", "Write report.html, report.md and tables/*.csv of a run."),
    "explain": ("sweep.explain.__main__", "Draw where a run's model looked when it wrote each token."),
    "best": ("sweep.best", "Print the best config of a run as YAML, or export its model with a model card."),
    "caption": ("medcap_core.caption", "Caption images with a trained model, or ask it about scans."),
}
"""Module and help line of each command."""


class _LazyCommands(TyperGroup):
    """Commands that are imported when one of them is called, and not for the list of all."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command named first in `args`."""
        name, _, rest = super().resolve_command(ctx, args)
        module, _ = COMMANDS[str(name)]
        return name, typer.main.get_command(import_module(module).app), rest


app = typer.Typer(
    cls=_LazyCommands,
    help="Sweeps for medical image captioning: hyperparameters, ablations and models compared.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name, (_, _summary) in COMMANDS.items():
    app.command(_name, help=_summary)(lambda: None)

if __name__ == "__main__":
    app()
