"""The report: one HTML page that shows a build, and what a run of it did."""
