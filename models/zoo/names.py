"""The names of the zoo's families, for those who need no network of theirs."""

from typing import Literal

FamilyName = Literal[
    "spikformer", "spikingformer", "qkformer", "sdt", "sew_resnet", "meta_spikeformer", "maxformer", "sdt_v3"
]
