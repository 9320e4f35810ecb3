"""What a trial's process imports; Ray imports this in the processes it keeps ready, before there is work for them."""

from medcap_core.runtime.imports import quick_imports

with quick_imports():
    import sweep.execution.trial  # noqa: F401
