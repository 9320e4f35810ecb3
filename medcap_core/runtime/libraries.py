"""Set up the libraries of a program, never of an import: no progress bars and notices of their own; memory kept."""

import logging
import warnings

from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging

from medcap_core.runtime.device import keep_freed_memory


def set_up_libraries() -> None:
    """Show errors only, and no progress bars of loading and saving, since the project shows its own."""
    keep_freed_memory()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # else it tells each try to reach the Hub
    # nibabel writes every repair of a header to the terminal; what is wrong with a file we say ourselves.
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)
    # peft asks transformers by a name that transformers has since deprecated.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
