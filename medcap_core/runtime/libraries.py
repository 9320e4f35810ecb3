"""Set up the libraries of a program (never at import): no progress bars or notices of their own."""

import logging
import warnings

from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging

from medcap_core.runtime.device import keep_freed_memory


def set_up_libraries() -> None:
    """Show only errors, and no progress bars of loading and saving; keep freed memory."""
    keep_freed_memory()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # else it reports each attempt to reach the Hub
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # else each matrix product in 8 bit is reported
    # nibabel prints every repair of a header; our own errors name faulty files.
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)
    # transformers 5.23 renamed what peft still reads and what the lowest transformers allowed has alone.
    warnings.filterwarnings("ignore", message="`.*gradient_checkpointing.*` is deprecated", category=FutureWarning)
    # OPT's layers return views, which nothing changes in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
