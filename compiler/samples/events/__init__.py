"""Recordings of event cameras: files of all formats as events, and events as frames."""
