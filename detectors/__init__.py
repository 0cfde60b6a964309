"""Outlier scores, calibration and reasons: numpy over neighbours."""
