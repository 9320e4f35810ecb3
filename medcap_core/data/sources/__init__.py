"""The sources of data, one loader a layout; `load_data` recognises and reads any of them."""

from medcap_core.data.sources.layouts import load_data

__all__ = ["load_data"]
