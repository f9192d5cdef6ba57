"""The report's figures: matplotlib drawings as SVG that takes its colours from the page."""
