"""Beam jobs: the only room that imports apache_beam."""
