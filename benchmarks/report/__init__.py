"""Results as tables, plots and HTML pages, and comparisons of results.

- `tables.py`: rows as table cells, numbers as text, Markdown tables
- `plots.py`: the plots of a report, as SVG and PNG
- `page.py` and `*.html`: `report.html` of one results file, and the page of a comparison
- `comparison.py`: rows of the same work in two files; `significance.py`: whether their difference is more than chance
- `model_card.py`: the card of a model, in the form of Hugging Face
- `summary.py`: the tables at the head of README.md and docs/performance.md
"""
