"""Numbers as people read them: times and scores."""

import math


def format_seconds(seconds: float) -> str:
    """Whole seconds as m:ss or h:mm:ss; negative ones count as none."""
    whole = max(0, round(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def format_score(score: float | None) -> str:
    """Three decimals, or a dash where there is no score yet."""
    return "-" if score is None or math.isnan(score) else f"{score:.3f}"
