"""A report for people: HTML, Markdown and the terminal show the same `view`.

What a page says and its order are in `templates/`; what is counted is in `fend.audit.report`.
"""
