"""Samples for calibration and inference: arrays, files and folders of images."""
