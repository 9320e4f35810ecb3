"""Maps of where a model looked, and their score on phantoms."""
