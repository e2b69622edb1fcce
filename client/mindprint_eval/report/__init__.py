"""The report of an evaluation: analysis, tables, figures, and the page."""
