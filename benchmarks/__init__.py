"""What is measured, how, and against whom; see RESULTS.md."""
