"""The drawing toolkit: what a study gives becomes grids, panels with intervals and nulls, tables and a page.

May import what stands left of studies; knows no single study.
"""
