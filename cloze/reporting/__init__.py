"""Write the reports of a finished run: summary, curves, model card."""
