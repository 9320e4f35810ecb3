"""The process a command runs in: environment, interrupts, output, experiment logs."""
