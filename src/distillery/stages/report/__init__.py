"""The report: its content, advice, costs, figures and page."""
