"""Run trials on Ray. No other folder imports ray."""
