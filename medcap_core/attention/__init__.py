"""Maps of where a captioner looked, and their score on phantoms."""
