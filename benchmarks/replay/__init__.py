"""How long searchers take to find a good trial, by replaying them over a table of real trials."""
