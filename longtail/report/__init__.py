"""The report of a mining run: one HTML file that carries its pictures and loads nothing."""

from longtail.report.collect import write_report
from longtail.report.data import ReportData
from longtail.report.render import render

__all__ = ["ReportData", "render", "write_report"]
