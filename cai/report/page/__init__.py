"""The report page of a run: one HTML file that needs no network."""

from cai.report.page.write import write_report

__all__ = ["write_report"]
