"""The extra scores of this project; `medcap_core.scoring.registry` says what a score is."""
