"""The meaning of the options for recordings."""

from __future__ import annotations

import argparse
import re

from resformer.compiler.samples.events.formats import FORMATS
from resformer.runtime.cli.event_options import RECORDINGS
from resformer.runtime.cli.inputs import add_input_options


def test_all_formats_of_recordings_are_named() -> None:
    named = re.findall(r"\.\w+", RECORDINGS)
    assert sorted(named) == sorted(FORMATS)
    parser = argparse.ArgumentParser()
    add_input_options(parser)
    assert RECORDINGS in " ".join(parser.format_help().split())
